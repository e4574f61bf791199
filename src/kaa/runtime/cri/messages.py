"""The part of the CRI's messages that we speak. Numbers are facts of ``runtime.v1``; what we never set or read is left out.

Enums are plain ints here; the constants beside the messages name them.
Source: cri-api pkg/apis/runtime/v1 (Kubernetes 1.36).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from ...api.protobuf_structs import Message

Texts = Mapping[str, str]


# ------------------------------------------------------------------------------------------------------------- values


class Empty(Message, frozen=True):
    """A request or an answer of no fields that we care for."""


class Number(Message, frozen=True):
    """Int64Value and UInt64Value: a number that may be absent."""

    value: Annotated[int, 1] = 0


class KeyValue(Message, frozen=True):
    key: Annotated[str, 1] = ""
    value: Annotated[str, 2] = ""


# ---------------------------------------------------------------------------------------------------------- sandboxes

POD, CONTAINER, NODE, TARGET = range(4)  # NamespaceMode
PROTOCOLS = {"TCP": 0, "UDP": 1, "SCTP": 2}
SANDBOX_READY = 0


class IdMapping(Message, frozen=True):
    host_id: Annotated[int, 1] = 0
    container_id: Annotated[int, 2] = 0
    length: Annotated[int, 3] = 0


class UserNamespace(Message, frozen=True):
    mode: Annotated[int, 1] = POD
    uids: Annotated[tuple[IdMapping, ...], 2] = ()
    gids: Annotated[tuple[IdMapping, ...], 3] = ()


class NamespaceOption(Message, frozen=True):
    network: Annotated[int, 1] = POD
    pid: Annotated[int, 2] = POD
    ipc: Annotated[int, 3] = POD
    target_id: Annotated[str, 4] = ""
    userns_options: Annotated[UserNamespace | None, 5] = None


RUNTIME_DEFAULT, UNCONFINED, LOCALHOST = range(3)  # SecurityProfile.ProfileType


class SecurityProfile(Message, frozen=True):
    profile_type: Annotated[int, 1] = RUNTIME_DEFAULT
    localhost_ref: Annotated[str, 2] = ""


class LinuxSandboxSecurityContext(Message, frozen=True):
    namespace_options: Annotated[NamespaceOption | None, 1] = None
    privileged: Annotated[bool, 6] = False
    seccomp: Annotated[SecurityProfile | None, 9] = None


class LinuxPodSandboxConfig(Message, frozen=True):
    cgroup_parent: Annotated[str, 1] = ""
    security_context: Annotated[LinuxSandboxSecurityContext | None, 2] = None
    sysctls: Annotated[Texts, 3] = {}


class PodSandboxMetadata(Message, frozen=True):
    name: Annotated[str, 1] = ""
    uid: Annotated[str, 2] = ""
    namespace: Annotated[str, 3] = ""
    attempt: Annotated[int, 4] = 0


class DNSConfig(Message, frozen=True):
    servers: Annotated[tuple[str, ...], 1] = ()
    searches: Annotated[tuple[str, ...], 2] = ()
    options: Annotated[tuple[str, ...], 3] = ()


class PortMapping(Message, frozen=True):
    protocol: Annotated[int, 1] = 0
    container_port: Annotated[int, 2] = 0
    host_port: Annotated[int, 3] = 0
    host_ip: Annotated[str, 4] = ""


class PodSandboxConfig(Message, frozen=True):
    metadata: Annotated[PodSandboxMetadata | None, 1] = None
    hostname: Annotated[str, 2] = ""
    log_directory: Annotated[str, 3] = ""
    dns_config: Annotated[DNSConfig | None, 4] = None
    port_mappings: Annotated[tuple[PortMapping, ...], 5] = ()
    labels: Annotated[Texts, 6] = {}
    annotations: Annotated[Texts, 7] = {}
    linux: Annotated[LinuxPodSandboxConfig | None, 8] = None


class RunPodSandboxRequest(Message, frozen=True):
    config: Annotated[PodSandboxConfig | None, 1] = None
    runtime_handler: Annotated[str, 2] = ""


class Id(Message, frozen=True):
    """Every request or answer that is nothing but an id, a reference or a URL in field 1."""

    id: Annotated[str, 1] = ""


class PodSandboxFilter(Message, frozen=True):
    id: Annotated[str, 1] = ""
    label_selector: Annotated[Texts, 3] = {}


class ListPodSandboxRequest(Message, frozen=True):
    filter: Annotated[PodSandboxFilter | None, 1] = None


class PodSandbox(Message, frozen=True):
    id: Annotated[str, 1] = ""
    metadata: Annotated[PodSandboxMetadata, 2] = PodSandboxMetadata()
    state: Annotated[int, 3] = SANDBOX_READY
    created_at: Annotated[int, 4] = 0
    labels: Annotated[Texts, 5] = {}
    annotations: Annotated[Texts, 6] = {}
    runtime_handler: Annotated[str, 7] = ""


class ListPodSandboxResponse(Message, frozen=True):
    items: Annotated[tuple[PodSandbox, ...], 1] = ()


class PodSandboxNetworkStatus(Message, frozen=True):
    ip: Annotated[str, 1] = ""
    additional_ips: Annotated[tuple[Id, ...], 2] = ()  #: PodIP: its ``ip`` is field 1


class PodSandboxStatus(Message, frozen=True):
    id: Annotated[str, 1] = ""
    state: Annotated[int, 3] = SANDBOX_READY
    network: Annotated[PodSandboxNetworkStatus | None, 5] = None


class PodSandboxStatusResponse(Message, frozen=True):
    status: Annotated[PodSandboxStatus, 1] = PodSandboxStatus()


# --------------------------------------------------------------------------------------------------------- containers

CREATED, RUNNING, EXITED, UNKNOWN = range(4)  # ContainerState


class ImageSpec(Message, frozen=True):
    image: Annotated[str, 1] = ""
    user_specified_image: Annotated[str, 18] = ""


class ContainerMetadata(Message, frozen=True):
    name: Annotated[str, 1] = ""
    attempt: Annotated[int, 2] = 0


class HugepageLimit(Message, frozen=True):
    page_size: Annotated[str, 1] = ""
    limit: Annotated[int, 2] = 0


class LinuxContainerResources(Message, frozen=True):
    cpu_period: Annotated[int, 1] = 0
    cpu_quota: Annotated[int, 2] = 0
    cpu_shares: Annotated[int, 3] = 0
    memory_limit_in_bytes: Annotated[int, 4] = 0
    oom_score_adj: Annotated[int, 5] = 0
    cpuset_cpus: Annotated[str, 6] = ""
    cpuset_mems: Annotated[str, 7] = ""
    hugepage_limits: Annotated[tuple[HugepageLimit, ...], 8] = ()
    unified: Annotated[Texts, 9] = {}
    memory_swap_limit_in_bytes: Annotated[int, 10] = 0


class SELinuxOption(Message, frozen=True):
    user: Annotated[str, 1] = ""
    role: Annotated[str, 2] = ""
    type: Annotated[str, 3] = ""
    level: Annotated[str, 4] = ""


class Capability(Message, frozen=True):
    add_capabilities: Annotated[tuple[str, ...], 1] = ()
    drop_capabilities: Annotated[tuple[str, ...], 2] = ()


MERGE, STRICT = range(2)  # SupplementalGroupsPolicy


class LinuxContainerSecurityContext(Message, frozen=True):
    """``*_profile_path`` are the older words for the profiles, which runtimes of before 1.20's fields read."""

    capabilities: Annotated[Capability | None, 1] = None
    privileged: Annotated[bool, 2] = False
    namespace_options: Annotated[NamespaceOption | None, 3] = None
    selinux_options: Annotated[SELinuxOption | None, 4] = None
    run_as_user: Annotated[Number | None, 5] = None
    run_as_username: Annotated[str, 6] = ""
    readonly_rootfs: Annotated[bool, 7] = False
    supplemental_groups: Annotated[tuple[int, ...], 8] = ()
    no_new_privs: Annotated[bool, 11] = False
    run_as_group: Annotated[Number | None, 12] = None
    masked_paths: Annotated[tuple[str, ...], 13] = ()
    readonly_paths: Annotated[tuple[str, ...], 14] = ()
    seccomp: Annotated[SecurityProfile | None, 15] = None
    apparmor: Annotated[SecurityProfile | None, 16] = None
    supplemental_groups_policy: Annotated[int, 17] = MERGE


