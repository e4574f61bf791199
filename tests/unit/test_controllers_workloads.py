"""Deployments and ReplicaSets on a fake API: what the world looks like once they have come to rest."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import replace
from world import World, make_deployment, make_replica_set

from kaa.api.errors import Forbidden
from kaa.api.types.apps_v1 import Deployment, ReplicaSet
from kaa.api.types.core_v1 import ConfigMap, Pod, ServiceAccount
from kaa.api.types.meta_v1 import DeleteOptions


def in_world(play: Callable[[World], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        async with World(**options) as world:
            await play(world)

    asyncio.run(run())


def condition(obj: Any, type: str) -> Any:
    return next((c for c in obj.status.conditions if c.type == type), None)


async def change(world: World, **spec: Any) -> None:
    old = await world.api.get(Deployment, "web", "default")
    await world.api.update(replace(old, spec=replace(old.spec, **spec)))


async def set_image(world: World, image: str) -> None:
    await change(world, template=make_deployment(image=image).spec.template)


def test_a_namespace_gets_its_account_and_the_root_certificate() -> None:
    async def play(world: World) -> None:
        assert [a.metadata.name for a in world.api.all(ServiceAccount)] == ["default"]
        (found,) = world.api.all(ConfigMap)
        assert (found.metadata.name, found.data) == ("kube-root-ca.crt", {"ca.crt": "PEM"})
        await world.api.delete(ServiceAccount, "default", "default")
        world.api.put(replace(found, data={}))
        await world.settle()
        assert len(world.api.all(ServiceAccount)) == 1
        assert world.api.all(ConfigMap)[0].data == {"ca.crt": "PEM"}

    in_world(play)


def test_a_deployment_comes_up() -> None:
    async def play(world: World) -> None:
        await world.api.create(make_deployment())
        await world.settle()
        deployment = await world.api.get(Deployment, "web", "default")
        status = deployment.status
        counts = (status.replicas, status.updated_replicas, status.ready_replicas, status.available_replicas)
        assert counts == (3, 3, 3, 3)
        assert status.unavailable_replicas is None
        assert status.observed_generation == deployment.metadata.generation == 1
        assert condition(deployment, "Available").reason == "MinimumReplicasAvailable"
        assert condition(deployment, "Available").message == "Deployment has minimum availability."
        (replica_set,) = world.api.all(ReplicaSet)
        name = replica_set.metadata.name
        assert condition(deployment, "Progressing").reason == "NewReplicaSetAvailable"
        assert condition(deployment, "Progressing").message == f'ReplicaSet "{name}" has successfully progressed.'
        assert deployment.metadata.annotations == {"deployment.kubernetes.io/revision": "1"}
        assert replica_set.metadata.annotations == {
            "deployment.kubernetes.io/revision": "1",
            "deployment.kubernetes.io/desired-replicas": "3",
            "deployment.kubernetes.io/max-replicas": "4",
        }
        word = replica_set.metadata.labels["pod-template-hash"]
        assert name == f"web-{word}"
        assert all(pod.metadata.labels == {"app": "web", "pod-template-hash": word} for pod in world.pods())
        assert all(pod.metadata.generate_name == f"{name}-" for pod in world.pods())
        assert f"ScalingReplicaSet Scaled up replica set {name} from 0 to 3" in world.events()
        assert f"SuccessfulCreate Created pod: {world.pods()[0].metadata.name}" in world.events()

    in_world(play)


def test_a_rollout_and_its_undoing() -> None:
    async def play(world: World) -> None:
        await world.api.create(make_deployment(replicas=4))
        await world.settle()
        await set_image(world, "web:2")
        await world.settle()
        assert {pod.spec.containers[0].image for pod in world.pods()} == {"web:2"}
        sizes = {s.spec.template.spec.containers[0].image: s.spec.replicas for s in world.api.all(ReplicaSet)}
        assert sizes == {"web:1": 0, "web:2": 4}
        deployment = await world.api.get(Deployment, "web", "default")
        assert deployment.metadata.annotations["deployment.kubernetes.io/revision"] == "2"
        await set_image(world, "web:1")
        await world.settle()
        deployment = await world.api.get(Deployment, "web", "default")
        assert deployment.metadata.annotations["deployment.kubernetes.io/revision"] == "3"
        first = next(s for s in world.api.all(ReplicaSet) if s.spec.replicas == 4)
        assert first.metadata.annotations["deployment.kubernetes.io/revision-history"] == "1"
        assert len(world.api.all(ReplicaSet)) == 2

    in_world(play)


def test_a_rollout_that_cannot_serve_stops_and_times_out() -> None:
    def ready(pod: Pod) -> bool:
        return pod.spec.containers[0].image == "web:1"

    async def play(world: World) -> None:
        await world.api.create(make_deployment(replicas=4, deadline=30))
        await world.settle()
        await set_image(world, "web:2")
        await world.settle()
        images = sorted(pod.spec.containers[0].image for pod in world.pods())
        assert images == ["web:1"] * 3 + ["web:2"] * 2
        await world.clock.advance(40)
        await world.settle()
        deployment = await world.api.get(Deployment, "web", "default")
        assert condition(deployment, "Progressing").reason == "ProgressDeadlineExceeded"
        assert condition(deployment, "Progressing").message.endswith("has timed out progressing.")
        assert condition(deployment, "Available").status == "True"

    in_world(play, ready=ready)


def test_recreate_never_mixes() -> None:
    async def play(world: World) -> None:
        await world.api.create(make_deployment(strategy="Recreate"))
        await world.settle()
        mixed: list[set[str]] = []
        kubelet = world.kubelet

        def watching() -> None:
            kubelet()
            mixed.append({pod.spec.containers[0].image or "" for pod in world.api.all(Pod)})

        world.kubelet = watching  # type: ignore[method-assign]  # a spy
        await set_image(world, "web:2")
        await world.settle()
        assert all(len(images) <= 1 for images in mixed)
        assert mixed[-1] == {"web:2"}

    in_world(play)


def test_a_paused_deployment_scales_but_does_not_roll() -> None:
    async def play(world: World) -> None:
        await world.api.create(make_deployment())
        await world.settle()
        await change(world, paused=True)
        await set_image(world, "web:2")
        await change(world, replicas=5)
        await world.settle()
        assert [pod.spec.containers[0].image for pod in world.pods()] == ["web:1"] * 5
        deployment = await world.api.get(Deployment, "web", "default")
        assert condition(deployment, "Progressing").reason == "DeploymentPaused"
        await change(world, paused=False)
        await world.settle()
        assert [pod.spec.containers[0].image for pod in world.pods()] == ["web:2"] * 5

    in_world(play)


def test_history_is_kept_to_its_limit() -> None:
    async def play(world: World) -> None:
        await world.api.create(make_deployment(history=2))
        for number in range(2, 7):
            await world.settle()
            await set_image(world, f"web:{number}")
        await world.settle()
        revisions = [
            int(s.metadata.annotations["deployment.kubernetes.io/revision"]) for s in world.api.all(ReplicaSet)
        ]
        assert sorted(revisions) == [4, 5, 6]

    in_world(play)


def test_scaling_down_and_the_deployments_end() -> None:
    async def play(world: World) -> None:
        await world.api.create(make_deployment())
        await world.settle()
        await change(world, replicas=1)
        await world.settle()
        assert len(world.pods()) == 1
        assert any(event.startswith("SuccessfulDelete Deleted pod: ") for event in world.events())
        await world.api.delete(Deployment, "web", "default", options=DeleteOptions(propagation_policy="Background"))
        await world.settle()
        assert world.api.all(ReplicaSet) == []
        assert world.api.all(Pod) == []

    in_world(play)


def test_foreground_deletion_ends_with_the_owner() -> None:
    async def play(world: World) -> None:
        await world.api.create(make_deployment())
        await world.settle()
        await world.api.delete(Deployment, "web", "default", options=DeleteOptions(propagation_policy="Foreground"))
        assert len(world.api.all(Deployment)) == 1
        await world.settle()
        assert world.api.all(Pod) == world.api.all(ReplicaSet) == world.api.all(Deployment) == []

    in_world(play)


def test_orphans_stay_and_are_adopted_again() -> None:
    async def play(world: World) -> None:
        await world.api.create(make_replica_set())
        await world.settle()
        names = {pod.metadata.name for pod in world.pods()}
        await world.api.delete(ReplicaSet, "web", "default", options=DeleteOptions(propagation_policy="Orphan"))
        await world.settle()
        assert world.api.all(ReplicaSet) == []
        assert all(pod.metadata.owner_references == () for pod in world.pods())
        await world.api.create(make_replica_set())
        await world.settle()
        assert {pod.metadata.name for pod in world.pods()} == names
        assert all(pod.metadata.owner_references[0].name == "web" for pod in world.pods())

    in_world(play)


def test_a_pod_that_leaves_its_selector_is_released_and_replaced() -> None:
    async def play(world: World) -> None:
        await world.api.create(make_replica_set())
        await world.settle()
        first = world.pods()[0].metadata.name
        await world.api.patch(Pod, first, {"metadata": {"labels": {"app": "debug"}}}, "default")
        await world.settle()
        pods = world.pods()
        assert len(pods) == 4
        assert next(p for p in pods if p.metadata.name == first).metadata.owner_references == ()

    in_world(play)


def test_a_refusal_is_a_condition_and_an_event() -> None:
    async def play(world: World) -> None:
        def refuse(verb: str, obj: Any) -> None:
            if verb == "create" and isinstance(obj, Pod) and len(world.pods()) >= 2:
                raise Forbidden("pods is forbidden: exceeded quota")

        world.api.refuse = refuse
        await world.api.create(make_replica_set(replicas=5))
        await world.settle(rounds=5)
        assert len(world.pods()) == 2
        replica_set = await world.api.get(ReplicaSet, "web", "default")
        found = condition(replica_set, "ReplicaFailure")
        assert (found.status, found.reason) == ("True", "FailedCreate")
        assert "FailedCreate Error creating: pods is forbidden: exceeded quota" in world.events()
        world.api.refuse = lambda verb, obj: None
        await world.clock.advance(60)
        await world.settle()
        assert len(world.pods()) == 5
        replica_set = await world.api.get(ReplicaSet, "web", "default")
        assert condition(replica_set, "ReplicaFailure") is None

    in_world(play)


@pytest.mark.parametrize("replicas", [0, 700], ids=["none wanted", "more than a burst"])
def test_every_size_is_reached(replicas: int) -> None:
    async def play(world: World) -> None:
        await world.api.create(make_replica_set(replicas=replicas))
        await world.settle(rounds=20)
        assert len(world.pods()) == replicas
        assert (await world.api.get(ReplicaSet, "web", "default")).status.replicas == replicas
        assert world.api.calls["create", "pods"] == replicas

    in_world(play)


def test_seconds_of_readiness_are_waited_for() -> None:
    async def play(world: World) -> None:
        await world.api.create(make_replica_set(min_ready_seconds=30))
        await world.settle()
        status = (await world.api.get(ReplicaSet, "web", "default")).status
        assert (status.ready_replicas, status.available_replicas) == (3, None)
        await world.clock.advance(31)
        await world.settle()
        assert (await world.api.get(ReplicaSet, "web", "default")).status.available_replicas == 3

    in_world(play)
