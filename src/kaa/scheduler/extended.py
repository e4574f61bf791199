"""Extended resources that drivers of devices provide: a pod asks for ``example.com/gpu`` as ever, and where the node has none
of a device plugin's, a claim made for the pod alone gets it devices of the DeviceClass that stands for the resource.

Source: KEP-5004; kubernetes/kubernetes plugins/dynamicresources/extendeddynamicresources.go.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from kaa.api import quantity
from kaa.api.types.core_v1 import Container, ContainerExtendedResourceRequest, Pod
from kaa.api.types.meta_v1 import ObjectMeta, OwnerReference
from kaa.api.types.resource_v1 import (
    DeviceClaim,
    DeviceClass,
    DeviceRequest,
    ExactDeviceRequest,
    ResourceClaim,
    ResourceClaimSpec,
)

#: Says that a claim was made for a pod's extended resources.
ANNOTATION = "resource.kubernetes.io/extended-resource-claim"
#: The resource that every class stands for, with its name behind.
CLASS_PREFIX = "deviceclass.resource.kubernetes.io/"
#: The name of such a claim until it is written: none that a claim could have.
IN_MEMORY = "<extended-resources>"


@dataclass(frozen=True, slots=True)
class Special:
    """The claim for a pod's extended resources, and which of its requests are for which containers."""

    claim: ResourceClaim
    mappings: tuple[ContainerExtendedResourceRequest, ...]


def by_resource(classes: Sequence[DeviceClass]) -> dict[str, str]:
    """{extended resource: the class that stands for it}. Of several the newest, then the first by name."""
    found: dict[str, str] = {}
    for each in sorted(classes, key=lambda each: each.metadata.name or "", reverse=True):
        found[CLASS_PREFIX + (each.metadata.name or "")] = each.metadata.name or ""
    for each in sorted(classes, key=lambda each: (each.metadata.creation_timestamp or "", _backwards(each))):
        if each.spec.extended_resource_name:
            found[each.spec.extended_resource_name] = each.metadata.name or ""
    return found


def _backwards(each: DeviceClass) -> list[int]:
    """Sorts names the other way round."""
    return [-ord(letter) for letter in each.metadata.name or ""] + [1]


def special_claim(pod: Pod, resources: Collection[str], classes: Mapping[str, str]) -> Special:
    """The claim for what a pod asks of some extended resources. ``classes``: by resource."""
    made, mappings = _requests(pod, sorted(resources), classes)
    owner = OwnerReference(
        api_version="v1", kind="Pod", name=pod.metadata.name or "", uid=pod.metadata.uid or "", controller=True
    )
    meta = ObjectMeta(
        name=IN_MEMORY,
        generate_name=f"{pod.metadata.name}-extended-resources-",
        namespace=pod.metadata.namespace,
        uid=f"{IN_MEMORY}/{pod.metadata.uid}",
        annotations={ANNOTATION: "true"},
        owner_references=(owner,),
    )
    spec = ResourceClaimSpec(devices=DeviceClaim(requests=tuple(sorted(made, key=lambda each: each.name))))
    return Special(ResourceClaim(metadata=meta, spec=spec), tuple(mappings))


def _requests(
    pod: Pod, resources: Sequence[str], classes: Mapping[str, str]
) -> tuple[list[DeviceRequest], list[ContainerExtendedResourceRequest]]:
    """Containers that run together have devices of their own; init containers, one after the other, use those of containers
    that come later, and share what the greediest of them needs besides."""
    every = (*pod.spec.init_containers, *pod.spec.containers)
    inits = [n for n, each in enumerate(pod.spec.init_containers) if each.restart_policy != "Always"]
    made: list[DeviceRequest] = []
    mappings: list[ContainerExtendedResourceRequest] = []
    for resource in resources:
        lasting = {n: _request(n, each, resource, classes) for n, each in enumerate(every) if n not in inits}
        own = {n: request for n, request in lasting.items() if request is not None}
        made += own.values()
        mappings += [_mapping(every[n], resource, request.name) for n, request in own.items()]
        brief = {n: _request(n, every[n], resource, classes) for n in inits}
        extra, shared = _brief(every, resource, {n: r for n, r in brief.items() if r is not None}, own)
        made += extra
        mappings += shared
    return made, mappings


def _brief(
    every: Sequence[Container], resource: str, wanted: Mapping[int, DeviceRequest], own: Mapping[int, DeviceRequest]
) -> tuple[list[DeviceRequest], list[ContainerExtendedResourceRequest]]:
    """What init containers need besides what later containers have; and all that they use."""
    lacking: dict[int, DeviceRequest] = {}
    used: list[tuple[int, str]] = []
    for n, request in wanted.items():
        left = _count(request)
        for name, count in _lent(n, own):
            if left > 0:
                used.append((n, name))
                left -= count
        if left > 0:
            lacking[n] = _counted(request, left)
    greatest = max(lacking.values(), key=_count, default=None)
    used += [(n, greatest.name) for n in lacking if greatest is not None]
    ordered = sorted(used, key=lambda each: each[0])
    mappings = [_mapping(every[n], resource, name) for n, name in ordered]
    return ([greatest] if greatest is not None else []), mappings


def _lent(n: int, own: Mapping[int, DeviceRequest]) -> Iterator[tuple[str, int]]:
    for later, request in own.items():
        if later >= n:
            yield request.name, _count(request)


def _request(n: int, container: Container, resource: str, classes: Mapping[str, str]) -> DeviceRequest | None:
    """What one container asks for, named by its place and that of the resource among all that it asks for."""
    asked = container.resources.requests
    count = quantity.whole(asked[resource]) if resource in asked else 0
    if not count:
        return None
    exactly = ExactDeviceRequest(device_class_name=classes[resource], allocation_mode="ExactCount", count=count)
    return DeviceRequest(name=f"container-{n}-request-{sorted(asked).index(resource)}", exactly=exactly)


def _count(request: DeviceRequest) -> int:
    return (request.exactly.count if request.exactly is not None else None) or 0


def _counted(request: DeviceRequest, count: int) -> DeviceRequest:
    assert request.exactly is not None
    return replace(request, exactly=replace(request.exactly, count=count))


def _mapping(container: Container, resource: str, request: str) -> ContainerExtendedResourceRequest:
    return ContainerExtendedResourceRequest(container_name=container.name, resource_name=resource, request_name=request)
