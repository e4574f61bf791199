"""The messages of device plugins (``v1beta1``) and of plugins' registration (``pluginregistration.v1``), as gRPC carries them.

Source: k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1/api.proto and pluginregistration/v1/api.proto (field numbers).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from kaa.api.protobuf_structs import Message

VERSION = "v1beta1"
HEALTHY, UNHEALTHY = "Healthy", "Unhealthy"
REGISTRATION, PLUGIN = "v1beta1.Registration", "v1beta1.DevicePlugin"  #: gRPC services
PLUGIN_REGISTRATION = "pluginregistration.Registration"
Texts = Mapping[str, str]


class Empty(Message, frozen=True):
    pass


class Options(Message, frozen=True):
    """What a plugin wants to be asked. ``DevicePluginOptions``."""

    pre_start_required: Annotated[bool, 1] = False
    preferred_allocation: Annotated[bool, 2] = False


class RegisterRequest(Message, frozen=True):
    version: Annotated[str, 1] = ""
    endpoint: Annotated[str, 2] = ""
    resource_name: Annotated[str, 3] = ""
    options: Annotated[Options | None, 4] = None


class NumaNode(Message, frozen=True):
    id: Annotated[int, 1] = 0


class Topology(Message, frozen=True):
    nodes: Annotated[tuple[NumaNode, ...], 1] = ()


class Device(Message, frozen=True):
    id: Annotated[str, 1] = ""
    health: Annotated[str, 2] = ""
    topology: Annotated[Topology | None, 3] = None


class ListAndWatchResponse(Message, frozen=True):
    devices: Annotated[tuple[Device, ...], 1] = ()


class Ids(Message, frozen=True):
    """Devices by their ids: a container's in requests to allocate and to start, and the preferred ones of an answer."""

    ids: Annotated[tuple[str, ...], 1] = ()


class AllocateRequest(Message, frozen=True):
    containers: Annotated[tuple[Ids, ...], 1] = ()


class Mount(Message, frozen=True):
    container_path: Annotated[str, 1] = ""
    host_path: Annotated[str, 2] = ""
    read_only: Annotated[bool, 3] = False


class DeviceSpec(Message, frozen=True):
    container_path: Annotated[str, 1] = ""
    host_path: Annotated[str, 2] = ""
    permissions: Annotated[str, 3] = ""


class CdiDevice(Message, frozen=True):
    name: Annotated[str, 1] = ""


class ContainerAllocation(Message, frozen=True):
    """What a container needs for its devices."""

    envs: Annotated[Texts, 1] = {}
    mounts: Annotated[tuple[Mount, ...], 2] = ()
    devices: Annotated[tuple[DeviceSpec, ...], 3] = ()
    annotations: Annotated[Texts, 4] = {}
    cdi_devices: Annotated[tuple[CdiDevice, ...], 5] = ()


class AllocateResponse(Message, frozen=True):
    containers: Annotated[tuple[ContainerAllocation, ...], 1] = ()


class ContainerPreference(Message, frozen=True):
    available: Annotated[tuple[str, ...], 1] = ()
    must_include: Annotated[tuple[str, ...], 2] = ()
    size: Annotated[int, 3] = 0


class PreferredAllocationRequest(Message, frozen=True):
    containers: Annotated[tuple[ContainerPreference, ...], 1] = ()


class PreferredAllocationResponse(Message, frozen=True):
    containers: Annotated[tuple[Ids, ...], 1] = ()


class PluginInfo(Message, frozen=True):
    """How a plugin of the folder ``plugins_registry`` introduces itself."""

    type: Annotated[str, 1] = ""
    name: Annotated[str, 2] = ""
    endpoint: Annotated[str, 3] = ""
    versions: Annotated[tuple[str, ...], 4] = ()


class RegistrationStatus(Message, frozen=True):
    registered: Annotated[bool, 1] = False
    error: Annotated[str, 2] = ""
