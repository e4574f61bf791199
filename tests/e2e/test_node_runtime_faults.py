"""The OCI runtime while its agent, conmon, runc or the machine is killed, and when disk, inodes or pids run out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import node_lab
import pytest
from runtime_lab import NEEDED, ended

from kaa.api.clock import SystemClock
from kaa.runtime.base import (
    ContainerConfig,
    ContainerState,
    Mount,
    Namespaces,
    PortMapping,
    Resources,
    RuntimeFailure,
    SandboxConfig,
    SandboxState,
)
from kaa.runtime.oci import conmon, containers, linux, runtime
from kaa.runtime.oci.linux import mount, start_time, unmount
from kaa.runtime.oci.runtime import OciRuntime

pytestmark = NEEDED
SOURCE = str(Path(__file__).parents[2] / "src")
#: Writes down each of its lives, then stays.
LIFE = "echo begun >> /state/lives; echo said; trap 'exit 0' TERM; sleep 1000 & wait"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Path]:
    """A folder for a runtime, of which nothing may be left: ``root`` and ``run`` in it, ``state`` for containers to write in."""
    folder = tmp_path / "node"
    (folder / "state").mkdir(parents=True)
    yield folder
    left = node_lab.mounts(folder) | node_lab.processes(folder) | node_lab.cgroups(node_lab.own_cgroup(folder / "run"))
    left |= node_lab.entries(folder, ("root/sandboxes", "root/containers", "root/writable", "run/sandboxes"))
    left |= node_lab.entries(folder, ("run/containers", "run/engine")) | node_lab.sockets(folder)
    node_lab.sweep(folder, node_lab.own_cgroup(folder / "run"))
    assert left == set()


@contextlib.asynccontextmanager
async def alive(
    folder: Path, archive: Path | None = None, *, keep: bool = False, network: Any = None, binary: Path | None = None
) -> AsyncIterator[OciRuntime]:
    """A runtime's life; ``keep`` leaves to the next what it made."""
    made = OciRuntime(
        folder / "root", folder / "run", SystemClock(), network=network, runtime_binary=str(binary) if binary else None
    )
    async with asyncio.timeout(60):
        await made.start()
        try:
            if archive is not None:
                await made.import_images(archive)
            yield made
        finally:
            if not keep:
                for found in await made.list_sandboxes():
                    await made.remove_sandbox(found.id)
            await made.close()


async def sandboxed(made: OciRuntime, **changes: Any) -> str:
    settings = {"name": "web", "namespace": "d", "uid": "1", "log_directory": str(made.root / "logs"), **changes}
    return await made.run_sandbox(SandboxConfig(**settings))


def config(folder: Path, script: str = LIFE, **changes: Any) -> ContainerConfig:
    mounts = (Mount(str(folder / "state"), "/state"),)
    settings = {"name": "c", "image": "busybox", "command": ("sh", "-c", script), "log_path": "c.log", "mounts": mounts}
    return ContainerConfig(**{**settings, **changes})


async def running(made: OciRuntime, folder: Path, script: str = LIFE, **changes: Any) -> str:
    sandbox_id = await sandboxed(made, **changes.pop("sandbox", {}))
    container_id = await made.create_container(sandbox_id, config(folder, script, **changes))
    await made.start_container(container_id)
    return container_id


async def until(check: Any) -> None:
    while not check():  # noqa: ASYNC110 - the kernel has no event for most of this
        await asyncio.sleep(0.01)


def read(path: str) -> str:
    return Path(path).read_text()


