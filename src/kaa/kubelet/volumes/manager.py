"""All volumes of a pod: prepared before its containers, refreshed while they run, removed after them.

    <root>/pods/<uid>/volumes/kubernetes.io~configmap/<name>

The idea: preparing is repeatable, so refreshing is preparing again; only what differs is written.
"""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

from kaa.api import quantity
from kaa.api.clock import Clock
from kaa.api.errors import ApiError
from kaa.api.types.core_v1 import (
    ConfigMap,
    Pod,
    ProjectedVolumeSource,
    Secret,
    Volume,
    VolumeProjection,
)
from kaa.client.client import Client
from kaa.runtime.files import Trash

from ..env import ConfigError, Sources
from ..objects import Objects
from . import atomic, disks, empty_dir, host_path, ownership
from .claims import Claimed, VolumeError, claimed
from .mounts import Mounter
from .payload import DEFAULT_MODE, File, PayloadError, config_map_files, downward_files, secret_files
from .tokens import Tokens


@dataclass(slots=True)
class Prepared:
    """Host paths by volume name, those that are devices, and when a token in them is to be renewed."""

    paths: dict[str, Path] = field(default_factory=dict)
    devices: dict[str, Path] = field(default_factory=dict)
    read_only: set[str] = field(default_factory=set)  #: volumes that no container may write
    refresh_at: float | None = None

    def renew(self, at: float) -> None:
        self.refresh_at = at if self.refresh_at is None else min(self.refresh_at, at)


