"""A node that runs short: what counts as short and for how long, whom it costs, which images go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubelet_world import World, make_container, make_pod

from kaa.api.types.core_v1 import EmptyDirVolumeSource, Pod, ResourceRequirements, Volume
from kaa.kubelet import image_gc, pressure
from kaa.kubelet.config import Eviction
from kaa.kubelet.measure import observe
from kaa.kubelet.pressure import MEMORY, NODE_FS, SIGNALS, Observation, Threshold, Usage, Verdict
from kaa.runtime.base import Container, ContainerState, ContainerUsage, Image

MIB, GIB = 1 << 20, 1 << 30


def sized(name: str, memory: str = "", *, priority: int = 0, **spec: Any) -> Pod:
    resources = ResourceRequirements(requests={"memory": memory} if memory else {})
    return make_pod(name, containers=(make_container(resources=resources),), priority=priority, **spec)


@pytest.mark.parametrize(("limits", "shown"), [(("5Mi", "3Mi"), "8Mi"), (("5M", "3Mi"), "8145728"), (("5M",), "5M")])
def test_too_much_storage_is_said_in_the_units_of_the_limit(limits: tuple[str, ...], shown: str) -> None:
    resources = [ResourceRequirements(limits={"ephemeral-storage": limit}) for limit in limits]
    pod = make_pod(containers=tuple(make_container(f"c{n}", resources=one) for n, one in enumerate(resources)))
    said = pressure.storage_excess(pod, pressure.Storage(containers={"c0": 1 << 30}))
    assert said == f"Pod ephemeral local storage usage exceeds the total limit of containers {shown}. "


# -------------------------------------------------------------------------------------------------------- judging


def test_a_soft_threshold_counts_after_its_grace_and_a_condition_outlives_its_cause() -> None:
    wanted = pressure.thresholds({}, {MEMORY: "1Gi"}, {MEMORY: 30.0})
    low, enough = {MEMORY: Observation(GIB // 2, 8 * GIB)}, {MEMORY: Observation(2 * GIB, 8 * GIB)}
    first = pressure.judge(Verdict(), wanted, low, 0.0, 300.0)
    assert (first.conditions, first.shortage) == ({"MemoryPressure"}, None)
    second = pressure.judge(first, wanted, low, 30.0, 300.0)
    assert second.shortage == pressure.Shortage(wanted[0], low[MEMORY])
    third = pressure.judge(second, wanted, enough, 40.0, 300.0)
    assert (third.conditions, third.shortage) == ({"MemoryPressure"}, None)
    assert pressure.judge(third, wanted, enough, 331.0, 300.0).conditions == frozenset()


def test_pressure_ends_only_beyond_the_minimum_reclaim() -> None:
    wanted = pressure.thresholds({NODE_FS: "10%"}, reclaim={NODE_FS: "5%"})
    seen = [pressure.Observation(percent, 100) for percent in (9, 12, 15)]
    verdict, shortages = Verdict(), []
    for now, one in enumerate(seen):
        verdict = pressure.judge(verdict, wanted, {NODE_FS: one}, float(now), 0.0)
        shortages.append(verdict.shortage is not None)
    assert shortages == [True, True, False]


@pytest.mark.parametrize(
    ("hard", "soft", "words"),
    [
        ({"memory.free": "1Gi"}, {}, "unknown eviction signals: memory.free"),
        ({}, {MEMORY: "1Gi"}, "without a grace period: memory.available"),
    ],
)
def test_thresholds_that_mean_nothing_are_refused(hard: dict[str, str], soft: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pressure.thresholds(hard, soft)


@given(
    st.lists(
        st.builds(Threshold, st.sampled_from(list(SIGNALS)), st.integers(1, 99).map(lambda n: f"{n}%")), max_size=6
    ),
    st.lists(st.dictionaries(st.sampled_from(list(SIGNALS)), st.integers(0, 100)), max_size=8),
)
def test_a_shortage_is_always_of_something_that_is_short(
    wanted: list[Threshold], history: list[dict[str, int]]
) -> None:
    verdict = Verdict()
    for now, amounts in enumerate(history):
        seen = {name: Observation(amount, 100) for name, amount in amounts.items()}
        verdict = pressure.judge(verdict, wanted, seen, float(now), 3.0)
        short = [one for one in wanted if one.signal in seen and one.is_met(seen[one.signal])]
        assert (verdict.shortage is not None) == bool(short)
        assert {SIGNALS[one.signal][0] for one in short} <= verdict.conditions
        if verdict.shortage is not None:
            assert verdict.shortage.threshold in short


# -------------------------------------------------------------------------------------------------------- ranking


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(0, 6)), min_size=1, max_size=6))
def test_whoever_keeps_within_its_request_goes_last(pods: list[tuple[int, int, int]]) -> None:
    """The first to go uses more than it asked for, if anyone does; among those nobody is less important."""
    uses = [
        Usage(sized(f"p{n}", f"{asked}Mi", priority=priority), used * MIB)
        for n, (asked, priority, used) in enumerate(pods)
    ]
    first = pressure.rank("memory", uses)[0]
    asked = {one.pod.metadata.name: request * MIB for one, (request, _, _) in zip(uses, pods, strict=True)}
    greedy = [one for one in uses if one.total > asked[one.pod.metadata.name]]
    if greedy:
        assert first in greedy
        assert first.pod.spec.priority == min(one.pod.spec.priority or 0 for one in greedy)


def test_critical_and_static_pods_stay() -> None:
    assert not pressure.may_be_evicted(sized("a", priority=2_000_000_000), static=False)
    assert not pressure.may_be_evicted(sized("a"), static=True)
    assert pressure.may_be_evicted(sized("a"), static=False)


# -------------------------------------------------------------------------------------------------------- images


def image(name: str, size: int) -> Image:
    return Image(f"sha256:{name}", (name,), (), size)


def test_images_go_longest_unused_first_down_to_the_low_mark() -> None:
    images = [image("old", 30), image("used", 40), image("new", 20), image("newest", 10)]
    records = image_gc.observe({}, images[:2], frozenset(), 0.0)
    records = image_gc.observe(records, images[:3], frozenset({"sha256:used"}), 500.0)
    records = image_gc.observe(records, images, frozenset({"sha256:used"}), 1000.0)
    assert image_gc.bytes_to_free(image_gc.Policy(), 84, 100) == 0
    free = image_gc.bytes_to_free(image_gc.Policy(), 90, 100)
    assert free == 10
    used = frozenset({"sha256:used"})
    chosen = image_gc.to_remove(images, records, used, 1000.0, free, 120.0)
    assert [one.id for one in chosen] == ["sha256:old"]
    everything = image_gc.to_remove(images, records, used, 1000.0, 10**9, 120.0)
    assert [one.id for one in everything] == ["sha256:old", "sha256:new"]


def test_images_that_nobody_used_for_too_long_go_in_any_case() -> None:
    images = [image("old", 30), image("used", 40), image("late", 20), image("new", 10)]
    records = image_gc.observe({}, images[:3], frozenset({"sha256:late"}), 0.0)
    records = image_gc.observe(records, images, frozenset({"sha256:late"}), 500.0)

    def gone(now: float, max_age_s: float) -> list[str]:
        return [one.id[7:] for one in image_gc.too_old(images, records, frozenset({"sha256:used"}), now, max_age_s)]

    assert gone(600.0, 600.0) == []
    assert gone(601.0, 600.0) == ["old"]
    assert gone(1200.0, 600.0) == ["old", "late", "new"]
    assert gone(1e9, 0.0) == []


def test_images_that_containers_mount_are_in_use() -> None:
    def made(**facts: Any) -> Container:
        given = {"id": "c", "sandbox_id": "s", "name": "n", "attempt": 0, "state": ContainerState.EXITED}
        return Container(**{**given, "image": "a", "image_ref": "r", "created_at": 0.0, **facts})

    containers = [made(image_id="sha256:a", volume_images=("sha256:v", "sha256:w")), made(image_id="sha256:b")]
    assert image_gc.in_use(containers) == {"sha256:a", "sha256:b", "sha256:v", "sha256:w"}


# -------------------------------------------------------------------------------------------------------- the loop


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., None]:
    def run(story: Callable[[World, dict[str, Observation]], Awaitable[None]], **eviction: Any) -> None:
        async def go() -> None:
            async with World(tmp_path, eviction=Eviction(**{"hard": {MEMORY: "100Mi"}, **eviction})) as world:
                seen = {MEMORY: Observation(GIB, 8 * GIB)}
                assert world.kubelet.evictor is not None
                world.kubelet.evictor._look = lambda: seen
                await story(world, seen)

        asyncio.run(go())

    return run


async def uses(world: World, memory: dict[str, int]) -> None:
    """Let pods use so many MiB."""
    ids = {one.labels["io.kubernetes.pod.name"]: one.id for one in await world.runtime.list_containers()}

    async def usage() -> list[ContainerUsage]:
        return [
            ContainerUsage(ids[name], 0.0, memory_working_set_bytes=amount * MIB) for name, amount in memory.items()
        ]

    world.runtime.usage = usage  # type: ignore[method-assign]


def test_memory_pressure_ends_the_greediest_pod_and_refuses_new_ones(play: Callable[..., None]) -> None:
    async def story(world: World, seen: dict[str, Observation]) -> None:
        world.client.put(sized("modest", "200Mi"))
        world.client.put(sized("greedy", "10Mi"))
        await world.rest()
        await uses(world, {"modest": 150, "greedy": 120})
        seen[MEMORY] = Observation(50 * MIB, 8 * GIB)
        await world.advance(12)
        status = world.pod("greedy").status
        assert (status.phase, status.reason) == ("Failed", "Evicted")
        assert status.message == (
            "The node was low on resource: memory. Threshold quantity: 102400Ki, available: 51200Ki."
            " Container main was using 122880Ki, request is 10Mi, has larger consumption of memory. "
        )
        target = world.condition("DisruptionTarget", "greedy")
        assert (target.status, target.reason) == ("True", "TerminationByKubelet")
        assert "Evicted" in world.events.reasons("greedy")
        assert world.pod("modest").status.phase == "Running"
        seen[MEMORY] = Observation(GIB, 8 * GIB)
        world.client.put(sized("best-effort"))
        world.client.put(sized("asks", "10Mi"))
        await world.advance(3)
        refused = world.pod("best-effort").status
        assert (refused.reason, refused.message) == (
            "Evicted",
            "Pod was rejected: The node had condition: [MemoryPressure]. ",
        )
        assert world.pod("asks").status.phase == "Running"
        await world.advance(320, 10)
        world.client.put(sized("later"))
        await world.advance(3)
        assert world.pod("later").status.phase == "Running"
        reasons = world.events.reasons("n1")
        assert reasons.index("NodeHasInsufficientMemory") < len(reasons) - 1 - reasons[::-1].index(
            "NodeHasSufficientMemory"
        )

    play(story)


def test_a_pod_that_keeps_too_much_on_disk_is_ended(play: Callable[..., None]) -> None:
    async def story(world: World, _: dict[str, Observation]) -> None:
        volume = Volume(name="scratch", empty_dir=EmptyDirVolumeSource(size_limit="64Ki"))
        world.client.put(make_pod(volumes=(volume,)))
        await world.rest()
        await world.advance(12)
        assert world.pod().status.phase == "Running"
        folder = world.config.root / "pods" / "uid-web" / "volumes" / "kubernetes.io~empty-dir" / "scratch"
        (folder / "much").write_bytes(b"x" * 200_000)
        await world.advance(12)
        status = world.pod().status
        assert (status.phase, status.reason) == ("Failed", "Evicted")
        assert status.message == 'Usage of EmptyDir volume "scratch" exceeds the limit "64Ki". '

    play(story)


def test_this_machine_is_measured(tmp_path: Path) -> None:
    seen = observe(tmp_path / "not" / "there")
    assert {MEMORY, NODE_FS} <= seen.keys()
    assert all(0 <= one.available <= one.capacity for one in seen.values())
