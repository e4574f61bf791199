"""The contract's values as the CRI's messages, and back. Pure.

Beside the caller's labels and annotations stand notes of ours, which no caller sees: whose a sandbox or container is, so
that several clusters may share a runtime; a sandbox's uid, so that the runtime can look for it; and its configuration, which
the CRI wants again with every container while the contract gives it once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import msgspec

from ..base import (
    Container,
    ContainerConfig,
    ContainerState,
    ContainerUsage,
    HandlerFeatures,
    Identity,
    IdMap,
    Image,
    ImageAuth,
    Mount,
    NamespaceMode,
    Namespaces,
    Resources,
    Sandbox,
    SandboxConfig,
    SandboxState,
    Security,
)
from ..oci.bundle import MASKED_PATHS, READ_ONLY_PATHS
from . import messages as cri

OWNER, UID = "kaa.dev/owner", "kaa.dev/uid"  #: labels
CONFIG = "kaa.dev/sandbox-config"  #: annotation
_NS = 1e9
_MODES: dict[NamespaceMode, int] = {"pod": cri.POD, "container": cri.CONTAINER, "node": cri.NODE}
_PROPAGATION = {"private": 0, "host_to_container": 1, "bidirectional": 2}
_STATES = {
    cri.CREATED: ContainerState.CREATED,
    cri.RUNNING: ContainerState.RUNNING,
    cri.EXITED: ContainerState.EXITED,
}
#: The CRI's ``Signal`` enum, from 1.
_SIGNALS = (
    *(
        "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT STOP SYS TERM TRAP"
        " TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN"
    ).split(),
    *(f"RTMIN+{n}" for n in range(1, 16)),
    *(f"RTMAX-{n}" for n in range(14, 0, -1)),
    "RTMAX",
)


# ---------------------------------------------------------------------------------------------------------- sandboxes


def sandbox_message(config: SandboxConfig, owner: str) -> cri.PodSandboxConfig:
    """A sandbox to run."""
    noted = msgspec.json.encode(replace(config, labels={}, annotations={})).decode()
    dns = config.dns
    return cri.PodSandboxConfig(
        metadata=cri.PodSandboxMetadata(config.name, config.uid, config.namespace, config.attempt),
        hostname="" if config.namespaces.network == "node" else config.hostname or config.name,
        log_directory=config.log_directory,
        dns_config=cri.DNSConfig(dns.servers, dns.searches, dns.options) if dns else None,
        port_mappings=tuple(
            cri.PortMapping(cri.PROTOCOLS[port.protocol], port.container_port, port.host_port, port.host_ip)
            for port in config.ports
        ),
        labels={**config.labels, **own_labels(owner), UID: config.uid},
        annotations={**config.annotations, CONFIG: noted},
        linux=cri.LinuxPodSandboxConfig(
            cgroup_parent=config.cgroup_parent,
            security_context=cri.LinuxSandboxSecurityContext(
                namespace_options=namespace_options(config.namespaces),
                privileged=config.privileged,
                seccomp=cri.SecurityProfile(cri.RUNTIME_DEFAULT),
            ),
            sysctls=config.sysctls,
        ),
    )


def sandbox_config(found: cri.PodSandbox) -> SandboxConfig:
    """The configuration that a sandbox was run with; of one that is not ours, what can be told."""
    labels, annotations = plain_labels(found.labels), plain_annotations(found.annotations)
    noted, meta = found.annotations.get(CONFIG), found.metadata
    if noted is None:
        return SandboxConfig(meta.name, meta.namespace, meta.uid, meta.attempt, labels=labels, annotations=annotations)
    return replace(msgspec.json.decode(noted, type=SandboxConfig), labels=labels, annotations=annotations)


def own_labels(owner: str) -> dict[str, str]:
    """What marks and finds an owner's things; an owner without a name takes all for his."""
    return {OWNER: owner} if owner else {}


def plain_labels(labels: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in labels.items() if key not in (OWNER, UID)}


def plain_annotations(annotations: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in annotations.items() if key != CONFIG}


def namespace_options(namespaces: Namespaces, pid_target: str = "") -> cri.NamespaceOption:
    pid = cri.TARGET if pid_target else _MODES[namespaces.pid]
    users = id_mappings(namespaces.users)
    own = cri.UserNamespace(cri.POD, users, users) if users else None
    return cri.NamespaceOption(_MODES[namespaces.network], pid, _MODES[namespaces.ipc], pid_target, own)


def id_mappings(users: Iterable[IdMap]) -> tuple[cri.IdMapping, ...]:
    return tuple(cri.IdMapping(one.outside, one.inside, one.length) for one in users)


