"""The store's contract: what ``sqlite``, ``memory`` and ``etcd`` all keep.

The idea: one log. Every committed write gets the next revision (1, 2, 3 …), whatever its key; a watch is the log read
from some revision on. What one reader sees, all readers see, in the same order.

A write is answered when it is durable, not before. A write that was answered is never lost; one that was not may or may
not be there after a crash, but never half.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NewType, Protocol

#: A position in the log. 0 is before the first write.
Revision = NewType("Revision", int)


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A value as one revision left it.

    ``create_revision`` is that of the write that made the key (again); ``mod_revision`` that of this value. ``stale``: what
    lies there is not what writing the value again would leave, since it was encrypted otherwise.
    """

    key: str
    value: bytes
    create_revision: Revision
    mod_revision: Revision
    stale: bool = False


class EventType(StrEnum):
    PUT = "PUT"
    DELETE = "DELETE"


@dataclass(frozen=True, slots=True)
class Event:
    """One change. On DELETE ``kv.value`` is empty and ``kv.mod_revision`` the deletion's. ``previous`` is the value that
    it replaced, None on a first write (or where it was compacted away before this watch read it)."""

    type: EventType
    kv: KeyValue
    previous: KeyValue | None = None

    @property
    def revision(self) -> Revision:
        return self.kv.mod_revision


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a range, in key order, all as of ``revision``. ``remaining`` counts the keys after the last item."""

    items: tuple[KeyValue, ...]
    revision: Revision
    remaining: int = 0


class StoreError(Exception):
    """Anything the store says no with."""


class RevisionMismatch(StoreError):
    """The key is not at the revision that the write expected. ``current`` is what is there, None if nothing."""

    def __init__(self, key: str, current: KeyValue | None) -> None:
        super().__init__(f"{key}: expected another revision")
        self.key = key
        self.current = current


class Compacted(StoreError):
    """The revision asked for was compacted away; ``oldest`` is the first that can still be read."""

    def __init__(self, oldest: Revision) -> None:
        super().__init__(f"required revision has been compacted; the oldest is {oldest}")
        self.oldest = oldest


class FutureRevision(StoreError):
    """The revision asked for has not happened yet; ``current`` is the newest."""

    def __init__(self, current: Revision) -> None:
        super().__init__(f"required revision is a future revision; the newest is {current}")
        self.current = current


class StoreUnavailable(StoreError):
    """The store cannot write or read now: disk full, closed, no leader. The write's fate is unknown."""


class Store(Protocol):
    """Every method may be called from any task of the loop that opened the store."""

    @property
    def revision(self) -> Revision:
        """The newest committed revision."""
        ...

    async def get(self, key: str, *, revision: Revision = Revision(0)) -> KeyValue | None:
        """The value of a key, now or as of ``revision``. Raises Compacted, FutureRevision."""
        ...

    async def range(self, prefix: str, *, after: str = "", limit: int = 0, revision: Revision = Revision(0)) -> Page:
        """The keys that start with ``prefix`` and sort after the key ``after``, in order of their UTF-8 bytes.

        Args:   limit: at most so many items, 0 for all; revision: as of then, 0 for now.
        Raises: Compacted, FutureRevision.
        """
        ...

    async def put(self, key: str, value: bytes, *, expected: Revision | None = None) -> KeyValue:
        """Write a value; returns when it is durable.

        Args:   expected: the mod_revision that the key must have now, 0 for "must not exist", None for "whatever".
        Raises: RevisionMismatch, with nothing written; StoreUnavailable.
        """
        ...

    async def delete(self, key: str, *, expected: Revision | None = None) -> KeyValue | None:
        """Delete a key; returns its last value with the deletion's revision as ``mod_revision``, None if it was absent.

        Deleting what is absent writes nothing and takes no revision. Raises as ``put``; ``expected`` above 0 on an absent
        key is a RevisionMismatch.
        """
        ...

    def watch(self, prefix: str, *, after: Revision) -> AsyncIterator[Sequence[Event]]:
        """Every change below ``prefix`` with a revision greater than ``after``: in order, each once, without a gap.

        Yields batches of one or more events; a batch never splits a revision. The first step raises Compacted when
        changes after ``after`` are gone. Closing the iterator ends the watch.
        """
        ...

    async def compact(self, revision: Revision) -> None:
        """Forget every value that was already replaced or deleted at ``revision``; what is current stays readable.

        Reads and watches from before it raise Compacted from now on. Raises FutureRevision; compacting what is compacted
        is no error.
        """
        ...

    async def close(self) -> None:
        """Finish the writes under way and release the files. Watches end."""
        ...
