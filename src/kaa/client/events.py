"""Events for people: what a component did, to which object, said once and counted after.

``recorder.event(obj, "Normal", "SuccessfulCreate", "Created pod: web-0")`` never waits and never fails: it corrects for
repetition at once and leaves writing to ``run``. The idea is upstream's correlation (client-go tools/record):

- the same thing said again raises ``count`` of the event that stands;
- more than ten different messages of one reason about one object within ten minutes become one,
  ``(combined from similar events): …``;
- more than 25 events about one object in a burst, then more than one in five minutes, are dropped;
- what does not fit in the queue is dropped.

Ours: in a burst, a cluster's components write their events, all but the first ``AT_ONCE`` a second, once they have been quiet for
``QUIET_S``, and ``LATE_S`` late at most, which is what upstream's limit of requests makes of such a burst. Events are for people:
what they tell of comes first, and what is said twice meanwhile is written once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import structlog

from kaa.api.clock import Clock, format_time
from kaa.api.errors import ApiError, NotFound
from kaa.api.types.core_v1 import Event, EventSource, ObjectReference
from kaa.api.types.meta_v1 import ObjectMeta

from .client import Client, PatchType
from .pace import Lull, Rate

log = structlog.get_logger(__name__)

QUEUE_LIMIT = 1000
LATE_S, QUIET_S, AT_ONCE = 3.0, 0.5, 10
CACHE_LIMIT = 4096
SIMILAR_LIMIT, SIMILAR_WINDOW_S = 10, 600.0
COMBINED = "(combined from similar events): "
SPAM_BURST, SPAM_PER_S = 25.0, 1 / 300
TRIES, TRY_AGAIN_S = 12, 10.0

K = TypeVar("K")
V = TypeVar("V")


def reference_to(obj: Any) -> ObjectReference:
    """What an Event says of the object it is about."""
    if isinstance(obj, ObjectReference):
        return obj
    meta = obj.metadata
    return ObjectReference(
        kind=obj.KIND,
        api_version=obj.API_VERSION,
        namespace=meta.namespace or None,
        name=meta.name,
        uid=meta.uid,
        resource_version=meta.resource_version,
    )


class _Recent(Generic[K, V]):
    """A dict that forgets what was longest unused."""

    def __init__(self) -> None:
        self._kept: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, key: K, value: V) -> V:
        self._kept[key] = value
        self._kept.move_to_end(key)
        if len(self._kept) > CACHE_LIMIT:
            self._kept.popitem(last=False)
        return value


@dataclass(slots=True)
class _Similar:
    """Different messages of one reason about one object."""

    messages: set[str] = field(default_factory=set)
    last: float = 0.0


@dataclass(slots=True)
class _Said:
    """One event as it stands, or will once written."""

    reference: ObjectReference
    type: str
    reason: str
    message: str
    first: float
    last: float
    count: int = 1
    name: str = ""  #: empty until the server has it
    queued: bool = False
    late: bool = False  #: comes in a burst
    since: float = 0.0  #: when it was queued, by the monotonic clock
    annotations: dict[str, str] = field(default_factory=dict)


class EventRecorder:
    """The events of one component. ``run`` writes them; ``host`` is the node's name where the component has one."""

    def __init__(
        self,
        client: Client,
        clock: Clock,
        component: str,
        *,
        host: str = "",
        pace: tuple[int, int] = (0, 0),
        late_s: float = 0.0,
    ) -> None:
        """``pace``: how many requests a second may be made, and how many at once after a rest; 0: as many as there are.

        ``late_s``: how long each may be kept back in a burst.
        """
        per_second, burst = pace
        self._pace = Rate(clock, per_second, max(burst, 1))
        self._at_once, self._lull = Rate(clock, AT_ONCE if late_s else 0, AT_ONCE), Lull(clock, QUIET_S, late_s)
        self._client, self._clock = client, clock
        self._component, self._host = component, host
        self._queue: deque[_Said] = deque()
        self._wake = asyncio.Event()
        self._similar: _Recent[tuple[str, ...], _Similar] = _Recent()
        self._said: _Recent[tuple[str, ...], _Said] = _Recent()
        self._spam: _Recent[tuple[str, ...], Rate] = _Recent()
        self._written = 0
        self.dropped = 0

    def event(
        self, obj: Any, type: str, reason: str, message: str, *, annotations: dict[str, str] | None = None
    ) -> None:
        """Record that something happened to an object (or to what an ObjectReference names)."""
        reference, now = reference_to(obj), self._clock.now()
        about = tuple(
            word or ""
            for word in (
                reference.kind,
                reference.namespace,
                reference.name,
                reference.uid,
                reference.api_version,
                reference.field_path,
            )
        )
        message = self._combined((*about, type, reason), message, now)
        allowed = self._spam.get(about) or self._spam.put(about, Rate(self._clock, SPAM_PER_S, SPAM_BURST))
        if not allowed.take():
            self.dropped += 1
            return
        key = (*about, type, reason, message[: len(COMBINED)] if message.startswith(COMBINED) else message)
        said = self._said.get(key)
        if said is None:
            said = self._said.put(key, _Said(reference, type, reason, message, now, now, 0))
        said.count += 1
        said.last, said.message = now, message
        said.annotations = annotations or said.annotations
        self._enqueue(said)

    def _combined(self, key: tuple[str, ...], message: str, now: float) -> str:
        similar = self._similar.get(key)
        if similar is None or now - similar.last > SIMILAR_WINDOW_S:
            similar = self._similar.put(key, _Similar())
        similar.last = now
        similar.messages.add(message)
        if len(similar.messages) < SIMILAR_LIMIT:
            return message
        similar.messages.pop()
        return COMBINED + message

    def _enqueue(self, said: _Said) -> None:
        self._lull.stir()
        if said.queued:
            return
        if len(self._queue) >= QUEUE_LIMIT:
            self.dropped += 1
            return
        said.queued, said.late, said.since = True, not self._at_once.take(), self._clock.monotonic()
        self._queue.append(said)
        self._wake.set()

    async def run(self) -> None:
        """Write what was recorded, until cancelled."""
        while True:
            while self._queue:
                if self._queue[0].late:
                    await self._lull.wait(self._queue[0].since)
                said = self._queue.popleft()
                said.queued = False
                if (wait_s := self._pace.wait_s()) > 0:
                    await self._clock.sleep(wait_s)
                await self._write_surely(said)
            self._wake.clear()
            await self._wake.wait()

    async def flush(self) -> None:
        """Write what waits, once: for the end of a component."""
        while self._queue:
            said = self._queue.popleft()
            said.queued = False
            await self._write(said)

    async def _write_surely(self, said: _Said) -> None:
        """Write one; a server that cannot be reached is tried again, one that says no is believed."""
        for _ in range(TRIES):
            try:
                await self._write(said)
                return
            except ApiError as err:
                log.debug("event refused", reason=said.reason, error=str(err))
                return
            except (OSError, TimeoutError) as err:
                log.warning("event not written", reason=said.reason, error=str(err))
                await self._clock.sleep(TRY_AGAIN_S)

    async def _write(self, said: _Said) -> None:
        if said.name:
            patch = {"count": said.count, "lastTimestamp": format_time(said.last), "message": said.message}
            try:
                await self._client.patch(
                    Event, said.name, patch, said.reference.namespace or "default", type=PatchType.STRATEGIC
                )
                return
            except NotFound:  # the server forgot it: events live an hour
                said.first, said.count, said.name = said.last, 1, ""
        made = self._event_of(said)
        await self._client.create(made)
        said.name = made.metadata.name or ""

    def _event_of(self, said: _Said) -> Event:
        self._written += 1
        stamp = int(said.first * 1e9) + self._written
        return Event(
            metadata=ObjectMeta(
                name=f"{said.reference.name}.{stamp:x}",
                namespace=said.reference.namespace or "default",
                annotations=said.annotations,
            ),
            involved_object=said.reference,
            reason=said.reason,
            message=said.message,
            source=EventSource(component=self._component, host=self._host or None),
            first_timestamp=format_time(said.first),
            last_timestamp=format_time(said.last),
            count=said.count,
            type=said.type,
            reporting_component=self._component,
            reporting_instance=self._host,
        )
