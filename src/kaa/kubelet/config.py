"""What a kubelet is told: its node, its folders, its limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from kaa.api.types.core_v1 import Pod, Taint
from kaa.runtime.base import DNS

from .cgroups import CgroupManager
from .image_gc import Policy
from .images.records import Policy as VerificationPolicy
from .machine import Machine
from .memory_qos import MemoryQos
from .reservations import Reservation
from .resolv import Resolved
from .volumes.mounts import Mounter, PlainFolders

if TYPE_CHECKING:
    from .topology.settings import Settings


class Recorder(Protocol):
    """Says events of objects; repeats are counted by whoever implements it."""

    def event(self, obj: Any, type: str, reason: str, message: str) -> None: ...


class PodDns(Protocol):
    """A pod's resolv.conf, by its dnsPolicy, with what is to be said about it."""

    def __call__(self, pod: Pod, *, cluster_dns: tuple[str, ...], cluster_domain: str, host: DNS) -> Resolved: ...


@dataclass(frozen=True, slots=True)
class HostProcess:
    """A component that runs on the node outside any pod, shown as a mirror pod ``<name>-<node>`` of kube-system."""

    name: str
    component: str
    log_path: Path
    image: str
    started_at: float
    labels: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Eviction:
    """When the node runs short: {signal: ``100Mi`` or ``10%``}, under which it is; as in a KubeletConfiguration."""

    hard: Mapping[str, str] = field(
        default_factory=lambda: {
            "memory.available": "100Mi",
            "nodefs.available": "10%",
            "nodefs.inodesFree": "5%",
            "imagefs.available": "15%",
            "imagefs.inodesFree": "5%",
        }
    )
    soft: Mapping[str, str] = field(default_factory=dict)
    soft_grace_s: Mapping[str, float] = field(default_factory=dict)
    reclaim: Mapping[str, str] = field(default_factory=dict)
    max_grace_s: float = 0.0
    transition_s: float = 300.0


@dataclass(frozen=True, slots=True)
class ImageCollection:
    """When images that nothing uses are removed."""

    policy: Policy = field(default_factory=Policy)
    period_s: float = 300.0


class Certificates(msgspec.Struct, frozen=True):
    """Which of the kubelet's certificates the API server is asked for: the one to serve with, the next one to call with."""

    server_bootstrap: bool = False
    rotate: bool = False


class ImagePulls(msgspec.Struct, frozen=True, kw_only=True):
    """Who may have images, and how fast they are pulled (0 a second: no limit)."""

    per_second: float = 0.0
    burst: int = 10
    verification: VerificationPolicy = "NeverVerifyPreloadedImages"
    allowlist: tuple[str, ...] = ()
    provider_config: Path | None = None  #: the CredentialProviderConfig
    provider_programs: Path | None = None  #: the folder of the programs that it names


class Serving(msgspec.Struct, frozen=True):
    """The kubelet's servers and who may ask them, as in a KubeletConfiguration; ports of 0 are off."""

    enabled: bool = True
    address: str = ""  #: empty: the node's own
    read_only_port: int = 0
    healthz_address: str = "127.0.0.1"
    healthz_port: int = 10248
    debugging: bool = True  #: exec, attach, logs and their like
    profiling: bool = True
    debug_flags: bool = True
    system_logs: bool = True
    system_log_query: bool = False
    system_log_root: Path = Path("/var/log")
    idle_s: float = 4 * 3600.0  #: a stream on which nothing moves for so long is ended
    cert_file: str = ""
    key_file: str = ""
    cipher_suites: tuple[str, ...] = ()
    min_tls: str = ""
    client_ca_file: str = ""
    anonymous: bool = False
    token_webhook: bool = True
    token_s: float = 120.0  #: how long an answer about a token holds
    authorization: str = "Webhook"
    allowed_s: float = 300.0
    denied_s: float = 30.0


class Period(msgspec.Struct, frozen=True):
    """How long pods of at least a priority have when the node shuts down."""

    priority: int
    seconds: int


