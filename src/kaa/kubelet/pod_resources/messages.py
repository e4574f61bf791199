"""Messages of PodResourcesLister. Source: staging/src/k8s.io/kubelet/pkg/apis/podresources/v1/api.proto (field numbers)."""

from __future__ import annotations

from typing import Annotated

from kaa.api.protobuf_structs import Message


class NumaNode(Message, frozen=True):
    id: Annotated[int, 1] = 0


class Topology(Message, frozen=True):
    nodes: Annotated[tuple[NumaNode, ...], 1] = ()


class ContainerDevices(Message, frozen=True):
    resource_name: Annotated[str, 1] = ""
    device_ids: Annotated[tuple[str, ...], 2] = ()
    topology: Annotated[Topology | None, 3] = None


class ContainerMemory(Message, frozen=True):
    memory_type: Annotated[str, 1] = ""
    size: Annotated[int, 2] = 0
    topology: Annotated[Topology | None, 3] = None


class CdiDevice(Message, frozen=True):
    name: Annotated[str, 1] = ""


class ClaimResource(Message, frozen=True):
    cdi_devices: Annotated[tuple[CdiDevice, ...], 1] = ()
    driver_name: Annotated[str, 2] = ""
    pool_name: Annotated[str, 3] = ""
    device_name: Annotated[str, 4] = ""


class DynamicResource(Message, frozen=True):
    claim_name: Annotated[str, 2] = ""
    claim_namespace: Annotated[str, 3] = ""
    claim_resources: Annotated[tuple[ClaimResource, ...], 4] = ()


class ContainerResources(Message, frozen=True):
    name: Annotated[str, 1] = ""
    devices: Annotated[tuple[ContainerDevices, ...], 2] = ()
    cpu_ids: Annotated[tuple[int, ...], 3] = ()
    memory: Annotated[tuple[ContainerMemory, ...], 4] = ()
    dynamic_resources: Annotated[tuple[DynamicResource, ...], 5] = ()


class PodResources(Message, frozen=True):
    name: Annotated[str, 1] = ""
    namespace: Annotated[str, 2] = ""
    containers: Annotated[tuple[ContainerResources, ...], 3] = ()


class Empty(Message, frozen=True):
    """A request that says nothing."""


class ListPodResourcesResponse(Message, frozen=True):
    pod_resources: Annotated[tuple[PodResources, ...], 1] = ()


class GetPodResourcesRequest(Message, frozen=True):
    pod_name: Annotated[str, 1] = ""
    pod_namespace: Annotated[str, 2] = ""


class GetPodResourcesResponse(Message, frozen=True):
    pod_resources: Annotated[PodResources | None, 1] = None


class AllocatableResourcesResponse(Message, frozen=True):
    devices: Annotated[tuple[ContainerDevices, ...], 1] = ()
    cpu_ids: Annotated[tuple[int, ...], 2] = ()
    memory: Annotated[tuple[ContainerMemory, ...], 3] = ()
