"""GET, LIST and WATCH: what is read, as of which version, in which pages.

Everything comes from the cacher; the store is asked only for pages of a past revision that has changed since.
Source: API concepts "Resource versions", "Retrieving large results sets in chunks", "Efficient detection of changes".
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Container, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from kaa.api import selectors
from kaa.api.clock import Alarm, Clock
from kaa.api.errors import BadRequest, Expired, Invalid, NotFound
from kaa.api.fields import FieldError, Path, forbidden, invalid, not_supported
from kaa.api.resources import Resource
from kaa.api.selectors import EVERYTHING, FieldRequirement, Selector
from kaa.api.types.meta_v1 import ListMeta
from kaa.client.client import WatchType
from kaa.client.pipeline import Request
from kaa.store.base import Compacted, FutureRevision, Revision, Store

from . import keys, queries
from .cacher import Cacher, ResourceCache
from .entries import Entry
from .queries import is_true, parse_int64, quoted
from .registry.conversion import SELECTED_AS
from .watchers import Change, Watcher

BOOKMARK_S = 60.0
_TICK_S = 0.01  # a timer may be early by as much
NO_REVISION = Revision(0)
_DIGITS = 20  # of the largest 64-bit number
_FIELDS_OF_ALL = frozenset({"metadata.name", "metadata.namespace"})


@dataclass(frozen=True, slots=True)
class ListResult:
    """One page of entries as of ``revision``."""

    entries: Sequence[Entry]
    revision: Revision
    continue_token: str = ""
    remaining: int | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects of a resource a request speaks of."""

    namespace: str
    labels: Selector = EVERYTHING
    fields: tuple[FieldRequirement, ...] = ()

    @property
    def everything(self) -> bool:
        return self.labels.empty and not self.fields


class _Token(msgspec.Struct):
    """A continue token's content, as upstream's: the version of the list and the key to go on from."""

    v: str = ""
    rv: int = 0
    start: str = ""


