"""A kubelet that is killed, a clock that jumps, an API server that is away: on the simulated runtime, under virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fault_world import JumpyClock
from kubelet_world import FakeClient, World, make_container, make_pod
from msgspec.structs import replace

from kaa.api.types.coordination_v1 import Lease
from kaa.api.types.core_v1 import ExecAction, Lifecycle, LifecycleHandler, Pod, Probe
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.api.types.node_v1 import RuntimeClass
from kaa.client.client import WatchType
from kaa.runtime.base import ContainerState, ExecResult
from kaa.runtime.simulated import Latencies

SIM = "simulated.kaa.dev/"
HOUR = 3600.0
Play = Callable[..., None]


class Outages(FakeClient):
    """An API server that can be away."""

    away = False

    async def _asked(self) -> None:
        await asyncio.sleep(0)
        if self.away:
            raise OSError("connection refused")

    async def get(self, *given: Any, **more: Any) -> Any:
        await self._asked()
        return await super().get(*given, **more)

    async def patch(self, *given: Any, **more: Any) -> Any:
        await self._asked()
        return await super().patch(*given, **more)

    async def create(self, *given: Any, **more: Any) -> Any:
        await self._asked()
        return await super().create(*given, **more)

    async def delete(self, *given: Any, **more: Any) -> None:
        await self._asked()
        await super().delete(*given, **more)


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    monkeypatch.setattr("kubelet_world.VirtualClock", JumpyClock)
    monkeypatch.setattr("kubelet_world.FakeClient", Outages)

    def run(story: Callable[[Any], Awaitable[None]]) -> None:
        async def go() -> None:
            async with World(tmp_path) as world:
                await story(world)

        asyncio.run(go())

    return run


def probe(**more: Any) -> Probe:
    return Probe(exec=ExecAction(command=("true",)), period_seconds=5, **more)


def watched(world: World) -> list[tuple[bool, bool | None, str]]:
    """What a watch of the pod shows from now on: (ready, started, its Ready condition)."""
    seen: list[tuple[bool, bool | None, str]] = []
    put = world.client.put

    def noted(obj: Any, *more: Any) -> Any:
        made = put(obj, *more)
        if isinstance(made, Pod) and made.status.container_statuses:
            status = made.status.container_statuses[0]
            ready = next(c.status for c in made.status.conditions if c.type == "Ready")
            seen.append((status.ready, status.started, ready))
        return made

    world.client.put = noted  # type: ignore[method-assign]  # a spy
    return seen


# ------------------------------------------------------------------------------------------------- a kubelet that is killed


def test_a_healthy_pod_stays_ready_over_a_kubelets_restart(play: Play) -> None:
    async def story(world: World) -> None:
        slow = probe(initial_delay_seconds=30)
        spec = make_container(startup_probe=probe(), readiness_probe=slow, liveness_probe=slow)
        world.client.put(make_pod(containers=(spec,)))
        await world.until(lambda: world.condition("Ready") and world.condition("Ready").status == "True")
        ready_since = world.condition("Ready").last_transition_time
        for _ in range(3):
            seen = watched(world)
            await world.restart()
            await world.advance(35, 5)
            assert {found for found in seen if found != (True, True, "True")} == set()
        assert world.condition("Ready").last_transition_time == ready_since
        assert world.pod().status.container_statuses[0].restart_count == 0

    play(story)


def test_a_pod_that_fell_ill_while_the_kubelet_was_away_is_found_out(play: Play) -> None:
    async def story(world: World) -> None:
        spec = make_container(readiness_probe=probe(failure_threshold=2))
        world.client.put(make_pod(containers=(spec,)))
        await world.until(lambda: world.condition("Ready") and world.condition("Ready").status == "True")
        await world.stop()

        async def no(*given: object) -> ExecResult:
            return ExecResult(exit_code=1)

        world.runtime.exec_sync = no  # type: ignore[method-assign]  # its containers say no from now on
        world.kubelet = world.make()
        await world.start()
        assert world.condition("Ready").status == "True"
        await world.until(lambda: bool(world.condition("Ready").status == "False"), 12)

    play(story)


@pytest.mark.parametrize("what", ["another container", "node was away"])
def test_readiness_is_not_believed_of(play: Play, what: str) -> None:
    """A container that runs since, or any after the node controller took the pod's readiness away."""

    async def story(world: World) -> None:
        spec = make_container(readiness_probe=probe(initial_delay_seconds=20))
        world.client.put(make_pod(containers=(spec,)))
        await world.until(lambda: world.condition("Ready") and world.condition("Ready").status == "True")
        await world.stop()
        if what == "another container":
            (container,) = await world.runtime.list_containers()
            world.runtime.exit(container.id, 1)
        else:
            conditions = tuple(
                replace(c, status="False") if c.type == "Ready" else c for c in world.pod().status.conditions
            )
            world.client.put(replace(world.pod(), status=replace(world.pod().status, conditions=conditions)))
            world.runtime.exec_sync = asyncio.Event().wait  # type: ignore[assignment,method-assign]  # the probe hangs
        world.kubelet = world.make()
        await world.start()
        await world.advance(5)
        assert not world.pod().status.container_statuses[0].ready
        assert world.condition("Ready").status == "False"

    play(story)


