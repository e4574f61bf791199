"""Endpoints that someone writes by hand reach the proxy as EndpointSlices."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from world import World

from kaa.api.scheme import convert
from kaa.api.types.core_v1 import Endpoints, Service
from kaa.api.types.discovery_v1 import EndpointSlice
from kaa.controllers.endpointslice import Plan
from kaa.controllers.endpointslicemirroring import Mirror, is_mirrored, mirror, plan


def make_endpoints(
    *addresses: str, waiting: tuple[str, ...] = (), port: int = 5432, **meta: dict[str, str]
) -> Endpoints:
    subset = {
        "addresses": [{"ip": each} for each in addresses],
        "notReadyAddresses": [{"ip": each} for each in waiting],
        "ports": [{"name": "sql", "port": port, "protocol": "TCP"}],
    }
    return convert(Endpoints, {"metadata": {"name": "db", "namespace": "default", **meta}, "subsets": [subset]})


def make_service(**selector: str) -> Service:
    spec = {"clusterIP": "10.96.0.9", "ports": [{"port": 5432, "name": "sql"}], "selector": selector}
    return convert(Service, {"metadata": {"name": "db", "namespace": "default"}, "spec": spec})


def in_world(play: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        async with World() as world:
            await play(world)

    asyncio.run(run())


def mirrored(world: World) -> list[EndpointSlice]:
    manager = "endpointslicemirroring-controller.k8s.io"
    every: list[EndpointSlice] = world.api.all(EndpointSlice)
    return [e for e in every if e.metadata.labels.get("endpointslice.kubernetes.io/managed-by") == manager]


def test_addresses_ports_and_readiness_are_carried_over() -> None:
    async def play(world: World) -> None:
        await world.api.create(make_service())
        notes = {"why": "by hand", "kubectl.kubernetes.io/last-applied-configuration": "{}"}
        await world.api.create(
            make_endpoints("192.0.2.1", "2001:db8::1", waiting=("192.0.2.2",), labels={"a": "b"}, annotations=notes)
        )
        await world.settle()
        by_family = {each.address_type: each for each in mirrored(world)}
        assert by_family.keys() == {"IPv4", "IPv6"}
        made = by_family["IPv4"]
        assert [(e.addresses, e.conditions.ready) for e in made.endpoints] == [
            (("192.0.2.1",), True),
            (("192.0.2.2",), False),
        ]
        assert [(p.name, p.port, p.protocol) for p in made.ports] == [("sql", 5432, "TCP")]
        assert made.metadata.labels["kubernetes.io/service-name"] == "db"
        assert made.metadata.labels["a"] == "b"
        assert made.metadata.annotations == {"why": "by hand"}
        assert made.metadata.owner_references[0].kind == "Endpoints"
        await world.api.delete(Endpoints, "db", "default")
        await world.settle()
        assert not mirrored(world)

    in_world(play)


def test_changes_are_followed_in_place() -> None:
    async def play(world: World) -> None:
        await world.api.create(make_service())
        await world.api.create(make_endpoints("192.0.2.1"))
        await world.settle()
        (first,) = mirrored(world)
        world.api.put(make_endpoints("192.0.2.1", "192.0.2.7"))
        await world.settle()
        (second,) = mirrored(world)
        assert second.metadata.uid == first.metadata.uid
        assert [e.addresses for e in second.endpoints] == [("192.0.2.1",), ("192.0.2.7",)]

    in_world(play)


def test_a_service_that_gets_a_selector_is_let_go() -> None:
    async def play(world: World) -> None:
        made = await world.api.create(make_service())
        await world.api.create(make_endpoints("192.0.2.1"))
        await world.settle()
        assert mirrored(world)
        world.api.put(replace(made, spec=replace(made.spec, selector={"app": "db"})))
        await world.settle()
        assert not mirrored(world)

    in_world(play)


@pytest.mark.parametrize(
    ("meta", "verdict"),
    [
        pytest.param({}, True, id="someone's own"),
        pytest.param({"labels": {"endpointslice.kubernetes.io/skip-mirror": "True"}}, False, id="marked"),
        pytest.param({"labels": {"endpoints.kubernetes.io/managed-by": "endpoint-controller"}}, False, id="ours"),
        pytest.param({"annotations": {"control-plane.alpha.kubernetes.io/leader": "{}"}}, False, id="a lock"),
    ],
)
def test_what_is_mirrored(meta: dict[str, dict[str, str]], verdict: bool) -> None:
    assert is_mirrored(make_endpoints("192.0.2.1", **meta)) is verdict


def test_what_is_left_out_is_told() -> None:
    async def play(world: World) -> None:
        await world.api.create(make_service())
        await world.api.create(make_endpoints("no address", *(f"192.0.{n // 250}.{n % 250 + 1}" for n in range(1001))))
        await world.settle()
        (made,) = mirrored(world)
        assert len(made.endpoints) == 1000
        assert "InvalidIPAddress Skipped 1 invalid IP addresses when mirroring to EndpointSlices" in world.events()
        assert (
            "TooManyAddressesToMirror A max of 1000 addresses can be mirrored to EndpointSlices per Endpoints subset. "
            "1 addresses were skipped"
        ) in world.events()

    in_world(play)


addresses = st.lists(st.integers(1, 250).map(lambda n: f"192.0.2.{n}"), unique=True, max_size=8)


@given(before=addresses, after=addresses, port=st.sampled_from([5432, 5433]))
def test_one_plan_settles(before: list[str], after: list[str], port: int) -> None:
    def stand(wanted: Plan, standing: list[EndpointSlice]) -> list[EndpointSlice]:
        names = {each.metadata.name: each for each in wanted.update}
        gone = {each.metadata.name for each in wanted.delete}
        kept = [names.get(e.metadata.name, e) for e in standing if e.metadata.name not in gone]
        made = [
            replace(e, metadata=replace(e.metadata, name=f"s{len(standing) + n}", generate_name=None))
            for n, e in enumerate(wanted.create)
        ]
        return [*kept, *made]

    first, second = make_endpoints(*before), make_endpoints(*after, port=port)
    slices = stand(plan(first, mirror(first), []), [])
    slices = stand(plan(second, mirror(second), slices), slices)
    assert sorted(e.addresses[0] for each in slices for e in each.endpoints) == sorted(after)
    assert plan(second, mirror(second), slices) == Plan()
    assert mirror(second) == Mirror(mirror(second).wanted)
