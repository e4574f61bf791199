"""A real OCI runtime in a test's own folders, and short ways to make things on it."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from kaa.api.clock import SystemClock
from kaa.runtime.base import Container, ContainerConfig, SandboxConfig, Streams
from kaa.runtime.oci.runtime import OciRuntime

#: The marks of a module whose tests need one.
NEEDED = [
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which("conmon") or not Path("/bin/busybox").exists(),
        reason="needs root, conmon and busybox-static",
    ),
]
#: What a test does with a runtime that the fixture ``run`` made.
Body = Callable[[OciRuntime], Awaitable[None]]


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


def read(path: str | Path) -> str:
    return Path(path).read_text()


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


@contextmanager
def loop_device(image: Path, content: bytes) -> Iterator[Path]:
    """A block device that holds some bytes; the test is skipped where the machine gives none."""
    image.write_bytes(content)
    found = subprocess.run(["losetup", "--find", "--show", str(image)], capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip(f"no loop device: {found.stderr.strip()}")
    device = found.stdout.strip()
    yield Path(device)
    subprocess.run(["losetup", "--detach", device], check=True)
