"""The part of the CRI's messages that we speak. Numbers are facts of ``runtime.v1``; what we never set or read is left out.

Enums are plain ints here; the constants beside the messages name them.
Source: cri-api pkg/apis/runtime/v1 (Kubernetes 1.36).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from .wire import Message

Texts = Mapping[str, str]


# ------------------------------------------------------------------------------------------------------------- values


@dataclass(frozen=True, slots=True)
class Empty(Message):
    """A request or an answer of no fields that we care for."""


@dataclass(frozen=True, slots=True)
class Number(Message):
    """Int64Value and UInt64Value: a number that may be absent."""

    value: Annotated[int, 1] = 0


@dataclass(frozen=True, slots=True)
class KeyValue(Message):
    key: Annotated[str, 1] = ""
    value: Annotated[str, 2] = ""


# ---------------------------------------------------------------------------------------------------------- sandboxes

POD, CONTAINER, NODE, TARGET = range(4)  # NamespaceMode
PROTOCOLS = {"TCP": 0, "UDP": 1, "SCTP": 2}
SANDBOX_READY = 0


@dataclass(frozen=True, slots=True)
class NamespaceOption(Message):
    network: Annotated[int, 1] = POD
    pid: Annotated[int, 2] = POD
    ipc: Annotated[int, 3] = POD
    target_id: Annotated[str, 4] = ""


RUNTIME_DEFAULT, UNCONFINED, LOCALHOST = range(3)  # SecurityProfile.ProfileType


@dataclass(frozen=True, slots=True)
class SecurityProfile(Message):
    profile_type: Annotated[int, 1] = RUNTIME_DEFAULT
    localhost_ref: Annotated[str, 2] = ""


@dataclass(frozen=True, slots=True)
class LinuxSandboxSecurityContext(Message):
    namespace_options: Annotated[NamespaceOption | None, 1] = None
    privileged: Annotated[bool, 6] = False
    seccomp: Annotated[SecurityProfile | None, 9] = None


@dataclass(frozen=True, slots=True)
class LinuxPodSandboxConfig(Message):
    cgroup_parent: Annotated[str, 1] = ""
    security_context: Annotated[LinuxSandboxSecurityContext | None, 2] = None
    sysctls: Annotated[Texts, 3] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PodSandboxMetadata(Message):
    name: Annotated[str, 1] = ""
    uid: Annotated[str, 2] = ""
    namespace: Annotated[str, 3] = ""
    attempt: Annotated[int, 4] = 0


@dataclass(frozen=True, slots=True)
class DNSConfig(Message):
    servers: Annotated[tuple[str, ...], 1] = ()
    searches: Annotated[tuple[str, ...], 2] = ()
    options: Annotated[tuple[str, ...], 3] = ()


@dataclass(frozen=True, slots=True)
class PortMapping(Message):
    protocol: Annotated[int, 1] = 0
    container_port: Annotated[int, 2] = 0
    host_port: Annotated[int, 3] = 0
    host_ip: Annotated[str, 4] = ""


@dataclass(frozen=True, slots=True)
class PodSandboxConfig(Message):
    metadata: Annotated[PodSandboxMetadata | None, 1] = None
    hostname: Annotated[str, 2] = ""
    log_directory: Annotated[str, 3] = ""
    dns_config: Annotated[DNSConfig | None, 4] = None
    port_mappings: Annotated[tuple[PortMapping, ...], 5] = ()
    labels: Annotated[Texts, 6] = field(default_factory=dict)
    annotations: Annotated[Texts, 7] = field(default_factory=dict)
    linux: Annotated[LinuxPodSandboxConfig | None, 8] = None


@dataclass(frozen=True, slots=True)
class RunPodSandboxRequest(Message):
    config: Annotated[PodSandboxConfig | None, 1] = None
    runtime_handler: Annotated[str, 2] = ""


@dataclass(frozen=True, slots=True)
class Id(Message):
    """Every request or answer that is nothing but an id, a reference or a URL in field 1."""

    id: Annotated[str, 1] = ""


@dataclass(frozen=True, slots=True)
class PodSandboxFilter(Message):
    id: Annotated[str, 1] = ""
    label_selector: Annotated[Texts, 3] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ListPodSandboxRequest(Message):
    filter: Annotated[PodSandboxFilter | None, 1] = None


@dataclass(frozen=True, slots=True)
class PodSandbox(Message):
    id: Annotated[str, 1] = ""
    metadata: Annotated[PodSandboxMetadata, 2] = PodSandboxMetadata()
    state: Annotated[int, 3] = SANDBOX_READY
    created_at: Annotated[int, 4] = 0
    labels: Annotated[Texts, 5] = field(default_factory=dict)
    annotations: Annotated[Texts, 6] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ListPodSandboxResponse(Message):
    items: Annotated[tuple[PodSandbox, ...], 1] = ()


@dataclass(frozen=True, slots=True)
class PodSandboxNetworkStatus(Message):
    ip: Annotated[str, 1] = ""
    additional_ips: Annotated[tuple[Id, ...], 2] = ()  #: PodIP: its ``ip`` is field 1


@dataclass(frozen=True, slots=True)
class PodSandboxStatus(Message):
    id: Annotated[str, 1] = ""
    state: Annotated[int, 3] = SANDBOX_READY
    network: Annotated[PodSandboxNetworkStatus | None, 5] = None


@dataclass(frozen=True, slots=True)
class PodSandboxStatusResponse(Message):
    status: Annotated[PodSandboxStatus, 1] = PodSandboxStatus()


# --------------------------------------------------------------------------------------------------------- containers

CREATED, RUNNING, EXITED, UNKNOWN = range(4)  # ContainerState


@dataclass(frozen=True, slots=True)
class ImageSpec(Message):
    image: Annotated[str, 1] = ""
    user_specified_image: Annotated[str, 18] = ""


@dataclass(frozen=True, slots=True)
class ContainerMetadata(Message):
    name: Annotated[str, 1] = ""
    attempt: Annotated[int, 2] = 0


@dataclass(frozen=True, slots=True)
class HugepageLimit(Message):
    page_size: Annotated[str, 1] = ""
    limit: Annotated[int, 2] = 0


@dataclass(frozen=True, slots=True)
class LinuxContainerResources(Message):
    cpu_period: Annotated[int, 1] = 0
    cpu_quota: Annotated[int, 2] = 0
    cpu_shares: Annotated[int, 3] = 0
    memory_limit_in_bytes: Annotated[int, 4] = 0
    oom_score_adj: Annotated[int, 5] = 0
    cpuset_cpus: Annotated[str, 6] = ""
    cpuset_mems: Annotated[str, 7] = ""
    hugepage_limits: Annotated[tuple[HugepageLimit, ...], 8] = ()
    unified: Annotated[Texts, 9] = field(default_factory=dict)
    memory_swap_limit_in_bytes: Annotated[int, 10] = 0


@dataclass(frozen=True, slots=True)
class SELinuxOption(Message):
    user: Annotated[str, 1] = ""
    role: Annotated[str, 2] = ""
    type: Annotated[str, 3] = ""
    level: Annotated[str, 4] = ""


@dataclass(frozen=True, slots=True)
class Capability(Message):
    add_capabilities: Annotated[tuple[str, ...], 1] = ()
    drop_capabilities: Annotated[tuple[str, ...], 2] = ()


@dataclass(frozen=True, slots=True)
class LinuxContainerSecurityContext(Message):
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


@dataclass(frozen=True, slots=True)
class LinuxContainerConfig(Message):
    resources: Annotated[LinuxContainerResources | None, 1] = None
    security_context: Annotated[LinuxContainerSecurityContext | None, 2] = None


@dataclass(frozen=True, slots=True)
class Mount(Message):
    container_path: Annotated[str, 1] = ""
    host_path: Annotated[str, 2] = ""
    readonly: Annotated[bool, 3] = False
    selinux_relabel: Annotated[bool, 4] = False
    propagation: Annotated[int, 5] = 0
    recursive_read_only: Annotated[bool, 8] = False


@dataclass(frozen=True, slots=True)
class Device(Message):
    container_path: Annotated[str, 1] = ""
    host_path: Annotated[str, 2] = ""
    permissions: Annotated[str, 3] = ""


@dataclass(frozen=True, slots=True)
class ContainerConfig(Message):
    metadata: Annotated[ContainerMetadata | None, 1] = None
    image: Annotated[ImageSpec | None, 2] = None
    command: Annotated[tuple[str, ...], 3] = ()
    args: Annotated[tuple[str, ...], 4] = ()
    working_dir: Annotated[str, 5] = ""
    envs: Annotated[tuple[KeyValue, ...], 6] = ()
    mounts: Annotated[tuple[Mount, ...], 7] = ()
    devices: Annotated[tuple[Device, ...], 8] = ()
    labels: Annotated[Texts, 9] = field(default_factory=dict)
    annotations: Annotated[Texts, 10] = field(default_factory=dict)
    log_path: Annotated[str, 11] = ""
    stdin: Annotated[bool, 12] = False
    stdin_once: Annotated[bool, 13] = False
    tty: Annotated[bool, 14] = False
    linux: Annotated[LinuxContainerConfig | None, 15] = None
    stop_signal: Annotated[int, 18] = 0


@dataclass(frozen=True, slots=True)
class CreateContainerRequest(Message):
    pod_sandbox_id: Annotated[str, 1] = ""
    config: Annotated[ContainerConfig | None, 2] = None
    sandbox_config: Annotated[PodSandboxConfig | None, 3] = None


@dataclass(frozen=True, slots=True)
class StopContainerRequest(Message):
    container_id: Annotated[str, 1] = ""
    timeout: Annotated[int, 2] = 0


@dataclass(frozen=True, slots=True)
class ContainerFilter(Message):
    id: Annotated[str, 1] = ""
    pod_sandbox_id: Annotated[str, 3] = ""
    label_selector: Annotated[Texts, 4] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ListContainersRequest(Message):
    filter: Annotated[ContainerFilter | None, 1] = None


@dataclass(frozen=True, slots=True)
class Container(Message):
    id: Annotated[str, 1] = ""
    pod_sandbox_id: Annotated[str, 2] = ""
    metadata: Annotated[ContainerMetadata, 3] = ContainerMetadata()
    image: Annotated[ImageSpec, 4] = ImageSpec()
    image_ref: Annotated[str, 5] = ""
    state: Annotated[int, 6] = CREATED
    created_at: Annotated[int, 7] = 0
    labels: Annotated[Texts, 8] = field(default_factory=dict)
    annotations: Annotated[Texts, 9] = field(default_factory=dict)
    image_id: Annotated[str, 10] = ""


@dataclass(frozen=True, slots=True)
class ListContainersResponse(Message):
    containers: Annotated[tuple[Container, ...], 1] = ()


@dataclass(frozen=True, slots=True)
class ContainerStatusRequest(Message):
    container_id: Annotated[str, 1] = ""
    verbose: Annotated[bool, 2] = False


@dataclass(frozen=True, slots=True)
class ContainerResources(Message):
    linux: Annotated[LinuxContainerResources | None, 1] = None


@dataclass(frozen=True, slots=True)
class ContainerStatus(Message):
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
    log_path: Annotated[str, 15] = ""
    resources: Annotated[ContainerResources | None, 16] = None
    image_id: Annotated[str, 17] = ""


@dataclass(frozen=True, slots=True)
class ContainerStatusResponse(Message):
    status: Annotated[ContainerStatus, 1] = ContainerStatus()
    info: Annotated[Texts, 2] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UpdateContainerResourcesRequest(Message):
    container_id: Annotated[str, 1] = ""
    linux: Annotated[LinuxContainerResources | None, 2] = None


# ---------------------------------------------------------------------------------------------------- commands, streams


@dataclass(frozen=True, slots=True)
class ExecSyncRequest(Message):
    container_id: Annotated[str, 1] = ""
    cmd: Annotated[tuple[str, ...], 2] = ()
    timeout: Annotated[int, 3] = 0


@dataclass(frozen=True, slots=True)
class ExecSyncResponse(Message):
    stdout: Annotated[bytes, 1] = b""
    stderr: Annotated[bytes, 2] = b""
    exit_code: Annotated[int, 3] = 0


@dataclass(frozen=True, slots=True)
class ExecRequest(Message):
    container_id: Annotated[str, 1] = ""
    cmd: Annotated[tuple[str, ...], 2] = ()
    tty: Annotated[bool, 3] = False
    stdin: Annotated[bool, 4] = False
    stdout: Annotated[bool, 5] = False
    stderr: Annotated[bool, 6] = False


@dataclass(frozen=True, slots=True)
class AttachRequest(Message):
    container_id: Annotated[str, 1] = ""
    stdin: Annotated[bool, 2] = False
    tty: Annotated[bool, 3] = False
    stdout: Annotated[bool, 4] = False
    stderr: Annotated[bool, 5] = False


@dataclass(frozen=True, slots=True)
class PortForwardRequest(Message):
    pod_sandbox_id: Annotated[str, 1] = ""
    port: Annotated[tuple[int, ...], 2] = ()


# ------------------------------------------------------------------------------------------------------ usage, events


@dataclass(frozen=True, slots=True)
class CpuUsage(Message):
    timestamp: Annotated[int, 1] = 0
    usage_core_nano_seconds: Annotated[Number, 2] = Number()


@dataclass(frozen=True, slots=True)
class MemoryUsage(Message):
    timestamp: Annotated[int, 1] = 0
    working_set_bytes: Annotated[Number, 2] = Number()
    usage_bytes: Annotated[Number, 4] = Number()
    rss_bytes: Annotated[Number, 5] = Number()
    page_faults: Annotated[Number, 6] = Number()
    major_page_faults: Annotated[Number, 7] = Number()


@dataclass(frozen=True, slots=True)
class FilesystemUsage(Message):
    timestamp: Annotated[int, 1] = 0
    used_bytes: Annotated[Number, 3] = Number()
    inodes_used: Annotated[Number, 4] = Number()


@dataclass(frozen=True, slots=True)
class ContainerStats(Message):
    attributes: Annotated[Id, 1] = Id()  #: ContainerAttributes
    cpu: Annotated[CpuUsage | None, 2] = None
    memory: Annotated[MemoryUsage | None, 3] = None
    writable_layer: Annotated[FilesystemUsage | None, 4] = None


@dataclass(frozen=True, slots=True)
class ContainerStatsFilter(Message):
    id: Annotated[str, 1] = ""
    label_selector: Annotated[Texts, 3] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ListContainerStatsRequest(Message):
    filter: Annotated[ContainerStatsFilter | None, 1] = None


@dataclass(frozen=True, slots=True)
class ListContainerStatsResponse(Message):
    stats: Annotated[tuple[ContainerStats, ...], 1] = ()


CREATED_EVENT, STARTED_EVENT, STOPPED_EVENT, DELETED_EVENT = range(4)  # ContainerEventType


@dataclass(frozen=True, slots=True)
class ContainerEvent(Message):
    """ContainerEventResponse; of the sandbox's status the id is enough."""

    container_id: Annotated[str, 1] = ""
    container_event_type: Annotated[int, 2] = CREATED_EVENT
    created_at: Annotated[int, 3] = 0
    pod_sandbox_status: Annotated[PodSandboxStatus | None, 4] = None


