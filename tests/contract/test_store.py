"""What every store promises (``kaa.store.base``), run on each of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kaa.store.base import (
    Compacted,
    Event,
    EventType,
    FutureRevision,
    Revision,
    RevisionMismatch,
    Store,
    StoreUnavailable,
)
from kaa.store.encryption import AesGcm, EncryptedStore, Transformer
from kaa.store.memory import MemoryStore
from kaa.store.sqlite import open_sqlite

Case = Callable[[Store], Awaitable[None]]
Run = Callable[[Case], None]


@asynccontextmanager
async def opened(kind: str, folder: Path) -> AsyncIterator[Store]:
    """A fresh store; "sqlite, cold" keeps no value in memory, so that every read goes to the disk."""
    store: Store
    match kind:
        case "memory":
            store = MemoryStore()
        case "sqlite":
            store = await open_sqlite(folder / "kaa.db")
        case "encrypted":
            transformer = Transformer([(b"k8s:enc:aesgcm:v1:k:", AesGcm(bytes(32)))])
            store = EncryptedStore(MemoryStore(), lambda key: transformer)
        case _:
            store = await open_sqlite(folder / "kaa.db", cache_bytes=0)
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture(params=["memory", "sqlite", "sqlite, cold", "encrypted"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Runs a case on a fresh store, and checks that no task is left behind."""

    def runner(case: Case) -> None:
        async def whole() -> None:
            async with asyncio.timeout(20), opened(request.param, tmp_path) as store:
                await case(store)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(whole())

    return runner


def rev(number: int) -> Revision:
    return Revision(number)


async def take(events: AsyncIterator[Sequence[Event]], count: int) -> list[Event]:
    """The next ``count`` events or a few more, if one batch brings more."""
    taken: list[Event] = []
    while len(taken) < count:
        taken += await anext(events)
    return taken


def closing(store: Store, prefix: str, after: int) -> Any:
    return aclosing(store.watch(prefix, after=rev(after)))  # type: ignore[type-var]  # each is a generator


def keys(items: Sequence[Any]) -> list[str]:
    return [item.key for item in items]


def test_revisions_count_every_write(run: Run) -> None:
    async def case(store: Store) -> None:
        assert store.revision == 0
        first = await store.put("/a", b"1")
        second = await store.put("/b", b"1")
        third = await store.put("/a", b"2")
        assert (first.create_revision, first.mod_revision) == (1, 1)
        assert (second.create_revision, second.mod_revision) == (2, 2)
        assert (third.create_revision, third.mod_revision) == (1, 3)
        assert await store.delete("/nothing") is None
        assert store.revision == 3
        gone = await store.delete("/a")
        assert gone is not None
        assert (gone.value, gone.create_revision, gone.mod_revision) == (b"2", 1, 4)
        again = await store.put("/a", b"")
        assert (again.create_revision, again.mod_revision, again.value) == (5, 5, b"")

    run(case)


def test_get_now_and_then(run: Run) -> None:
    async def case(store: Store) -> None:
        assert await store.get("/a") is None
        await store.put("/a", b"1")
        await store.put("/a", b"2")
        await store.delete("/a")
        await store.put("/a", b"4")
        values = [await store.get("/a", revision=rev(n)) for n in (1, 2, 3, 4, 0)]
        assert [kv and kv.value for kv in values] == [b"1", b"2", None, b"4", b"4"]
        with pytest.raises(FutureRevision) as refused:
            await store.get("/a", revision=rev(5))
        assert refused.value.current == 4
        with pytest.raises(FutureRevision):
            await store.range("/", revision=rev(5))

    run(case)


@pytest.mark.parametrize("expected", [1, 7], ids=["an older revision", "a revision to come"])
def test_writes_compare_and_swap(run: Run, expected: int) -> None:
    async def case(store: Store) -> None:
        await store.put("/a", b"1", expected=rev(0))
        current = await store.put("/a", b"2", expected=rev(1))
        for attempt in (store.put("/a", b"3", expected=rev(expected)), store.delete("/a", expected=rev(expected))):
            with pytest.raises(RevisionMismatch) as refused:
                await attempt
            assert refused.value.current == current
        assert store.revision == 2
        assert await store.delete("/a", expected=rev(2)) is not None

    run(case)