class Volumes:
    def __init__(self, client: Client, clock: Clock, objects: Objects, root: Path, mounter: Mounter) -> None:
        self._client, self._clock, self._objects = client, clock, objects
        self._root, self._mounter = root, mounter
        self._tokens = Tokens(client, clock)
        self._trash = Trash(root / "trash")
        self._disks_lock = threading.Lock()
        self._users: dict[str, str] = {}  #: {PersistentVolume: uid of the pod that used it last}
        self._given: set[tuple[str, str]] = set()  #: (pod uid, PersistentVolume) that the pod's group was given

    def pod_dir(self, uid: str) -> Path:
        return self._root / "pods" / uid

    async def prepare(self, pod: Pod, sources: Sources) -> Prepared:
        """Make every volume of a pod true. Raises VolumeError for the first that cannot be."""
        made = Prepared()
        for volume in pod.spec.volumes:
            if volume.image is not None:  # the runtime's to mount
                continue
            try:
                await self._one(pod, volume, sources, made)
            except (PayloadError, ConfigError, ApiError, OSError, ValueError) as err:
                raise VolumeError(f'MountVolume.SetUp failed for volume "{volume.name}" : {err}') from err
        return made

    async def _one(self, pod: Pod, volume: Volume, sources: Sources, made: Prepared) -> None:
        if volume.host_path is not None:
            made.paths[volume.name] = await asyncio.to_thread(host_path.prepare, volume.host_path)
        elif volume.persistent_volume_claim is not None or volume.ephemeral is not None:
            await self._claimed(pod, volume, made)
        elif volume.empty_dir is not None:
            folder = made.paths[volume.name] = self._folder(pod, "empty-dir", volume.name)
            marker = self.pod_dir(pod.metadata.uid or "") / "plugins/kubernetes.io~empty-dir" / volume.name / "ready"
            memory = _memory(sources)
            await asyncio.to_thread(empty_dir.prepare, folder, marker, volume.empty_dir, pod, self._mounter, memory)
        else:
            kind, files, in_memory = await self._payload(pod, volume, sources, made)
            folder = made.paths[volume.name] = self._folder(pod, kind, volume.name)
            made.read_only.add(volume.name)  # what the kubelet itself writes, a container only reads
            size = empty_dir.memory_size(None, pod, _memory(sources)) if in_memory else None
            await asyncio.to_thread(self._write, folder, files, in_memory, size, _fs_group(pod))

    def _folder(self, pod: Pod, kind: str, name: str) -> Path:
        return self.pod_dir(pod.metadata.uid or "") / "volumes" / f"kubernetes.io~{kind}" / name

    def _write(
        self, folder: Path, files: dict[str, File], in_memory: bool, size: int | None, group: int | None
    ) -> None:
        if not folder.exists():
            folder.mkdir(parents=True)
            folder.chmod(0o777)
        if in_memory:
            self._mounter.tmpfs(folder, size)
        atomic.write(folder, files, self._clock.now(), group=group)

    async def _payload(
        self, pod: Pod, volume: Volume, sources: Sources, made: Prepared
    ) -> tuple[str, dict[str, File], bool]:
        """(folder kind, files, whether they are for memory only) of a volume whose files come from the API."""
        if volume.config_map is not None:
            config = volume.config_map
            found = await self._fetch_map(pod, config.name or "")
            mode = _mode(config.default_mode)
            return (
                "configmap",
                config_map_files(found, config.name or "", config.items, mode, bool(config.optional)),
                False,
            )
        if volume.secret is not None:
            held = volume.secret
            name = held.secret_name or ""
            secret = await self._fetch_secret(pod, name)
            return "secret", secret_files(secret, name, held.items, _mode(held.default_mode), bool(held.optional)), True
        if volume.downward_api is not None:
            api = volume.downward_api
            return "downward-api", downward_files(pod, api.items, _mode(api.default_mode), sources), True
        if volume.projected is not None:
            return "projected", await self._projected(pod, volume.projected, sources, made), True
        raise PayloadError("no volume plugin matched name")

    async def _projected(
        self, pod: Pod, volume: ProjectedVolumeSource, sources: Sources, made: Prepared
    ) -> dict[str, File]:
        files: dict[str, File] = {}
        faults: list[str] = []
        for source in volume.sources:
            try:
                files.update(await self._projection(pod, source, _mode(volume.default_mode), sources, made))
            except (PayloadError, ConfigError, ApiError) as err:
                faults.append(str(err))
        if faults:
            different = list(dict.fromkeys(faults))
            raise PayloadError(different[0] if len(different) == 1 else f"[{', '.join(different)}]")
        return files

    async def _projection(
        self, pod: Pod, source: VolumeProjection, mode: int, sources: Sources, made: Prepared
    ) -> dict[str, File]:
        if source.config_map is not None:
            config = source.config_map
            found = await self._fetch_map(pod, config.name or "")
            return config_map_files(found, config.name or "", config.items, mode, bool(config.optional))
        if source.secret is not None:
            held = source.secret
            secret = await self._fetch_secret(pod, held.name or "")
            return secret_files(secret, held.name or "", held.items, mode, bool(held.optional))
        if source.downward_api is not None:
            return downward_files(pod, source.downward_api.items, mode, sources)
        if source.service_account_token is not None:
            wanted = source.service_account_token
            try:
                token = await self._tokens.get(pod, wanted)
            except ApiError as err:
                raise PayloadError(f"failed to fetch token: {err}") from err
            made.renew(token.renew_at)
            user = _fs_user(pod)
            guarded = user is not None or _fs_group(pod) is not None
            return {wanted.path: File(token.text.encode(), 0o600 if guarded else mode, user)}
        if source.cluster_trust_bundle is not None:
            raise PayloadError("ClusterTrustBundle projection is not supported by this API server")
        raise PayloadError("this source of a projected volume is not supported")

    async def _fetch_map(self, pod: Pod, name: str) -> ConfigMap | None:
        return await self._objects.fetch(ConfigMap, pod.metadata.namespace or "", name, user=pod.metadata.uid or "")

    async def _fetch_secret(self, pod: Pod, name: str) -> Secret | None:
        return await self._objects.fetch(Secret, pod.metadata.namespace or "", name, user=pod.metadata.uid or "")

    async def _claimed(self, pod: Pod, volume: Volume, made: Prepared) -> None:
        """What a claim leads to, for this pod's use; and its group's, if it has one."""
        found, uid = await claimed(self._client, pod, volume), pod.metadata.uid or ""
        if found.alone and self._users.get(found.volume, uid) != uid:
            raise VolumeError(
                f'MountVolume.SetUp failed for volume "{found.volume}" : volume uses the ReadWriteOncePod access mode'
                " and is already in use by another pod"
            )
        self._users[found.volume] = uid
        if found.read_only:
            made.read_only.add(volume.name)
        if found.block:
            made.devices[volume.name] = await asyncio.to_thread(self._map_device, uid, found)
            return
        path = found.path
        if found.disk:
            try:
                path = await asyncio.to_thread(self._mount_disk, uid, found)
            except PayloadError as err:
                raise VolumeError(f'MountVolume.MountDevice failed for volume "{found.volume}" : {err}') from err
        made.paths[volume.name] = path
        group = _fs_group(pod)
        if found.grouped and group is not None and (uid, found.volume) not in self._given:
            gently = _policy(pod) == "OnRootMismatch"
            await asyncio.to_thread(ownership.give_to_group, path, group, on_root_mismatch=gently)
            self._given.add((uid, found.volume))

    def _mount_disk(self, uid: str, found: Claimed) -> Path:
        with self._disks_lock:
            return disks.mount_for(
                self._root, uid, found.volume, found.path, self._mounter, kind=found.disk, options=found.options
            )

    def _map_device(self, uid: str, found: Claimed) -> Path:
        """A link to a device in the pod's folder, which says that it is the pod's."""
        link = self.pod_dir(uid) / "volumeDevices/kubernetes.io~local-volume" / found.volume
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink() or os.readlink(link) != str(found.path):
            link.unlink(missing_ok=True)
            link.symlink_to(found.path)
        return link

    async def remove(self, uid: str) -> None:
        """Unmount and remove what a pod had here. Never leaves the pods folder, by link or by mount."""
        await asyncio.to_thread(self._remove, uid)
        self._tokens.release(uid)
        self._users = {volume: user for volume, user in self._users.items() if user != uid}
        self._given = {(user, volume) for user, volume in self._given if user != uid}

    def _remove(self, uid: str) -> None:
        folder, used = self.pod_dir(uid), disks.used_by(self._root, uid)
        self._mounter.unmount_below(folder)
        with self._disks_lock:
            self._trash.put(folder, root=self._root / "pods", mounted=False)  # what was is not any more
            disks.release(self._root, used, self._mounter)

    def known_uids(self) -> list[str]:
        """Pods that have a folder here. What an earlier life threw away is no longer among them."""
        self._trash.open()
        pods = self._root / "pods"
        return [entry.name for entry in pods.iterdir() if entry.is_dir()] if pods.is_dir() else []


def _mode(mode: int | None) -> int:
    return DEFAULT_MODE if mode is None else mode


def _fs_group(pod: Pod) -> int | None:
    return pod.spec.security_context.fs_group if pod.spec.security_context else None


def _policy(pod: Pod) -> str:
    return (pod.spec.security_context.fs_group_change_policy or "") if pod.spec.security_context else ""


def _fs_user(pod: Pod) -> int | None:
    """The one user that all of a pod's containers run as, whom a token is to belong to; None when there is none."""
    of_pod = pod.spec.security_context.run_as_user if pod.spec.security_context else None
    users = set()
    for container in (*pod.spec.init_containers, *pod.spec.containers):
        own = container.security_context.run_as_user if container.security_context else None
        users.add(of_pod if own is None else own)
    return users.pop() if len(users) == 1 else None


def _memory(sources: Sources) -> int | None:
    """Bytes of memory that pods may use of the node."""
    text = sources.allocatable.get("memory")
    return quantity.whole(text) if text else None