class Reader:
    def __init__(self, cacher: Cacher, store: Store, clock: Clock) -> None:
        self._cacher, self._store, self._clock = cacher, store, clock

    # ---------------------------------------------------------------------------------------------------- get, list

    def get(self, request: Request) -> Entry | Awaitable[Entry]:
        asked = request.options.get("resourceVersion")
        if asked and asked != "0" and parse_version(asked) > self._cacher.revision:
            return self._get_later(request, parse_version(asked))
        return self.find(request.resource, request.namespace, request.name)

    async def _get_later(self, request: Request, revision: Revision) -> Entry:
        await self._cacher.reach_asked(revision)
        return self.find(request.resource, request.namespace, request.name)

    def find(self, resource: Resource[Any], namespace: str, name: str) -> Entry:
        entry = self._cacher.of(resource).entries.get(keys.object_key(resource, namespace, name))
        if entry is None:
            raise NotFound.of(resource, name)
        return entry

    def list(self, request: Request) -> ListResult | Awaitable[ListResult]:
        options = request.options
        if not options:
            cache = self._cacher.of(request.resource)
            return ListResult(cache.select(request.namespace, EVERYTHING, ()), self._cacher.revision)
        selection = self.selection(request)
        check_list_options(options, watch=False)
        asked = options.get("resourceVersion", "")
        limit = parse_limit(options.get("limit", ""))
        token = options.get("continue", "")
        match = options.get("resourceVersionMatch", "")
        if token:
            return self._next_page(request.resource, selection, limit, token)
        revision = parse_version(asked) if asked and asked != "0" else Revision(0)
        exact = match == "Exact" or (limit and revision and not match)
        if revision > self._cacher.revision or (revision and exact):
            return self._list_at(request.resource, selection, limit, revision, exact=bool(exact))
        return self._page(request.resource, selection, limit)

    async def _list_at(
        self, resource: Resource[Any], selection: Selection, limit: int, revision: Revision, *, exact: bool
    ) -> ListResult:
        await self._cacher.reach_asked(revision)
        if not exact or self._cacher.of(resource).changed <= revision:
            page = self._page(resource, selection, limit)
            return page if not exact else _as_of(page, revision, limit)
        return await self._past_page(resource, selection, limit, revision, "")

    def _page(self, resource: Resource[Any], selection: Selection, limit: int, after: str = "") -> ListResult:
        cache, revision = self._cacher.of(resource), self._cacher.revision
        entries = cache.select(selection.namespace, selection.labels, selection.fields)
        if after:
            entries = [entry for entry in entries if entry.key > after]
        if not limit or len(entries) <= limit:
            return ListResult(entries, revision)
        remaining = len(entries) - limit if selection.everything else None
        token = make_token(revision, entries[limit - 1].key)
        return ListResult(entries[:limit], revision, token, remaining)

    async def _next_page(self, resource: Resource[Any], selection: Selection, limit: int, token: str) -> ListResult:
        revision, after = read_token(token)
        if revision < 0:  # a token for going on with what is there now, given out when a list's version was gone
            return self._page(resource, selection, limit, after)
        if self._cacher.of(resource).changed <= revision:
            return _as_of(self._page(resource, selection, limit, after), revision, limit)
        return await self._past_page(resource, selection, limit, revision, after)

    async def _past_page(
        self, resource: Resource[Any], selection: Selection, limit: int, revision: Revision, after: str
    ) -> ListResult:
        """A page of a revision that is past: read from the store's log, and decoded to select."""
        cache = self._cacher.of(resource)
        root = keys.prefix(resource)
        prefix = f"{root}{selection.namespace}/" if selection.namespace else root
        found: list[Entry] = []
        start, more = (root + after if after else ""), True
        remaining: int | None = None
        try:
            while more and (not limit or len(found) < limit):
                page = await self._store.range(prefix, after=start, limit=limit or 0, revision=revision)
                more = page.remaining > 0
                for kv in page.items:
                    start = kv.key
                    entry = cache.entry(kv, kv.key[len(root) :], None)
                    if _matches(selection, entry):
                        found.append(entry)
                    if limit and len(found) == limit:
                        break
                remaining = page.remaining + len(page.items) - len(found) if selection.everything else None
                more = more or bool(page.items and start != page.items[-1].key)
        except Compacted:
            raise self._expired_page(after) from None
        except FutureRevision:
            await self._cacher.reach_asked(revision)  # a 504 when it does not come
            return await self._past_page(resource, selection, limit, revision, after)
        if not more:
            return ListResult(found, revision)
        return ListResult(found, revision, make_token(revision, start[len(root) :]), remaining)

    def _expired_page(self, after: str) -> Expired:
        if not after:
            return Expired("The resourceVersion for the provided list is too old.")
        error = Expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list"
            " without the continue parameter, or use the continue token in this response to retrieve the remainder of the"
            " results. Continuing with the provided token results in an inconsistent list - objects that were created,"
            " modified, or deleted between the time the first chunk was returned and now may show up in the list."
        )
        metadata = ListMeta(continue_=make_token(Revision(-1), after))
        error.status = msgspec.structs.replace(error.status, metadata=metadata)
        return error

    def selection(self, request: Request) -> Selection:
        """The namespace and selectors of a request. Raises BadRequest in upstream's words."""
        options = request.options
        try:
            labels = selectors.parse_labels(options.get("labelSelector", ""))
            fields = selectors.parse_fields(options.get("fieldSelector", ""))
        except selectors.SelectorError as err:
            raise BadRequest(str(err)) from None
        cache = self._cacher.of(request.resource)
        asked = request.asked or request.resource
        renamed = None if asked.custom else SELECTED_AS.get(asked.type)
        known: Container[str] = cache.strategy.field_names if renamed is None else renamed
        for requirement in fields:
            if requirement.field not in known and requirement.field not in _FIELDS_OF_ALL:
                raise BadRequest(f"field label not supported: {requirement.field}")
        if renamed is not None:
            fields = tuple(replace(one, field=renamed.get(one.field, one.field)) for one in fields)
        if request.name:
            fields = (*fields, FieldRequirement("metadata.name", request.name))
        return Selection(request.namespace, labels, fields)

    # -------------------------------------------------------------------------------------------------------- watch

    def open_watch(self, request: Request) -> Watch:
        """Begin a watch. What is wrong with the request raises here, before anything was answered; that its version is too
        old is the first thing that the watch tells, as upstream's does."""
        selection = self.selection(request)
        options = dict(request.options)
        queries.check(request)
        check_list_options(options, watch=True)
        cache = self._cacher.of(request.resource)
        watcher = Watcher(selection.namespace, selection.labels, selection.fields)
        asked = options.get("resourceVersion", "")
        initial: list[Entry] | None = None
        streamed = is_true(options, "sendInitialEvents")
        wait_for = Revision(0)
        fault: Expired | None = None
        if asked in ("", "0") or streamed:
            if streamed or "sendInitialEvents" not in options:
                initial = cache.select(selection.namespace, selection.labels, selection.fields)
            if asked not in ("", "0"):
                wait_for = parse_version(asked)
        else:
            after = parse_version(asked)
            if after > self._cacher.revision:
                watcher = LateWatcher(watcher, after)
            try:
                cache.replay(watcher, after)
            except Expired as err:
                fault = err
        if fault is None:
            cache.watchers.add(watcher)
        timeout = parse_limit(options.get("timeoutSeconds", ""))
        return Watch(
            cacher=self._cacher,
            cache=cache,
            watcher=watcher,
            initial=initial,
            mark_initial_end=streamed,
            bookmarks=is_true(options, "allowWatchBookmarks"),
            timeout_s=float(timeout) if timeout else self._clock.random.uniform(1800, 3600),
            clock=self._clock,
            wait_for=wait_for,
            fault=fault,
            revision=max(self._cacher.revision, watcher.after if isinstance(watcher, LateWatcher) else NO_REVISION),
        )


