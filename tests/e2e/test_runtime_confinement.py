"""What confines real containers beyond the common: user namespaces, mounts inside of mounts, groups, devices."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from runtime_lab import NEEDED, sandbox, sh, started

from kaa.api.clock import SystemClock
from kaa.runtime.base import (
    ContainerState,
    IdMap,
    Mount,
    Namespaces,
    RuntimeFailure,
    Security,
)
from kaa.runtime.files import mount_points
from kaa.runtime.oci.build import busybox_archive
from kaa.runtime.oci.linux import MS_BIND, MS_PRIVATE, MS_SHARED, mount, unmount
from kaa.runtime.oci.runtime import OciRuntime

pytestmark = NEEDED
Body = Callable[[OciRuntime, Path], Awaitable[None]]
USERS = (IdMap(0, 655360, 65536),)


@pytest.fixture
def run() -> Iterator[Callable[[Body], None]]:
    """Runs a test's body on a runtime in a folder that every user may pass through, as /var/lib/kaa is."""
    folder = Path(tempfile.mkdtemp(prefix="kaa-confinement-", dir="/tmp"))
    folder.chmod(0o711)

    def runner(body: Body) -> None:
        async def main() -> None:
            runtime = OciRuntime(folder / "root", folder / "run", SystemClock())
            await runtime.start()
            await runtime.import_images(busybox_archive(folder / "busybox.tar"))
            try:
                async with asyncio.timeout(60):
                    await body(runtime, folder)
            finally:
                for sandbox in await runtime.list_sandboxes():
                    await runtime.remove_sandbox(sandbox.id)
                await runtime.close()

        asyncio.run(main())

    yield runner
    assert mount_points(folder) == []
    shutil.rmtree(folder)


# -------------------------------------------------------------------------------------------------------- user namespaces


def test_root_of_a_user_namespace_is_nobody_here(run: Callable[[Body], None]) -> None:
    async def body(runtime: OciRuntime, folder: Path) -> None:
        assert (await runtime.info()).features[""].user_namespaces
        volume, file = folder / "volume", folder / "hosts"
        volume.mkdir()
        file.write_text("x\n")
        sandbox_id = await sandbox(
            runtime,
            hostname="host-a",
            namespaces=Namespaces(users=USERS),
            sysctls={"net.ipv4.ip_unprivileged_port_start": "0", "kernel.shm_rmid_forced": "1"},
        )
        mounts = (Mount(str(volume), "/data"), Mount(str(volume), "/frozen", read_only=True), Mount(str(file), "/file"))
        first = await started(runtime, sandbox_id, mounts=mounts)
        second = await started(
            runtime, sandbox_id, name="other", mounts=mounts, security=Security(user=1000, group=1000)
        )

        assert (await sh(runtime, first, "cat /proc/self/uid_map")).split() == ["0", "655360", "65536"]
        pid = (await runtime.container(first)).pid
        assert "Uid:\t655360" in await asyncio.to_thread(Path(f"/proc/{pid}/status").read_text)
        assert await sh(runtime, first, "id -u; hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start") == (
            "0\nhost-a\n0\n"
        )
        assert await sh(runtime, first, "cat /proc/sys/kernel/shm_rmid_forced") == "1\n"

        assert await sh(runtime, first, "touch /data/mine /made /dev/shm/x; stat -c %u:%g /data/mine /made /file") == (
            "0:0\n0:0\n0:0\n"
        )
        assert (volume / "mine").stat().st_uid == 0  # unshifted on the volume,
        upper = runtime.snapshots.upper(first)
        assert (upper / "made").stat().st_uid == 655360  # shifted in the root
        (volume).chmod(0o777)
        assert await sh(runtime, second, "touch /data/his; stat -c %u /data/his /data/mine") == "1000\n0\n"
        assert (volume / "his").stat().st_uid == 1000
        assert "Read-only" in await sh(runtime, first, "touch /frozen/x")
        assert await sh(runtime, first, "stat -c %u /bin/sh /etc/hostname /dev/shm") == "0\n0\n0\n"
        assert await sh(runtime, first, "chmod 700 /bin/busybox; stat -c '%u %a' /bin/busybox") == "0 700\n"
        assert (upper / "bin/busybox").stat().st_uid == 655360  # copied up as its owner's
        for container_id in (first, second):
            assert await sh(runtime, container_id, "echo out > /dev/stdout; echo err > /dev/stderr") == "out\nerr\n"
            assert await sh(runtime, container_id, "echo first > /proc/1/fd/2 && echo said") == "said\n"
        links = [os.readlink(f"/proc/{(await runtime.container(c)).pid}/ns/user") for c in (first, second)]
        assert links[0] == links[1] != os.readlink("/proc/self/ns/user")
        assert mount_points(folder / "run/containers") == []

    run(body)


