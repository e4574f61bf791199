"""``/metrics/cadvisor``: every cgroup of the node that pods have to do with, and the machine, under cAdvisor's names. Pure.

``Group`` is one cgroup as it was read; the machine, all pods together, each class, each pod and each container are one each.
Source: cAdvisor metrics/prometheus.go, metrics/prometheus_machine.go; the labels: pkg/kubelet/server/server.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from .cgroup_stats import Details, Usage
from .exposition import Family, Kind
from .summary import Network, Space

_LABELS = ("id", "name", "image", "namespace", "pod", "container")


class Group(msgspec.Struct, frozen=True):
    """A cgroup: ``id`` is its path; the rest names whose it is, as far as it is somebody's."""

    id: str
    usage: Usage
    details: Details
    started_at: float
    name: str = ""
    image: str = ""
    namespace: str = ""
    pod: str = ""
    container: str = ""
    network: Network | None = None
    rootfs: Space | None = None
    file_descriptors: int | None = None
    sockets: int | None = None
    threads: int | None = None
    processes: int | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        return (self.id, self.name, self.image, self.namespace, self.pod, self.container)


class Machine(msgspec.Struct, frozen=True):
    machine_id: str
    system_uuid: str
    boot_id: str
    cores: int
    physical_cores: int
    sockets: int
    memory_bytes: int
    swap_bytes: int
    kernel: str
    os: str
    version: str


Read = Callable[[Group], float | None]
Figure = tuple[str, Kind, str, Read]

_CPU_AND_MEMORY: tuple[Figure, ...] = (
    ("cpu_user_seconds_total", "counter", "Cumulative user cpu time consumed in seconds.", lambda g: g.details.user_ns / 1e9),
    ("cpu_system_seconds_total", "counter", "Cumulative system cpu time consumed in seconds.", lambda g: g.details.system_ns / 1e9),
    ("cpu_cfs_periods_total", "counter", "Number of elapsed enforcement period intervals.",
     lambda g: g.details.periods if g.details.quota_us else None),
    ("cpu_cfs_throttled_periods_total", "counter", "Number of throttled period intervals.",
     lambda g: g.details.throttled_periods if g.details.quota_us else None),
    ("cpu_cfs_throttled_seconds_total", "counter", "Total time duration the container has been throttled.",
     lambda g: g.details.throttled_ns / 1e9 if g.details.quota_us else None),
    ("memory_cache", "gauge", "Number of bytes of page cache memory.", lambda g: g.details.cache_bytes),
    ("memory_rss", "gauge", "Size of RSS in bytes.", lambda g: g.usage.rss_bytes),
    ("memory_kernel_usage", "gauge", "Size of kernel memory allocated in bytes.", lambda g: g.details.kernel_bytes),
    ("memory_mapped_file", "gauge", "Size of memory mapped files in bytes.", lambda g: g.details.mapped_bytes),
    ("memory_swap", "gauge", "Container swap usage in bytes.", lambda g: g.usage.swap_bytes or 0),
    ("memory_failcnt", "counter", "Number of memory usage hits limits", lambda g: g.details.failures),
    ("memory_usage_bytes", "gauge", "Current memory usage in bytes, including all memory regardless of when it was accessed",
     lambda g: g.usage.memory_bytes),
    ("memory_max_usage_bytes", "gauge", "Maximum memory usage recorded in bytes", lambda g: g.details.max_bytes),
    ("memory_working_set_bytes", "gauge", "Current working set in bytes.", lambda g: g.usage.working_set_bytes),
    ("oom_events_total", "counter", "Count of out of memory events observed for the container", lambda g: g.details.oom_kills),
    ("processes", "gauge", "Number of processes running inside the container.",
     lambda g: g.usage.pids if g.processes is None else g.processes),
    ("threads", "gauge", "Number of threads running inside the container", lambda g: g.usage.pids if g.threads is None else g.threads),
    ("threads_max", "gauge", "Maximum number of threads allowed inside the container, infinity if value is zero",
     lambda g: g.details.pids_limit or 0),
    ("file_descriptors", "gauge", "Number of open file descriptors for the container.", lambda g: g.file_descriptors),
    ("sockets", "gauge", "Number of open sockets for the container.", lambda g: g.sockets),
)  # fmt: skip

