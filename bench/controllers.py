"""What the controllers cost on a node that pretends: many pods, many Deployments, many Jobs, a rollout, one endpoint of many.

Everything runs: API server, controllers, scheduler, and a kubelet on the simulated runtime; the figures are wall-clock seconds
as a client's watch sees them, and what server and agent used of the CPU meanwhile.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .cluster import POD_PATH, Cluster
from .load import together

APPS = "/apis/apps/v1/namespaces/default/deployments"
JOBS = "/apis/batch/v1/namespaces/default/jobs"
SERVICES = "/api/v1/namespaces/default/services"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
OF_WIDE = "kubernetes.io%2Fservice-name%3Dwide"
PODS, DEPLOYMENTS, EACH, MANY_JOBS, ROLLED, ENDPOINTS = 10_000, 1_000, 10, 5_000, 1_000, 5_000
#: The last: events have a pace, and a thousand that wait are written in fifty seconds.
CHANGES, IDLE_S, REST_MAX_S = 5, 10, 90
#: A kubelet that takes them all.
KUBELET = "kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1\nmaxPods: 30000\n"
Row = Callable[..., None]


def template(app: str, *, scheduled: bool, **annotations: str) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "containers": [{"name": "c", "image": "busybox:1.36"}],
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,  # no process is there to read it, and signing one costs a millisecond
    }
    if not scheduled:
        spec["schedulerName"] = "nobody"
    return {"metadata": {"labels": {"app": app}, "annotations": annotations}, "spec": spec}


def deployment(name: str, replicas: int, *, scheduled: bool = False) -> dict[str, Any]:
    spec = {
        "replicas": replicas,
        "selector": {"matchLabels": {"app": name}},
        "template": template(name, scheduled=scheduled),
    }
    return {"metadata": {"name": name, "labels": {"bench": "controllers"}}, "spec": spec}


def measure(world: Cluster, row: Row) -> None:
    """A row as soon as it is known; some three minutes on a quiet machine. What runs meanwhile is told on standard error."""
    show = _Shown(world, row)
    with show(f"a Deployment of {PODS:,} pods: created", "8 s", "over 500 s"):
        large(world)
    with show(f"    deleted, its {PODS:,} dependents collected", "8 s", "over 500 s"):
        _delete(world, f"{APPS}/large")
    with show(f"{DEPLOYMENTS:,} Deployments of {EACH}: all pods created"):
        small(world)
    show.idle(f"    idle: CPU of server and agent with {DEPLOYMENTS:,} Deployments", "1 %")
    _delete(world, APPS)
    with show(f"{MANY_JOBS:,} Jobs: all pods created"):
        jobs(world)
    _delete(world, JOBS)
    with show(f"a Deployment of {ROLLED:,} pods: scheduled and running"):
        _running(world, "rolled", ROLLED)
    with show(f"    its rollout, {ROLLED:,} pods, a quarter at a time"):
        rollout(world)
    _delete(world, f"{APPS}/rolled")
    with show(f"a Deployment of {ENDPOINTS:,} pods: scheduled, running, and endpoints of a Service"):
        wide(world)
    show.idle("    idle: CPU of server and agent with them", "1 %")
    took = statistics.median(endpoint(world) for _ in range(CHANGES))
    row(f"    one of the {ENDPOINTS:,} leaves, to a watch of its slice, p50", f"{took * 1000:.0f} ms")
    with show("    deleted, and their node rid of them"):
        _delete(world, f"{APPS}/wide")
    world.ask("DELETE", f"{SERVICES}/wide")


class _Shown:
    """Rows of what blocks of code took: seconds, and the CPU seconds of server and agent meanwhile."""

    def __init__(self, world: Cluster, row: Row) -> None:
        self._world, self._row = world, row

    @contextmanager
    def __call__(self, what: str, mark: str = "", go: str = "") -> Iterator[None]:
        _tell(what.strip())
        before, begin = self._world.cpu_s(), time.perf_counter()
        yield
        took, used = time.perf_counter() - begin, self._world.cpu_s() - before
        _tell("")
        self._row(what, f"{took:.1f} s, CPU {used:.1f} s", mark, go)

    def idle(self, what: str, mark: str) -> None:
        _tell("coming to rest")
        self._rest()
        _tell(what.strip())
        before = self._world.cpu_s()
        time.sleep(IDLE_S)
        used = (self._world.cpu_s() - before) / IDLE_S * 100
        _tell("")
        self._row(what, f"{used:.1f} % of a core", mark)

    def _rest(self) -> None:
        """Until a second passes in which next to nothing happens: events are written for a while after what they tell of."""
        for _ in range(REST_MAX_S):
            before = self._world.cpu_s()
            time.sleep(1)
            if self._world.cpu_s() - before < 0.02:
                return


def _tell(what: str) -> None:
    """Say what is under way, where the next row will stand."""
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)
    elif what:
        print(f"... {what}", file=sys.stderr, flush=True)


def large(world: Cluster) -> None:
    """Until all pods of one Deployment are created."""
    events = world.watch(APPS)
    world.ask("POST", APPS, deployment("large", PODS))
    _until(events, lambda found: found["status"].get("replicas") == PODS)


def small(world: Cluster) -> None:
    """Until all pods of many Deployments are created."""
    body = json.dumps(deployment("small-{n}", EACH))
    (found,) = together([world.load(method="POST", path=APPS, body=body, total=DEPLOYMENTS)])
    assert not found.refused
    _until_count(world, DEPLOYMENTS * EACH)


def jobs(world: Cluster) -> None:
    """Until each of many Jobs has its pod."""
    one = {"metadata": {"name": "job-{n}"}, "spec": {"template": template("job", scheduled=False)}}
    one["spec"]["template"]["spec"]["restartPolicy"] = "Never"
    (found,) = together([world.load(method="POST", path=JOBS, body=json.dumps(one), total=MANY_JOBS)])
    assert not found.refused
    _until_count(world, MANY_JOBS)


def _running(world: Cluster, name: str, replicas: int) -> None:
    events = world.watch(APPS)
    world.ask("POST", APPS, deployment(name, replicas, scheduled=True))
    _until(events, lambda found: found["status"].get("readyReplicas") == replicas)


def _delete(world: Cluster, path: str) -> None:
    """Delete an object, or all of a kind, and wait until no pod is left."""
    world.ask("DELETE", f"{path}?propagationPolicy=Background")
    _until_none(world)


def rollout(world: Cluster) -> None:
    """Until all pods are of the new template and ready."""
    events = world.watch(APPS)
    changed = template("rolled", scheduled=True, turn="second")
    world.patch(f"{APPS}/rolled", {"spec": {"template": changed}})

    def rolled(found: Any) -> bool:
        status = found["status"]
        new = status.get("updatedReplicas") == ROLLED == status.get("readyReplicas") == status.get("replicas")
        return bool(new and status.get("observedGeneration") == 2)

    _until(events, rolled)


def wide(world: Cluster) -> None:
    """Until a Service lists many endpoints as ready."""
    spec = {"selector": {"app": "wide"}, "ports": [{"port": 80}]}
    world.ask("POST", SERVICES, {"metadata": {"name": "wide"}, "spec": spec})
    _running(world, "wide", ENDPOINTS)
    _settled(world)


def endpoint(world: Cluster) -> float:
    """Seconds from a pod's deletion until the slice that lists it says so."""
    name = world.ask("GET", f"{POD_PATH}?limit=1")["items"][0]["metadata"]["name"]
    (slice,) = (one for one in world.ask("GET", f"{SLICES}?labelSelector={OF_WIDE}")["items"] if _listed(one, name))
    slices = world.watch(SLICES)
    begin = time.perf_counter()
    world.ask("DELETE", f"{POD_PATH}/{name}")

    def left(found: Any) -> bool:
        listed = _listed(found, name)
        concerned = found["metadata"]["name"] == slice["metadata"]["name"]
        return concerned and not (listed and listed[0]["conditions"]["ready"])

    took = _until(slices, left) - begin
    _settled(world)
    return took


def _listed(slice: Any, pod: str) -> list[Any]:
    """The endpoints of a slice that are of a pod."""
    return [one for one in slice["endpoints"] or () if one.get("targetRef", {}).get("name") == pod]


def _settled(world: Cluster) -> None:
    """Until every endpoint is listed as ready."""
    while True:
        slices = world.ask("GET", f"{SLICES}?labelSelector={OF_WIDE}")["items"]
        ready = sum(one["conditions"].get("ready", False) for found in slices for one in found["endpoints"] or ())
        if ready == ENDPOINTS:
            return
        time.sleep(0.2)


def _until(events: Iterator[Any], done: Callable[[Any], bool]) -> float:
    for event in events:
        if event["type"] in ("ADDED", "MODIFIED") and done(event["object"]):
            return time.perf_counter()
    raise RuntimeError("the watch ended too early")


def _until_count(world: Cluster, count: int) -> None:
    while _count(world) < count:
        time.sleep(0.1)


def _until_none(world: Cluster) -> None:
    while _count(world):
        time.sleep(0.1)


def _count(world: Cluster) -> int:
    found = world.ask("GET", f"{POD_PATH}?limit=1")
    return len(found["items"]) + int(found["metadata"].get("remainingItemCount", 0))
