"""Container Device Interface: what a vendor says a container needs for a device, put into its ``config.json``.

A spec file, JSON or YAML, in one of the folders, describes the devices of a kind; a later folder's device wins over an
earlier one's, and two of one folder that claim the same name make it unresolvable::

    {"cdiVersion": "0.6.0", "kind": "vendor.com/gpu", "containerEdits": {"env": ["DRIVER=1"]},
     "devices": [{"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/gpu0"}]}}]}

    inject(spec, ("vendor.com/gpu=0",), FOLDERS)  # adds DRIVER=1 and /dev/gpu0

Files are read as a container is made: one that is broken takes its own devices away, and nobody else's.
Source: CNCF TAG Runtime, container-device-interface SPEC.md 0.3 to 1.1; tags.cncf.io/container-device-interface/pkg/cdi.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from ..base import RuntimeFailure
from .bundle import Spec

log = structlog.get_logger(__name__)

_VERSIONS = ("0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0")
_HOOKS = frozenset(("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"))
_KIND = re.compile(r"[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?/[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?")


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """A piece of a spec file; a word that CDI does not know makes the file invalid."""


class DeviceNode(_Part, frozen=True, kw_only=True):
    """A device to make; what is not given is read from the host's."""

    path: str
    host_path: str = ""
    type: str = ""
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    permissions: str = ""
    uid: int | None = None
    gid: int | None = None


class CdiMount(_Part, frozen=True, kw_only=True):
    host_path: str
    container_path: str
    options: tuple[str, ...] = ()
    type: str = ""


class Hook(_Part, frozen=True, kw_only=True):
    hook_name: str
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


class IntelRdt(_Part, frozen=True, kw_only=True):
    clos_id: str = msgspec.field(default="", name="closID")
    l3_cache_schema: str = msgspec.field(default="", name="l3CacheSchema")
    mem_bw_schema: str = msgspec.field(default="", name="memBwSchema")
    schemata: tuple[str, ...] = ()
    enable_monitoring: bool = False
    enable_cmt: bool = msgspec.field(default=False, name="enableCMT")
    enable_mbm: bool = msgspec.field(default=False, name="enableMBM")


class NetDevice(_Part, frozen=True, kw_only=True):
    host_interface_name: str
    name: str


class Edits(_Part, frozen=True, kw_only=True):
    """What changes in a container."""

    env: tuple[str, ...] = ()
    device_nodes: tuple[DeviceNode, ...] = ()
    net_devices: tuple[NetDevice, ...] = ()
    hooks: tuple[Hook, ...] = ()
    mounts: tuple[CdiMount, ...] = ()
    intel_rdt: IntelRdt | None = None
    additional_gids: tuple[int, ...] = msgspec.field(default=(), name="additionalGids")


class CdiDevice(_Part, frozen=True, kw_only=True):
    name: str
    annotations: Mapping[str, str] = {}
    container_edits: Edits


class CdiSpec(_Part, frozen=True, kw_only=True):
    """One file."""

    cdi_version: str
    kind: str
    annotations: Mapping[str, str] = {}
    devices: tuple[CdiDevice, ...]
    container_edits: Edits = Edits()


# ------------------------------------------------------------------------------------------------------------ files


def inject(spec: Spec, names: Sequence[str], folders: Sequence[str]) -> None:
    """Change a container's ``config.json`` as its devices want it. Blocks. Raises RuntimeFailure.

    Args: names: ``vendor.com/class=name``;  folders: where spec files lie, the weightiest last.
    """
    before = spec["mounts"]
    try:
        for edits in _edits(names, found_devices(folders)):
            _apply(spec, edits)
    except RuntimeFailure as err:
        raise RuntimeFailure(f"CDI device injection failed: {err}") from err
    if spec["mounts"] is not before:  # none may hide another
        spec["mounts"].sort(key=lambda mount: os.path.normpath(mount["destination"]).count("/"))


def _edits(names: Sequence[str], known: Mapping[str, tuple[CdiSpec, CdiDevice]]) -> list[Edits]:
    """Those of each device, before them once those that its whole file asks for. Raises RuntimeFailure."""
    missing = [name for name in names if name not in known]
    if missing:
        raise RuntimeFailure(f"unresolvable CDI devices {', '.join(missing)}")
    wanted: list[Edits] = []
    files: set[int] = set()
    for name in dict.fromkeys(names):
        file, device = known[name]
        if id(file) not in files:
            files.add(id(file))
            wanted.append(file.container_edits)
        wanted.append(device.container_edits)
    return wanted