def sandbox(found: cri.PodSandbox, ips: tuple[str, ...]) -> Sandbox:
    meta = found.metadata
    return Sandbox(
        id=found.id,
        name=meta.name,
        namespace=meta.namespace,
        uid=meta.uid,
        attempt=meta.attempt,
        state=SandboxState.READY if found.state == cri.SANDBOX_READY else SandboxState.NOT_READY,
        created_at=found.created_at / _NS,
        ips=ips,
        labels=plain_labels(found.labels),
        annotations=plain_annotations(found.annotations),
        runtime_handler=found.runtime_handler,
    )


def addresses(status: cri.PodSandboxStatus) -> tuple[str, ...]:
    """A sandbox's own addresses, primary first."""
    network = status.network
    if network is None or not network.ip:
        return ()
    return (network.ip, *(more.id for more in network.additional_ips))


# --------------------------------------------------------------------------------------------------------- containers


def container_message(config: ContainerConfig, image: Image, namespaces: Namespaces, owner: str) -> cri.ContainerConfig:
    """A container to create."""
    return cri.ContainerConfig(
        metadata=cri.ContainerMetadata(config.name, config.attempt),
        image=cri.ImageSpec(config.image, config.image),
        command=config.command or (),
        args=config.args or (),
        working_dir=config.working_dir,
        envs=tuple(cri.KeyValue(key, value) for key, value in config.env),
        mounts=tuple(_mount(mount, id_mappings(namespaces.users)) for mount in config.mounts),
        devices=tuple(cri.Device(one.container_path, one.host_path, one.permissions) for one in config.devices),
        labels={**config.labels, **own_labels(owner)},
        annotations=config.annotations,
        log_path=config.log_path,
        stdin=config.stdin,
        stdin_once=config.stdin_once,
        tty=config.tty,
        linux=cri.LinuxContainerConfig(
            resources=resources_message(config.resources),
            security_context=_security(config.security, image, namespace_options(namespaces, config.pid_target)),
        ),
        cdi_devices=tuple(cri.Id(name) for name in config.cdi_devices),
        stop_signal=signal_number(config.stop_signal),
    )


def _mount(mount: Mount, users: tuple[cri.IdMapping, ...]) -> cri.Mount:
    if mount.image:
        spec, inner = cri.ImageSpec(mount.image), mount.image_sub_path
        return cri.Mount(
            container_path=mount.container_path,
            readonly=True,
            uid_mappings=users,
            gid_mappings=users,
            image=spec,
            image_sub_path=inner,
        )
    return cri.Mount(
        container_path=mount.container_path,
        host_path=mount.host_path,
        readonly=mount.read_only,
        propagation=_PROPAGATION[mount.propagation],
        uid_mappings=users,
        gid_mappings=users,
        recursive_read_only=mount.recursive_read_only,
    )


def _security(security: Security, image: Image, namespaces: cri.NamespaceOption) -> cri.LinuxContainerSecurityContext:
    """A group must not be given without a user: it is the image's own then."""
    user, username = security.user, security.username
    if security.group is not None and user is None and not username:
        own = image.user.partition(":")[0]
        user, username = (int(own or 0), "") if not own or (own.isascii() and own.isdigit()) else (None, own)
    return cri.LinuxContainerSecurityContext(
        capabilities=cri.Capability(security.add_capabilities, security.drop_capabilities),
        privileged=security.privileged,
        namespace_options=namespaces,
        selinux_options=_selinux(security.selinux_label),
        run_as_user=None if user is None else cri.Number(user),
        run_as_username=username,
        readonly_rootfs=security.read_only_root,
        supplemental_groups=security.supplemental_groups,
        no_new_privs=security.no_new_privileges,
        run_as_group=None if security.group is None else cri.Number(security.group),
        masked_paths=MASKED_PATHS if security.masked_paths is None else security.masked_paths,
        readonly_paths=READ_ONLY_PATHS if security.read_only_paths is None else security.read_only_paths,
        seccomp=profile(security.seccomp),
        apparmor=profile(security.apparmor) if security.apparmor else None,
        supplemental_groups_policy=cri.STRICT if security.strict_groups else cri.MERGE,
    )


def profile(name: str) -> cri.SecurityProfile:
    """``unconfined``, ``runtime/default``, or one of the node's by its path or name."""
    match name:
        case "unconfined":
            return cri.SecurityProfile(cri.UNCONFINED)
        case "runtime/default":
            return cri.SecurityProfile(cri.RUNTIME_DEFAULT)
    return cri.SecurityProfile(cri.LOCALHOST, name.removeprefix("localhost/"))


def _selinux(label: str) -> cri.SELinuxOption | None:
    """``user:role:type:level``; the level may hold a colon."""
    return cri.SELinuxOption(*(label.split(":", 3) + [""] * 4)[:4]) if label else None


def signal_number(name: str) -> int:
    """A stop signal as the CRI numbers them; 0, the image's own, for none."""
    bare = name.upper().removeprefix("SIG")
    return _SIGNALS.index(bare) + 1 if bare in _SIGNALS else 0


