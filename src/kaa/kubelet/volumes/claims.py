"""Claims: from a pod's PersistentVolumeClaim to a folder or a device of this node.

Source: pkg/kubelet/volumemanager/populator (createVolumeSpec), pkg/volume/util/operationexecutor, pkg/volume/local.
"""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import Any

import msgspec

from kaa.api.errors import ApiError
from kaa.api.placement import selects
from kaa.api.types.core_v1 import Node, PersistentVolume, PersistentVolumeClaim, Pod, Volume
from kaa.client.client import Client

from . import disks, host_path
from .payload import PayloadError

DEFAULT_FILE_SYSTEM = "ext4"
_OWN_USE = "ReadWriteOncePod"


class VolumeError(Exception):
    """A volume cannot be had (yet); the message is that of an event, ``reason`` the event's."""

    @property
    def reason(self) -> str:
        return "FailedMapVolume" if str(self).startswith("MapVolume.") else "FailedMount"


class Claimed(msgspec.Struct, frozen=True):
    """What a claim gives: a folder to mount, or with ``block`` a device. ``volume``: the PersistentVolume's name."""

    volume: str
    path: Path
    block: bool = False
    read_only: bool = False
    grouped: bool = False  #: whether a pod's fsGroup is given it
    alone: bool = False  #: whether one pod at a time may have it
    disk: str = ""  #: the path is a disk to be mounted, as a file system of this kind by default
    options: tuple[str, ...] = ()  #: with which it is mounted


async def claimed(client: Client, pod: Pod, volume: Volume) -> Claimed:
    """What a volume's claim leads to, checked. Raises VolumeError."""
    source = volume.persistent_volume_claim
    name = source.claim_name if source is not None else f"{pod.metadata.name}-{volume.name}"
    try:
        claim = await _claim(client, pod, name, ephemeral=source is None)
        held = await _bound_volume(client, claim)
        _check_mode(pod, volume.name, held)
    except PayloadError as err:
        raise VolumeError(
            f"Unable to attach or mount volumes: unmounted volumes=[{volume.name}], unattached volumes=[],"
            f" failed to process volumes=[{volume.name}]: {err}"
        ) from err
    await _check_node(client, pod, held)
    return await asyncio.to_thread(_place, held, bool(source is not None and source.read_only))


async def _claim(client: Client, pod: Pod, name: str, *, ephemeral: bool) -> PersistentVolumeClaim:
    where = f"{pod.metadata.namespace}/{name}"
    try:
        claim = await client.get(PersistentVolumeClaim, name, pod.metadata.namespace)
    except ApiError as err:
        raise PayloadError(f"error processing PVC {where}: failed to fetch PVC from API server: {err}") from err
    fault = ""
    if claim.metadata.deletion_timestamp:
        fault = "PVC is being deleted"
    elif claim.status.phase != "Bound":
        fault = "PVC is not bound"
    elif not claim.spec.volume_name:
        fault = "PVC has empty pvc.Spec.VolumeName"
    if fault:
        raise PayloadError(f"error processing PVC {where}: {fault}")
    owned = any(owner.controller and owner.uid == pod.metadata.uid for owner in claim.metadata.owner_references)
    if ephemeral and not owned:
        who = f"{pod.metadata.namespace}/{pod.metadata.name}"
        raise PayloadError(f"PVC {where} was not created for pod {who} (pod is not owner)")
    return claim


async def _bound_volume(client: Client, claim: PersistentVolumeClaim) -> PersistentVolume:
    where, name = f"{claim.metadata.namespace}/{claim.metadata.name}", claim.spec.volume_name or ""
    try:
        held = await client.get(PersistentVolume, name)
    except ApiError as err:
        raise PayloadError(f"error processing PVC {where}: failed to fetch PV {name} from API server: {err}") from err
    ref = held.spec.claim_ref
    if ref is None:
        raise PayloadError(
            f"error processing PVC {where}: found PV object {name} with nil pv.Spec.ClaimRef"
            " indicating it is not yet bound to the claim"
        )
    if ref.uid != claim.metadata.uid:
        raise PayloadError(
            f"error processing PVC {where}: found PV object {name} with unexpected pv.Spec.ClaimRef.UID"
            f' ("{ref.uid}") that does not match the PVC UID ("{claim.metadata.uid}")'
        )
    return held


def _check_mode(pod: Pod, name: str, held: PersistentVolume) -> None:
    """A volume of files is mounted, one of blocks is a device: what containers want of it must fit."""
    mode = held.spec.volume_mode or "Filesystem"
    spec = pod.spec
    containers: tuple[Any, ...] = (*spec.init_containers, *spec.containers, *spec.ephemeral_containers)
    wanted = {
        "Filesystem": ("volumeMounts", any(m.name == name for one in containers for m in one.volume_mounts)),
        "Block": ("volumeDevices", any(d.name == name for one in containers for d in one.volume_devices)),
    }
    for fitting, (how, used) in wanted.items():
        if used and mode != fitting:
            raise PayloadError(f"volume {name} has volumeMode {mode}, but is specified in {how}")


async def _check_node(client: Client, pod: Pod, held: PersistentVolume) -> None:
    affinity = held.spec.node_affinity
    if affinity is None or affinity.required is None:
        return
    node = await client.get(Node, pod.spec.node_name or "")
    if not selects(affinity.required, node):
        raise VolumeError(
            f'MountVolume.NodeAffinity check failed for volume "{held.metadata.name}" : no matching NodeSelectorTerms'
        )


def _place(held: PersistentVolume, read_only: bool) -> Claimed:
    name, spec, block = held.metadata.name or "", held.spec, held.spec.volume_mode == "Block"
    alone = spec.access_modes == (_OWN_USE,)
    if spec.local is not None:
        path = _local(name, Path(spec.local.path), block)
        kind = (spec.local.fs_type or DEFAULT_FILE_SYSTEM) if not block and disks.is_disk(path) else ""
        options = (*spec.mount_options, *(("ro",) if read_only and kind else ()))
        return Claimed(name, path, block, read_only, not read_only, alone, kind, options)
    if spec.host_path is not None and not block:
        try:
            path = host_path.prepare(spec.host_path)
        except PayloadError as err:
            raise VolumeError(f'MountVolume.SetUp failed for volume "{name}" : {err}') from err
        return Claimed(name, path, read_only=read_only, alone=alone)
    step = "MapVolume" if block else "MountVolume"
    raise VolumeError(f'{step}.FindPluginBySpec failed for volume "{name}" : no volume plugin matched name')


def _local(name: str, path: Path, block: bool) -> Path:
    step = "MapVolume" if block else "MountVolume"
    if ".." in path.parts:
        raise VolumeError(f"{step}.SetUp failed for volume \"{name}\" : invalid path: {path} must not contain '..'")
    try:
        mode = os.stat(path).st_mode
    except OSError as err:
        why = f'path "{path}" does not exist' if isinstance(err, FileNotFoundError) else f"stat {path}: {err.strerror}"
        raise VolumeError(f'{step}.NewMounter initialization failed for volume "{name}" : {why}') from err
    if block and not stat.S_ISBLK(mode):
        raise VolumeError(f'MapVolume.MapPodDevice failed for volume "{name}" : {path} is not a block device')
    if not block and not (stat.S_ISDIR(mode) or stat.S_ISBLK(mode)):
        why = "only directory and block device are supported"
        raise VolumeError(f'MountVolume.NewMounter initialization failed for volume "{name}" : {why}')
    return path
