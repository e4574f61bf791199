"""ServiceAccount tokens: made, verified, and believed only as long as what they are bound to exists.

The idea: a token's signature and claims never change, so they are checked once and the outcome is kept under the token's
text; what can change (expiry, the account, the pod, secret or node it is bound to) is looked up at every request, which
costs two reads from the View.

Source: pkg/serviceaccount claims.go, legacy.go, util.go; plugin/pkg/auth/authenticator/token.
"""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kaa.api.clock import Clock, parse_time
from kaa.api.errors import Unauthorized
from kaa.api.types.core_v1 import Node, Pod, Secret, ServiceAccount
from kaa.client.pipeline import User

from ..view import View
from .base import Credentials, Remark, unheard
from .jwt import InvalidToken, SigningKey, VerifyingKey, claims_unverified
from .legacy import LegacyTokens

ISSUER = "https://kubernetes.default.svc.cluster.local"
LEGACY_ISSUER = "kubernetes/serviceaccount"
AUTHENTICATED = "system:authenticated"
PREFIX = "system:serviceaccount:"
#: A minute after their deletion bound objects stop being believed in (upstream's grace for the kubelet's last calls).
DELETION_GRACE_S = 60
#: Tokens of kubelets' projections live a year, and warn after this (upstream's extended expiration).
WARN_AFTER_S = 60 * 60 + 7
EXTENDED_S = 365 * 24 * 3600
KEPT_TOKENS = 10_000
_EXTRA = "authentication.kubernetes.io/"


@dataclass(frozen=True, slots=True)
class Bound:
    """An object that a token dies with. ``kind`` is pod, secret or node."""

    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Verified:
    """A token whose signature, issuer and audience are right. ``expires`` in seconds since 1970, 0: never."""

    user: User
    namespace: str
    account: str
    account_uid: str
    bound: tuple[Bound, ...]
    expires: float
    not_before: float
    audiences: tuple[str, ...]
    secret: tuple[str, str] | None = None  #: name and text of a legacy token


class TokenIssuer:
    """Signs tokens for service accounts."""

    def __init__(self, key: SigningKey, issuer: str = ISSUER) -> None:
        self.key = key
        self.issuer = issuer

    def issue(
        self,
        account: ServiceAccount,
        audiences: Sequence[str],
        seconds: int,
        clock: Clock,
        *,
        bound: Sequence[Bound] = (),
        warn_after: int = 0,
    ) -> str:
        """A token for the account, valid from now for so many seconds."""
        now, meta = int(clock.now()), account.metadata
        inner: dict[str, Any] = {"namespace": meta.namespace}
        for ref in sorted(bound, key=lambda b: b.kind):
            inner[ref.kind] = {"name": ref.name, "uid": ref.uid}
        inner["serviceaccount"] = {"name": meta.name, "uid": meta.uid}
        if warn_after:
            inner["warnafter"] = now + warn_after
        return self.key.sign(
            {
                "aud": list(audiences),
                "exp": now + seconds,
                "iat": now,
                "iss": self.issuer,
                "jti": str(uuid.UUID(int=clock.random.getrandbits(128), version=4)),
                "kubernetes.io": inner,
                "nbf": now,
                "sub": f"{PREFIX}{meta.namespace}:{meta.name}",
            }
        )

    def issue_legacy(self, account: ServiceAccount, secret: str) -> str:
        """The token of a Secret of type ``kubernetes.io/service-account-token``: it does not expire."""
        meta, at = account.metadata, "kubernetes.io/serviceaccount/"
        return self.key.sign(
            {
                "iss": LEGACY_ISSUER,
                f"{at}namespace": meta.namespace,
                f"{at}secret.name": secret,
                f"{at}service-account.name": meta.name,
                f"{at}service-account.uid": meta.uid,
                "sub": f"{PREFIX}{meta.namespace}:{meta.name}",
            }
        )


