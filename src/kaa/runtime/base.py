"""The runtime's contract: the verbs of the CRI, as plain values.

``oci`` is our own (runc or crun under conmon), ``cri`` any CRI socket, ``simulated`` nodes that only pretend. One contract
suite runs on all of them. A sandbox holds a pod's namespaces and cgroup; containers run inside it. Ids are the runtime's;
labels and annotations are the caller's, kept verbatim and given back by every listing, so that a restarted caller finds
its own again.

All times are seconds since 1970; 0 is "not yet".
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol

NamespaceMode = Literal["pod", "container", "node"]


class RuntimeFailure(Exception):
    """The runtime refused or failed; the message is for the user."""


class NotFoundError(RuntimeFailure):
    """No such sandbox, container or image."""


class ImagePullError(RuntimeFailure):
    """The image could not be had: unknown, unauthorized, unreachable, or not what its digest says."""


class ContainerState(StrEnum):
    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"
    UNKNOWN = "unknown"


class SandboxState(StrEnum):
    READY = "ready"
    NOT_READY = "notready"


@dataclass(frozen=True, slots=True)
class Mount:
    """A host path (or ``tmpfs``) seen inside a container; or, with ``image``, what an image holds.

    An image's id stands in place of a host path; it is read only, nothing in it can be executed, and a sub path that it does
    not have fails the container's creation with a message that begins with ``ImageVolumeMountFailed``.
    """

    host_path: str
    container_path: str
    read_only: bool = False
    recursive_read_only: bool = False
    propagation: Literal["private", "host_to_container", "bidirectional"] = "private"
    image: str = ""
    image_sub_path: str = ""  #: relative to the image's root


@dataclass(frozen=True, slots=True)
class Device:
    host_path: str
    container_path: str
    permissions: str = "rwm"


@dataclass(frozen=True, slots=True)
class Resources:
    """What the cgroup enforces; None leaves the kernel's default. CPU in the cgroup's own units."""

    cpu_shares: int | None = None
    cpu_quota_us: int | None = None
    cpu_period_us: int | None = None
    memory_limit_bytes: int | None = None
    memory_swap_limit_bytes: int | None = None
    pids_limit: int | None = None
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    oom_score_adj: int = 0
    hugepage_limits: Mapping[str, int] = field(default_factory=dict)
    unified: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class IdMap:
    """``length`` ids from ``inside`` on, as a user namespace counts them, are the host's from ``outside`` on."""

    inside: int
    outside: int
    length: int


@dataclass(frozen=True, slots=True)
class Namespaces:
    """``pod``: one for the sandbox; ``container``: one each; ``node``: the host's.

    ``users``: which ids of the host are the users and groups of the sandbox's own user namespace; empty: it has none.
    """

    network: NamespaceMode = "pod"
    pid: NamespaceMode = "container"
    ipc: NamespaceMode = "pod"
    users: tuple[IdMap, ...] = ()


@dataclass(frozen=True, slots=True)
class Security:
    """How a container's process is confined. Ids of None mean the image's own user."""

    user: int | None = None
    group: int | None = None
    username: str = ""
    supplemental_groups: tuple[int, ...] = ()
    strict_groups: bool = False  #: only these groups, none that the image's own files give the user
    privileged: bool = False
    read_only_root: bool = False
    no_new_privileges: bool = False
    add_capabilities: tuple[str, ...] = ()  #: without ``CAP_``; ``ALL`` for all of them
    drop_capabilities: tuple[str, ...] = ()
    seccomp: str = "unconfined"  #: ``unconfined``, ``runtime/default`` or a profile's path
    apparmor: str = ""
    selinux_label: str = ""
    masked_paths: tuple[str, ...] | None = None  #: None: the runtime's defaults
    read_only_paths: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class DNS:
    """``resolv.conf`` of a sandbox."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PortMapping:
    """``host_port`` of the node leads to ``container_port`` of the sandbox; ``host_ip`` empty means every address."""

    host_port: int
    container_port: int
    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"
    host_ip: str = ""


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    """A pod's shell. ``cgroup_parent`` is a cgroup path below the runtime's root, made by the caller.

    ``privileged``: it may hold privileged containers, which some runtimes must know beforehand.
    """

    name: str
    namespace: str
    uid: str
    attempt: int = 0
    hostname: str = ""
    log_directory: str = ""
    dns: DNS | None = None
    ports: tuple[PortMapping, ...] = ()
    namespaces: Namespaces = Namespaces()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    cgroup_parent: str = ""
    runtime_handler: str = ""
    privileged: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A sandbox as it is. ``ips`` are its own addresses, primary first (empty with the node's network)."""

    id: str
    name: str
    namespace: str
    uid: str
    attempt: int
    state: SandboxState
    created_at: float
    ips: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    runtime_handler: str = ""


