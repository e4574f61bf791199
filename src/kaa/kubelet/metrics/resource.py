"""``/metrics/resource``: cpu, memory and swap of node, pods and containers, as metrics-server scrapes them. Pure.

Each sample carries the time at which it was measured.
Source: pkg/kubelet/metrics/collectors/resource_metrics.go, apimachinery's stability prefixes.
"""

from __future__ import annotations

from collections.abc import Iterable

from .cgroup_stats import Usage
from .exposition import Family
from .summary import Snapshot

_CONTAINER, _POD = ("container", "pod", "namespace"), ("pod", "namespace")
_ELSEWHERE = "Reported only on non-windows systems"


class _Level:
    """The families of the node, its pods or its containers."""

    def __init__(self, level: str, labels: tuple[str, ...]) -> None:
        about = f"the {level}"
        self.cpu = Family(
            f"{level}_cpu_usage_seconds_total",
            "counter",
            f"[STABLE] Cumulative cpu time consumed by {about} in core-seconds",
            labels,
        )
        self.memory = Family(
            f"{level}_memory_working_set_bytes", "gauge", f"[STABLE] Current working set of {about} in bytes", labels
        )
        swap = "swap usage of the node" if level == "node" else f"amount of {about} swap usage"
        self.swap = Family(
            f"{level}_swap_usage_bytes", "gauge", f"[ALPHA] Current {swap} in bytes. {_ELSEWHERE}", labels
        )

    def add(self, used: Usage, *labels: str) -> None:
        self.cpu.add(used.cpu_ns / 1e9, *labels, at=used.at)
        self.memory.add(used.working_set_bytes, *labels, at=used.at)
        if used.swap_bytes is not None:
            self.swap.add(used.swap_bytes, *labels, at=used.at)

    def families(self) -> list[Family]:
        return [self.cpu, self.memory, self.swap]


def families(snapshot: Snapshot | None) -> Iterable[Family]:
    """All of it; None says that gathering failed."""
    node, pods, containers = _Level("node", ()), _Level("pod", _POD), _Level("container", _CONTAINER)
    started = Family(
        "container_start_time_seconds",
        "gauge",
        "[STABLE] Start time of the container since unix epoch in seconds",
        _CONTAINER,
    )
    limit = Family(
        "container_swap_limit_bytes",
        "gauge",
        f"[ALPHA] Current amount of the container swap limit in bytes. {_ELSEWHERE}",
        _CONTAINER,
    )
    error = Family(
        "resource_scrape_error",
        "gauge",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
    )
    error.add(1 if snapshot is None else 0)
    if snapshot is not None:
        node.add(snapshot.node.usage)
        for pod in snapshot.pods:
            if pod.usage is not None:
                pods.add(pod.usage, pod.name, pod.namespace)
            for one in pod.containers:
                labels = (one.name, pod.name, pod.namespace)
                containers.add(one.usage, *labels)
                started.add(one.started_at, *labels)
                if one.usage.swap_bytes is not None and one.usage.swap_limit_bytes is not None:
                    limit.add(one.usage.swap_limit_bytes, *labels, at=one.usage.at)
    return [*node.families(), *pods.families(), *containers.families(), started, limit, error]
