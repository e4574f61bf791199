"""The OCI runtime on this kernel: what only real containers can show."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import node_lab
import pytest

from kaa.api.clock import SystemClock
from kaa.runtime.base import (
    DNS,
    Container,
    ContainerConfig,
    ContainerState,
    Device,
    EventKind,
    Mount,
    Namespaces,
    PortMapping,
    Resources,
    RuntimeFailure,
    SandboxConfig,
    SandboxState,
    Security,
    Streams,
)
from kaa.runtime.oci.build import busybox_archive
from kaa.runtime.oci.linux import MS_BIND, mount, start_time, unmount
from kaa.runtime.oci.runtime import OciRuntime
from kaa.runtime.oci.state import ProcessRecord
from kaa.runtime.oci.streams import exec_folder

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which("conmon") or not Path("/bin/busybox").exists(),
        reason="needs root, conmon and busybox-static",
    ),
]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return busybox_archive(tmp_path_factory.mktemp("images") / "busybox.tar")


@pytest.fixture
def leftovers(tmp_path: Path) -> Iterator[None]:
    yield
    assert node_lab.cgroups(node_lab.own_cgroup(tmp_path / "run")) == set()
    assert str(tmp_path) not in read("/proc/self/mounts")
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            assert str(tmp_path).encode() not in (folder / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue


@asynccontextmanager
async def runtime_in(folder: Path, archive: Path | None, *, keep: bool = False) -> AsyncIterator[OciRuntime]:
    runtime = OciRuntime(folder / "root", folder / "run", SystemClock())
    await runtime.start()
    if archive:
        await runtime.import_images(archive)
    try:
        async with asyncio.timeout(60):
            yield runtime
    finally:
        for sandbox in await runtime.list_sandboxes() if not keep else []:
            await runtime.remove_sandbox(sandbox.id)
        await runtime.close()


class FakeNetwork:
    """Notes what it is told; ``fail`` makes it refuse."""

    missing = ""

    def __init__(self) -> None:
        self.attached: dict[str, str] = {}
        self.detached: list[str] = []
        self.kept: frozenset[str] = frozenset()
        self.fail = False

    async def attach(self, sandbox_id: str, netns_path: str, ports: tuple[PortMapping, ...]) -> tuple[str, ...]:
        if self.fail:
            raise RuntimeFailure("no addresses left")
        self.attached[sandbox_id] = netns_path
        return ("10.1.0.2",)

    async def detach(self, sandbox_id: str) -> None:
        self.attached.pop(sandbox_id, None)
        self.detached.append(sandbox_id)

    async def keep_only(self, sandbox_ids: frozenset[str]) -> None:
        self.kept = sandbox_ids


Body = Callable[[OciRuntime], Awaitable[None]]


@pytest.fixture
def run(tmp_path: Path, archive: Path, leftovers: None) -> Callable[[Body], None]:
    def runner(body: Body) -> None:
        async def main() -> None:
            async with runtime_in(tmp_path, archive) as runtime:
                await body(runtime)

        asyncio.run(main())

    return runner


def read(path: str | Path) -> str:
    return Path(path).read_text()


def read_if_there(path: str) -> str:
    return read(path) if os.path.exists(path) else ""


async def sandbox(runtime: OciRuntime, **changes: object) -> str:
    settings: dict[str, object] = {
        "name": "web",
        "namespace": "d",
        "uid": "1",
        "log_directory": str(runtime.root / "logs"),
    }
    return await runtime.run_sandbox(SandboxConfig(**{**settings, **changes}))  # type: ignore[arg-type]


async def started(runtime: OciRuntime, sandbox_id: str, script: str = "sleep 1000", **changes: object) -> str:
    settings: dict[str, object] = {
        "name": "c",
        "image": "busybox",
        "command": ("sh", "-c", script),
        "log_path": "c.log",
    }
    config = ContainerConfig(**{**settings, **changes})  # type: ignore[arg-type]
    container_id = await runtime.create_container(sandbox_id, config)
    await runtime.start_container(container_id)
    return container_id


async def ended(runtime: OciRuntime, container_id: str) -> Container:
    await runtime.containers.get(container_id).exited.wait()
    return await runtime.container(container_id)


async def sh(runtime: OciRuntime, container_id: str, script: str) -> str:
    result = await runtime.exec_sync(container_id, ("sh", "-c", script), 10)
    return (result.stdout + result.stderr).decode()


async def until(streams: Streams, text: bytes) -> bytes:
    seen = b""
    async for _, data in streams.output():
        seen += data
        if text in seen:
            break
    return seen


def test_a_sandbox_costs_no_process(run: Callable[[Body], None]) -> None:
    async def body(runtime: OciRuntime) -> None:
        dns = DNS(("10.0.0.10",), ("d.svc",), ("ndots:5",))
        sandbox_id = await sandbox(
            runtime, hostname="host-a", dns=dns, sysctls={"net.ipv4.ip_unprivileged_port_start": "0"}
        )
        first = await started(runtime, sandbox_id, name="a")
        second = await started(runtime, sandbox_id, name="b")
        assert await sh(runtime, first, "hostname; cat /etc/hostname") == "host-a\nhost-a\n"
        assert (
            await sh(runtime, first, "cat /etc/resolv.conf") == "search d.svc\nnameserver 10.0.0.10\noptions ndots:5\n"
        )
        assert await sh(runtime, first, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start") == "0\n"
        assert (await sh(runtime, first, "ip link show lo")).count("UP") >= 1
        await sh(runtime, first, "echo shared > /dev/shm/x")
        assert await sh(runtime, second, "cat /dev/shm/x") == "shared\n"
        assert (await sh(runtime, first, "echo $$; ps | wc -l")) != ""
        links = [os.readlink(f"/proc/{(await runtime.container(c)).pid}/ns/net") for c in (first, second)]
        assert links[0] == links[1] != os.readlink("/proc/self/ns/net")

    run(body)


def test_a_shared_pid_namespace_reaps_orphans(run: Callable[[Body], None]) -> None:
    async def body(runtime: OciRuntime) -> None:
        sandbox_id = await sandbox(runtime, namespaces=Namespaces(pid="pod"))
        first = await started(runtime, sandbox_id, "sleep 777", name="a")
        second = await started(runtime, sandbox_id, "sleep 888", name="b")
        listing = await sh(runtime, second, "ps -o pid,comm,args")
        assert "/pause" in listing
        assert "sleep 777" in listing
        assert "sleep 888" in listing
        await sh(runtime, first, "(sh -c 'sleep 0.05 &' ); sleep 0.2")
        assert "sleep 0.05" not in await sh(runtime, first, "ps -o pid,stat,args")
        pause = runtime.sandboxes[sandbox_id].record.pause.pid
        assert os.readlink(f"/proc/{pause}/root") != "/"
        assert "Uid:\t65535\t65535" in read(f"/proc/{pause}/status")
        await runtime.stop_sandbox(sandbox_id)
        assert start_time(pause) == 0

    run(body)


def test_a_target_pid_namespace_is_joined(run: Callable[[Body], None]) -> None:
    async def body(runtime: OciRuntime) -> None:
        sandbox_id = await sandbox(runtime)
        target = await started(runtime, sandbox_id, "sleep 777", name="a")
        debugger = await started(runtime, sandbox_id, name="debug", pid_target=target)
        assert "sleep 777" in await sh(runtime, debugger, "ps")

    run(body)


def test_the_nodes_namespaces_are_the_nodes(run: Callable[[Body], None]) -> None:
    async def body(runtime: OciRuntime) -> None:
        sandbox_id = await sandbox(runtime, namespaces=Namespaces("node", "node", "node"))
        container_id = await started(runtime, sandbox_id)
        pid = (await runtime.container(container_id)).pid
        for kind in ("net", "pid", "ipc", "uts"):
            assert os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/self/ns/{kind}")
        await runtime.stop_container(container_id, 0)
        assert (await runtime.container(container_id)).exit_code == 137

    run(body)


def test_containers_outlive_us(tmp_path: Path, archive: Path, leftovers: None) -> None:
    """A process of its own starts containers and is killed with SIGKILL; we adopt what it left."""
    script = f"""
