"""``kill -9`` at any moment loses no answered write, and shows no half one."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kaa.store.base import Event, Revision
from kaa.store.sqlite import open_sqlite

ROUNDS = 50
WRITERS = 12

#: Each writer swaps its own key and one that all share, now and then deletes, and prints what was answered.
#: A value says which revision it replaced, and is long enough to be torn.
CHILD = """
import asyncio, pathlib, sys
from kaa.store.base import Revision, RevisionMismatch
from kaa.store.sqlite import open_sqlite

def value(previous, key):
    return f"{previous} {key} ".encode() + key.encode() * 400 + b" end"

async def write(store, n):
    own, count = f"/own/{n}", 0
    while True:
        count += 1
        if count % 7 == 0:
            gone = await store.delete(own)
            if gone is not None:
                print("-", own, gone.mod_revision, flush=True)
        for key in (own, "/shared"):
            now = await store.get(key)
            previous = now.mod_revision if now else Revision(0)
            try:
                kv = await store.put(key, value(previous, key), expected=previous)
            except RevisionMismatch:
                continue
            print("+", key, kv.mod_revision, flush=True)

async def compact(store):
    while True:
        await asyncio.sleep(0.02)
        await store.compact(Revision(max(0, store.revision - 500)))

async def main():
    store = await open_sqlite(pathlib.Path(sys.argv[1]))
    print("open", store.revision, 0, flush=True)
    async with asyncio.TaskGroup() as tasks:
        for n in range(int(sys.argv[2])):
            tasks.create_task(write(store, n))
        tasks.create_task(compact(store))

asyncio.run(main())
"""


def run_and_kill(path: Path, seconds: float) -> list[tuple[str, str, int]]:
    """Start a writer, kill it so long after it began to write; returns what it was answered."""
    source = str(Path(__file__).parents[2] / "src")
    command = [sys.executable, "-X", "frozen_modules", "-c", CHILD, str(path), str(WRITERS)]
    with subprocess.Popen(command, env={"PYTHONPATH": source}, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        answered = [child.stdout.readline()]
        killed_at = time.monotonic() + seconds
        while time.monotonic() < killed_at:
            answered.append(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        answered += child.stdout.readlines()
        assert child.wait(10) == -signal.SIGKILL
    whole = [line.split() for line in answered if line.endswith("\n")]
    return [(what, key, int(revision)) for what, key, revision in whole[1:]]


async def read_log(path: Path, after: int) -> dict[int, Event]:
    """Everything the store holds after a revision; checks that nothing is missing inside."""
    store = await open_sqlite(path)
    try:
        events: dict[int, Event] = {}
        if store.revision > after:
            async for batch in store.watch("/", after=Revision(after)):
                events.update({event.revision: event for event in batch})
                if batch[-1].revision == store.revision:
                    break
        assert list(events) == list(range(after + 1, store.revision + 1))
        for kv in (await store.range("/")).items:
            assert kv.value.endswith(b" end")
        return events
    finally:
        await store.close()


def check_chain(event: Event) -> None:
    """A put holds a whole value, and replaced just the revision that it was meant to."""
    if event.kv.value or event.previous is None:
        previous, key, filling, end = event.kv.value.split()
        assert int(previous) == (event.previous.mod_revision if event.previous else 0)
        assert (key.decode(), filling, end) == (event.kv.key, key * 400, b"end")


@pytest.mark.timeout(90)
def test_no_answered_write_is_lost(tmp_path: Path) -> None:
    path, seeded, answers = tmp_path / "kaa.db", random.Random(1), 0
    for _ in range(ROUNDS):
        answered = run_and_kill(path, seeded.uniform(0.0, 0.12))
        last = max((revision for _, _, revision in answered), default=0)
        first = min((revision for _, _, revision in answered), default=1)
        # The child keeps 500 revisions behind its newest; what was answered before that may be compacted.
        events = asyncio.run(read_log(path, max(first - 1, last - 400)))
        for event in events.values():
            check_chain(event)
        for what, key, revision in answered:
            if revision > last - 400:
                event = events[revision]
                assert (event.kv.key, event.type) == (key, "PUT" if what == "+" else "DELETE")
                answers += 1
    assert answers > ROUNDS * 20
