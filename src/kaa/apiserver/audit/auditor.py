"""The trail of each request, from its arrival to its end.

    trail = auditor.begin(...)      None: the policy says nothing of this request
    trail.decided(...)              what authorization said
    answer = trail.answered(...)    the answer that carries the trail to its end

The idea: a trail is one event whose stage moves on; each stage that the policy does not omit is written at once.
Source: apiserver pkg/endpoints/filters audit.go, authn_audit.go.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

import structlog

from kaa.api.clock import Clock, format_micro_time
from kaa.client.pipeline import User

from ..authz.base import Authorizer, Decision, Question
from ..http import Answer, Connection, HttpResponse, Upgrade
from ..routes import CONNECTS
from ..view import View
from . import events
from .policy import NAMES, Attributes, Level, Policy, Verdict, verdict

log = structlog.get_logger(__name__)


class Backend(Protocol):
    def write(self, event: bytes) -> None: ...

    def close(self) -> None: ...


class Recorder:
    """An authorizer that remembers its last decision, for the trail of the request that it was about."""

    def __init__(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer
        self.last: tuple[Decision, str] | None = None

    def authorize(self, question: Question, view: View) -> tuple[Decision, str]:
        self.last = self._authorizer.authorize(question, view)
        return self.last


class Auditor:
    def __init__(self, policy: Policy, backends: tuple[Backend, ...], clock: Clock, recorder: Recorder) -> None:
        self._policy, self._backends, self._clock = policy, backends, clock
        self.recorder = recorder

    def begin(
        self,
        request: Attributes,
        audit_id: str,
        uri: str,
        *,
        addresses: tuple[str, ...] = (),
        agent: str = "",
        body: Callable[[], bytes] = bytes,
        notes: Mapping[str, str] = {},
    ) -> Trail | None:
        """A request has come. ``body``: what was sent, as JSON; asked for only if the level wants it. ``notes`` are the
        annotations that it brings along."""
        found = verdict(self._policy, request)
        if found.level is Level.NONE:
            return None
        self.recorder.last = None
        return Trail(self, found, request, audit_id, uri, addresses, agent, body, notes)

    def refused_authentication(
        self,
        uri: str,
        verb: str,
        audit_id: str,
        addresses: tuple[str, ...],
        agent: str,
        notes: Mapping[str, str] = {},
    ) -> None:
        """Somebody has shown credentials that are none."""
        trail = self.begin(
            Attributes(User(""), verb, path=uri.partition("?")[0]),
            audit_id,
            uri,
            addresses=addresses,
            agent=agent,
            notes=notes,
        )
        if trail is not None:
            trail.event.response_status = {
                "metadata": {},
                "status": "Failure",
                "message": "Authentication failed, attempted: bearer",
                "reason": "Unauthorized",
                "code": 401,
            }
            trail.write("ResponseStarted")

    def now(self) -> str:
        return format_micro_time(self._clock.now())

    def write(self, event: bytes) -> None:
        for backend in self._backends:
            try:
                backend.write(event)
            except OSError as err:
                log.error("an audit event was lost", error=str(err))

    def close(self) -> None:
        for backend in self._backends:
            backend.close()


class Trail:
    """One request's event."""

    __slots__ = ("_auditor", "_verdict", "_watching", "event")

    def __init__(
        self,
        auditor: Auditor,
        found: Verdict,
        request: Attributes,
        audit_id: str,
        uri: str,
        addresses: tuple[str, ...],
        agent: str,
        body: Callable[[], bytes],
        notes: Mapping[str, str],
    ) -> None:
        self._auditor, self._verdict = auditor, found
        self._watching = request.verb == "watch" or request.subresource in CONNECTS
        self.event = events.Event(
            kind="Event",
            api_version="audit.k8s.io/v1",
            level=NAMES[found.level],
            audit_id=audit_id,
            stage="",
            request_uri=uri,
            verb=request.verb,
            user=events.UserInfo.of(request.user),
            source_ips=addresses,
            user_agent=agent[:1024],
            object_ref=events.reference(request),
            request_received_timestamp=auditor.now(),
            annotations=dict(notes),
        )
        self.write("RequestReceived")
        data = body() if request.resource and request.verb in ("create", "update", "patch", "delete") else b""
        if data:
            self._sent(data)

    def _sent(self, data: bytes) -> None:
        if self.event.object_ref is not None:
            events.complete(self.event.object_ref, data)
        if self._verdict.level >= Level.REQUEST:
            self.event.request_object = self._shown(data)

    def _shown(self, data: bytes) -> events.Raw:
        return events.Raw(events.without_managed_fields(data) if self._verdict.omit_managed_fields else data)

    def write(self, stage: str) -> None:
        if stage in self._verdict.omit_stages:
            return
        self.event.stage, self.event.stage_timestamp = stage, self._auditor.now()
        self._auditor.write(events.encode(self.event))

    def impersonated(self, user: User) -> None:
        self.event.impersonated_user = events.UserInfo.of(user)

    def decided(self) -> None:
        """Take down what the authorizer last said."""
        last, self._auditor.recorder.last = self._auditor.recorder.last, None
        if last is not None:
            decision, reason = last
            self.annotate("authorization.k8s.io/decision", "allow" if decision is Decision.ALLOW else "forbid")
            self.annotate("authorization.k8s.io/reason", reason)

    def annotate(self, key: str, value: str) -> None:
        self.event.annotations = {**self.event.annotations, key: value}

    def panicked(self) -> None:
        """The server itself failed: nobody foresaw this answer."""
        self.event.response_status = {
            "metadata": {},
            "status": "Failure",
            "message": "APIServer panic'd",
            "reason": "InternalError",
            "code": 500,
        }
        self.write("Panic")

    # ------------------------------------------------------------------------------------------------ answers

    def answered(self, answer: Answer, document: Callable[[HttpResponse], bytes]) -> Answer:
        """Take an answer's status down, and go with it if it streams. ``document``: its body as JSON."""
        if not isinstance(answer, HttpResponse):
            return _Followed(self, answer)
        answer.audit_id = self.event.audit_id
        if self.event.stage == "Panic":
            return answer
        if isinstance(answer.body, bytes):
            body = document(answer)
            self.event.response_status = events.status_of(answer.status, body)
            if self._verdict.level >= Level.REQUEST_RESPONSE and body and self.event.object_ref is not None:
                self.event.response_object = self._shown(body)
            self.write("ResponseComplete")
            return answer
        self.event.response_status = {"metadata": {}, "code": answer.status}
        if self._watching:
            self.write("ResponseStarted")
        answer.body = _Stream(self, answer.body)
        return answer

    def completed(self, code: int, document: bytes) -> None:
        """The end of a request of this process."""
        self.event.response_status = events.status_of(code, document)
        if self._verdict.level >= Level.REQUEST_RESPONSE and document:
            self.event.response_object = self._shown(document)
        self.write("ResponseComplete")


