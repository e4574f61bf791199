"""Pods per second of the scheduling cycle, on simulated nodes: ``python bench/scheduler.py [nodes] [pods]``.

Measured are taking pods from the queue, deciding, and assuming; nothing waits for an API server.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from typing import Any

from kaa.api.clock import VirtualClock
from kaa.api.scheme import convert
from kaa.api.types.core_v1 import Node, Pod
from kaa.client.informer import Informers
from kaa.scheduler.scheduler import Scheduler

APP = {"matchLabels": {"app": "web"}}
ZONE, HOST = "topology.kubernetes.io/zone", "kubernetes.io/hostname"
TERM = "requiredDuringSchedulingIgnoredDuringExecution"


def term(key: str) -> dict[str, Any]:
    return {TERM: [{"labelSelector": APP, "topologyKey": key}]}


def spread(key: str, skew: int, when: str) -> dict[str, Any]:
    return {"maxSkew": skew, "topologyKey": key, "whenUnsatisfiable": when, "labelSelector": APP}


#: {case: (spec of its pods, pods at most per node)}
CASES: dict[str, tuple[dict[str, Any], int | None]] = {
    "resources only": ({}, None),
    "required anti-affinity, host": ({"affinity": {"podAntiAffinity": term(HOST)}}, 1),
    "required affinity, zone": ({"affinity": {"podAffinity": term(ZONE)}}, 10),
    "spread over zones, DoNotSchedule": ({"topologySpreadConstraints": [spread(ZONE, 1, "DoNotSchedule")]}, None),
    "spread over hosts, DoNotSchedule": ({"topologySpreadConstraints": [spread(HOST, 1, "DoNotSchedule")]}, None),
    "spread over zones and hosts, soft": (
        {"topologySpreadConstraints": [spread(ZONE, 5, "ScheduleAnyway"), spread(HOST, 3, "ScheduleAnyway")]},
        None,
    ),
}


class Silent:
    def event(self, obj: Any, type: str, reason: str, message: str) -> None: ...


class NoClient:
    """Never called: the cycle alone is measured."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)

    def watch(self, *args: Any, **more: Any) -> AsyncIterator[Any]:
        raise AssertionError


def node(number: int) -> Node:
    name = f"node-{number}"
    labels = {HOST: name, ZONE: f"zone-{number % 10}"}
    room = {"cpu": "32", "memory": "256Gi", "pods": "110"}
    return from_json(
        Node,
        {
            "metadata": {"name": name, "labels": labels},
            "status": {"allocatable": room, "capacity": room, "daemonEndpoints": {}, "nodeInfo": NODE_INFO},
        },
    )


NODE_INFO = dict.fromkeys(
    (
        "architecture",
        "bootID",
        "containerRuntimeVersion",
        "kernelVersion",
        "kubeProxyVersion",
        "kubeletVersion",
        "machineID",
        "operatingSystem",
        "osImage",
        "systemUUID",
    ),
    "",
)


def pod(number: int, spec: dict[str, Any]) -> Pod:
    resources = {"requests": {"cpu": "100m", "memory": "200Mi"}}
    return from_json(
        Pod,
        {
            "metadata": {"name": f"p{number}", "namespace": "d", "uid": f"u{number}", "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "web", "resources": resources}], **spec},
        },
    )


def from_json(kind: Any, value: dict[str, Any]) -> Any:
    return convert(kind, value)


def measure(nodes: int, pods: int, spec: dict[str, Any]) -> tuple[float, int]:
    """Pods per second, and pods placed."""
    client: Any = NoClient()
    clock = VirtualClock()
    scheduler = Scheduler(client, clock, Silent(), informers=Informers(client, clock))
    for number in range(nodes):
        scheduler._on_node(None, node(number))
    waiting = [pod(number, spec) for number in range(pods)]
    began = time.perf_counter()
    for one in waiting:
        scheduler._on_pod(None, one)
    while (entry := scheduler.queue.pop()) is not None:
        scheduler.schedule_one(entry)
    return pods / (time.perf_counter() - began), len(scheduler.nodes.pods)


def main() -> None:
    nodes = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    pods = int(sys.argv[2]) if len(sys.argv) > 2 else 10000
    print(f"{'case':<36}{'pods/s':>9}{'placed':>9}   ({nodes} nodes, up to {pods} pods)")
    for name, (spec, per_node) in CASES.items():
        rate, placed = measure(nodes, min(pods, nodes * per_node) if per_node else pods, spec)
        print(f"{name:<36}{rate:>9.0f}{placed:>9}")


if __name__ == "__main__":
    main()
