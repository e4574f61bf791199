"""What a node's memory, disks and process table hold, read from the machine; and what a pod keeps on disk."""

from __future__ import annotations

import os
from pathlib import Path

from kaa.api.types.core_v1 import Pod

from .pressure import IMAGE_FS, IMAGE_INODES, MEMORY, NODE_FS, NODE_INODES, PIDS, Observation, Storage


def observe(root: Path) -> dict[str, Observation]:
    """Every signal of this machine. ``root`` is on the disk of volumes, logs and images; what cannot be read is left out."""
    seen = {**_memory(), **_pids()}
    while not root.exists():
        root = root.parent
    disk = os.statvfs(root)
    space = Observation(disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize)
    inodes = Observation(disk.f_favail, disk.f_files)
    seen |= {NODE_FS: space, IMAGE_FS: space}
    return {**seen, NODE_INODES: inodes, IMAGE_INODES: inodes} if disk.f_files else seen  # some file systems count none


def _memory() -> dict[str, Observation]:
    """By the kernel's own estimate of what may be had without swapping."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    total, available = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    return {MEMORY: Observation(available, total)}


def _pids() -> dict[str, Observation]:
    try:
        most = int(Path("/proc/sys/kernel/pid_max").read_text())
        running = int(Path("/proc/loadavg").read_text().split()[3].split("/")[1])
    except (OSError, ValueError, IndexError):
        return {}
    return {PIDS: Observation(max(most - running, 0), most)}


def storage(pod: Pod, pod_dir: Path, log_dir: Path, roots: dict[str, int]) -> Storage:
    """What a pod keeps on disk. ``roots`` {container name: bytes of its writable layer}."""
    volumes = {
        volume.name: tree_bytes(pod_dir / "volumes" / "kubernetes.io~empty-dir" / volume.name)
        for volume in pod.spec.volumes
        if volume.empty_dir is not None and volume.empty_dir.medium != "Memory"
    }
    containers = {
        one.name: roots.get(one.name, 0) + tree_bytes(log_dir / one.name)
        for one in (*pod.spec.init_containers, *pod.spec.containers)
    }
    return Storage(volumes, containers)


def tree_bytes(folder: Path) -> int:
    """Blocks taken below a folder, as ``du`` counts; links are not followed, and what vanishes meanwhile is nothing."""
    total = 0
    waiting = [folder]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:
            continue
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                total += entry.stat(follow_symlinks=False).st_blocks * 512
            except OSError:
                continue
    return total
