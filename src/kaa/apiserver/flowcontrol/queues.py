"""The queues of one priority level: a model of seats and turns, moved by the times it is given.

The idea: a flow (a user, a namespace) is dealt a few of the level's queues by the hash of its name, and each of its
requests joins the one with the least before it. So a flow that floods fills its own hand, and another, whose hand is hardly
ever the same, finds a queue without a wait. Free seats go to the queue that is behind the most in virtual time: each queue
is charged what its requests took (seats times seconds), and the clock of fair shares runs as fast as seats are used,
divided among the queues that want them.

    level = QueueSet(Shape(queues=64, hand_size=6, length_limit=50), limit=90)
    ticket = level.arrive(level.hand("alice"), seats=1, now=0.0)      # EXECUTING, WAITING or REJECTED
    started = level.finish(ticket, now=0.2)                           # who may begin now

Nothing here waits, reads a clock or draws a number. Source: KEP-1040; apiserver pkg/util/flowcontrol/fairqueuing.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from .demand import Demand

#: Seconds that a request is thought to take until it has ended and is known.
GUESS_S = 0.003


class State(Enum):
    WAITING = "waiting"
    EXECUTING = "executing"
    REJECTED = "rejected"
    ENDED = "ended"


#: At hand without the search that an Enum's attribute costs.
WAITING, EXECUTING, REJECTED, ENDED = State


@dataclass(frozen=True, slots=True)
class Shape:
    """``queues`` 0: nobody waits; what finds no seat is rejected."""

    queues: int
    hand_size: int
    length_limit: int


class Ticket:
    """One request in a level. ``owner`` is the caller's own."""

    __slots__ = ("arrived", "owner", "queue", "reason", "seats", "started", "state")

    def __init__(self, seats: int, now: float, queue: Queue | None, owner: Any) -> None:
        self.seats, self.queue, self.owner, self.state = seats, queue, owner, WAITING
        self.arrived = self.started = now
        self.reason = ""  #: why it was rejected: queue-full, concurrency-limit, time-out, cancelled


@dataclass(slots=True, eq=False)
class Queue:
    """``next_r``: the virtual time at which its next request is due; ``load``: seats that wait and that are in use."""

    index: int
    waiting: deque[Ticket] = field(default_factory=deque)
    executing: int = 0
    load: int = 0
    next_r: float = 0.0

    @property
    def seats_in_use(self) -> int:
        return self.load - sum(ticket.seats for ticket in self.waiting)


