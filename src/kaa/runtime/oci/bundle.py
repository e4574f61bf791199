"""From a container's config to the OCI runtime's ``config.json``: pure, all facts are given.

Source: OCI runtime-spec 1.0; defaults (capabilities, masked paths, mounts) are containerd's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..base import ContainerConfig, IdMap, Mount, Resources, RuntimeFailure
from .images import ImageConfig
from .seccomp import default_profile

Spec = dict[str, Any]

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DEFAULT_CAPABILITIES = (
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL "
    "AUDIT_WRITE"
)
DEFAULT_CAPABILITIES = tuple(_DEFAULT_CAPABILITIES.split())
_ALL_CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT "
    "SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP "
    "MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
ALL_CAPABILITIES = tuple(_ALL_CAPABILITIES.split())
MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/scsi",
    "/proc/sched_debug",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READ_ONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_PROPAGATION = {"private": "rprivate", "host_to_container": "rslave", "bidirectional": "rshared"}
_ACCESS = {"r", "w", "m"}


@dataclass(frozen=True, slots=True)
class User:
    """Who a container's process is, as the kernel counts."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """A device of the host, seen by ``stat``."""

    path: str
    kind: str  #: ``c`` or ``b``
    major: int
    minor: int
    mode: int = 0o666
    uid: int = 0
    gid: int = 0
    permissions: str = "rwm"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the host and the sandbox add to a container's config."""

    rootfs: str
    cgroup_path: str
    namespaces: Mapping[str, str | None]  #: {kind: path, or None for a new one}; absent: the host's
    user: User
    mounts: tuple[Mount, ...] = ()  #: the sandbox's own files: hostname, resolv.conf, shm
    devices: tuple[DeviceNode, ...] = ()
    hostname: str = ""
    capabilities: frozenset[str] = frozenset(ALL_CAPABILITIES)  #: what this process may grant
    lowest_oom_score_adj: int = -1000
    cgroup_v2: bool = True
    apparmor: str = ""  #: the profile that confines it; empty: none
    hugetlb: bool = True
    users: tuple[IdMap, ...] = ()  #: the ids of the container's own user namespace
    locked: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  #: {mount source: options it must keep}
    profile: Spec | None = None  #: the seccomp profile that ``Security.seccomp`` names by path
    cdi_folders: tuple[str, ...] = ()  #: where CDI specs lie, the weightiest last


def build_spec(config: ContainerConfig, image: ImageConfig, facts: Facts) -> Spec:
    """The whole ``config.json``. Raises RuntimeFailure when there is nothing to run."""
    security = config.security
    masked = MASKED_PATHS if security.masked_paths is None else security.masked_paths
    read_only = READ_ONLY_PATHS if security.read_only_paths is None else security.read_only_paths
    linux: Spec = {
        "cgroupsPath": facts.cgroup_path,
        "namespaces": [
            {"type": kind, "path": path} if path else {"type": kind} for kind, path in facts.namespaces.items()
        ],
        "resources": resources_spec(config.resources, v2=facts.cgroup_v2, hugetlb=facts.hugetlb),
        "maskedPaths": [] if security.privileged else list(masked),
        "readonlyPaths": [] if security.privileged else list(read_only),
    }
    linux["resources"]["devices"] = device_rules(facts.devices, privileged=security.privileged)
    if facts.users:
        linux["uidMappings"] = linux["gidMappings"] = [
            {"containerID": one.inside, "hostID": one.outside, "size": one.length} for one in facts.users
        ]
    if facts.devices:
        linux["devices"] = [device_spec(device) for device in facts.devices]
    if any(mount.propagation == "bidirectional" for mount in config.mounts):
        linux["rootfsPropagation"] = "rshared"
    elif any(mount.propagation == "host_to_container" for mount in config.mounts):
        linux["rootfsPropagation"] = "rslave"
    if security.selinux_label:
        linux["mountLabel"] = security.selinux_label
    process = process_spec(config, image, facts)
    held = frozenset(name.removeprefix("CAP_") for name in process["capabilities"]["permitted"])
    if profile := seccomp_spec(security.seccomp, security.privileged, facts, held):
        linux["seccomp"] = profile
    return {
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": facts.rootfs, "readonly": security.read_only_root},
        "mounts": mounts_spec(config, facts),
        "linux": linux,
        "annotations": dict(config.annotations),
    }


def process_spec(config: ContainerConfig, image: ImageConfig, facts: Facts) -> Spec:
    """Command, environment and identity of the container's first process."""
    security, user = config.security, facts.user
    process: Spec = {
        "terminal": config.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)},
        "args": list(command_line(config, image)),
        "env": environment(config, image, facts),
        "cwd": config.working_dir or image.working_dir or "/",
        "noNewPrivileges": security.no_new_privileges,
        "oomScoreAdj": max(config.resources.oom_score_adj, facts.lowest_oom_score_adj),
        "capabilities": capabilities(config, facts.capabilities),
    }
    if facts.apparmor:
        process["apparmorProfile"] = facts.apparmor
    if security.selinux_label:
        process["selinuxLabel"] = security.selinux_label
    return process