import asyncio, os, signal, sys
from pathlib import Path
from kaa.api.clock import SystemClock
from kaa.runtime.base import *
from kaa.runtime.oci.runtime import OciRuntime
async def main():
    runtime = OciRuntime(Path({str(tmp_path / "root")!r}), Path({str(tmp_path / "run")!r}), SystemClock())
    await runtime.start()
    await runtime.import_images(Path({str(archive)!r}))
    sandbox = await runtime.run_sandbox(SandboxConfig("web", "d", "1", log_directory={str(tmp_path / "logs")!r}, namespaces=Namespaces(pid="pod")))
    for name, script in (("stays", "while :; do echo tick; sleep 0.1; done"), ("goes", "sleep 0.4; exit 5")):
        container = await runtime.create_container(sandbox, ContainerConfig(name, "busybox", command=("sh", "-c", script), log_path=name))
        await runtime.start_container(container)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    source = str(Path(__file__).parents[2] / "src")
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": source}, check=False)
    assert done.returncode == -signal.SIGKILL

    async def main() -> None:
        async with runtime_in(tmp_path, None) as runtime:
            (found,) = await runtime.list_sandboxes()
            assert found.state is SandboxState.READY
            by_name = {container.name: container for container in await runtime.list_containers()}
            assert by_name["stays"].state is ContainerState.RUNNING
            gone = await ended(runtime, by_name["goes"].id)
            assert (gone.exit_code, gone.reason) == (5, "Error")
            assert await sh(runtime, by_name["stays"].id, "echo here") == "here\n"
            await runtime.stop_container(by_name["stays"].id, 0)
            assert (await runtime.container(by_name["stays"].id)).exit_code == 137

    asyncio.run(main())


