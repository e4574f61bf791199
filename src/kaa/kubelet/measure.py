"""What a node's memory, disks and process table hold, read from the machine; and what a pod keeps on disk."""

from __future__ import annotations

import os
from pathlib import Path

from kaa.api.types.core_v1 import Pod
from kaa.runtime.files import tree_usage

from . import machine
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
    found = machine.memory()
    return {MEMORY: Observation(found["MemAvailable"], found["MemTotal"])}


def _pids() -> dict[str, Observation]:
    most, running = machine.process_limit(), machine.processes()
    return {PIDS: Observation(max(most - running, 0), most)} if most and running else {}


def storage(pod: Pod, pod_dir: Path, log_dir: Path, roots: dict[str, int]) -> Storage:
    """What a pod keeps on disk. ``roots`` {container name: bytes of its writable layer}."""
    volumes = {
        volume.name: _bytes(pod_dir / "volumes" / "kubernetes.io~empty-dir" / volume.name)
        for volume in pod.spec.volumes
        if volume.empty_dir is not None and volume.empty_dir.medium != "Memory"
    }
    containers = {
        one.name: roots.get(one.name, 0) + _bytes(log_dir / one.name)
        for one in (*pod.spec.init_containers, *pod.spec.containers)
    }
    return Storage(volumes, containers)


def _bytes(folder: Path) -> int:
    return tree_usage(folder)[0]
