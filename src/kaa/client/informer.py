"""A cache of one kind, kept true by list and watch, with handlers and read-only lookups.

The idea: the cache is always *a* state the server was in, and moves only forward. A watch that breaks is taken up where
it ended; one that is too old starts over with a list, and whatever differs becomes events, so handlers miss nothing.

    pods = Informer(client, Pod, clock)
    pods.add_handler(lambda old, new: queue.add(key_of(new or old)))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(pods.run())
        await pods.synced.wait()

Whoever writes and then decides from the cache waits until the cache shows its writes: ``shows`` and ``gone``. That is what
upstream calls expectations, without the counting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import structlog

from kaa.api import scheme
from kaa.api.clock import Clock
from kaa.api.errors import ApiError, Expired, NotFound
from kaa.api.resources import Resource
from kaa.api.selectors import Selector

from .client import Client, Kind, WatchType
from .workqueue import Key

T = TypeVar("T")
log = structlog.get_logger(__name__)

#: Called with (old, new): old None on arrival, new None on removal. Must not block and must not raise.
Handler = Callable[[T | None, T | None], None]
#: The words under which an object is found in an index.
Indexer = Callable[[T], Iterable[str]]


def key_of(obj: Any) -> Key:
    return Key(obj.metadata.namespace or "", obj.metadata.name or "")


class Lister(Generic[T]):
    """Read-only lookups on a cache. What it returns is shared: objects are immutable."""

    def __init__(self) -> None:
        self._objects: dict[Key, T] = {}
        self._by_namespace: dict[str, dict[str, T]] = {}
        self._indexers: dict[str, Indexer[T]] = {}
        self._indexes: dict[str, dict[str, dict[Key, T]]] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._objects.values()))

    def get(self, name: str, namespace: str | None = None) -> T | None:
        return self._objects.get(Key(namespace or "", name))

    def by_key(self, key: Key) -> T | None:
        return self._objects.get(key)

    def in_namespace(self, namespace: str, selector: Selector | None = None) -> list[T]:
        found = self._by_namespace.get(namespace, {}).values()
        if selector is None:
            return list(found)
        return [obj for obj in found if selector.matches(obj.metadata.labels)]  # type: ignore[attr-defined]

    def by_index(self, index: str, word: str) -> list[T]:
        """The objects that an indexer filed under a word."""
        return list(self._indexes[index].get(word, {}).values())

    def count(self, index: str, word: str) -> int:
        """How many ``by_index`` would return, without making the list."""
        return len(self._indexes[index].get(word, ()))

    def _put(self, obj: T) -> T | None:
        key = key_of(obj)
        old = self._objects.get(key)
        if old is not None:
            self._unindex(key, old)
        self._objects[key] = obj
        self._by_namespace.setdefault(key.namespace, {})[key.name] = obj
        for index, indexer in self._indexers.items():
            for word in indexer(obj):
                self._indexes[index].setdefault(word, {})[key] = obj
        return old

    def _remove(self, key: Key) -> T | None:
        old = self._objects.pop(key, None)
        if old is not None:
            self._unindex(key, old)
            names = self._by_namespace[key.namespace]
            del names[key.name]
            if not names:
                del self._by_namespace[key.namespace]
        return old

    def _unindex(self, key: Key, old: T) -> None:
        for index, indexer in self._indexers.items():
            words = self._indexes[index]
            for word in indexer(old):
                filed = words.get(word)
                if filed is not None:
                    filed.pop(key, None)
                    if not filed:
                        del words[word]


class Informer(Lister[T]):
    """A Lister that keeps itself true. Share one per kind and process: ``Informers`` does."""

    RETRY_S = 1.0
    RETRY_MAX_S = 30.0
    #: A watch that ended before this many seconds and showed nothing is a failure, not an ending.
    SHORT_WATCH_S = 1.0

    def __init__(
        self,
        client: Client,
        kind: Kind[T],
        clock: Clock,
        *,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
        indexers: Mapping[str, Indexer[T]] | None = None,
        keep: Callable[[Any], T] | None = None,
    ) -> None:
        """``keep`` makes of an object what the cache holds of it; it must have ``metadata`` with name and version."""
        super().__init__()
        self._client, self._kind, self._clock = client, kind, clock
        self._namespace = namespace
        self._labels, self._fields = label_selector, field_selector
        self._keep = keep
        self._handlers: list[Handler[T]] = []
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self.synced = asyncio.Event()
        self.resource_version = ""
        self._reached = 0
        for name, indexer in (indexers or {}).items():
            self.add_index(name, indexer)

    def add_handler(self, handler: Handler[T]) -> None:
        """Objects that are in the cache already arrive at once."""
        self._handlers.append(handler)
        for obj in self:
            handler(None, obj)

    def add_index(self, name: str, indexer: Indexer[T]) -> None:
        if name in self._indexers:
            return
        self._indexers[name] = indexer
        words: dict[str, dict[Key, T]] = {}
        for key, obj in self._objects.items():
            for word in indexer(obj):
                words.setdefault(word, {})[key] = obj
        self._indexes[name] = words

    async def shows(self, resource_version: str | None, *, timeout_s: float = 30.0) -> None:
        """Wait until the cache has come as far as a version that a write returned. Raises TimeoutError.

        Versions of one resource compare as numbers (KEP-5504).
        """
        wanted = int(resource_version or 0)
        await self._until(lambda: self._reached >= wanted, timeout_s)

    async def gone(self, objects: Iterable[T], *, timeout_s: float = 30.0) -> None:
        """Wait until the cache shows each object deleted, replaced, or on its way out. Raises TimeoutError."""
        pending = [(key_of(obj), obj.metadata.uid) for obj in objects]  # type: ignore[attr-defined]

        def leaving() -> bool:
            while pending and self._leaves(*pending[-1]):
                pending.pop()
            return not pending

        await self._until(leaving, timeout_s)

    def _leaves(self, key: Key, uid: str | None) -> bool:
        found: Any = self._objects.get(key)
        return found is None or found.metadata.uid != uid or found.metadata.deletion_timestamp is not None

    async def _until(self, true: Callable[[], bool], timeout_s: float) -> None:
        if true():
            return
        waiter = (true, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter[1]
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    def _advance(self, resource_version: str) -> None:
        self.resource_version = resource_version
        if resource_version.isdecimal():
            self._reached = max(self._reached, int(resource_version))
        if self._waiting:
            self._wake()

    def _wake(self) -> None:
        still = []
        for true, woken in self._waiting:
            if woken.done():
                continue
            if true():
                woken.set_result(None)
            else:
                still.append((true, woken))
        self._waiting = still

    async def run(self) -> None:
        """Keep the cache true until cancelled."""
        failures = 0
        while True:
            try:
                if not self.resource_version:
                    await self._relist()
                started, before = self._clock.monotonic(), self.resource_version
                await self._follow()
                if self.resource_version == before and self._clock.monotonic() - started < self.SHORT_WATCH_S:
                    raise TimeoutError("the watch ended at once")
                failures = 0
            except Expired:
                self.resource_version = ""
            except (ApiError, OSError, TimeoutError) as err:
                if isinstance(err, NotFound):  # not served, or not yet: there are none of its kind
                    self._empty()
                failures += 1
                log.warning("list or watch failed", kind=_word(self._kind), error=str(err), failures=failures)
                await self._clock.sleep(min(self.RETRY_S * 2 ** (failures - 1), self.RETRY_MAX_S))

    def _empty(self) -> None:
        for key in list(self._objects):
            self._forget(key)
        self.resource_version = ""
        self.synced.set()

    async def _relist(self) -> None:
        listing = await self._client.list(
            self._kind,
            self._namespace,
            label_selector=self._labels,
            field_selector=self._fields,
            resource_version="" if self.synced.is_set() else "0",
        )
        listed = {key_of(obj) for obj in listing.items}
        for key in [key for key in self._objects if key not in listed]:
            self._forget(key)
        for obj in listing.items:
            self._see(obj)
        self.synced.set()
        self._advance(listing.resource_version)

    async def _follow(self) -> None:
        watch = self._client.watch(
            self._kind,
            self._namespace,
            label_selector=self._labels,
            field_selector=self._fields,
            resource_version=self.resource_version,
        )
        try:
            async for event in watch:
                if event.object is not None:
                    if event.type is WatchType.DELETED:
                        self._forget(key_of(event.object), event.object)
                    else:
                        self._see(event.object)
                self._advance(event.resource_version or self.resource_version)
        finally:
            close = getattr(watch, "aclose", None)
            if close is not None:
                await close()

    def _see(self, seen: T) -> None:
        obj = seen if self._keep is None else self._keep(seen)
        old = self._objects.get(key_of(obj))
        if old is not None and _version(old) == _version(obj):
            return
        if old is not None and _uid(old) != _uid(obj):  # a relist met a name that has been taken anew
            self._forget(key_of(old))
            old = None
        self._put(obj)
        for handler in self._handlers:
            handler(old, obj)

    def _forget(self, key: Key, last: T | None = None) -> None:
        old = self._remove(key)
        if old is not None:
            if last is not None and self._keep is not None:
                last = self._keep(last)
            for handler in self._handlers:
                handler(last if last is not None else old, None)


def _version(obj: Any) -> str:
    return obj.metadata.resource_version or ""


def _uid(obj: Any) -> str:
    return obj.metadata.uid or ""


def _word(kind: Any) -> str:
    return scheme.resource_of(kind).group_resource


class Informers:
    """The informers of one process: one a kind, started together."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client, self._clock = client, clock
        self._made: dict[Resource[Any], Informer[Any]] = {}
        self._running: dict[Resource[Any], asyncio.Task[None]] = {}
        self._tasks: asyncio.TaskGroup | None = None

    def of(self, kind: Kind[T], *, keep: Callable[[Any], Any] | None = None) -> Informer[T]:
        """The informer of a kind, made on first call; running already if ``run`` is.

        ``keep`` counts only if this call makes it: who can do with less shares what there is. The other way round is an
        error: who needs whole objects must ask first.
        """
        resource: Resource[T] = scheme.resource_of(kind)
        found = self._made.get(resource)
        if found is None:
            found = self._made[resource] = Informer(self._client, kind, self._clock, keep=keep)
            if self._tasks is not None:
                self._start(resource)
        assert keep is not None or found._keep is None, f"{resource.group_resource} is kept in part only"
        return found

    def drop(self, kind: Kind[Any]) -> None:
        """Stop and forget a kind that is no longer served. Its handlers hear nothing more."""
        resource: Resource[Any] = scheme.resource_of(kind)
        self._made.pop(resource, None)
        task = self._running.pop(resource, None)
        if task is not None:
            task.cancel()

    def _start(self, resource: Resource[Any]) -> None:
        assert self._tasks is not None
        informer = self._made[resource]
        self._running[resource] = self._tasks.create_task(informer.run(), name=f"informer/{resource.group_resource}")

    @property
    def behind(self) -> list[str]:
        """The kinds whose cache is not filled yet."""
        return [kind.group_resource for kind, informer in self._made.items() if not informer.synced.is_set()]

    async def synced(self) -> None:
        for informer in list(self._made.values()):
            await informer.synced.wait()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                for resource in list(self._made):
                    self._start(resource)
                await asyncio.Event().wait()
            finally:
                self._tasks = None