def test_zero_expects_absence(run: Run) -> None:
    async def case(store: Store) -> None:
        assert await store.delete("/a", expected=rev(0)) is None
        with pytest.raises(RevisionMismatch) as refused:
            await store.delete("/a", expected=rev(3))
        assert refused.value.current is None
        made = await store.put("/a", b"1", expected=rev(0))
        for attempt in (store.put("/a", b"2", expected=rev(0)), store.delete("/a", expected=rev(0))):
            with pytest.raises(RevisionMismatch) as refused:
                await attempt
            assert refused.value.current == made
        await store.delete("/a")
        assert (await store.put("/a", b"3", expected=rev(0))).create_revision == 3

    run(case)


def test_a_mismatch_does_not_spoil_its_group(run: Run) -> None:
    async def case(store: Store) -> None:
        answers = await asyncio.gather(
            store.put("/a", b"1", expected=rev(0)),
            store.put("/a", b"2", expected=rev(0)),
            store.put("/a", b"3", expected=rev(1)),
            store.delete("/a", expected=rev(1)),
            store.delete("/a"),
            store.put("/b", b"1"),
            return_exceptions=True,
        )
        assert [type(answer) is RevisionMismatch for answer in answers] == [False, True, False, True, False, False]
        assert store.revision == 4
        assert keys((await store.range("/")).items) == ["/b"]

    run(case)


def test_a_key_must_be_text(run: Run) -> None:
    async def case(store: Store) -> None:
        good, bad = await asyncio.gather(store.put("/good", b""), store.put("/\ud800", b""), return_exceptions=True)
        assert not isinstance(good, BaseException)
        assert isinstance(bad, ValueError)

    run(case)


def test_range_is_in_the_order_of_utf8(run: Run) -> None:
    async def case(store: Store) -> None:
        names = [
            "/p/ß",
            "/p/a",
            "/p/\U0010ffff",
            "/p/\U0010ffffx",
            "/p/-",
            "/p/\uffee",
            "/p/a/b",
            "/q",
            "/p",
            "/p/\x00",
        ]
        for name in names:
            await store.put(name, name.encode())
        page = await store.range("/p/")
        wanted = sorted(name.encode() for name in names if name.startswith("/p/"))
        assert [kv.value for kv in page.items] == wanted
        assert (page.remaining, page.revision) == (0, len(names))
        assert len((await store.range("")).items) == len(names)
        assert keys((await store.range("/p/\U0010ffff")).items) == ["/p/\U0010ffff", "/p/\U0010ffffx"]
        assert (await store.range("/nothing")).items == ()
        assert keys((await store.range("/p/", after="/p/a", limit=1)).items) == ["/p/a/b"]
        assert keys((await store.range("/p/", after="/a", limit=1)).items) == ["/p/\x00"]
        assert (await store.range("/p/", after="/z")).items == ()

    run(case)


def test_pages_show_one_revision_while_writes_go_on(run: Run) -> None:
    async def case(store: Store) -> None:
        for n in range(50):
            await store.put(f"/p/{n:02}", b"old")
        page = await store.range("/p/", limit=7)
        then, seen = page.revision, list(page.items)
        while page.remaining:
            assert len(seen) + page.remaining == 50
            last = page.items[-1].key
            n = int(last[3:])
            await asyncio.gather(
                store.put(f"/p/{n + 1:02}", b"new"),
                store.delete(f"/p/{n + 2:02}"),
                store.put(f"/p/{n + 1:02}-between", b"new"),
                store.put(f"/p/{n:02}", b"new"),
                store.delete(f"/p/{n - 1:02}"),
            )
            page = await store.range("/p/", after=last, limit=7, revision=then)
            assert page.revision == then
            seen += page.items
        assert keys(seen) == [f"/p/{n:02}" for n in range(50)]
        assert {kv.value for kv in seen} == {b"old"}

    run(case)