_SPEC: tuple[Figure, ...] = (
    ("start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds.", lambda g: g.started_at),
    ("spec_cpu_period", "gauge", "CPU period of the container.", lambda g: g.details.period_us or None),
    ("spec_cpu_quota", "gauge", "CPU quota of the container.", lambda g: g.details.quota_us or None),
    ("spec_cpu_shares", "gauge", "CPU share of the container.", lambda g: g.details.shares or None),
    ("spec_memory_limit_bytes", "gauge", "Memory limit for the container.", lambda g: g.usage.memory_limit_bytes or 0),
    ("spec_memory_swap_limit_bytes", "gauge", "Memory swap limit for the container.", lambda g: g.usage.swap_limit_bytes or 0),
    ("spec_memory_reservation_limit_bytes", "gauge", "Memory reservation limit for the container.", lambda g: 0),
)  # fmt: skip

_NETWORK = (
    ("receive_bytes_total", "Cumulative count of bytes received", "rx_bytes"),
    ("receive_errors_total", "Cumulative count of errors encountered while receiving", "rx_errors"),
    ("receive_packets_total", "Cumulative count of packets received", "rx_packets"),
    ("receive_packets_dropped_total", "Cumulative count of packets dropped while receiving", "rx_dropped"),
    ("transmit_bytes_total", "Cumulative count of bytes transmitted", "tx_bytes"),
    ("transmit_errors_total", "Cumulative count of errors encountered while transmitting", "tx_errors"),
    ("transmit_packets_total", "Cumulative count of packets transmitted", "tx_packets"),
    ("transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting", "tx_dropped"),
)
_STALLS = (
    ("cpu", "waiting", "some"), ("cpu", "stalled", "full"), ("memory", "waiting", "some"), ("memory", "stalled", "full"),
    ("io", "waiting", "some"), ("io", "stalled", "full"),
)  # fmt: skip
_STALL_HELP = {
    "waiting": "Total time duration tasks in the container have waited due to {} congestion.",
    "stalled": "Total time duration no tasks in the container could make progress due to {} congestion.",
}


def families(groups: Iterable[Group], machine: Machine, now: float) -> Iterator[Family]:
    found = list(groups)
    for name, kind, help, read in (*_CPU_AND_MEMORY, *_SPEC):
        stamped = name != "start_time_seconds" and not name.startswith("spec_")
        family = Family(f"container_{name}", kind, help, _LABELS)
        for group in found:
            value = read(group)
            if value is not None:
                family.add(value, *group.labels, at=group.usage.at if stamped else None)
        yield family
    yield _cpu(found)
    yield _last_seen(found, now)
    yield _faults(found)
    yield from _pressures(found)
    yield from _networks(found)
    yield from _file_systems(found)
    yield from _machine(machine)
    error = Family(
        "container_scrape_error", "gauge", "1 if there was an error while getting container metrics, 0 otherwise"
    )
    error.add(0)
    yield error


def _cpu(groups: list[Group]) -> Family:
    family = Family(
        "container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", (*_LABELS, "cpu")
    )
    for group in groups:
        family.add(group.usage.cpu_ns / 1e9, *group.labels, "total", at=group.usage.at)
    return family


def _last_seen(groups: list[Group], now: float) -> Family:
    family = Family("container_last_seen", "gauge", "Last time a container was seen by the exporter", _LABELS)
    for group in groups:
        family.add(int(now), *group.labels, at=group.usage.at)
    return family