def command_line(config: ContainerConfig, image: ImageConfig) -> tuple[str, ...]:
    """``command`` replaces the entrypoint and, unless ``args`` are given, drops the image's arguments too.

    Source: Kubernetes "Define a Command and Arguments for a Container".
    """
    if config.command:
        words = (*config.command, *(config.args or ()))
    elif config.args:
        words = (*(image.entrypoint or ()), *config.args)
    else:
        words = (*(image.entrypoint or ()), *(image.cmd or ()))
    if not words:
        raise RuntimeFailure("no command specified")
    return words


def environment(config: ContainerConfig, image: ImageConfig, facts: Facts) -> list[str]:
    """The image's variables, the container's over them; PATH, HOSTNAME, TERM and HOME where they are missing."""
    merged: dict[str, str] = {}
    if facts.hostname:
        merged["HOSTNAME"] = facts.hostname
    if config.tty:
        merged["TERM"] = "xterm"
    for entry in image.env or (DEFAULT_PATH,):
        key, _, value = entry.partition("=")
        merged[key] = value
    merged.setdefault("PATH", DEFAULT_PATH.removeprefix("PATH="))
    merged.update(config.env)
    merged.setdefault("HOME", facts.user.home)
    return [f"{key}={value}" for key, value in merged.items()]


def capabilities(config: ContainerConfig, grantable: frozenset[str]) -> Spec:
    """Defaults, plus and minus what is asked; ``drop`` wins over ``add``, but a name wins over ``ALL``."""
    security = config.security
    add = {name.upper().removeprefix("CAP_") for name in security.add_capabilities}
    drop = {name.upper().removeprefix("CAP_") for name in security.drop_capabilities}
    if unknown := (add | drop) - {"ALL"} - set(ALL_CAPABILITIES):
        raise RuntimeFailure(f"unknown capability {', '.join(f'CAP_{name}' for name in sorted(unknown))}")
    if security.privileged or "ALL" in add:
        held = set(ALL_CAPABILITIES)
    else:
        held = set() if "ALL" in drop else set(DEFAULT_CAPABILITIES)
    if not security.privileged:
        held = (held | (add - {"ALL"})) - drop
        if "ALL" in add and "ALL" in drop:
            held = add - {"ALL"} - drop
    names = [f"CAP_{name}" for name in ALL_CAPABILITIES if name in held and name in grantable]
    return {"bounding": names, "effective": names, "permitted": names}


def mounts_spec(config: ContainerConfig, facts: Facts) -> list[Spec]:
    """Kernel file systems, then the sandbox's files, then the container's own, sorted by depth so that none hides another."""
    privileged = config.security.privileged
    own = {mount.container_path.rstrip("/") or "/" for mount in config.mounts}
    added = [mount for mount in facts.mounts if mount.container_path not in own]
    bound = sorted([*added, *config.mounts], key=lambda mount: mount.container_path.rstrip("/").count("/"))
    standard = [entry for entry in _standard_mounts(privileged) if entry["destination"] not in own]
    made = [_bind(mount, config.security.read_only_root, mount in added) for mount in bound]
    for entry in made:
        entry["options"] += [one for one in facts.locked.get(entry["source"], ()) if one not in entry["options"]]
    return [*standard, *made]


def _standard_mounts(privileged: bool) -> list[Spec]:
    guarded = ["nosuid", "noexec", "nodev"]
    access = "rw" if privileged else "ro"
    sys: Spec = {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*guarded, access]}
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": guarded},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": guarded},
        sys,
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": [*guarded, "relatime", access],
        },
    ]