class LinuxContainerConfig(Message, frozen=True):
    resources: Annotated[LinuxContainerResources | None, 1] = None
    security_context: Annotated[LinuxContainerSecurityContext | None, 2] = None


class Mount(Message, frozen=True):
    container_path: Annotated[str, 1] = ""
    host_path: Annotated[str, 2] = ""
    readonly: Annotated[bool, 3] = False
    selinux_relabel: Annotated[bool, 4] = False
    propagation: Annotated[int, 5] = 0
    uid_mappings: Annotated[tuple[IdMapping, ...], 6] = ()
    gid_mappings: Annotated[tuple[IdMapping, ...], 7] = ()
    recursive_read_only: Annotated[bool, 8] = False
    image: Annotated[ImageSpec | None, 9] = None
    image_sub_path: Annotated[str, 10] = ""


class Device(Message, frozen=True):
    container_path: Annotated[str, 1] = ""
    host_path: Annotated[str, 2] = ""
    permissions: Annotated[str, 3] = ""


class ContainerConfig(Message, frozen=True):
    metadata: Annotated[ContainerMetadata | None, 1] = None
    image: Annotated[ImageSpec | None, 2] = None
    command: Annotated[tuple[str, ...], 3] = ()
    args: Annotated[tuple[str, ...], 4] = ()
    working_dir: Annotated[str, 5] = ""
    envs: Annotated[tuple[KeyValue, ...], 6] = ()
    mounts: Annotated[tuple[Mount, ...], 7] = ()
    devices: Annotated[tuple[Device, ...], 8] = ()
    labels: Annotated[Texts, 9] = {}
    annotations: Annotated[Texts, 10] = {}
    log_path: Annotated[str, 11] = ""
    stdin: Annotated[bool, 12] = False
    stdin_once: Annotated[bool, 13] = False
    tty: Annotated[bool, 14] = False
    linux: Annotated[LinuxContainerConfig | None, 15] = None
    cdi_devices: Annotated[tuple[Id, ...], 17] = ()  #: CDIDevice: its ``name`` is field 1
    stop_signal: Annotated[int, 18] = 0


