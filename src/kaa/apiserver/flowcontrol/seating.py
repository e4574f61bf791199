"""Where requests take their seats: how many they need, and how long they keep them.

A request that is answered whole in the turn of the event loop that read it needs no seat. A write keeps its seat until
it is answered, a long list until it is sent, a watch until its first objects are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from math import ceil
from typing import TYPE_CHECKING

from kaa.client.pipeline import User

from ..cacher import Cacher
from ..http import Answer, HttpRequest, HttpResponse
from ..queries import is_true
from ..routes import CONNECTS, Target
from .control import KEPT_FLOWS, Flow, FlowControl, Rejected, Seat

if TYPE_CHECKING:
    from ..audit.auditor import Trail

OBJECTS_A_SEAT = 100
MOST_SEATS = 10
MOST_SHARE = 0.15  # of a level's seats that one request may take
_TEXT = "text/plain; charset=utf-8"
Go = Callable[[HttpRequest, User, Target, dict[str, str]], Answer | Awaitable[Answer]]


class Seating:
    """``serve`` runs a request with the seats it needs."""

    def __init__(self, control: FlowControl, cacher: Cacher) -> None:
        self.control, self._cacher = control, cacher

    def flow(self, user: User, target: Target, method: str) -> Flow:
        """Where a request belongs. Asked of each one, so it is remembered beside the target that the front keeps."""
        control = self.control
        if not control.stale:
            found = control.known.get((user, target))
            if found is not None:
                return found
        resource = target.resource
        if resource is None and not target.unknown_resource:
            return control.flow(user, method.lower(), path=target.path)
        plural = resource.plural if resource is not None else target.unknown_resource
        found = control.flow(user, target.verb, target.group, plural, target.subresource, target.namespace)
        if resource is not None and not resource.custom:
            if len(control.known) >= KEPT_FLOWS:
                control.known.clear()
            control.known[user, target] = found
        return found

    def serve(
        self,
        flow: Flow,
        go: Go,
        http: HttpRequest,
        user: User,
        target: Target,
        options: dict[str, str],
        trail: Trail | None,
    ) -> Answer | Awaitable[Answer]:
        """The answer, or what will give it. ``go`` is called with what follows it when the request may run."""
        seats = 0 if target.verb == "get" and target.resource is not None else self._seats(flow, target, options)
        if not seats:
            flow.counts.dispatched += 1
            return go(http, user, target, options)
        seat = self.control.sit(flow, seats)
        if seat is None:
            return self._later(flow, seats, go, http, user, target, options, trail)
        try:
            answer = go(http, user, target, options)
        except BaseException:
            seat.leave()
            raise
        return _held(seat, answer, target)

    async def _later(
        self,
        flow: Flow,
        seats: int,
        go: Go,
        http: HttpRequest,
        user: User,
        target: Target,
        options: dict[str, str],
        trail: Trail | None,
    ) -> Answer:
        try:
            seat = await self.control.wait(flow, seats)
        except Rejected as err:
            return too_many(err.retry_after_s)
        try:
            answer = go(http, user, target, options)
        except BaseException:
            seat.leave()
            raise
        finally:
            if trail is not None:
                trail.decided()  # only now has authorization been asked
        held = _held(seat, answer, target)
        return await held if isinstance(held, Awaitable) else held

    def _seats(self, flow: Flow, target: Target, options: dict[str, str]) -> int:
        """How many seats a request needs; 0 for one that is answered at once or never ends.

        Source: apiserver pkg/util/flowcontrol/request width.go, list_work_estimator.go.
        """
        verb = target.verb
        if target.resource is None:
            return 1 if target.unknown_resource and verb != "watch" else 0
        if verb == "get" or target.subresource in CONNECTS:
            return 0
        if verb == "list":
            return self._list_seats(flow, target, options)
        if verb == "watch":
            resumed = options.get("resourceVersion", "") not in ("", "0")
            return (
                0 if resumed and not is_true(options, "sendInitialEvents") else self._list_seats(flow, target, options)
            )
        return 1

    def _list_seats(self, flow: Flow, target: Target, options: dict[str, str]) -> int:
        """By the objects that must be gone through. A list that needs one seat is short enough to need none."""
        assert target.resource is not None
        try:
            cache = self._cacher.of(target.resource)
        except KeyError:
            return 0
        count = len(cache.order)
        if count <= OBJECTS_A_SEAT:
            return 0
        if target.namespace and target.resource.namespaced:
            count = len(cache.keys(target.namespace))
        limit = options.get("limit", "")
        if (
            limit.isdigit()
            and len(limit) < 10
            and int(limit)
            and not options.get("labelSelector")
            and not options.get("fieldSelector")
        ):
            count = min(count, int(limit))
        if count <= OBJECTS_A_SEAT:
            return 0
        most = min(MOST_SEATS, max(1, ceil(flow.level.limits.nominal * MOST_SHARE)))
        return min(most, ceil(count / OBJECTS_A_SEAT))


def _held(seat: Seat, answer: Answer | Awaitable[Answer], target: Target) -> Answer | Awaitable[Answer]:
    """The answer with the seat it keeps; one that is whole gives it back at once."""
    if isinstance(answer, Awaitable):
        return _held_while(seat, answer, target)
    if isinstance(answer, HttpResponse) and not isinstance(answer.body, bytes):
        answer.body = _Seated(answer.body, seat, first_only=target.verb == "watch")
    else:
        seat.leave()
    return answer


async def _held_while(seat: Seat, waiting: Awaitable[Answer], target: Target) -> Answer:
    try:
        answer = await waiting
    except BaseException:
        seat.leave()
        raise
    held = _held(seat, answer, target)
    assert not isinstance(held, Awaitable)
    return held


class _Seated(AsyncIterator[bytes]):
    """A streamed answer that holds a seat to its end, or until its first piece."""

    def __init__(self, body: AsyncIterator[bytes], seat: Seat, *, first_only: bool) -> None:
        self._body, self._seat, self._first_only = body, seat, first_only

    async def __anext__(self) -> bytes:
        piece = await self._body.__anext__()
        if self._first_only:
            self._seat.leave()
        return piece

    async def aclose(self) -> None:
        self._seat.leave()
        close = getattr(self._body, "aclose", None)
        if close is not None:
            await close()


def too_many(retry_after_s: int) -> HttpResponse:
    text = b"Too many requests, please try again later.\n"
    headers = [("Retry-After", str(retry_after_s)), ("X-Content-Type-Options", "nosniff")]
    return HttpResponse(429, text, _TEXT, headers)
