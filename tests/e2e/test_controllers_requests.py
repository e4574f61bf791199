"""What the controllers ask of the API server: nothing twice, nothing in proportion to what is there, and no lists."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from whole_lab import NODE, Whole, whole_lab

from kaa.api.types.apps_v1 import DaemonSet, Deployment, ReplicaSet, StatefulSet
from kaa.api.types.autoscaling_v2 import HorizontalPodAutoscaler
from kaa.api.types.batch_v1 import CronJob, Job
from kaa.api.types.core_v1 import (
    Namespace,
    PersistentVolumeClaim,
    ReplicationController,
    ResourceQuota,
    Secret,
    Service,
    ServiceAccount,
)
from kaa.api.types.meta_v1 import DeleteOptions
from kaa.api.types.policy_v1 import PodDisruptionBudget

pytestmark = pytest.mark.e2e

#: {user: {resource, * for any: why it lists after it has synced}}. Upstream's do, too.
MAY_LIST = {
    "namespace-controller": {"*": "a namespace is empty when the server says so, of kinds that nobody else watches"},
    "pvc-protection-controller": {"pods": "a pod that the cache does not show yet must not lose its claim"},
    "horizontal-pod-autoscaler": {
        "pods.metrics.k8s.io": "metrics are measured when they are asked for: there is nothing to watch"
    },
}

CONTAINERS = [{"name": "c", "image": "busybox:1.36", "resources": {"requests": {"cpu": "1m"}}}]


def template(app: str, *, turn: str = "first", **spec: Any) -> dict[str, Any]:
    metadata = {
        "labels": {"app": app},
        "annotations": {"turn": turn, "simulated.kaa.dev/exit-after": spec.pop("ends", "")},
    }
    return {"metadata": metadata, "spec": {"containers": CONTAINERS, "terminationGracePeriodSeconds": 0, **spec}}


def workload(kind: str, name: str, *, replicas: int | None = None, **spec: Any) -> dict[str, Any]:
    counted = {} if replicas is None else {"replicas": replicas}
    wanted = {"selector": {"matchLabels": {"app": name}}, "template": template(name), **counted, **spec}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": wanted}


async def life(cluster: Whole, document: dict[str, Any], kind: Any, *, first: int, scaled: int = 0) -> None:
    """Create a workload; scale it and roll its pods, where it can; delete it, and its pods with it."""
    name = document["metadata"]["name"]
    await cluster.create(document)
    await cluster.until(lambda: cluster.running(first))
    if scaled:
        await cluster.client.patch(kind, name, {"spec": {"replicas": scaled}}, "default")
        await cluster.until(lambda: cluster.running(scaled))
    if kind in (Deployment, StatefulSet, DaemonSet):
        turned = {"spec": {"template": {"metadata": {"annotations": {"turn": "second"}}}}}
        await cluster.client.patch(kind, name, turned, "default")
        number = scaled or first

        async def rolled() -> bool:
            turns = [pod.metadata.annotations.get("turn") for pod in await cluster.pods()]
            return turns == ["second"] * number and await cluster.running(number)

        await cluster.until(rolled)
    options = DeleteOptions(propagation_policy="Background")
    await cluster.client.delete(kind, name, "default", options=options)
    await cluster.until(lambda: cluster.running(0))


async def all_workloads(cluster: Whole) -> None:
    await life(cluster, workload("Deployment", "web", replicas=3), Deployment, first=3, scaled=5)
    await life(cluster, workload("ReplicaSet", "set", replicas=2), ReplicaSet, first=2, scaled=3)
    controller = workload("ReplicationController", "rc", replicas=2, selector={"app": "rc"})
    await life(cluster, {**controller, "apiVersion": "v1"}, ReplicationController, first=2, scaled=1)
    await life(cluster, workload("StatefulSet", "db", replicas=2, serviceName="db"), StatefulSet, first=2, scaled=3)
    await life(cluster, workload("DaemonSet", "agent"), DaemonSet, first=1)
    ending = {"template": template("job", restartPolicy="Never", ends="50ms"), "completions": 3, "parallelism": 2}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, "spec": ending}
    await cluster.create(job)

    async def complete() -> bool:
        return (await cluster.client.get(Job, "job", "default")).status.succeeded == 3

    await cluster.until(complete)
    await cluster.client.delete(Job, "job", "default", options=DeleteOptions(propagation_policy="Foreground"))
    await cluster.until(lambda: cluster.running(0))


async def all_others(cluster: Whole) -> None:
    """What stands around workloads, made and deleted; a Deployment lives meanwhile."""
    by_app = {"matchLabels": {"app": "front"}}
    metric = {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}},
    }
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "front"}
    scaling = {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 3, "metrics": [metric]}
    schedule = {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": template("cron", restartPolicy="Never")}}}
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    wanted: list[tuple[Any, dict[str, Any]]] = [
        (Service, {"apiVersion": "v1", "spec": {"selector": {"app": "front"}, "ports": [{"port": 80}]}}),
        (PodDisruptionBudget, {"apiVersion": "policy/v1", "spec": {"selector": by_app, "maxUnavailable": 1}}),
        (ResourceQuota, {"apiVersion": "v1", "spec": {"hard": {"pods": "50", "count/secrets": "10"}}}),
        (HorizontalPodAutoscaler, {"apiVersion": "autoscaling/v2", "spec": scaling}),
        (CronJob, {"apiVersion": "batch/v1", "spec": schedule}),
        (PersistentVolumeClaim, {"apiVersion": "v1", "spec": claim}),
        (ServiceAccount, {"apiVersion": "v1"}),
        (Secret, {"apiVersion": "v1", "stringData": {"a": "b"}}),
    ]
    for kind, rest in wanted:
        await cluster.create({"kind": kind.__name__, "metadata": {"name": "front"}, **rest})
    await life(cluster, workload("Deployment", "front", replicas=2), Deployment, first=2, scaled=3)
    for kind, _ in wanted:
        await cluster.client.delete(kind, "front", "default")
    await cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "passing"}})
    await cluster.client.delete(Namespace, "passing")

    async def ended() -> bool:
        return all(one.metadata.name != "passing" for one in (await cluster.client.list(Namespace)).items)

    await cluster.until(ended)


def lists(cluster: Whole) -> set[tuple[str, str]]:
    """(user, resource) of all lists of components, those that may left out."""
    found = set()
    for user, verb, resource in cluster.requests:
        name = user.rpartition(":")[2]
        if verb == "list" and user != f"system:node:{NODE}" and not MAY_LIST.get(name, {}).keys() & {"*", resource}:
            found.add((name, resource))
    return found


def test_no_controller_lists_once_it_has_synced() -> None:
    async def main() -> None:
        async with whole_lab() as cluster:
            await all_workloads(cluster)
            await all_others(cluster)
            assert lists(cluster) == set()
            listing = {user.rpartition(":")[2] for user, verb, _ in cluster.requests if verb == "list"}
            assert "namespace-controller" in listing, "the exceptions are still exercised"

    asyncio.run(main())


def test_a_pod_costs_a_few_writes() -> None:
    """It is created, bound, said to be made (if that takes long) and to run. What owns it is written by looks, not by pods."""
    pods = 60

    async def main() -> None:
        async with whole_lab() as cluster:
            await cluster.create(workload("Deployment", "web", replicas=pods))
            await cluster.until(lambda: cluster.running(pods))
            asked = {what: number for what, number in cluster.requests.items() if what[2] != "events"}
            of_pods = {what: number for what, number in asked.items() if what[2].startswith("pods")}
            assert sum(of_pods.values()) <= 5 * pods, of_pods  # four, and some on a busy machine
            others = {what: number for what, number in asked.items() if what not in of_pods and what[1] != "create"}
            assert sum(others.values()) <= 2 * pods, others
            cluster.requests.clear()
            await cluster.client.delete(Deployment, "web", "default")
            await cluster.until(lambda: cluster.running(0))
            deletes = {what: n for what, n in cluster.requests.items() if what[1] == "delete" and what[2] == "pods"}
            assert sum(deletes.values()) <= 2 * pods, deletes

    asyncio.run(main())
