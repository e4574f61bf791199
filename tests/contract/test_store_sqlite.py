"""What only the store on disk promises: opening again, locks, trouble with the disk, giving space back."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from kaa.store.base import Compacted, Revision, StoreUnavailable
from kaa.store.log import Row, Values
from kaa.store.sqlite import open_sqlite


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kaa.db"


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """The kernel refuses to let this process's files grow: to SQLite, a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_everything_is_there_after_opening_again(path: Path) -> None:
    async def case() -> None:
        store = await open_sqlite(path)
        await store.put("/a", b"1")
        await store.put("/a", b"2")
        await store.put("/b", b"1")
        await store.delete("/b")
        before = await store.range("/")
        await store.close()

        store = await open_sqlite(path)
        assert store.revision == 4
        assert await store.range("/") == before
        old = await store.get("/b", revision=Revision(3))
        assert old is not None
        assert old.value == b"1"
        batch = await anext(store.watch("/", after=Revision(0)))
        assert [(event.revision, event.previous and event.previous.value) for event in batch] == [
            (1, None),
            (2, b"1"),
            (3, None),
            (4, b"1"),
        ]
        await store.compact(Revision(4))
        await store.close()

        store = await open_sqlite(path)
        assert store.revision == 4
        assert await store.range("/") == before
        with pytest.raises(Compacted):
            await store.get("/a", revision=Revision(3))
        made = await store.put("/b", b"2", expected=Revision(0))
        assert made.create_revision == 5
        await store.close()

    asyncio.run(case())


def test_all_deleted_and_compacted_keeps_the_revision(path: Path) -> None:
    async def case() -> None:
        store = await open_sqlite(path)
        await store.put("/a", b"1")
        await store.delete("/a")
        await store.compact(store.revision)
        await store.close()
        store = await open_sqlite(path)
        assert (await store.put("/a", b"2")).mod_revision == 3
        await store.close()

    asyncio.run(case())


def test_a_compaction_that_a_crash_cut_short_is_finished(path: Path) -> None:
    async def case() -> None:
        store = await open_sqlite(path)
        for n in range(20):
            await store.put(f"/{n % 3}", b"%d" % n)
        await store.delete("/0")
        await store.close()
        with sqlite3.connect(path) as database:
            database.execute("UPDATE state SET value = 21 WHERE name = 'compacted'")
        database.close()

        store = await open_sqlite(path)
        assert [(kv.key, kv.value, kv.create_revision) for kv in (await store.range("/")).items] == [
            ("/1", b"19", 2),
            ("/2", b"17", 3),
        ]
        await store.compact(store.revision)
        await store.close()
        with sqlite3.connect(path) as database:
            assert database.execute("SELECT count(*) FROM log").fetchone() == (2,)
            assert database.execute("SELECT count(*) FROM value").fetchone() == (2,)
        database.close()

    asyncio.run(case())