def test_a_shared_pid_namespace_below_a_user_namespace(run: Callable[[Body], None]) -> None:
    async def body(runtime: OciRuntime, folder: Path) -> None:
        sandbox_id = await sandbox(runtime, namespaces=Namespaces(pid="pod", users=USERS))
        await started(runtime, sandbox_id, "sleep 777", name="a")
        second = await started(runtime, sandbox_id, "sleep 888", name="b")
        listing = await sh(runtime, second, "ps -o pid,args")
        assert "sleep 777" in listing
        assert "/pause" in listing
        await runtime.stop_sandbox(sandbox_id)

    run(body)


def test_a_file_system_that_cannot_be_mapped_is_named(run: Callable[[Body], None]) -> None:
    async def body(runtime: OciRuntime, folder: Path) -> None:
        sandbox_id = await sandbox(runtime, namespaces=Namespaces(users=USERS))
        with pytest.raises(RuntimeFailure, match=r"failed to set MOUNT_ATTR_IDMAP on /proc: .*filesystem used doesn't"):
            await started(runtime, sandbox_id, mounts=(Mount("/proc", "/host-proc"),))
        assert await runtime.list_containers() == []

    run(body)


def test_images_that_a_user_namespace_mounts_are_its_roots(run: Callable[[Body], None]) -> None:
    async def body(runtime: OciRuntime, folder: Path) -> None:
        sandbox_id = await sandbox(runtime, namespaces=Namespaces(users=USERS))
        image = await runtime.image("busybox")
        assert image is not None
        mounts = (Mount("", "/tools", read_only=True, image=image.id, image_sub_path="bin"),)
        container_id = await started(runtime, sandbox_id, mounts=mounts)
        assert await sh(runtime, container_id, "stat -c %u /tools/busybox") == "0\n"
        assert "Read-only" in await sh(runtime, container_id, "touch /tools/x")

    run(body)


def test_mounts_of_a_crash_are_swept(run: Callable[[Body], None]) -> None:
    async def body(runtime: OciRuntime, folder: Path) -> None:
        left = [runtime.snapshots.writable / "dead/layer0", runtime.containers.bundles / "dead/idmapped/0"]
        for place in left:
            place.mkdir(parents=True)
            mount("tmpfs", str(place), "tmpfs")
        again = OciRuntime(folder / "root", folder / "run", SystemClock())
        await again.start()
        await again.close()
        assert [place for place in left if place.parent.exists()] == []

    run(body)


def test_a_closed_folder_offers_no_user_namespaces(run: Callable[[Body], None]) -> None:
    async def body(runtime: OciRuntime, folder: Path) -> None:
        os.chmod(folder, 0o700)
        assert not (await runtime.info()).features[""].user_namespaces

    run(body)


# -------------------------------------------------------------------------------------------------------- mounts


@pytest.fixture
def tree() -> Iterator[Path]:
    """A folder on a shared mount with a mount inside."""
    folder = Path(tempfile.mkdtemp(prefix="kaa-tree-", dir="/tmp"))
    mount(str(folder), str(folder), flags=MS_BIND)
    mount("", str(folder), flags=MS_SHARED)
    (folder / "inner").mkdir()
    mount("tmpfs", str(folder / "inner"), "tmpfs")
    yield folder
    for point in sorted(mount_points(folder), reverse=True):
        unmount(str(point))
    assert mount_points(folder) == []
    shutil.rmtree(folder)


