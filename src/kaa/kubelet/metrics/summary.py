"""What a node and its pods use, as ``/stats/summary`` says it: the kubelet's Summary API, v1alpha1. Pure.

``Snapshot`` is what ``stats`` gathered, in plain numbers; ``summary`` gives it the shape that upstream's clients read.
Source: staging/src/k8s.io/kubelet/pkg/apis/stats/v1alpha1/types.go, pkg/kubelet/server/stats/summary.go.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from kaa.api.clock import format_time

from .cgroup_stats import Pressure, Stall, Usage

Json = dict[str, Any]
_MAIN_LINK = "eth0"


class Space(msgspec.Struct, frozen=True):
    """A file system, and what the thing in question takes of it; None: not counted."""

    at: float
    available_bytes: int | None = None
    capacity_bytes: int | None = None
    used_bytes: int | None = None
    inodes_free: int | None = None
    inodes: int | None = None
    inodes_used: int | None = None


class Link(msgspec.Struct, frozen=True):
    """Counters of a network interface."""

    name: str
    rx_bytes: int = 0
    rx_packets: int = 0
    rx_errors: int = 0
    rx_dropped: int = 0
    tx_bytes: int = 0
    tx_packets: int = 0
    tx_errors: int = 0
    tx_dropped: int = 0


class Network(msgspec.Struct, frozen=True):
    at: float
    links: tuple[Link, ...] = ()


class ContainerSample(msgspec.Struct, frozen=True):
    """``rate`` is cpu in billionths of a core; ``id`` is the runtime's, and empty for a system container."""

    name: str
    started_at: float
    usage: Usage
    rate: int | None = None
    id: str = ""
    image: str = ""
    rootfs: Space | None = None
    logs: Space | None = None


class VolumeSample(msgspec.Struct, frozen=True):
    """``claim`` names the claim that it stands for, if any."""

    name: str
    space: Space
    claim: str = ""


class PodSample(msgspec.Struct, frozen=True):
    name: str
    namespace: str
    uid: str
    started_at: float
    cgroup: str = ""
    usage: Usage | None = None
    rate: int | None = None
    containers: tuple[ContainerSample, ...] = ()
    network: Network | None = None
    volumes: tuple[VolumeSample, ...] = ()
    ephemeral: Space | None = None
    processes: int | None = None


class NodeSample(msgspec.Struct, frozen=True):
    name: str
    started_at: float
    usage: Usage
    memory_bytes: int
    swap_total_bytes: int = 0
    rate: int | None = None
    network: Network | None = None
    fs: Space | None = None
    images: Space | None = None
    max_pid: int | None = None
    processes: int | None = None
    system: tuple[ContainerSample, ...] = ()


class Snapshot(msgspec.Struct, frozen=True):
    node: NodeSample
    pods: tuple[PodSample, ...] = ()


# -------------------------------------------------------------------------------------------------------- the wire


def summary(snapshot: Snapshot) -> Json:
    """The answer's JSON; what was not gathered is left out."""
    return {"node": _node(snapshot.node), "pods": [_pod(one) for one in snapshot.pods]}


def _node(node: NodeSample) -> Json:
    runtime = {"imageFs": _space(node.images), "containerFs": _space(node.images)} if node.images else None
    return _given(
        {
            "nodeName": node.name,
            "systemContainers": [_container(one) for one in node.system] or None,
            "startTime": format_time(node.started_at),
            "cpu": _cpu(node.usage, node.rate),
            "memory": _memory(node.usage, node.memory_bytes),
            "io": _io(node.usage),
            "network": _network(node.network),
            "fs": _space(node.fs),
            "runtime": runtime,
            "rlimit": _rlimit(node),
            "swap": _swap(node.usage, node.swap_total_bytes),
        }
    )


def _rlimit(node: NodeSample) -> Json | None:
    if node.max_pid is None and node.processes is None:
        return None
    return _given({"time": format_time(node.usage.at), "maxpid": node.max_pid, "curproc": node.processes})


def _pod(pod: PodSample) -> Json:
    used = pod.usage
    return _given(
        {
            "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
            "startTime": format_time(pod.started_at),
            "containers": [_container(one) for one in pod.containers],
            "cpu": _cpu(used, pod.rate) if used else None,
            "memory": _memory(used, used.memory_limit_bytes) if used else None,
            "io": _io(used) if used else None,
            "network": _network(pod.network),
            "volume": [_volume(one, pod.namespace) for one in pod.volumes] or None,
            "ephemeral-storage": _space(pod.ephemeral),
            "process_stats": None if pod.processes is None else {"process_count": pod.processes},
            "swap": _swap(used, used.swap_limit_bytes) if used else None,
        }
    )