def resources_message(given: Resources) -> cri.LinuxContainerResources:
    """Limits; how many processes there may be, the CRI leaves to the pod's cgroup."""
    return cri.LinuxContainerResources(
        cpu_period=given.cpu_period_us or 0,
        cpu_quota=given.cpu_quota_us or 0,
        cpu_shares=given.cpu_shares or 0,
        memory_limit_in_bytes=given.memory_limit_bytes or 0,
        oom_score_adj=given.oom_score_adj,
        cpuset_cpus=given.cpuset_cpus,
        cpuset_mems=given.cpuset_mems,
        hugepage_limits=tuple(
            cri.HugepageLimit(size.removesuffix("B").removesuffix("i") + "B", limit)
            for size, limit in sorted(given.hugepage_limits.items())
        ),
        unified=given.unified,
        memory_swap_limit_in_bytes=given.memory_swap_limit_bytes or 0,
    )


def resources(told: cri.LinuxContainerResources) -> Resources:
    return Resources(
        cpu_shares=told.cpu_shares or None,
        cpu_quota_us=told.cpu_quota or None,
        cpu_period_us=told.cpu_period or None,
        memory_limit_bytes=told.memory_limit_in_bytes or None,
        memory_swap_limit_bytes=told.memory_swap_limit_in_bytes or None,
        cpuset_cpus=told.cpuset_cpus,
        cpuset_mems=told.cpuset_mems,
        oom_score_adj=told.oom_score_adj,
        hugepage_limits={one.page_size.removesuffix("B") + "i": one.limit for one in told.hugepage_limits},
        unified=dict(told.unified),
    )


def container(
    row: cri.Container, status: cri.ContainerStatus, image_id: str, given: Resources | None, pid: int = 0
) -> Container:
    """A container from its row in the list and its status.

    Args: given: what it was last given as far as this process knows; an older runtime does not tell.
    """
    state = _STATES.get(status.state, ContainerState.UNKNOWN)
    ended = state is ContainerState.EXITED
    told = status.resources.linux if status.resources else None
    return Container(
        id=row.id,
        sandbox_id=row.pod_sandbox_id,
        name=row.metadata.name,
        attempt=row.metadata.attempt,
        state=state,
        image=row.image.image,
        image_id=image_id,
        image_ref=status.image_ref or image_id,
        created_at=status.created_at / _NS,
        started_at=status.started_at / _NS,
        finished_at=status.finished_at / _NS,
        exit_code=status.exit_code,
        reason=(status.reason or ("Error" if status.exit_code else "Completed")) if ended else status.reason,
        message=status.message,
        log_path=status.log_path,
        pid=pid,
        resources=given if given is not None else resources(told) if told else None,
        volume_images=tuple(one.image.image for one in status.mounts if one.image is not None),
        user=_identity(status.user),
        labels=plain_labels(row.labels),
        annotations=dict(row.annotations),
    )


def _identity(user: cri.ContainerUser | None) -> Identity | None:
    found = user.linux if user is not None else None
    return Identity(found.uid, found.gid, tuple(found.supplemental_groups)) if found is not None else None


def features(handlers: Iterable[cri.RuntimeHandler]) -> dict[str, HandlerFeatures]:
    return {
        one.name: HandlerFeatures(one.features.recursive_read_only_mounts, one.features.user_namespaces)
        for one in handlers
    }


def usage(found: cri.ContainerStats) -> ContainerUsage | None:
    """What a container uses; None for one that has nothing to tell, for it does not run."""
    cpu, memory, layer = found.cpu, found.memory, found.writable_layer or cri.FilesystemUsage()
    if cpu is None or memory is None:
        return None
    return ContainerUsage(
        container_id=found.attributes.id,
        at=cpu.timestamp / _NS,
        cpu_ns=cpu.usage_core_nano_seconds.value,
        memory_bytes=memory.usage_bytes.value or memory.working_set_bytes.value,
        memory_working_set_bytes=memory.working_set_bytes.value,
        memory_rss_bytes=memory.rss_bytes.value,
        memory_page_faults=memory.page_faults.value,
        memory_major_page_faults=memory.major_page_faults.value,
        rootfs_bytes=layer.used_bytes.value,
        rootfs_inodes=layer.inodes_used.value,
    )


def image(found: cri.Image, *, pinned: bool = False) -> Image:
    user = str(found.uid.value) if found.uid is not None else found.username
    return Image(found.id, found.repo_tags, found.repo_digests, found.size, user, pinned or found.pinned)


def auth_message(auth: ImageAuth | None) -> cri.AuthConfig | None:
    return cri.AuthConfig(auth.username, auth.password, auth.identity_token, auth.registry_token) if auth else None


def whole_seconds(seconds: float) -> int:
    """The CRI counts whole seconds; a part of one is one."""
    return math.ceil(seconds)
