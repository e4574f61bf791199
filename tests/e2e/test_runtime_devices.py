"""Devices of real containers: by path, by specs of the container device interface, whole disks."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from runtime_lab import NEEDED, Body, loop_device, sandbox, sh, started

from kaa.api.clock import SystemClock
from kaa.runtime.base import Device, RuntimeFailure, Security
from kaa.runtime.oci.runtime import OciRuntime

pytestmark = NEEDED
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


@pytest.mark.parametrize("engine", ["runc", "crun"])
def test_devices_of_the_container_device_interface(tmp_path: Path, archive: Path, leftovers: None, engine: str) -> None:
    """What a spec file says of a device is in the container: variables, nodes with their rules, mounts, hooks, groups."""
    folder, shared = tmp_path / "cdi", tmp_path / "shared"
    folder.mkdir()
    shared.mkdir()
    (shared / "file").write_text("from the vendor")
    edits = {
        "env": ["ROOM=12"],
        "deviceNodes": [{"path": "/dev/theirs", "hostPath": CONTROL, "permissions": "w"}],
        "mounts": [{"hostPath": str(shared), "containerPath": "/opt/vendor", "options": ["ro", "rbind"]}],
        "hooks": [
            {"hookName": name, "path": "/bin/sh", "args": ["sh", "-c", f"cat > /dev/null; touch {tmp_path / name}"]}
            for name in ("createRuntime", "poststart", "poststop")
        ],
        "additionalGids": [4242],
    }
    spec = {"cdiVersion": "0.7.0", "kind": "test.com/room", "devices": [{"name": "12", "containerEdits": edits}]}
    (folder / "test.json").write_text(json.dumps(spec))

    async def main() -> None:
        runtime = OciRuntime(tmp_path / "root", tmp_path / "run", SystemClock(), cdi_folders=(str(folder),))
        await runtime.start()
        await runtime.import_images(archive)
        sandbox_id = await sandbox(runtime, runtime_handler=engine)
        try:
            container_id = await started(runtime, sandbox_id, cdi_devices=("test.com/room=12",))
            assert await sh(runtime, container_id, "echo $ROOM; cat /opt/vendor/file") == "12\nfrom the vendor"
            assert "Read-only" in await sh(runtime, container_id, "touch /opt/vendor/x")
            assert await sh(runtime, container_id, ": > /dev/theirs && echo written") == "written\n"
            assert "Operation not permitted" in await sh(runtime, container_id, ": < /dev/theirs")
            assert "4242" in await sh(runtime, container_id, "id -G")
            assert (tmp_path / "createRuntime").exists()
            assert (tmp_path / "poststart").exists()
            assert not (tmp_path / "poststop").exists()
            await runtime.stop_container(container_id, 0)
            await runtime.remove_container(container_id)
            assert (tmp_path / "poststop").exists()
            with pytest.raises(RuntimeFailure, match="CDI device injection failed: unresolvable CDI devices test"):
                await started(runtime, sandbox_id, name="other", cdi_devices=("test.com/room=13",))
        finally:
            await runtime.remove_sandbox(sandbox_id)
            await runtime.close()

    asyncio.run(main())


def test_a_block_device_is_there_and_may_be_read(run: Callable[[Body], None], tmp_path: Path) -> None:
    async def body(runtime: OciRuntime) -> None:
        sandbox_id = await sandbox(runtime)
        both = (Device(str(link), "/dev/xvda", "mrw"), Device(str(link), "/dev/xvdb", "r"))
        writer = await started(runtime, sandbox_id, devices=both[:1])
        reader = await started(runtime, sandbox_id, name="reader", devices=both[1:])
        assert await sh(runtime, writer, "head -c 4 /dev/xvda") == "kaa!"
        assert (
            await sh(runtime, writer, "printf new! | dd of=/dev/xvda conv=notrunc,fsync 2>/dev/null; echo $?") == "0\n"
        )
        assert await sh(runtime, reader, "head -c 4 /dev/xvdb") == "new!"
        assert "not permitted" in await sh(runtime, reader, "echo x > /dev/xvdb")

    link = tmp_path / "link"
    with loop_device(tmp_path / "disk", b"kaa!" + bytes(2**20 - 4)) as device:
        link.symlink_to(device)
        run(body)