@dataclass(frozen=True, slots=True)
class ContainerConfig:
    """One container. ``command`` and ``args`` None mean the image's own; ``log_path`` is relative to the sandbox's."""

    name: str
    image: str  #: an image id or reference that the store holds
    attempt: int = 0
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    working_dir: str = ""
    env: tuple[tuple[str, str], ...] = ()
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    cdi_devices: tuple[str, ...] = ()  #: ``vendor.com/class=name``, described by CDI specs on the node
    resources: Resources = Resources()
    security: Security = Security()
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    stop_signal: str = ""  #: empty: the image's own, else SIGTERM
    pid_target: str = ""  #: a container id whose pid namespace is shared
    log_path: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a container's first process began as."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Container:
    """A container as it is.

    ``reason`` once it exited: ``Completed``, ``Error``, ``OOMKilled``; ``StartError`` (code 128) when it never ran, ``Unknown``
    (code 255) when nobody saw its end.
    """

    id: str
    sandbox_id: str
    name: str
    attempt: int
    state: ContainerState
    image: str  #: as the config named it
    image_id: str  #: ``sha256:…`` of the image's config
    image_ref: str  #: ``name@sha256:…`` it was pulled as, or the id
    created_at: float
    started_at: float = 0
    finished_at: float = 0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    log_path: str = ""  #: absolute
    pid: int = 0
    resources: Resources | None = None  #: what it was given last; None where the runtime does not tell
    volume_images: tuple[str, ...] = ()  #: ids of the images that it mounts
    user: Identity | None = None  #: None where the runtime does not tell
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Image:
    """An image in the store. ``user`` is the config's own word for who runs it.

    ``pinned``, in a list: the runtime needs it, or somebody else does, so it is not for collecting.
    """

    id: str
    repo_tags: tuple[str, ...]
    repo_digests: tuple[str, ...]
    size_bytes: int
    user: str = ""
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class ImageAuth:
    """Credentials of a pull; all empty means anonymous."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""


@dataclass(frozen=True, slots=True)
class PullProgress:
    """``done`` of ``total`` bytes of what a pull fetches (compressed); ``total`` 0 while it is unknown."""

    status: str
    done_bytes: int = 0
    total_bytes: int = 0


class EventKind(StrEnum):
    CREATED = "created"
    STARTED = "started"
    STOPPED = "stopped"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class RuntimeEvent:
    """Something happened to a container (or to the sandbox itself: ``container_id`` empty). Advisory: relist to be sure."""

    kind: EventKind
    sandbox_id: str
    container_id: str = ""
    at: float = 0
    uid: str = ""  #: the pod's, where the runtime has it at hand


@dataclass(frozen=True, slots=True)
class ContainerUsage:
    """What a container uses at ``at``: CPU as a running total, the rest as it is now."""

    container_id: str
    at: float
    cpu_ns: int = 0
    memory_bytes: int = 0
    memory_working_set_bytes: int = 0
    memory_rss_bytes: int = 0
    memory_page_faults: int = 0
    memory_major_page_faults: int = 0
    pids: int = 0
    rootfs_bytes: int = 0
    rootfs_inodes: int = 0


@dataclass(frozen=True, slots=True)
class ExecResult:
    exit_code: int
    stdout: bytes = b""
    stderr: bytes = b""


class Streams(Protocol):
    """A running exec or attach: bytes in, bytes out. Closing it detaches; an exec's process is killed."""

    async def write(self, data: bytes) -> None: ...

    async def close_stdin(self) -> None: ...

    async def resize(self, columns: int, rows: int) -> None: ...

    def output(self) -> AsyncIterator[tuple[Literal["stdout", "stderr"], bytes]]:
        """Chunks as they come; ends when the process has closed both."""
        ...

    async def wait(self) -> int:
        """The exit code: of the exec's process, or 0 for an attach that ended."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class HandlerFeatures:
    """What a runtime handler can beyond the common."""

    recursive_read_only: bool = False
    user_namespaces: bool = False


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """``strict_groups``: whether the runtime heeds ``Security.strict_groups``."""

    name: str  #: ``kaa``, ``containerd``
    version: str
    handlers: tuple[str, ...] = ("",)
    features: Mapping[str, HandlerFeatures] = field(default_factory=dict)  #: by handler
    strict_groups: bool = False
    network_ready: bool = True
    message: str = ""


class PodNetwork(Protocol):
    """Gives a sandbox its place in the network, as a CNI plugin does. Both verbs may be repeated."""

    @property
    def missing(self) -> str:
        """Why sandboxes cannot be attached yet, as the node's Ready condition tells it; empty when they can."""
        ...

    async def attach(self, sandbox_id: str, netns_path: str, ports: tuple[PortMapping, ...]) -> tuple[str, ...]:
        """Connect a network namespace; returns its addresses, primary first."""
        ...

    async def detach(self, sandbox_id: str) -> None:
        """Take back links, addresses and host ports; the namespace may be gone already."""
        ...

    async def keep_only(self, sandbox_ids: frozenset[str]) -> None:
        """Detach every sandbox that is not named: what a crash left behind."""
        ...


