"""Time and randomness, injected: nothing else in kaa reads a clock, sleeps, or draws a number.

``SystemClock`` is the machine's. ``VirtualClock`` moves only when told to, so a day of a cluster passes in milliseconds
and replays from its seed.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

from .values import MicroTime, Time


class Alarm(Protocol):
    """What a clock will call; it can be called off."""

    def cancel(self) -> object: ...


class Clock(Protocol):
    """The time of day in seconds since 1970, a monotonic reading in seconds, a sleep, and a source of randomness.

    ``call_later`` is for what waits by the thousand: it takes no task.
    """

    random: random.Random

    def now(self) -> float: ...

    def monotonic(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...

    def call_later(self, seconds: float, call: Callable[[], None]) -> Alarm: ...


class SystemClock:
    """The machine's own clock."""

    def __init__(self, seed: int | None = None) -> None:
        self.random: random.Random = random.Random(seed) if seed is not None else random.SystemRandom()

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def call_later(self, seconds: float, call: Callable[[], None]) -> Alarm:
        return asyncio.get_running_loop().call_later(seconds, call)


class VirtualClock:
    """A clock for tests. ``advance`` wakes sleepers in order and lets everything they started come to rest."""

    #: Turns of the event loop given to tasks after each wake-up, until the next sleeper is due.
    SETTLE_TURNS = 50

    def __init__(self, start: float = 1_800_000_000.0, seed: int = 0) -> None:
        self.random: random.Random = random.Random(seed)
        self._now = start
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        await self._until(seconds)

    def call_later(self, seconds: float, call: Callable[[], None]) -> Alarm:
        woken = self._until(seconds)
        woken.add_done_callback(lambda done: None if done.cancelled() else call())
        return woken

    def _until(self, seconds: float) -> asyncio.Future[None]:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), woken))
        return woken

    async def settle(self) -> None:
        """Let every task run until it waits."""
        for _ in range(self.SETTLE_TURNS):
            await asyncio.sleep(0)

    async def advance(self, seconds: float) -> None:
        """Move time forward, waking each sleeper at its own moment."""
        end = self._now + seconds
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, woken = heapq.heappop(self._sleepers)
            self._now = max(self._now, due)
            if not woken.done():
                woken.set_result(None)
            await self.settle()
        self._now = end


def format_time(seconds: float) -> Time:
    """Seconds since 1970 as RFC 3339 in whole seconds."""
    return _second(int(seconds))


@lru_cache(maxsize=16)
def _second(second: int) -> Time:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def format_micro_time(seconds: float) -> MicroTime:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: Time | MicroTime) -> float:
    """Seconds since 1970. Raises ValueError when ``text`` is no RFC 3339 time with a zone."""
    moment = datetime.fromisoformat(text.replace("Z", "+00:00") if text.endswith(("Z", "z")) else text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} names no time zone")
    return moment.timestamp()


def moment_of(text: Time | MicroTime | None) -> float | None:
    """The same of what others may have written: None for what is no time."""
    try:
        return parse_time(text) if text else None
    except ValueError:
        return None


def format_duration(seconds: float) -> str:
    """An age as kubectl and Table columns print it: ``45s``, ``3m20s``, ``5h``, ``2d3h``, ``400d``, ``3y10d``.

    Source: apimachinery pkg/util/duration HumanDuration.
    """
    whole = int(seconds)
    if whole < -1:
        return "<invalid>"
    if whole < 0:
        return "0s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if whole < 120:
        return f"{whole}s"
    if minutes < 10:
        return f"{minutes}m" + (f"{whole % 60}s" if whole % 60 else "")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h" + (f"{minutes % 60}m" if minutes % 60 else "")
    if hours < 48:
        return f"{hours}h"
    if hours < 192:
        return f"{days}d" + (f"{hours % 24}h" if hours % 24 else "")
    if days < 730:
        return f"{days}d"
    years, rest = days // 365, days % 365
    if days < 365 * 8:
        return f"{years}y" + (f"{rest}d" if rest else "")
    return f"{years}y"
