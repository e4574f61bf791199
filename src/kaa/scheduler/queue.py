"""Pods waiting for a node: active, backing off, unschedulable, or gated. A pod is in exactly one of them, or in flight.

The idea: a pod that fits nowhere waits for an event that may change that: each plugin names the events that may help pods
it refused. The wait after failures doubles from 1 s to 10 s. What no event wakes is tried again after 5 minutes.

    entry = queue.pop()              # highest priority, then longest waiting; None: nothing is due
    queue.reject(entry, plugins)     # fits nowhere; plugins refused it
    queue.wake(ClusterEvent.POD_DELETE)
    queue.done(entry)                # placed

Source: kubernetes/kubernetes pkg/scheduler/backend/queue.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

from kaa.api.clock import Clock
from kaa.api.types.core_v1 import Pod
from kaa.client.workqueue import Key

from .framework import ClusterEvent, Plugin
from .template import Template

#: Events remembered for pods in flight; a pod that missed more is woken to be sure.
EVENTS_MAX = 1024


class Place(Enum):
    ACTIVE = auto()
    BACKOFF = auto()
    UNSCHEDULABLE = auto()
    GATED = auto()
    IN_FLIGHT = auto()


@dataclass(eq=False, slots=True)
class Entry:
    """A pod and its history in the queue. ``since`` is when it came into the place where it is."""

    key: Key
    pod: Pod
    template: Template
    since: float
    place: Place = Place.ACTIVE
    attempts: int = 0
    woken_by: frozenset[ClusterEvent] = frozenset()
    seen: int = 0  #: events there had been when it was taken
    held_by: Hashable = None  #: what it waits for before it may be looked at
    ticket: int = 0  #: voids older places in the heaps
    due: float = field(default=0.0)


class SchedulingQueue:
    """Bounded by the pods there are."""

    def __init__(
        self,
        clock: Clock,
        *,
        awaited: Callable[[Pod], Hashable] = lambda pod: None,
        initial_backoff_s: float = 1.0,
        max_backoff_s: float = 10.0,
        flush_s: float = 300.0,
    ) -> None:
        """``awaited``: what a pod waits for before it may be looked at; None for nothing (upstream: PreEnqueue)."""
        self._clock, self._awaited = clock, awaited
        self._initial_s, self._max_s, self._flush_s = initial_backoff_s, max_backoff_s, flush_s
        self._entries: dict[Key, Entry] = {}
        self._active: list[tuple[int, float, int, Entry]] = []
        self._backoff: list[tuple[float, int, Entry]] = []
        self._unschedulable: dict[Key, Entry] = {}  #: oldest first
        self._held: dict[Hashable, dict[Key, Entry]] = {}  #: {what they wait for: gated pods}
        self._tickets = itertools.count(1)
        self._events: deque[ClusterEvent] = deque(maxlen=EVENTS_MAX)
        self._event_count = 0
        self.changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, key: Key) -> Entry | None:
        return self._entries.get(key)

    def place_of(self, key: Key) -> Place | None:
        entry = self._entries.get(key)
        return entry.place if entry else None

    def counts(self) -> dict[Place, int]:
        """Pods in each place: what ``scheduler_pending_pods`` shows."""
        found = dict.fromkeys(Place, 0)
        for entry in self._entries.values():
            found[entry.place] += 1
        return found

    # ----------------------------------------------------------------------------------------------- pods

    def add(self, pod: Pod, template: Template) -> None:
        """A pod without a node, new or changed."""
        key = Key(pod.metadata.namespace or "", pod.metadata.name or "")
        entry = self._entries.get(key)
        if entry is None or entry.pod.metadata.uid != pod.metadata.uid:
            self.remove(key)
            entry = self._entries[key] = Entry(key, pod, template, self._clock.monotonic())
            self._place_new(entry)
            return
        changed = entry.template is not template
        entry.pod, entry.template = pod, template
        if entry.place is Place.GATED:
            self._place_new(entry)
        elif changed and entry.place is Place.UNSCHEDULABLE:
            self._retry(entry)
        elif changed and entry.place is Place.ACTIVE:
            self._activate(entry)

    def _place_new(self, entry: Entry) -> None:
        held_by = self._awaited(entry.pod)
        if held_by is None and not entry.pod.spec.scheduling_gates:
            self._activate(entry)
            return
        self._move(entry, Place.GATED)
        if held_by is not None:
            entry.held_by = held_by
            self._held.setdefault(held_by, {})[entry.key] = entry

    def release(self, what: Hashable) -> None:
        """What pods were waiting for is there."""
        for entry in list(self._held.get(what, {}).values()):
            self._place_new(entry)

    def remove(self, key: Key) -> None:
        """The pod is gone, or has a node."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            entry.ticket = 0
            self._unschedulable.pop(key, None)
            self._let_go(entry)

    def knows(self, entry: Entry) -> bool:
        """Whether it is still wanted: its pod was neither deleted nor replaced meanwhile."""
        return self._entries.get(entry.key) is entry

    # ------------------------------------------------------------------------------------------- a try

    def pop(self) -> Entry | None:
        self._move_due()
        while self._active:
            _, _, ticket, entry = heapq.heappop(self._active)
            if entry.ticket == ticket:
                self._move(entry, Place.IN_FLIGHT)
                entry.attempts += 1
                entry.seen = self._event_count
                return entry
        return None

    def done(self, entry: Entry) -> None:
        if self.knows(entry):
            self.remove(entry.key)

    def reject(self, entry: Entry, plugins: Iterable[Plugin], *, also: Iterable[ClusterEvent] = ()) -> None:
        """It fits nowhere. An event since it was taken that may help makes it wait its backoff only."""
        if not self.knows(entry):
            return
        woken_by: set[ClusterEvent] = set(also)
        for plugin in plugins:
            woken_by |= plugin.events
        entry.woken_by = frozenset(woken_by)
        self._move(entry, Place.UNSCHEDULABLE)
        if self._missed(entry):
            self._retry(entry)
        else:
            self._unschedulable[entry.key] = entry
            self.changed.set()

    def _missed(self, entry: Entry) -> bool:
        missed = self._event_count - entry.seen
        if missed > len(self._events):
            return True
        recent = itertools.islice(reversed(self._events), missed)
        return any(not entry.woken_by or event in entry.woken_by for event in recent)

    def failed(self, entry: Entry) -> None:
        """Something went wrong that has nothing to do with the pod: try again after its backoff."""
        if self.knows(entry):
            self._move(entry, Place.BACKOFF)
            self._retry(entry)

    # -------------------------------------------------------------------------------------------- waking

    def wake(self, event: ClusterEvent, concerned: Callable[[Template], bool] | None = None) -> None:
        """Something happened: pods it may help (``concerned``, if given, says whom else than the event does) are tried
        again, after what is left of their backoff."""
        self._event_count += 1
        self._events.append(event)
        for entry in [e for e in self._unschedulable.values() if not e.woken_by or event in e.woken_by]:
            if concerned is None or concerned(entry.template):
                self._retry(entry)

    def next_due(self) -> float | None:
        """When ``pop`` may have something that it has not now (monotonic); None: not by time alone."""
        while self._backoff and self._backoff[0][2].ticket != self._backoff[0][1]:
            heapq.heappop(self._backoff)
        moments = [self._backoff[0][0]] if self._backoff else []
        if self._unschedulable:
            moments.append(next(iter(self._unschedulable.values())).since + self._flush_s)
        return min(moments, default=None)

    def _move_due(self) -> None:
        now = self._clock.monotonic()
        while self._backoff and self._backoff[0][0] <= now:
            _, ticket, entry = heapq.heappop(self._backoff)
            if entry.ticket == ticket:
                self._activate(entry)
        for entry in list(itertools.islice(self._unschedulable.values(), 1)):
            if entry.since + self._flush_s <= now:
                self._flush(now)

    def _flush(self, now: float) -> None:
        for entry in [e for e in self._unschedulable.values() if e.since + self._flush_s <= now]:
            self._retry(entry)

    def backoff_s(self, attempts: int) -> float:
        """1, 2, 4, 8, 10, 10 …"""
        return min(self._initial_s * 2.0 ** min(max(attempts - 1, 0), 32), self._max_s)

    def _retry(self, entry: Entry) -> None:
        """To the active queue, or first to the backoff queue. The wait counts from when the pod was refused."""
        due = entry.since + self.backoff_s(entry.attempts)
        if due <= self._clock.monotonic():
            self._activate(entry)
            return
        since = entry.since
        self._move(entry, Place.BACKOFF)
        entry.since, entry.due = since, due
        heapq.heappush(self._backoff, (due, entry.ticket, entry))
        self.changed.set()

    def _activate(self, entry: Entry) -> None:
        self._move(entry, Place.ACTIVE)
        heapq.heappush(self._active, (-entry.template.priority, entry.since, entry.ticket, entry))
        self.changed.set()

    def _let_go(self, entry: Entry) -> None:
        """It waits for nothing."""
        waiting = self._held.get(entry.held_by, {})
        waiting.pop(entry.key, None)
        if not waiting:
            self._held.pop(entry.held_by, None)
        entry.held_by = None

    def _move(self, entry: Entry, place: Place) -> None:
        self._unschedulable.pop(entry.key, None)
        if entry.held_by is not None:
            self._let_go(entry)
        entry.place, entry.ticket, entry.since = place, next(self._tickets), self._clock.monotonic()