def test_one_database_one_process(path: Path) -> None:
    script = f"""
import asyncio, pathlib
from kaa.store.sqlite import open_sqlite
async def main():
    store = await open_sqlite(pathlib.Path({str(path)!r}))
    print("open", flush=True)
    await asyncio.to_thread(input)
    await store.close()
asyncio.run(main())
"""
    source = str(Path(__file__).parents[2] / "src")
    other = subprocess.Popen(
        [sys.executable, "-c", script], env={"PYTHONPATH": source}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(StoreUnavailable, match=f"is open in process {other.pid}"):
            asyncio.run(open_sqlite(path))
        other.stdin.write(b"\n")
        other.stdin.close()
        assert other.wait(10) == 0

    async def reopen() -> None:
        store = await open_sqlite(path)
        with pytest.raises(StoreUnavailable, match="is open in process"):
            await open_sqlite(path)
        await store.close()

    asyncio.run(reopen())


def test_a_full_disk_refuses_writes_until_there_is_room(path: Path) -> None:
    async def case() -> None:
        store = await open_sqlite(path, cache_bytes=0)
        await store.put("/a", b"1")
        used = path.with_name("kaa.db-wal").stat().st_size
        with no_file_above(used + 100_000):
            attempts = [store.put(f"/{n}", bytes(10_000)) for n in range(100)]
            answers = await asyncio.gather(*attempts, return_exceptions=True)
            assert all(isinstance(answer, StoreUnavailable) for answer in answers)
            with pytest.raises(StoreUnavailable, match=str(path)):
                await store.put("/big", bytes(200_000))
            kv = await store.get("/a")
            assert kv is not None
            assert kv.value == b"1"
            small = await store.put("/small", b"fits")
        assert small.mod_revision == store.revision
        await asyncio.gather(*(store.put(f"/{n}", bytes(10_000)) for n in range(100)))
        seen = [event.revision async for batch in _until(store, store.revision) for event in batch]
        assert seen == list(range(1, store.revision + 1))
        await store.close()
        store = await open_sqlite(path)
        assert len((await store.range("/")).items) == 102
        await store.close()

    asyncio.run(case())


async def _until(store, revision):  # type: ignore[no-untyped-def]  # a test's helper
    async for batch in store.watch("/", after=Revision(0)):
        yield batch
        if batch[-1].revision >= revision:
            return


@pytest.mark.parametrize("landed", [True, False], ids=["durable all the same", "not durable"])
def test_a_write_of_unknown_fate_is_looked_up(path: Path, landed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit fails after, or before, it took effect: the store finds out which, and goes on from there."""

    async def case() -> None:
        store = await open_sqlite(path)
        await store.put("/a", b"1")
        append = store._medium.append

        def fail(rows: Sequence[Row], wanted: Sequence[Revision]) -> asyncio.Future[Values]:
            async def work() -> Values:
                if landed:
                    await append(rows, wanted)
                raise StoreUnavailable("disk I/O error")

            return asyncio.ensure_future(work())

        with monkeypatch.context() as patch:
            patch.setattr(store._medium, "append", fail)
            with pytest.raises(StoreUnavailable, match="disk I/O error"):
                await store.put("/a", b"2")
        waiting = asyncio.ensure_future(anext(store.watch("/", after=Revision(1))))
        await asyncio.sleep(0)
        kv = await store.put("/b", b"1")
        assert kv.mod_revision == (3 if landed else 2)
        first = (await waiting)[0]
        assert (first.kv.key, first.revision) == (("/a", 2) if landed else ("/b", 2))
        now = await store.get("/a")
        assert now is not None
        assert now.value == (b"2" if landed else b"1")
        await store.close()
        store = await open_sqlite(path)
        assert store.revision == kv.mod_revision
        await store.close()

    asyncio.run(case())


def test_what_is_no_database_is_refused(path: Path) -> None:
    path.write_bytes(b"something else entirely" * 1000)
    with pytest.raises(StoreUnavailable, match="not a database"):
        asyncio.run(open_sqlite(path))
    assert path.read_bytes().startswith(b"something else")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="nowhere"):
        asyncio.run(open_sqlite(tmp_path / "nowhere" / "kaa.db"))


def test_a_newer_schema_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(StoreUnavailable, match="schema version is 99"):
        asyncio.run(open_sqlite(path))


@pytest.mark.parametrize(
    "harm", ["DELETE FROM log WHERE revision = 2", "DELETE FROM log WHERE revision = 1"], ids=["inside", "first"]
)
def test_a_hole_in_the_log_is_noticed(path: Path, harm: str) -> None:
    async def case() -> None:
        store = await open_sqlite(path)
        for n in range(3):
            await store.put(f"/{n}", b"")
        await store.close()
        with sqlite3.connect(path) as database:
            database.execute(harm)
        database.close()
        with pytest.raises(StoreUnavailable, match="damaged"):
            await open_sqlite(path)

    asyncio.run(case())


def test_a_missing_value_is_an_error_and_no_answer(path: Path) -> None:
    async def case() -> None:
        store = await open_sqlite(path)
        await store.put("/a", b"1")
        await store.close()
        with sqlite3.connect(path) as database:
            database.execute("DELETE FROM value")
        database.close()
        store = await open_sqlite(path)
        refusals = (store.get("/a"), store.range("/"), anext(store.watch("/", after=Revision(0))), store.delete("/a"))
        for refused in refusals:
            with pytest.raises(StoreUnavailable, match="missing"):
                await refused
        assert (await store.put("/a", b"2", expected=Revision(0))).mod_revision == 3
        await store.close()

    asyncio.run(case())


def test_compaction_gives_space_back(path: Path) -> None:
    async def case() -> None:
        store = await open_sqlite(path)
        for _ in range(20):
            await asyncio.gather(*(store.put(f"/{n}", bytes(100_000)) for n in range(10)))
        await store.compact(store.revision)
        await store.close()

    asyncio.run(case())
    assert path.stat().st_size < 20 * 10 * 100_000 / 2


def test_a_read_does_not_wait_for_a_write(path: Path) -> None:
    async def case() -> None:
        store = await open_sqlite(path, cache_bytes=0)
        await store.put("/a", b"1")
        with sqlite3.connect(path, isolation_level=None) as other:  # holds the write lock, as a slow disk would
            other.execute("BEGIN IMMEDIATE")
            write = asyncio.ensure_future(store.put("/a", b"2"))
            await asyncio.sleep(0.05)
            async with asyncio.timeout(1):
                kv = await store.get("/a")
            assert kv is not None
            assert kv.value == b"1"
            assert not write.done()
            other.execute("ROLLBACK")
        other.close()
        assert (await write).mod_revision == 2
        await store.close()

    asyncio.run(case())
