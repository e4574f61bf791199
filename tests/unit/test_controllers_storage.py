"""Claims and volumes on a fake API."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec.structs import replace
from world import World, make_pod

from kaa.api.types.core_v1 import (
    Node,
    ObjectReference,
    PersistentVolume,
    PersistentVolumeClaim,
    PersistentVolumeClaimSpec,
    PersistentVolumeClaimVolumeSource,
    PersistentVolumeSpec,
    Volume,
    VolumeResourceRequirements,
)
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.api.types.storage_v1 import StorageClass, VolumeAttributesClass
from kaa.api.values import Quantity
from kaa.controllers.ttl import step_for

RWO = ("ReadWriteOnce",)


def make_volume(name: str, size: str = "1Gi", *, modes: tuple[str, ...] = RWO, **spec: Any) -> PersistentVolume:
    made = PersistentVolumeSpec(
        capacity={"storage": Quantity(size)}, access_modes=modes, storage_class_name="c", **spec
    )
    return PersistentVolume(metadata=ObjectMeta(name=name), spec=made)


def make_claim(name: str = "data", size: str = "1Gi", *, cls: str | None = "c", **spec: Any) -> PersistentVolumeClaim:
    resources = VolumeResourceRequirements(requests={"storage": Quantity(size)})
    made = PersistentVolumeClaimSpec(**{"access_modes": RWO, "resources": resources, "storage_class_name": cls, **spec})
    return PersistentVolumeClaim(metadata=ObjectMeta(name=name, namespace="default"), spec=made)


def make_class(name: str = "c", provisioner: str = "nobody.example.com", mode: str = "Immediate") -> StorageClass:
    return StorageClass(metadata=ObjectMeta(name=name), provisioner=provisioner, volume_binding_mode=mode)


def in_world(play: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        async with World() as world:
            await play(world)

    asyncio.run(run())


async def add(world: World, *objects: Any) -> None:
    for each in objects:
        await world.api.create(each)
    await world.settle()


async def claim_of(world: World, name: str = "data") -> PersistentVolumeClaim:
    found: PersistentVolumeClaim = await world.api.get(PersistentVolumeClaim, name, "default")
    return found


async def phase(world: World, name: str) -> str:
    return (await world.api.get(PersistentVolume, name)).status.phase or ""


def test_the_smallest_that_fits_is_bound_on_both_ends() -> None:
    async def play(world: World) -> None:
        volumes = [make_volume("big", "10Gi"), make_volume("fit", "2Gi"), make_volume("small", "512Mi")]
        await add(world, *volumes, make_volume("shared", "1Gi", modes=("ReadWriteOnce", "ReadWriteMany")), make_claim())
        claim = await claim_of(world)
        assert (claim.spec.volume_name, claim.status.phase) == ("fit", "Bound")
        assert claim.status.capacity == {"storage": "2Gi"}
        assert claim.metadata.annotations["pv.kubernetes.io/bind-completed"] == "yes"
        assert claim.metadata.finalizers == ("kubernetes.io/pvc-protection",)
        volume = await world.api.get(PersistentVolume, "fit")
        assert volume.spec.claim_ref.uid == claim.metadata.uid
        assert [await phase(world, name) for name in ("fit", "big", "small")] == ["Bound", "Available", "Available"]

    in_world(play)


def test_two_claims_never_share_a_volume() -> None:
    async def play(world: World) -> None:
        await add(world, make_volume("one"), *(make_claim(f"c{n}") for n in range(3)))
        bound = [claim for claim in world.api.all(PersistentVolumeClaim) if claim.status.phase == "Bound"]
        assert len(bound) == 1
        await add(world, make_volume("two"))
        bound = [claim for claim in world.api.all(PersistentVolumeClaim) if claim.status.phase == "Bound"]
        assert sorted(claim.spec.volume_name or "" for claim in bound) == ["one", "two"]

    in_world(play)


def test_a_released_volume_waits_for_people() -> None:
    async def play(world: World) -> None:
        await add(world, make_volume("one"), make_claim())
        await world.api.delete(PersistentVolumeClaim, "data", "default")
        await world.settle()
        assert world.api.all(PersistentVolumeClaim) == []
        assert await phase(world, "one") == "Released"
        await add(world, make_claim())
        assert (await claim_of(world)).status.phase == "Pending"

    in_world(play)


def test_a_lost_volume_is_told() -> None:
    async def play(world: World) -> None:
        await add(world, make_volume("one"), make_claim())
        world.api.remove(await world.api.get(PersistentVolume, "one"))
        await world.settle()
        assert (await claim_of(world)).status.phase == "Lost"
        text = "ClaimLost Bound claim has lost its PersistentVolume. Data on the volume is lost!"
        assert text in world.events()

    in_world(play)


def test_volumes_set_aside() -> None:
    async def play(world: World) -> None:
        aside = ObjectReference(namespace="default", name="data")
        await add(
            world, make_volume("a"), make_volume("b", "5Gi", claim_ref=aside), make_claim("other", volume_name="b")
        )
        assert await phase(world, "b") == "Available"
        assert 'FailedBinding volume "b" already bound to a different claim.' in world.events()
        await add(world, make_claim())
        assert (await claim_of(world)).spec.volume_name == "b"

    in_world(play)


def test_what_is_said_while_nothing_fits() -> None:
    async def play(world: World) -> None:
        await add(
            world, make_claim("none", cls=""), make_claim("absent", cls="absent"), make_claim("ext"), make_class()
        )
        await add(world, make_class("later", mode="WaitForFirstConsumer"), make_claim("first", cls="later"))
        events = world.events()
        for text in (
            "FailedBinding no persistent volumes available for this claim and no storage class is set",
            'ProvisioningFailed storageclass.storage.k8s.io "absent" not found',
            "WaitForFirstConsumer waiting for first consumer to be created before binding",
        ):
            assert text in events
        assert any("external provisioner 'nobody.example.com'" in text for text in events)
        claim = await claim_of(world, "ext")
        assert claim.metadata.annotations["volume.kubernetes.io/storage-provisioner"] == "nobody.example.com"
        await add(world, make_volume("free"))
        first = await claim_of(world, "first")
        assert (first.spec.volume_name, first.status.phase) == (None, "Pending")

    in_world(play)


def test_the_default_class_comes_later() -> None:
    async def play(world: World) -> None:
        await add(world, make_claim(cls=None))
        made = make_class("standard")
        marked = {"storageclass.kubernetes.io/is-default-class": "true"}
        await add(world, replace(made, metadata=replace(made.metadata, annotations=marked)))
        assert (await claim_of(world)).spec.storage_class_name == "standard"

    in_world(play)


def test_a_claim_in_use_stays_until_its_pod_is_gone() -> None:
    async def play(world: World) -> None:
        await add(world, make_claim())
        source = PersistentVolumeClaimVolumeSource(claim_name="data")
        pod = make_pod("user", node="n1", volumes=(Volume(name="v", persistent_volume_claim=source),))
        world.api.put(pod)
        await world.settle()
        await world.api.delete(PersistentVolumeClaim, "data", "default")
        await world.settle()
        assert (await claim_of(world)).metadata.deletion_timestamp
        world.api.remove(pod)
        await world.settle()
        assert world.api.all(PersistentVolumeClaim) == []

    in_world(play)


def test_an_attributes_class_stays_until_no_claim_names_it() -> None:
    async def play(world: World) -> None:
        await add(
            world,
            VolumeAttributesClass(metadata=ObjectMeta(name="gold"), driver_name="d.example.com"),
            make_claim(volume_attributes_class_name="gold"),
        )
        held = await world.api.get(VolumeAttributesClass, "gold")
        assert held.metadata.finalizers == ("kubernetes.io/vac-protection",)
        await world.api.delete(VolumeAttributesClass, "gold")
        await world.settle()
        assert (await world.api.get(VolumeAttributesClass, "gold")).metadata.deletion_timestamp
        await world.api.delete(PersistentVolumeClaim, "data", "default")
        await world.settle()
        assert not (await world.api.list(VolumeAttributesClass)).items

    in_world(play)


def test_nodes_are_told_how_long_to_believe() -> None:
    async def play(world: World) -> None:
        await add(world, Node(metadata=ObjectMeta(name="n1")))
        assert (await world.api.get(Node, "n1")).metadata.annotations["node.alpha.kubernetes.io/ttl"] == "0"

    in_world(play)
    assert [step_for(n, 0) for n in (1, 100, 101, 600, 5000)] == [0, 0, 1, 2, 4]
    assert (step_for(95, 1), step_for(89, 1)) == (1, 0)
