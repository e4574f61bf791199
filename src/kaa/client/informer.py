"""A cache of one kind, kept true by list and watch, with handlers and read-only lookups.

The idea: the cache is always *a* state the server was in, and moves only forward. A watch that breaks is taken up where
it ended; one that is too old starts over with a list, and whatever differs becomes events, so handlers miss nothing.

    pods = Informer(client, Pod, clock)
    pods.add_handler(lambda old, new: queue.add(key_of(new or old)))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(pods.run())
        await pods.synced.wait()
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import structlog

from kaa.api.clock import Clock
from kaa.api.errors import ApiError, Expired
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
    ) -> None:
        super().__init__()
        self._client, self._kind, self._clock = client, kind, clock
        self._namespace = namespace
        self._labels, self._fields = label_selector, field_selector
        self._handlers: list[Handler[T]] = []
        self.synced = asyncio.Event()
        self.resource_version = ""
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

    async def run(self) -> None:
        """Keep the cache true until cancelled."""
        failures = 0
        while True:
            try:
                if not self.resource_version:
                    await self._relist()
                failures = 0
                await self._follow()
            except Expired:
                self.resource_version = ""
            except (ApiError, OSError, TimeoutError) as err:
                failures += 1
                log.warning("list or watch failed", kind=str(self._kind), error=str(err), failures=failures)
                await self._clock.sleep(min(self.RETRY_S * 2 ** (failures - 1), self.RETRY_MAX_S))

    async def _relist(self) -> None:
        listing = await self._client.list(
            self._kind,
            self._namespace,
            label_selector=self._labels,
            field_selector=self._fields,
            resource_version="0",
        )
        listed = {key_of(obj) for obj in listing.items}
        for key in [key for key in self._objects if key not in listed]:
            self._forget(key)
        for obj in listing.items:
            self._see(obj)
        self.resource_version = listing.resource_version
        self.synced.set()

    async def _follow(self) -> None:
        watch = self._client.watch(
            self._kind,
            self._namespace,
            label_selector=self._labels,
            field_selector=self._fields,
            resource_version=self.resource_version,
        )
        async for event in watch:
            if event.object is not None:
                if event.type is WatchType.DELETED:
                    self._forget(key_of(event.object), event.object)
                else:
                    self._see(event.object)
            self.resource_version = event.resource_version or self.resource_version

    def _see(self, obj: T) -> None:
        old = self._objects.get(key_of(obj))
        if old is not None and _version(old) == _version(obj):
            return
        self._put(obj)
        for handler in self._handlers:
            handler(old, obj)

    def _forget(self, key: Key, last: T | None = None) -> None:
        old = self._remove(key)
        if old is not None:
            for handler in self._handlers:
                handler(last if last is not None else old, None)


def _version(obj: Any) -> str:
    return obj.metadata.resource_version or ""


class Informers:
    """The informers of one process: one a kind, started together."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client, self._clock = client, clock
        self._made: dict[Any, Informer[Any]] = {}
        self._tasks: asyncio.TaskGroup | None = None

    def of(self, kind: Kind[T]) -> Informer[T]:
        """The informer of a kind, made on first call; running already if ``run`` is."""
        found = self._made.get(kind)
        if found is None:
            found = self._made[kind] = Informer(self._client, kind, self._clock)
            if self._tasks is not None:
                self._start(found)
        return found

    def _start(self, informer: Informer[Any]) -> None:
        assert self._tasks is not None
        self._tasks.create_task(informer.run(), name=f"informer/{informer._kind}")

    async def synced(self) -> None:
        for informer in list(self._made.values()):
            await informer.synced.wait()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                for informer in list(self._made.values()):
                    self._start(informer)
                await asyncio.Event().wait()
            finally:
                self._tasks = None
