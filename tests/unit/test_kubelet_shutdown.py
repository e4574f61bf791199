"""A node that goes down, under virtual time: what its pods, its conditions and its metrics show, and in which order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from kubelet_world import World, make_pod

from kaa.api.types.core_v1 import Node
from kaa.kubelet.config import Period
from kaa.kubelet.metrics.exposition import text
from kaa.runtime.simulated import PREFIX

CRITICAL = 2_000_000_000
PERIODS = (Period(0, 20), Period(CRITICAL, 10))


class Machine:
    """Announces what a story says, and tells whether it is held up."""

    def __init__(self) -> None:
        self.news: asyncio.Queue[bool | None] = asyncio.Queue()
        self.held = False
        self.wanted_s = 0.0
        self.broken = 0

    async def shutdowns(self, wanted_s: float) -> AsyncIterator[bool]:
        if self.broken:
            self.broken -= 1
            raise OSError("no bus")
        self.wanted_s, self.held = wanted_s, True
        while (going_down := await self.news.get()) is not None:
            if not going_down:
                self.held = True
            yield going_down

    async def release(self) -> None:
        self.held = False


Story = Callable[[World, Machine], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., None]:
    def run(story: Story, *, broken: int = 0, **config: Any) -> None:
        async def go() -> None:
            machine = Machine()
            machine.broken = broken
            async with World(tmp_path, inhibitor=machine, **{"shutdown": PERIODS, **config}) as world:
                await story(world, machine)

        asyncio.run(go())

    return run


Play = Callable[..., None]


def ready_of(world: World) -> Any:
    node: Node = world.client.objects[Node, "", "n1"]
    assert node.status is not None
    return next(one for one in node.status.conditions if one.type == "Ready")


def page(world: World) -> str:
    return text(world.kubelet.metrics.families()).decode()


def test_pods_end_by_priority_and_the_machine_waits(play: Play) -> None:
    async def story(world: World, machine: Machine) -> None:
        stubborn = {f"{PREFIX}ignore-stop": "true"}
        world.client.put(make_pod("web", priority=0, annotations=stubborn, termination_grace_period_seconds=60))
        world.client.put(make_pod("dns", priority=CRITICAL))
        await world.rest()
        assert machine.wanted_s == 30
        began = world.clock.now()
        machine.news.put_nowait(True)
        await world.rest()
        ready = ready_of(world)
        assert (ready.status, ready.reason, ready.message) == ("False", "KubeletNotReady", "node is shutting down")
        assert ("n1", "NodeShutdown", "Shutdown manager detected shutdown event") in world.events.said
        world.client.put(make_pod("late"))
        await world.rest()
        late = world.pod("late").status
        assert (late.phase, late.reason) == ("Failed", "NodeShutdown")
        assert late.message == "Pod was rejected: Pod was rejected as the node is shutting down."
        await world.advance(15)
        assert (world.pod("dns").status.phase, machine.held) == ("Running", True)
        await world.advance(8)
        for name in ("web", "dns"):
            status = world.pod(name).status
            assert (status.phase, status.reason) == ("Failed", "Terminated")
            assert status.message == "Pod was terminated in response to imminent node shutdown."
            target = world.condition("DisruptionTarget", name)
            assert (target.status, target.reason, target.message) == ("True", "TerminationByKubelet", status.message)
        assert not machine.held
        assert 20 <= world.clock.now() - began <= 24
        assert "Evicted" not in world.events.reasons("web")

    play(story)


def test_a_shutdown_that_is_called_off(play: Play) -> None:
    async def story(world: World, machine: Machine) -> None:
        await world.rest()
        machine.news.put_nowait(True)
        await world.rest()
        assert not machine.held
        machine.news.put_nowait(False)
        await world.rest()
        assert machine.held
        assert ready_of(world).status == "True"
        world.client.put(make_pod("new"))
        await world.rest()
        assert world.pod("new").status.phase == "Running"

    play(story)


def test_its_times_are_told_in_the_next_life(play: Play) -> None:
    async def story(world: World, machine: Machine) -> None:
        world.client.put(make_pod("web"))
        await world.rest()
        machine.news.put_nowait(True)
        await world.advance(2)
        held = json.loads((world.config.root / "graceful_node_shutdown_state").read_text())
        assert set(held) == {"startTime", "endTime"}
        told = [line for line in page(world).splitlines() if line.startswith("kubelet_graceful_shutdown_")]
        assert len(told) == 2
        await world.restart()
        assert [line for line in page(world).splitlines() if line.startswith("kubelet_graceful_shutdown_")] == told

    play(story)


def test_a_machine_without_a_bus_is_asked_again(play: Play) -> None:
    async def story(world: World, machine: Machine) -> None:
        assert not machine.held
        await world.advance(4)
        assert machine.held
        machine.news.put_nowait(None)  # the bus went away
        await world.advance(10)
        machine.news.put_nowait(True)
        await world.rest()
        assert ready_of(world).status == "False"

    play(story, broken=2)


def test_without_periods_nobody_listens(play: Play) -> None:
    async def story(world: World, machine: Machine) -> None:
        assert world.kubelet.shutdown is None
        assert machine.wanted_s == 0

    play(story, shutdown=())


def test_a_pod_whose_time_is_up_is_left_behind(play: Play) -> None:
    """The group's time counts, not the pod's: what hangs does not hold the next group up."""

    async def story(world: World, machine: Machine) -> None:
        world.client.put(make_pod("web"))
        world.client.put(make_pod("dns", priority=CRITICAL))
        await world.rest()

        async def hangs(container_id: str, grace_s: float) -> None:
            await world.clock.sleep(1000)

        stop, [web] = (
            world.runtime.stop_container,
            [
                one
                for one in await world.runtime.list_containers()
                if (await sandbox_name(world, one.sandbox_id)) == "web"
            ],
        )
        world.runtime.stop_container = (  # type: ignore[method-assign]  # a container that cannot be stopped
            lambda container_id, grace_s: (hangs if container_id == web.id else stop)(container_id, grace_s)
        )
        machine.news.put_nowait(True)
        await world.advance(19)
        assert machine.held
        await world.advance(4)
        assert not machine.held
        assert world.pod("dns").status.phase == "Failed"

    play(story)


async def sandbox_name(world: World, sandbox_id: str) -> str:
    return next(one.name for one in await world.runtime.list_sandboxes() if one.id == sandbox_id)
