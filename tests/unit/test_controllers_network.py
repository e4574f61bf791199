"""EndpointSlices and Endpoints: who stands behind a Service."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace
from service_builders import make_service
from world import World, make_pod, make_replica_set

from kaa.api.types.core_v1 import Container, ContainerPort, Pod, PodIP, Service, ServicePort
from kaa.api.types.discovery_v1 import EndpointPort, EndpointSlice
from kaa.controllers import endpoints, endpointslice
from kaa.controllers.controller import GATHER_S_PER_PART
from kaa.controllers.endpointslice import Plan, plan


def slices_of(service: Service, pods: Sequence[Pod], slices: Sequence[EndpointSlice] = (), most: int = 100) -> Plan:
    return plan(service, pods, slices, {"n1": "zone-a"}, most=most)


def named(slices: Sequence[EndpointSlice], start: int = 0) -> list[EndpointSlice]:
    return [
        replace(each, metadata=replace(each.metadata, name=f"s-{start + n}", generate_name=None))
        for n, each in enumerate(slices)
    ]


def test_an_endpoint_says_all_it_knows() -> None:
    pod = make_pod("a", node="n1", phase="Running", ready=True, ip="10.0.0.1")
    (made,) = slices_of(make_service(), [pod]).create
    assert made.metadata.labels == {
        "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    }
    assert made.metadata.generate_name == "web-"
    assert made.metadata.owner_references[0].kind == "Service"
    assert made.address_type == "IPv4"
    assert made.ports == (EndpointPort(name="", port=80, protocol="TCP"),)
    (endpoint,) = made.endpoints
    assert (endpoint.addresses, endpoint.node_name, endpoint.zone) == (("10.0.0.1",), "n1", "zone-a")
    conditions = endpoint.conditions
    assert (conditions.ready, conditions.serving, conditions.terminating) == (True, True, False)
    assert endpoint.target_ref is not None
    assert endpoint.target_ref.uid == "uid-a"


def test_conditions_of_endpoints() -> None:
    ends = make_pod("a", phase="Running", ready=True, ip="10.0.0.1", deleting=True)
    starts = make_pod("b", phase="Running", ready=False, ip="10.0.0.2")
    over = make_pod("c", phase="Succeeded", ip="10.0.0.3")
    pending = make_pod("d", phase="Pending")

    def conditions(service: Service) -> list[tuple[bool | None, bool | None, bool | None]]:
        (made,) = slices_of(service, [ends, starts, over, pending]).create
        return [(e.conditions.ready, e.conditions.serving, e.conditions.terminating) for e in made.endpoints]

    assert conditions(make_service()) == [(False, True, True), (False, False, False)]
    assert conditions(make_service(publish_not_ready_addresses=True)) == [(True, True, True), (True, False, False)]


def test_named_ports_make_slices_of_their_own() -> None:
    service = make_service(ServicePort(name="http", port=80, target_port="web", protocol="TCP"))
    old = make_pod("a", phase="Running", ready=True, ip="10.0.0.1")
    ports = (ContainerPort(name="web", container_port=8080, protocol="TCP"),)
    new = replace(old, spec=replace(old.spec, containers=(Container(name="c", ports=ports),)))
    new = replace(new, metadata=replace(new.metadata, name="b", uid="uid-b"))
    made = slices_of(service, [old, new]).create
    assert [each.ports for each in made] == [(), (EndpointPort(name="http", port=8080, protocol="TCP"),)]


def test_both_families() -> None:
    pod = make_pod("a", phase="Running", ready=True)
    pod = replace(pod, status=replace(pod.status, pod_ips=(PodIP(ip="10.0.0.1"), PodIP(ip="fd00::1"))))
    made = slices_of(make_service(ip_families=("IPv4", "IPv6")), [pod]).create
    assert [(each.address_type, each.endpoints[0].addresses) for each in made] == [
        ("IPv4", ("10.0.0.1",)),
        ("IPv6", ("fd00::1",)),
    ]


def test_nobody_behind_a_service_is_an_empty_slice() -> None:
    (made,) = slices_of(make_service(), []).create
    assert (made.endpoints, made.ports) == ((), ())
    assert slices_of(make_service(), [], named([made])) == Plan()


def test_a_change_touches_one_slice() -> None:
    pods = [make_pod(f"p{n:03}", phase="Running", ready=True, ip=f"10.0.0.{n + 1}") for n in range(25)]
    first = slices_of(make_service(), pods, most=10)
    assert [len(each.endpoints) for each in first.create] == [10, 10, 5]
    standing = named(first.create)
    assert slices_of(make_service(), pods, standing, most=10) == Plan()
    step = slices_of(make_service(), pods[1:], standing, most=10)
    assert [each.metadata.name for each in step.update] == ["s-0"]
    more = [*pods, make_pod("new", phase="Running", ready=True, ip="10.0.1.1")]
    step = slices_of(make_service(), more, standing, most=10)
    assert [each.metadata.name for each in step.update] == ["s-2"]
    assert step.create == ()


def test_slices_follow_pods() -> None:
    async def play() -> None:
        async with World() as world:
            await world.api.create(make_service())
            await world.api.create(make_replica_set())
            await world.settle()

            def addresses() -> list[str]:
                slices = world.api.all(EndpointSlice)
                return sorted(a for s in slices for e in s.endpoints if e.conditions.ready for a in e.addresses)

            assert addresses() == sorted(pod.status.pod_ip or "" for pod in world.pods())
            assert len(world.api.all(EndpointSlice)) == 1
            old = world.api.all(type(make_replica_set()))[0]
            await world.api.update(replace(old, spec=replace(old.spec, replicas=1)))
            await world.settle()
            assert addresses() == [world.pods()[0].status.pod_ip]
            await world.api.delete(Service, "web", "default")
            await world.settle()
            assert world.api.all(EndpointSlice) == []

    asyncio.run(play())


def test_a_service_that_publishes_unready_pods_publishes_leaving_ones_too() -> None:
    ends = make_pod("c", phase="Running", ready=True, ip="10.0.0.3", deleting=True)
    assert endpoints.subsets_of(make_service(), [ends]) == ()
    (subset,) = endpoints.subsets_of(make_service(publish_not_ready_addresses=True), [ends])
    assert [a.ip for a in subset.addresses] == ["10.0.0.3"]


def test_looks_at_many_pods_are_gathered_and_find_only_what_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    looks: list[float] = []
    made: list[str | None] = []
    look, make = endpointslice.plan, endpointslice.endpoints_of

    def looked(*given: Any, **more: Any) -> Plan:
        looks.append(world.clock.monotonic())
        return look(*given, **more)

    def asked(service: Service, pod: Pod, zone: str | None) -> Any:
        made.append(pod.metadata.name)
        return make(service, pod, zone)

    monkeypatch.setattr(endpointslice, "plan", looked)
    monkeypatch.setattr(endpointslice, "endpoints_of", asked)

    async def play() -> None:
        async with world:
            for n in range(450):
                labels, ip = {"app": "web"}, f"10.0.{n // 200}.{n % 200 + 1}"
                await world.api.create(make_pod(f"p{n:03}", labels=labels, phase="Running", ready=True, ip=ip))
            await world.settle()
            await world.api.create(make_service())
            await world.settle()
            slices = world.api.all(EndpointSlice)
            assert sorted(len(each.endpoints) for each in slices) == [50, 100, 100, 100, 100]
            assert len(made) == 450
            await world.api.delete(Pod, "p007", "default")
            await world.settle()
            assert sum(len(each.endpoints) for each in world.api.all(EndpointSlice)) == 449
            assert set(made[450:]) <= {"p007"}
            gaps = [after - before for before, after in pairwise(looks)]
            assert min(gaps) > 440 * GATHER_S_PER_PART, "what a look writes does not call for the next at once"

    asyncio.run(play())
