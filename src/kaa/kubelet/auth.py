"""Who may ask the kubelet what: bearer tokens and permissions are checked with the API server, answers kept a while.

Client certificates are checked by TLS itself, against the cluster's CA.
Source: pkg/kubelet/server/auth.go; webhook cache times are upstream's defaults.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from kaa.api.clock import Clock
from kaa.api.types.authentication_v1 import TokenReview, TokenReviewSpec
from kaa.api.types.authorization_v1 import ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec
from kaa.client.client import Client

from .http import HttpError, Request

AUTHENTICATED_S, ALLOWED_S, DENIED_S = 120.0, 300.0, 30.0
_KEPT_MAX = 1000
_VERBS = {"POST": "create", "GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class Caller:
    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()


class Auth(Protocol):
    async def check(self, request: Request) -> None:
        """Raises HttpError 401 or 403."""
        ...


def subresource_of(path: str) -> str:
    """The subresource of ``nodes`` that a path asks permission for."""
    for prefix, name in (("/stats", "stats"), ("/metrics", "metrics"), ("/logs", "log"), ("/spec", "spec")):
        if path == prefix or path.startswith(prefix + "/"):
            return name
    for prefix, name in (("/healthz", "healthz"), ("/configz", "configz"), ("/pods", "pods")):
        if path == prefix or path.startswith(prefix + "/"):
            return name
    return "proxy"


class DelegatedAuth:
    """Asks the API server: TokenReview for bearer tokens, SubjectAccessReview on ``nodes/<subresource>`` for all."""

    def __init__(self, client: Client, clock: Clock, node_name: str) -> None:
        self._client, self._clock, self._node = client, clock, node_name
        self._tokens: dict[str, tuple[float, Caller | None]] = {}
        self._verdicts: dict[tuple[Caller, str, str], tuple[float, bool]] = {}

    async def check(self, request: Request) -> None:
        caller = from_certificate(request.peer) or await self._from_token(request)
        if caller is None:
            raise HttpError(401, "Unauthorized")
        verb, subresource = _VERBS.get(request.method, "get"), subresource_of(request.path)
        if await self._allowed(caller, verb, subresource):
            return
        if subresource in ("healthz", "configz", "pods") and await self._allowed(caller, verb, "proxy"):
            return
        raise HttpError(
            403, f"Forbidden (user={caller.name}, verb={verb}, resource=nodes, subresource(s)=[{subresource}])\n"
        )

    async def _from_token(self, request: Request) -> Caller | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return None
        now = self._clock.now()
        held = self._tokens.get(token)
        if held is not None and now < held[0]:
            return held[1]
        review = await self._client.create(TokenReview(spec=TokenReviewSpec(token=token.strip())))
        caller = None
        if review.status.authenticated and review.status.user is not None:
            user = review.status.user
            caller = Caller(user.username or "", user.uid or "", tuple(user.groups))
        _keep(self._tokens, token, (now + (AUTHENTICATED_S if caller else DENIED_S / 3), caller))
        return caller

    async def _allowed(self, caller: Caller, verb: str, subresource: str) -> bool:
        now, key = self._clock.now(), (caller, verb, subresource)
        held = self._verdicts.get(key)
        if held is not None and now < held[0]:
            return held[1]
        wanted = ResourceAttributes(
            verb=verb, group="", version="v1", resource="nodes", subresource=subresource, name=self._node
        )
        spec = SubjectAccessReviewSpec(
            user=caller.name, uid=caller.uid or None, groups=caller.groups, resource_attributes=wanted
        )
        review = await self._client.create(SubjectAccessReview(spec=spec))
        allowed = review.status is not None and review.status.allowed
        _keep(self._verdicts, key, (now + (ALLOWED_S if allowed else DENIED_S), allowed))
        return allowed


def _keep(cache: dict[Any, Any], key: Any, value: Any) -> None:
    if len(cache) >= _KEPT_MAX:
        cache.pop(next(iter(cache)))
    cache[key] = value


def from_certificate(peer: dict[str, Any]) -> Caller | None:
    """The user of a verified certificate: its common name, its organizations for groups."""
    names: list[tuple[str, str]] = [pair for part in peer.get("subject", ()) for pair in part]
    common = [value for key, value in names if key == "commonName"]
    if not common:
        return None
    groups = [value for key, value in names if key == "organizationName"]
    return Caller(common[0], groups=(*groups, "system:authenticated"))
