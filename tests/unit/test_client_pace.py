"""So much a second, or once it is quiet."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from kaa.api.clock import VirtualClock
from kaa.client.pace import Lull, Rate

ROUNDING = 1e-4  #: the clock counts from 1970


def test_what_is_taken_comes_back_up_to_a_burst() -> None:
    clock = VirtualClock()
    rate = Rate(clock, 2, 3)

    async def go() -> None:
        assert [rate.take() for _ in range(4)] == [True, True, True, False]
        await clock.advance(0.5)
        assert [rate.take(), rate.take()] == [True, False]
        await clock.advance(100)
        assert [rate.take() for _ in range(4)] == [True, True, True, False]

    asyncio.run(go())


def test_no_rate_no_limit() -> None:
    rate = Rate(VirtualClock(), 0, 0)
    assert all(rate.take() for _ in range(9))
    assert not any(rate.wait_s() for _ in range(9))


@pytest.mark.parametrize("seed", range(20))
def test_who_waits_for_a_turn_keeps_the_rate(seed: int) -> None:
    random = Random(seed)
    clock = VirtualClock()
    per_second, burst = random.randrange(1, 20), random.randrange(1, 10)
    rate = Rate(clock, per_second, burst)
    went: list[float] = []

    async def go() -> None:
        for _ in range(40):
            await clock.advance(random.choice((0, 0, 0, 0.1, 2)))
            if wait_s := rate.wait_s():
                await clock.advance(wait_s)
            went.append(clock.monotonic())

    asyncio.run(go())
    for first in range(40):
        for last in range(first, 40):
            assert last - first + 1 <= burst + (went[last] - went[first]) * per_second + ROUNDING


@pytest.mark.parametrize("seed", range(20))
def test_what_can_wait_comes_when_it_is_quiet_or_patience_ends(seed: int) -> None:
    quiet_s, patience_s = 0.5, 2.0
    random = Random(seed)
    clock = VirtualClock()
    lull = Lull(clock, quiet_s, patience_s)
    stirred, came = [-10.0], []

    async def later() -> None:
        await lull.wait()
        came.append(clock.monotonic())

    async def go() -> None:
        begin = clock.monotonic()
        waiting = asyncio.create_task(later())
        await clock.settle()
        for _ in range(20):
            if random.random() < 0.6:
                lull.stir()
                stirred.append(clock.monotonic())
            await clock.advance(random.choice((0.1, 0.3, 0.6)))
        await waiting
        (at,) = came
        last = max(moment for moment in stirred if moment < at or moment == begin)
        assert at == pytest.approx(begin) or at == pytest.approx(min(max(last, begin) + quiet_s, begin + patience_s))

    asyncio.run(go())
