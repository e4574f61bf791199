"""Which revision of which key exists: the store's index, in memory and without values.

The idea: every key is a chain of versions, newest first, and the log is the same versions in order of revision. Reads of
the present touch a sorted list of the live keys; reads of the past walk a chain or the end of the log. Values stay where
they are durable (``log`` joins the two), so a key costs about 250 bytes here, whatever its value's size.

Worked example, after put a, put b, delete a, put a:

    heads   {a: 4, b: 2}      chains   a: 4 -> 3 (deleted) -> 1      b: 2
    log     [1 2 3 4]         live     [a b]

``compact(3)`` answers [1, 3]: the values that nobody can ask for any more.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import islice

from .base import Compacted, FutureRevision, Revision


class Version:
    """What one revision did to its key. ``older`` is the key's version before it, as far as not compacted."""

    __slots__ = ("create_revision", "deleted", "key", "older", "revision")

    def __init__(self, key: str, revision: Revision, deleted: bool, older: Version | None) -> None:
        self.key = key
        self.revision = revision
        self.deleted = deleted
        self.older = older
        live = older is not None and not older.deleted
        self.create_revision: Revision = older.create_revision if older is not None and live else revision

    @property
    def previous(self) -> Version | None:
        """The version whose value this one replaced."""
        return self.older if self.older is not None and not self.older.deleted else None

    def at(self, revision: Revision) -> Version | None:
        """This key's version as of a revision, None where it did not exist."""
        version: Version | None = self
        while version is not None and version.revision > revision:
            version = version.older
        return version if version is not None and not version.deleted else None


class History:
    """The index over one log. Not thread-safe: it belongs to the loop that opened the store."""

    def __init__(self) -> None:
        self.revision = Revision(0)
        #: Everything up to here is compacted: the log holds exactly ``compacted + 1 … revision``.
        self.compacted = Revision(0)
        self._heads: dict[str, Version] = {}
        self._live: list[str] = []
        self._log: list[Version] = []

    def head(self, key: str) -> Version | None:
        """The key's newest version, be it a deletion."""
        return self._heads.get(key)

    def check(self, revision: Revision) -> None:
        """Raises Compacted or FutureRevision where ``revision`` cannot be read."""
        if revision > self.revision:
            raise FutureRevision(self.revision)
        if revision < self.compacted:
            raise Compacted(self.compacted)

    def get(self, key: str, revision: Revision) -> Version | None:
        head = self._heads.get(key)
        return head.at(revision) if head is not None else None

    def since(self, revision: Revision, limit: int) -> Sequence[Version]:
        """The log after ``revision``, which is not before ``compacted``; at most ``limit`` versions."""
        start = revision - self.compacted
        return self._log[start : start + limit]

    def range(self, prefix: str, after: str, limit: int, revision: Revision) -> tuple[list[Version], int]:
        """The versions of a range as of a readable ``revision``, and how many follow. Arguments as ``Store.range``.

        What was not touched since ``revision`` is read off the live keys, the rest off the end of the log: the work is
        the page plus the changes since, not the range.
        """
        low, high = self._bounds(prefix, after)
        touched = {
            version.key
            for version in self._log[revision - self.compacted :]
            if version.key > after and version.key.startswith(prefix)
        }
        if not touched:
            last = min(high, low + limit) if limit else high
            return [self._heads[key] for key in self._live[low:last]], high - last
        then = sorted(key for key in touched if self.get(key, revision) is not None)
        gone = sum(1 for key in touched if not self._heads[key].deleted)
        total = high - low - gone + len(then)
        keys = merge(self._untouched(low, high, touched), then)
        taken = [self._heads[key].at(revision) for key in (islice(keys, limit) if limit else keys)]
        return [version for version in taken if version is not None], total - len(taken)

    def append(self, version: Version) -> None:
        """Take the next revision into the index."""
        assert version.revision == self.revision + 1
        older = self._heads.get(version.key)
        if older is None or older.deleted:
            if not version.deleted:
                insort(self._live, version.key)
        elif version.deleted:
            del self._live[bisect_left(self._live, version.key)]
        self._heads[version.key] = version
        self._log.append(version)
        self.revision = version.revision

    def compact(self, revision: Revision) -> list[Revision]:
        """Forget what was replaced or deleted at ``revision``. Returns the revisions forgotten, ascending."""
        count = max(0, revision - self.compacted)
        dead: list[Revision] = []
        for version in self._log[:count]:
            if version.previous is not None:
                dead.append(version.previous.revision)
            version.older = None
            if version.deleted:
                dead.append(version.revision)
                if self._heads.get(version.key) is version:
                    del self._heads[version.key]
        del self._log[:count]
        self.compacted = max(self.compacted, revision)
        return sorted(dead)

    @classmethod
    def load(cls, rows: Sequence[tuple[int, str, int, int]], compacted: Revision) -> tuple[History, list[Revision]]:
        """Build the index from the log's rows (revision, key, create revision, deleted), ascending.

        Returns: it, and the revisions at or before ``compacted`` that a crash kept from being forgotten.
        Raises:  ValueError when a revision after ``compacted`` is missing.
        """
        history, dead = cls(), list[Revision]()
        for number, key, created, deleted in rows:
            older = history._heads.get(key)
            version = Version(key, Revision(number), bool(deleted), older)
            version.create_revision = Revision(created)
            history._heads[key] = version
            if number > compacted:
                history._log.append(version)
                continue
            if older is not None:
                dead.append(older.revision)
                version.older = None
            if deleted:
                dead.append(version.revision)
                del history._heads[key]
        history.compacted = compacted
        history.revision = Revision(compacted + len(history._log))
        if history._log and history._log[-1].revision != history.revision:
            raise ValueError(
                f"the log ends at {history._log[-1].revision} but has {len(history._log)} entries after {compacted}"
            )
        history._live = sorted(key for key, head in history._heads.items() if not head.deleted)
        return history, sorted(dead)

    def _bounds(self, prefix: str, after: str) -> tuple[int, int]:
        """Where the live keys of a range begin and end. (str sorts by code point, which is the order of UTF-8.)"""
        low = max(bisect_left(self._live, prefix), bisect_right(self._live, after))
        stem = prefix.rstrip("\U0010ffff")
        high = bisect_left(self._live, stem[:-1] + chr(ord(stem[-1]) + 1)) if stem else len(self._live)
        return low, max(low, high)

    def _untouched(self, low: int, high: int, touched: set[str]) -> Iterator[str]:
        return (self._live[index] for index in range(low, high) if self._live[index] not in touched)