def test_hooks_and_init_containers_are_not_run_again(play: Play) -> None:
    async def story(world: World) -> None:
        ran: list[tuple[str, ...]] = []

        async def run(container_id: str, command: tuple[str, ...], timeout_s: float) -> ExecResult:
            ran.append(command)
            return ExecResult(exit_code=0)

        world.runtime.exec_sync = run  # type: ignore[method-assign]  # a spy
        hook = Lifecycle(post_start=LifecycleHandler(exec=ExecAction(command=("hook",))))
        pod = make_pod(
            containers=(make_container(lifecycle=hook),),
            init_containers=(make_container("setup"),),
            annotations={SIM + "exit-after.setup": "1s"},
        )
        world.client.put(pod)
        await world.until(lambda: world.pod().status.phase == "Running")
        for _ in range(3):
            await world.restart()
            await world.advance(3)
        assert ran == [("hook",)]
        assert [c.attempt for c in await world.runtime.list_containers()] == [0, 0]

    play(story)


def test_a_pod_deleted_while_it_starts_leaves_nothing(play: Play) -> None:
    """What is half started is waited for, so that the pod's end comes after it."""

    async def story(world: World) -> None:
        world.runtime._latencies = Latencies(sandbox_s=3, create_s=3, start_s=3)
        for wait in (1, 4, 7):
            world.client.put(make_pod())
            await world.advance(wait)
            world.client.ask_delete("web", world.clock.now(), grace_s=1)
            await world.until(lambda: not world.exists(), 20)
            await world.advance(5)
            assert await world.runtime.list_sandboxes() == []
            assert await world.runtime.list_containers() == []

    play(story)


# -------------------------------------------------------------------------------------------------------- a clock that jumps


@pytest.mark.parametrize("jump", [2 * HOUR, -2 * HOUR], ids=["forward", "back"])
def test_a_crash_loop_goes_on_in_its_own_time(play: Play, jump: float) -> None:
    async def story(world: Any) -> None:
        world.client.put(make_pod(annotations={SIM + "exit-after": "1s", SIM + "exit-code": "1"}))
        restarts = lambda: world.pod().status.container_statuses[0].restart_count  # noqa: E731
        await world.until(lambda: bool(world.pod().status.container_statuses) and restarts() == 2)
        await world.advance(2)  # 20 s of back-off have begun
        world.clock.offset = jump
        await world.advance(30)
        assert 3 <= restarts() <= 4
        await world.advance(200, 5)
        assert 5 <= restarts() <= 7, "neither a storm of restarts nor an endless wait"

    play(story)


