"""What the controllers cost on a node that pretends: many pods, many Deployments, many Jobs, a rollout, one endpoint of many.

Everything runs: API server, controllers, scheduler, and a kubelet on the simulated runtime; the figures are wall-clock seconds
as a client's watch sees them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from .cluster import POD_PATH, Cluster
from .load import together

APPS = "/apis/apps/v1/namespaces/default/deployments"
JOBS = "/apis/batch/v1/namespaces/default/jobs"
SERVICES = "/api/v1/namespaces/default/services"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
PODS, DEPLOYMENTS, EACH, MANY_JOBS, ROLLED, ENDPOINTS = 10_000, 1_000, 10, 5_000, 1_000, 5_000
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
    created, gone = large(world)
    row(f"a Deployment of {PODS:,} pods: created", f"{created:.1f} s", "8 s", "over 500 s")
    row(f"    deleted, its {PODS:,} dependents collected", f"{gone:.1f} s", "8 s", "over 500 s")
    row(f"{DEPLOYMENTS:,} Deployments of {EACH}: all pods created", f"{small(world):.1f} s")
    row(f"{MANY_JOBS:,} Jobs: all pods created", f"{jobs(world):.1f} s")
    row(f"rollout of {ROLLED:,} pods, a quarter at a time", f"{rollout(world):.1f} s")
    row(f"one of {ENDPOINTS:,} endpoints goes unready, to a watch of its slice", f"{endpoint(world) * 1000:.0f} ms")


def large(world: Cluster) -> tuple[float, float]:
    """(seconds until all pods are created, until all are gone)."""
    events = world.watch(APPS)
    begin = time.perf_counter()
    world.ask("POST", APPS, deployment("large", PODS))
    created = _until(events, lambda found: found["status"].get("replicas") == PODS) - begin
    begin = time.perf_counter()
    world.ask("DELETE", f"{APPS}/large?propagationPolicy=Background")
    _until_none(world)
    return created, time.perf_counter() - begin


def small(world: Cluster) -> float:
    import json

    begin = time.perf_counter()
    body = json.dumps(deployment("small-{n}", EACH))
    (found,) = together([world.load(method="POST", path=APPS, body=body, total=DEPLOYMENTS)])
    assert not found.refused
    _until_count(world, DEPLOYMENTS * EACH)
    took = time.perf_counter() - begin
    world.ask("DELETE", f"{APPS}?labelSelector=bench%3Dcontrollers&propagationPolicy=Background")
    _until_none(world)
    return took


def jobs(world: Cluster) -> float:
    import json

    one = {"metadata": {"name": "job-{n}"}, "spec": {"template": template("job", scheduled=False)}}
    one["spec"]["template"]["spec"]["restartPolicy"] = "Never"
    begin = time.perf_counter()
    (found,) = together([world.load(method="POST", path=JOBS, body=json.dumps(one), total=MANY_JOBS)])
    assert not found.refused
    _until_count(world, MANY_JOBS)
    took = time.perf_counter() - begin
    world.ask("DELETE", f"{JOBS}?propagationPolicy=Background")
    _until_none(world)
    return took


def rollout(world: Cluster) -> float:
    """Seconds until all pods are of the new template and ready."""
    events = world.watch(APPS)
    world.ask("POST", APPS, deployment("rolled", ROLLED, scheduled=True))
    _until(events, lambda found: found["status"].get("readyReplicas") == ROLLED)
    begin = time.perf_counter()
    changed = template("rolled", scheduled=True, turn="second")
    world.patch(f"{APPS}/rolled", {"spec": {"template": changed}})

    def rolled(found: Any) -> bool:
        status = found["status"]
        new = status.get("updatedReplicas") == ROLLED == status.get("readyReplicas") == status.get("replicas")
        return bool(new and status.get("observedGeneration") == 2)

    took = _until(events, rolled) - begin
    world.ask("DELETE", f"{APPS}/rolled?propagationPolicy=Background")
    _until_none(world)
    return took


def endpoint(world: Cluster) -> float:
    """Seconds from a pod's status until the slice that lists it says so."""
    world.ask(
        "POST", SERVICES, {"metadata": {"name": "wide"}, "spec": {"selector": {"app": "wide"}, "ports": [{"port": 80}]}}
    )
    events = world.watch(APPS)
    world.ask("POST", APPS, deployment("wide", ENDPOINTS, scheduled=True))
    _until(events, lambda found: found["status"].get("readyReplicas") == ENDPOINTS)
    _settled(world)
    name = world.ask("GET", f"{POD_PATH}?limit=1")["items"][0]["metadata"]["name"]
    slices = world.watch(SLICES)
    begin = time.perf_counter()
    world.ask("DELETE", f"{POD_PATH}/{name}")

    def left(found: Any) -> bool:
        listed = [one for one in found["endpoints"] or () if one.get("targetRef", {}).get("name") == name]
        return not listed or not listed[0]["conditions"]["ready"]

    took = _until(slices, left) - begin
    world.ask("DELETE", f"{SERVICES}/wide")
    world.ask("DELETE", f"{APPS}/wide?propagationPolicy=Background")
    _until_none(world)
    return took


def _settled(world: Cluster) -> None:
    """Until every endpoint is listed as ready."""
    while True:
        slices = world.ask("GET", SLICES)["items"]
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
