"""Nodes fall silent, and what becomes of their pods; endpoints in their older form."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace
from service_builders import make_service
from world import World, make_pod

from kaa.api.clock import format_micro_time, format_time
from kaa.api.types.coordination_v1 import Lease, LeaseSpec
from kaa.api.types.core_v1 import (
    DaemonEndpoint,
    Endpoints,
    Node,
    NodeCondition,
    NodeDaemonEndpoints,
    NodeStatus,
    NodeSystemInfo,
    Pod,
    PodCondition,
    Taint,
    Toleration,
)
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.controllers import endpoints
from kaa.controllers.nodelifecycle import drives_off, eviction_every_s
from kaa.controllers.podgc import surplus
from kaa.controllers.tainteviction import stays_for

ENDPOINTS = NodeDaemonEndpoints(kubelet_endpoint=DaemonEndpoint(port=10250))
INFO = NodeSystemInfo(
    **dict.fromkeys(
        (
            "architecture",
            "boot_id",
            "container_runtime_version",
            "kernel_version",
            "kube_proxy_version",
            "kubelet_version",
            "machine_id",
            "operating_system",
            "os_image",
            "system_uuid",
        ),
        "",
    )
)


def status_of(ready: str) -> NodeStatus:
    return NodeStatus(
        conditions=(NodeCondition(type="Ready", status=ready),), daemon_endpoints=ENDPOINTS, node_info=INFO
    )


def make_node(world: World, name: str, ready: str = "True") -> Node:
    stamp = format_time(world.clock.now())
    condition = NodeCondition(type="Ready", status=ready, last_heartbeat_time=stamp, last_transition_time=stamp)
    status = NodeStatus(conditions=(condition,), daemon_endpoints=ENDPOINTS, node_info=INFO)
    return Node(metadata=ObjectMeta(name=name), status=status)


def renew(world: World, name: str) -> None:
    meta = ObjectMeta(name=name, namespace="kube-node-lease")
    world.api.put(Lease(metadata=meta, spec=LeaseSpec(renew_time=format_micro_time(world.clock.now()))))


async def live(world: World, seconds: int, *nodes: str) -> None:
    """Let time pass while some nodes renew their leases."""
    for _ in range(seconds // 10):
        for name in nodes:
            renew(world, name)
        await world.clock.advance(10)


def node_of(world: World, name: str) -> Node:
    return next(node for node in world.api.all(Node) if node.metadata.name == name)


def test_a_silent_node_is_unknown_tainted_and_loses_its_pods() -> None:
    async def play() -> None:
        async with World() as world:
            for name in ("n1", "n2"):
                await world.api.create(make_node(world, name))
            stays = Toleration(
                key="node.kubernetes.io/unreachable", operator="Exists", effect="NoExecute", toleration_seconds=300
            )
            for name, tolerations in (("leaves", ()), ("stays", (stays,))):
                pod = make_pod(name, node="n1", phase="Running", ready=True, tolerations=tolerations)
                world.api.put(pod)
            await live(world, 40, "n1", "n2")
            assert node_of(world, "n1").spec.taints == ()
            await live(world, 70, "n2")
            node = node_of(world, "n1")
            assert node.status is not None
            ready = next(c for c in node.status.conditions if c.type == "Ready")
            assert (ready.status, ready.reason, ready.message) == (
                "Unknown",
                "NodeStatusUnknown",
                "Kubelet stopped posting node status.",
            )
            assert {(t.key, t.effect) for t in node.spec.taints} == {
                ("node.kubernetes.io/unreachable", "NoSchedule"),
                ("node.kubernetes.io/unreachable", "NoExecute"),
            }
            pods = {pod.metadata.name: pod for pod in world.api.all(Pod)}
            assert pods["leaves"].metadata.deletion_timestamp is not None
            assert pods["stays"].metadata.deletion_timestamp is None
            assert pods["stays"].status.conditions[0].status == "False"
            assert "TaintManagerEviction Marking for deletion Pod default/leaves" in world.events()
            await live(world, 300, "n2")
            pods = {pod.metadata.name: pod for pod in world.api.all(Pod)}
            assert pods["stays"].metadata.deletion_timestamp is not None
            assert node_of(world, "n2").spec.taints == ()

    asyncio.run(play())


def test_a_node_that_comes_back_is_free_again() -> None:
    async def play() -> None:
        async with World() as world:
            await world.api.create(make_node(world, "n1"))
            await world.api.create(make_node(world, "n2"))
            await live(world, 70, "n2")
            assert node_of(world, "n1").spec.taints
            old = node_of(world, "n1")
            await world.api.update_status(replace(old, status=make_node(world, "n1").status))
            await live(world, 20, "n1", "n2")
            assert node_of(world, "n1").spec.taints == ()

    asyncio.run(play())


def test_nobody_is_evicted_when_every_node_is_silent() -> None:
    async def play() -> None:
        async with World() as world:
            await world.api.create(make_node(world, "n1"))
            await live(world, 100)
            taints = {(t.key, t.effect) for t in node_of(world, "n1").spec.taints}
            assert taints == {("node.kubernetes.io/unreachable", "NoSchedule")}

    asyncio.run(play())


def test_a_node_that_has_never_spoken_drives_nobody_off_while_it_may_still_start() -> None:
    async def play() -> None:
        async with World() as world:
            await world.api.create(make_node(world, "n1"))
            new = NodeStatus(daemon_endpoints=ENDPOINTS, node_info=INFO)
            await world.api.create(Node(metadata=ObjectMeta(name="n2"), status=new))
            await live(world, 50, "n1")
            assert node_of(world, "n2").spec.taints == ()
            await live(world, 20, "n1")
            taints = {(t.key, t.effect) for t in node_of(world, "n2").spec.taints}
            assert ("node.kubernetes.io/unreachable", "NoExecute") in taints

    asyncio.run(play())


def test_a_taint_that_drives_pods_off_changes_at_once_with_the_node() -> None:
    async def play() -> None:
        async with World() as world:
            await world.api.create(make_node(world, "n1"))
            await world.api.create(make_node(world, "n2", "False"))
            await live(world, 10, "n1", "n2")
            old = node_of(world, "n2")
            assert drives_off(old.spec.taints)
            await world.api.update_status(replace(old, status=make_node(world, "n2", "Unknown").status))
            await world.settle(0.1)
            found = {(t.key, t.effect) for t in node_of(world, "n2").spec.taints}
            assert found == {("node.kubernetes.io/unreachable", effect) for effect in ("NoSchedule", "NoExecute")}

    asyncio.run(play())


@pytest.mark.parametrize(
    ("silent", "size", "seconds"),
    [(1, 3, 10), (2, 2, 10), (2, 3, 10), (3, 4, None), (3, 6, 10), (30, 50, None), (30, 51, 100), (51, 51, 10)],
    ids=["one", "a whole zone", "too few to tell", "most", "half", "most of 50", "most of a large one", "all of it"],
)
def test_the_pace_of_a_zone(silent: int, size: int, seconds: float | None) -> None:
    nodes = [Node(metadata=ObjectMeta(name=f"n{n}"), status=status_of("Unknown")) for n in range(silent)]
    nodes += [Node(metadata=ObjectMeta(name=f"r{n}"), status=status_of("True")) for n in range(size - silent)]
    assert eviction_every_s(nodes) == seconds


def test_nobody_is_evicted_when_most_of_a_small_zone_is_silent() -> None:
    async def play() -> None:
        async with World() as world:
            for n in range(4):
                await world.api.create(make_node(world, f"n{n}"))
            await live(world, 100, "n0")
            driven = [n for n in range(4) if drives_off(node_of(world, f"n{n}").spec.taints)]
            assert len(driven) <= 2, "those that fell silent before it was most of them"
            await live(world, 100, "n0")
            assert [n for n in range(4) if drives_off(node_of(world, f"n{n}").spec.taints)] == driven

    asyncio.run(play())


def test_cordoning_taints() -> None:
    async def play() -> None:
        async with World() as world:
            node = await world.api.create(make_node(world, "n1"))
            await world.api.update(replace(node, spec=replace(node.spec, unschedulable=True)))
            await world.settle()
            assert [t.key for t in node_of(world, "n1").spec.taints] == ["node.kubernetes.io/unschedulable"]

    asyncio.run(play())


def test_pods_of_a_node_that_is_gone_go() -> None:
    async def play() -> None:
        async with World() as world:
            await world.api.create(make_node(world, "n1"))
            world.api.put(make_pod("lost", node="gone", phase="Running"))
            world.api.put(make_pod("kept", node="n1", phase="Running"))
            await live(world, 100, "n1")
            assert [pod.metadata.name for pod in world.api.all(Pod)] == ["kept"]

    asyncio.run(play())


def test_pods_that_hang_on_a_node_out_of_service_go() -> None:
    async def play() -> None:
        async with World() as world:
            world.kubelet = lambda: None  # type: ignore[method-assign]  # it is down
            down = make_node(world, "n1", ready="False")
            await world.api.create(down)
            for name in ("leaving", "staying"):
                world.api.put(make_pod(name, node="n1", phase="Running"))
            await world.api.delete(Pod, "leaving", "default")
            await live(world, 60, "n1")
            assert len(world.api.all(Pod)) == 2, "nobody vouches for the node"
            taint = Taint(key="node.kubernetes.io/out-of-service", value="nodeshutdown", effect="NoSchedule")
            found = node_of(world, "n1")
            world.api.put(replace(found, spec=replace(found.spec, taints=(*found.spec.taints, taint))))
            await live(world, 30, "n1")
            assert [pod.metadata.name for pod in world.api.all(Pod)] == ["staying"]

    asyncio.run(play())


def test_ended_pods_beyond_the_threshold() -> None:
    pods = [make_pod(f"p{n}", phase="Succeeded", created_at=n) for n in range(5)]
    assert [pod.metadata.name for pod in surplus(pods, 3)] == ["p0", "p1"]
    assert surplus(pods, 0) == []


@pytest.mark.parametrize(
    ("tolerations", "stays"),
    [
        ((), 0.0),
        ((Toleration(key="k", operator="Exists"),), float("inf")),
        ((Toleration(key="k", operator="Exists", toleration_seconds=30),), 20.0),
        ((Toleration(key="k", value="other"),), 0.0),
        ((Toleration(operator="Exists", toleration_seconds=5), Toleration(operator="Exists")), 0.0),
    ],
    ids=["none", "for ever", "a while", "another value", "the shortest counts"],
)
def test_how_long_a_pod_stays(tolerations: Any, stays: float) -> None:
    taint = Taint(key="k", effect="NoExecute", time_added=format_time(0))
    assert stays_for(make_pod("p", tolerations=tolerations), [taint], 10) == stays


def test_a_pod_that_came_after_the_taint_has_its_time_from_then_on() -> None:
    taint = Taint(key="k", effect="NoExecute", time_added=format_time(0))
    toleration = Toleration(key="k", operator="Exists", toleration_seconds=30)
    pod = make_pod("p", created_at=50, tolerations=(toleration,))
    assert stays_for(pod, [taint], 60) == 20
    placed = PodCondition(type="PodScheduled", status="True", last_transition_time=format_time(55))
    assert stays_for(replace(pod, status=replace(pod.status, conditions=(placed,))), [taint], 60) == 25


def test_a_taint_that_says_not_when_it_came_drives_off_once_the_toleration_has_passed() -> None:
    async def run() -> None:
        async with World() as world:
            await world.api.create(make_node(world, "n1"))
            tolerations = tuple(
                Toleration(key="k", operator="Exists", effect="NoExecute", toleration_seconds=seconds)
                for seconds in (20, 90)
            )
            for name, toleration in zip(("soon", "later"), tolerations, strict=True):
                world.api.put(make_pod(name, node="n1", phase="Running", tolerations=(toleration,)))
            await world.settle()
            found = node_of(world, "n1")
            taint = Taint(key="k", effect="NoExecute")
            world.api.put(replace(found, spec=replace(found.spec, taints=(taint,))))
            await live(world, 10, "n1")
            assert {pod.metadata.name for pod in world.pods()} == {"soon", "later"}
            await live(world, 15, "n1")
            assert {pod.metadata.name for pod in world.pods()} == {"later"}
            found = node_of(world, "n1")
            world.api.put(replace(found, spec=replace(found.spec, taints=())))
            await live(world, 100, "n1")
            assert "later" in {pod.metadata.name for pod in world.pods()}

    asyncio.run(run())


def test_endpoints_follow_pods() -> None:
    ready = make_pod("a", phase="Running", ready=True, ip="10.0.0.2")
    starts = make_pod("b", phase="Running", ready=False, ip="10.0.0.1")
    ends = make_pod("c", phase="Running", ready=True, ip="10.0.0.3", deleting=True)
    made = endpoints.plan(make_service(), [ready, starts, ends], None)
    assert made is not None
    assert made.metadata.labels == {"endpoints.kubernetes.io/managed-by": "endpoint-controller"}
    (subset,) = made.subsets
    assert [a.ip for a in subset.addresses] == ["10.0.0.2"]
    assert [a.ip for a in subset.not_ready_addresses] == ["10.0.0.1"]
    assert [(p.name, p.port) for p in subset.ports] == [(None, 80)]
    assert endpoints.plan(make_service(), [starts, ready], made) is None
    assert isinstance(made, Endpoints)