def _container(one: ContainerSample) -> Json:
    return _given(
        {
            "name": one.name,
            "startTime": format_time(one.started_at),
            "cpu": _cpu(one.usage, one.rate),
            "memory": _memory(one.usage, one.usage.memory_limit_bytes),
            "io": _io(one.usage),
            "rootfs": _space(one.rootfs),
            "logs": _space(one.logs),
            "swap": _swap(one.usage, one.usage.swap_limit_bytes),
        }
    )


def _cpu(used: Usage, rate: int | None) -> Json:
    return _given(
        {
            "time": format_time(used.at),
            "usageNanoCores": rate,
            "usageCoreNanoSeconds": used.cpu_ns,
            "psi": _psi(used.pressure.get("cpu")),
        }
    )


def _memory(used: Usage, limit: int | None) -> Json:
    return _given(
        {
            "time": format_time(used.at),
            "availableBytes": None if limit is None else max(limit - used.working_set_bytes, 0),
            "usageBytes": used.memory_bytes,
            "workingSetBytes": used.working_set_bytes,
            "rssBytes": used.rss_bytes,
            "pageFaults": used.page_faults,
            "majorPageFaults": used.major_page_faults,
            "psi": _psi(used.pressure.get("memory")),
        }
    )


def _swap(used: Usage, limit: int | None) -> Json | None:
    if used.swap_bytes is None:
        return None
    left = None if limit is None else max(limit - used.swap_bytes, 0)
    return _given({"time": format_time(used.at), "swapAvailableBytes": left, "swapUsageBytes": used.swap_bytes})


def _io(used: Usage) -> Json | None:
    found = used.pressure.get("io")
    return None if found is None else {"time": format_time(used.at), "psi": _psi(found)}


def _psi(found: Pressure | None) -> Json | None:
    return None if found is None else {"full": _stall(found.full), "some": _stall(found.some)}


def _stall(found: Stall) -> Json:
    return {"total": found.total_us, "avg10": found.avg10, "avg60": found.avg60, "avg300": found.avg300}


def _network(found: Network | None) -> Json | None:
    """The main interface's counters stand beside the list of all of them."""
    if found is None:
        return None
    main = next((_link(one) for one in found.links if one.name == _MAIN_LINK), {"name": ""})
    return _given({"time": format_time(found.at), **main, "interfaces": [_link(one) for one in found.links] or None})


def _link(one: Link) -> Json:
    return {
        "name": one.name,
        "rxBytes": one.rx_bytes,
        "rxErrors": one.rx_errors,
        "txBytes": one.tx_bytes,
        "txErrors": one.tx_errors,
    }


def _volume(one: VolumeSample, namespace: str) -> Json:
    claim = {"name": one.claim, "namespace": namespace} if one.claim else None
    return _given({**(_space(one.space) or {}), "name": one.name, "pvcRef": claim})


def _space(space: Space | None) -> Json | None:
    if space is None:
        return None
    return _given(
        {
            "time": format_time(space.at),
            "availableBytes": space.available_bytes,
            "capacityBytes": space.capacity_bytes,
            "usedBytes": space.used_bytes,
            "inodesFree": space.inodes_free,
            "inodes": space.inodes,
            "inodesUsed": space.inodes_used,
        }
    )


def _given(fields: Json) -> Json:
    return {name: value for name, value in fields.items() if value is not None}


# -------------------------------------------------------------------------------------------------------- sums


def total(at: float, parts: Iterable[Usage]) -> Usage:
    """What several use together, where no cgroup counts it."""
    found = list(parts)
    return Usage(
        at=at,
        cpu_ns=sum(one.cpu_ns for one in found),
        memory_bytes=sum(one.memory_bytes for one in found),
        working_set_bytes=sum(one.working_set_bytes for one in found),
        rss_bytes=sum(one.rss_bytes for one in found),
        page_faults=sum(one.page_faults for one in found),
        major_page_faults=sum(one.major_page_faults for one in found),
        pids=sum(one.pids for one in found),
    )
