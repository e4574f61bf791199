"""Priority and fairness at work: the cluster's FlowSchemas and levels around the queues, and requests that wait in them.

    flow = control.flow(user, digest)          which schema, level and queues; kept, for it is asked of every request
    seat = control.sit(flow, seats)            a seat at once, or None: it would have to wait
    seat = await control.wait(flow, seats)     a seat in turn; raises Rejected
    seat.leave()

Who needs a seat is decided by the front: whatever is answered in the turn of the event loop that reads it (a GET, a short
list) needs none, for nothing runs beside it.

Source: API concepts "Priority and Fairness"; apiserver pkg/util/flowcontrol, pkg/server/filters priority-and-fairness.go.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import structlog

from kaa.api.clock import Clock
from kaa.api.types.flowcontrol_v1 import FlowSchema, PriorityLevelConfiguration, PriorityLevelConfigurationSpec
from kaa.client.pipeline import User

from ..bootstrap.flow import flow_schemas, priority_levels
from ..cacher import Cacher
from ..hearing import Hearer
from ..routes import Target
from ..watchers import Change
from . import shares
from .classify import Digest, distinguisher, in_order, matches
from .queues import Queue, QueueSet, Shape, State, Ticket

log = structlog.get_logger(__name__)

ADJUST_S = 10.0
WAIT_SHARE = 0.25  # of a request's time limit that it may spend waiting
KEPT_FLOWS = 4096
MANDATORY = frozenset({"exempt", "catch-all"})
#: What a new level has until the shares are counted.
_NOBODY_WAITS = Shape(0, 0, 0)
WAIT_BUCKETS_S = (0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30)


class Rejected(Exception):
    """No seat: the client should come again. ``reason`` as the metric has it, ``retry_after_s`` for the header."""

    def __init__(self, reason: str, retry_after_s: int, flow: Flow) -> None:
        super().__init__(reason)
        self.reason, self.retry_after_s, self.flow = reason, retry_after_s, flow


@dataclass(slots=True, eq=False)
class Level:
    """A priority level and what was counted of it. ``queues`` None: exempt, nobody waits and nobody is counted out."""

    name: str
    uid: str
    spec: PriorityLevelConfigurationSpec
    queues: QueueSet | None
    limits: shares.Bounds
    exempt_executing: int = 0
    retry_after: RetryAfter = field(default_factory=lambda: RetryAfter())


@dataclass(slots=True, eq=False)
class SchemaCounts:
    """What was counted of a schema's requests. ``waits``: how many waited how long, by bucket."""

    dispatched: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    waits: list[int] = field(default_factory=lambda: [0] * (len(WAIT_BUCKETS_S) + 1))
    waited_s: float = 0.0


@dataclass(slots=True, eq=False)
class Flow:
    """Where a kind of request belongs. ``lines`` are the headers that its answers carry."""

    schema: str
    level: Level
    distinguisher: str
    hand: tuple[Queue, ...]
    counts: SchemaCounts
    lines: bytes


class Seat:
    """What a request holds while it runs. A request that is dropped before it began gives its seat back with its last
    reference: a task that is cancelled in time never runs a line of its own."""

    __slots__ = ("_control", "_flow", "_held", "_ticket")

    def __init__(self, control: FlowControl, flow: Flow, ticket: Ticket | None) -> None:
        self._control, self._flow, self._ticket = control, flow, ticket
        self._held = True

    def leave(self) -> None:
        """Give the seat back."""
        if not self._held:
            return
        self._held = False
        level = self._flow.level
        if self._ticket is None:
            level.exempt_executing -= 1
        elif level.queues is not None:
            started = level.queues.finish(self._ticket, self._control.clock.monotonic())
            if started:
                self._control.wake(started)

    __del__ = leave


class RetryAfter:
    """How long those turned away are told to stay: longer while many come, shorter when it abates.

    Source: apiserver pkg/util/flowcontrol dropped_requests_tracker.go.
    """

    MOST_S = 32

    def __init__(self) -> None:
        self.seconds = 1
        self._changed = 0
        self._dropped: deque[tuple[int, int]] = deque()  #: (second, how many), the last MOST_S of them

    def record(self, now: float) -> int:
        second = int(now)
        if self._dropped and self._dropped[-1][0] == second:
            self._dropped[-1] = (second, self._dropped[-1][1] + 1)
        else:
            self._adjust(second)
            self._dropped.append((second, 1))
        return self.seconds

    def _adjust(self, second: int) -> None:
        while self._dropped and self._dropped[0][0] < second - self.MOST_S:
            self._dropped.popleft()
        if second - self._changed < self.seconds:
            return
        lately = sum(count for at, count in self._dropped if at >= second - self.seconds)
        if lately < self.seconds:
            self.seconds, self._changed = max(1, self.seconds - 1), second
        elif lately >= 3 * self.seconds:
            self.seconds, self._changed = min(2 * self.seconds, self.MOST_S), second


