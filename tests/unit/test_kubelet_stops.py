"""Ends of containers: hooks, grace that shrinks, evictions, log rotation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from kubelet_world import World, make_container, make_pod

from kaa.api.types.core_v1 import ExecAction, Lifecycle, LifecycleHandler, SleepAction
from kaa.kubelet.log_rotation import LogRotation

Play = Callable[..., None]
SIM = "simulated.kaa.dev/"


@pytest.fixture
def play(tmp_path: Path) -> Play:
    def run(story: Callable[[World], Awaitable[None]], **config: Any) -> None:
        async def go() -> None:
            async with World(tmp_path, **config) as world:
                await story(world)

        asyncio.run(go())

    return run


def hooked(pre_stop: LifecycleHandler | None = None, post_start: LifecycleHandler | None = None) -> Any:
    return make_container(lifecycle=Lifecycle(pre_stop=pre_stop, post_start=post_start))


def test_pre_stop_comes_before_the_signal(play: Play) -> None:
    async def story(world: World) -> None:
        hook = LifecycleHandler(sleep=SleepAction(seconds=3))
        world.client.put(make_pod(containers=(hooked(pre_stop=hook),)))
        await world.rest()
        world.client.ask_delete("web", world.clock.now())
        await world.advance(2)
        assert world.exists()
        await world.advance(2)
        assert not world.exists()

    play(story)


def test_pre_stop_is_cut_by_the_grace_period(play: Play) -> None:
    async def story(world: World) -> None:
        hook = LifecycleHandler(sleep=SleepAction(seconds=100))
        world.client.put(make_pod(containers=(hooked(pre_stop=hook),)))
        await world.rest()
        world.client.ask_delete("web", world.clock.now(), grace_s=4)
        await world.advance(6)
        assert not world.exists()
        assert "FailedPreStopHook" in world.events.reasons("web")

    play(story)


def test_failed_post_start_restarts(play: Play) -> None:
    async def story(world: World) -> None:
        hook = LifecycleHandler(exec=ExecAction(command=("false",)))
        world.client.put(make_pod(containers=(hooked(post_start=hook),)))
        await world.rest()
        assert world.pod().status.container_statuses[0].restart_count >= 1
        assert "FailedPostStartHook" in world.events.reasons("web")

    play(story)


def test_container_is_not_ready_while_post_start_runs(play: Play) -> None:
    async def story(world: World) -> None:
        hook = LifecycleHandler(sleep=SleepAction(seconds=3))
        world.client.put(make_pod(containers=(hooked(post_start=hook),)))
        await world.rest()
        assert not world.pod().status.container_statuses[0].ready
        await world.advance(4)
        assert world.pod().status.container_statuses[0].ready

    play(story)


def test_less_grace_asked_later_shortens_the_wait(play: Play) -> None:
    async def story(world: World) -> None:
        world.client.put(make_pod(annotations={SIM + "ignore-stop": "true"}))
        await world.rest()
        world.client.ask_delete("web", world.clock.now(), grace_s=60)
        await world.advance(5)
        world.client.ask_delete("web", world.clock.now(), grace_s=3)
        await world.advance(4)
        assert not world.exists()
        assert world.events.reasons("web").count("Killing") == 1

    play(story)


def test_eviction_fails_the_pod_and_leaves_it(play: Play) -> None:
    async def story(world: World) -> None:
        world.client.put(make_pod())
        await world.rest()
        world.kubelet.workers["uid-web"].evict("The node was low on resource: memory.", 1.0)
        await world.rest()
        status = world.pod().status
        assert (status.phase, status.reason) == ("Failed", "Evicted")
        assert world.condition("Ready").reason == "PodFailed"

    play(story)


def test_a_finished_pod_keeps_its_statuses_over_a_restart(play: Play) -> None:
    async def story(world: World) -> None:
        world.client.put(make_pod(restart_policy="Never", annotations={SIM + "exit-after": "1s"}))
        await world.rest()
        await world.advance(2)
        before = world.pod().status
        await world.restart()
        await world.advance(2)
        assert world.pod().status == before
        for sandbox in await world.runtime.list_sandboxes():
            await world.runtime.remove_sandbox(sandbox.id)
        await world.restart()
        assert world.pod().status.container_statuses == before.container_statuses

    play(story)


def test_large_logs_are_rotated(play: Play) -> None:
    async def story(world: World) -> None:
        world.client.put(make_pod())
        await world.rest()
        [container] = await world.runtime.list_containers()
        path = Path(container.log_path)
        await asyncio.to_thread(path.parent.mkdir, parents=True)
        for _ in range(6):
            await asyncio.to_thread(path.write_text, "x" * 100)
            await world.advance(2)
            await LogRotation(world.runtime, world.clock, world.config).step()
        left = sorted(p.name for p in await asyncio.to_thread(lambda: list(path.parent.iterdir())))
        assert len(left) == 4
        assert all(name.startswith("0.log.20") for name in left)

    play(story, log_max_bytes=50)


def test_logs_go_with_their_pod(play: Play) -> None:
    async def story(world: World) -> None:
        world.client.put(make_pod())
        await world.rest()
        root = world.config.pod_log_root
        for name in ("default_web_uid-web", "default_old_uid-old", "something-else"):
            await asyncio.to_thread((root / name / "main").mkdir, parents=True)
        await world.kubelet.clean()
        left = await asyncio.to_thread(lambda: sorted(p.name for p in root.iterdir()))
        assert left == ["default_web_uid-web", "something-else"]
        world.client.ask_delete("web", world.clock.now())
        await world.rest()
        assert await asyncio.to_thread(lambda: [p.name for p in root.iterdir()]) == ["something-else"]

    play(story)
