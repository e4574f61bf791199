"""A queue of keys to work on: each key once, one worker at a time on a key, failures later and later.

The idea: a key in the queue means "look again"; adding it twice before a worker takes it is one look, adding it while a
worker holds it is one more look after.

    async with queue.claim() as claim:
        try:
            await reconcile(claim.key)
            claim.done()
        except Exception as err:
            claim.retry(err)
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Generic, NamedTuple, TypeVar

from kaa.api.clock import Clock

K = TypeVar("K", bound=Hashable)


class Key(NamedTuple):
    """An object's namespace (empty for cluster-scoped ones) and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Claim(Generic[K]):
    """A key while one worker holds it. Say ``done`` or ``retry``; saying nothing is ``retry``."""

    def __init__(self, queue: WorkQueue[K], key: K) -> None:
        self.key = key
        self.settled = False
        self._queue = queue

    def done(self, again_after_s: float | None = None) -> None:
        """The key is as it should be; look again after some seconds, if given."""
        self.settled = True
        self._queue.forget(self.key)
        if again_after_s is not None:
            self._queue.add_after(self.key, again_after_s)

    def retry(self, error: BaseException | None = None) -> None:
        """Look again after a wait that doubles with every failure in a row."""
        self.settled = True
        self._queue.add_failed(self.key)


class WorkQueue(Generic[K]):
    """Bounded by its distinct keys. ``base_s`` and ``max_s`` frame the wait after failures (upstream: 5 ms to 1000 s)."""

    def __init__(self, clock: Clock, *, base_s: float = 0.005, max_s: float = 1000.0) -> None:
        self._clock = clock
        self._base_s, self._max_s = base_s, max_s
        self._ready: deque[K] = deque()
        self._queued: set[K] = set()
        self._held: set[K] = set()
        self._dirty: set[K] = set()  #: added while held
        self._failures: dict[K, int] = {}
        self._due: dict[K, float] = {}  #: {key: earliest moment it is wanted again}
        self._later: list[tuple[float, int, K]] = []
        self._order = itertools.count()
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._ready)

    def add(self, key: K) -> None:
        self._due.pop(key, None)
        if key in self._held:
            self._dirty.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._ready.append(key)
            self._wake.set()

    def add_after(self, key: K, seconds: float) -> None:
        """Add it then; an earlier wish for the same key wins."""
        if seconds <= 0:
            self.add(key)
            return
        due = self._clock.monotonic() + seconds
        if self._due.get(key, float("inf")) <= due:
            return
        self._due[key] = due
        first = not self._later or due < self._later[0][0]
        heapq.heappush(self._later, (due, next(self._order), key))
        if first:
            self._changed.set()
        if len(self._later) > 2 * len(self._due) + 64:
            self._drop_stale()

    def add_failed(self, key: K) -> None:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        self.add_after(key, min(self._base_s * 2 ** min(failures, 60), self._max_s))

    def forget(self, key: K) -> None:
        """Its failures are over."""
        self._failures.pop(key, None)

    def failures(self, key: K) -> int:
        return self._failures.get(key, 0)

    async def run(self) -> None:
        """Move keys whose time has come; lives until cancelled. Without it ``add_after`` never fires."""
        while True:
            self._move_due()
            self._changed.clear()
            if not self._later:
                await self._changed.wait()
                continue
            await self._wait_until(self._later[0][0])

    async def _wait_until(self, due: float) -> None:
        sleeping = asyncio.ensure_future(self._clock.sleep(max(0.0, due - self._clock.monotonic())))
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait((sleeping, changed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            changed.cancel()

    def _drop_stale(self) -> None:
        """Throw out wishes that an earlier one, or an ``add``, has overtaken: the heap stays as small as its keys."""
        self._later = [wish for wish in self._later if self._due.get(wish[2]) == wish[0]]
        heapq.heapify(self._later)

    def _move_due(self) -> None:
        now = self._clock.monotonic()
        while self._later and self._later[0][0] <= now:
            due, _, key = heapq.heappop(self._later)
            if self._due.get(key) == due:
                self.add(key)

    @asynccontextmanager
    async def claim(self) -> AsyncIterator[Claim[K]]:
        """Wait for a key and hold it until the block ends."""
        while not self._ready:
            self._wake.clear()
            await self._wake.wait()
        key = self._ready.popleft()
        self._queued.discard(key)
        self._held.add(key)
        claim = Claim(self, key)
        try:
            yield claim
        finally:
            self._held.discard(key)
            if not claim.settled:
                claim.retry()
            if key in self._dirty:
                self._dirty.discard(key)
                self.add(key)
