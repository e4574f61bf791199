"""How long our runtime takes for each step of a pod's life, next to what it cannot beat: plain ``runc run``.

python bench/runtime.py [ROUNDS]        needs root, runc, conmon, busybox-static
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from kaa.api.clock import SystemClock
from kaa.runtime.base import ContainerConfig, SandboxConfig
from kaa.runtime.oci.build import busybox_archive
from kaa.runtime.oci.files import remove_tree
from kaa.runtime.oci.runtime import OciRuntime

BURST = 20


class Stopwatch:
    """Times by step, in milliseconds."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = defaultdict(list)
        self._last = time.perf_counter()

    def restart(self) -> None:
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.times[name].append((now - self._last) * 1000)
        self._last = now

    def report(self) -> None:
        for name, values in self.times.items():
            ordered = sorted(values)
            print(
                f"{name:<28} p50 {statistics.median(ordered):7.1f} ms   best {ordered[0]:7.1f}   worst {ordered[-1]:7.1f}"
            )


def container(name: str) -> ContainerConfig:
    return ContainerConfig(name, "busybox", command=("sleep", "1000"), log_path=f"{name}.log")


async def one_pod(runtime: OciRuntime, watch: Stopwatch, number: int) -> None:
    watch.restart()
    begun = time.perf_counter()
    config = SandboxConfig("pod", "bench", str(number), log_directory=str(runtime.root / "logs"))
    sandbox_id = await runtime.run_sandbox(config)
    watch.lap("run_sandbox")
    container_id = await runtime.create_container(sandbox_id, container("c"))
    watch.lap("create_container")
    await runtime.start_container(container_id)
    watch.lap("start_container")
    watch.times["pod, all three"].append((time.perf_counter() - begun) * 1000)
    watch.restart()
    await runtime.exec_sync(container_id, ("true",), 10)
    watch.lap("exec_sync true")
    await runtime.stop_container(container_id, 0)
    watch.lap("stop_container (kill)")
    await runtime.remove_sandbox(sandbox_id)
    watch.lap("remove_sandbox")


async def burst(runtime: OciRuntime, watch: Stopwatch) -> None:
    async def pod(number: int) -> str:
        sandbox_id = await runtime.run_sandbox(SandboxConfig("burst", "bench", str(number)))
        await runtime.start_container(await runtime.create_container(sandbox_id, container("c")))
        return sandbox_id

    watch.restart()
    sandboxes = await asyncio.gather(*(pod(number) for number in range(BURST)))
    watch.lap(f"{BURST} pods at once")
    await runtime.usage()
    watch.lap(f"usage of {BURST}")
    await asyncio.gather(*(runtime.remove_sandbox(sandbox_id) for sandbox_id in sandboxes))
    watch.lap(f"{BURST} pods removed at once")


def plain_runc(runtime: OciRuntime, folder: Path, watch: Stopwatch, rounds: int) -> None:
    """The same image without us: the floor."""
    (folder / "bundle").mkdir()
    (layer,) = (record.chain[0] for record in runtime.images.records.values())
    subprocess.run(["runc", "spec", "--bundle", folder / "bundle"], check=True)
    text = (folder / "bundle/config.json").read_text().replace('"terminal": true', '"terminal": false')
    text = text.replace('"sh"', '"true"').replace('"rootfs"', f'"{runtime.snapshots.folder(layer) / "fs"}"', 1)
    (folder / "bundle/config.json").write_text(text)
    for number in range(rounds):
        watch.restart()
        command = ["runc", "--root", folder / "plain", "run", "--bundle", folder / "bundle", f"bench{number}"]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        watch.lap("plain: runc run true")


async def main(rounds: int) -> None:
    folder, watch = Path(tempfile.mkdtemp(prefix="kaa-bench-")), Stopwatch()
    runtime = OciRuntime(folder / "root", folder / "run", SystemClock())
    try:
        await runtime.start()
        archive = busybox_archive(folder / "busybox.tar")
        watch.restart()
        await runtime.import_images(archive)
        watch.lap("import busybox")
        for number in range(rounds):
            await one_pod(runtime, watch, number)
        await burst(runtime, watch)
        plain_runc(runtime, folder, watch, rounds)
    finally:
        for sandbox in await runtime.list_sandboxes():
            await runtime.remove_sandbox(sandbox.id)
        await runtime.close()
        remove_tree(folder)
    watch.report()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10))
