"""ResourceQuota usage."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace
from world import World, make_pod

from kaa.api.quota import best_effort, matches, usage, used
from kaa.api.types.core_v1 import (
    ConfigMap,
    Container,
    PersistentVolumeClaim,
    PersistentVolumeClaimSpec,
    PersistentVolumeClaimStatus,
    Pod,
    PodSpec,
    ResourceQuota,
    ResourceQuotaSpec,
    ResourceRequirements,
    ScopedResourceSelectorRequirement,
    ScopeSelector,
    Service,
    ServicePort,
    ServiceSpec,
    VolumeResourceRequirements,
)
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.api.values import Quantity
from kaa.controllers.resourcequota import matters


def quota(hard: dict[str, str], **spec: object) -> ResourceQuota:
    return ResourceQuota(
        metadata=ObjectMeta(name="team", namespace="default"),
        spec=ResourceQuotaSpec(hard=hard, **spec),  # type: ignore[arg-type]
    )


def pod(name: str, cpu: str = "250m", memory: str = "64Mi", *, init: str = "", **spec: object) -> Pod:
    made = make_pod(name, node="n1")
    resources = ResourceRequirements(requests={"cpu": cpu, "memory": memory})  # type: ignore[dict-item]
    first = (Container(name="i", resources=ResourceRequirements(requests={"cpu": init})),) if init else ()  # type: ignore[dict-item]
    spec = {"init_containers": first, **spec}
    return replace(made, spec=PodSpec(containers=(Container(name="c", resources=resources),), **spec))  # type: ignore[arg-type]


def test_pods_are_summed_and_finished_ones_count_as_objects_only() -> None:
    pods = [
        pod("a"),
        pod("b", "1", "1Gi", init="2"),
        replace(pod("c"), status=replace(pod("c").status, phase="Failed")),
    ]
    limits = quota({"pods": "9", "count/pods": "9", "requests.cpu": "9", "requests.memory": "9Gi", "limits.cpu": "9"})
    assert used(limits, {"pods": pods}, 0) == {
        "pods": "2",
        "count/pods": "3",
        "requests.cpu": "2250m",
        "requests.memory": "1088Mi",
        "limits.cpu": "0",
    }


@pytest.mark.parametrize(
    ("scope", "found", "expected"),
    [
        ("Terminating", pod("a", active_deadline_seconds=5), True),
        ("NotTerminating", pod("a", active_deadline_seconds=5), False),
        ("BestEffort", pod("a"), False),
        ("BestEffort", make_pod("a"), True),
        ("NotBestEffort", pod("a"), True),
        ("NotBestEffort", ConfigMap(), False),
    ],
)
def test_scopes(scope: str, found: object, expected: bool) -> None:
    assert matches(quota({"pods": "1"}, scopes=(scope,)), found) is expected


def test_a_scope_selector_names_priority_classes() -> None:
    wish = ScopedResourceSelectorRequirement(scope_name="PriorityClass", operator="In", values=("high",))
    limits = quota({"pods": "1"}, scope_selector=ScopeSelector(match_expressions=(wish,)))
    assert matches(limits, pod("a", priority_class_name="high"))
    assert not matches(limits, pod("a"))


def test_a_claim_is_of_the_class_it_wants_and_of_the_one_it_has() -> None:
    def of(name: str, operator: str = "In") -> ResourceQuota:
        wish = ScopedResourceSelectorRequirement(scope_name="VolumeAttributesClass", operator=operator, values=(name,))
        return quota({"persistentvolumeclaims": "1"}, scope_selector=ScopeSelector(match_expressions=(wish,)))

    plain = PersistentVolumeClaim()
    wanting = replace(plain, spec=PersistentVolumeClaimSpec(volume_attributes_class_name="silver"))
    changing = replace(wanting, status=PersistentVolumeClaimStatus(current_volume_attributes_class_name="gold"))
    seen = {name: [matches(of(name), claim) for claim in (plain, wanting, changing)] for name in ("gold", "silver")}
    assert seen == {"gold": [False, False, True], "silver": [False, True, True]}
    assert matches(of("gold", "NotIn"), plain)
    assert matters(wanting, changing)


def test_services_and_claims() -> None:
    spec = ServiceSpec(type="LoadBalancer", ports=(ServicePort(port=1), ServicePort(port=2)))
    assert usage(Service(spec=spec), "services", 0)["services.nodeports"] == 2
    claim = PersistentVolumeClaimSpec(
        storage_class_name="fast",
        resources=VolumeResourceRequirements(requests={"storage": "5Gi"}),  # type: ignore[dict-item]
    )
    found = usage(PersistentVolumeClaim(spec=claim), "persistentvolumeclaims", 0)
    assert found["fast.storageclass.storage.k8s.io/requests.storage"] == 5 * 2**30


def test_usage_follows_what_comes_and_goes() -> None:
    async def play() -> None:
        async with World() as world:
            await world.api.create(
                quota({"pods": "5", "configmaps": "5", "count/deployments.apps": "1", "services": "2"})
            )
            await world.settle()
            for n in range(2):
                await world.api.create(ConfigMap(metadata=ObjectMeta(name=f"m{n}", namespace="default")))
            world.api.put(make_pod("p", node="n1", phase="Running"))
            await world.settle()
            found = await world.api.get(ResourceQuota, "team", "default")
            assert found.status.used == {"pods": "1", "configmaps": "3", "count/deployments.apps": "0", "services": "0"}
            assert found.status.hard == found.spec.hard
            await world.api.delete(ConfigMap, "m0", "default")
            await world.settle()
            found = await world.api.get(ResourceQuota, "team", "default")
            assert found.status.used["configmaps"] == "2"

    asyncio.run(play())


def test_a_pod_with_resources_of_its_own_is_not_best_effort() -> None:
    bare = make_pod("bare")
    asking = replace(bare, spec=replace(bare.spec, resources=ResourceRequirements(requests={"cpu": Quantity("1")})))
    assert [best_effort(bare), best_effort(asking)] == [True, False]