class LateWatcher(Watcher):
    """A watcher from a revision to come: what happens up to it is not told."""

    __slots__ = ("after",)

    def __init__(self, watcher: Watcher, after: Revision) -> None:
        super().__init__(watcher.namespace.removesuffix("/"), watcher.labels, watcher.fields)
        self.after = after

    def offer(self, change: Change) -> None:
        if change.revision > self.after:
            super().offer(change)


WatchStep = tuple[WatchType, Entry | None, Change | None]


@dataclass(slots=True)
class Watch:
    """A watch that has begun. ``steps`` yields batches; a BOOKMARK has no entry, and its version is ``revision``."""

    cacher: Cacher
    cache: ResourceCache
    watcher: Watcher
    initial: list[Entry] | None
    mark_initial_end: bool
    bookmarks: bool
    timeout_s: float
    clock: Clock
    wait_for: Revision
    fault: Expired | None = None
    revision: Revision = NO_REVISION
    initial_ended: bool = False
    rung: bool = False
    alarm: Alarm | None = None

    async def steps(self) -> AsyncIterator[list[WatchStep]]:
        watcher, deadline = self.watcher, self.clock.monotonic() + self.timeout_s
        self._set_alarm(deadline)
        try:
            if self.fault is not None:
                raise self.fault
            if self.initial is not None:
                yield [(WatchType.ADDED, entry, None) for entry in self.initial]
                self.initial = None
                if self.mark_initial_end:
                    if self.wait_for > self.revision:
                        await self.cacher.reach_asked(self.wait_for)
                        yield self._taken()
                        self.revision = max(self.revision, self.wait_for)
                    self.initial_ended = True
                    yield [(WatchType.BOOKMARK, None, None)]
                    self.initial_ended = False
            while True:
                if not self.rung:
                    await watcher.wait()
                if watcher.changes:
                    yield self._taken()
                elif watcher.ended:
                    return
                if self.rung:
                    if not self._set_alarm(deadline):
                        return
                    self.revision = max(self.revision, self.cacher.revision)
                    yield [(WatchType.BOOKMARK, None, None)]
        finally:
            self.close()

    def _set_alarm(self, deadline: float) -> bool:
        """Have the reader roused when the next bookmark is due, or the time is up; says whether there is time left."""
        left = deadline - self.clock.monotonic()
        self.rung = False
        if self.alarm is not None and left <= _TICK_S:
            return False
        self.alarm = self.clock.call_later(min(BOOKMARK_S, left) if self.bookmarks else left, self._ring)
        return True

    def _ring(self) -> None:
        self.rung = True
        self.watcher.rouse()

    def _taken(self) -> list[WatchStep]:
        """The changes that came so far, taken out of the buffer."""
        batch: list[WatchStep] = list(self.watcher.changes)
        self.watcher.changes.clear()
        if batch and batch[-1][2] is not None:
            self.revision = batch[-1][2].revision
        return batch

    def close(self) -> None:
        if self.alarm is not None:
            self.alarm.cancel()
        self.cache.watchers.discard(self.watcher)