class QueueSet:
    """A level that limits. ``limit``: seats that may be in use at once."""

    def __init__(self, shape: Shape, limit: int, now: float = 0.0) -> None:
        self.limit = limit
        self.seats_in_use = self.executing = self.waiting = 0
        self.demand = Demand(now)
        self._seats_waiting = 0
        self._r, self._r_at = 0.0, now
        self._active = 0  # queues that have anything
        self._behind: dict[Queue, None] = {}  #: queues in which somebody waits
        self._robin = 0
        self.reshape(shape)

    def reshape(self, shape: Shape) -> None:
        """Take another number of queues. What waits or runs in one that is no more keeps its place there till the end."""
        self.shape = shape
        known = getattr(self, "queues", [])
        self.queues: list[Queue] = known[: shape.queues]
        self.queues += [Queue(n, next_r=self._r) for n in range(len(self.queues), shape.queues)]

    def hand(self, flow: str) -> tuple[Queue, ...]:
        """The queues that a flow's requests may join."""
        return tuple(self.queues[n] for n in deal(flow_hash(flow), self.shape.queues, self.shape.hand_size))

    # ------------------------------------------------------------------------------------------------ events

    def enter(self, hand: Sequence[Queue], seats: int, now: float, owner: Any = None) -> Ticket | None:
        """A request comes and begins, if nobody waits and there are seats for it; else None, and it has not come."""
        if self.waiting or not (self.seats_in_use + seats <= self.limit or (not self.executing and seats > self.limit)):
            return None
        if self._active:
            self._advance(now)
        else:
            self._r_at = now
        queue = _lightest(hand) if hand else None
        if queue is not None:
            if not queue.load:
                queue.next_r = self._r  # who was away has saved nothing up
                self._active += 1
            queue.load += seats
        ticket = Ticket(seats, now, queue, owner)
        self._start(ticket, now)
        return ticket

    def arrive(self, hand: Sequence[Queue], seats: int, now: float, owner: Any = None) -> Ticket:
        """A request comes. Its state says whether it may begin, waits, or is turned away."""
        entered = self.enter(hand, seats, now, owner)
        if entered is not None:
            return entered
        self._advance(now)
        queue = _lightest(hand) if hand else None
        ticket = Ticket(seats, now, queue, owner)
        if queue is None or len(queue.waiting) >= self.shape.length_limit:
            ticket.state = REJECTED
            ticket.reason = "concurrency-limit" if queue is None else "queue-full"
            return ticket
        if not queue.load:
            queue.next_r = self._r
            self._active += 1
        queue.load += seats
        queue.waiting.append(ticket)
        self._behind[queue] = None
        self.waiting += 1
        self._seats_waiting += seats
        self.demand.change(seats, now)
        self.dispatch(now)  # it may be the next in turn, before one that is too wide for what is free; nobody else is
        return ticket

    def finish(self, ticket: Ticket, now: float) -> list[Ticket]:
        """A request that was executing has ended. Returns those that may begin now."""
        assert ticket.state is EXECUTING
        if self._active:
            self._advance(now)
        seats, queue = ticket.seats, ticket.queue
        ticket.state = ENDED
        self.executing -= 1
        self.seats_in_use -= seats
        self.demand.change(-seats, now)
        if queue is not None:
            queue.executing -= 1
            queue.load -= seats
            queue.next_r += seats * (now - ticket.started - GUESS_S)
            if not queue.load:
                self._active -= 1
        return self.dispatch(now) if self.waiting else []

    def abandon(self, ticket: Ticket, reason: str, now: float) -> list[Ticket]:
        """A request gives up waiting. Returns those that may begin now: it may have been first, and too wide."""
        assert ticket.state is WAITING
        queue = ticket.queue
        assert queue is not None
        self._advance(now)
        queue.waiting.remove(ticket)
        queue.load -= ticket.seats
        ticket.state, ticket.reason = REJECTED, reason
        self._left(queue, ticket)
        self.demand.change(-ticket.seats, now)
        if not queue.load:
            self._active -= 1
        return self.dispatch(now)

    def set_limit(self, limit: int, now: float) -> list[Ticket]:
        """Returns those that may begin now."""
        self._advance(now)
        self.limit = limit
        return self.dispatch(now)

    # ------------------------------------------------------------------------------------------------ turns

    def dispatch(self, now: float) -> list[Ticket]:
        """Give free seats away, the most overdue queue first. A head that is too wide for what is free holds all others
        up: else wide requests would never have their turn."""
        started: list[Ticket] = []
        while self._behind:
            queue = self._next()
            ticket = queue.waiting[0]
            if not self._fits(ticket.seats):
                break
            queue.waiting.popleft()
            self._left(queue, ticket)
            self.demand.change(-ticket.seats, now)  # it is counted again as executing
            self._start(ticket, now)
            self._robin = queue.index + 1
            started.append(ticket)
        return started

    def _next(self) -> Queue:
        """The queue whose head would end first in virtual time; of equals the next in the round."""
        count = max(len(self.queues), 1)
        return min(
            self._behind,
            key=lambda q: (q.next_r + q.waiting[0].seats * GUESS_S, (q.index - self._robin) % count),
        )

    def _fits(self, seats: int) -> bool:
        """A request wider than the level runs alone."""
        if seats > self.limit:
            return self.executing == 0
        return self.seats_in_use + seats <= self.limit

    def _start(self, ticket: Ticket, now: float) -> None:
        ticket.state, ticket.started = EXECUTING, now
        self.executing += 1
        self.seats_in_use += ticket.seats
        self.demand.change(ticket.seats, now)
        queue = ticket.queue
        if queue is not None:
            queue.executing += 1
            queue.next_r += ticket.seats * GUESS_S

    def _left(self, queue: Queue, ticket: Ticket) -> None:
        self.waiting -= 1
        self._seats_waiting -= ticket.seats
        if not queue.waiting:
            self._behind.pop(queue, None)

    def _advance(self, now: float) -> None:
        """Move the virtual clock: seats that are wanted, or at most those there are, shared by the active queues."""
        if self._active:
            wanted = self.seats_in_use + self._seats_waiting
            self._r += (now - self._r_at) * min(wanted, self.limit) / self._active
        self._r_at = now

    @property
    def idle(self) -> bool:
        return not self.executing and not self.waiting


def _lightest(hand: Sequence[Queue]) -> Queue:
    """The queue of a hand with the least before it."""
    best = hand[0]
    for queue in hand:
        if not queue.load:
            return queue
        if queue.load < best.load:
            best = queue
    return best


def flow_hash(flow: str) -> int:
    """64 bits of a flow's name."""
    return int.from_bytes(hashlib.sha256(flow.encode()).digest()[:8], "little")


def deal(value: int, deck: int, size: int) -> list[int]:
    """``size`` different cards of ``deck``, each hand as likely as any other. Source: shufflesharding dealer.go."""
    if not deck:
        return []
    remainders: list[int] = []
    for n in range(min(size, deck)):
        value, rest = divmod(value, deck - n)
        remainders.append(rest)
    cards: list[int] = []
    for n, card in enumerate(remainders):
        for before in reversed(remainders[:n]):
            if card >= before:
                card += 1
        cards.append(card)
    return cards