def found_devices(folders: Sequence[str]) -> dict[str, tuple[CdiSpec, CdiDevice]]:
    """{``vendor.com/class=name``: its file and itself} of every file that is valid."""
    found: dict[str, tuple[CdiSpec, CdiDevice]] = {}
    for folder in folders:
        here: dict[str, tuple[CdiSpec, CdiDevice]] = {}
        twice = set()
        for path, spec in _specs(folder):
            for device in spec.devices:
                name = f"{spec.kind}={device.name}"
                if name in here:
                    twice.add(name)
                    log.warning("CDI device is described twice", device=name, path=path)
                here[name] = spec, device
        found.update(here)
        for name in twice:
            del found[name]
    return found


def _specs(folder: str) -> Iterator[tuple[str, CdiSpec]]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:  # none, or none that may be read
        return
    for name in names:
        path = os.path.join(folder, name)
        if not name.endswith((".json", ".yaml")) or os.path.isdir(path):
            continue
        try:
            yield path, read_spec(Path(path))
        except (OSError, ValueError) as err:
            log.warning("CDI spec not used", path=path, error=str(err))


def read_spec(path: Path) -> CdiSpec:
    """Raises ValueError for what is no valid spec, OSError."""
    if path.suffix == ".json":
        spec = msgspec.json.decode(path.read_bytes(), type=CdiSpec)
    else:
        from ...api import yaml

        spec = msgspec.convert(yaml.load(path.read_bytes()), CdiSpec)
    check(spec)
    return spec


def check(spec: CdiSpec) -> None:
    """Raises ValueError for a spec that no runtime may use."""
    version = spec.cdi_version.removeprefix("v")
    if version not in _VERSIONS:
        raise ValueError(f'unknown version "{spec.cdi_version}"')
    least = least_version(spec)
    if _VERSIONS.index(version) < _VERSIONS.index(least):
        raise ValueError(f"the spec version must be at least v{least}")
    if not _KIND.fullmatch(spec.kind):
        raise ValueError(f'invalid kind "{spec.kind}"')
    if not spec.devices:
        raise ValueError("invalid spec, no devices")
    seen = set()
    for device in spec.devices:
        if not _NAME.fullmatch(device.name):
            raise ValueError(f'invalid device name "{device.name}"')
        if device.name in seen:
            raise ValueError(f'invalid spec, multiple device "{device.name}"')
        if device.container_edits == Edits():
            raise ValueError(f'invalid device "{device.name}", empty device edits')
        seen.add(device.name)
    for edits in (spec.container_edits, *(device.container_edits for device in spec.devices)):
        _check_edits(edits)


def _check_edits(edits: Edits) -> None:
    for entry in edits.env:
        if not entry.partition("=")[0] or "=" not in entry:
            raise ValueError(f'invalid environment variable "{entry}"')
    for node in edits.device_nodes:
        if not node.path or node.type not in ("", "b", "c", "u", "p") or set(node.permissions) - set("rwm"):
            raise ValueError(f'device "{node.path}": invalid type "{node.type}" or permissions "{node.permissions}"')
    for hook in edits.hooks:
        if hook.hook_name not in _HOOKS or not hook.path:
            raise ValueError(f'invalid hook name "{hook.hook_name}" or path "{hook.path}"')
    for mount in edits.mounts:
        if not mount.host_path or not mount.container_path:
            raise ValueError("invalid mount, empty host or container path")
    rdt = edits.intel_rdt
    if rdt is not None and (len(rdt.clos_id) >= 4096 or rdt.clos_id in (".", "..") or set(rdt.clos_id) & set("/\n")):
        raise ValueError("invalid ClosID")


def least_version(spec: CdiSpec) -> str:
    """The version of CDI in which the last came of what a spec uses."""
    every = (spec.container_edits, *(device.container_edits for device in spec.devices))
    kind = spec.kind.partition("/")[2]
    if any(edits.net_devices or (edits.intel_rdt and edits.intel_rdt.schemata) for edits in every):
        return "1.1.0"
    if any(edits.intel_rdt or edits.additional_gids for edits in every):
        return "0.7.0"
    if spec.annotations or any(device.annotations for device in spec.devices) or "." in kind:
        return "0.6.0"
    nodes = (node for edits in every for node in edits.device_nodes)
    if any(node.host_path for node in nodes) or any(not device.name[:1].isalpha() for device in spec.devices):
        return "0.5.0"
    return "0.4.0" if any(mount.type for edits in every for mount in edits.mounts) else "0.3.0"


