"""The store, but for where its bytes lie: ``sqlite`` and ``memory`` differ only in the ``Medium`` they put beneath.

The idea: everything is decided on the event loop, against one index in memory (``history``), so nothing here needs a
lock. Writers queue; one group at a time is decided in order and handed to the medium, which makes it durable off the
loop; then the whole group is shown, published and answered at once. While one group is on its way to the disk the next
one gathers, so the slower the fsync the more it answers.

    put ─┐                ┌─ RevisionMismatch, decided in its place in the group
    put ─┼─ queue ─ group ┤
    put ─┘                └─ medium.append ─ fsync ─ index ─ watchers ─ answers

A watch is a position in that log and nothing else. It has no buffer: one that waits is handed the group's events as
they commit, one that is behind reads the log where it stands. So a slow watcher costs nothing but its own delay; at
worst a compaction overtakes it, and it is told Compacted.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from typing import Protocol

from .base import (
    Compacted,
    Event,
    EventType,
    FutureRevision,
    KeyValue,
    Page,
    Revision,
    RevisionMismatch,
    StoreUnavailable,
)
from .history import History, Version

#: A row of the log: revision, key, create revision, deleted (0 or 1), value (None on a deletion).
Row = tuple[int, str, int, int, bytes | None]
Values = Mapping[Revision, bytes]

#: As a read's ``revision``: the newest.
NOW = Revision(0)
#: One group is at most so many writes, or so many bytes of values plus one.
GROUP_WRITES = 1024
GROUP_BYTES = 8 << 20
#: What a watch that is behind reads in one step: versions looked at, and events given.
SCAN_VERSIONS = 10_000
BATCH_EVENTS = 256
#: Revisions compacted in the index in one turn of the loop: about a millisecond.
COMPACT_VERSIONS = 2_000
#: Revisions forgotten in one transaction: some milliseconds of the writer's time.
FORGET_ROWS = 256
#: What one cached value costs beside its bytes.
CACHE_OVERHEAD_BYTES = 300


class Medium(Protocol):
    """Where the log is durable. Calls run in the order they were made, reads beside writes; each may raise StoreUnavailable."""

    def append(self, rows: Sequence[Row], wanted: Sequence[Revision]) -> asyncio.Future[Values]:
        """Make rows durable, all or none; answers with the values of the older revisions ``wanted``."""
        ...

    def read(self, revisions: Sequence[Revision]) -> Awaitable[Values]:
        """The values of revisions; those that were forgotten are missing."""
        ...

    def after(self, revision: Revision) -> asyncio.Future[Sequence[tuple[int, str, int, int]]]:
        """The log's durable rows after a revision, without values."""
        ...

    def mark_compacted(self, revision: Revision) -> Awaitable[None]: ...

    def forget(self, revisions: Sequence[Revision]) -> Awaitable[None]:
        """Drop rows and values; a bounded piece of work."""
        ...

    def reclaim(self) -> Awaitable[bool]:
        """Give a bounded piece of unused space back; False when there is none left to give."""
        ...

    async def close(self) -> None: ...


class _Write:
    """A put (or with no value a delete) on its way."""

    __slots__ = ("answer", "expected", "holds", "key", "value", "version")

    def __init__(self, key: str, value: bytes | None, expected: Revision | None, answer: asyncio.Future[bool]) -> None:
        self.key = key
        self.value = value
        self.expected = expected
        #: Set once the group is durable, with ``holds``: whether the key was at ``expected``.
        self.answer = answer
        self.holds = True
        #: What it became; stays None where nothing was to be written.
        self.version: Version | None = None


class _Waiter:
    """A watch that has seen everything up to ``position`` and waits for more."""

    __slots__ = ("arrived", "position", "prefix")

    def __init__(self, prefix: str, position: Revision, arrived: asyncio.Future[list[Event]]) -> None:
        self.prefix = prefix
        self.position = position
        #: Its next events; an empty list says "look again".
        self.arrived = arrived