class TokenAuthenticator:
    """Users by ServiceAccount token."""

    def __init__(
        self, keys: Sequence[VerifyingKey], *, issuer: str = ISSUER, audiences: Sequence[str] = (ISSUER,)
    ) -> None:
        self.keys = tuple(keys)
        self.issuer = issuer
        self.audiences = tuple(audiences)
        self.legacy = LegacyTokens()
        self._verified: dict[tuple[str, tuple[str, ...]], Verified] = {}
        #: {Authorization header: its token}, so that a request with a known one costs one look-up
        self._headers: dict[str, Verified] = {}

    def authenticate(self, credentials: Credentials, view: View) -> User | None:
        header = credentials.authorization
        known = self._headers.get(header)
        if known is not None:
            try:
                self._check(known, view, credentials.remark)
            except Unauthorized:
                del self._headers[header]
                raise
            return known.user
        if header[:7].lower() != "bearer ":
            return None
        found = self.review(header[7:].strip(), view, remark=credentials.remark)
        if found is None:
            return None
        if len(self._headers) >= KEPT_TOKENS:
            self._headers.clear()
        self._headers[header] = found
        return found.user

    def review(
        self, token: str, view: View, audiences: Sequence[str] = (), *, remark: Remark = unheard
    ) -> Verified | None:
        """The token's meaning; None when it is not ours to judge. Raises Unauthorized when it is and is not valid."""
        key = (token, tuple(audiences) or self.audiences)
        found = self._verified.get(key)
        if found is None:
            found = self._verify(token, key[1])
            if found is None:
                return None
            if len(self._verified) >= KEPT_TOKENS:
                self._verified.clear()
            self._verified[key] = found
        try:
            self._check(found, view, remark)
        except Unauthorized:
            del self._verified[key]
            raise
        return found

    def _check(self, token: Verified, view: View, remark: Remark) -> None:
        """Raise Unauthorized when the token is not to be believed any more."""
        check_alive(token, view)
        if token.secret is not None:
            secret = view.get(Secret, token.secret[0], token.namespace)
            account = view.get(ServiceAccount, token.account, token.namespace)
            assert secret is not None
            assert account is not None
            self.legacy.used(secret, account, view.clock.now(), remark)

    def _verify(self, token: str, audiences: tuple[str, ...]) -> Verified | None:
        try:
            issuer = claims_unverified(token).get("iss")
        except InvalidToken:
            return None
        if issuer not in (self.issuer, LEGACY_ISSUER):
            return None
        for key in self.keys:
            try:
                claims = key.verify(token)
            except InvalidToken:
                continue
            return _legacy(claims, token, audiences) if issuer == LEGACY_ISSUER else _modern(claims, audiences)
        raise Unauthorized("invalid bearer token")