def test_watch_tells_what_replaced_what(run: Run) -> None:
    async def case(store: Store) -> None:
        first = await store.put("/a/1", b"1")
        await store.put("/b", b"elsewhere")
        second = await store.put("/a/1", b"2")
        async with closing(store, "/a/", 0) as events:
            past = await take(events, 2)
            live = asyncio.ensure_future(take(events, 2))
            await asyncio.sleep(0)
            await store.delete("/a/1")
            third = await store.put("/a/1", b"3")
            seen = past + await live
        assert [event.type for event in seen] == [EventType.PUT, EventType.PUT, EventType.DELETE, EventType.PUT]
        assert [event.previous for event in seen] == [None, first, second, None]
        assert [event.revision for event in seen] == [1, 3, 4, 5]
        assert (seen[2].kv.value, seen[2].kv.create_revision, seen[3].kv) == (b"", 1, third)

    run(case)


@pytest.mark.parametrize("pause", [0, 3], ids=["keeps up", "falls behind"])
def test_watch_is_gap_free_and_once(run: Run, pause: int) -> None:
    async def case(store: Store) -> None:
        writers, writes = 8, 60

        async def write(n: int) -> None:
            for i in range(writes):
                await store.put(f"/{'ab'[i % 2]}/{n}", b"%d" % i)

        async def follow(prefix: str, after: int) -> list[Event]:
            seen: list[Event] = []
            async with closing(store, prefix, after) as events:
                async for batch in events:
                    seen += batch
                    for _ in range(pause):
                        await asyncio.sleep(0)
                    if len(seen) >= (writers * writes - after if prefix == "/" else writers * writes // 2):
                        return seen
            raise AssertionError("the watch ended")

        async with asyncio.TaskGroup() as tasks:
            followers = [tasks.create_task(follow(*start)) for start in (("/", 0), ("/a/", 0), ("/b/", 0), ("/", 17))]
            for n in range(writers):
                tasks.create_task(write(n))
        everything, a, b, late = (follower.result() for follower in followers)
        assert [event.revision for event in everything] == list(range(1, writers * writes + 1))
        assert sorted([*a, *b], key=lambda event: event.revision) == everything
        assert late == everything[17:]

    run(case)


def test_watch_past_many_elsewhere(run: Run) -> None:
    async def case(store: Store) -> None:
        await asyncio.gather(*(store.put(f"/noise/{n % 10}", b"") for n in range(300)))
        await asyncio.gather(*(store.put(f"/a/{n}", b"") for n in range(600)))
        async with closing(store, "/a/", 0) as events:
            assert [event.revision for event in await take(events, 600)] == list(range(301, 901))

    run(case)


def test_watch_from_a_revision_to_come(run: Run) -> None:
    async def case(store: Store) -> None:
        async with closing(store, "/", 2) as events:
            live = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            for n in range(3):
                await store.put(f"/{n}", b"")
            assert keys([event.kv for event in await live]) == ["/2"]

    run(case)


def test_a_cancelled_watch_leaves_nothing(run: Run) -> None:
    async def case(store: Store) -> None:
        watching = asyncio.ensure_future(anext(store.watch("/", after=rev(0))))  # type: ignore[arg-type]  # a coroutine
        await asyncio.sleep(0)
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching
        await store.put("/a", b"1")

    run(case)


def test_compaction_forgets_what_was_replaced(run: Run) -> None:
    async def case(store: Store) -> None:
        for n in range(3):
            await store.put("/a", b"%d" % n)
        await store.put("/gone", b"1")
        await store.delete("/gone")
        await store.put("/b", b"1")
        await store.put("/a", b"3")
        with pytest.raises(FutureRevision):
            await store.compact(rev(8))
        await store.compact(rev(5))
        await store.compact(rev(5))
        await store.compact(rev(2))
        assert keys((await store.range("/")).items) == ["/a", "/b"]
        then = await store.range("/", revision=rev(5))
        assert [kv.value for kv in then.items] == [b"2"]
        for refused in (store.get("/a", revision=rev(4)), store.range("/", revision=rev(4))):
            with pytest.raises(Compacted) as error:
                await refused
            assert error.value.oldest == 5
        with pytest.raises(Compacted):
            await anext(store.watch("/", after=rev(4)))
        async with closing(store, "/", 5) as events:
            seen = await take(events, 2)
        assert [(event.kv.key, event.previous and event.previous.value) for event in seen] == [
            ("/b", None),
            ("/a", b"2"),
        ]
        await store.compact(store.revision)
        assert (await store.put("/gone", b"2")).create_revision == 8

    run(case)


def test_compaction_overtakes_a_slow_watch_alone(run: Run) -> None:
    async def case(store: Store) -> None:
        await store.put("/a", b"0")
        async with closing(store, "/a", 0) as slow, closing(store, "/b", 0) as idle:
            assert len(await anext(slow)) == 1
            waiting = asyncio.ensure_future(anext(idle))
            await asyncio.sleep(0)
            for n in range(600):
                await store.put(f"/a/{n % 7}", b"%d" % n)
            await store.compact(store.revision)
            with pytest.raises(Compacted):
                await take(slow, 600)
            await store.put("/b", b"1")
            assert len(await waiting) == 1

    run(case)


def test_reads_and_writes_go_on_while_compacting(run: Run) -> None:
    async def case(store: Store) -> None:
        async def write(n: int) -> None:
            for i in range(40):
                await store.put(f"/{n}", b"%d" % i)
                kv = await store.get(f"/{n}")
                assert kv is not None
                assert kv.value == b"%d" % i
                assert len((await store.range(f"/{n}")).items) == 1

        async def compact() -> None:
            for _ in range(30):
                await store.compact(store.revision)

        async with asyncio.TaskGroup() as tasks:
            for n in range(8):
                tasks.create_task(write(n))
            tasks.create_task(compact())
        assert {kv.value for kv in (await store.range("/")).items} == {b"39"}

    run(case)


def test_many_writers_swap_one_counter(run: Run) -> None:
    async def case(store: Store) -> None:
        async def increment(times: int) -> None:
            while times:
                now = await store.get("/counter")
                value, expected = (int(now.value), now.mod_revision) if now else (0, rev(0))
                try:
                    await store.put("/counter", b"%d" % (value + 1), expected=expected)
                    times -= 1
                except RevisionMismatch:
                    continue

        await asyncio.gather(*(increment(10) for _ in range(10)))
        counter = await store.get("/counter")
        assert counter is not None
        assert (counter.value, store.revision) == (b"100", 100)

    run(case)


def test_a_cancelled_write_harms_no_other(run: Run) -> None:
    async def case(store: Store) -> None:
        writes = [asyncio.ensure_future(store.put(f"/{n}", b"")) for n in range(10)]
        await asyncio.sleep(0)
        writes[3].cancel()
        answers = await asyncio.gather(*writes, return_exceptions=True)
        assert sum(isinstance(answer, BaseException) for answer in answers) == 1
        assert (await store.put("/last", b"")).mod_revision == store.revision

    run(case)


def test_close_finishes_writes_and_ends_watches(run: Run) -> None:
    async def case(store: Store) -> None:
        async def follow() -> int:
            count = 0
            async for batch in store.watch("/", after=rev(0)):
                count += len(batch)
            return count

        following = asyncio.ensure_future(follow())
        writes = [asyncio.ensure_future(store.put(f"/{n}", b"")) for n in range(10)]
        await asyncio.sleep(0)
        await store.close()
        assert [kv.mod_revision for kv in await asyncio.gather(*writes)] == list(range(1, 11))
        assert await following <= 10
        await store.close()
        for refused in (
            store.put("/a", b""),
            store.delete("/a"),
            store.get("/a"),
            store.range("/"),
            store.compact(rev(0)),
        ):
            with pytest.raises(StoreUnavailable, match="closed"):
                await refused

    run(case)