def _matches(selection: Selection, entry: Entry) -> bool:
    return selection.labels.matches(entry.labels) and selectors.matches_fields(selection.fields, entry.fields)


def _as_of(page: ListResult, revision: Revision, limit: int) -> ListResult:
    """The same page under an earlier version at which nothing was different."""
    token = make_token(revision, page.entries[-1].key) if page.continue_token else ""
    return ListResult(page.entries, revision, token, page.remaining)


# -------------------------------------------------------------------------------------------------------- options


def parse_version(text: str) -> Revision:
    if not text.isascii() or not text.isdigit():
        raise _no_version(text, "invalid syntax")
    if len(text.lstrip("0")) > _DIGITS or int(text) >= 1 << 64:
        raise _no_version(text, "value out of range")
    return Revision(int(text))


def _no_version(text: str, why: str) -> BadRequest:
    fault = invalid(Path("resourceVersion"), text, f"strconv.ParseUint: parsing {quoted(text)}: {why}")
    return BadRequest(f"invalid resource version: {fault}")


def parse_limit(text: str) -> int:
    """``limit`` and ``timeoutSeconds``: an int64, 0 when absent."""
    return max(0, parse_int64(text)) if text else 0


def make_token(revision: Revision, last_key: str) -> str:
    content = msgspec.json.encode(_Token(v="meta.k8s.io/v1", rv=revision, start=last_key + "\0"))
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def read_token(token: str) -> tuple[Revision, str]:
    """(revision, key to go on after). Raises BadRequest."""
    try:
        content = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except ValueError:
        raise BadRequest("invalid continue token: continue key is not valid: illegal base64 data") from None
    try:
        found = msgspec.json.decode(content, type=_Token)
    except (msgspec.DecodeError, UnicodeDecodeError):
        mark = content[:1].decode("latin-1")
        shown = mark if mark.isprintable() and mark.isascii() else f"\\u{ord(mark):04x}" if mark else ""
        raise BadRequest(
            f"invalid continue token: continue key is not valid: invalid character '{shown}' looking for beginning of value"
        ) from None
    if found.v != "meta.k8s.io/v1":
        raise BadRequest(
            f'invalid continue token: continue key is not valid: server does not recognize this encoded version "{found.v}"'
        )
    return Revision(found.rv), found.start.removesuffix("\0").removeprefix("/")


def check_list_options(options: dict[str, str] | Any, *, watch: bool) -> None:
    """How versions, matches, limits and tokens may go together."""
    faults: list[FieldError] = []
    match = options.get("resourceVersionMatch", "")
    version, token = options.get("resourceVersion", ""), options.get("continue", "")
    initial = "sendInitialEvents" in options
    path = Path("resourceVersionMatch")
    if watch and initial:
        if match != "NotOlderThan":
            faults.append(
                forbidden(path, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
                if not match
                else not_supported(path, match, ["NotOlderThan"])
            )
    elif initial:
        faults.append(forbidden(Path("sendInitialEvents"), "sendInitialEvents is forbidden for list"))
    elif match:
        if watch:
            faults.append(forbidden(path, "resourceVersionMatch is forbidden for watch"))
        elif not version:
            faults.append(forbidden(path, "resourceVersionMatch is forbidden unless resourceVersion is provided"))
        elif token:
            faults.append(forbidden(path, "resourceVersionMatch is forbidden when continue is provided"))
        elif match not in ("Exact", "NotOlderThan"):
            faults.append(not_supported(path, match, ["Exact", "NotOlderThan"]))
        elif match == "Exact" and version == "0":
            faults.append(forbidden(path, 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'))
    if faults:
        raise Invalid.of("meta.k8s.io", "ListOptions", "", faults)
    if token and version not in ("", "0"):
        raise BadRequest("specifying resource version is not allowed when using continue")
