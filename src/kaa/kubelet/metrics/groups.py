"""Reads the cgroups that ``metrics_cadvisor`` tells of: the machine's, all pods', each class's, pod's and container's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..node import system_info
from .cadvisor import Group, Machine
from .cgroup_stats import CgroupReader, Usage
from .summary import ContainerSample, PodSample, Snapshot


def groups(snapshot: Snapshot, reader: CgroupReader, kubepods: str, now: float) -> Iterator[Group]:
    """Every group that there is now, from the root down."""
    node = snapshot.node
    yield Group(
        "/", node.usage, reader.details("/"), node.started_at, network=node.network, rootfs=node.fs,
        processes=node.processes, threads=node.processes,
    )  # fmt: skip
    for path in (kubepods, f"{kubepods}/burstable", f"{kubepods}/besteffort"):
        usage = reader.usage(path, now)
        if usage is not None:
            yield Group(path, usage, reader.details(path), reader.began(path))
    for pod in snapshot.pods:
        yield from _of_pod(pod, reader)


def _of_pod(pod: PodSample, reader: CgroupReader) -> Iterator[Group]:
    if pod.usage is None or not reader.exists(pod.cgroup):
        return
    yield Group(
        pod.cgroup, pod.usage, reader.details(pod.cgroup), pod.started_at, namespace=pod.namespace, pod=pod.name,
        network=pod.network,
    )  # fmt: skip
    for one in pod.containers:
        path = f"{pod.cgroup}/{one.id}"
        if reader.exists(path):
            yield _of_container(pod, one, path, one.usage, reader)


def _of_container(pod: PodSample, one: ContainerSample, path: str, usage: Usage, reader: CgroupReader) -> Group:
    pids = reader.processes(path)
    files, sockets = open_files(pids)
    return Group(
        id=path,
        usage=usage,
        details=reader.details(path),
        started_at=one.started_at,
        name=one.id,
        image=one.image,
        namespace=pod.namespace,
        pod=pod.name,
        container=one.name,
        rootfs=one.rootfs,
        file_descriptors=files,
        sockets=sockets,
        processes=len(pids),
    )


def open_files(pids: list[int]) -> tuple[int, int]:
    """(open files, sockets among them) of some processes; one that ends meanwhile has none."""
    files = sockets = 0
    for pid in pids:
        folder = f"/proc/{pid}/fd"
        try:
            for name in os.listdir(folder):
                files += 1
                sockets += os.readlink(f"{folder}/{name}").startswith("socket:")
        except OSError:
            continue
    return files, sockets


def machine(snapshot: Snapshot, version: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> Machine:
    info = system_info("", version)
    cores = os.cpu_count() or 1
    physical, sockets = topology(cpuinfo.read_text()) if cpuinfo.exists() else (cores, 1)
    return Machine(
        machine_id=info.machine_id,
        system_uuid=info.system_uuid,
        boot_id=info.boot_id,
        cores=cores,
        physical_cores=physical or cores,
        sockets=sockets or 1,
        memory_bytes=snapshot.node.memory_bytes,
        swap_bytes=snapshot.node.swap_total_bytes,
        kernel=info.kernel_version,
        os=info.os_image,
        version=version,
    )


def topology(cpuinfo: str) -> tuple[int, int]:
    """(physical cores, sockets) that /proc/cpuinfo names; zeros where it names none."""
    cores: set[tuple[str, str]] = set()
    for block in cpuinfo.split("\n\n"):
        given = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in block.splitlines())}
        if "physical id" in given:
            cores.add((given["physical id"], given.get("core id", "")))
    return len(cores), len({socket for socket, _ in cores})