class CreateContainerRequest(Message, frozen=True):
    pod_sandbox_id: Annotated[str, 1] = ""
    config: Annotated[ContainerConfig | None, 2] = None
    sandbox_config: Annotated[PodSandboxConfig | None, 3] = None


class StopContainerRequest(Message, frozen=True):
    container_id: Annotated[str, 1] = ""
    timeout: Annotated[int, 2] = 0


class ContainerFilter(Message, frozen=True):
    id: Annotated[str, 1] = ""
    pod_sandbox_id: Annotated[str, 3] = ""
    label_selector: Annotated[Texts, 4] = {}


class ListContainersRequest(Message, frozen=True):
    filter: Annotated[ContainerFilter | None, 1] = None


class Container(Message, frozen=True):
    id: Annotated[str, 1] = ""
    pod_sandbox_id: Annotated[str, 2] = ""
    metadata: Annotated[ContainerMetadata, 3] = ContainerMetadata()
    image: Annotated[ImageSpec, 4] = ImageSpec()
    image_ref: Annotated[str, 5] = ""
    state: Annotated[int, 6] = CREATED
    created_at: Annotated[int, 7] = 0
    labels: Annotated[Texts, 8] = {}
    annotations: Annotated[Texts, 9] = {}
    image_id: Annotated[str, 10] = ""


class ListContainersResponse(Message, frozen=True):
    containers: Annotated[tuple[Container, ...], 1] = ()


class ContainerStatusRequest(Message, frozen=True):
    container_id: Annotated[str, 1] = ""
    verbose: Annotated[bool, 2] = False


class ContainerResources(Message, frozen=True):
    linux: Annotated[LinuxContainerResources | None, 1] = None


class MountedImage(Message, frozen=True):
    """Of a container's mounts, what is read again."""

    image: Annotated[ImageSpec | None, 9] = None


class LinuxContainerUser(Message, frozen=True):
    uid: Annotated[int, 1] = 0
    gid: Annotated[int, 2] = 0
    supplemental_groups: Annotated[tuple[int, ...], 3] = ()


class ContainerUser(Message, frozen=True):
    linux: Annotated[LinuxContainerUser | None, 1] = None