# ------------------------------------------------------------------------------------------------------------ edits


def _apply(spec: Spec, edits: Edits) -> None:
    process, linux = spec["process"], spec["linux"]
    _add_env(process["env"], edits.env)
    for node in edits.device_nodes:
        _add_device(linux, node, process["user"])
    for device in edits.net_devices:
        linux.setdefault("netDevices", {})[device.host_interface_name] = {"name": device.name}
    for mount in edits.mounts:
        spec["mounts"] = [one for one in spec["mounts"] if one["destination"] != mount.container_path]
        spec["mounts"].append(_mount(mount))
    for hook in edits.hooks:
        spec.setdefault("hooks", {}).setdefault(hook.hook_name, []).append(_hook(hook))
    if edits.intel_rdt is not None:
        linux["intelRdt"] = {key: value for key, value in msgspec.to_builtins(edits.intel_rdt).items() if value}
    groups = process["user"]["additionalGids"]
    groups += [gid for gid in dict.fromkeys(edits.additional_gids) if gid and gid not in groups]


def _add_env(env: list[str], added: Sequence[str]) -> None:
    """A variable that is there already is replaced where it stands."""
    places = {entry.partition("=")[0]: place for place, entry in enumerate(env)}
    for entry in added:
        name = entry.partition("=")[0]
        if name in places:
            env[places[name]] = entry
        else:
            places[name] = len(env)
            env.append(entry)


def _add_device(linux: Spec, node: DeviceNode, user: Mapping[str, Any]) -> None:
    """The device, owned by the container's user unless the spec says whose it is, and the leave to use it."""
    node = _filled(node)
    device: Spec = {"path": node.path, "type": node.type, "major": node.major, "minor": node.minor}
    if node.file_mode is not None:
        device["fileMode"] = node.file_mode
    uid = node.uid if node.uid is not None else user["uid"] or None
    gid = node.gid if node.gid is not None else user["gid"] or None
    device |= {key: value for key, value in (("uid", uid), ("gid", gid)) if value is not None}
    others = [one for one in linux.get("devices", ()) if one["path"] != node.path]
    linux["devices"] = [*others, device]
    if node.type in ("b", "c"):
        access = node.permissions or "rwm"
        rule = {"allow": True, "type": node.type, "major": node.major, "minor": node.minor, "access": access}
        linux["resources"]["devices"].append(rule)


def _filled(node: DeviceNode) -> DeviceNode:
    """With the type and the numbers of the host's device. Raises RuntimeFailure."""
    if node.type and (node.major or node.type == "p"):
        return node
    path = node.host_path or node.path
    try:
        facts = os.stat(path)
    except OSError as err:
        raise RuntimeFailure(f'failed to stat CDI host device "{path}": {err.strerror}') from err
    kind = {stat.S_IFCHR: "c", stat.S_IFBLK: "b", stat.S_IFIFO: "p"}.get(stat.S_IFMT(facts.st_mode))
    if kind is None:
        raise RuntimeFailure(f'CDI host device "{path}" is no device')
    if node.type and node.type != kind:
        raise RuntimeFailure(f'CDI device ("{node.path}", "{path}"), host type mismatch ({node.type}, {kind})')
    mode = node.file_mode if node.file_mode is not None else stat.S_IMODE(facts.st_mode)
    major, minor = (os.major(facts.st_rdev), os.minor(facts.st_rdev)) if kind != "p" else (0, 0)
    return msgspec.structs.replace(node, type=kind, major=major, minor=minor, file_mode=mode)


def _mount(mount: CdiMount) -> Spec:
    made: Spec = {"destination": mount.container_path, "source": mount.host_path, "options": list(mount.options)}
    if mount.type:
        made["type"] = mount.type
    return made


def _hook(hook: Hook) -> Spec:
    made: Spec = {"path": hook.path}
    if hook.args:
        made["args"] = list(hook.args)
    if hook.env:
        made["env"] = list(hook.env)
    if hook.timeout is not None:
        made["timeout"] = hook.timeout
    return made