def test_mounts_inside_of_read_only_ones(run: Callable[[Body], None], tree: Path) -> None:
    async def body(runtime: OciRuntime, folder: Path) -> None:
        sandbox_id = await sandbox(runtime)
        plain = Mount(str(tree), "/plain", read_only=True)
        deep = Mount(str(tree), "/deep", read_only=True, recursive_read_only=True)
        container_id = await started(runtime, sandbox_id, mounts=(plain, deep))
        assert "Read-only" in await sh(runtime, container_id, "touch /plain/x")
        assert await sh(runtime, container_id, "touch /plain/inner/x && echo written") == "written\n"
        assert "Read-only" in await sh(runtime, container_id, "touch /deep/inner/y")

    run(body)


def test_mounts_go_where_propagation_lets_them(run: Callable[[Body], None], tree: Path) -> None:
    async def body(runtime: OciRuntime, folder: Path) -> None:
        sandbox_id = await sandbox(runtime)
        mounts = (
            Mount(str(tree), "/private"),
            Mount(str(tree), "/slave", propagation="host_to_container"),
            Mount(str(tree), "/shared", propagation="bidirectional"),
        )
        privileged = Security(privileged=True)
        container_id = await started(runtime, sandbox_id, mounts=mounts, security=privileged)
        for name in ("later", "p", "s", "b"):
            (tree / name).mkdir()
        mount("tmpfs", str(tree / "later"), "tmpfs")
        (tree / "later/file").touch()
        seen = await sh(runtime, container_id, "ls -d /private/later/file /slave/later/file /shared/later/file 2>&1")
        assert "/private/later/file: No such" in seen
        assert seen.count("No such") == 1
        for place in ("private/p", "slave/s", "shared/b"):
            await sh(runtime, container_id, f"mount -t tmpfs tmpfs /{place} && touch /{place}/made")
        assert [(tree / f"{name}/made").exists() for name in ("p", "s", "b")] == [False, False, True]

    run(body)


@pytest.mark.parametrize(
    ("propagation", "name"), [("bidirectional", "shared"), ("host_to_container", "shared or slave")]
)
def test_mounts_that_cannot_propagate_are_refused(
    run: Callable[[Body], None], tree: Path, propagation: Any, name: str
) -> None:
    mount("", str(tree), flags=MS_PRIVATE)

    async def body(runtime: OciRuntime, folder: Path) -> None:
        sandbox_id = await sandbox(runtime)
        source = str(tree / "some")
        with pytest.raises(RuntimeFailure) as caught:
            await started(runtime, sandbox_id, mounts=(Mount(source, "/m", propagation=propagation),))
        assert str(caught.value) == (
            f'failed to generate spec: path "{source}" is mounted on "{tree}" but it is not a {name} mount'
        )

    run(body)


# -------------------------------------------------------------------------------------------------------- who, and devices


def test_groups_of_the_image_are_left_out_when_strict(run: Callable[[Body], None]) -> None:
    async def body(runtime: OciRuntime, folder: Path) -> None:
        sandbox_id = await sandbox(runtime)
        security = Security(user=1000, group=3000, supplemental_groups=(4000,), strict_groups=True)
        container_id = await started(runtime, sandbox_id, security=security)
        assert await sh(runtime, container_id, "id -u; id -g; id -G") == "1000\n3000\n3000 4000\n"
        user = (await runtime.container(container_id)).user
        assert user is not None
        assert (user.uid, user.gid, user.groups) == (1000, 3000, (3000, 4000))

    run(body)


def test_a_seccomp_profile_that_is_not_there(run: Callable[[Body], None]) -> None:
    async def body(runtime: OciRuntime, folder: Path) -> None:
        sandbox_id = await sandbox(runtime)
        path = folder / "none.json"
        with pytest.raises(RuntimeFailure) as caught:
            await started(runtime, sandbox_id, security=Security(seccomp=str(path)))
        assert str(caught.value) == f'cannot load seccomp profile "{path}": open {path}: no such file or directory'
        path.write_text(
            '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}'
        )
        container_id = await started(runtime, sandbox_id, security=Security(seccomp=str(path)))
        assert "not permitted" in await sh(runtime, container_id, "mkdir /x")
        assert (await runtime.container(container_id)).state is ContainerState.RUNNING

    run(body)