def test_a_container_whose_conmon_died_is_still_watched(run: Callable[[Body], None]) -> None:
    async def body(runtime: OciRuntime) -> None:
        container_id = await started(runtime, await sandbox(runtime))
        live = runtime.containers.get(container_id)
        os.kill(live.record.conmon.pid, signal.SIGKILL)
        os.kill(live.record.process.pid, signal.SIGTERM)
        os.kill(live.record.process.pid, signal.SIGKILL)
        found = await ended(runtime, container_id)
        assert found.exit_code in (137, 255)

    run(body)


def test_running_out_of_memory_is_told(run: Callable[[Body], None]) -> None:
    async def body(runtime: OciRuntime) -> None:
        eater = "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done"
        limits = Resources(memory_limit_bytes=8 << 20, memory_swap_limit_bytes=8 << 20)
        found = await ended(runtime, await started(runtime, await sandbox(runtime), eater, resources=limits))
        assert (found.exit_code, found.reason) == (137, "OOMKilled")

    run(body)


def test_a_negative_oom_score_is_raised_where_it_is_refused(run: Callable[[Body], None]) -> None:
    async def body(runtime: OciRuntime) -> None:
        container_id = await started(runtime, await sandbox(runtime), resources=Resources(oom_score_adj=-997))
        assert int(await sh(runtime, container_id, "cat /proc/1/oom_score_adj")) in (
            -997,
            int(read("/proc/self/oom_score_adj")),
        )

    run(body)


