"""Properties of a node's shutdown: who ends when, and that no pod has more time than the machine gives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st
from kubelet_world import World, make_pod

from kaa.kubelet.config import Period
from kaa.kubelet.shutdown import Group, grace, groups
from kaa.runtime.simulated import PREFIX

PRIORITIES = st.integers(-100, 2_000_001_000)
PERIODS = st.lists(
    st.builds(Period, PRIORITIES, st.integers(0, 600)), min_size=1, max_size=6, unique_by=lambda one: one.priority
)
PODS = st.lists(PRIORITIES, max_size=12).map(lambda found: [(f"pod-{n}", one) for n, one in enumerate(found)])


@given(PERIODS, PODS)
def test_every_pod_is_in_one_group(periods: list[Period], pods: list[tuple[str, int]]) -> None:
    made = groups(periods, pods)
    assert sorted(uid for group in made for uid in group.pods) == sorted(uid for uid, _ in pods)
    assert all(group.pods for group in made)


@given(PERIODS, PODS)
def test_groups_go_up_by_priority(periods: list[Period], pods: list[tuple[str, int]]) -> None:
    made = groups(periods, pods)
    assert [group.priority for group in made] == sorted(group.priority for group in made)
    priority = dict(pods)
    for lower, higher in pairwise(made):
        assert max(priority[uid] for uid in lower.pods) < min(priority[uid] for uid in higher.pods)


@given(PERIODS, PODS)
def test_a_pod_belongs_to_the_highest_period_not_above_it(periods: list[Period], pods: list[tuple[str, int]]) -> None:
    bounds = sorted(period.priority for period in periods)
    of = {uid: group.priority for group in groups(periods, pods) for uid in group.pods}
    for uid, priority in pods:
        assert of[uid] == max((one for one in bounds if one <= priority), default=bounds[0])


@given(PERIODS, PODS)
def test_the_whole_takes_no_longer_than_was_asked_of_the_machine(
    periods: list[Period], pods: list[tuple[str, int]]
) -> None:
    assert sum(group.seconds for group in groups(periods, pods)) <= sum(period.seconds for period in periods)


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_grace_is_the_smaller(group_s: float, own_s: float) -> None:
    assert grace(group_s, own_s) == min(group_s, own_s)


def test_periods_need_no_order() -> None:
    periods = [Period(10, 1), Period(0, 2)]
    assert groups(periods, [("a", 10), ("b", -5)]) == [Group(0, 2, ("b",)), Group(10, 1, ("a",))]
    assert groups([], [("a", 10)]) == []


class Announcer:
    """Announces one shutdown, once it is told to; notes when it was given the lock back."""

    def __init__(self) -> None:
        self.now = asyncio.Event()
        self.released = asyncio.Event()

    async def shutdowns(self, wanted_s: float) -> AsyncIterator[bool]:
        await self.now.wait()
        yield True
        await asyncio.Event().wait()

    async def release(self) -> None:
        self.released.set()


STUBBORN = st.lists(
    st.tuples(st.sampled_from([0, 5, 10, 2_000_000_000]), st.integers(0, 40), st.booleans()), min_size=1, max_size=5
)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(2, 20), min_size=3, max_size=3), STUBBORN)
def test_all_pods_have_ended_in_time(seconds: list[int], pods: list[tuple[int, int, bool]]) -> None:
    """Pods that ignore the signal too: within the periods of the groups that have pods, and the grace that each may have."""
    periods = tuple(Period(priority, s) for priority, s in zip((0, 10, 2_000_000_000), seconds, strict=True))

    async def go(folder: Path) -> None:
        announcer = Announcer()
        async with World(folder, shutdown=periods, inhibitor=announcer) as world:
            for n, (priority, own_s, stubborn) in enumerate(pods):
                annotations = {f"{PREFIX}ignore-stop": "true"} if stubborn else {}
                pod = make_pod(
                    f"p{n}", priority=priority, termination_grace_period_seconds=own_s, annotations=annotations
                )
                world.client.put(pod)
            await world.rest()
            began = world.clock.now()
            announcer.now.set()
            await world.rest()
            await world.until(announcer.released.is_set, seconds=200)
            assert world.clock.now() - began <= sum(seconds) + len(pods)
            await world.advance(3)
            for n in range(len(pods)):
                status = world.pod(f"p{n}").status
                assert (status.phase, status.reason) == ("Failed", "Terminated")
            assert await world.runtime.list_containers() == [] or all(
                one.state.value == "exited" for one in await world.runtime.list_containers()
            )

    with TemporaryDirectory() as folder:
        asyncio.run(go(Path(folder)))