class _Cache:
    """The values written or got last, by revision, up to a number of bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._used = 0
        self._values: OrderedDict[Revision, KeyValue] = OrderedDict()

    def get(self, revision: Revision) -> KeyValue | None:
        return self._values.get(revision)

    def add(self, kv: KeyValue) -> None:
        if kv.mod_revision in self._values:
            return
        self._values[kv.mod_revision] = kv
        self._used += len(kv.value) + CACHE_OVERHEAD_BYTES
        while self._used > self._limit:
            _, gone = self._values.popitem(last=False)
            self._used -= len(gone.value) + CACHE_OVERHEAD_BYTES

    def drop(self, revisions: Iterable[Revision]) -> None:
        for revision in revisions:
            gone = self._values.pop(revision, None)
            if gone is not None:
                self._used -= len(gone.value) + CACHE_OVERHEAD_BYTES


class LogStore:
    """A Store over a Medium; see ``base.Store`` for what its methods promise."""

    def __init__(
        self, medium: Medium, history: History, *, unforgotten: Sequence[Revision] = (), cache_bytes: int = 32 << 20
    ) -> None:
        self._medium = medium
        self._history = history
        self._cache = _Cache(cache_bytes)
        self._queue: deque[_Write] = deque()
        #: True from the moment a group is called for until it is answered: there is one at a time.
        self._busy = False
        #: A group failed, so what the medium holds must be read again before the next.
        self._doubtful = False
        self._closed = False
        self._idle: asyncio.Future[None] | None = None
        self._waiters: set[_Waiter] = set()
        self._compacting = asyncio.Lock()
        #: Compacted, but not yet forgotten by the medium.
        self._unforgotten: deque[Revision] = deque(unforgotten)

    @property
    def revision(self) -> Revision:
        return self._history.revision

    # Reading

    async def get(self, key: str, *, revision: Revision = NOW) -> KeyValue | None:
        while True:
            self._check_open()
            at = revision or self._history.revision
            self._history.check(at)
            version = self._history.get(key, at)
            if version is None:
                return None
            cached = self._cache.get(version.revision)
            if cached is not None:
                return cached
            found = await self._load([version])
            if version.revision in found:
                self._cache.add(found[version.revision])
                return found[version.revision]
            self._expect_forgotten(version, at)

    async def range(self, prefix: str, *, after: str = "", limit: int = 0, revision: Revision = NOW) -> Page:
        while True:
            self._check_open()
            at = revision or self._history.revision
            self._history.check(at)
            versions, remaining = self._history.range(prefix, after, limit, at)
            found = await self._load(versions)
            if len(found) == len(versions):
                return Page(tuple([found[version.revision] for version in versions]), at, remaining)
            self._expect_forgotten(next(version for version in versions if version.revision not in found), at)

    async def _load(self, versions: Iterable[Version]) -> dict[Revision, KeyValue]:
        """Join versions with their values; without waiting, where all are cached. Forgotten ones are missing."""
        found: dict[Revision, KeyValue] = {}
        absent: dict[Revision, Version] = {}
        for version in versions:
            cached = self._cache.get(version.revision)
            if cached is not None:
                found[version.revision] = cached
            else:
                absent[version.revision] = version
        if absent:
            for revision, value in (await self._medium.read(list(absent))).items():
                found[revision] = _key_value(absent[revision], value)
        return found

    def _expect_forgotten(self, version: Version, at: Revision) -> None:
        """A value is missing: that is right if a compaction came in between, else the medium is damaged."""
        if at >= self._history.compacted and self._history.get(version.key, at) is version:
            raise StoreUnavailable(f"{version.key}: the value of revision {version.revision} is missing")

    # Writing

    async def put(self, key: str, value: bytes, *, expected: Revision | None = None) -> KeyValue:
        write = await self._write(key, value, expected)
        assert write.version is not None
        return self._cache.get(write.version.revision) or _key_value(write.version, value)

    async def delete(self, key: str, *, expected: Revision | None = None) -> KeyValue | None:
        write = await self._write(key, None, expected)
        if write.version is None:
            return None
        if write.value is None:  # the group leaves the deleted value here
            raise StoreUnavailable(f"{key}: deleted, but its last value is missing")
        return _key_value(write.version, write.value)

    async def _write(self, key: str, value: bytes | None, expected: Revision | None) -> _Write:
        self._check_open()
        key.isascii() or key.encode()  # a lone surrogate is this writer's ValueError, not its group's
        write = _Write(key, value, expected, asyncio.get_running_loop().create_future())
        self._queue.append(write)
        if not self._busy:
            self._call_for_group()
        if not await write.answer:
            raise RevisionMismatch(key, await self.get(key))
        return write

    def _call_for_group(self) -> None:
        """Begin a group after every task that is ready now has had its turn: those just answered write again."""
        self._busy = True
        asyncio.get_running_loop().call_soon(self._begin_group)

    def _begin_group(self) -> None:
        if self._doubtful:
            self._medium.after(self._history.revision).add_done_callback(self._end_doubt)
            return
        group = self._take()
        rows, wanted = self._decide(group)
        if rows:
            self._medium.append(rows, wanted).add_done_callback(lambda done: self._end_group(group, done))
            return
        for write in group:
            _answer(write)
        self._next()

    def _take(self) -> list[_Write]:
        group: list[_Write] = []
        size = 0
        while self._queue and len(group) < GROUP_WRITES and size < GROUP_BYTES:
            write = self._queue.popleft()
            if not write.answer.done():  # given up while it waited
                group.append(write)
                size += len(write.value or b"")
        return group

    def _decide(self, group: Sequence[_Write]) -> tuple[list[Row], list[Revision]]:
        """Give each write whose expectation holds its revision; the rows, and replaced revisions that are not cached."""
        heads: dict[str, Version] = {}
        rows: list[Row] = []
        wanted: list[Revision] = []
        first = Revision(self._history.revision + 1)
        for write in group:
            head = heads.get(write.key) or self._history.head(write.key)
            live = head is not None and not head.deleted
            current = head.revision if head is not None and live else 0
            write.holds = write.expected is None or write.expected == current
            if not write.holds or (write.value is None and not live):
                continue
            version = Version(write.key, Revision(first + len(rows)), write.value is None, head)
            heads[write.key] = write.version = version
            rows.append((version.revision, write.key, version.create_revision, version.deleted, write.value))
            if 0 < current < first and self._cache.get(Revision(current)) is None:
                wanted.append(Revision(current))
        return rows, wanted

    def _end_group(self, group: Sequence[_Write], done: asyncio.Future[Values]) -> None:
        error = done.exception()
        if error is None:
            self._show(group, done.result())
            for write in group:
                _answer(write)
        else:
            self._doubtful = True
            _refuse(group, error)
        self._next()

    def _end_doubt(self, done: asyncio.Future[Sequence[tuple[int, str, int, int]]]) -> None:
        """After a failed group: take in what became durable all the same, then go on; or fail what waits, too."""
        error = done.exception()
        if error is not None:
            _refuse(self._take(), error)
            self._next()
            return
        for number, key, _, deleted in done.result():
            self._history.append(Version(key, Revision(number), bool(deleted), self._history.head(key)))
        self._doubtful = False
        self._wake_all()
        self._begin_group()

    def _show(self, group: Sequence[_Write], replaced: Values) -> None:
        """Take a durable group into the index, and publish it."""
        events: list[Event] = []
        fresh: dict[Revision, KeyValue] = {}
        for write in group:
            version = write.version
            if version is None:
                continue
            previous = self._previous(version.previous, fresh, replaced)
            self._history.append(version)
            kv = _key_value(version, write.value or b"")
            if version.deleted:
                write.value = previous.value if previous is not None else None
                events.append(Event(EventType.DELETE, kv, previous))
            else:
                fresh[version.revision] = kv
                events.append(Event(EventType.PUT, kv, previous))
        for kv in fresh.values():
            self._cache.add(kv)
        if events:
            self._publish(events)

    def _previous(self, old: Version | None, fresh: Mapping[Revision, KeyValue], replaced: Values) -> KeyValue | None:
        """What a write replaced. None too where that value is damaged: the key can be written over, or deleted."""
        if old is None:
            return None
        if old.revision in replaced:
            return _key_value(old, replaced[old.revision])
        return fresh.get(old.revision) or self._cache.get(old.revision)

    def _next(self) -> None:
        self._busy = False
        if self._queue:
            self._call_for_group()
        elif self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    # Watching

    def watch(self, prefix: str, *, after: Revision) -> AsyncIterator[Sequence[Event]]:
        return self._watch(prefix, after)

    async def _watch(self, prefix: str, position: Revision) -> AsyncIterator[Sequence[Event]]:
        while not self._closed:
            if position < self._history.revision:
                position, events = await self._read_log(prefix, position)
            else:
                position, events = await self._wait(prefix, position)
            if events:
                yield events

    async def _read_log(self, prefix: str, position: Revision) -> tuple[Revision, list[Event]]:
        """The next events after a position in the past, and the position that they reach."""
        if position < self._history.compacted:
            raise Compacted(self._history.compacted)
        versions: list[Version] = []
        for version in self._history.since(position, SCAN_VERSIONS):
            position = version.revision
            if version.key.startswith(prefix):
                versions.append(version)
                if len(versions) == BATCH_EVENTS:
                    break
        if not versions:
            await asyncio.sleep(0)
            return position, []
        pairs = [(version, version.previous) for version in versions]  # compaction cuts ``previous`` while we load
        puts = [version for version in versions if not version.deleted]
        found = await self._load([*puts, *(previous for _, previous in pairs if previous is not None)])
        missing = [version.revision for version in puts if version.revision not in found]
        if missing and missing[-1] > self._history.compacted:
            raise StoreUnavailable(f"the value of revision {missing[-1]} is missing")
        if missing:
            raise Compacted(self._history.compacted)
        return position, [_event(version, previous, found) for version, previous in pairs]

    async def _wait(self, prefix: str, position: Revision) -> tuple[Revision, list[Event]]:
        waiter = _Waiter(prefix, position, asyncio.get_running_loop().create_future())
        self._waiters.add(waiter)
        try:
            events = await waiter.arrived
        finally:
            self._waiters.discard(waiter)
        return waiter.position, events

    def _publish(self, events: Sequence[Event]) -> None:
        """Hand a group to the watches that wait for it; move the others past it."""
        newest = events[-1].revision
        for waiter in list(self._waiters):
            prefix, position = waiter.prefix, waiter.position
            matching = [
                event for event in events if event.kv.key.startswith(prefix) and event.kv.mod_revision > position
            ]
            waiter.position = max(position, newest)
            if matching:
                self._waiters.discard(waiter)
                if not waiter.arrived.done():
                    waiter.arrived.set_result(matching)

    def _wake_all(self) -> None:
        for waiter in self._waiters:
            if not waiter.arrived.done():
                waiter.arrived.set_result([])
        self._waiters.clear()

    # Compacting and closing

    async def compact(self, revision: Revision) -> None:
        self._check_open()
        if revision > self._history.revision:
            raise FutureRevision(self._history.revision)
        async with self._compacting:
            if revision > self._history.compacted:
                await self._medium.mark_compacted(revision)
                while self._history.compacted < revision:
                    dead = self._history.compact(Revision(min(revision, self._history.compacted + COMPACT_VERSIONS)))
                    self._cache.drop(dead)
                    self._unforgotten.extend(dead)
                    await asyncio.sleep(0)
            while self._unforgotten and not self._closed:
                batch = [self._unforgotten[n] for n in range(min(FORGET_ROWS, len(self._unforgotten)))]
                await self._medium.forget(batch)
                for _ in batch:
                    self._unforgotten.popleft()
            while not self._closed and await self._medium.reclaim():
                pass

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._wake_all()
        if self._busy:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle
        async with self._compacting:  # ends after the batch under way
            await self._medium.close()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")


def _key_value(version: Version, value: bytes) -> KeyValue:
    return KeyValue(version.key, value, version.create_revision, version.revision)


def _event(version: Version, previous: Version | None, found: Mapping[Revision, KeyValue]) -> Event:
    old = found.get(previous.revision) if previous is not None else None
    if version.deleted:
        return Event(EventType.DELETE, _key_value(version, b""), old)
    return Event(EventType.PUT, found[version.revision], old)


def _answer(write: _Write) -> None:
    if not write.answer.done():
        write.answer.set_result(write.holds)


def _refuse(group: Sequence[_Write], error: BaseException) -> None:
    for write in group:
        if not write.answer.done():
            refusal = StoreUnavailable(str(error))
            refusal.__cause__ = error
            write.answer.set_exception(refusal)