def test_the_stop_signal_is_heeded(run: Callable[[Body], None]) -> None:
    async def body(runtime: OciRuntime) -> None:
        script = "trap 'exit 9' INT; echo ready; while :; do sleep 0.02; done"
        container_id = await started(runtime, await sandbox(runtime), script, stop_signal="SIGINT")
        log = (await runtime.container(container_id)).log_path
        while "ready" not in read(log):  # noqa: ASYNC110 - a container has no event for this
            await asyncio.sleep(0.01)
        await runtime.stop_container(container_id, 10)
        assert (await runtime.container(container_id)).exit_code == 9

    run(body)


def test_a_terminal_has_a_size_and_a_code(run: Callable[[Body], None]) -> None:
    async def body(runtime: OciRuntime) -> None:
        container_id = await started(runtime, await sandbox(runtime))
        streams = await runtime.exec(container_id, ("sh",), stdin=True, tty=True)
        await until(streams, b"# ")
        await streams.resize(123, 45)
        await asyncio.sleep(0.1)
        await streams.write(b"stty size; exit 6\n")
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
        await asyncio.sleep(0.2)
        record = runtime.containers.get(container_id).record
        assert runtime.containers.cgroups.processes(record.cgroup_path) == procs

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


def test_a_volumes_data_survives_its_pod(run: Callable[[Body], None], tmp_path: Path) -> None:
    async def body(runtime: OciRuntime) -> None:
        data = tmp_path / "data"
        data.mkdir()
        (data / "keep").write_text("precious")
        sandbox_id = await sandbox(runtime)
        mounts = (Mount(str(data), "/data"), Mount(str(data), "/ro", read_only=True))
        container_id = await started(runtime, sandbox_id, mounts=mounts)
        assert await sh(runtime, container_id, "cat /data/keep; touch /data/new") == "precious"
        assert "Read-only" in await sh(runtime, container_id, "touch /ro/x")
        await runtime.remove_sandbox(sandbox_id)
        assert sorted(os.listdir(data)) == ["keep", "new"]

    run(body)


def test_a_mount_left_in_our_folder_is_not_emptied(run: Callable[[Body], None], tmp_path: Path) -> None:
    """Somebody bound data into the container's folder: removal refuses rather than deletes it."""

    async def body(runtime: OciRuntime) -> None:
        data = tmp_path / "data"
        data.mkdir()
        (data / "keep").write_text("precious")
        container_id = await started(runtime, await sandbox(runtime))
        place = runtime.snapshots.writable / container_id / "bound"
        place.mkdir()
        mount(str(data), str(place), flags=MS_BIND)
        try:
            with pytest.raises(OSError, match="something is mounted there"):
                await runtime.remove_container(container_id)
        finally:
            unmount(str(place))
        assert read(data / "keep") == "precious"
        await runtime.remove_container(container_id)

    run(body)


def test_users_capabilities_and_seccomp(run: Callable[[Body], None]) -> None:
    async def body(runtime: OciRuntime) -> None:
        sandbox_id = await sandbox(runtime)
        security = Security(
            user=33,
            supplemental_groups=(2000,),
            drop_capabilities=("ALL",),
            no_new_privileges=True,
            seccomp="runtime/default",
        )
        container_id = await started(runtime, sandbox_id, name="low", security=security)
        assert await sh(runtime, container_id, "id -u; id -g; id -G") == "33\n33\n33 2000\n"
        status = await sh(runtime, container_id, "cat /proc/1/status")
        assert "CapEff:\t0000000000000000" in status
        assert "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status
        assert "not permitted" in await sh(runtime, container_id, "unshare -m true")
        high = await started(runtime, sandbox_id, name="high", security=Security(privileged=True))
        assert "Seccomp:\t0" in await sh(runtime, high, "cat /proc/1/status")
        assert await sh(runtime, high, "mkdir /t && mount -t tmpfs t /t && echo yes") == "yes\n"

    run(body)