# ------------------------------------------------------------------------------------------------------------- images


@dataclass(frozen=True, slots=True)
class Image(Message):
    id: Annotated[str, 1] = ""
    repo_tags: Annotated[tuple[str, ...], 2] = ()
    repo_digests: Annotated[tuple[str, ...], 3] = ()
    size: Annotated[int, 4] = 0
    uid: Annotated[Number | None, 5] = None
    username: Annotated[str, 6] = ""


@dataclass(frozen=True, slots=True)
class ListImagesResponse(Message):
    images: Annotated[tuple[Image, ...], 1] = ()


@dataclass(frozen=True, slots=True)
class ImageRequest(Message):
    """ImageStatusRequest and RemoveImageRequest."""

    image: Annotated[ImageSpec | None, 1] = None


@dataclass(frozen=True, slots=True)
class ImageStatusResponse(Message):
    image: Annotated[Image | None, 1] = None


@dataclass(frozen=True, slots=True)
class AuthConfig(Message):
    username: Annotated[str, 1] = ""
    password: Annotated[str, 2] = ""
    identity_token: Annotated[str, 5] = ""
    registry_token: Annotated[str, 6] = ""


@dataclass(frozen=True, slots=True)
class PullImageRequest(Message):
    image: Annotated[ImageSpec | None, 1] = None
    auth: Annotated[AuthConfig | None, 2] = None


