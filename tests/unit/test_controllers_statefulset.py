"""StatefulSets on a fake API."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec.structs import replace
from world import World, make_pod, make_template

from kaa.api.types.apps_v1 import (
    ControllerRevision,
    RollingUpdateStatefulSetStrategy,
    StatefulSet,
    StatefulSetPersistentVolumeClaimRetentionPolicy,
    StatefulSetSpec,
    StatefulSetUpdateStrategy,
)
from kaa.api.types.core_v1 import PersistentVolumeClaim, Pod
from kaa.api.types.meta_v1 import LabelSelector, ObjectMeta
from kaa.controllers.history import template_of
from kaa.controllers.statefulset import plan

DATA = PersistentVolumeClaim(metadata=ObjectMeta(name="data"))


def make_set(image: str = "web:1", *, partition: int = 0, type: str = "RollingUpdate", **spec: Any) -> StatefulSet:
    rolling = RollingUpdateStatefulSetStrategy(partition=partition) if type == "RollingUpdate" else None
    return StatefulSet(
        metadata=ObjectMeta(name="web", namespace="default"),
        spec=StatefulSetSpec(
            **{
                "replicas": 3,
                "service_name": "web",
                "selector": LabelSelector(match_labels={"app": "web"}),
                "template": make_template(image),
                "update_strategy": StatefulSetUpdateStrategy(type=type, rolling_update=rolling),
                **spec,
            }
        ),
    )


def in_world(play: Callable[[World], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        async with World(**options) as world:
            await play(world)

    asyncio.run(run())


async def change(world: World, **spec: Any) -> None:
    old = await world.api.get(StatefulSet, "web", "default")
    await world.api.update(replace(old, spec=replace(old.spec, **spec)))
    await world.settle()


def names(world: World, kind: Any = Pod) -> list[str]:
    return sorted(p.metadata.name for p in world.api.all(kind) if p.metadata.deletion_timestamp is None)


def images(world: World) -> dict[str, str]:
    return {p.metadata.name: p.spec.containers[0].image for p in world.api.all(Pod)}


def test_a_set_comes_up_with_names_volumes_and_revisions() -> None:
    async def play(world: World) -> None:
        await world.api.create(make_set(volume_claim_templates=(DATA,)))
        await world.settle()
        assert names(world) == ["web-0", "web-1", "web-2"]
        assert names(world, PersistentVolumeClaim) == ["data-web-0", "data-web-1", "data-web-2"]
        found = await world.api.get(StatefulSet, "web", "default")
        status = found.status
        assert (status.replicas, status.ready_replicas, status.available_replicas, status.updated_replicas) == (3,) * 4
        assert status.current_revision == status.update_revision
        pod = await world.api.get(Pod, "web-1", "default")
        assert pod.metadata.labels["statefulset.kubernetes.io/pod-name"] == "web-1"
        assert pod.metadata.labels["apps.kubernetes.io/pod-index"] == "1"
        assert pod.metadata.labels["controller-revision-hash"] == status.update_revision
        assert (pod.spec.hostname, pod.spec.subdomain) == ("web-1", "web")
        assert pod.spec.volumes[0].persistent_volume_claim.claim_name == "data-web-1"
        assert "SuccessfulCreate create Pod web-0 in StatefulSet web successful" in world.events()
        text = "SuccessfulCreate create Claim data-web-0 Pod web-0 in StatefulSet web success"
        assert text in world.events()

    in_world(play)


def test_an_ordered_set_waits_for_the_one_before() -> None:
    async def play(world: World) -> None:
        await world.api.create(make_set())
        await world.settle()
        assert names(world) == ["web-0"]
        world.ready = True
        world.run_pod(world.api.all(Pod)[0])
        await world.settle()
        assert names(world) == ["web-0", "web-1", "web-2"]

    in_world(play, ready=False)


def test_a_parallel_set_does_not_wait() -> None:
    async def play(world: World) -> None:
        await world.api.create(make_set(pod_management_policy="Parallel"))
        await world.settle()
        assert names(world) == ["web-0", "web-1", "web-2"]
        await change(world, replicas=1)
        assert names(world) == ["web-0"]

    in_world(play, ready=False)


def test_updates_respect_the_partition_and_roll_back() -> None:
    async def play(world: World) -> None:
        await world.api.create(make_set(partition=2))
        await world.settle()
        await change(world, template=make_template("web:2"))
        assert images(world) == {"web-0": "web:1", "web-1": "web:1", "web-2": "web:2"}
        world.api.remove(await world.api.get(Pod, "web-0", "default"))
        await world.settle()
        assert images(world)["web-0"] == "web:1"
        await change(world, update_strategy=make_set().spec.update_strategy)
        assert set(images(world).values()) == {"web:2"}
        await change(world, template=make_template("web:1"))
        assert set(images(world).values()) == {"web:1"}
        kept = sorted(world.api.all(ControllerRevision), key=lambda r: r.revision)
        assert [r.revision for r in kept] == [2, 3]
        assert template_of(kept[-1]) == make_template("web:1")

    in_world(play)


def test_on_delete_leaves_updating_to_people() -> None:
    async def play(world: World) -> None:
        await world.api.create(make_set(type="OnDelete"))
        await world.settle()
        await change(world, template=make_template("web:2"))
        assert set(images(world).values()) == {"web:1"}
        world.api.remove(await world.api.get(Pod, "web-1", "default"))
        await world.settle()
        assert images(world)["web-1"] == "web:2"

    in_world(play)


def test_claims_go_with_pods_or_set_only_when_told_so() -> None:
    async def play(world: World) -> None:
        policy = StatefulSetPersistentVolumeClaimRetentionPolicy(when_scaled="Delete", when_deleted="Retain")
        await world.api.create(
            make_set(volume_claim_templates=(DATA,), persistent_volume_claim_retention_policy=policy)
        )
        await world.settle()
        assert not any(c.metadata.owner_references for c in world.api.all(PersistentVolumeClaim))
        await change(world, replicas=1)
        assert names(world, PersistentVolumeClaim) == ["data-web-0"]
        await change(world, replicas=2)
        assert names(world, PersistentVolumeClaim) == ["data-web-0", "data-web-1"]
        await world.api.delete(StatefulSet, "web", "default")
        await world.settle()
        assert names(world) == []
        assert names(world, PersistentVolumeClaim) == ["data-web-0", "data-web-1"]

    in_world(play)


def test_history_is_limited() -> None:
    async def play(world: World) -> None:
        await world.api.create(make_set(revision_history_limit=1, replicas=1))
        for n in range(4):
            await world.settle()
            await change(world, template=make_template(f"web:{n}"))
        await world.settle()
        assert len(world.api.all(ControllerRevision)) == 2

    in_world(play)


def test_a_share_that_may_be_unavailable_is_of_the_size_asked_for() -> None:
    """Half of two is one, though two more are on their way out."""
    rolling = RollingUpdateStatefulSetStrategy(max_unavailable="50%")
    owner = make_set(
        replicas=2,
        pod_management_policy="Parallel",
        update_strategy=StatefulSetUpdateStrategy(type="RollingUpdate", rolling_update=rolling),
    )
    pods = [make_pod(f"web-{n}", node="n1", phase="Running", ready=True, deleting=n > 1) for n in range(4)]
    assert [pod.metadata.name for pod in plan(owner, pods, "new", now=10).delete] == ["web-1"]


def test_a_pod_that_ended_holds_nobody_up_on_the_way_down() -> None:
    """The last goes though the one before has failed too: neither will ever be available."""
    pods = [make_pod(f"web-{n}", node="n1", phase="Failed") for n in range(2)]
    found = plan(make_set(replicas=0), pods, "new", now=10)
    assert [pod.metadata.name for pod in found.delete] == ["web-1"]