def test_a_read_only_root_and_masked_paths(run: Callable[[Body], None]) -> None:
    async def body(runtime: OciRuntime) -> None:
        security = Security(read_only_root=True)
        container_id = await started(runtime, await sandbox(runtime), security=security)
        assert "Read-only" in await sh(runtime, container_id, "touch /x")
        assert "Read-only" in await sh(runtime, container_id, "echo x > /etc/hosts")
        assert await sh(runtime, container_id, "wc -c < /proc/interrupts") == "0\n"
        assert "Read-only" in await sh(runtime, container_id, "echo 1 > /proc/sys/vm/swappiness")

    run(body)


def test_limits_reach_the_cgroup_and_change(run: Callable[[Body], None]) -> None:
    async def body(runtime: OciRuntime) -> None:
        limits = Resources(cpu_shares=256, memory_limit_bytes=32 << 20, pids_limit=50)
        container_id = await started(runtime, await sandbox(runtime), resources=limits)
        (use,) = await runtime.usage()
        assert use.pids == 1
        assert 0 < use.memory_bytes < 32 << 20
        assert use.cpu_ns > 0
        cgroups, path = runtime.containers.cgroups, runtime.containers.get(container_id).record.cgroup_path
        if not cgroups.unified:
            file = cgroups.folder(path, "memory") / "memory.limit_in_bytes"
            assert int(read(file)) == 32 << 20
            await runtime.update_resources(container_id, Resources(memory_limit_bytes=64 << 20))
            assert int(read(file)) == 64 << 20

    run(body)


def test_half_made_things_are_swept_at_the_start(tmp_path: Path, archive: Path, leftovers: None) -> None:
    async def main() -> None:
        async with runtime_in(tmp_path, archive, keep=True) as runtime:
            sandbox_id = await sandbox(runtime)
            container_id = await started(runtime, sandbox_id)
            record = runtime.containers.get(container_id).record
            record.made = False
            runtime.containers.folder.save(record)
            pid_file = exec_folder(runtime.run_dir) / "of-an-exec"
            pid_file.parent.mkdir(exist_ok=True)
            pid_file.write_text("1")
        async with runtime_in(tmp_path, None) as runtime:
            assert not pid_file.exists()
            assert await runtime.list_containers() == []
            assert start_time(record.process.pid) == 0
            assert not list(runtime.snapshots.writable.iterdir())

    asyncio.run(main())


def test_the_copy_without_overlayfs_runs_too(run: Callable[[Body], None]) -> None:
    async def body(runtime: OciRuntime) -> None:
        runtime.snapshots.overlay = False
        container_id = await started(runtime, await sandbox(runtime))
        assert await sh(runtime, container_id, "touch /x && ls -d /x /bin/ls") == "/bin/ls\n/x\n"

    run(body)


def test_events_name_the_end(run: Callable[[Body], None]) -> None:
    async def body(runtime: OciRuntime) -> None:
        events = runtime.events()
        container_id = await started(runtime, await sandbox(runtime), "exit 0")
        async for event in events:
            if event.kind is EventKind.STOPPED:
                assert event.container_id == container_id
                break
        assert (await runtime.container(container_id)).reason == "Completed"

    run(body)


def test_the_network_is_attached_and_detached(tmp_path: Path, archive: Path, leftovers: None) -> None:
    async def main() -> None:
        async with runtime_in(tmp_path, archive) as runtime:
            network = runtime.network = FakeNetwork()
            sandbox_id = await sandbox(runtime)
            (found,) = await runtime.list_sandboxes()
            assert found.ips == ("10.1.0.2",)
            assert network.attached[sandbox_id] == str(runtime.run_dir / "sandboxes" / sandbox_id / "net")
            await sandbox(runtime, name="host", namespaces=Namespaces("node"))
            assert list(network.attached) == [sandbox_id]
            await runtime.stop_sandbox(sandbox_id)
            assert not network.attached
            network.fail = True
            with pytest.raises(RuntimeFailure, match="no addresses left"):
                await sandbox(runtime, name="unlucky")
            assert {found.name for found in await runtime.list_sandboxes()} == {"web", "host"}
            assert len(os.listdir(runtime.run_dir / "sandboxes")) == 1

    asyncio.run(main())


