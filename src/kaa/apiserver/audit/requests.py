"""Audit of both ways into the pipeline: HTTP requests, and calls of components in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import msgspec

from kaa.api import scheme
from kaa.api.errors import ApiError
from kaa.client.client import WatchEvent
from kaa.client.pipeline import Answer as CallAnswer
from kaa.client.pipeline import Request, User

from .. import bodies
from ..http import Answer, HttpRequest, HttpResponse, new_audit_id
from ..pipeline import ApiServer
from ..routes import Target
from .auditor import Auditor, Trail, client_addresses, json_of
from .policy import Attributes

_HERE = ("127.0.0.1",)


class FrontAuditor:
    """What ``front.Front`` calls."""

    def __init__(self, auditor: Auditor) -> None:
        self._auditor = auditor

    def arrived(self, http: HttpRequest, user: User, target: Target) -> Trail | None:
        """A request of a known user has come; None when the policy passes over it."""
        headers = http.headers
        trail = self._auditor.begin(
            attributes(user, target, http.method),
            headers.get("audit-id") or new_audit_id(),
            http.target.decode("latin-1"),
            addresses=client_addresses(headers, http.connection.peer),
            agent=headers.get("user-agent", ""),
            body=lambda: as_json(http.body, headers.get("content-type", "")),
            notes=_notes(http),
        )
        if trail is not None:
            http.note = trail.annotate
        return trail

    def unknown(self, http: HttpRequest) -> None:
        """A request has come with credentials that are none."""
        headers = http.headers
        addresses = client_addresses(headers, http.connection.peer)
        uri, agent = http.target.decode("latin-1"), headers.get("user-agent", "")
        audit_id = headers.get("audit-id") or new_audit_id()
        self._auditor.refused_authentication(uri, http.method.lower(), audit_id, addresses, agent, _notes(http))

    def answered(self, trail: Trail, answer: Answer) -> Answer:
        return trail.answered(answer, _document)


def _notes(http: HttpRequest) -> dict[str, str]:
    return {key: value for key, value, _ in http.remarks}


def attributes(user: User, target: Target, method: str) -> Attributes:
    resource = target.resource
    if resource is None and not target.unknown_resource:
        return Attributes(user, method.lower(), path=target.path)
    return Attributes(
        user,
        target.verb,
        target.group,
        target.version,
        resource.plural if resource is not None else target.unknown_resource,
        target.subresource,
        target.namespace,
        target.name,
    )


def as_json(body: bytes, content_type: str) -> bytes:
    """What was sent, as JSON; nothing when it cannot be read, as the request's own refusal will say."""
    kind = bodies.media_type(content_type)
    if kind.endswith("+cbor"):
        kind = bodies.CBOR
    if kind not in (bodies.YAML, bodies.PROTOBUF, bodies.CBOR):
        body = scheme.repaired(body)
        return body if _is_json(body) else b""
    try:
        return msgspec.json.encode(bodies.plain_document(body, kind, "Object"))
    except ApiError:
        return b""


def _is_json(body: bytes) -> bool:
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except msgspec.DecodeError:
        return False
    return True


def _document(answer: HttpResponse) -> bytes:
    assert isinstance(answer.body, bytes)
    return as_json(answer.body, answer.content_type) if answer.content_type.startswith("application/") else b""


class AuditedPipeline:
    """``client.pipeline.Pipeline`` that leaves a trail: what components of this process use while audit is on."""

    def __init__(self, api: ApiServer, auditor: Auditor) -> None:
        self._api, self._auditor = api, auditor

    def _begin(self, request: Request) -> Trail | None:
        resource, options = request.resource, dict(request.options)
        if request.verb == "watch":
            options["watch"] = "true"
        path = resource.path(request.namespace, request.name or None, request.subresource or None)
        asked = Attributes(
            request.user, request.verb, resource.group, resource.version, resource.plural, request.subresource,
            request.namespace, request.name,
        )  # fmt: skip
        return self._auditor.begin(
            asked,
            new_audit_id(),
            path + (f"?{urlencode(options)}" if options else ""),
            addresses=_HERE,
            agent=request.user_agent,
            body=lambda: _sent(request.body),
        )

    async def call(self, request: Request) -> CallAnswer:
        trail = self._begin(request)
        if trail is None:
            return await self._api.call(request)
        request.note = trail.annotate
        try:
            self._authorize(request, trail)
            answer = await self._api.call(request)
        except ApiError as err:
            trail.completed(err.status.code or 500, json_of(err.status))
            raise
        trail.completed(answer.code, json_of(answer.object))
        return answer

    def _authorize(self, request: Request, trail: Trail) -> None:
        """Ask once more than needed: the decision is known here before others are made."""
        try:
            self._api.authorize(request)
        finally:
            trail.decided()

    def watch(self, request: Request) -> AsyncIterator[WatchEvent[Any]]:
        trail = self._begin(request)
        if trail is None:
            return self._api.watch(request)
        try:
            found = self._api.watch(request)
        except ApiError as err:
            trail.completed(err.status.code or 500, json_of(err.status))
            raise
        finally:
            trail.decided()
        return _followed(trail, found)

    async def raw(self, user: User, method: str, path: str, body: bytes, content_type: str) -> bytes:
        asked = Attributes(user, method.lower(), path=path.partition("?")[0])
        trail = self._auditor.begin(asked, new_audit_id(), path, addresses=_HERE)
        answer = await self._api.raw(user, method, path, body, content_type)
        if trail is not None:
            trail.completed(200, b"")
        return answer


async def _followed(trail: Trail, events: AsyncIterator[WatchEvent[Any]]) -> AsyncIterator[WatchEvent[Any]]:
    trail.event.response_status = {"metadata": {}, "code": 200}
    trail.write("ResponseStarted")
    try:
        async for event in events:
            yield event
    finally:
        await events.aclose()  # type: ignore[attr-defined]  # it is a generator
        trail.write("ResponseComplete")


def _sent(body: Any) -> bytes:
    """A Struct, or what a patch is: plain values."""
    if body is None or isinstance(body, bytes):
        return body or b""
    if isinstance(body, (dict, list)):
        return msgspec.json.encode(body)
    return json_of(body)
