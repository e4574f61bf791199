"""What the service answers, from what the providers of hardware remember. Pure but for reading them.

Source: pkg/kubelet/apis/podresources (server_v1.go, server_v1alpha1.go); pkg/kubelet/cm/container_manager_linux.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from msgspec.structs import replace

from kaa.api.types.core_v1 import Container, Pod

from ..topology.checkpoint import Block
from ..topology.hardware import Hardware
from .messages import (
    AllocatableResourcesResponse,
    ContainerDevices,
    ContainerMemory,
    ContainerResources,
    DynamicResource,
    ListPodResourcesResponse,
    NumaNode,
    PodResources,
    Topology,
)


@runtime_checkable
class TellsDevices(Protocol):
    """A provider that tells who has which of its devices: one row for each device and each NUMA node of it."""

    def devices_of(self, uid: str, container: str) -> Iterable[ContainerDevices]: ...

    def all_devices(self) -> Iterable[ContainerDevices]:
        """Those that work, given out or not."""
        ...


@runtime_checkable
class TellsClaims(Protocol):
    """A provider that tells of which claims a container has devices."""

    def claims_of(self, pod: Pod, container: Container) -> Iterable[DynamicResource]: ...


def of_pod(pod: Pod, hardware: Hardware) -> PodResources:
    """Of the containers that last: init containers that end are not told of."""
    lasting = (one for one in pod.spec.init_containers if one.restart_policy == "Always")
    every = tuple(_of_container(pod, one, hardware) for one in (*lasting, *pod.spec.containers))
    return PodResources(pod.metadata.name or "", pod.metadata.namespace or "", every)


def _of_container(pod: Pod, container: Container, hardware: Hardware) -> ContainerResources:
    uid, cpus, memory = pod.metadata.uid or "", hardware.cpus, hardware.memory
    devices, claims = list[ContainerDevices](), list[DynamicResource]()
    for provider in hardware.providers:
        if isinstance(provider, TellsDevices):
            devices += provider.devices_of(uid, container.name)
        if isinstance(provider, TellsClaims):
            claims += provider.claims_of(pod, container)
    return ContainerResources(
        name=container.name,
        devices=tuple(devices),
        cpu_ids=tuple(sorted(cpus.own(uid, container.name))) if cpus is not None else (),
        memory=_memory(memory.blocks(uid, container.name)) if memory is not None else (),
        dynamic_resources=tuple(claims),
    )


def _memory(blocks: Sequence[Block]) -> tuple[ContainerMemory, ...]:
    return tuple(
        ContainerMemory(block.type, block.size, Topology(tuple(NumaNode(node) for node in block.numa_affinity)))
        for block in blocks
    )


def allocatable(hardware: Hardware) -> AllocatableResourcesResponse:
    """What there is for pods, given out or not."""
    told = (one.all_devices() for one in hardware.providers if isinstance(one, TellsDevices))
    return AllocatableResourcesResponse(
        devices=tuple(device for some in told for device in some),
        cpu_ids=tuple(sorted(hardware.cpus.assignable)) if hardware.cpus is not None else (),
        memory=_memory(hardware.memory.assignable) if hardware.memory is not None else (),
    )


def of_all(pods: Iterable[Pod], hardware: Hardware) -> ListPodResourcesResponse:
    return ListPodResourcesResponse(tuple(of_pod(pod, hardware) for pod in pods))


def in_v1alpha1(told: ListPodResourcesResponse) -> ListPodResourcesResponse:
    """As the service's first version has it: names of resources and devices alone."""

    def plain(container: ContainerResources) -> ContainerResources:
        devices = tuple(replace(device, topology=None) for device in container.devices)
        return ContainerResources(container.name, devices)

    pods = (replace(pod, containers=tuple(plain(one) for one in pod.containers)) for pod in told.pod_resources)
    return ListPodResourcesResponse(tuple(pods))
