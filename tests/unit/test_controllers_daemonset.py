"""DaemonSets on a fake API."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec.structs import replace
from world import NODE_FACTS, World, make_pod, make_template

from kaa.api.placement import target_of
from kaa.api.types.apps_v1 import (
    ControllerRevision,
    DaemonSet,
    DaemonSetSpec,
    DaemonSetUpdateStrategy,
    RollingUpdateDaemonSet,
)
from kaa.api.types.core_v1 import Node, NodeCondition, NodeSpec, NodeStatus, Pod, PodStatus, PodTemplateSpec, Taint
from kaa.api.types.meta_v1 import LabelSelector, ObjectMeta
from kaa.controllers import daemon_pods


def make_daemon(image: str = "web:1", *, surge: int | str = 0, unavailable: int | str = 1, **pod: Any) -> DaemonSet:
    template = make_template(image)
    rolling = RollingUpdateDaemonSet(max_surge=surge, max_unavailable=unavailable)
    return DaemonSet(
        metadata=ObjectMeta(name="log", namespace="default"),
        spec=DaemonSetSpec(
            selector=LabelSelector(match_labels={"app": "web"}),
            template=PodTemplateSpec(metadata=template.metadata, spec=replace(template.spec, **pod)),
            update_strategy=DaemonSetUpdateStrategy(type="RollingUpdate", rolling_update=rolling),
        ),
    )


def make_node(name: str, *taints: tuple[str, str], **labels: str) -> Node:
    found = tuple(Taint(key=key, effect=effect) for key, effect in taints)
    node = Node(metadata=ObjectMeta(name=name, labels=labels), spec=NodeSpec(taints=found))
    return replace(
        node,
        status=NodeStatus(conditions=(NodeCondition(type="Ready", status="True"),), **NODE_FACTS),
    )


def in_world(play: Callable[[World], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        async with World(**options) as world:
            for n in range(3):
                world.api.put(make_node(f"n{n}"))
            await play(world)

    asyncio.run(run())


def where(world: World) -> list[str]:
    return sorted(p.spec.node_name or "?" for p in world.pods())


async def set_spec(world: World, daemon: DaemonSet) -> None:
    old = await world.api.get(DaemonSet, "log", "default")
    await world.api.update(replace(old, spec=daemon.spec))
    await world.settle()


def test_every_node_has_one_and_new_nodes_get_one() -> None:
    async def play(world: World) -> None:
        await world.api.create(make_daemon())
        await world.settle()
        assert where(world) == ["n0", "n1", "n2"]
        world.api.put(make_node("n3"))
        await world.settle()
        assert where(world) == ["n0", "n1", "n2", "n3"]
        status = (await world.api.get(DaemonSet, "log", "default")).status
        assert (status.desired_number_scheduled, status.number_available, status.updated_number_scheduled) == (4, 4, 4)
        assert (status.number_misscheduled, status.number_unavailable) == (0, None)
        assert "controller-revision-hash" in world.pods()[0].metadata.labels

    in_world(play)


def test_selected_and_tainted_nodes() -> None:
    async def play(world: World) -> None:
        world.api.put(make_node("gpu", gpu="yes"))
        world.api.put(make_node("full", ("node.kubernetes.io/disk-pressure", "NoSchedule"), gpu="yes"))
        world.api.put(make_node("own", ("team", "NoSchedule"), gpu="yes"))
        await world.api.create(make_daemon(node_selector={"gpu": "yes"}))
        await world.settle()
        assert where(world) == ["full", "gpu"]
        world.api.put(make_node("full", ("team", "NoExecute"), gpu="yes"))
        world.api.put(make_node("gpu", ("team", "NoSchedule"), gpu="yes"))
        await world.settle()
        assert where(world) == ["gpu"]
        world.api.put(make_node("gpu"))
        await world.settle()
        assert where(world) == []

    in_world(play)


def test_a_rolling_update_never_takes_too_many() -> None:
    async def play(world: World) -> None:
        await world.api.create(make_daemon())
        await world.settle()
        world.ready = lambda pod: pod.spec.containers[0].image == "web:1"
        await set_spec(world, make_daemon("web:2"))
        images = sorted(p.spec.containers[0].image or "" for p in world.pods())
        assert images == ["web:1", "web:1", "web:2"]
        await set_spec(world, make_daemon("web:1"))
        assert {p.spec.containers[0].image for p in world.pods()} == {"web:1"}
        assert sorted(r.revision for r in world.api.all(ControllerRevision)) == [2, 3]

    in_world(play)


def test_a_surge_brings_the_new_one_first() -> None:
    async def play(world: World) -> None:
        await world.api.create(make_daemon(surge=1, unavailable=0))
        await world.settle()
        world.ready = lambda pod: pod.spec.containers[0].image == "web:1"
        await set_spec(world, make_daemon("web:2", surge=1, unavailable=0))
        images = sorted(p.spec.containers[0].image or "" for p in world.pods())
        assert images == ["web:1", "web:1", "web:1", "web:2"]
        world.ready = True
        for pod in world.pods():
            world.run_pod(pod)
        await world.settle()
        assert sorted(p.spec.containers[0].image or "" for p in world.pods()) == ["web:2"] * 3

    in_world(play)


def test_failed_daemons_are_replaced_later_and_later() -> None:
    async def play(world: World) -> None:
        await world.api.create(make_daemon())
        await world.settle()
        for _ in range(3):
            (pod,) = (p for p in world.pods() if p.spec.node_name == "n1")
            world.api.put(replace(pod, status=replace(pod.status, phase="Failed")))
            await world.settle(5)
        assert where(world) == ["n0", "n1", "n2"]
        assert any(text.startswith("FailedDaemonPod Found failed daemon pod default/log-") for text in world.events())

    in_world(play)


def test_the_first_pause_before_a_replacement_is_one_second() -> None:
    async def play(world: World) -> None:
        def fail() -> str:
            (pod,) = (p for p in world.pods() if p.spec.node_name == "n1" or target_of(p) == "n1")
            world.api.put(replace(pod, status=replace(pod.status, phase="Failed")))
            return pod.metadata.uid or ""

        def stands(uid: str) -> bool:
            return any(pod.metadata.uid == uid for pod in world.pods())

        await world.api.create(make_daemon())
        await world.settle()
        first = fail()
        await world.settle(0.1)
        assert not stands(first)
        second = fail()
        await world.settle(0.1)
        assert stands(second)
        await world.settle(1.2)
        assert not stands(second)

    in_world(play)


def test_in_a_surge_the_next_daemon_does_not_wait_for_the_one_that_leaves() -> None:
    slow = replace(make_pod("slow", node="n0", phase="Running", deleting=True), status=PodStatus(phase="Running"))
    for surge, created in ((0, []), (1, ["n0"])):
        owner = make_daemon(surge=surge, unavailable=1 - surge)
        view = daemon_pods.View(owner, [make_node("n0")], {"n0": [slow]}, "word", 10)
        assert daemon_pods.plan(view).create == created


def test_pods_of_the_set_alone_are_counted() -> None:
    async def play(world: World) -> None:
        await world.api.create(make_daemon())
        await world.settle()
        world.api.remove(next(p for p in world.api.all(Pod) if p.spec.node_name == "n0"))
        await world.settle()
        assert where(world) == ["n0", "n1", "n2"]

    in_world(play)
