"""Budgets: how many pods may go."""

from __future__ import annotations

import asyncio

import pytest
from world import World, make_deployment

from kaa.api.types.meta_v1 import LabelSelector, ObjectMeta
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
