"""Service account tokens for projected volumes: asked of the API, bound to the pod, renewed at 80 % of their life.

Source: pkg/kubelet/token/token_manager.go.
"""

from __future__ import annotations

from dataclasses import dataclass

from kaa.api.clock import Clock, parse_time
from kaa.api.resources import Resource
from kaa.api.scheme import resource_of
from kaa.api.types.authentication_v1 import BoundObjectReference, TokenRequest, TokenRequestSpec
from kaa.api.types.core_v1 import Pod, ServiceAccount, ServiceAccountTokenProjection
from kaa.client.client import Client

DEFAULT_EXPIRATION_S = 3600
MAX_AGE_S = 24 * 3600.0
_JITTER_S = 10.0


@dataclass(frozen=True, slots=True)
class Token:
    text: str
    renew_at: float


class Tokens:
    """One token a (pod, audience, lifetime), kept until it is time to renew it."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client, self._clock = client, clock
        self._held: dict[str, dict[tuple[str, int], Token]] = {}  #: {pod uid: {(audience, lifetime_s): token}}

    async def get(self, pod: Pod, source: ServiceAccountTokenProjection) -> Token:
        lifetime = source.expiration_seconds or DEFAULT_EXPIRATION_S
        of_pod, key = self._held.setdefault(pod.metadata.uid or "", {}), (source.audience or "", lifetime)
        held = of_pod.get(key)
        if held is None or self._clock.now() >= held.renew_at:
            held = of_pod[key] = await self._ask(pod, source.audience or "", lifetime)
        return held

    async def _ask(self, pod: Pod, audience: str, lifetime: int) -> Token:
        bound = BoundObjectReference(kind="Pod", api_version="v1", name=pod.metadata.name, uid=pod.metadata.uid)
        wanted = TokenRequest(
            spec=TokenRequestSpec(
                audiences=(audience,) if audience else (), expiration_seconds=lifetime, bound_object_ref=bound
            )
        )
        account = pod.spec.service_account_name or "default"
        resource: Resource[ServiceAccount] = resource_of(ServiceAccount)
        made = await self._client.call(resource, account, "token", wanted, TokenRequest, pod.metadata.namespace)
        now = self._clock.now()
        expires = parse_time(made.status.expiration_timestamp) if made.status.expiration_timestamp else now + lifetime
        renew = now + min((expires - now) * 0.8, MAX_AGE_S) - self._clock.random.uniform(0, _JITTER_S)
        return Token(made.status.token or "", renew)

    def release(self, uid: str) -> None:
        self._held.pop(uid, None)
