"""Claims that grow, and who is asked to see to it."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from volume_builders import CSI, make_claim, make_volume
from world import World

from kaa.api.types.core_v1 import PersistentVolumeClaim
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.api.values import Quantity
from kaa.controllers.expand import MIGRATED, RESIZER, Plan, plan

EBS = {"awsElasticBlockStore": {"volumeID": "vol-1"}}
OTHERS = "waiting for an external controller to expand this PVC"


async def ask(world: World, size: str) -> PersistentVolumeClaim:
    claim = await world.api.get(PersistentVolumeClaim, "data", "default")
    resources = replace(claim.spec.resources, requests={"storage": Quantity(size)})
    world.api.put(replace(claim, spec=replace(claim.spec, resources=resources)))
    await world.settle()
    found: PersistentVolumeClaim = await world.api.get(PersistentVolumeClaim, "data", "default")
    return found


def grown(**source: Any) -> tuple[list[str], str | None]:
    """What is said when a bound claim grows, and the resizer it is marked with."""

    async def run() -> tuple[list[str], str | None]:
        async with World() as world:
            await world.api.create(make_volume(**source))
            await world.api.create(make_claim())
            await world.settle()
            assert world.events() == []
            claim = await ask(world, "2Gi")
            assert claim.status.capacity == {"storage": "1Gi"}
            return world.events(), claim.metadata.annotations.get(RESIZER)

    return asyncio.run(run())


def test_a_resizer_is_waited_for() -> None:
    assert grown(**CSI) == ([f"ExternalExpanding {OTHERS}"], None)


def test_what_cannot_grow_waits_all_the_same() -> None:
    assert grown(hostPath={"path": "/data"}) == ([f"ExternalExpanding {OTHERS}"], None)


def test_the_driver_that_took_a_plugin_over_is_named() -> None:
    text = "CSI migration enabled for kubernetes.io/aws-ebs; waiting for external resizer to expand the pvc"
    assert grown(**EBS) == ([f"ExternalExpanding {text}"], "ebs.csi.aws.com")


def test_a_claim_is_told_once_a_growth() -> None:
    async def run() -> None:
        async with World() as world:
            await world.api.create(make_volume())
            await world.api.create(make_claim())
            await world.settle()
            claim = await ask(world, "2Gi")
            calls = dict(world.api.calls)
            marked = replace(claim, metadata=replace(claim.metadata, labels={"a": "b"}))
            world.api.put(marked)
            await world.settle()
            capacity = {"storage": Quantity("2Gi")}
            world.api.put(replace(marked, status=replace(marked.status, capacity=capacity)))
            await world.settle()
            assert world.api.calls == calls

    asyncio.run(run())


@given(
    asked=st.integers(1, 9), granted=st.integers(0, 9), source=st.sampled_from((CSI, EBS, {"hostPath": {"path": "/"}}))
)
def test_growing_settles(asked: int, granted: int, source: dict[str, Any]) -> None:
    volume, claim = make_volume(**source), make_claim(f"{asked}Gi", f"{granted}Gi")
    wanted = plan(claim, volume)
    assert bool(wanted.message) == (asked > granted)
    if wanted.resizer:
        marked = replace(claim, metadata=ObjectMeta(annotations={RESIZER: wanted.resizer}))
        assert plan(marked, volume).resizer == "", "it is marked once"
    grown = replace(claim, status=replace(claim.status, capacity=claim.spec.resources.requests))
    assert plan(grown, volume) == Plan()


def test_every_plugin_that_moved_is_a_source() -> None:
    assert set(MIGRATED) <= set(make_volume().spec.__struct_fields__)