def _faults(groups: list[Group]) -> Family:
    family = Family(
        "container_memory_failures_total",
        "counter",
        "Cumulative count of memory allocation failures.",
        (*_LABELS, "failure_type", "scope"),
    )
    for group in groups:
        for kind, count in (("pgfault", group.usage.page_faults), ("pgmajfault", group.usage.major_page_faults)):
            for scope in ("container", "hierarchy"):
                family.add(count, *group.labels, kind, scope, at=group.usage.at)
    return family


def _pressures(groups: list[Group]) -> Iterator[Family]:
    for resource, word, side in _STALLS:
        shown = resource.upper() if resource != "memory" else resource
        family = Family(
            f"container_pressure_{resource}_{word}_seconds_total", "counter", _STALL_HELP[word].format(shown), _LABELS
        )
        for group in groups:
            pressure = group.usage.pressure.get(resource)
            if pressure is not None:
                stall = pressure.some if side == "some" else pressure.full
                family.add(stall.total_us / 1e6, *group.labels, at=group.usage.at)
        yield family


def _networks(groups: list[Group]) -> Iterator[Family]:
    for name, help, field in _NETWORK:
        family = Family(f"container_network_{name}", "counter", help, (*_LABELS, "interface"))
        for group in groups:
            for link in group.network.links if group.network is not None else ():
                family.add(getattr(link, field), *group.labels, link.name, at=group.usage.at)
        yield family


def _file_systems(groups: list[Group]) -> Iterator[Family]:
    spaces = (
        ("usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", "used_bytes"),
        ("limit_bytes", "Number of bytes that can be consumed by the container on this filesystem.", "capacity_bytes"),
        ("inodes_free", "Number of available Inodes", "inodes_free"),
        ("inodes_total", "Number of Inodes", "inodes"),
    )
    for name, help, field in spaces:
        family = Family(f"container_fs_{name}", "gauge", help, (*_LABELS, "device"))
        for group in groups:
            value = getattr(group.rootfs, field) if group.rootfs is not None else None
            if value is not None:
                family.add(value, *group.labels, "", at=group.usage.at)
        yield family
    for way, past in (("reads", "read"), ("writes", "written")):
        moved = Family(
            f"container_fs_{way}_bytes_total", "counter", f"Cumulative count of bytes {past}", (*_LABELS, "device")
        )
        done = Family(
            f"container_fs_{way}_total", "counter", f"Cumulative count of {way} completed", (*_LABELS, "device")
        )
        for group in groups:
            for device, (size, count) in getattr(group.details, way).items():
                moved.add(size, *group.labels, device, at=group.usage.at)
                done.add(count, *group.labels, device, at=group.usage.at)
        yield from (moved, done)


def _machine(machine: Machine) -> Iterator[Family]:
    labels = ("boot_id", "machine_id", "system_uuid")
    values = (machine.boot_id, machine.machine_id, machine.system_uuid)
    figures = (
        ("cpu_cores", "Number of logical CPU cores.", machine.cores),
        ("cpu_physical_cores", "Number of physical CPU cores.", machine.physical_cores),
        ("cpu_sockets", "Number of CPU sockets.", machine.sockets),
        ("memory_bytes", "Amount of memory installed on the machine.", machine.memory_bytes),
        ("swap_bytes", "Amount of swap memory available on the machine.", machine.swap_bytes),
    )
    for name, help, value in figures:
        family = Family(f"machine_{name}", "gauge", help, labels)
        family.add(value, *values)
        yield family
    error = Family(
        "machine_scrape_error", "gauge", "1 if there was an error while getting machine metrics, 0 otherwise."
    )
    error.add(0)
    yield error
    version = Family(
        "cadvisor_version_info",
        "gauge",
        "A metric with a constant '1' value labeled by kernel version, OS version, docker version, cadvisor version & cadvisor"
        " revision.",
        ("kernelVersion", "osVersion", "dockerVersion", "cadvisorVersion", "cadvisorRevision"),
    )
    version.add(1, machine.kernel, machine.os, "", "", "")
    yield version
