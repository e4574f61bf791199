"""Controllers of one page each: bootstrap tokens, ephemeral volumes, service ranges, resource claims, class protection."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec.structs import replace
from world import World, make_pod

from kaa.api.clock import format_time
from kaa.api.scheme import convert
from kaa.api.types.core_v1 import ConfigMap, PersistentVolumeClaim, Pod, Secret
from kaa.api.types.networking_v1 import IPAddress, ServiceCIDR
from kaa.api.types.resource_v1 import ResourceClaim, ResourceClaimTemplate
from kaa.api.types.storage_v1 import VolumeAttributesClass
from kaa.controllers.bootstrap import detached_signature
from kaa.controllers.secrets import encoded


def in_world(play: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        async with World() as world:
            await play(world)

    asyncio.run(run())


def find(world: World, kind: Any, name: str) -> Any:
    return next((obj for obj in world.api.all(kind) if obj.metadata.name == name), None)


# ------------------------------------------------------------------------------------------------ bootstrap tokens


def make_token(id: str = "abcdef", *, word: str = "0123456789abcdef", expires: float | None = None) -> Secret:
    data = {"token-id": id, "token-secret": word, "usage-bootstrap-signing": "true"}
    if expires is not None:
        data["expiration"] = format_time(expires)
    meta = {"name": f"bootstrap-token-{id}", "namespace": "kube-system"}
    coded = {key: encoded(text) for key, text in data.items()}
    return convert(Secret, {"metadata": meta, "type": "bootstrap.kubernetes.io/token", "data": coded})


def make_info(**data: str) -> ConfigMap:
    return convert(ConfigMap, {"metadata": {"name": "cluster-info", "namespace": "kube-public"}, "data": data})


def test_a_signature_is_a_jws_without_its_content() -> None:
    header, empty, signature = detached_signature("content", "abcdef", "0123456789abcdef").split(".")
    assert not empty
    assert json.loads(base64.urlsafe_b64decode(header + "==")) == {"alg": "HS256", "kid": "abcdef"}
    signed = f"{header}.{base64.urlsafe_b64encode(b'content').decode().rstrip('=')}".encode()
    wanted = hmac.new(b"0123456789abcdef", signed, hashlib.sha256).digest()
    assert base64.urlsafe_b64decode(signature + "=") == wanted


def test_cluster_info_is_signed_by_each_token() -> None:
    async def play(world: World) -> None:
        await world.api.create(make_info(kubeconfig="k", other="o"))
        await world.api.create(make_token())
        await world.api.create(make_token("ghijkl", expires=world.clock.now() + 600))
        await world.settle()
        signed = find(world, ConfigMap, "cluster-info").data
        assert signed.keys() == {"kubeconfig", "other", "jws-kubeconfig-abcdef", "jws-kubeconfig-ghijkl"}
        assert signed["jws-kubeconfig-abcdef"] == detached_signature("k", "abcdef", "0123456789abcdef")
        await world.clock.advance(601)
        assert find(world, Secret, "bootstrap-token-ghijkl") is None, "it has expired"
        assert "jws-kubeconfig-ghijkl" not in find(world, ConfigMap, "cluster-info").data
        world.api.put(make_info(kubeconfig="changed"))
        await world.settle()
        again = find(world, ConfigMap, "cluster-info").data
        assert again["jws-kubeconfig-abcdef"] == detached_signature("changed", "abcdef", "0123456789abcdef")

    in_world(play)


# ------------------------------------------------------------------------------------------------ ephemeral volumes

SCRATCH: dict[str, Any] = {
    "name": "scratch",
    "ephemeral": {
        "volumeClaimTemplate": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }
    },
}


def with_scratch(name: str = "p") -> Pod:
    volume = convert(Pod, {"spec": {"containers": [], "volumes": [SCRATCH]}}).spec.volumes
    pod = make_pod(name)
    return replace(pod, spec=replace(pod.spec, volumes=volume))


def test_a_pod_gets_a_claim_of_its_own() -> None:
    async def play(world: World) -> None:
        pod = await world.api.create(with_scratch())
        await world.settle()
        claim = find(world, PersistentVolumeClaim, "p-scratch")
        assert claim.metadata.labels == {"a": "b"}
        (owner,) = claim.metadata.owner_references
        assert (owner.kind, owner.uid, owner.controller) == ("Pod", pod.metadata.uid, True)

    in_world(play)


def test_a_claim_in_the_way_is_told() -> None:
    async def play(world: World) -> None:
        await world.api.create(
            convert(PersistentVolumeClaim, {"metadata": {"name": "p-scratch", "namespace": "default"}})
        )
        await world.api.create(with_scratch())
        await world.settle()
        text = "PVC default/p-scratch was not created for pod default/p (pod is not owner)"
        assert f"FailedBinding ephemeral volume scratch: {text}" in world.events()

    in_world(play)


# ------------------------------------------------------------------------------------------------ service ranges


def make_range(name: str, *cidrs: str) -> ServiceCIDR:
    return convert(ServiceCIDR, {"metadata": {"name": name}, "spec": {"cidrs": list(cidrs)}})


def ready(world: World, name: str) -> tuple[str, str, str]:
    (condition,) = find(world, ServiceCIDR, name).status.conditions
    return condition.status, condition.reason, condition.message


def test_a_range_in_use_outlives_its_deletion() -> None:
    async def play(world: World) -> None:
        await world.api.create(make_range("main", "10.96.0.0/16"))
        await world.api.create(make_range("extra", "10.97.0.0/24"))
        await world.api.create(
            convert(
                IPAddress,
                {"metadata": {"name": "10.97.0.7"}, "spec": {"parentRef": {"resource": "services", "name": "s"}}},
            )
        )
        await world.settle()
        assert ready(world, "extra") == ("True", "", "Kubernetes Service CIDR is ready")
        await world.api.delete(ServiceCIDR, "extra")
        await world.settle()
        await world.clock.advance(60)
        assert ready(world, "extra")[:2] == ("False", "Terminating")
        await world.api.create(make_range("cover", "10.97.0.0/16"))
        await world.settle()
        await world.clock.advance(15)
        assert find(world, ServiceCIDR, "extra") is None
        assert find(world, ServiceCIDR, "main") is not None

    in_world(play)


# ------------------------------------------------------------------------------------------------ resource claims


def make_template(name: str = "gpu") -> ResourceClaimTemplate:
    return convert(
        ResourceClaimTemplate,
        {"metadata": {"name": name, "namespace": "default"}, "spec": {"metadata": {"labels": {"a": "b"}}, "spec": {}}},
    )


def with_claim() -> Pod:
    entries = [{"name": "gpu", "resourceClaimTemplateName": "gpu"}]
    claims = convert(Pod, {"spec": {"containers": [], "resourceClaims": entries}}).spec.resource_claims
    pod = make_pod("p")
    return replace(pod, spec=replace(pod.spec, resource_claims=claims))


def test_a_claim_is_made_from_its_template_and_goes_with_the_pod() -> None:
    async def play(world: World) -> None:
        pod = await world.api.create(with_claim())
        await world.settle(rounds=5)
        assert 'FailedResourceClaimCreation PodResourceClaim gpu: resource claim template "gpu": not found' in (
            world.events()
        )
        await world.api.create(make_template())
        await world.settle()
        (claim,) = world.api.all(ResourceClaim)
        assert claim.metadata.generate_name == "p-gpu-"
        assert claim.metadata.annotations == {"resource.kubernetes.io/pod-claim-name": "gpu"}
        (told,) = find(world, Pod, "p").status.resource_claim_statuses
        assert (told.name, told.resource_claim_name) == ("gpu", claim.metadata.name)
        held = {
            "allocation": {},
            "reservedFor": [{"resource": "pods", "name": "p", "uid": pod.metadata.uid}],
        }
        meta = replace(claim.metadata, finalizers=("resource.kubernetes.io/delete-protection",))
        status = convert(type(claim.status), held)
        await world.api.update(replace(claim, metadata=meta))
        await world.api.update_status(replace(world.api.all(ResourceClaim)[0], status=status))
        await world.settle()
        assert world.api.all(ResourceClaim)[0].status.reserved_for, "its pod runs"
        ended = find(world, Pod, "p")
        world.api.put(replace(ended, status=replace(ended.status, phase="Succeeded")))
        await world.settle()
        assert world.api.all(ResourceClaim) == []

    in_world(play)


# ------------------------------------------------------------------------------------------------ classes


def test_a_class_in_use_outlives_its_deletion() -> None:
    async def play(world: World) -> None:
        await world.api.create(convert(VolumeAttributesClass, {"metadata": {"name": "fast"}, "driverName": "d"}))
        claim = {"metadata": {"name": "c", "namespace": "default"}, "spec": {"volumeAttributesClassName": "fast"}}
        await world.api.create(convert(PersistentVolumeClaim, claim))
        await world.settle()
        assert find(world, VolumeAttributesClass, "fast").metadata.finalizers == ("kubernetes.io/vac-protection",)
        await world.api.delete(VolumeAttributesClass, "fast")
        await world.settle()
        assert find(world, VolumeAttributesClass, "fast") is not None
        await world.api.delete(PersistentVolumeClaim, "c", "default")
        await world.settle()
        assert find(world, VolumeAttributesClass, "fast") is None

    in_world(play)