class Runtime(Protocol):
    """Every verb is idempotent: repeating one that succeeded succeeds. All raise RuntimeFailure or NotFoundError."""

    async def info(self) -> RuntimeInfo: ...

    async def run_sandbox(self, config: SandboxConfig) -> str:
        """Make a sandbox, its network included; returns its id."""
        ...

    async def stop_sandbox(self, sandbox_id: str, *, leaving: bool = False) -> None:
        """Kill what still runs in it and take its network down. Unknown ids are fine.

        ``leaving``: it is removed soon, or stopped again without this; what others need not wait for may stay until then.
        """
        ...

    async def remove_sandbox(self, sandbox_id: str) -> None:
        """Stop it and forget it, its containers included."""
        ...

    async def list_sandboxes(self, *, uid: str | None = None) -> list[Sandbox]:
        """All of them, or those of one pod."""
        ...

    async def create_container(self, sandbox_id: str, config: ContainerConfig) -> str: ...

    async def start_container(self, container_id: str) -> None: ...

    async def stop_container(self, container_id: str, grace_s: float) -> None:
        """Send the stop signal, wait ``grace_s``, then kill. Returns when it has exited; unknown ids are fine."""
        ...

    async def remove_container(self, container_id: str) -> None:
        """Kill if need be, then forget. Its log stays."""
        ...

    async def list_containers(self, *, sandbox_id: str = "") -> list[Container]: ...

    async def container(self, container_id: str) -> Container: ...

    async def update_resources(self, container_id: str, resources: Resources) -> None: ...

    async def reopen_log(self, container_id: str) -> None:
        """Write the log to a new file at its path: the old one was rotated away."""
        ...

    async def checkpoint(self, container_id: str, location: str, timeout_s: float) -> None:
        """Write a running container's state to a tar file; it goes on running."""
        ...

    async def exec_sync(self, container_id: str, command: tuple[str, ...], timeout_s: float) -> ExecResult:
        """Run a command to its end. Raises TimeoutError after ``timeout_s`` (0: never), its process killed."""
        ...

    async def exec(self, container_id: str, command: tuple[str, ...], *, stdin: bool, tty: bool) -> Streams: ...

    async def attach(self, container_id: str, *, stdin: bool, tty: bool) -> Streams: ...

    async def port_forward(self, sandbox_id: str, port: int) -> Streams:
        """A TCP connection to a port inside the sandbox; everything read comes as ``stdout``."""
        ...

    async def usage(self) -> list[ContainerUsage]: ...

    def events(self) -> AsyncIterator[RuntimeEvent]:
        """What happens from now on."""
        ...

    async def pull_image(self, reference: str, auth: ImageAuth | None = None) -> Image:
        """Fetch an image by ``[registry/]name[:tag|@digest]``; raises ImagePullError."""
        ...

    def pull_progress(self, reference: str) -> PullProgress | None:
        """How far a running pull is; None when none runs."""
        ...

    async def image(self, reference: str) -> Image | None:
        """The image that a reference or id names in the store."""
        ...

    async def list_images(self) -> list[Image]: ...

    async def remove_image(self, image_id: str) -> None: ...

    async def image_fs_bytes(self) -> tuple[int, int]:
        """(bytes, inodes) that images and writable layers use."""
        ...

    async def close(self) -> None:
        """Let go of what this process holds. Containers go on running."""
        ...
