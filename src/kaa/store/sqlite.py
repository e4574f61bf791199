"""The embedded default: one SQLite file, for a control plane on one machine.

The file holds the log in two tables, so that opening reads the short rows alone, and both only ever grow at their end:

    log    revision, key, create_revision, deleted      what happened
    value  revision, value                              the bytes that it left
    state  name, value                                  ``compacted``: everything up to there may be gone

WAL with ``synchronous=FULL``: a transaction costs one fsync of the write-ahead log, and an answered write survives the
machine's power. One thread writes, one reads; the event loop waits for neither. After ``kill -9`` SQLite itself drops
the unfinished transaction. A lock file beside the database, held by the kernel for as long as the process lives, keeps
a second process out.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from .base import Revision, StoreUnavailable
from .history import History
from .log import LogStore, Row, Values

T = TypeVar("T")

#: ``user_version`` of the schema below. A file with a higher one was written by a newer kaa.
SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE log (revision INTEGER PRIMARY KEY, key TEXT NOT NULL, create_revision INTEGER NOT NULL, deleted INTEGER NOT NULL);
CREATE TABLE value (revision INTEGER PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE state (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO state VALUES ('compacted', 0);
"""
#: A page holds two values of a usual size; the log is folded into the file every so many pages.
PAGE_BYTES = 8192
CHECKPOINT_PAGES = 1000
#: Free pages that are kept for the next writes (or a quarter of the file), and how many are given back in one step.
SPARE_PAGES = 1024
RECLAIM_PAGES = 128
#: Revisions in one SELECT (SQLite's own limit is 32766 variables).
SELECT_ROWS = 500


class SqliteStore(LogStore):
    """A Store in one file; made by ``open_sqlite``."""


async def open_sqlite(path: Path, *, cache_bytes: int = 32 << 20) -> SqliteStore:
    """Open a store, making it where there is none.

    Args:   path: the database; ``-wal``, ``-shm`` and ``.lock`` files stand beside it. Its folder must exist.
            cache_bytes: how many bytes of values to keep in memory.
    Raises: StoreUnavailable: another process has it open, it is no such database, or the disk says no.
    """
    database = _Database(path)
    try:
        rows, compacted = await database.start()
        history, dead = History.load(rows, compacted)
    except ValueError as err:
        await database.close()
        raise StoreUnavailable(f"{path}: damaged: {err}") from err
    except BaseException:
        await database.close()
        raise
    return SqliteStore(database, history, unforgotten=dead, cache_bytes=cache_bytes)


