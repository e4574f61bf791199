"""Statuses on their way: what is news goes at once, the rest with the next, and the newest arrives in any case."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import pytest
from fake_api import FakeApi
from msgspec.structs import replace
from world import make_pod

from kaa.api.clock import VirtualClock
from kaa.api.types.core_v1 import (
    ContainerState,
    ContainerStateRunning,
    ContainerStateTerminated,
    ContainerStateWaiting,
    ContainerStatus,
    Pod,
    PodCondition,
    PodStatus,
)
from kaa.kubelet.status_writer import PATIENCE_S, StatusWriter

CREATING = ContainerState(waiting=ContainerStateWaiting(reason="ContainerCreating"))
PULLING = ContainerState(waiting=ContainerStateWaiting(reason="ImagePullBackOff"))
RUNNING = ContainerState(running=ContainerStateRunning(started_at="2026-01-01T00:00:00Z"))
ENDED = ContainerState(terminated=ContainerStateTerminated(exit_code=143))


def status(phase: str, *states: ContainerState, ready: bool = False, ip: str = "", generation: int = 1) -> PodStatus:
    containers = [
        ContainerStatus(name=f"c{n}", image="i", image_id="", state=s, ready=ready, restart_count=0)
        for n, s in enumerate(states)
    ]
    return PodStatus(
        phase=phase,
        pod_ip=ip or None,
        observed_generation=generation,
        conditions=(PodCondition(type="Ready", status=str(ready), observed_generation=generation),),
        container_statuses=tuple(containers),
    )


class World:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.api = FakeApi(self.clock)
        self.writer = StatusWriter(self.api, self.clock)  # type: ignore[arg-type]
        self.api.put(make_pod("web"))

    def pod(self) -> Pod:
        (pod,) = self.api.all(Pod)
        return pod  # type: ignore[no-any-return]

    def say(self, status: PodStatus) -> None:
        self.writer.set(self.pod(), status)

    async def writes(self, seconds: float = 0.01) -> int:
        """How many requests go out within so many seconds."""
        before = self.api.calls["patch/status", "pods"]
        await self.clock.advance(seconds)
        return self.api.calls["patch/status", "pods"] - before


def play(story: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        world = World()
        running = asyncio.create_task(world.writer.run())
        await story(world)
        running.cancel()

    asyncio.run(main())


def test_a_pod_that_starts_at_once_is_told_of_once() -> None:
    async def story(world: World) -> None:
        world.say(status("Pending", CREATING))
        assert await world.writes() == 0
        world.say(status("Pending", CREATING, ip="10.0.0.1"))
        assert await world.writes() == 0
        world.say(status("Running", RUNNING, ready=True, ip="10.0.0.1"))
        assert await world.writes() == 1
        assert world.pod().status.phase == "Running"
        assert await world.writes(2 * PATIENCE_S) == 0

    play(story)


def test_one_that_takes_long_is_told_of_meanwhile() -> None:
    async def story(world: World) -> None:
        world.say(status("Pending", CREATING))
        assert await world.writes(PATIENCE_S + 0.1) == 1
        assert world.pod().status.container_statuses[0].state == CREATING
        world.say(status("Pending", PULLING))
        assert await world.writes() == 1, "something is wrong: that is news"

    play(story)


@pytest.mark.parametrize(
    ("after", "news"),
    [
        (status("Running", RUNNING, RUNNING, ready=False), True),
        (status("Running", RUNNING, ENDED, ready=True), True),
        (status("Failed", ENDED, ENDED), True),
        (status("Running", ENDED, ENDED), False),
        (status("Running", RUNNING, RUNNING, ready=True, generation=2), False),
    ],
)
def test_what_is_news_of_a_deleted_pod(after: PodStatus, news: bool) -> None:
    async def story(world: World) -> None:
        world.say(status("Running", RUNNING, RUNNING, ready=True))
        assert await world.writes() == 1
        meta = replace(world.pod().metadata, deletion_timestamp="2026-01-01T00:00:00Z", finalizers=("kaa.dev/x",))
        world.api.put(replace(world.pod(), metadata=meta))
        world.say(after)
        assert await world.writes() == news
        await world.writes(PATIENCE_S)
        assert world.pod().status == after

    play(story)


def test_what_somebody_waits_for_goes_at_once() -> None:
    async def story(world: World) -> None:
        world.say(status("Succeeded", ENDED))
        assert await world.writes() == 1
        world.say(status("Succeeded", ENDED, generation=2))
        assert await world.writes() == 0
        flushed = asyncio.create_task(world.writer.flushed(world.pod().metadata.uid or ""))
        assert await world.writes() == 1
        assert flushed.done()

    play(story)


@pytest.mark.parametrize("seed", range(50))
def test_the_newest_arrives_in_any_case(seed: int) -> None:
    async def story(world: World) -> None:
        random = Random(seed)
        last = world.pod().status
        for _ in range(random.randrange(1, 12)):
            states = random.choices((CREATING, PULLING, RUNNING, ENDED), k=2)
            last = status(random.choice(("Pending", "Running", "Failed")), *states, ready=random.random() < 0.5)
            world.say(last)
            await world.writes(random.choice((0.001, 0.3, 1.1)))
        await world.writes(PATIENCE_S)
        assert world.pod().status == last
        await asyncio.wait_for(world.writer.flushed(world.pod().metadata.uid or ""), 1)

    play(story)
