"""Namespaces end: in order, with conditions, and with everything in them."""

from __future__ import annotations

import asyncio
from typing import Any

from msgspec.structs import replace
from world import World, make_pod, make_replica_set

from kaa.api.errors import ServiceUnavailable
from kaa.api.resources import Resource
from kaa.api.scheme import resource_of
from kaa.api.types.apiregistration_v1 import APIService, APIServiceSpec, ServiceReference
from kaa.api.types.core_v1 import ConfigMap, Namespace, NamespaceCondition, Pod
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.controllers.namespace import Remains, conditions, remains_of

PODS: Resource[Any] = resource_of(Pod)


def test_conditions_are_in_upstreams_words() -> None:
    held = replace(make_pod("a"), metadata=ObjectMeta(name="a", finalizers=("example.com/hold",)))
    made = conditions((), remains_of([(PODS, [held])], []), "2026-01-01T00:00:00Z")
    assert [(c.type, c.status, c.reason, c.message) for c in made] == [
        (
            "NamespaceDeletionDiscoveryFailure",
            "False",
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            "False",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            "False",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        (
            "NamespaceContentRemaining",
            "True",
            "SomeResourcesRemain",
            "Some resources are remaining: pods. has 1 resource instances",
        ),
        (
            "NamespaceFinalizersRemaining",
            "True",
            "SomeFinalizersRemain",
            "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances",
        ),
    ]


def test_a_condition_keeps_its_time_while_its_status_stands() -> None:
    first = conditions((), Remains(), "t1")
    assert conditions(first, Remains(), "t2") == first
    later = conditions(first, remains_of([(PODS, [make_pod("a")])], []), "t2")
    changed: list[NamespaceCondition] = [c for c in later if c not in first]
    assert [(c.type, c.last_transition_time) for c in changed] == [("NamespaceContentRemaining", "t2")]


def test_an_api_that_does_not_answer_holds_a_namespace_and_is_told() -> None:
    """What it keeps is unknown; what is known goes all the same."""

    async def play() -> None:
        async with World() as world:

            async def raw(method: str, path: str, *more: Any, **options: Any) -> bytes:
                raise ServiceUnavailable("the server is currently unable to handle the request")

            answers = world.api.raw
            world.api.raw = raw  # type: ignore[method-assign, assignment]
            behind = APIServiceSpec(
                group="metrics.k8s.io",
                version="v1beta1",
                group_priority_minimum=100,
                version_priority=100,
                service=ServiceReference(name="metrics", namespace="kube-system"),
            )
            world.api.put(APIService(metadata=ObjectMeta(name="v1beta1.metrics.k8s.io"), spec=behind))
            await world.api.create(ConfigMap(metadata=ObjectMeta(name="c", namespace="default")))
            await world.api.delete(Namespace, "default")
            await world.settle()
            (namespace,) = world.api.all(Namespace)
            told = namespace.status.conditions[0]
            assert (told.type, told.status, told.reason, told.message) == (
                "NamespaceDeletionDiscoveryFailure",
                "True",
                "DiscoveryFailed",
                "Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: "
                "metrics.k8s.io/v1beta1: the server is currently unable to handle the request",
            )
            assert world.api.all(ConfigMap) == []
            world.api.raw = answers  # type: ignore[method-assign]
            world.api.remove(world.api.all(APIService)[0])
            await world.clock.advance(6)
            assert world.api.all(Namespace) == []

    asyncio.run(play())


def test_a_namespace_ends_with_all_it_holds() -> None:
    async def play() -> None:
        async with World() as world:
            await world.api.create(make_replica_set())
            await world.api.create(ConfigMap(metadata=ObjectMeta(name="c", namespace="default")))
            await world.settle()
            await world.api.delete(Namespace, "default")
            await world.settle()
            assert world.api.all(Namespace) == world.api.all(Pod) == world.api.all(ConfigMap) == []

    asyncio.run(play())


def test_a_finalizer_holds_a_namespace() -> None:
    async def play() -> None:
        async with World() as world:
            meta = ObjectMeta(name="c", namespace="default", finalizers=("example.com/hold",))
            await world.api.create(ConfigMap(metadata=meta))
            await world.api.delete(Namespace, "default")
            await world.settle()
            (namespace,) = world.api.all(Namespace)
            found = {c.type: c.message for c in namespace.status.conditions}
            assert found["NamespaceFinalizersRemaining"] == (
                "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
            )
            await world.api.patch(ConfigMap, "c", {"metadata": {"finalizers": None}}, "default")
            await world.settle(6.0)
            assert world.api.all(Namespace) == []

    asyncio.run(play())


def test_a_namespace_that_ends_is_not_filled_again_and_again() -> None:
    async def play() -> None:
        async with World() as world:
            meta = ObjectMeta(name="c", namespace="default", finalizers=("example.com/hold",))
            await world.api.create(ConfigMap(metadata=meta))
            await world.api.delete(Namespace, "default")
            world.api._check_namespace = lambda resource, obj: None  # type: ignore[method-assign]  # slip it in
            await world.api.create(make_replica_set(replicas=3))
            del world.api._check_namespace  # type: ignore[method-assign]
            await world.settle()
            assert world.api.calls["create", "pods"] <= 5

    asyncio.run(play())
