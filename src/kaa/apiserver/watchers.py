"""Watches of one resource: who is told of a change, and how each selection sees it.

A change costs those whom it may concern. A watch of one name, or of one node's pods, is found by that value and never
asked about other objects; the JSON line of an event is made once; and a watch whose reader is at rest may have it written
at once, without a turn of its reader's task.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator

from kaa.api.selectors import FieldRequirement, Selector, matches_fields
from kaa.client.client import WatchType
from kaa.store.base import Revision

from .entries import Entry


class Change:
    """One step of a resource's history. ``line`` is the watch event's JSON, made once for all watchers."""

    __slots__ = ("_lines", "entry", "moment", "previous", "type")

    def __init__(self, type: WatchType, entry: Entry, previous: Entry | None, moment: float) -> None:
        self.type, self.entry, self.previous, self.moment = type, entry, previous, moment
        self._lines: dict[WatchType, bytes] = {}

    @property
    def revision(self) -> Revision:
        return self.entry.revision

    def line(self, type: WatchType, entry: Entry) -> bytes:
        found = self._lines.get(type)
        if found is None:
            found = self._lines[type] = watch_line(type, entry.alone)
        return found


def watch_line(type: WatchType, document: bytes) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (type.value.encode(), document)


class Watcher:
    """One subscriber's buffer: changes in order until the reader takes them. Overflow ends the watch, without harm: the
    client resumes from the last version it saw.

    ``at_once`` takes an event while the reader has nothing left to do but to wait; it says False when it cannot.
    """

    LIMIT = 20_000

    __slots__ = ("_waiting", "at_once", "changes", "ended", "fields", "labels", "namespace")

    def __init__(self, namespace: str, labels: Selector, fields: tuple[FieldRequirement, ...]) -> None:
        self.namespace = namespace + "/" if namespace else ""
        self.labels, self.fields = labels, fields
        self.changes: deque[tuple[WatchType, Entry, Change]] = deque()
        self.ended = False
        self.at_once: Callable[[WatchType, Entry, Change], bool] | None = None
        self._waiting: asyncio.Future[None] | None = None

    def selects(self, entry: Entry | None) -> bool:
        return (
            entry is not None
            and (self.labels.empty or self.labels.matches(entry.labels))
            and (not self.fields or matches_fields(self.fields, entry.fields))
        )

    def offer(self, change: Change) -> None:
        """Translate a change into what this selection sees of it."""
        entry = change.entry
        if self.namespace and not entry.key.startswith(self.namespace):
            return
        if self.labels.empty and not self.fields:
            self._push(change.type, entry, change)
            return
        was = self.selects(change.previous)
        now = change.type is not WatchType.DELETED and self.selects(entry)
        if now:
            self._push(WatchType.MODIFIED if was else WatchType.ADDED, entry, change)
        elif was:
            gone = entry if change.type is WatchType.DELETED else _previous_at(change)
            self._push(WatchType.DELETED, gone, change)

    def _push(self, type: WatchType, entry: Entry, change: Change) -> None:
        if self.ended:
            return  # what comes after a change that was lost must not be told
        if self._waiting is not None and self.at_once is not None and self.at_once(type, entry, change):
            return
        if len(self.changes) >= self.LIMIT:
            self.ended = True
        else:
            self.changes.append((type, entry, change))
        self.rouse()

    def end(self) -> None:
        self.ended = True
        self.rouse()

    def rouse(self) -> None:
        """Let the reader look again."""
        if self._waiting is not None:
            if not self._waiting.done():
                self._waiting.set_result(None)
            self._waiting = None

    async def wait(self) -> None:
        """Until there are changes, the watch has ended, or the reader is roused."""
        if not self.changes and not self.ended:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting


def _previous_at(change: Change) -> Entry:
    assert change.previous is not None
    return change.previous.at(change.revision)


class Audience:
    """The watchers of one resource. A selection that names one value of a field is found by it."""

    def __init__(self) -> None:
        self._everyone: set[Watcher] = set()  #: but those who are found by a value
        self._by_value: dict[str, dict[str, set[Watcher]]] = {}  #: {field: {value: watchers}}

    def __iter__(self) -> Iterator[Watcher]:
        yield from self._everyone
        for by_value in self._by_value.values():
            for watchers in by_value.values():
                yield from watchers

    def add(self, watcher: Watcher) -> None:
        asked = _one_value(watcher.fields)
        if asked is None:
            self._everyone.add(watcher)
        else:
            self._by_value.setdefault(asked.field, {}).setdefault(asked.value, set()).add(watcher)

    def discard(self, watcher: Watcher) -> None:
        asked = _one_value(watcher.fields)
        if asked is None:
            self._everyone.discard(watcher)
            return
        by_value = self._by_value.get(asked.field, {})
        watchers = by_value.get(asked.value, set())
        watchers.discard(watcher)
        if not watchers:
            by_value.pop(asked.value, None)
            if not by_value:
                self._by_value.pop(asked.field, None)

    def tell(self, change: Change) -> None:
        """Offer a change to whomever its object, as it is or as it was, may concern."""
        for watcher in self._everyone:
            watcher.offer(change)
        for field, by_value in self._by_value.items():
            now = change.entry.fields.get(field, "")
            for watcher in by_value.get(now, ()):
                watcher.offer(change)
            before = change.previous.fields.get(field, "") if change.previous is not None else now
            if before != now:
                for watcher in by_value.get(before, ()):
                    watcher.offer(change)


def _one_value(fields: tuple[FieldRequirement, ...]) -> FieldRequirement | None:
    """The requirement that fewest objects meet, of those that name one value."""
    named = [one for one in fields if one.equal]
    return next((one for one in named if one.field == "metadata.name"), named[0] if named else None)