class ContainerStatus(Message, frozen=True):
    id: Annotated[str, 1] = ""
    metadata: Annotated[ContainerMetadata, 2] = ContainerMetadata()
    state: Annotated[int, 3] = CREATED
    created_at: Annotated[int, 4] = 0
    started_at: Annotated[int, 5] = 0
    finished_at: Annotated[int, 6] = 0
    exit_code: Annotated[int, 7] = 0
    image: Annotated[ImageSpec, 8] = ImageSpec()
    image_ref: Annotated[str, 9] = ""
    reason: Annotated[str, 10] = ""
    message: Annotated[str, 11] = ""
    mounts: Annotated[tuple[MountedImage, ...], 14] = ()
    log_path: Annotated[str, 15] = ""
    resources: Annotated[ContainerResources | None, 16] = None
    image_id: Annotated[str, 17] = ""
    user: Annotated[ContainerUser | None, 18] = None


class ContainerStatusResponse(Message, frozen=True):
    status: Annotated[ContainerStatus, 1] = ContainerStatus()
    info: Annotated[Texts, 2] = {}


class UpdateContainerResourcesRequest(Message, frozen=True):
    container_id: Annotated[str, 1] = ""
    linux: Annotated[LinuxContainerResources | None, 2] = None


# ---------------------------------------------------------------------------------------------------- commands, streams


class CheckpointContainerRequest(Message, frozen=True):
    container_id: Annotated[str, 1] = ""
    location: Annotated[str, 2] = ""
    timeout: Annotated[int, 3] = 0


class ExecSyncRequest(Message, frozen=True):
    container_id: Annotated[str, 1] = ""
    cmd: Annotated[tuple[str, ...], 2] = ()
    timeout: Annotated[int, 3] = 0


class ExecSyncResponse(Message, frozen=True):
    stdout: Annotated[bytes, 1] = b""
    stderr: Annotated[bytes, 2] = b""
    exit_code: Annotated[int, 3] = 0


class ExecRequest(Message, frozen=True):
    container_id: Annotated[str, 1] = ""
    cmd: Annotated[tuple[str, ...], 2] = ()
    tty: Annotated[bool, 3] = False
    stdin: Annotated[bool, 4] = False
    stdout: Annotated[bool, 5] = False
    stderr: Annotated[bool, 6] = False


class AttachRequest(Message, frozen=True):
    container_id: Annotated[str, 1] = ""
    stdin: Annotated[bool, 2] = False
    tty: Annotated[bool, 3] = False
    stdout: Annotated[bool, 4] = False
    stderr: Annotated[bool, 5] = False


class PortForwardRequest(Message, frozen=True):
    pod_sandbox_id: Annotated[str, 1] = ""
    port: Annotated[tuple[int, ...], 2] = ()


# ------------------------------------------------------------------------------------------------------ usage, events


class CpuUsage(Message, frozen=True):
    timestamp: Annotated[int, 1] = 0
    usage_core_nano_seconds: Annotated[Number, 2] = Number()


class MemoryUsage(Message, frozen=True):
    timestamp: Annotated[int, 1] = 0
    working_set_bytes: Annotated[Number, 2] = Number()
    usage_bytes: Annotated[Number, 4] = Number()
    rss_bytes: Annotated[Number, 5] = Number()
    page_faults: Annotated[Number, 6] = Number()
    major_page_faults: Annotated[Number, 7] = Number()


class FilesystemUsage(Message, frozen=True):
    timestamp: Annotated[int, 1] = 0
    used_bytes: Annotated[Number, 3] = Number()
    inodes_used: Annotated[Number, 4] = Number()


class ContainerStats(Message, frozen=True):
    attributes: Annotated[Id, 1] = Id()  #: ContainerAttributes
    cpu: Annotated[CpuUsage | None, 2] = None
    memory: Annotated[MemoryUsage | None, 3] = None
    writable_layer: Annotated[FilesystemUsage | None, 4] = None


class ContainerStatsFilter(Message, frozen=True):
    id: Annotated[str, 1] = ""
    label_selector: Annotated[Texts, 3] = {}


class ListContainerStatsRequest(Message, frozen=True):
    filter: Annotated[ContainerStatsFilter | None, 1] = None


class ListContainerStatsResponse(Message, frozen=True):
    stats: Annotated[tuple[ContainerStats, ...], 1] = ()


