"""Ends of containers: hooks, grace that shrinks, evictions, log rotation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from kubelet_world import World, make_container, make_pod

from kaa.api.types.core_v1 import (
    ExecAction,
    HTTPGetAction,
    Lifecycle,
    LifecycleHandler,
    SleepAction,
    TCPSocketAction,
)
from kaa.kubelet.log_rotation import LogRotation
from kaa.kubelet.pod_host import QUIET_S
from kaa.kubelet.probing.hooks import HookFailed, run_hook
from kaa.runtime.base import ContainerState, ExecResult

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
        assert "FailedPreStopHook" not in world.events.reasons("web"), "it did not fail, its time was over"

    play(story)


def test_a_pre_stop_process_that_is_cut_has_failed(play: Play) -> None:
    async def story(world: World) -> None:
        async def as_long_as_its_container(container_id: str, *_: Any) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cut.append((await world.runtime.container(container_id)).state)

        cut: list[ContainerState] = []
        world.runtime.exec_sync = as_long_as_its_container  # type: ignore[method-assign]
        hook = LifecycleHandler(exec=ExecAction(command=("wait",)))
        world.client.put(make_pod(containers=(hooked(pre_stop=hook),)))
        await world.rest()
        world.client.ask_delete("web", world.clock.now(), grace_s=4)
        await world.advance(6)
        assert not world.exists()
        assert ("web", "FailedPreStopHook", "PreStopHook failed") in world.events.said
        assert cut == [ContainerState.EXITED], "it runs on until its container is killed"

    play(story)


def test_hooks_of_sidecars_run_at_once_and_their_signals_in_turn(play: Play) -> None:
    async def story(world: World) -> None:
        began: dict[str, float] = {}
        ended: dict[str, float] = {}

        async def hook(container_id: str, *_: Any) -> ExecResult:
            began[(await world.runtime.container(container_id)).name] = world.clock.now() - asked
            await world.clock.sleep(1)
            return ExecResult(0)

        stop = world.runtime.stop_container

        async def stopped(container_id: str, grace_s: float) -> None:
            await world.clock.sleep(2)  # what it needs after its signal
            await stop(container_id, grace_s)
            ended[(await world.runtime.container(container_id)).name] = world.clock.now() - asked

        world.runtime.exec_sync = hook  # type: ignore[method-assign]
        world.runtime.stop_container = stopped  # type: ignore[method-assign]
        lifecycle = Lifecycle(pre_stop=LifecycleHandler(exec=ExecAction(command=("wait",))))
        sidecars = tuple(make_container(f"s{n}", restart_policy="Always", lifecycle=lifecycle) for n in (1, 2, 3))
        world.client.put(make_pod(init_containers=sidecars))
        await world.rest()
        asked = world.clock.now()
        world.client.ask_delete("web", asked)
        await world.advance(12)
        assert not world.exists()
        assert set(began) == {"s1", "s2", "s3"}
        assert max(began.values()) - min(began.values()) < 0.5
        assert list(ended) == ["main", "s3", "s2", "s1"]
        assert ended["s1"] == pytest.approx(8, abs=1)

    play(story)


def test_sidecars_whose_turn_never_comes_get_their_signal_when_time_is_over(play: Play) -> None:
    async def story(world: World) -> None:
        graces: list[tuple[str, float, float]] = []
        stop = world.runtime.stop_container

        async def stubborn(container_id: str, grace_s: float) -> None:
            name = (await world.runtime.container(container_id)).name
            graces.append((name, world.clock.now() - asked, grace_s))
            await world.clock.sleep(grace_s)
            await stop(container_id, 0)

        world.runtime.stop_container = stubborn  # type: ignore[method-assign]
        sidecars = tuple(make_container(f"s{n}", restart_policy="Always") for n in (1, 2))
        world.client.put(make_pod(init_containers=sidecars))
        await world.rest()
        asked = world.clock.now()
        world.client.ask_delete("web", asked, grace_s=5)
        await world.advance(9)
        assert not world.exists()
        assert graces[0][0] == "main"
        assert {name: (round(at), round(grace)) for name, at, grace in graces} == {
            "main": (0, 5),
            "s1": (5, 2),
            "s2": (5, 2),
        }

    play(story)


def test_a_failed_post_start_ends_the_container_as_any_end(play: Play) -> None:
    async def story(world: World) -> None:
        fails, waits = (
            LifecycleHandler(exec=ExecAction(command=("false",))),
            LifecycleHandler(sleep=SleepAction(seconds=2)),
        )
        world.client.put(make_pod(containers=(hooked(post_start=fails, pre_stop=waits),)))
        await world.rest()
        said = [(reason, text) for _, reason, text in world.events.said if reason in ("Killing", "FailedPostStartHook")]
        assert said == [("FailedPostStartHook", "PostStartHook failed"), ("Killing", "FailedPostStartHook")]
        assert world.pod().status.container_statuses[0].state.running is not None, "its preStop hook has its time"
        await world.advance(3)
        assert world.pod().status.container_statuses[0].restart_count >= 1

    play(story)


@pytest.mark.parametrize(
    ("hook", "failed"),
    [
        (LifecycleHandler(sleep=SleepAction(seconds=0)), False),
        (LifecycleHandler(tcp_socket=TCPSocketAction(port=80)), True),
        (LifecycleHandler(http_get=HTTPGetAction(port="nobody")), True),
    ],
    ids=["sleep-0", "tcp-can-never-run", "no-such-port"],
)
def test_hooks_that_can_and_cannot_run(play: Play, hook: LifecycleHandler, failed: bool) -> None:
    async def story(world: World) -> None:
        world.client.put(make_pod(containers=(hooked(pre_stop=hook),)))
        await world.rest()
        world.client.ask_delete("web", world.clock.now())
        await world.advance(1)
        assert not world.exists()
        assert ("FailedPreStopHook" in world.events.reasons("web")) == failed

    play(story)


def test_what_a_failed_hook_says_names_it(tmp_path: Path) -> None:
    async def go() -> None:
        async with World(tmp_path) as world:
            pod = make_pod()
            world.client.put(pod)
            await world.rest()
            (container,) = await world.runtime.list_containers()
            hook = LifecycleHandler(exec=ExecAction(command=("false", "it")))
            with pytest.raises(HookFailed) as failed:
                await run_hook(world.runtime, world.clock, pod, pod.spec.containers[0], hook, container.id, "192.0.2.1")
            assert str(failed.value) == (
                'Exec lifecycle hook ([false it]) for Container "main" in Pod "web_default(uid-web)" failed'
                " - error: command 'false it' exited with 1: , message: \"\""
            )

    asyncio.run(go())


def test_an_http_hook_takes_any_answer(tmp_path: Path) -> None:
    seen: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async def go() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server, World(tmp_path) as world:
            hook = LifecycleHandler(http_get=HTTPGetAction(port=server.sockets[0].getsockname()[1], path="/bye"))
            pod = make_pod()
            await run_hook(world.runtime, world.clock, pod, pod.spec.containers[0], hook, "c", "127.0.0.1")
        assert "User-Agent: kube-lifecycle/1.36" in seen[0]

    asyncio.run(go())


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
        await world.advance(QUIET_S)
        assert await asyncio.to_thread(lambda: [p.name for p in root.iterdir()]) == ["something-else"]

    play(story)