def kill_child(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def lives(folder: Path) -> int:
    file = folder / "state/lives"
    return len(file.read_text().splitlines()) if file.exists() else 0


# ------------------------------------------------------------------------------------------------- kill -9 of the agent

#: {moment of a container's start: (what is replaced by a shot, how often the command ran)}
MOMENTS = {
    "before conmon": ("conmon, 'launch'", 0),
    "before it is let go": ("conmon, 'start'", 0),
    "before it is written down": ("containers.Containers, '_started'", 1),
}


def die(folder: Path, archive: Path, moment: str, *, binary: str = "", wait_for: str = "") -> None:
    """A process of its own that makes a container, and is killed at a moment of the start, or once a file is there."""
    code = f"""
import asyncio, os, signal, threading, time
from pathlib import Path
from kaa.api.clock import SystemClock
from kaa.runtime.base import ContainerConfig, Mount, SandboxConfig
from kaa.runtime.oci import conmon, containers
from kaa.runtime.oci.runtime import OciRuntime
def shot(*given, **more):
    os.kill(os.getpid(), signal.SIGKILL)
def watch():
    while not os.path.exists({wait_for!r}):
        time.sleep(0.01)
    shot()
if {wait_for!r}:
    threading.Thread(target=watch, daemon=True).start()
else:
    setattr({moment or "conmon, 'none'"}, shot)
async def main():
    folder = Path({str(folder)!r})
    made = OciRuntime(folder / "root", folder / "run", SystemClock(), runtime_binary={binary!r} or None)
    await made.start()
    await made.import_images(Path({str(archive)!r}))
    box = await made.run_sandbox(SandboxConfig("web", "d", "1", log_directory=str(made.root / "logs")))
    config = ContainerConfig("c", "busybox", command=("sh", "-c", {LIFE!r}), log_path="c.log",
        mounts=(Mount(str(folder / "state"), "/state"),))
    await made.start_container(await made.create_container(box, config))
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": SOURCE}, check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_agent_killed_while_it_starts_a_container(node: Path, archive: Path, moment: str) -> None:
    replaced, times = MOMENTS[moment]
    die(node, archive, replaced)

    async def main() -> None:
        async with alive(node) as made:
            (found,) = await made.list_containers()
            if times:
                assert found.state is ContainerState.RUNNING
                await until(lambda: lives(node) == 1)
                assert (await made.exec_sync(found.id, ("echo", "here"), 5)).stdout == b"here\n"
                await made.stop_container(found.id, 10)
                assert ((await made.container(found.id)).exit_code, lives(node)) == (0, 1)
                return
            assert (found.state, lives(node)) == (ContainerState.CREATED, 0)
            assert conmon.monitors(found.id) == []
            await made.start_container(found.id)
            await until(lambda: lives(node) == 1)

    asyncio.run(main())


def test_an_agent_killed_while_runc_creates(node: Path, archive: Path, tmp_path: Path) -> None:
    """conmon and runc live on, and would make the container later: the next agent ends them first."""
    binary = node_lab.slow_engine(tmp_path / "bin", "runc")
    (tmp_path / "bin/hang").touch()
    die(node, archive, "", binary=str(binary), wait_for=str(tmp_path / "bin/create"))
    (tmp_path / "bin/hang").unlink()

    async def main() -> None:
        async with alive(node, binary=binary) as made:
            (found,) = await made.list_containers()
            assert (found.state, conmon.monitors(found.id)) == (ContainerState.CREATED, [])
            await made.remove_container(found.id)
            assert lives(node) == 0

    asyncio.run(main())


# -------------------------------------------------------------------------------------------------- callers that give up


class SlowNetwork:
    """Attaches when it is allowed to; says what is attached."""

    missing = ""

    def __init__(self) -> None:
        self.asked, self.go = asyncio.Event(), asyncio.Event()
        self.attached: set[str] = set()

    async def attach(self, sandbox_id: str, netns_path: str, ports: tuple[PortMapping, ...]) -> tuple[str, ...]:
        self.asked.set()
        await self.go.wait()
        self.attached.add(sandbox_id)
        return ("10.1.0.2",)

    async def detach(self, sandbox_id: str) -> None:
        self.attached.discard(sandbox_id)

    async def keep_only(self, sandbox_ids: frozenset[str]) -> None:
        self.attached &= sandbox_ids


def test_a_sandbox_whose_caller_gave_up_is_undone_once_it_is_made(node: Path) -> None:
    async def main() -> None:
        network = SlowNetwork()
        async with alive(node, network=network) as made:
            task = asyncio.create_task(sandboxed(made))
            await network.asked.wait()
            task.cancel()
            network.go.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await made.list_sandboxes(), network.attached) == ([], set())
            assert os.listdir(made.run_dir / "sandboxes") == []

    asyncio.run(main())


def test_a_start_whose_caller_gave_up_is_known(node: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with alive(node, archive) as made:
            container_id = await made.create_container(await sandboxed(made), config(node))
            loop, launch, given_up = asyncio.get_running_loop(), conmon.launch, threading.Event()

            def give_up() -> None:
                task.cancel()
                given_up.set()

            def launched(*given: Any) -> conmon.Launched:
                loop.call_soon_threadsafe(give_up)
                assert given_up.wait(10)
                return launch(*given)

            monkeypatch.setattr(conmon, "launch", launched)
            task = asyncio.create_task(made.start_container(container_id))
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await made.container(container_id)).state is ContainerState.RUNNING

    asyncio.run(main())


def test_a_creation_whose_caller_gave_up_is_undone(node: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with alive(node, archive) as made:
            task: list[asyncio.Task[str]] = []
            loop, write = asyncio.get_running_loop(), containers.write_bundle

            def cancelled(*given: Any) -> None:
                loop.call_soon_threadsafe(task[0].cancel)
                write(*given)

            monkeypatch.setattr(containers, "write_bundle", cancelled)
            task.append(asyncio.create_task(made.create_container(await sandboxed(made), config(node))))
            with pytest.raises(asyncio.CancelledError):
                await task[0]
            assert await made.list_containers() == []
            assert os.listdir(made.snapshots.writable) == []

    asyncio.run(main())


# ------------------------------------------------------------------------------------------------------- runc and conmon


@pytest.mark.parametrize("how", ["hang", "die", "die-after"])
def test_runc_that_hangs_or_dies_while_it_creates(
    node: Path, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(conmon, "_START_TIMEOUT_S", 1.0)
    binary = node_lab.slow_engine(tmp_path / "bin", "runc")

    async def main() -> None:
        async with alive(node, archive, binary=binary) as made:
            sandbox_id = await sandboxed(made)
            (tmp_path / "bin" / how).touch()
            container_id = await made.create_container(sandbox_id, config(node))
            with pytest.raises(RuntimeFailure, match="OCI runtime create failed"):
                await made.start_container(container_id)
            found = await made.container(container_id)
            assert (found.state, found.exit_code, found.reason) == (ContainerState.EXITED, 128, "StartError")
            assert conmon.monitors(container_id) == []
            (tmp_path / "bin" / how).unlink()
            second = await made.create_container(sandbox_id, config(node, attempt=1))
            await made.start_container(second)
            await until(lambda: lives(node))
            assert lives(node) == 1

    asyncio.run(main())


@pytest.mark.parametrize("away", [False, True], ids=["seen", "while the agent is away"])
def test_a_container_whose_conmon_was_killed_is_ended(node: Path, archive: Path, away: bool) -> None:
    """It could say nothing any more, and nobody would see its end."""

    async def main() -> None:
        async with alive(node, archive, keep=True) as made:
            container_id = await running(made, node)
            record = made.containers.get(container_id).record
            await until(lambda: "said" in read(record.log_path))
            if not away:
                os.kill(record.conmon.pid, signal.SIGKILL)
                await ended(made, container_id)
        if away:
            os.kill(record.conmon.pid, signal.SIGKILL)
            await until(lambda: start_time(record.conmon.pid) == 0)
        async with alive(node) as made:
            found = await ended(made, container_id)
            assert (found.exit_code, found.reason) == (137, "Error")
            assert start_time(record.process.pid) == 0
            assert read(found.log_path).endswith("stdout F said\n")

    asyncio.run(main())


# ------------------------------------------------------------------------------------------------------------- exhaustion


@pytest.fixture
def small_disk(node: Path) -> Iterator[Path]:
    """The node's folder is a disk of its own: 40 MB, 2000 inodes."""
    mount("small", str(node), "tmpfs", data="size=40m,nr_inodes=2000")
    (node / "state").mkdir()
    yield node
    unmount(str(node))


def fill(folder: Path, what: str) -> None:
    """Use up all blocks, or all inodes."""
    with contextlib.suppress(OSError):
        if what == "inodes":
            (folder / "many").mkdir()
            for number in range(10_000):
                (folder / "many" / str(number)).touch()
        else:
            with open(folder / "many", "wb", buffering=0) as file:
                while file.write(bytes(1 << 16)):
                    pass


@pytest.mark.parametrize("what", ["bytes", "inodes"])
def test_a_full_disk_loses_nothing_that_runs(small_disk: Path, archive: Path, what: str) -> None:
    node = small_disk

    async def main() -> None:
        async with alive(node, archive, keep=True) as made:
            first = await running(made, node)
            await until(lambda: lives(node))
            fill(node, what)
            with pytest.raises((RuntimeFailure, OSError)):
                await made.create_container(await sandboxed(made), config(node, name="second"))
            assert [found.name for found in await made.list_containers()] == ["c"]
            with pytest.raises((RuntimeFailure, OSError)):
                await sandboxed(made, name="other", uid="2")
            assert len(await made.list_sandboxes()) == 1
        async with alive(node, keep=True) as made:  # an agent may begin while its disk is full
            assert (await made.container(first)).state is ContainerState.RUNNING
            await made.stop_container(first, 10)
            found = await made.container(first)
            assert (found.state, lives(node)) == (ContainerState.EXITED, 1)
        (shutil.rmtree if what == "inodes" else os.unlink)(node / "many")
        async with alive(node) as made:
            assert (await made.container(first)).state is ContainerState.EXITED
            (box,) = await made.list_sandboxes()
            second = await made.create_container(box.id, config(node, attempt=1))
            await made.start_container(second)
            await until(lambda: lives(node) == 2)

    asyncio.run(main())


@pytest.mark.parametrize("shared", [False, True], ids=["own pid namespace", "shared pid namespace"])
def test_a_fork_bomb_ends_with_its_container(node: Path, archive: Path, shared: bool) -> None:
    async def main() -> None:
        async with alive(node, archive) as made:
            forking = "while [ $n -lt 20 ]; do while :; do sleep 0.001; done & n=$((n+1)); done"
            bomb = f"trap '' TERM; n=0; {forking}; while :; do sleep 0.001; done"
            namespaces = Namespaces(pid="pod" if shared else "container")
            limits = Resources(pids_limit=80)
            container_id = await running(made, node, bomb, resources=limits, sandbox={"namespaces": namespaces})
            path = made.containers.get(container_id).record.cgroup_path
            await until(lambda: len(made.containers.cgroups.processes(path)) > 20)
            await made.stop_container(container_id, 0)
            assert (await made.container(container_id)).exit_code == 137
            await until(lambda: made.containers.cgroups.processes(path) == [])

    asyncio.run(main())


def test_a_container_without_a_pid_left_can_still_be_stopped(node: Path, archive: Path) -> None:
    async def main() -> None:
        async with alive(node, archive) as made:
            hoard = "trap 'exit 3' TERM; n=0; while [ $n -lt 19 ]; do sleep 1000 & n=$((n+1)); done; wait"
            container_id = await running(made, node, hoard, resources=Resources(pids_limit=20))
            path = made.containers.get(container_id).record.cgroup_path
            await until(lambda: len(made.containers.cgroups.processes(path)) == 20)
            with contextlib.suppress(RuntimeFailure):  # runc's own threads may have been too many
                said = await made.exec_sync(container_id, ("sh", "-c", "sleep 0 & wait; echo never"), 10)
                assert (said.exit_code != 0, said.stdout) == (True, b"")
            await made.stop_container(container_id, 10)
            assert (await made.container(container_id)).exit_code == 3

    asyncio.run(main())


def test_what_ignores_the_stop_signal_is_killed_after_its_grace(node: Path, archive: Path) -> None:
    async def main() -> None:
        async with alive(node, archive) as made:
            container_id = await running(made, node, "trap '' TERM; echo said > /state/up; while :; do sleep 1; done")
            await until((node / "state/up").exists)
            began = made.clock.monotonic()
            await made.stop_container(container_id, 0.5)
            assert made.clock.monotonic() - began >= 0.5
            assert (await made.container(container_id)).exit_code == 137

    asyncio.run(main())


# ----------------------------------------------------------------------------------------------------------------- reboot


def reboot(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a restart of the machine ends: processes, mounts, cgroups; the boot has another name. The folders stay."""
    node_lab.sweep(node, node_lab.own_cgroup(node / "run"))
    for module in (linux, containers, runtime):
        monkeypatch.setattr(module, "boot_id", lambda: "another-boot")


@pytest.mark.parametrize("run_dir", ["kept", "on tmpfs"])
def test_a_restart_of_the_machine(node: Path, archive: Path, monkeypatch: pytest.MonkeyPatch, run_dir: str) -> None:
    async def main() -> None:
        async with alive(node, archive, keep=True) as made:
            first = await running(made, node, sandbox={"namespaces": Namespaces(pid="pod")})
            (box,) = await made.list_sandboxes()
            created = await made.create_container(box.id, config(node, name="never"))
            await until(lambda: lives(node))
            pause = made.sandboxes[box.id].record.pause.pid
        reboot(node, monkeypatch)
        kill_child(pause)
        if run_dir == "on tmpfs":
            shutil.rmtree(node / "run")
        async with alive(node) as made:
            (box,) = await made.list_sandboxes()
            assert box.state is SandboxState.NOT_READY
            found = await made.container(first)
            assert (found.state, found.exit_code, found.reason) == (ContainerState.EXITED, 255, "Unknown")
            assert (await made.container(created)).state is ContainerState.CREATED
            again = await sandboxed(made, attempt=1)
            second = await made.create_container(again, config(node, attempt=1))
            await made.start_container(second)
            await until(lambda: lives(node) == 2)
            assert await made.run_sandbox(made.sandboxes[again].record.config) == again

    asyncio.run(main())


def test_a_pid_of_before_the_restart_is_nobodys(node: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine restarted while a container was started; its pid file names a process of somebody else by now."""
    die(node, archive, "containers.Containers, '_started'")
    reboot(node, monkeypatch)
    (bundle,) = (node / "run/containers").iterdir()
    (bundle / "pid").write_text(str(os.getpid()))

    async def main() -> None:
        async with alive(node) as made:
            (found,) = await made.list_containers()
            assert (found.state, found.exit_code, found.reason) == (ContainerState.EXITED, 255, "Unknown")

    asyncio.run(main())
    assert start_time(os.getpid())