def _bind(mount: Mount, read_only_root: bool, added: bool) -> Spec:
    if mount.host_path == "tmpfs":
        return {"destination": mount.container_path, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev"]}
    own_shm = mount.container_path == "/dev/shm" and added
    guarded = ["nosuid", "noexec", "nodev"] if own_shm or mount.image else []
    mode = "ro" if mount.read_only or (added and read_only_root and mount.container_path != "/dev/shm") else "rw"
    options = ["rbind", _PROPAGATION[mount.propagation], mode, *guarded]
    if mount.read_only and mount.recursive_read_only:
        options.append("rro")
    return {"destination": mount.container_path, "type": "bind", "source": mount.host_path, "options": options}


def resources_spec(resources: Resources, *, v2: bool, hugetlb: bool = True) -> Spec:
    """The ``linux.resources`` part; what is None, and a quota below zero, is left to the kernel.

    Args: hugetlb: whether the machine can limit huge pages; one that cannot does without, as with containerd.
    """
    cpu = {
        "shares": resources.cpu_shares,
        "quota": None if (resources.cpu_quota_us or 0) < 0 else resources.cpu_quota_us,
        "period": resources.cpu_period_us,
        "cpus": resources.cpuset_cpus or None,
        "mems": resources.cpuset_mems or None,
    }
    memory = {"limit": resources.memory_limit_bytes, "swap": resources.memory_swap_limit_bytes}
    spec: Spec = {
        "cpu": {key: value for key, value in cpu.items() if value is not None},
        "memory": {key: value for key, value in memory.items() if value is not None},
    }
    if resources.pids_limit is not None:
        spec["pids"] = {"limit": resources.pids_limit}
    if resources.hugepage_limits and hugetlb:
        spec["hugepageLimits"] = [
            {"pageSize": size.replace("i", "").removesuffix("B") + "B", "limit": limit}
            for size, limit in sorted(resources.hugepage_limits.items())
        ]
    if resources.unified and v2:
        spec["unified"] = dict(resources.unified)
    return spec


def device_spec(device: DeviceNode) -> Spec:
    return {
        "path": device.path,
        "type": device.kind,
        "major": device.major,
        "minor": device.minor,
        "fileMode": device.mode,
        "uid": device.uid,
        "gid": device.gid,
    }


def device_rules(devices: Sequence[DeviceNode], *, privileged: bool) -> list[Spec]:
    """Everything is forbidden but what is named; the runtime itself adds the default devices."""
    if privileged:
        return [{"allow": True, "access": "rwm"}]
    rules: list[Spec] = [{"allow": False, "access": "rwm"}]
    for device in devices:
        access = "".join(letter for letter in device.permissions if letter in _ACCESS)
        rules.append(
            {"allow": True, "type": device.kind, "major": device.major, "minor": device.minor, "access": access}
        )
    return rules


def seccomp_spec(name: str, privileged: bool, facts: Facts, held: frozenset[str]) -> Spec | None:
    """The profile; None leaves system calls unfiltered, as privileged containers always are."""
    if privileged or name in ("", "unconfined"):
        return None
    if name == "runtime/default":
        return default_profile(held)
    return facts.profile


def resolve_user(config: ContainerConfig, image: ImageConfig, passwd: str, group: str) -> User:
    """Who runs the container: the config's ids, its user name, or the image's ``user[:group]``, read in the image's files.

    What is a number is an id, whoever bears it as a name in the image's files: else an image could call its root ``1000``.

    Raises: RuntimeFailure when a name is in neither file, or an id is none.
    Source: moby/sys user GetExecUser.
    """
    security = config.security
    accounts = [row for row in _rows(passwd, 7) if _is_id(row[2]) and _is_id(row[3])]
    groups = [row for row in _rows(group, 4) if _is_id(row[2])]
    if security.user is not None:
        wanted, wanted_group = str(security.user), ""
    elif security.username:
        wanted, wanted_group = security.username, ""
    else:
        wanted, _, wanted_group = (image.user or "").partition(":")
    wanted = wanted or "0"
    number = _id(wanted)
    account = next((row for row in accounts if (row[0] == wanted if number is None else int(row[2]) == number)), None)
    if account is None and number is None:
        raise RuntimeFailure(f"unable to find user {wanted}: no matching entries in passwd file")
    uid = int(account[2]) if account else number or 0
    gid = int(account[3]) if account else 0
    if wanted_group:
        gid = _group_id(wanted_group, groups)
    if security.group is not None:
        gid = security.group
    named = [int(row[2]) for row in groups if account and account[0] in row[3].split(",")]
    if security.strict_groups:
        named = []
    extra = dict.fromkeys([gid, *named, *security.supplemental_groups])
    return User(uid, gid, tuple(extra), (account[5] if account else "") or "/")


def _rows(text: str, columns: int) -> list[list[str]]:
    return [line.split(":") for line in text.split("\n") if line.count(":") >= columns - 1]


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 11 and int(text) < 1 << 31


def _id(text: str) -> int | None:
    """The id that a text is; None for a name. Raises RuntimeFailure for a number that is no id."""
    if not (text.isascii() and text.isdigit()):
        return None
    if not _is_id(text):
        raise RuntimeFailure(f"uids and gids must be in range 0-{(1 << 31) - 1}")
    return int(text)


def _group_id(wanted: str, groups: Sequence[Sequence[str]]) -> int:
    number = _id(wanted)
    if number is not None:
        return number
    for row in groups:
        if row[0] == wanted:
            return int(row[2])
    raise RuntimeFailure(f"unable to find group {wanted}: no matching entries in group file")
