"""All volumes of a pod: prepared before its containers, refreshed while they run, removed after them.

    <root>/pods/<uid>/volumes/kubernetes.io~configmap/<name>

The idea: preparing is repeatable, so refreshing is preparing again; only what differs is written.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from pathlib import Path

from kaa.api import quantity
from kaa.api.clock import Clock
from kaa.api.errors import ApiError
from kaa.api.types.core_v1 import (
    ConfigMap,
    PersistentVolume,
    PersistentVolumeClaim,
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
from . import atomic, host_path
from .mounts import Mounter
from .payload import DEFAULT_MODE, File, PayloadError, config_map_files, downward_files, secret_files
from .tokens import Tokens


class VolumeError(Exception):
    """A volume cannot be had (yet); the message is the FailedMount event's."""


@dataclass(slots=True)
class Prepared:
    """Host paths by volume name, and when a token in them is to be renewed."""

    paths: dict[str, Path] = field(default_factory=dict)
    refresh_at: float | None = None

    def renew(self, at: float) -> None:
        self.refresh_at = at if self.refresh_at is None else min(self.refresh_at, at)


class Volumes:
    def __init__(self, client: Client, clock: Clock, objects: Objects, root: Path, mounter: Mounter) -> None:
        self._client, self._clock, self._objects = client, clock, objects
        self._root, self._mounter = root, mounter
        self._tokens = Tokens(client, clock)
        self._trash = Trash(root / "trash")

    def pod_dir(self, uid: str) -> Path:
        return self._root / "pods" / uid

    async def prepare(self, pod: Pod, sources: Sources) -> Prepared:
        """Make every volume of a pod true. Raises VolumeError for the first that cannot be."""
        made = Prepared()
        for volume in pod.spec.volumes:
            if volume.image is not None:  # the runtime's to mount
                continue
            try:
                made.paths[volume.name] = await self._one(pod, volume, sources, made)
            except (PayloadError, ConfigError, ApiError, OSError, ValueError) as err:
                raise VolumeError(f'MountVolume.SetUp failed for volume "{volume.name}" : {err}') from err
        return made

    async def _one(self, pod: Pod, volume: Volume, sources: Sources, made: Prepared) -> Path:
        if volume.host_path is not None:
            return await asyncio.to_thread(host_path.prepare, volume.host_path)
        if volume.persistent_volume_claim is not None:
            return await self._claimed(pod, volume.persistent_volume_claim.claim_name)
        if volume.ephemeral is not None:
            return await self._claimed(pod, f"{pod.metadata.name}-{volume.name}")
        if volume.empty_dir is not None:
            folder = self._folder(pod, "empty-dir", volume.name)
            in_memory = volume.empty_dir.medium == "Memory"
            size = quantity.whole(volume.empty_dir.size_limit) if volume.empty_dir.size_limit else None
            await asyncio.to_thread(self._empty, folder, in_memory, size, _fs_group(pod))
            return folder
        kind, files, in_memory = await self._payload(pod, volume, sources, made)
        folder = self._folder(pod, kind, volume.name)
        await asyncio.to_thread(self._write, folder, files, in_memory, _fs_group(pod))
        return folder

    def _folder(self, pod: Pod, kind: str, name: str) -> Path:
        return self.pod_dir(pod.metadata.uid or "") / "volumes" / f"kubernetes.io~{kind}" / name

    def _empty(self, folder: Path, in_memory: bool, size: int | None, group: int | None) -> None:
        if not folder.exists():
            folder.mkdir(parents=True)
            folder.chmod(0o777)
        if in_memory:
            self._mounter.tmpfs(folder, size)
        if group is not None:
            os.chown(folder, -1, group)
            folder.chmod(0o2777)

    def _write(self, folder: Path, files: dict[str, File], in_memory: bool, group: int | None) -> None:
        if not folder.exists():
            folder.mkdir(parents=True)
            folder.chmod(0o755)
        if in_memory:
            self._mounter.tmpfs(folder, None)
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
        for source in volume.sources:
            files.update(await self._projection(pod, source, _mode(volume.default_mode), sources, made))
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
            token = await self._tokens.get(pod, wanted)
            made.renew(token.renew_at)
            return {wanted.path: File(token.text.encode(), _token_mode(pod, mode))}
        raise PayloadError("this source of a projected volume is not supported")

    async def _fetch_map(self, pod: Pod, name: str) -> ConfigMap | None:
        return await self._objects.fetch(ConfigMap, pod.metadata.namespace or "", name, user=pod.metadata.uid or "")

    async def _fetch_secret(self, pod: Pod, name: str) -> Secret | None:
        return await self._objects.fetch(Secret, pod.metadata.namespace or "", name, user=pod.metadata.uid or "")

    async def _claimed(self, pod: Pod, claim_name: str) -> Path:
        """The path behind a claim that is bound to a hostPath or local volume."""
        claim = await self._client.get(PersistentVolumeClaim, claim_name, pod.metadata.namespace)
        if claim.status.phase != "Bound" or not claim.spec.volume_name:
            raise PayloadError(f'persistentvolumeclaim "{claim_name}" is not bound')
        held = await self._client.get(PersistentVolume, claim.spec.volume_name)
        if held.spec.host_path is not None:
            return await asyncio.to_thread(host_path.prepare, held.spec.host_path)
        if held.spec.local is not None:
            path = Path(held.spec.local.path)
            if not await asyncio.to_thread(path.exists):
                raise PayloadError(f'path "{path}" does not exist')
            return path
        raise PayloadError(f'persistentvolume "{held.metadata.name}" is of a kind this node cannot mount')

    async def remove(self, uid: str) -> None:
        """Unmount and remove what a pod had here. Never leaves the pods folder, by link or by mount."""
        await asyncio.to_thread(self._remove, uid)
        self._tokens.release(uid)

    def _remove(self, uid: str) -> None:
        folder = self.pod_dir(uid)
        self._mounter.unmount_below(folder)
        self._trash.put(folder, root=self._root / "pods")

    def known_uids(self) -> list[str]:
        """Pods that have a folder here. What an earlier life threw away is no longer among them."""
        self._trash.open()
        pods = self._root / "pods"
        return [entry.name for entry in pods.iterdir() if entry.is_dir()] if pods.is_dir() else []


def _mode(mode: int | None) -> int:
    return DEFAULT_MODE if mode is None else mode


def _fs_group(pod: Pod) -> int | None:
    return pod.spec.security_context.fs_group if pod.spec.security_context else None


def _token_mode(pod: Pod, mode: int) -> int:
    """With an fsGroup a token is its group's to read and nobody else's; without one the volume's mode stands."""
    return 0o600 if _fs_group(pod) is not None else mode
