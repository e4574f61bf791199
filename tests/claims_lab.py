"""A scheduler and the controller of claims on one fake API, under virtual time.

async def story(bench: Bench) -> None:
    await bench.put(make_class(), make_node("n1"), make_slice("s", device("a")), make_claim("c", request("r")), pod)
    assert bench.node_of("p") == "n1"

play(story)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from fake_api import FakeApi, running

from kaa.api.clock import VirtualClock
from kaa.api.types.core_v1 import Pod
from kaa.api.types.resource_v1 import ResourceClaim
from kaa.client.events import EventRecorder
from kaa.client.informer import Informers
from kaa.controllers.controller import Context
from kaa.controllers.resourceclaim import ResourceClaims
from kaa.scheduler.queue import Place
from kaa.scheduler.scheduler import Scheduler


class Bench:
    """``put`` changes the world and lets time pass."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.api = FakeApi(self.clock)
        self.recorder = EventRecorder(self.api, self.clock, "default-scheduler")
        self.informers = Informers(self.api, self.clock)
        self.scheduler = Scheduler(self.api, self.clock, self.recorder, informers=self.informers)
        self.controller = ResourceClaims(Context(lambda name: self.api, self.informers, self.clock))

    async def put(self, *objects: Any, seconds: float = 3) -> None:
        for obj in objects:
            self.api.put(obj)
        await self.clock.advance(seconds)

    def pod(self, name: str) -> Pod:
        return next(pod for pod in self.api.all(Pod) if pod.metadata.name == name)

    def node_of(self, name: str) -> str:
        return self.pod(name).spec.node_name or ""

    def why(self, name: str) -> str:
        found = [c for c in self.pod(name).status.conditions if c.type == "PodScheduled"]
        return f"{found[0].reason}: {found[0].message}" if found else ""

    def claim(self, name: str) -> ResourceClaim:
        return next(claim for claim in self.api.all(ResourceClaim) if claim.metadata.name == name)

    def devices(self, name: str) -> list[str] | None:
        allocation = self.claim(name).status.allocation
        return None if allocation is None else [one.device for one in allocation.devices.results]

    def places(self) -> dict[Place, int]:
        return {place: count for place, count in self.scheduler.queue.counts().items() if count}

    async def end(self, name: str) -> None:
        self.api.remove(self.pod(name))
        await self.clock.advance(3)


def play(story: Callable[[Bench], Awaitable[None]]) -> None:
    async def body() -> None:
        bench = Bench()
        async with running(
            bench.clock, bench.informers.run, bench.scheduler.run, bench.controller.run, bench.recorder.run
        ):
            await story(bench)

    asyncio.run(body())