def test_a_sandbox_is_taken_down_once(tmp_path: Path, archive: Path, leftovers: None) -> None:
    async def main() -> None:
        async with runtime_in(tmp_path, archive) as runtime:
            network = runtime.network = FakeNetwork()
            sandbox_id = await sandbox(runtime)
            await started(runtime, sandbox_id)
            parent = runtime.containers.cgroups.folder(f"{runtime.containers.own_cgroup}/{sandbox_id}", "pids")
            assert parent.is_dir()
            await runtime.stop_sandbox(sandbox_id)
            await runtime.stop_sandbox(sandbox_id)
            await runtime.remove_sandbox(sandbox_id)
            assert network.detached == [sandbox_id]
            assert not parent.exists()
            at_once = await sandbox(runtime, name="at-once")
            await runtime.remove_sandbox(at_once)
            assert network.detached == [sandbox_id, at_once]

    asyncio.run(main())


def test_a_sandbox_whose_teardown_failed_is_taken_down_again(tmp_path: Path, archive: Path, leftovers: None) -> None:
    class Refusing(FakeNetwork):
        async def detach(self, sandbox_id: str) -> None:
            if self.fail:
                raise RuntimeFailure("busy")
            await super().detach(sandbox_id)

    async def main() -> None:
        async with runtime_in(tmp_path, archive) as runtime:
            network = runtime.network = Refusing()
            sandbox_id = await sandbox(runtime)
            network.fail = True
            with pytest.raises(RuntimeFailure, match="busy"):
                await runtime.stop_sandbox(sandbox_id)
            network.fail = False
            await runtime.remove_sandbox(sandbox_id)
            assert not network.attached
            assert not os.listdir(runtime.run_dir / "sandboxes")

    asyncio.run(main())


def test_what_fails_to_be_made_leaves_nothing(run: Callable[[Body], None]) -> None:
    async def body(runtime: OciRuntime) -> None:
        with pytest.raises(RuntimeFailure, match=r"cannot set sysctl kernel\.nonsense=1"):
            await sandbox(runtime, sysctls={"kernel.nonsense": "1"})
        assert await runtime.list_sandboxes() == []
        sandbox_id = await sandbox(runtime)
        with pytest.raises(RuntimeFailure, match="unable to find user nobody-here"):
            await started(runtime, sandbox_id, security=Security(username="nobody-here"))
        assert await runtime.list_containers() == []
        assert not list(runtime.snapshots.writable.iterdir())
        assert not list(runtime.containers.bundles.iterdir())

    run(body)


def test_after_a_restart_of_the_machine_nothing_is_believed_alive(
    tmp_path: Path, archive: Path, leftovers: None
) -> None:
    """The pid is in use again, but in another boot."""

    async def main() -> None:
        async with runtime_in(tmp_path, archive, keep=True) as runtime:
            container_id = await started(runtime, await sandbox(runtime))
            await runtime.stop_container(container_id, 0)
            record = runtime.containers.get(container_id).record
            record.state, record.finished_at, record.exit_code = ContainerState.RUNNING, 0, 0
            record.process = record.conmon = ProcessRecord(os.getpid(), start_time(os.getpid()), "another boot")
            runtime.containers.folder.save(record)
            (runtime.containers.bundle(container_id) / "exit" / container_id).unlink()
        async with runtime_in(tmp_path, None) as runtime:
            found = await runtime.container(container_id)
            assert (found.state, found.exit_code, found.reason) == (ContainerState.EXITED, 255, "Unknown")

    asyncio.run(main())