class _Stream(AsyncIterator[bytes]):
    """A streamed answer; its end is the request's."""

    def __init__(self, trail: Trail, body: AsyncIterator[bytes]) -> None:
        self._trail: Trail | None = trail
        self._body = body

    async def __anext__(self) -> bytes:
        return await self._body.__anext__()

    async def aclose(self) -> None:
        trail, self._trail = self._trail, None
        if trail is not None:
            trail.write("ResponseComplete")
        close = getattr(self._body, "aclose", None)
        if close is not None:
            await close()


class _Followed:
    """An upgraded connection; its end is the request's."""

    def __init__(self, trail: Trail, upgrade: Upgrade) -> None:
        self._trail, self._upgrade = trail, upgrade

    async def __call__(self, connection: Connection) -> None:
        self._trail.event.response_status = {"metadata": {}, "code": 101}
        self._trail.write("ResponseStarted")
        try:
            await self._upgrade(connection)
        finally:
            self._trail.write("ResponseComplete")


def client_addresses(headers: Mapping[str, str], peer: str) -> tuple[str, ...]:
    """Where a request came from, the farthest first, as proxies and the connection tell."""
    found = [part.strip() for part in headers.get("x-forwarded-for", "").split(",") if part.strip()]
    real = headers.get("x-real-ip", "").strip()
    for address in (real, peer):
        if address and address not in found:
            found.append(address)
    return tuple(found)


def json_of(body: Any) -> bytes:
    """An object of this process as JSON; nothing for none."""
    from kaa.api import scheme

    if body is None or isinstance(body, bytes):
        return body or b""
    return scheme.encode(body.document() if hasattr(body, "document") else body)
