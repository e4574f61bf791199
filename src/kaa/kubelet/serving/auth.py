"""Who may ask the kubelet what: bearer tokens and permissions are checked with the API server, answers kept a while.

Client certificates are checked by TLS itself, against the cluster's CA.
Source: pkg/kubelet/server/auth.go (with KEP-2862), server.go (InstallAuthFilter), cmd/kubelet/app/auth.go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from kaa.api.clock import Clock
from kaa.api.types.authentication_v1 import TokenReview, TokenReviewSpec
from kaa.api.types.authorization_v1 import ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec
from kaa.client.client import Client

from ..config import Serving
from .http import HttpError, Request

#: How long the API server's no about a token holds; never as long as its yes may.
_UNKNOWN_TOKEN_S = 10.0
_KEPT_MAX = 1000
_VERBS = {"POST": "create", "GET": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
#: {first word of a path: the subresources of ``nodes`` of which one must be permitted}, in the order they are asked.
_SUBRESOURCES = {
    "stats": ("stats",),
    "metrics": ("metrics",),
    "logs": ("log",),
    "checkpoint": ("checkpoint",),
    "pods": ("pods", "proxy"),
    "runningpods": ("pods", "proxy"),
    "healthz": ("healthz", "proxy"),
    "configz": ("configz", "proxy"),
}


@dataclass(frozen=True, slots=True)
class Caller:
    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()


ANONYMOUS = Caller("system:anonymous", groups=("system:unauthenticated",))


class Auth(Protocol):
    async def check(self, request: Request) -> None:
        """Raises HttpError 401 or 403."""
        ...


def subresources_of(path: str) -> tuple[str, ...]:
    """The subresources of ``nodes`` that a path asks permission for: any of them will do."""
    return _SUBRESOURCES.get(path.split("/")[1] if path.startswith("/") else "", ("proxy",))


class DelegatedAuth:
    """Asks the API server: TokenReview for bearer tokens, SubjectAccessReview on ``nodes/<subresource>`` for all."""

    def __init__(self, client: Client, clock: Clock, node_name: str, serving: Serving | None = None) -> None:
        self._client, self._clock, self._node = client, clock, node_name
        self._serving = serving or Serving()
        self._tokens: dict[str, tuple[float, Caller | None]] = {}
        self._verdicts: dict[tuple[Caller, str, str], tuple[float, bool]] = {}

    async def check(self, request: Request) -> None:
        caller = from_certificate(request.peer) or await self._from_token(request)
        if caller is None:
            raise HttpError(401, "Unauthorized")
        if self._serving.authorization == "AlwaysAllow":
            return
        verb, subresources = _VERBS.get(request.method, ""), subresources_of(request.path)
        for subresource in subresources:
            if await self._allowed(caller, verb, subresource):
                return
        named = " ".join(subresources)
        raise HttpError(403, f"Forbidden (user={caller.name}, verb={verb}, resource=nodes, subresource(s)=[{named}])\n")

    async def _from_token(self, request: Request) -> Caller | None:
        """Whose token it is; without one, nobody in particular where such are let in."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token or not self._serving.token_webhook:
            return ANONYMOUS if self._serving.anonymous and not token else None
        now = self._clock.monotonic()
        held = self._tokens.get(token)
        if held is not None and now < held[0]:
            return held[1]
        review = await self._client.create(TokenReview(spec=TokenReviewSpec(token=token)))
        caller = None
        if review.status.authenticated and review.status.user is not None:
            user = review.status.user
            extra = tuple((name, tuple(values)) for name, values in sorted(user.extra.items()))
            caller = Caller(user.username or "", user.uid or "", tuple(user.groups), extra)
        keep_s = self._serving.token_s if caller else min(self._serving.token_s, _UNKNOWN_TOKEN_S)
        _keep(self._tokens, token, (now + keep_s, caller))
        return caller

    async def _allowed(self, caller: Caller, verb: str, subresource: str) -> bool:
        now, key = self._clock.monotonic(), (caller, verb, subresource)
        held = self._verdicts.get(key)
        if held is not None and now < held[0]:
            return held[1]
        wanted = ResourceAttributes(
            verb=verb, group="", version="v1", resource="nodes", subresource=subresource, name=self._node
        )
        spec = SubjectAccessReviewSpec(
            user=caller.name,
            uid=caller.uid or None,
            groups=caller.groups,
            extra=dict(caller.extra),
            resource_attributes=wanted,
        )
        review = await self._client.create(SubjectAccessReview(spec=spec))
        allowed = review.status is not None and review.status.allowed
        serving = self._serving
        _keep(self._verdicts, key, (now + (serving.allowed_s if allowed else serving.denied_s), allowed))
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
