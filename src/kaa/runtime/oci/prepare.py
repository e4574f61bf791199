"""The host's side of a bundle: reads the container's accounts, finds devices, makes mount sources, writes ``config.json``.

``bundle`` decides, this looks. Files of the container are read without ever following a link out of it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec

from ..base import ContainerConfig, Device, Identity, Mount, RuntimeFailure
from . import users
from .bundle import DeviceNode, Facts, build_spec, resolve_user
from .files import write_atomic
from .images import ImageRecord
from .state import ContainerRecord

#: How a message begins that says why an image could not be mounted. Source: cri-api pkg/errors.
IMAGE_VOLUME_FAILED = "ImageVolumeMountFailed"


def write_bundle(
    bundle: Path,
    rootfs: Path,
    record: ContainerRecord,
    image: ImageRecord,
    facts: Facts,
    shown: Mapping[str, Path] | None = None,
) -> None:
    """Look up the user in the container's own files, make missing mount sources, write ``config.json``. Blocks.

    Args:   shown: {id of an image that is mounted: where its files are}.
    """
    mounts = tuple(
        image_mount(mount, shown[mount.image]) if shown and mount.image else mount for mount in record.config.mounts
    )
    config = replace(record.config, mounts=mounts)
    user = resolve_user(config, image.config, read_inside(rootfs, "etc/passwd"), read_inside(rootfs, "etc/group"))
    record.user = Identity(user.uid, user.gid, user.groups)
    record.stdio_owner = users.outside(facts.users, user.uid) if facts.users else None
    for mount in config.mounts:
        prepare_source(mount)
        check_propagation(mount)
    devices = (
        host_devices()
        if config.security.privileged
        else [node for device in config.devices for node in device_nodes(device)]
    )
    seen = replace(
        facts,
        rootfs=str(rootfs),
        cgroup_path=record.cgroup_path,
        user=user,
        devices=tuple(devices),
        profile=_seccomp_profile(config.security.seccomp),
    )
    bundle.mkdir(parents=True, exist_ok=True, mode=0o700)
    if facts.users:
        config, seen = stage_mounts(bundle, config, seen)
    spec = build_spec(config, image.config, seen)
    if config.cdi_devices:
        from .cdi import inject

        inject(spec, config.cdi_devices, facts.cdi_folders)
    write_atomic(bundle / "config.json", msgspec.json.encode(spec))


def stage_mounts(bundle: Path, config: ContainerConfig, facts: Facts) -> tuple[ContainerConfig, Facts]:
    """Copies of a container's mounts, their owners mapped, for runc to take; and what names them now.

    /dev/shm was made for the namespace's own ids. What is mounted nosuid, say, must stay so: its namespace may not change it.
    """
    folder, locked = bundle / users.STAGED, {}
    folder.mkdir(exist_ok=True, mode=0o711)
    staged: dict[str, Mount] = {}
    with users.opened(Path(facts.namespaces["user"] or "")) as namespace:
        for one in (*facts.mounts, *config.mounts):
            if one.host_path == "tmpfs" or one.container_path == "/dev/shm":
                continue
            if one.image:  # made for the namespace already
                locked[one.host_path] = locked_options(Path(one.host_path))
                continue
            place = folder / str(len(staged))
            _make_alike(place, one.host_path)
            users.map_mount(one.host_path, str(place), namespace)
            staged[one.container_path] = replace(one, host_path=str(place))
            locked[str(place)] = locked_options(place)
    return (
        replace(config, mounts=tuple(staged.get(one.container_path, one) for one in config.mounts)),
        replace(facts, mounts=tuple(staged.get(one.container_path, one) for one in facts.mounts), locked=locked),
    )


def _make_alike(place: Path, source: str) -> None:
    if os.path.isdir(source):
        place.mkdir(exist_ok=True)
    else:
        place.touch()


def locked_options(place: Path) -> tuple[str, ...]:
    """The options of a mount that nobody in a user namespace may take off."""
    flags = os.statvfs(place).f_flag
    names = {os.ST_NOSUID: "nosuid", os.ST_NODEV: "nodev", os.ST_NOEXEC: "noexec"}
    return tuple(name for flag, name in names.items() if flags & flag)


def _seccomp_profile(name: str) -> dict[str, object] | None:
    """The profile of the node that a container names by its path. Raises RuntimeFailure."""
    if not name.startswith("/"):
        return None
    try:
        found: dict[str, object] = msgspec.json.decode(Path(name).read_bytes())
    except OSError as err:
        why = (err.strerror or str(err)).lower()
        raise RuntimeFailure(f'cannot load seccomp profile "{name}": open {name}: {why}') from err
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        raise RuntimeFailure(f'cannot load seccomp profile "{name}": {err}') from err
    return found


def read_inside(rootfs: Path, name: str) -> str:
    """A small file of a container, its links followed inside the container only; empty when missing."""
    path = resolve_inside(rootfs, name)
    if path is None or not os.path.isfile(path) or os.path.getsize(path) > 1 << 20:
        return ""
    return Path(path).read_text(errors="replace")


def resolve_inside(root: Path, name: str) -> str | None:
    """Where a path of a tree really is, its links followed as they lead with ``root`` for ``/``; None: too many links.

    Nobody may change the tree meanwhile.
    """
    place, todo, hops = str(root), name.split("/")[::-1], 0
    done: list[str] = []
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            done = done[:-1]
            continue
        path = "/".join([place, *done, part])
        if os.path.islink(path):
            hops += 1
            if hops > 40:
                return None
            target = os.readlink(path)
            done = [] if target.startswith("/") else done
            todo.extend(target.split("/")[::-1])
        else:
            done.append(part)
    return "/".join([place, *done])


def image_mount(mount: Mount, root: Path) -> Mount:
    """The mount with the host path of what it shows. Raises RuntimeFailure when the image lacks its sub path."""
    path = resolve_inside(root, mount.image_sub_path)
    if path is None or not os.path.exists(path):
        raise RuntimeFailure(
            f"{IMAGE_VOLUME_FAILED}: sub path {mount.image_sub_path!r} does not exist in the image volume"
        )
    return replace(mount, host_path=path, read_only=True)


def prepare_source(mount: Mount) -> None:
    """A bind mount needs its source: a missing one is made a folder, as containerd does."""
    if mount.host_path != "tmpfs" and not os.path.lexists(mount.host_path):
        os.makedirs(mount.host_path, mode=0o755, exist_ok=True)


#: {propagation: (marks in mountinfo of a mount that can have it, what containerd calls such a mount)}
_CAN_PROPAGATE = {
    "bidirectional": (("shared:",), "shared mount"),
    "host_to_container": (("shared:", "master:"), "shared or slave mount"),
}


def check_propagation(mount: Mount, table: str = "/proc/self/mountinfo") -> None:
    """Raises RuntimeFailure for a mount whose source lies where no mount propagates: nobody would notice otherwise."""
    if mount.propagation not in _CAN_PROPAGATE:
        return
    marks, name = _CAN_PROPAGATE[mount.propagation]
    path = os.path.realpath(mount.host_path)
    point, options = "/", ""
    for line in Path(table).read_text(errors="surrogateescape").splitlines():
        words = line.split(" ")
        here = words[4].encode("latin-1", "surrogateescape").decode("unicode_escape") if "\\" in words[4] else words[4]
        inside = path == here or path.startswith(here.rstrip("/") + "/")
        if inside and len(here) >= len(point):
            point, options = here, " ".join(words[6 : words.index("-")])
    if not any(mark in options for mark in marks):
        raise RuntimeFailure(
            f'failed to generate spec: path "{mount.host_path}" is mounted on "{point}" but it is not a {name}'
        )


def device_nodes(device: Device) -> list[DeviceNode]:
    """The device, or every device below a folder. Raises RuntimeFailure for what is neither."""
    path = os.path.realpath(device.host_path)
    try:
        facts = os.stat(path)
    except FileNotFoundError as err:
        raise RuntimeFailure(f"device {device.host_path} does not exist") from err
    if stat.S_ISDIR(facts.st_mode):
        inside = [
            Device(entry.path, f"{device.container_path}/{entry.name}", device.permissions)
            for entry in os.scandir(path)
        ]
        usable = [entry for entry in inside if stat.S_IFMT(os.stat(entry.host_path).st_mode) in _DEVICE_KINDS]
        return [node for entry in usable for node in device_nodes(entry)]
    kind = _DEVICE_KINDS.get(stat.S_IFMT(facts.st_mode))
    if kind is None:
        raise RuntimeFailure(f"{device.host_path} is not a device")
    return [
        DeviceNode(
            device.container_path,
            kind,
            os.major(facts.st_rdev),
            os.minor(facts.st_rdev),
            stat.S_IMODE(facts.st_mode),
            facts.st_uid,
            facts.st_gid,
            device.permissions,
        )
    ]


_DEVICE_KINDS = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}
_NOT_PASSED_ON = frozenset({"pts", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts", ".udev"})


def host_devices(folder: str = "/dev") -> list[DeviceNode]:
    """Every device of the host, for privileged containers."""
    found: list[DeviceNode] = []
    for entry in os.scandir(folder):
        if entry.name in _NOT_PASSED_ON or entry.is_symlink():
            continue
        if entry.is_dir():
            found += host_devices(entry.path)
        elif stat.S_IFMT(entry.stat().st_mode) in _DEVICE_KINDS:
            found += device_nodes(Device(entry.path, entry.path))
    return found


def rewrite_resources(path: Path, spec: dict[str, object]) -> None:
    """Change the limits of a container that has not started."""
    config = msgspec.json.decode(path.read_bytes())
    devices = config["linux"]["resources"].get("devices")
    config["linux"]["resources"] = {**spec, "devices": devices}
    write_atomic(path, msgspec.json.encode(config))
