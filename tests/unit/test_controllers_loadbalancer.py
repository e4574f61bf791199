"""Load balancers of Services, made by a cloud that a test is."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fake_cloud import FakeCloud
from msgspec.structs import replace
from service_builders import make_service
from world import NODE_FACTS, World

from kaa.api.types.core_v1 import Node, NodeCondition, NodeSpec, NodeStatus, Service, ServicePort, Taint
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.controllers.service_loadbalancer import (
    FINALIZER,
    ImplementedElsewhere,
    ProviderError,
    RetryAfter,
    concerns,
    shown,
    targets,
)

EXCLUDED = "node.kubernetes.io/exclude-from-external-load-balancers"


def make_node(name: str, *, ready: bool = True, taint: str = "", provider_id: str = "", **labels: str) -> Node:
    taints = (Taint(key=taint, effect="NoSchedule"),) if taint else ()
    conditions = (NodeCondition(type="Ready", status=str(ready)),)
    return Node(
        metadata=ObjectMeta(name=name, labels={key.replace("_", "-"): word for key, word in labels.items()}),
        spec=NodeSpec(taints=taints, provider_id=provider_id or None),
        status=NodeStatus(conditions=conditions, **NODE_FACTS),
    )


def with_label(node: Node, value: str) -> Node:
    return replace(node, metadata=replace(node.metadata, labels={EXCLUDED: value}))


def balanced(name: str = "web", **spec: Any) -> Service:
    made = make_service(name=name, **{"type": "LoadBalancer", **spec})
    return replace(made, metadata=replace(made.metadata, uid=f"uid-{name}"))


def in_cloud(play: Callable[[World, FakeCloud], Awaitable[None]]) -> None:
    async def run() -> None:
        cloud = FakeCloud()
        async with World(load_balancers=cloud) as world:
            world.api.put(make_node("n1"))
            await world.settle()
            await play(world, cloud)

    asyncio.run(run())


async def service_of(world: World, name: str = "web") -> Service:
    found: Service = await world.api.get(Service, name, "default")
    return found


async def change(world: World, **spec: Any) -> None:
    old = await service_of(world)
    world.api.put(replace(old, spec=replace(old.spec, **spec)))
    await world.settle()


def said(world: World, *reasons: str) -> list[str]:
    return [event for event in world.events() if event.split(" ", 1)[0] in reasons]


def test_a_service_gets_its_balancer_and_is_held_for_it() -> None:
    async def play(world: World, cloud: FakeCloud) -> None:
        await world.api.create(balanced())
        await world.settle()
        service = await service_of(world)
        assert service.metadata.finalizers == (FINALIZER,)
        assert [point.hostname for point in service.status.load_balancer.ingress] == ["uid-web.cloud.example"]
        assert cloud.balancers == {"uid-web": ["n1"]}
        assert cloud.calls == ["ensure"]
        assert [event for event in world.events() if "oad balancer" in event] == [
            "EnsuringLoadBalancer Ensuring load balancer",
            "EnsuredLoadBalancer Ensured load balancer",
        ]

    in_cloud(play)


def test_a_deleted_service_goes_after_its_balancer() -> None:
    async def play(world: World, cloud: FakeCloud) -> None:
        await world.api.create(balanced())
        await world.settle()

        def not_now(call: str) -> None:
            raise ProviderError("the cloud is busy")

        cloud.fails = not_now
        await world.api.delete(Service, "web", "default")
        await world.settle()
        assert (await service_of(world)).metadata.deletion_timestamp is not None
        text = "SyncLoadBalancerFailed Error syncing load balancer: failed to check if load balancer exists before cleanup: the cloud is busy"
        assert text in world.events()
        cloud.fails = lambda call: None
        await world.settle(5)
        assert (world.api.all(Service), cloud.balancers) == ([], {})
        assert said(world, "DeletingLoadBalancer", "DeletedLoadBalancer") == [
            "DeletingLoadBalancer Deleting load balancer",
            "DeletedLoadBalancer Deleted load balancer",
        ]

    in_cloud(play)


def test_another_type_needs_no_balancer_and_back() -> None:
    async def play(world: World, cloud: FakeCloud) -> None:
        await world.api.create(balanced())
        await world.settle()
        await change(world, type="ClusterIP")
        service = await service_of(world)
        assert (service.metadata.finalizers, service.status.load_balancer.ingress, cloud.balancers) == ((), (), {})
        await change(world, type="LoadBalancer")
        assert cloud.balancers == {"uid-web": ["n1"]}
        assert (await service_of(world)).metadata.finalizers == (FINALIZER,)

    in_cloud(play)


def test_a_class_is_somebody_elses() -> None:
    async def play(world: World, cloud: FakeCloud) -> None:
        await world.api.create(balanced(load_balancer_class="example.com/theirs"))
        await world.api.create(balanced("plain", type="ClusterIP"))
        await world.settle()
        assert (cloud.calls, (await service_of(world)).metadata.finalizers) == ([], ())

    in_cloud(play)


def test_without_a_provider_a_service_stays_pending() -> None:
    async def run() -> None:
        async with World() as world:
            await world.api.create(balanced())
            await world.settle()
            service = await service_of(world)
            assert (service.metadata.finalizers, service.status.load_balancer.ingress) == ((), ())

    asyncio.run(run())


def test_failures_wait_longer_and_longer() -> None:
    async def play(world: World, cloud: FakeCloud) -> None:
        at: list[float] = []

        def never(call: str) -> None:
            at.append(world.clock.now())
            raise ProviderError("quota exceeded")

        cloud.fails = never
        await world.api.create(balanced())
        await world.clock.advance(1300)
        waits = [round(after - before) for before, after in itertools.pairwise(at)]
        assert waits == [5, 10, 20, 40, 80, 160, 300, 300, 300]
        text = "SyncLoadBalancerFailed Error syncing load balancer: failed to ensure load balancer: quota exceeded"
        assert said(world, "SyncLoadBalancerFailed") == [text]

    in_cloud(play)


def test_a_provider_may_say_when_to_come_again() -> None:
    async def play(world: World, cloud: FakeCloud) -> None:
        at: list[float] = []

        def later(call: str) -> None:
            at.append(world.clock.now())
            if len(at) < 3:
                raise RetryAfter("still being made", 30)

        cloud.fails = later
        await world.api.create(balanced())
        await world.clock.advance(90)
        assert [round(moment - at[0]) for moment in at] == [0, 30, 60]
        assert cloud.balancers == {"uid-web": ["n1"]}

    in_cloud(play)


def test_what_is_made_elsewhere_is_only_held() -> None:
    async def play(world: World, cloud: FakeCloud) -> None:
        def elsewhere(call: str) -> None:
            if call != "get":
                raise ImplementedElsewhere

        cloud.fails = elsewhere
        await world.api.create(balanced())
        world.api.put(make_node("n2"))
        await world.settle()
        assert said(world, "EnsuredLoadBalancer", "SyncLoadBalancerFailed", "UpdateLoadBalancerFailed") == []
        await world.api.delete(Service, "web", "default")
        await world.settle()
        assert world.api.all(Service) == []

    in_cloud(play)


def test_nodes_come_and_go_and_balancers_are_told_once() -> None:
    async def play(world: World, cloud: FakeCloud) -> None:
        await world.api.create(balanced())
        await world.settle()
        world.api.put(make_node("n2"))
        await world.settle()
        assert cloud.balancers == {"uid-web": ["n1", "n2"]}
        assert "UpdatedLoadBalancer Updated load balancer with new hosts" in world.events()
        world.api.put(with_label(make_node("n2"), "true"))
        await world.settle()
        world.api.put(make_node("n1", ready=False))
        await world.settle()
        assert cloud.balancers == {"uid-web": ["n1"]}, "one that is not ready stays: its health checks know"
        assert cloud.calls == ["ensure", "update", "update"]
        world.api.remove(await world.api.get(Node, "n1"))
        await world.settle()
        assert cloud.balancers == {"uid-web": []}
        assert "UnAvailableLoadBalancer There are no available nodes for LoadBalancer" in world.events()

    in_cloud(play)


def test_a_node_about_to_be_deleted_leaves_at_the_next_look() -> None:
    async def play(world: World, cloud: FakeCloud) -> None:
        world.api.put(make_node("n2"))
        await world.api.create(balanced())
        await world.settle()
        world.api.put(make_node("n2", taint="ToBeDeletedByClusterAutoscaler"))
        await world.settle()
        assert cloud.balancers == {"uid-web": ["n1", "n2"]}
        await world.clock.advance(101)
        assert cloud.balancers == {"uid-web": ["n1"]}

    in_cloud(play)


def test_new_hosts_that_fail_are_told_and_tried_with_the_whole_service() -> None:
    async def play(world: World, cloud: FakeCloud) -> None:
        await world.api.create(balanced())
        await world.settle()

        def no_updates(call: str) -> None:
            if call == "update":
                raise ProviderError("no such pool")

        cloud.fails = no_updates
        world.api.put(make_node("n2"))
        await world.settle()
        assert cloud.calls == ["ensure", "update", "get", "ensure"]
        assert cloud.balancers == {"uid-web": ["n1", "n2"]}
        text = "UpdateLoadBalancerFailed Error updating load balancer with new hosts [n1 n2] [node names limited, total number of nodes: 2], error: no such pool"
        assert text in world.events()

    in_cloud(play)


def test_a_service_made_anew_under_its_name_gets_another_balancer() -> None:
    async def play(world: World, cloud: FakeCloud) -> None:
        await world.api.create(balanced())
        await world.settle()
        world.api.remove(await service_of(world))  # somebody took the finalizer away
        made = balanced()
        await world.api.create(replace(made, metadata=replace(made.metadata, uid="uid-other")))
        await world.settle()
        assert cloud.balancers == {"uid-other": ["n1"]}
        world.api.remove(await service_of(world))
        await world.settle()
        assert cloud.balancers == {}

    in_cloud(play)


@pytest.mark.parametrize(
    "change",
    [
        {"load_balancer_source_ranges": ("10.0.0.0/8",)},
        {"ports": (ServicePort(port=81, protocol="TCP"),)},
        {"session_affinity": "ClientIP"},
        {"load_balancer_ip": "192.0.2.1"},
        {"external_ips": ("192.0.2.1",)},
        {"external_traffic_policy": "Local"},
        {"health_check_node_port": 31000},
        {"ip_families": ("IPv4", "IPv6")},
        {"type": "NodePort"},
        {"load_balancer_class": "example.com/theirs"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_of_a_service_concerns_its_balancer(change: dict[str, Any]) -> None:
    old = balanced()
    assert concerns(old, replace(old, spec=replace(old.spec, **change)))


def test_what_does_not_concern_a_balancer() -> None:
    old = balanced()
    held = replace(old, metadata=replace(old.metadata, finalizers=(FINALIZER,), labels={"a": "b"}))
    assert not concerns(old, held)
    assert not concerns(old, replace(old, spec=replace(old.spec, selector={"app": "other"})))
    assert concerns(held, replace(held, metadata=replace(held.metadata, deletion_timestamp="2026-01-01T00:00:00Z")))


def test_who_is_a_target() -> None:
    nodes = [
        make_node("plain"),
        make_node("unready", ready=False),
        make_node("tainted", taint="ToBeDeletedByClusterAutoscaler"),
        with_label(make_node("excluded"), ""),
        with_label(make_node("nonsense"), "maybe"),
        with_label(make_node("included"), "false"),
    ]
    assert [node.metadata.name for node in targets(nodes)] == ["plain", "unready", "included"]
    many = [make_node(f"n{n:02}") for n in range(22)]
    assert shown(many).endswith("n19 <2 more>]")