def test_a_second_stop_with_less_patience_wins(run: Callable[[Body], None]) -> None:
    async def body(runtime: OciRuntime) -> None:
        container_id = await started(runtime, await sandbox(runtime), "trap '' TERM; while :; do sleep 0.02; done")
        async with asyncio.timeout(10):
            await asyncio.gather(runtime.stop_container(container_id, 500), runtime.stop_container(container_id, 0.1))
        assert (await runtime.container(container_id)).exit_code == 137

    run(body)


#: A device that containers do not have by themselves, and that may be opened without harm.
CONTROL = "/dev/loop-control"


def test_devices_are_made_and_guarded(run: Callable[[Body], None]) -> None:
    """A container has the devices it is given, as far as their permissions go, and no others."""

    async def body(runtime: OciRuntime) -> None:
        sandbox_id = await sandbox(runtime)
        devices = (Device(CONTROL, "/dev/mine", "r"), Device("/dev/null", "/dev/nothing"))
        container_id = await started(
            runtime, sandbox_id, devices=devices, security=Security(add_capabilities=("MKNOD",))
        )
        assert await sh(runtime, container_id, ": < /dev/mine && echo hi > /dev/nothing && echo read") == "read\n"
        assert "Operation not permitted" in await sh(runtime, container_id, ": > /dev/mine")
        numbers = await sh(runtime, container_id, "stat -c '%t:%T' /dev/mine")
        assert numbers == f"{os.major(os.stat(CONTROL).st_rdev):x}:{os.minor(os.stat(CONTROL).st_rdev):x}\n"
        other = await sh(runtime, container_id, "mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg")
        assert "Operation not permitted" in other, "a device that was not given, made by the container itself"

    run(body)


def test_devices_of_the_container_device_interface(tmp_path: Path, archive: Path, leftovers: None) -> None:
    """What a spec file says of a device is in the container: variables, nodes with their rules, mounts, hooks, groups."""
    folder, shared = tmp_path / "cdi", tmp_path / "shared"
    folder.mkdir()
    shared.mkdir()
    (shared / "file").write_text("from the vendor")
    edits = {
        "env": ["ROOM=12"],
        "deviceNodes": [{"path": "/dev/theirs", "hostPath": CONTROL, "permissions": "w"}],
        "mounts": [{"hostPath": str(shared), "containerPath": "/opt/vendor", "options": ["ro", "rbind"]}],
        "hooks": [{"hookName": "createRuntime", "path": "/bin/touch", "args": ["touch", str(tmp_path / "hooked")]}],
        "additionalGids": [4242],
    }
    spec = {"cdiVersion": "0.7.0", "kind": "test.com/room", "devices": [{"name": "12", "containerEdits": edits}]}
    (folder / "test.json").write_text(json.dumps(spec))

    async def main() -> None:
        runtime = OciRuntime(tmp_path / "root", tmp_path / "run", SystemClock(), cdi_folders=(str(folder),))
        await runtime.start()
        await runtime.import_images(archive)
        sandbox_id = await sandbox(runtime)
        try:
            container_id = await started(runtime, sandbox_id, cdi_devices=("test.com/room=12",))
            assert await sh(runtime, container_id, "echo $ROOM; cat /opt/vendor/file") == "12\nfrom the vendor"
            assert "Read-only" in await sh(runtime, container_id, "touch /opt/vendor/x")
            assert await sh(runtime, container_id, ": > /dev/theirs && echo written") == "written\n"
            assert "Operation not permitted" in await sh(runtime, container_id, ": < /dev/theirs")
            assert "4242" in await sh(runtime, container_id, "id -G")
            assert (tmp_path / "hooked").exists()
            with pytest.raises(RuntimeFailure, match="CDI device injection failed: unresolvable CDI devices test"):
                await started(runtime, sandbox_id, name="other", cdi_devices=("test.com/room=13",))
        finally:
            await runtime.remove_sandbox(sandbox_id)
            await runtime.close()

    asyncio.run(main())
