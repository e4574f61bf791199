"""The store for tests and simulations: everything ``sqlite`` does, but nothing outlives the process and no thread runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from .base import Revision
from .history import History
from .log import LogStore, Row, Values


class MemoryStore(LogStore):
    """A Store without a disk. May be made outside of a running loop."""

    def __init__(self) -> None:
        super().__init__(_Dictionary(), History())


class _Dictionary:
    """The Medium: values by revision."""

    def __init__(self) -> None:
        self._values: dict[Revision, bytes] = {}

    def append(self, rows: Sequence[Row], wanted: Sequence[Revision]) -> asyncio.Future[Values]:
        done: asyncio.Future[Values] = asyncio.get_running_loop().create_future()
        for revision, _, _, _, value in rows:
            if value is not None:
                self._values[Revision(revision)] = value
        done.set_result({revision: self._values[revision] for revision in wanted})
        return done

    async def read(self, revisions: Sequence[Revision]) -> Values:
        return {revision: self._values[revision] for revision in revisions if revision in self._values}

    def after(self, revision: Revision) -> asyncio.Future[Sequence[tuple[int, str, int, int]]]:
        raise AssertionError("a write to memory cannot fail")

    async def mark_compacted(self, revision: Revision) -> None:
        """Nothing to mark: no one will open this again."""

    async def forget(self, revisions: Sequence[Revision]) -> None:
        for revision in revisions:
            self._values.pop(revision, None)

    async def reclaim(self) -> bool:
        return False

    async def close(self) -> None:
        self._values.clear()
