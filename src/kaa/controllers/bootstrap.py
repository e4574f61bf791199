"""Bootstrap tokens: a new node that knows one can trust ``cluster-info``, for it is signed with it; expired ones go.

Anybody may read the ConfigMap ``cluster-info`` in kube-public, so nobody need believe it; but for each token it holds a
signature of its kubeconfig that only who knows that token can have made.

Source: kubernetes pkg/controller/bootstrap; RFC 7515 appendix F (detached content).
"""

from __future__ import annotations

import base64
import hmac
import json

from msgspec.structs import replace

from kaa.api.clock import parse_time
from kaa.api.errors import NotFound
from kaa.api.types.core_v1 import ConfigMap, Secret
from kaa.api.types.meta_v1 import DeleteOptions, Preconditions
from kaa.client.informer import key_of
from kaa.client.workqueue import Key

from .controller import Context, Controller
from .secrets import BOOTSTRAP_TOKEN, decoded, kept

SYSTEM, PUBLIC = "kube-system", "kube-public"
CLUSTER_INFO = Key(PUBLIC, "cluster-info")
KUBECONFIG, SIGNATURE = "kubeconfig", "jws-kubeconfig-"


def is_token(secret: Secret) -> bool:
    return secret.type == BOOTSTRAP_TOKEN and secret.metadata.namespace == SYSTEM


def expires_in(secret: Secret, now: float) -> float | None:
    """Seconds until a token expires; None for never. What cannot be read counts as passed."""
    text = decoded(secret, "expiration")
    if not text:
        return None
    try:
        return parse_time(text) - now
    except ValueError:
        return 0.0


def signing_key(secret: Secret, now: float) -> tuple[str, str] | None:
    """(token id, token secret) of a token that may sign; None for any other Secret."""
    if not is_token(secret) or secret.metadata.deletion_timestamp is not None:
        return None
    left, id, word = expires_in(secret, now), decoded(secret, "token-id"), decoded(secret, "token-secret")
    named = secret.metadata.name == f"bootstrap-token-{id}"
    may = decoded(secret, "usage-bootstrap-signing") == "true"
    return (id, word) if id and word and named and may and (left is None or left > 0) else None


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def detached_signature(content: str, token_id: str, token_secret: str) -> str:
    """A compact JWS (HS256) of the content, without the content."""
    header = _base64url(json.dumps({"alg": "HS256", "kid": token_id}, separators=(",", ":")).encode())
    signed = f"{header}.{_base64url(content.encode())}".encode()
    return f"{header}..{_base64url(hmac.digest(token_secret.encode(), signed, 'sha256'))}"


def plan(info: ConfigMap, keys: dict[str, str]) -> ConfigMap | None:
    """The ConfigMap with just the signatures it should have, or None when it has them. ``keys``: {token id: its secret}."""
    content = info.data.get(KUBECONFIG)
    if content is None:
        return None
    kept_data = {key: text for key, text in info.data.items() if not key.startswith(SIGNATURE)}
    signatures = {SIGNATURE + id: detached_signature(content, id, word) for id, word in sorted(keys.items())}
    wanted = {**kept_data, **signatures}
    return None if wanted == info.data else replace(info, data=wanted)


class BootstrapSigner(Controller[Key]):
    """Its one key is the ConfigMap."""

    name = "bootstrap-signer"
    workers = 1

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.secrets = self.watch(Secret, self._on_secret, keep=kept)
        self.maps = self.watch(ConfigMap, self._on_map)

    def _on_secret(self, old: Secret | None, new: Secret | None) -> None:
        if any(each is not None and is_token(each) for each in (old, new)):
            self.queue.add(CLUSTER_INFO)

    def _on_map(self, old: ConfigMap | None, new: ConfigMap | None) -> None:
        if new is not None and key_of(new) == CLUSTER_INFO:
            self.queue.add(CLUSTER_INFO)

    async def reconcile(self, key: Key) -> float | None:
        info, now = self.maps.by_key(key), self.clock.now()
        if info is None:
            return None
        tokens = [secret for secret in self.secrets.in_namespace(SYSTEM) if is_token(secret)]
        keys = dict(found for found in (signing_key(secret, now) for secret in tokens) if found is not None)
        wanted = plan(info, keys)
        if wanted is not None:
            written = await self.client.update(wanted)
            await self.maps.shows(written.metadata.resource_version)
        ends = [left for left in (expires_in(secret, now) for secret in tokens) if left is not None and left > 0]
        return min(ends, default=None)


class TokenCleaner(Controller[Key]):
    """Keys are token Secrets."""

    name = "token-cleaner"
    workers = 1

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.secrets = self.watch(Secret, self._on_secret, keep=kept)

    def _on_secret(self, old: Secret | None, new: Secret | None) -> None:
        if new is not None and is_token(new):
            self.queue.add(key_of(new))

    async def reconcile(self, key: Key) -> float | None:
        secret = self.secrets.by_key(key)
        left = expires_in(secret, self.clock.now()) if secret is not None else None
        if secret is None or left is None:
            return None
        if left > 0:
            return left
        options = DeleteOptions(preconditions=Preconditions(uid=secret.metadata.uid))
        try:
            await self.client.delete(Secret, key.name, key.namespace, options=options)
        except NotFound:
            return None
        return None