class _Database:
    """The Medium. What runs on the writer's thread is named ``_write_…``, what runs on the reader's ``_read_…``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = -1
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._write_thread = ThreadPoolExecutor(1, f"store-write/{path.name}")
        self._read_thread = ThreadPoolExecutor(1, f"store-read/{path.name}")

    async def start(self) -> tuple[Sequence[tuple[int, str, int, int]], Revision]:
        """Lock, open, and read the log."""
        return await self._on(self._write_thread, self._write_start)

    def append(self, rows: Sequence[Row], wanted: Sequence[Revision]) -> asyncio.Future[Values]:
        return self._on(self._write_thread, lambda: self._write_append(rows, wanted))

    def read(self, revisions: Sequence[Revision]) -> Awaitable[Values]:
        return self._on(self._read_thread, lambda: _select(_open(self._reader), revisions))

    def after(self, revision: Revision) -> asyncio.Future[Sequence[tuple[int, str, int, int]]]:
        return self._on(self._write_thread, lambda: self._write_after(revision))

    def mark_compacted(self, revision: Revision) -> Awaitable[None]:
        statement = "UPDATE state SET value = ? WHERE name = 'compacted'"
        return self._on(self._write_thread, lambda: self._write_many([(statement, [(revision,)])]))

    def forget(self, revisions: Sequence[Revision]) -> Awaitable[None]:
        return self._on(self._write_thread, lambda: self._write_forget(revisions))

    def reclaim(self) -> Awaitable[bool]:
        return self._on(self._write_thread, self._write_reclaim)

    async def close(self) -> None:
        try:
            await self._on(self._read_thread, self._read_close)
            await self._on(self._write_thread, self._write_close)
        finally:
            self._read_thread.shutdown(wait=False)
            self._write_thread.shutdown(wait=False)

    def _on(self, thread: ThreadPoolExecutor, work: Callable[[], T]) -> asyncio.Future[T]:
        def guarded() -> T:
            try:
                return work()
            except (sqlite3.Error, OSError) as err:
                raise StoreUnavailable(f"{self._path}: {err}") from err

        return asyncio.get_running_loop().run_in_executor(thread, guarded)

    def _write_start(self) -> tuple[Sequence[tuple[int, str, int, int]], Revision]:
        self._lock = _lock(self._path)
        writer = self._writer = _connect(self._path)
        _prepare(writer, self._path)
        self._reader = _connect(self._path)
        rows = writer.execute("SELECT revision, key, create_revision, deleted FROM log ORDER BY revision").fetchall()
        compacted = writer.execute("SELECT value FROM state WHERE name = 'compacted'").fetchone()[0]
        return rows, Revision(compacted)

    def _write_append(self, rows: Sequence[Row], wanted: Sequence[Revision]) -> Values:
        values = _select(_open(self._writer), wanted)
        puts = [(row[0], row[4]) for row in rows if row[4] is not None]
        self._write_many(
            [
                ("INSERT INTO log VALUES (?, ?, ?, ?)", [row[:4] for row in rows]),
                ("INSERT INTO value VALUES (?, ?)", puts),
            ]
        )
        return values

    def _write_after(self, revision: Revision) -> Sequence[tuple[int, str, int, int]]:
        """Read the log's end on a fresh connection: the old one's last commit failed half way."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._writer = _connect(self._path)
        query = "SELECT revision, key, create_revision, deleted FROM log WHERE revision > ? ORDER BY revision"
        return self._writer.execute(query, (revision,)).fetchall()

    def _write_forget(self, revisions: Sequence[Revision]) -> None:
        rows = [(revision,) for revision in revisions]
        self._write_many([("DELETE FROM log WHERE revision = ?", rows), ("DELETE FROM value WHERE revision = ?", rows)])

    def _write_reclaim(self) -> bool:
        writer = _open(self._writer)
        free = writer.execute("PRAGMA freelist_count").fetchone()[0]
        if free <= max(SPARE_PAGES, writer.execute("PRAGMA page_count").fetchone()[0] // 4):
            return False
        # ``execute`` would stop after one page: this pragma answers with rows that have no column.
        writer.executescript(f"PRAGMA incremental_vacuum({RECLAIM_PAGES})")
        return True

    def _write_many(self, statements: Sequence[tuple[str, Sequence[tuple[object, ...]]]]) -> None:
        """One transaction; all of it or nothing."""
        writer = _open(self._writer)
        writer.execute("BEGIN IMMEDIATE")
        try:
            for statement, rows in statements:
                writer.executemany(statement, rows)
            writer.execute("COMMIT")
        except BaseException:
            if writer.in_transaction:
                writer.execute("ROLLBACK")
            raise

    def _read_close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _write_close(self) -> None:
        """Close, which folds the write-ahead log into the file; unlock even where that fails."""
        try:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
        finally:
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1


def _open(connection: sqlite3.Connection | None) -> sqlite3.Connection:
    if connection is None:
        raise StoreUnavailable("the database is not open")
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # this and the page size hold for a new file only
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {PAGE_BYTES * CHECKPOINT_PAGES * 2}")
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the schema in a new file; refuse one that a newer kaa, or something else, made."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if version == 0 and tables == 0:
        connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    elif version != SCHEMA_VERSION:
        raise StoreUnavailable(f"{path}: schema version is {version}, this kaa reads {SCHEMA_VERSION}")


def _select(connection: sqlite3.Connection, revisions: Sequence[Revision]) -> dict[Revision, bytes]:
    found: dict[Revision, bytes] = {}
    for start in range(0, len(revisions), SELECT_ROWS):
        part = revisions[start : start + SELECT_ROWS]
        marks = ",".join("?" * len(part))
        found.update(connection.execute(f"SELECT revision, value FROM value WHERE revision IN ({marks})", part))
    return found


def _lock(path: Path) -> int:
    """Take the lock file; returns its descriptor. The file stays: removing it would race with the next to come."""
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()} ({Path(sys.argv[0]).name})".encode(), 0)
    except BlockingIOError as err:
        owner = os.pread(lock, 200, 0).decode(errors="replace") or "unknown"
        os.close(lock)
        raise StoreUnavailable(f"{path} is open in process {owner}") from err
    except BaseException:
        os.close(lock)
        raise
    return lock