def _modern(claims: Mapping[str, Any], wanted: tuple[str, ...]) -> Verified:
    given = claims.get("aud") or ()
    matching = tuple(a for a in ((given,) if isinstance(given, str) else given) if a in wanted)
    if not matching:
        raise Unauthorized(f"token audiences {_go_list(given)} is invalid for the target audiences {_go_list(wanted)}")
    inner = claims.get("kubernetes.io")
    account = inner.get("serviceaccount") if isinstance(inner, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(account, Mapping):
        raise Unauthorized("service account token claim is missing")
    namespace, name, uid = str(inner.get("namespace", "")), str(account.get("name", "")), str(account.get("uid", ""))
    if claims.get("sub") != f"{PREFIX}{namespace}:{name}":
        raise Unauthorized("service account token has been invalidated")
    bound = tuple(
        Bound(kind, str(inner[kind].get("name", "")), str(inner[kind].get("uid", "")))
        for kind in ("pod", "secret", "node")
        if isinstance(inner.get(kind), Mapping)
    )
    user = service_account_user(namespace, name, uid, _extra(bound, str(claims.get("jti", ""))))
    expires, not_before = float(claims.get("exp", 0)), float(claims.get("nbf", 0))
    if any(b.kind == "pod" for b in bound):
        bound = tuple(b for b in bound if b.kind != "node")  # a node beside a pod is information, not a binding
    return Verified(user, namespace, name, uid, bound, expires, not_before, matching)


def _legacy(claims: Mapping[str, Any], token: str, audiences: tuple[str, ...]) -> Verified:
    at = "kubernetes.io/serviceaccount/"
    texts = [str(claims.get(at + key, "")) for key in ("namespace", "service-account.name", "service-account.uid")]
    secret = str(claims.get(f"{at}secret.name", ""))
    namespace, name, uid = texts
    if not secret or not all(texts) or claims.get("sub") != f"{PREFIX}{namespace}:{name}":
        raise Unauthorized("service account token has been invalidated")
    user = service_account_user(namespace, name, uid, {})
    return Verified(user, namespace, name, uid, (), 0, 0, audiences, secret=(secret, token))


def _go_list(values: Any) -> str:
    listed = [values] if isinstance(values, str) else list(values)
    return "[" + " ".join(f'"{value}"' for value in listed) + "]"


def _extra(bound: tuple[Bound, ...], token_id: str) -> dict[str, tuple[str, ...]]:
    extra: dict[str, tuple[str, ...]] = {}
    if token_id:
        extra[f"{_EXTRA}credential-id"] = (f"JTI={token_id}",)
    for ref in bound:
        if ref.kind in ("pod", "node"):
            extra[f"{_EXTRA}{ref.kind}-name"] = (ref.name,)
            if ref.uid:
                extra[f"{_EXTRA}{ref.kind}-uid"] = (ref.uid,)
    return extra


def service_account_groups(namespace: str) -> tuple[str, ...]:
    return "system:serviceaccounts", f"system:serviceaccounts:{namespace}", AUTHENTICATED


def service_account_user(namespace: str, name: str, uid: str, extra: Mapping[str, Sequence[str]]) -> User:
    return User(f"{PREFIX}{namespace}:{name}", uid=uid, groups=service_account_groups(namespace), extra=extra)


def check_alive(token: Verified, view: View) -> None:
    """Raise Unauthorized when the token's time is over or what it stands for is gone."""
    now = view.clock.now()
    if token.expires and now > token.expires:
        raise Unauthorized("service account token has expired")
    if now < token.not_before - DELETION_GRACE_S:
        raise Unauthorized("service account token is not valid yet")
    account = view.get(ServiceAccount, token.account, token.namespace)
    if account is None or account.metadata.uid != token.account_uid:
        raise Unauthorized("service account token has been invalidated")
    _check_living(account, now)
    for ref in token.bound:
        _check_bound(ref, token.namespace, view, now)
    if token.secret is not None:
        _check_secret(token, view, now)


def _check_bound(ref: Bound, namespace: str, view: View, now: float) -> None:
    obj: Pod | Secret | Node | None
    if ref.kind == "pod":
        obj = view.get(Pod, ref.name, namespace)
    elif ref.kind == "secret":
        obj = view.get(Secret, ref.name, namespace)
    else:
        obj = view.get(Node, ref.name)
    if obj is None or (ref.uid and obj.metadata.uid != ref.uid):
        raise Unauthorized("service account token has been invalidated")
    _check_living(obj, now)


def _check_living(obj: ServiceAccount | Pod | Secret | Node, now: float) -> None:
    deleted = obj.metadata.deletion_timestamp
    if deleted is not None and parse_time(deleted) + DELETION_GRACE_S < now:
        raise Unauthorized("service account token has been invalidated")


def _check_secret(token: Verified, view: View, now: float) -> None:
    """A legacy token lives as long as its secret holds this very text."""
    name, text = token.secret or ("", "")
    secret = view.get(Secret, name, token.namespace)
    if secret is None:
        raise Unauthorized("service account token has been invalidated")
    _check_living(secret, now)
    try:
        held = base64.b64decode(secret.data.get("token", ""), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        held = ""
    if held != text:
        raise Unauthorized("service account token does not match the one in its secret")
