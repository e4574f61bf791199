"""How fast the store on disk is: ``python bench/store.py [folder]``. Values of 3.4 KB, a pod's size; takes some 10 s.

Every put is answered after its fsync. The raw line beside them is SQLite alone, without a loop or threads: what this
disk gives in groups of 32, so that the ratio says what our own code costs.
"""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from kaa.store.base import Revision
from kaa.store.sqlite import SqliteStore, open_sqlite

VALUE = bytes(range(256)) * 13 + bytes(72)
KEYS = 5_000


def report(what: str, figure: str) -> None:
    print(f"{what:<52} {figure:>22}", flush=True)


async def rate(work: Callable[[int], Awaitable[object]], total: int, in_flight: int) -> float:
    """Calls a second, with so many under way at a time."""
    numbers = iter(range(total))

    async def worker() -> None:
        for n in numbers:
            await work(n)

    begin = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(in_flight)))
    return total / (time.perf_counter() - begin)


def raw(folder: Path, in_group: int, total: int) -> float:
    """Rows a second of SQLite itself."""
    database = sqlite3.connect(folder / "raw.db", isolation_level=None)
    for pragma in ("page_size = 8192", "journal_mode = WAL", "synchronous = FULL"):
        database.execute(f"PRAGMA {pragma}")
    database.execute("CREATE TABLE value (revision INTEGER PRIMARY KEY, value BLOB)")
    begin = time.perf_counter()
    for first in range(0, total, in_group):
        database.execute("BEGIN IMMEDIATE")
        database.executemany("INSERT INTO value VALUES (?, ?)", [(first + n, VALUE) for n in range(in_group)])
        database.execute("COMMIT")
    elapsed = time.perf_counter() - begin
    database.close()
    return total / elapsed


async def puts(store: SqliteStore, in_flight: int, total: int) -> None:
    groups = 0
    append = store._medium.append

    def counted(*args):  # type: ignore[no-untyped-def]
        nonlocal groups
        groups += 1
        return append(*args)

    store._medium.append = counted  # type: ignore[method-assign]
    cpu = time.process_time()
    figure = await rate(lambda n: store.put(f"/registry/pods/default/web-{n % KEYS}", VALUE), total, in_flight)
    cpu = (time.process_time() - cpu) / total
    del store._medium.append
    report(f"put, {in_flight} in flight", f"{figure:,.0f}/s")
    report("    WAL fsyncs a put / CPU a put", f"{groups / total:.3f} / {cpu * 1e6:.0f} us")


async def fan_out(store: SqliteStore, watchers: int, writes: int) -> None:
    """From asking for a put to the last of many watchers having its event."""
    begun = 0.0
    delays: list[float] = []
    seen = 0
    everyone = asyncio.Event()

    async def follow() -> None:
        nonlocal seen
        async for _ in store.watch("/registry/pods/", after=store.revision):
            seen += 1
            if seen == watchers:
                delays.append(time.perf_counter() - begun)
                everyone.set()

    async with asyncio.TaskGroup() as tasks:
        followers = [tasks.create_task(follow(), name=f"watcher-{n}") for n in range(watchers)]
        await asyncio.sleep(0)
        for _ in range(writes):
            seen, begun = 0, time.perf_counter()
            everyone.clear()
            await store.put("/registry/pods/default/web-0", VALUE)
            await everyone.wait()
        for follower in followers:
            follower.cancel()
    delays.sort()
    middle, high = delays[len(delays) // 2], delays[len(delays) * 99 // 100]
    report(f"put to the last of {watchers} watchers, p50 / p99", f"{middle * 1e3:.2f} / {high * 1e3:.2f} ms")


async def reads(store: SqliteStore, label: str) -> None:
    total = 20_000
    figure = await rate(lambda n: store.get(f"/registry/pods/default/web-{n * 7 % KEYS}"), total, 32)
    report(f"get, 32 in flight, {label}", f"{figure:,.0f}/s")
    begin = time.perf_counter()
    page = await store.range("/registry/pods/")
    assert len(page.items) == KEYS
    report(f"range of {KEYS:,}, {label}", f"{(time.perf_counter() - begin) * 1e3:.1f} ms")


async def compaction(store: SqliteStore) -> None:
    """Compacts all that was written, and tells how long a put waits meanwhile."""
    before, slowest = store.revision, 0.0
    begin = time.perf_counter()
    compacting = asyncio.ensure_future(store.compact(Revision(before)))
    while not compacting.done():
        asked = time.perf_counter()
        await store.put("/registry/leases/one", b"x" * 300)
        slowest = max(slowest, time.perf_counter() - asked)
    await compacting
    report(f"compacting {before:,} revisions", f"{time.perf_counter() - begin:.2f} s")
    report("    slowest put meanwhile", f"{slowest * 1e3:.1f} ms")


async def main(folder: Path) -> None:
    report("SQLite alone, groups of 32", f"{raw(folder, 32, 16_000):,.0f} rows/s")
    report("SQLite alone, one by one", f"{raw_single(folder):,.0f} rows/s")
    store = await open_sqlite(folder / "kaa.db")
    for in_flight, total in ((1, 2_000), (32, 20_000), (256, 30_000)):
        await puts(store, in_flight, total)
    await reads(store, "in memory (32 MiB)")
    for watchers in (1, 100, 1000):
        await fan_out(store, watchers, 100)
    await compaction(store)
    await store.close()
    begin = time.perf_counter()
    store = await open_sqlite(folder / "kaa.db", cache_bytes=0)
    report(f"opening with {KEYS:,} keys", f"{(time.perf_counter() - begin) * 1e3:.1f} ms")
    await reads(store, "from disk")
    await store.close()
    report("peak resident memory", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


def raw_single(folder: Path) -> float:
    (folder / "raw.db").unlink()
    return raw(folder, 1, 2_000)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else ".") as scratch:
        asyncio.run(main(Path(scratch)))