@dataclass(frozen=True, slots=True)
class ImageFsInfoResponse(Message):
    image_filesystems: Annotated[tuple[FilesystemUsage, ...], 1] = ()
    container_filesystems: Annotated[tuple[FilesystemUsage, ...], 2] = ()


# -------------------------------------------------------------------------------------------------------- the runtime


@dataclass(frozen=True, slots=True)
class VersionResponse(Message):
    version: Annotated[str, 1] = ""
    runtime_name: Annotated[str, 2] = ""
    runtime_version: Annotated[str, 3] = ""
    runtime_api_version: Annotated[str, 4] = ""


@dataclass(frozen=True, slots=True)
class RuntimeCondition(Message):
    type: Annotated[str, 1] = ""
    status: Annotated[bool, 2] = False
    reason: Annotated[str, 3] = ""
    message: Annotated[str, 4] = ""


@dataclass(frozen=True, slots=True)
class RuntimeStatus(Message):
    conditions: Annotated[tuple[RuntimeCondition, ...], 1] = ()


@dataclass(frozen=True, slots=True)
class StatusResponse(Message):
    status: Annotated[RuntimeStatus, 1] = RuntimeStatus()
    runtime_handlers: Annotated[tuple[Id, ...], 3] = ()  #: RuntimeHandler: its name is field 1


@dataclass(frozen=True, slots=True)
class NetworkConfig(Message):
    pod_cidr: Annotated[str, 1] = ""


@dataclass(frozen=True, slots=True)
class RuntimeConfig(Message):
    network_config: Annotated[NetworkConfig | None, 1] = None


@dataclass(frozen=True, slots=True)
class UpdateRuntimeConfigRequest(Message):
    runtime_config: Annotated[RuntimeConfig | None, 1] = None


SYSTEMD, CGROUPFS = range(2)  # CgroupDriver


@dataclass(frozen=True, slots=True)
class LinuxRuntimeConfiguration(Message):
    cgroup_driver: Annotated[int, 1] = SYSTEMD


@dataclass(frozen=True, slots=True)
class RuntimeConfigResponse(Message):
    linux: Annotated[LinuxRuntimeConfiguration | None, 1] = None