@pytest.mark.parametrize("jump", [2 * HOUR, -2 * HOUR], ids=["forward", "back"])
def test_what_failed_is_tried_again_in_its_own_time(play: Play, jump: float) -> None:
    async def story(world: Any) -> None:
        world.runtime.pull_errors["busybox:1.36"] = "no such host"
        world.client.put(make_pod())
        await world.advance(3)
        world.clock.offset = jump
        del world.runtime.pull_errors["busybox:1.36"]
        await world.until(lambda: world.pod().status.phase == "Running", 30)

    play(story)


@pytest.mark.parametrize("jump", [2 * HOUR, -2 * HOUR], ids=["forward", "back"])
def test_leases_and_probes_go_on(play: Play, jump: float) -> None:
    async def story(world: Any) -> None:
        spec = make_container(readiness_probe=probe(), liveness_probe=probe(initial_delay_seconds=10))
        world.client.put(make_pod(containers=(spec,)))
        await world.until(lambda: world.condition("Ready") and world.condition("Ready").status == "True")
        asked: list[float] = []

        async def yes(*given: object) -> ExecResult:
            asked.append(world.clock.monotonic())
            return ExecResult(exit_code=0)

        world.runtime.exec_sync = yes
        world.clock.offset = jump
        renewed = set()
        for _ in range(6):
            await world.advance(11)  # a renewal each 10 s, and up to 4 % later
            renewed.add(world.client.objects[Lease, "kube-node-lease", "n1"].spec.renew_time)
        assert len(renewed) == 6
        assert len(asked) >= 22
        assert world.pod().status.container_statuses[0].restart_count == 0
        await world.restart()
        await world.advance(10)
        assert world.condition("Ready").status == "True"

    play(story)


@pytest.mark.parametrize("jump", [2 * HOUR, -2 * HOUR], ids=["forward", "back"])
def test_a_grace_period_is_no_longer_than_it_is(play: Play, jump: float) -> None:
    async def story(world: Any) -> None:
        world.client.put(make_pod(annotations={SIM + "ignore-stop": "true"}))
        await world.rest()
        world.client.ask_delete("web", world.clock.now(), grace_s=20)
        await world.advance(2)
        world.clock.offset = jump
        await world.until(lambda: not world.exists(), 45)

    play(story)


# ------------------------------------------------------------------------------------------------ an API server that is away


def test_containers_are_restarted_without_the_api_server_and_told_of_after(play: Play) -> None:
    async def story(world: Any) -> None:
        world.client.put(make_pod())
        world.client.put(make_pod("gone"))
        await world.rest()
        world.client.ask_delete("gone", world.clock.now(), grace_s=5)
        world.client.away = True
        (container,) = [c for c in await world.runtime.list_containers() if c.labels["io.kubernetes.pod.name"] == "web"]
        world.runtime.exit(container.id, 7)
        await world.advance(90)
        mine = await world.runtime.list_containers(sandbox_id=container.sandbox_id)
        assert [c.attempt for c in mine if c.state is ContainerState.RUNNING] == [1]
        assert world.pod().status.container_statuses[0].restart_count == 0
        world.client.away = False
        await world.until(lambda: world.pod().status.container_statuses[0].restart_count == 1, 11)
        assert world.pod().status.container_statuses[0].last_state.terminated.exit_code == 7
        await world.until(lambda: not world.exists("gone"), 11)

    play(story)


def test_a_container_starts_again_though_its_runtime_class_cannot_be_read(tmp_path: Path) -> None:
    async def go() -> None:
        async with World(tmp_path) as world:
            made = world.client.put(RuntimeClass(metadata=ObjectMeta(name="safe"), handler="kata"))
            world.client.put(make_pod(runtime_class_name="safe"))
            await world.rest()
            [sandbox] = await world.runtime.list_sandboxes()
            assert sandbox.runtime_handler == "kata"
            world.client.put(made, WatchType.DELETED)
            [first] = await world.runtime.list_containers()
            world.runtime.exit(first.id, 1)
            await world.until(lambda: world.pod().status.container_statuses[0].restart_count == 1)
            assert world.pod().status.container_statuses[0].state.running is not None

    asyncio.run(go())
