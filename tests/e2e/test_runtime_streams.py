"""Talking to real containers: exec, attach, port-forward, logs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import pytest
from runtime_lab import NEEDED, Body, ended, read, sandbox, sh, started, until

from kaa.runtime.base import RuntimeFailure
from kaa.runtime.oci.runtime import OciRuntime

pytestmark = NEEDED


def test_a_terminal_has_a_size_and_a_code(run: Callable[[Body], None]) -> None:
    async def body(runtime: OciRuntime) -> None:
        container_id = await started(runtime, await sandbox(runtime))
        streams = await runtime.exec(container_id, ("sh",), stdin=True, tty=True)
        await until(streams, b"# ")
        await streams.resize(123, 45)
        await streams.write(b"until stty size | grep -q '^45 1'23; do sleep 0.01; done; stty size; exit 6\n")
        assert b"45 123" in await until(streams, b"45 123")
        assert await streams.wait() == 6
        await streams.close()

    run(body)


def test_exec_takes_input_and_tells_the_channels_apart(run: Callable[[Body], None]) -> None:
    async def body(runtime: OciRuntime) -> None:
        container_id = await started(runtime, await sandbox(runtime))
        streams = await runtime.exec(container_id, ("sh", "-c", "wc -c; echo e >&2; exit 4"), stdin=True, tty=False)
        await streams.write(b"x" * 300_000)
        await streams.close_stdin()
        seen = {"stdout": b"", "stderr": b""}
        async for channel, data in streams.output():
            seen[channel] += data
        assert (seen, await streams.wait()) == ({"stdout": b"300000\n", "stderr": b"e\n"}, 4)
        await streams.close()

    run(body)


def test_closing_an_exec_that_is_only_about_to_begin_leaves_nothing(run: Callable[[Body], None]) -> None:
    """Whatever moment the client goes at: the runtime that was starting the process is ended with what it has forked."""

    async def body(runtime: OciRuntime) -> None:
        container_id = await started(runtime, await sandbox(runtime))
        procs = runtime.containers.cgroups.processes(runtime.containers.get(container_id).record.cgroup_path)
        for step in range(40):
            streams = await runtime.exec(container_id, ("sleep", "556"), stdin=False, tty=bool(step % 2))
            await asyncio.sleep(step * 0.001)
            await streams.close()
        group = runtime.containers.get(container_id).record.cgroup_path
        async with asyncio.timeout(10):
            while runtime.containers.cgroups.processes(group) != procs:  # noqa: ASYNC110 - a cgroup of v1 has no event
                await asyncio.sleep(0.01)

    run(body)


def test_closing_an_exec_kills_it(run: Callable[[Body], None]) -> None:
    async def body(runtime: OciRuntime) -> None:
        container_id = await started(runtime, await sandbox(runtime))
        streams = await runtime.exec(container_id, ("sh", "-c", "echo up; sleep 555"), stdin=False, tty=False)
        await until(streams, b"up")
        await streams.close()
        assert "sleep 555" not in (await sh(runtime, container_id, "ps -o args | grep '^sh -c echo up'"))

    run(body)


@pytest.mark.parametrize("tty", [False, True], ids=["pipes", "terminal"])
def test_attach_talks_to_the_first_process(run: Callable[[Body], None], tty: bool) -> None:
    async def body(runtime: OciRuntime) -> None:
        script = "read a; echo got $a; read b; exit 2"
        container_id = await started(runtime, await sandbox(runtime), script, stdin=True, tty=tty)
        streams = await runtime.attach(container_id, stdin=True, tty=tty)
        await streams.resize(80, 24)
        await streams.write(b"hello\n")
        assert b"got hello" in await until(streams, b"got hello")
        await streams.write(b"\n")
        async for _ in streams.output():
            pass
        assert await streams.wait() == 0
        await streams.close()
        assert (await ended(runtime, container_id)).exit_code == 2

    run(body)


def test_ports_are_forwarded_into_the_sandbox(run: Callable[[Body], None]) -> None:
    async def body(runtime: OciRuntime) -> None:
        sandbox_id = await sandbox(runtime)
        container_id = await started(runtime, sandbox_id, "nc -l -p 8080 -e sh -c 'read x; echo answer $x'")
        listening = "until cat /proc/net/tcp /proc/net/tcp6 | grep -q :1F90; do sleep 0.01; done"
        await sh(runtime, container_id, listening)
        streams = await runtime.port_forward(sandbox_id, 8080)
        await streams.write(b"42\n")
        assert b"answer 42" in await until(streams, b"answer 42")
        await streams.close()
        with pytest.raises(RuntimeFailure, match="failed to connect to localhost:9"):
            await runtime.port_forward(sandbox_id, 9)

    run(body)


def test_a_log_is_reopened(run: Callable[[Body], None]) -> None:
    async def body(runtime: OciRuntime) -> None:
        container_id = await started(runtime, await sandbox(runtime), "while :; do echo tick; sleep 0.02; done")
        path = (await runtime.container(container_id)).log_path
        os.rename(path, path + ".1")
        await runtime.reopen_log(container_id)
        async with asyncio.timeout(5):
            while "tick" not in read_if_there(path):  # noqa: ASYNC110 - a log has no event
                await asyncio.sleep(0.02)
        assert "stdout F tick" in read(path)

    run(body)


def read_if_there(path: str) -> str:
    return read(path) if os.path.exists(path) else ""
