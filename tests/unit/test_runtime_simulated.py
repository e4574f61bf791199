"""The simulated runtime keeps the runtime's contract as far as pretending goes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from kaa.api.clock import VirtualClock
from kaa.runtime.base import (
    ContainerConfig,
    ContainerState,
    EventKind,
    ImagePullError,
    Namespaces,
    NotFoundError,
    RuntimeFailure,
    SandboxConfig,
    SandboxState,
)
from kaa.runtime.simulated import SimulatedRuntime, parse_seconds

Story = Callable[[SimulatedRuntime, VirtualClock], Awaitable[None]]


def play(story: Story) -> None:
    async def go() -> None:
        clock = VirtualClock()
        runtime = SimulatedRuntime(clock)
        try:
            await story(runtime, clock)
        finally:
            await runtime.close()

    asyncio.run(go())


async def started(runtime: SimulatedRuntime, **annotations: str) -> str:
    await runtime.pull_image("app:1")
    sandbox = await runtime.run_sandbox(SandboxConfig("web", "default", "u", annotations=annotations))
    container = await runtime.create_container(sandbox, ContainerConfig("main", "app:1"))
    await runtime.start_container(container)
    return container


def test_a_container_exits_as_told() -> None:
    async def story(runtime: SimulatedRuntime, clock: VirtualClock) -> None:
        container = await started(runtime, **{"simulated.kaa.dev/exit-after": "2s", "simulated.kaa.dev/exit-code": "7"})
        await clock.advance(1)
        assert (await runtime.container(container)).state is ContainerState.RUNNING
        await clock.advance(1)
        ended = await runtime.container(container)
        assert (ended.state, ended.exit_code, ended.reason) == (ContainerState.EXITED, 7, "Error")
        assert ended.finished_at - ended.started_at == 2

    play(story)


def test_verbs_may_be_repeated() -> None:
    async def story(runtime: SimulatedRuntime, clock: VirtualClock) -> None:
        container = await started(runtime)
        assert await started(runtime) == container
        for _ in range(2):
            await runtime.stop_container(container, 1)
            await runtime.stop_sandbox((await runtime.container(container)).sandbox_id)
        [sandbox] = await runtime.list_sandboxes()
        assert sandbox.state is SandboxState.NOT_READY
        for _ in range(2):
            await runtime.remove_container(container)
            await runtime.remove_sandbox(sandbox.id)
            await runtime.stop_container(container, 1)
            await runtime.stop_sandbox(sandbox.id)
        assert await runtime.list_containers() == []

    play(story)


def test_events_tell_what_happened() -> None:
    async def story(runtime: SimulatedRuntime, clock: VirtualClock) -> None:
        events = runtime.events()
        first = asyncio.ensure_future(anext(events))
        await clock.settle()
        container = await started(runtime)
        runtime.exit(container, 0)
        kinds = [(await first).kind] + [(await anext(events)).kind for _ in range(3)]
        assert kinds == [EventKind.STARTED, EventKind.CREATED, EventKind.STARTED, EventKind.STOPPED]
        await events.aclose()  # type: ignore[attr-defined]  # it is a generator

    play(story)


def test_events_name_the_pod_and_sandboxes_are_found_by_it() -> None:
    async def story(runtime: SimulatedRuntime, clock: VirtualClock) -> None:
        events = runtime.events()
        first = asyncio.ensure_future(anext(events))
        await clock.settle()
        one = await runtime.run_sandbox(SandboxConfig("web", "default", "u1"))
        other = await runtime.run_sandbox(SandboxConfig("web", "default", "u2"))
        assert [s.id for s in await runtime.list_sandboxes(uid="u1")] == [one]
        await runtime.remove_sandbox(one)
        uids = [(await first).uid] + [(await anext(events)).uid for _ in range(3)]
        assert uids == ["u1", "u2", "u1", "u1"]
        assert await runtime.list_sandboxes(uid="u1") == []
        assert [s.id for s in await runtime.list_sandboxes()] == [other]
        await events.aclose()  # type: ignore[attr-defined]  # it is a generator

    play(story)


def test_addresses_are_given_back() -> None:
    async def story(runtime: SimulatedRuntime, clock: VirtualClock) -> None:
        ids = [await runtime.run_sandbox(SandboxConfig(f"p{n}", "d", f"u{n}")) for n in range(3)]
        ips = [s.ips for s in await runtime.list_sandboxes()]
        assert len(set(ips)) == 3
        for sandbox_id in ids:
            await runtime.remove_sandbox(sandbox_id)
        host = SandboxConfig("h", "d", "h", namespaces=Namespaces(network="node"))
        await runtime.run_sandbox(host)
        assert [s.ips for s in await runtime.list_sandboxes()] == [()]

    play(story)


def test_what_is_not_there() -> None:
    async def story(runtime: SimulatedRuntime, clock: VirtualClock) -> None:
        with pytest.raises(NotFoundError):
            await runtime.container("none")
        with pytest.raises(NotFoundError):
            await runtime.create_container("none", ContainerConfig("main", "app:1"))
        sandbox = await runtime.run_sandbox(SandboxConfig("web", "default", "u"))
        with pytest.raises(RuntimeFailure, match="no image app:1"):
            await runtime.create_container(sandbox, ContainerConfig("main", "app:1"))
        runtime.pull_errors["app:1"] = "denied"
        with pytest.raises(ImagePullError, match="denied"):
            await runtime.pull_image("app:1")

    play(story)


def test_exec_echoes() -> None:
    async def story(runtime: SimulatedRuntime, clock: VirtualClock) -> None:
        container = await started(runtime)
        assert (await runtime.exec_sync(container, ("echo", "hi"), 0)).stdout == b"echo hi\n"
        streams = await runtime.exec(container, ("cat",), stdin=True, tty=False)
        await streams.write(b"x")
        await streams.close_stdin()
        assert [data async for _, data in streams.output()] == [b"x"]
        assert await streams.wait() == 0

    play(story)


@pytest.mark.parametrize(("text", "seconds"), [("3s", 3), ("1m30s", 90), ("250ms", 0.25), ("2", 2), ("1h", 3600)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds
    with pytest.raises(ValueError):
        parse_seconds("x" + text)
