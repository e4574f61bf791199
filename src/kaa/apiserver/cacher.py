"""Everything the API server serves, in memory: each object beside the JSON bytes of its revision.

Purpose: reads cost no decoding and no I/O. GET answers with an entry's bytes, LIST joins them, WATCH wraps them, and all
watchers share one buffer. The store's log is the only writer: a cache follows its watch, also for this server's own
writes, so every reader sees the log's order.

Left to others: who may read (pipeline), what a page is (reads), what goes on the wire (wire).
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from msgspec.structs import replace

from kaa.api import scheme
from kaa.api.clock import Clock
from kaa.api.errors import ApiError, Expired, ServiceUnavailable, Timeout, Unclassified
from kaa.api.resources import Resource
from kaa.api.selectors import FieldRequirement, Selector, matches_fields
from kaa.client.client import WatchType
from kaa.store.base import Event, EventType, KeyValue, Revision, Store, StoreUnavailable

from . import keys
from .entries import METADATA, Entry, inner_of, read_object, stored_bytes
from .registry.strategy import Strategy
from .serving import Serving
from .watchers import Audience, Change, Watcher

T = TypeVar("T")

HELD = 512  # newest objects that are kept decoded until informers have had them
PAGE = 2000  # keys a page when the cache is filled from the store
HISTORY_MIN = 256  # changes a resource keeps for watchers that resume, whatever their age
HISTORY_S = 75.0  # and all changes younger than this
HISTORY_MAX = 100_000


class ResourceCache:
    """The objects of one resource: by key ``namespace/name`` (or ``name``), in order, with a window of their history."""

    def __init__(self, resource: Resource[Any], strategy: Strategy[Any], revision: Revision) -> None:
        self.resource, self.strategy = resource, strategy
        self.entries: dict[str, Entry] = {}
        self.order: list[str] = []
        self._in_order: list[Entry] | None = None  #: all entries in order, once somebody asked since the last change
        self.changed: Revision = Revision(0)  #: the revision of the last change
        self.history: deque[Change] = deque()
        self.oldest = revision  #: changes after it are all in ``history``
        self.watchers = Audience()
        self.writing = 0  #: writes that are on their way to the store
        #: The keys whose stored bytes are not those that writing the object again would leave: of another version, or
        #: encrypted with another key. A write that changes nothing writes these.
        self.stale: set[str] = set()

    def entry(self, kv: KeyValue, key: str, obj: Any) -> Entry:
        """An entry of a stored value. ``obj`` is the Struct when the writer had it at hand, else it is decoded here."""
        resource = self.resource
        head = scheme.prefix(resource.api_version, resource.kind)
        value = kv.value
        stale = kv.stale
        if obj is None:
            obj = read_object(resource, value)
            if resource.custom:
                shown = self.strategy.stored(obj)
                if shown is not obj:
                    obj, value = shown, stored_bytes(resource, shown)
        if not value.startswith(METADATA, len(head)) or not value.startswith(head):
            value = stored_bytes(resource, obj)  # written by another server: same object, its own order of fields
            stale = True
        (self.stale.add if stale else self.stale.discard)(key)
        obj = replace(obj, metadata=replace(obj.metadata, resource_version=str(kv.mod_revision)))
        inner = inner_of(value, len(head), kv.mod_revision)
        metadata = obj.metadata
        fields = {"metadata.name": metadata.name or "", "metadata.namespace": metadata.namespace or ""}
        fields.update(self.strategy.fields(obj))
        return Entry(resource, key, kv.mod_revision, inner, metadata.labels, fields, obj)

    def load(self, entry: Entry) -> None:
        entry.release()
        self.entries[entry.key] = entry
        self.order.append(entry.key)
        self.changed = max(self.changed, entry.revision)

    def sort(self) -> None:
        """Put what was loaded in order."""
        self.order.sort()
        self._in_order = None

    def apply(self, event: Event, key: str, obj: Any, moment: float) -> Entry | None:
        """Take one event of the log and tell the watchers. Returns the new entry."""
        previous = self.entries.get(key)
        self._in_order = None
        if event.type is EventType.PUT:
            entry = self.entry(event.kv, key, obj)
            if previous is None:
                insort(self.order, key)
            self.entries[key] = entry
            type = WatchType.ADDED if previous is None else WatchType.MODIFIED
        elif previous is not None:
            entry = previous.at(event.revision)
            del self.entries[key]
            self.stale.discard(key)
            del self.order[bisect_left(self.order, key)]
            type = WatchType.DELETED
        else:
            return None
        self.changed = event.revision
        change = Change(type, entry, previous, moment)
        self.history.append(change)
        self._prune(moment)
        self.watchers.tell(change)
        return entry

    def _prune(self, moment: float) -> None:
        history = self.history
        while len(history) > HISTORY_MIN and (history[0].moment < moment - HISTORY_S or len(history) > HISTORY_MAX):
            self.oldest = history.popleft().revision

    def select(self, namespace: str, labels: Selector, fields: tuple[FieldRequirement, ...]) -> list[Entry]:
        """The entries of a namespace (empty: all) that match, in key order. Not to be changed: lists share it."""
        found = self._ordered(namespace)
        for key, value in labels.named_values:  # first what costs least to ask of thousands
            found = [entry for entry in found if entry.labels.get(key) == value]
        if not labels.empty:
            found = [entry for entry in found if labels.matches(entry.labels)]
        if fields:
            found = [entry for entry in found if matches_fields(fields, entry.fields)]
        return found

    def _ordered(self, namespace: str) -> list[Entry]:
        entries = self.entries
        if namespace:
            return [entries[key] for key in self.keys(namespace)]
        if self._in_order is None or len(self._in_order) != len(self.order):
            self._in_order = [entries[key] for key in self.order]
        return self._in_order

    def keys(self, namespace: str) -> list[str]:
        if not namespace:
            return self.order
        start = bisect_left(self.order, namespace + "/")
        return self.order[start : bisect_left(self.order, namespace + "0", start)]  # "0" follows "/"

    def replay(self, watcher: Watcher, after: Revision) -> None:
        """Give a new watcher what happened after a revision. Raises Expired when that is no longer known."""
        if after < self.oldest:
            raise Expired(f"too old resource version: {after} ({self.oldest})")
        for change in self.history:
            if change.revision > after:
                watcher.offer(change)


class Cacher:
    """All resources' caches, filled from the store and following its log. It is the ``View`` that decisions read."""

    WAIT_S = 3.0  # how long a read waits for a revision that has not come yet

    def __init__(
        self,
        store: Store,
        clock: Clock,
        strategy_for: Callable[[Resource[Any]], Strategy[Any]],
        serving: Serving | None = None,
    ) -> None:
        self._store, self._clock = store, clock
        self._strategy_for = strategy_for
        self.revision = Revision(0)  #: every change up to here is in the caches
        self._caches: dict[str, ResourceCache] = {}  #: {key prefix: cache}
        self._by_resource: dict[Resource[Any], ResourceCache] = {}
        #: {Struct class or built-in resource: cache of the stored resource}, filled as they are asked for
        self._by_kind: dict[Any, ResourceCache] = {}
        self._expected: dict[str, tuple[bytes, Any]] = {}  #: {store key: (bytes, Struct) of a write under way}
        self._newest: deque[Entry] = deque()  #: entries whose Struct is held, whoever else holds it
        self._arrivals: deque[tuple[Revision, asyncio.Future[None]]] = deque()
        for resource in (serving or Serving()).kept():
            self.serve(resource)

    @property
    def clock(self) -> Clock:
        return self._clock

    # ---------------------------------------------------------------------------------------------- resources

    def serve(self, resource: Resource[Any]) -> ResourceCache:
        """Have a cache for a resource (empty until objects arrive)."""
        cache = ResourceCache(resource, self._strategy_for(resource), self.revision)
        self._caches[keys.prefix(resource)] = cache
        self._by_resource[resource] = cache
        self._by_kind.clear()
        return cache

    def drop(self, resource: Resource[Any]) -> None:
        """Stop serving a resource: its watches end."""
        cache = self._by_resource.pop(resource, None)
        self._by_kind.clear()
        if cache is not None:
            self._caches.pop(keys.prefix(resource), None)
            for watcher in list(cache.watchers):
                watcher.end()

    def of(self, kind: Any) -> ResourceCache:
        """The cache behind a resource, or a Struct class. Raises KeyError when it is not served; and ServiceUnavailable for a
        custom resource, whose definition has changed while a request was under way: begun again, it meets the new one."""
        found = self._by_kind.get(kind)
        if found is None:
            resource = keys.storage_resource(scheme.resource_of(kind))
            if resource.custom:  # a row says which version is stored, and equals one that says another: it is not kept
                found = self._by_resource.get(resource)
                if found is None:
                    raise ServiceUnavailable(f"{resource.group_resource} are being served anew", retry_after_s=1)
                return found
            found = self._by_kind[kind] = self._by_resource[resource]
        return found

    def serves(self, resource: Resource[Any]) -> bool:
        return keys.storage_resource(resource) in self._by_resource

    def caches(self) -> Iterable[ResourceCache]:
        return self._by_resource.values()

    # ---------------------------------------------------------------------------------------------- following

    async def fill(self) -> None:
        """Read everything the store holds."""
        revision = Revision(0)
        after = ""
        while True:
            page = await self._store.range(keys.ROOT, after=after, limit=PAGE, revision=revision)
            revision = page.revision
            for kv in page.items:
                found = self._locate(kv.key)
                if found is not None:
                    cache, key = found
                    cache.load(cache.entry(kv, key, None))
            if not page.remaining:
                break
            after = page.items[-1].key
        self.revision = revision
        for cache in self._caches.values():
            cache.sort()
            cache.oldest = revision

    def take(self, resource: Resource[Any], found: Iterable[KeyValue]) -> None:
        """Have in the cache what the store holds of one resource that came to be served while the server runs."""
        cache = self._by_resource[resource]
        for kv in found:
            cache.load(cache.entry(kv, kv.key[len(keys.prefix(resource)) :], None))
        cache.sort()

    async def follow(self) -> None:
        """Apply the log as it grows; lives until cancelled."""
        async for batch in self._store.watch(keys.ROOT, after=self.revision):
            moment = self._clock.monotonic()
            for event in batch:
                self._apply(event, moment)
            self._arrived()

    def _apply(self, event: Event, moment: float) -> None:
        expected = self._expected.get(event.kv.key)
        obj = None
        if expected is not None and expected[0] is event.kv.value:
            obj = expected[1]
            del self._expected[event.kv.key]
        found = self._locate(event.kv.key)
        if found is not None:
            cache, key = found
            entry = cache.apply(event, key, obj, moment)
            if entry is not None:
                self._hold(entry)
        self.revision = event.revision

    def _hold(self, entry: Entry) -> None:
        """Keep the Structs of the newest entries, so that every informer in this process takes in the writer's own."""
        self._newest.append(entry)
        if len(self._newest) > HELD:
            self._newest.popleft().release()

    def _locate(self, key: str) -> tuple[ResourceCache, str] | None:
        """The cache that a store key belongs to and the rest of the key."""
        end = key.find("/", len(keys.ROOT))
        while end > 0:
            cache = self._caches.get(key[: end + 1])
            if cache is not None:
                return cache, key[end + 1 :]
            end = key.find("/", end + 1)
        return None

    def _arrived(self) -> None:
        waiting = deque[tuple[Revision, asyncio.Future[None]]]()
        for revision, arrived in self._arrivals:
            if revision > self.revision:
                waiting.append((revision, arrived))
            elif not arrived.done():
                arrived.set_result(None)
        self._arrivals = waiting

    async def reach(self, revision: Revision) -> None:
        """Wait until the caches hold a revision that the store has committed."""
        if revision <= self.revision:
            return
        arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._arrivals.append((revision, arrived))
        await arrived

    async def reach_asked(self, revision: Revision) -> None:
        """Wait for a revision that a client named. Raises Timeout when it does not come."""
        if revision <= self.revision:
            return
        try:
            async with asyncio.timeout(self.WAIT_S):
                await self.reach(revision)
        except TimeoutError:
            message = f"Too large resource version: {revision}, current: {self.revision}"
            raise _too_large(f"Timeout: {message}") from None

    # ---------------------------------------------------------------------------------------------- writing

    async def put(self, resource: Resource[Any], key: str, obj: Any, data: bytes, expected: Revision) -> Entry:
        """Store an object and return its entry, once the caches hold it. Raises RevisionMismatch, or ApiError: the store can
        take nothing now."""
        cache = self.of(resource)
        store_key = keys.prefix(resource) + key
        self._expected[store_key] = (data, obj)
        cache.writing += 1
        try:
            kv = await self._store.put(store_key, data, expected=expected)
            await self.reach(kv.mod_revision)
        except BaseException as err:
            self._expected.pop(store_key, None)
            if isinstance(err, StoreUnavailable):
                raise _not_stored(err) from err
            raise
        finally:
            cache.writing -= 1
        entry = cache.entries.get(key)
        if entry is None or entry.revision != kv.mod_revision:  # overtaken already
            entry = cache.entry(kv, key, obj)
        return entry

    async def remove(self, resource: Resource[Any], key: str, expected: Revision) -> Revision:
        """Delete an object; returns the deletion's revision."""
        try:
            gone = await self._store.delete(keys.prefix(resource) + key, expected=expected)
        except StoreUnavailable as err:
            raise _not_stored(err) from err
        if gone is None:
            return self.revision
        await self.reach(gone.mod_revision)
        return gone.mod_revision

    def keys_in(self, plural: str, namespace: str) -> list[str]:
        """The keys of a core resource in a namespace."""
        return self._caches[f"{keys.ROOT}{plural}/"].keys(namespace)

    # ---------------------------------------------------------------------------------------------- the View

    def get(self, kind: type[T], name: str, namespace: str = "") -> T | None:
        cache = self.of(kind)
        entry = cache.entries.get(keys.object_key(cache.resource, namespace, name))
        if entry is None:
            return None
        found: T = entry.object(keep=True)
        return found

    def list(self, kind: type[T], namespace: str = "") -> Iterable[T]:
        cache = self.of(kind)
        return [cache.entries[key].object(keep=True) for key in cache.keys(namespace)]

    def changes(self, kind: type[T], namespace: str, after: int) -> Iterable[tuple[str, T | None]] | None:
        cache = self.of(kind)
        if after < cache.oldest:
            return None
        new: list[tuple[str, T | None]] = []
        for change in reversed(cache.history):
            if change.revision <= after:
                break
            where, _, name = change.entry.key.rpartition("/")
            if where == namespace:
                new.append((name, None if change.type is WatchType.DELETED else change.entry.object()))
        new.reverse()
        return new

    def version(self, kind: type[T]) -> int:
        return int(self.of(kind).changed)


def _too_large(message: str) -> Timeout:
    from kaa.api.types.meta_v1 import StatusCause

    cause = StatusCause(reason="ResourceVersionTooLarge", message="Too large resource version")
    return Timeout(message, causes=[cause], retry_after_s=1)


def _not_stored(err: StoreUnavailable) -> ApiError:
    """As upstream answers for an etcd that takes nothing (``mvcc: database space exceeded``): a bare 500 with the store's
    own last words, and not where on the server it lies."""
    return Unclassified(f"the store takes nothing now: {str(err).rpartition(': ')[2]}")
