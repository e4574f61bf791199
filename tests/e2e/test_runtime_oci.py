"""The OCI runtime on this kernel: what only real containers can show."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from runtime_lab import NEEDED, Body, ended, read, runtime_in, sandbox, sh, started

from kaa.runtime.base import (
    DNS,
    ContainerState,
    EventKind,
    Mount,
    Namespaces,
    PortMapping,
    Resources,
    RuntimeFailure,
    SandboxState,
    Security,
)
from kaa.runtime.oci.execs import exec_folder
from kaa.runtime.oci.linux import MS_BIND, mount, start_time, unmount
from kaa.runtime.oci.runtime import OciRuntime
from kaa.runtime.oci.state import ProcessRecord

pytestmark = NEEDED


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


def test_events_tell_whose_they_are(run: Callable[[Body], None]) -> None:
    async def body(runtime: OciRuntime) -> None:
        events = runtime.events()
        sandbox_id = await sandbox(runtime)
        container_id = await started(runtime, sandbox_id)
        await runtime.remove_sandbox(sandbox_id)
        seen = []
        async for event in events:
            seen.append((event.kind, event.container_id))
            assert (event.sandbox_id, event.uid) == (sandbox_id, "1")
            if seen[-1] == (EventKind.DELETED, ""):
                break
        kinds = [EventKind.CREATED, EventKind.STARTED, EventKind.STOPPED, EventKind.DELETED]
        assert [kind for kind, container in seen if container == container_id] == kinds

    run(body)


@pytest.mark.parametrize("leaving", [False, True])
def test_a_sandbox_is_taken_down_once(tmp_path: Path, archive: Path, leftovers: None, leaving: bool) -> None:
    async def main() -> None:
        async with runtime_in(tmp_path, archive) as runtime:
            network = runtime.network = FakeNetwork()
            sandbox_id = await sandbox(runtime)
            await started(runtime, sandbox_id)
            parent = runtime.containers.cgroups.folder(f"{runtime.containers.own_cgroup}/{sandbox_id}", "pids")
            assert parent.is_dir()
            await runtime.stop_sandbox(sandbox_id, leaving=leaving)
            await runtime.stop_sandbox(sandbox_id, leaving=leaving)
            assert network.detached == [sandbox_id]
            assert parent.exists() == leaving
            await runtime.remove_sandbox(sandbox_id)
            assert network.detached == [sandbox_id]
            assert not parent.exists()
            assert not os.listdir(runtime.run_dir / "sandboxes")
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