class FlowControl:
    """``total``: seats of the whole server. ``patience_s``: the time limit of requests, of which a part may be waited."""

    def __init__(self, view: Cacher, clock: Clock, *, total: int = 600, patience_s: float = 60.0) -> None:
        self.clock, self.total = clock, total
        self.levels: dict[str, Level] = {}
        self.counts: dict[tuple[str, str], SchemaCounts] = {}  #: {(level, schema): counts}
        self._view, self._patience_s = view, patience_s
        self._schemas: list[FlowSchema] = []
        self._flows: dict[tuple[User, str, str, str, str, str, str], Flow] = {}
        #: {(user, target that the front keeps): flow}: what ``flow`` would say, a step sooner
        self.known: dict[tuple[User, Target], Flow] = {}
        self.stale = True  #: the objects have changed since the flows were looked up
        self._hearers = [
            Hearer(view, kind, self._changed) for kind in (FlowSchema, PriorityLevelConfiguration)
        ]  # for as long as the view lives

    def _changed(self, change: Change) -> None:
        self.stale = True

    # ------------------------------------------------------------------------------------------------ requests

    def flow(
        self, user: User, verb: str, group: str = "", resource: str = "", subresource: str = "",
        namespace: str = "", path: str = "",
    ) -> Flow:  # fmt: skip
        """The flow of a request; ``path`` for URLs that are no resource."""
        if self.stale:
            self._configure()
        key = (user, verb, group, resource, subresource, namespace, path)
        found = self._flows.get(key)
        if found is None:
            if len(self._flows) >= KEPT_FLOWS:
                self._flows.clear()
                self.known.clear()
            found = self._flows[key] = self._classified(Digest(*key))
        return found

    def sit(self, flow: Flow, seats: int) -> Seat | None:
        """A seat, if one is free and nobody waits for it; None when the request has to ``wait``."""
        queues = flow.level.queues
        ticket: Ticket | None = None
        if queues is None:
            flow.level.exempt_executing += 1
        else:
            ticket = queues.enter(flow.hand, seats, self.clock.monotonic(), flow)
            if ticket is None:
                return None
        flow.counts.dispatched += 1
        return Seat(self, flow, ticket)

    async def wait(self, flow: Flow, seats: int) -> Seat:
        """A seat in turn. Raises Rejected when the queue is full or the wait too long."""
        queues = flow.level.queues
        assert queues is not None
        began = self.clock.monotonic()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ticket = queues.arrive(flow.hand, seats, began, (turn, flow))
        if ticket.state is State.WAITING:
            await self._in_turn(queues, ticket, turn)
        if ticket.state is State.REJECTED:
            raise self._rejected(flow, ticket)
        waited = self.clock.monotonic() - began
        flow.counts.dispatched += 1
        flow.counts.waited_s += waited
        flow.counts.waits[next((n for n, most in enumerate(WAIT_BUCKETS_S) if waited <= most), -1)] += 1
        return Seat(self, flow, ticket)

    async def _in_turn(self, queues: QueueSet, ticket: Ticket, turn: asyncio.Future[None]) -> None:
        """Until the ticket's turn has come, its patience is over, or nobody asks for it any more."""
        limit = asyncio.ensure_future(self.clock.sleep(self._patience_s * WAIT_SHARE))
        reason = "cancelled"
        try:
            await asyncio.wait((turn, limit), return_when=asyncio.FIRST_COMPLETED)
            reason = "time-out"
        finally:
            limit.cancel()
            now = self.clock.monotonic()
            if ticket.state is State.WAITING:
                self.wake(queues.abandon(ticket, reason, now))
            elif reason == "cancelled":  # its turn came just as its client went
                self.wake(queues.finish(ticket, now))

    def wake(self, started: Iterable[Ticket]) -> None:
        for ticket in started:
            turn = ticket.owner[0]
            if not turn.done():
                turn.set_result(None)

    def _rejected(self, flow: Flow, ticket: Ticket) -> Rejected:
        reason = ticket.reason
        flow.counts.rejected[reason] = flow.counts.rejected.get(reason, 0) + 1
        return Rejected(reason, flow.level.retry_after.record(self.clock.monotonic()), flow)

    # ------------------------------------------------------------------------------------------------ configuration

    def _configure(self) -> None:
        """Take the objects as they are now. The two mandatory levels are there even when their objects are not."""
        self.stale = False
        self._flows.clear()
        self.known.clear()
        levels = {one.metadata.name or "": one for one in priority_levels() if one.metadata.name in MANDATORY}
        levels |= {one.metadata.name or "": one for one in self._view.list(PriorityLevelConfiguration)}
        schemas = {one.metadata.name or "": one for one in flow_schemas(0.0) if one.metadata.name in MANDATORY}
        schemas |= {one.metadata.name or "": one for one in self._view.list(FlowSchema)}
        self._schemas = [
            one for one in in_order(schemas.values()) if one.spec.priority_level_configuration.name in levels
        ]
        now = self.clock.monotonic()
        limits = shares.bounds({name: one.spec for name, one in levels.items()}, self.total)
        for name in [name for name in self.levels if name not in levels]:
            self._retire(self.levels.pop(name))
        for name, one in levels.items():
            self._set(name, one, limits[name], now)

    def _set(self, name: str, object: PriorityLevelConfiguration, limits: shares.Bounds, now: float) -> None:
        level = self.levels.get(name)
        shape = shape_of(object.spec)
        if level is None or (level.queues is None) != (shape is None):
            if level is not None:
                self._retire(level)
            queues = QueueSet(shape, limits.nominal, now) if shape is not None else None
            level = self.levels[name] = Level(name, "", object.spec, queues, limits)
        level.uid, level.spec, level.limits = object.metadata.uid or "", object.spec, limits
        if level.queues is not None and shape is not None:
            level.queues.reshape(shape)
            self.wake(level.queues.set_limit(min(max(level.queues.limit, limits.least), limits.most), now))

    def _retire(self, level: Level) -> None:
        """A level that is no more lets everybody go who waits in it."""
        if level.queues is not None:
            self.wake(level.queues.set_limit(1 << 30, self.clock.monotonic()))

    def _classified(self, digest: Digest) -> Flow:
        schema = next((one for one in self._schemas if matches(one, digest)), None)
        if schema is None:  # somebody has taken everybody out of catch-all
            schema = next(one for one in self._schemas if one.metadata.name == "catch-all")
        name = schema.metadata.name or ""
        level = self.levels[schema.spec.priority_level_configuration.name]
        own = distinguisher(schema, digest)
        hand = level.queues.hand(f"{name}\0{own}") if level.queues is not None else ()
        counts = self.counts.setdefault((level.name, name), SchemaCounts())
        lines = (
            f"X-Kubernetes-PF-FlowSchema-UID: {schema.metadata.uid or ''}\r\n"
            f"X-Kubernetes-PF-PriorityLevel-UID: {level.uid}\r\n"
        )
        return Flow(name, level, own, hand, counts, lines.encode())

    # ------------------------------------------------------------------------------------------------ lending

    async def run(self) -> None:
        """Move seats from levels that do not need them to those that do, until cancelled."""
        while True:
            await self.clock.sleep(ADJUST_S)
            self.adjust()

    def adjust(self) -> None:
        now = self.clock.monotonic()
        wishes: dict[str, shares.Wish] = {}
        for name, level in self.levels.items():
            if level.queues is not None:
                peak = level.queues.demand.close(now)
                wishes[name] = shares.wish(level.limits, peak, level.queues.demand.smooth)
        exempt = sum(level.exempt_executing for level in self.levels.values())
        for name, limit in shares.allocate(wishes, max(self.total - exempt, 1)).items():
            queues = self.levels[name].queues
            if queues is not None and queues.limit != limit:
                self.wake(queues.set_limit(limit, now))


def shape_of(spec: PriorityLevelConfigurationSpec) -> Shape | None:
    """The queues of a level; None for one that is exempt."""
    if spec.type == "Exempt":
        return None
    response = spec.limited.limit_response if spec.limited is not None else None
    queuing = response.queuing if response is not None else None
    if response is None or response.type != "Queue":
        return _NOBODY_WAITS
    if queuing is None:
        return Shape(64, 8, 50)
    return Shape(queuing.queues or 64, queuing.hand_size or 8, queuing.queue_length_limit or 50)
