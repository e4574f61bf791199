"""The loop that controllers share: events of many parts are one look."""

from __future__ import annotations

import asyncio
import contextlib

from fake_api import FakeApi

from kaa.api.clock import VirtualClock
from kaa.client.informer import Informers
from kaa.client.workqueue import Key
from kaa.controllers.controller import Context, Controller

KEY = Key("default", "web")


class Looks(Controller[Key]):
    name = "looking-controller"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.times: list[float] = []

    async def reconcile(self, key: Key) -> None:
        self.times.append(self.clock.monotonic())


async def looked(parts: int, events: int) -> list[float]:
    """When a key with so many parts was looked at, one of them having changed every millisecond; from the first event on."""
    clock = VirtualClock()
    api = FakeApi(clock)
    looks = Looks(Context(lambda name: api, Informers(api, clock), clock))
    running = asyncio.create_task(looks.run())
    await clock.settle()
    began = clock.monotonic()
    for _ in range(events):
        looks.look_soon(KEY, parts)
        await clock.advance(0.001)
    await clock.advance(2)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    return [round(time - began, 3) for time in looks.times]


def test_looks_are_as_rare_as_they_are_dear() -> None:
    few, many = asyncio.run(looked(10, 50)), asyncio.run(looked(5000, 50))
    assert (len(few), few[0]) == (50, 0)
    assert many == [0.5]
