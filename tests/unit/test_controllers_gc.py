"""The garbage collector: dependents of what is gone, custom resources included, and nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace
from world import World, make_pod

from kaa.api.custom import CustomObject
from kaa.api.resources import Resource
from kaa.api.types.apiextensions_v1 import (
    CustomResourceDefinition,
    CustomResourceDefinitionCondition,
    CustomResourceDefinitionNames,
    CustomResourceDefinitionSpec,
    CustomResourceDefinitionStatus,
    CustomResourceDefinitionVersion,
)
from kaa.api.types.core_v1 import ConfigMap, Namespace
from kaa.api.types.meta_v1 import DeleteOptions, ObjectMeta, OwnerReference
from kaa.controllers.served import rows_of

NAMES = CustomResourceDefinitionNames(kind="Hero", plural="heroes", singular="hero")
DEFINITION = CustomResourceDefinition(
    metadata=ObjectMeta(name="heroes.example.com"),
    spec=CustomResourceDefinitionSpec(
        group="example.com",
        names=NAMES,
        scope="Namespaced",
        versions=(CustomResourceDefinitionVersion(name="v1", served=True, storage=True),),
    ),
    status=CustomResourceDefinitionStatus(
        accepted_names=NAMES, conditions=(CustomResourceDefinitionCondition(type="Established", status="True"),)
    ),
)


def owned(name: str, *owners: Any, **flags: Any) -> ConfigMap:
    refs = tuple(
        OwnerReference(
            api_version=owner.API_VERSION,
            kind=owner.KIND,
            name=owner.metadata.name,
            uid=owner.metadata.uid,
            **flags,
        )
        for owner in owners
    )
    return ConfigMap(metadata=ObjectMeta(name=name, namespace="default", owner_references=refs))


def standing(world: World) -> set[str]:
    return {found.metadata.name for found in world.api.all(ConfigMap)} - {"kube-root-ca.crt"}


async def hero_world(world: World) -> Any:
    row: Resource[Any] | None = rows_of(DEFINITION)
    assert row is not None
    world.api.add_resource(row)
    await world.api.create(DEFINITION)
    await world.settle()
    meta = ObjectMeta(name="anna", namespace="default")
    return await world.api.create(CustomObject(kind="Hero", api_version="example.com/v1", metadata=meta))


def test_custom_resources_own_and_are_owned() -> None:
    async def play() -> None:
        async with World() as world:
            hero = await hero_world(world)
            await world.api.create(owned("sword", hero))
            await world.settle()
            assert standing(world) == {"sword"}
            await world.api.delete(rows_of(DEFINITION), "anna", "default")
            await world.settle()
            assert standing(world) == set()

    asyncio.run(play())


def test_one_owner_of_two_is_enough() -> None:
    async def play() -> None:
        async with World() as world:
            first = world.api.put(make_pod("first"))
            second = world.api.put(make_pod("second"))
            await world.api.create(owned("shared", first, second))
            await world.settle()
            world.api.remove(first)
            await world.settle()
            assert standing(world) == {"shared"}
            shared = next(c for c in world.api.all(ConfigMap) if c.metadata.name == "shared")
            assert [ref.name for ref in shared.metadata.owner_references] == ["second"]

    asyncio.run(play())


def test_an_owner_that_never_was_and_one_of_an_unknown_kind() -> None:
    async def play() -> None:
        async with World() as world:
            pod = make_pod("phantom")
            await world.api.create(owned("dangling", pod))
            stranger = CustomObject(kind="Alien", api_version="space/v1", metadata=replace(pod.metadata, uid="alien"))
            await world.api.create(owned("kept", stranger))
            await world.settle()
            assert standing(world) == {"kept"}

    asyncio.run(play())


def test_an_owner_in_another_namespace_is_none_and_that_is_told() -> None:
    async def play() -> None:
        async with World() as world:
            await world.api.create(Namespace(metadata=ObjectMeta(name="other")))
            owner = await world.api.create(ConfigMap(metadata=ObjectMeta(name="owner", namespace="other")))
            await world.api.create(owned("stray", owner))
            await world.settle()
            assert "stray" not in standing(world)
            uid = owner.metadata.uid
            text = (
                f'ownerRef [v1/ConfigMap, namespace: , name: owner, uid: {uid}] does not exist in namespace "default"'
            )
            assert f"OwnerRefInvalidNamespace {text}" in world.events()

    asyncio.run(play())


@pytest.mark.parametrize("blocks", [True, False], ids=["blocking", "not blocking"])
def test_foreground_waits_for_those_that_block(blocks: bool) -> None:
    async def play() -> None:
        async with World() as world:
            owner = await world.api.create(ConfigMap(metadata=ObjectMeta(name="owner", namespace="default")))
            held = owned("held", owner, block_owner_deletion=blocks)
            held = replace(held, metadata=replace(held.metadata, finalizers=("example.com/hold",)))
            await world.api.create(held)
            await world.settle()
            options = DeleteOptions(propagation_policy="Foreground")
            await world.api.delete(ConfigMap, "owner", "default", options=options)
            await world.settle()
            assert standing(world) == ({"owner", "held"} if blocks else {"held"})
            await world.api.patch(ConfigMap, "held", {"metadata": {"finalizers": None}}, "default")
            await world.settle()
            assert standing(world) == set()

    asyncio.run(play())