@dataclass(frozen=True, slots=True)
class KubeletConfig:
    """Paths are absolute; ``root``, ``pod_log_root`` and the cgroup root are this kubelet's alone: it cleans them.

    ``capacity`` overrides what the machine shows, for nodes that pretend."""

    node_name: str
    root: Path = Path("/var/lib/kubelet")
    pod_log_root: Path = Path("/var/log/pods")
    node_ips: tuple[str, ...] = ("127.0.0.1",)
    hostname: str = ""
    port: int = 10250
    version: str = "v1.36.0"
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    unschedulable: bool = False
    provider_id: str = ""
    register: bool = True
    external_cloud: bool = False  #: a cloud's controller tells addresses and zone, and takes its taint off then
    max_pods: int = 110
    pods_per_core: int = 0  #: fewer pods than ``max_pods`` on a machine of few cores; 0: no such bound
    max_images: int = 50  #: in the node's status; -1: all
    enforced: tuple[str, ...] = ("pods",)  #: whose cgroup is bounded by what the node leaves them
    reservations: tuple[Reservation, ...] = ()  #: what ``reserved`` is for, and the cgroups that it bounds
    capacity: Mapping[str, str] = field(default_factory=dict)
    reserved: Mapping[str, str] = field(default_factory=dict)
    cluster_dns: tuple[str, ...] = ()
    cluster_domain: str = "cluster.local"
    host_dns: DNS = field(default_factory=DNS)
    pod_dns: PodDns | None = None  #: ``kubelet.resolv.pod_dns``; without it pods get the node's own
    static_pod_path: Path | None = None  #: a folder of manifests, or one
    static_pod_url: str = ""
    static_pod_headers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    file_check_s: float = 20.0
    http_check_s: float = 20.0
    host_processes: tuple[HostProcess, ...] = ()
    cgroups: CgroupManager | None = None
    mounter: Mounter = field(default_factory=PlainFolders)
    pids_limit: int | None = None
    longest_backoff_s: float = 300.0  #: between two starts of a container that crashes
    allowed_unsafe_sysctls: tuple[str, ...] = ()  #: names, or ``prefix*``
    serialize_image_pulls: bool = False
    max_parallel_image_pulls: int = 0
    network_probes: bool = True  #: off on nodes whose pods have no real network: their network probes succeed
    status_check_s: float = 10.0  #: how often the status is looked at
    status_period_s: float = 300.0  #: how often it is written though it is the same
    lease_period_s: float = 10.0
    lease_duration_s: int = 40
    housekeeping_s: float = 60.0
    machine: Machine = field(default_factory=Machine)  #: ``machine.look``: what it has of swap and huge pages
    fail_swap_on: bool = False  #: do not run on a machine that swaps
    swap_behavior: str = ""  #: ``LimitedSwap`` lets burstable containers swap; anything else is NoSwap
    memory_qos: MemoryQos | None = None  #: with the feature gate, and cgroups of version 2
    single_process_oom_kill: bool | None = None  #: None: not with cgroups of version 2
    seccomp_default: bool = False  #: containers that say nothing are confined by the runtime's own profile
    ids_per_pod: int = 65536  #: users of a pod that has a user namespace of its own
    eviction: Eviction | None = field(default_factory=Eviction)  #: None on nodes that only pretend
    images: ImageCollection = field(default_factory=ImageCollection)
    pulls: ImagePulls = field(default_factory=ImagePulls)
    log_max_bytes: int = 10 * 1024 * 1024  #: a container's log is rotated beyond it
    log_max_files: int = 5
    topology: Settings | None = None  #: CPUs and memory of their own; None on nodes where all is shared
    machine_root: Path = Path("/")  #: where the machine's ``sys`` is
    pod_resources: bool = False  #: monitors on the node may ask who has which CPUs, memory and devices
    certificates: Certificates = field(default_factory=Certificates)
    log_workers: int = 1
    log_period_s: float = 10.0  #: logs are looked at so often
    serving: Serving = field(default_factory=Serving)
    shutdown: tuple[Period, ...] = ()  #: how long pods have, by priority, when the node shuts down; empty: not asked
    event_qps: int = 50
    event_burst: int = 100
    given: Mapping[str, Any] = field(default_factory=dict)  #: the KubeletConfiguration that was read, as it was written
    volume_stats_s: float = 60.0  #: what volumes hold is measured again after so long
