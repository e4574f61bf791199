"""Budgets: how many pods may go."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace
from world import World, make_deployment, make_pod

from kaa.api.clock import format_time
from kaa.api.errors import NotFound
from kaa.api.scheme import convert
from kaa.api.types.apiextensions_v1 import CustomResourceDefinition
from kaa.api.types.autoscaling_v1 import Scale, ScaleSpec
from kaa.api.types.core_v1 import Node, Pod, PodCondition
from kaa.api.types.meta_v1 import LabelSelector, ObjectMeta, OwnerReference
from kaa.api.types.policy_v1 import PodDisruptionBudget, PodDisruptionBudgetSpec


@pytest.mark.parametrize(
    ("least", "most", "wanted", "allowed"),
    [(2, None, 2, 2), ("50%", None, 2, 2), (None, 1, 3, 1), (None, "30%", 2, 2), (4, None, 4, 0)],
    ids=["at least 2", "at least half", "one may go", "30% rounds up", "none may go"],
)
def test_a_budget_follows_its_pods(least: int | str | None, most: int | str | None, wanted: int, allowed: int) -> None:
    async def play() -> None:
        async with World() as world:
            await world.api.create(make_deployment(replicas=4))
            spec = PodDisruptionBudgetSpec(
                selector=LabelSelector(match_labels={"app": "web"}), min_available=least, max_unavailable=most
            )
            await world.api.create(PodDisruptionBudget(metadata=ObjectMeta(name="web", namespace="default"), spec=spec))
            await world.settle()
            (budget,) = world.api.all(PodDisruptionBudget)
            status = budget.status
            assert (status.expected_pods, status.current_healthy) == (4, 4)
            assert (status.desired_healthy, status.disruptions_allowed) == (wanted, allowed)
            reason = "SufficientPods" if allowed else "InsufficientPods"
            assert [(c.type, c.reason) for c in status.conditions] == [("DisruptionAllowed", reason)]

    asyncio.run(play())


def owned_by(kind: str, api_version: str) -> Pod:
    owner = OwnerReference(api_version=api_version, kind=kind, name="flock", uid="u-flock", controller=True)
    pod = make_pod("p", node="n1", phase="Running", ready=True)
    held = replace(pod.metadata, owner_references=(owner,), finalizers=("example.com/held",))  # its owner is a fiction
    return replace(pod, metadata=held)


def make_budget(**spec: Any) -> PodDisruptionBudget:
    whole = PodDisruptionBudgetSpec(selector=LabelSelector(match_labels={"app": "web"}), **spec)
    return PodDisruptionBudget(metadata=ObjectMeta(name="web", namespace="default"), spec=whole)


FLOCKS = {
    "metadata": {"name": "flocks.example.com"},
    "spec": {
        "group": "example.com",
        "names": {"kind": "Flock", "plural": "flocks"},
        "scope": "Namespaced",
        "versions": [{"name": "v1", "served": True, "storage": True}],
    },
    "status": {
        "acceptedNames": {"kind": "Flock", "plural": "flocks"},
        "conditions": [{"type": "Established", "status": "True"}],
        "storedVersions": ["v1"],
    },
}


def test_any_kind_that_scales_says_what_it_wants() -> None:
    async def play() -> None:
        async with World() as world:

            async def call(row: Any, name: str, subresource: str, *more: Any, verb: str = "create") -> Scale:
                assert (row.plural, name, subresource, verb) == ("flocks", "flock", "scale", "get")
                return Scale(metadata=ObjectMeta(name=name, uid="u-flock"), spec=ScaleSpec(replicas=5))

            world.api.call = call  # type: ignore[method-assign, assignment]  # the one subresource
            await world.api.create(convert(CustomResourceDefinition, FLOCKS))
            world.api.put(owned_by("Flock", "example.com/v1"))
            await world.api.create(make_budget(max_unavailable=1))
            await world.settle(rounds=5)
            (budget,) = world.api.all(PodDisruptionBudget)
            assert (budget.status.expected_pods, budget.status.desired_healthy) == (5, 4)

    asyncio.run(play())


def test_without_a_scale_nothing_may_go() -> None:
    async def play() -> None:
        async with World() as world:
            world.api.put(owned_by("DaemonSet", "apps/v1"))
            await world.api.create(make_budget(max_unavailable=1))
            await world.settle(rounds=3)
            (budget,) = world.api.all(PodDisruptionBudget)
            (condition,) = budget.status.conditions
            text = "daemonsets.apps does not implement the scale subresource"
            assert (condition.status, condition.reason, condition.message) == ("False", "SyncFailed", text)
            told = "CalculateExpectedPodCountFailed Failed to calculate the number of expected pods"
            assert f"{told}: {text}" in world.events()

    asyncio.run(play())


def test_pods_of_nobody_count_by_number_only() -> None:
    async def play() -> None:
        async with World() as world:
            world.api.put(make_pod("p", node="n1", phase="Running", ready=True))
            await world.api.create(make_budget(min_available="50%"))
            await world.settle(rounds=3)
            assert any(
                event.startswith(
                    "UnmanagedPods Pods selected by this PodDisruptionBudget (selector: "
                    "&LabelSelector{MatchLabels:map[string]string{app: web,},MatchExpressions:[]LabelSelectorRequirement{},})"
                )
                for event in world.events()
            )

    asyncio.run(play())


def test_an_eviction_that_never_came_is_told_and_counts_no_more() -> None:
    async def play() -> None:
        async with World() as world:
            world.api.put(Node(metadata=ObjectMeta(name="n1")))
            world.api.put(make_pod("p", node="n1", phase="Running", ready=True))
            granted = {"p": format_time(world.clock.now())}
            budget = make_budget(min_available=1)
            world.api.put(replace(budget, status=replace(budget.status, disrupted_pods=granted)))
            await world.settle(rounds=3)
            (found,) = world.api.all(PodDisruptionBudget)
            assert (found.status.current_healthy, found.status.disrupted_pods) == (0, granted)
            await world.clock.advance(125)
            (found,) = world.api.all(PodDisruptionBudget)
            assert (found.status.current_healthy, found.status.disrupted_pods) == (1, {})
            assert "NotDeleted Pod was expected by PDB default/web to be deleted but it wasn't" in world.events()

    asyncio.run(play())


def test_the_pods_of_an_owner_that_is_gone_have_no_controller() -> None:
    async def play() -> None:
        async with World() as world:

            async def call(*given: Any, verb: str = "create") -> Scale:
                raise NotFound('replicasets.apps "flock" not found')

            world.api.call = call  # type: ignore[method-assign, assignment]
            world.api.put(owned_by("ReplicaSet", "apps/v1"))
            await world.api.create(make_budget(max_unavailable=1))
            await world.settle(rounds=3)
            (budget,) = world.api.all(PodDisruptionBudget)
            assert budget.status.conditions[0].message == 'found no controllers for pod "p"'

    asyncio.run(play())


@pytest.mark.parametrize(
    ("reason", "after", "status"),
    [
        ("EvictionByEvictionAPI", 110, "True"),
        ("EvictionByEvictionAPI", 130, "False"),
        ("TerminationByKubelet", 130, "True"),
    ],
    ids=["it may still come", "it never came", "kubelets take their time"],
)
def test_a_disruption_that_never_came_is_taken_back(reason: str, after: float, status: str) -> None:
    async def play() -> None:
        async with World() as world:
            world.api.put(Node(metadata=ObjectMeta(name="n1")))
            pod = make_pod("p", node="n1", phase="Running", ready=True)
            said = PodCondition(
                type="DisruptionTarget",
                status="True",
                reason=reason,
                last_transition_time=format_time(world.clock.now()),
            )
            world.api.put(replace(pod, status=replace(pod.status, conditions=(*pod.status.conditions, said))))
            await world.clock.advance(after)
            (pod,) = world.api.all(Pod)
            assert [c.status for c in pod.status.conditions if c.type == "DisruptionTarget"] == [status]

    asyncio.run(play())
