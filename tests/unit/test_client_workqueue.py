"""The workqueue: one holder of a key, no key lost, failures later and later."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

from hypothesis import example, given, settings
from hypothesis import strategies as st

from kaa.api.clock import VirtualClock
from kaa.client.workqueue import WorkQueue


async def stop(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            await task


Step = tuple[str, int, float]
STEPS = st.lists(
    st.tuples(st.sampled_from(("add", "later", "wait")), st.integers(0, 3), st.sampled_from((0.0, 0.5, 3.0, 20.0))),
    max_size=40,
)


@settings(deadline=None, max_examples=50)
@example(steps=[("add", 0, 0.0)], fails=set(range(31)))
@given(steps=STEPS, fails=st.sets(st.integers(0, 30)))
def test_one_holder_a_key_and_every_wish_is_served(steps: list[Step], fails: set[int]) -> None:
    async def play() -> None:
        clock = VirtualClock()
        queue: WorkQueue[int] = WorkQueue(clock)
        held: set[int] = set()
        wanted: dict[int, float] = {}  #: {key: the last moment at which it was wished for}
        served: dict[int, float] = {}  #: {key: when it was last begun, successfully}
        turns = 0

        async def work() -> None:
            nonlocal turns
            while True:
                async with queue.claim() as claim:
                    assert claim.key not in held
                    held.add(claim.key)
                    turns += 1
                    fail, begun = turns in fails, clock.monotonic()
                    await clock.sleep(0.3)
                    held.discard(claim.key)
                    if fail:
                        claim.retry()
                    else:
                        claim.done()
                        served[claim.key] = begun

        tasks = [asyncio.create_task(work()) for _ in range(3)] + [asyncio.create_task(queue.run())]
        for what, key, seconds in steps:
            if what == "wait":
                await clock.advance(seconds)
                continue
            at = clock.monotonic()
            wanted[key] = max(wanted.get(key, 0), at)
            queue.add(key) if what == "add" else queue.add_after(key, seconds)
        await clock.advance(40_000)  # thirty failures of one key, which wait up to 1000 s each, and as much again
        assert len(queue) == 0
        assert not held
        for key, moment in wanted.items():
            assert served.get(key, 0) >= moment
        await stop(*tasks)

    asyncio.run(play())


def test_failures_wait_twice_as_long_each_time() -> None:
    async def play() -> None:
        clock = VirtualClock()
        queue: WorkQueue[str] = WorkQueue(clock, base_s=1, max_s=8)
        begun: list[float] = []

        async def work() -> None:
            while True:
                async with queue.claim():  # saying nothing is a failure
                    begun.append(clock.monotonic())

        tasks = [asyncio.create_task(work()), asyncio.create_task(queue.run())]
        queue.add("k")
        await clock.advance(30)
        waits = [round(b - a) for a, b in itertools.pairwise(begun)]
        assert waits == [1, 2, 4, 8, 8]
        await stop(*tasks)

    asyncio.run(play())


def test_wishes_overtaken_do_not_pile_up() -> None:
    async def play() -> None:
        clock = VirtualClock()
        queue: WorkQueue[str] = WorkQueue(clock)
        for n in range(1000):
            queue.add_after("k", 5000 - n)
        assert len(queue._later) <= 70

    asyncio.run(play())