CREATED_EVENT, STARTED_EVENT, STOPPED_EVENT, DELETED_EVENT = range(4)  # ContainerEventType


class ContainerEvent(Message, frozen=True):
    """ContainerEventResponse; of the sandbox's status the id is enough."""

    container_id: Annotated[str, 1] = ""
    container_event_type: Annotated[int, 2] = CREATED_EVENT
    created_at: Annotated[int, 3] = 0
    pod_sandbox_status: Annotated[PodSandboxStatus | None, 4] = None


# ------------------------------------------------------------------------------------------------------------- images


class Image(Message, frozen=True):
    id: Annotated[str, 1] = ""
    repo_tags: Annotated[tuple[str, ...], 2] = ()
    repo_digests: Annotated[tuple[str, ...], 3] = ()
    size: Annotated[int, 4] = 0
    uid: Annotated[Number | None, 5] = None
    username: Annotated[str, 6] = ""
    pinned: Annotated[bool, 8] = False


class ListImagesResponse(Message, frozen=True):
    images: Annotated[tuple[Image, ...], 1] = ()


class ImageRequest(Message, frozen=True):
    """ImageStatusRequest and RemoveImageRequest."""

    image: Annotated[ImageSpec | None, 1] = None


class ImageStatusResponse(Message, frozen=True):
    image: Annotated[Image | None, 1] = None


class AuthConfig(Message, frozen=True):
    username: Annotated[str, 1] = ""
    password: Annotated[str, 2] = ""
    identity_token: Annotated[str, 5] = ""
    registry_token: Annotated[str, 6] = ""


class PullImageRequest(Message, frozen=True):
    image: Annotated[ImageSpec | None, 1] = None
    auth: Annotated[AuthConfig | None, 2] = None


class ImageFsInfoResponse(Message, frozen=True):
    image_filesystems: Annotated[tuple[FilesystemUsage, ...], 1] = ()
    container_filesystems: Annotated[tuple[FilesystemUsage, ...], 2] = ()


# -------------------------------------------------------------------------------------------------------- the runtime


class VersionResponse(Message, frozen=True):
    version: Annotated[str, 1] = ""
    runtime_name: Annotated[str, 2] = ""
    runtime_version: Annotated[str, 3] = ""
    runtime_api_version: Annotated[str, 4] = ""


class RuntimeCondition(Message, frozen=True):
    type: Annotated[str, 1] = ""
    status: Annotated[bool, 2] = False
    reason: Annotated[str, 3] = ""
    message: Annotated[str, 4] = ""


class RuntimeStatus(Message, frozen=True):
    conditions: Annotated[tuple[RuntimeCondition, ...], 1] = ()


class StatusRequest(Message, frozen=True):
    verbose: Annotated[bool, 1] = False


class RuntimeHandlerFeatures(Message, frozen=True):
    recursive_read_only_mounts: Annotated[bool, 1] = False
    user_namespaces: Annotated[bool, 2] = False


class RuntimeHandler(Message, frozen=True):
    name: Annotated[str, 1] = ""
    features: Annotated[RuntimeHandlerFeatures, 2] = RuntimeHandlerFeatures()


class RuntimeFeatures(Message, frozen=True):
    supplemental_groups_policy: Annotated[bool, 1] = False


class StatusResponse(Message, frozen=True):
    status: Annotated[RuntimeStatus, 1] = RuntimeStatus()
    info: Annotated[Texts, 2] = {}
    runtime_handlers: Annotated[tuple[RuntimeHandler, ...], 3] = ()
    features: Annotated[RuntimeFeatures, 4] = RuntimeFeatures()


class NetworkConfig(Message, frozen=True):
    pod_cidr: Annotated[str, 1] = ""


class RuntimeConfig(Message, frozen=True):
    network_config: Annotated[NetworkConfig | None, 1] = None


class UpdateRuntimeConfigRequest(Message, frozen=True):
    runtime_config: Annotated[RuntimeConfig | None, 1] = None


SYSTEMD, CGROUPFS = range(2)  # CgroupDriver


class LinuxRuntimeConfiguration(Message, frozen=True):
    cgroup_driver: Annotated[int, 1] = SYSTEMD


class RuntimeConfigResponse(Message, frozen=True):
    linux: Annotated[LinuxRuntimeConfiguration | None, 1] = None
