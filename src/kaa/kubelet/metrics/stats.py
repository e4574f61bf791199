"""Gathers what the node, its pods and their containers use now: cgroups, file systems, network interfaces.

Nothing is gathered unless somebody asks. A rate of cpu is the average since it was asked for before (at least ten seconds
ago), at first since the thing began. Walking trees is dear: volumes are measured again after ``volumeStatsAggPeriod`` only.
Source: pkg/kubelet/stats, pkg/kubelet/server/stats.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from msgspec.structs import replace

from kaa.api.clock import Clock
from kaa.api.types.core_v1 import Volume
from kaa.runtime.base import Container, ContainerState, ContainerUsage, Runtime
from kaa.runtime.files import tree_usage

from .. import machine
from ..config import KubeletConfig
from ..container_config import log_directory
from ..pod_worker import PodWorker
from .cgroup_stats import CgroupReader, Usage
from .summary import (
    ContainerSample,
    Link,
    Network,
    NodeSample,
    PodSample,
    Snapshot,
    Space,
    VolumeSample,
    total,
)

_WINDOW_S = 10.0
_NOT_OUTSIDE = ("lo", "veth", "docker", "nerdctl")  # interfaces that cAdvisor does not count


class Rates:
    """Cpu in billionths of a core, by the totals that were seen: {key: where the window begins, where the next one will}."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[tuple[float, int], tuple[float, int]]] = {}

    def rate(self, key: str, used: Usage, began: float) -> int | None:
        start, latest = self._seen.get(key, ((began, 0), (began, 0)))
        if latest[1] > used.cpu_ns:  # another life of it
            start = latest = (began, 0)
        if used.at - latest[0] >= _WINDOW_S:
            start, latest = latest, (used.at, used.cpu_ns)
        self._seen[key] = (start, latest)
        passed = used.at - start[0]
        return int((used.cpu_ns - start[1]) / passed) if passed > 0 else None

    def keep_only(self, keys: Iterable[str]) -> None:
        kept = set(keys)
        self._seen = {key: value for key, value in self._seen.items() if key in kept}


class Stats:
    """``snapshot`` of all, or of cpu and memory alone."""

    def __init__(
        self,
        runtime: Runtime,
        clock: Clock,
        config: KubeletConfig,
        workers: Mapping[str, PodWorker],
        *,
        proc: Path = Path("/proc"),
    ) -> None:
        self._runtime, self._clock, self._config, self._workers, self._proc = runtime, clock, config, workers, proc
        self.reader = CgroupReader(config.cgroups.mount) if config.cgroups is not None else None
        self._rates = Rates()
        self._volumes: dict[str, tuple[float, tuple[VolumeSample, ...]]] = {}  #: {pod uid: (when, what)}
        self._images: tuple[float, int, int] | None = None  #: (when, bytes, inodes)

    async def snapshot(self, *, only_cpu_and_memory: bool = False) -> Snapshot:
        workers = [one for one in self._workers.values() if one.view.sandbox is not None]
        used: dict[str, ContainerUsage] = {}
        if self.reader is None or not only_cpu_and_memory:
            used = {one.container_id: one for one in await self._runtime.usage()}
            await self._measure_images()
        return await asyncio.to_thread(self._gather, workers, used, only_cpu_and_memory)

    async def _measure_images(self) -> None:
        now = self._clock.now()
        if self._images is None or now - self._images[0] >= self._config.volume_stats_s:
            self._images = (now, *await self._runtime.image_fs_bytes())

    def _gather(self, workers: list[PodWorker], used: Mapping[str, ContainerUsage], only: bool) -> Snapshot:
        pods = tuple(self._pod(worker, used, only) for worker in workers)
        node = self._node(pods, only)
        keys = {one.id for pod in pods for one in pod.containers} | {pod.uid for pod in pods}
        self._rates.keep_only(keys | {one.name for one in node.system} | {"/"})
        self._volumes = {uid: found for uid, found in self._volumes.items() if uid in self._workers}
        return Snapshot(node, pods)

    # ------------------------------------------------------------------------------------------------ pods

    def _pod(self, worker: PodWorker, used: Mapping[str, ContainerUsage], only: bool) -> PodSample:
        meta, view, now = worker.pod.metadata, worker.view, self._clock.now()
        assert view.sandbox is not None
        cgroup = self._config.cgroups.pod_cgroup(worker.pod) if self._config.cgroups is not None else ""
        running = [one for one in view.containers if one.state is ContainerState.RUNNING]
        samples = (self._container(worker, one, cgroup, used.get(one.id), only) for one in running)
        containers = tuple(one for one in samples if one is not None)
        whole = self.reader.usage(cgroup, now) if self.reader is not None else None
        whole = whole or total(now, (one.usage for one in containers))
        made = PodSample(
            name=meta.name or "",
            namespace=meta.namespace or "",
            uid=worker.uid,
            started_at=view.sandbox.created_at,
            cgroup=cgroup,
            usage=whole,
            rate=self._rates.rate(worker.uid, whole, view.sandbox.created_at),
            containers=containers,
        )
        if only:
            return made
        volumes = self._volumes_of(worker)
        return replace(
            made,
            network=self._network_of(worker, cgroup, running),
            volumes=volumes,
            ephemeral=self._ephemeral(worker, containers, volumes),
            processes=whole.pids,
        )

    def _container(
        self, worker: PodWorker, one: Container, cgroup: str, used: ContainerUsage | None, only: bool
    ) -> ContainerSample | None:
        usage = self.reader.usage(f"{cgroup}/{one.id}", self._clock.now()) if self.reader is not None else None
        usage = usage or (_usage(used) if used is not None else None)
        if usage is None:
            return None
        rootfs = logs = None
        if not only:
            rootfs = self._space(self._config.root, used.rootfs_bytes, used.rootfs_inodes) if used is not None else None
            folder = log_directory(self._config, worker.pod) / one.name
            logs = self._space(self._config.pod_log_root, *tree_usage(folder))
        rate = self._rates.rate(one.id, usage, one.started_at)
        return ContainerSample(one.name, one.started_at, usage, rate, one.id, _image(worker, one), rootfs, logs)

    def _network_of(self, worker: PodWorker, cgroup: str, running: list[Container]) -> Network | None:
        """By the eyes of a process inside; a pod with the node's network has none of its own."""
        if self.reader is None or worker.pod.spec.host_network:
            return None
        for one in running:
            for pid in self.reader.processes(f"{cgroup}/{one.id}")[:1]:
                return self._links(str(pid))
        return None

    def _links(self, pid: str) -> Network | None:
        try:
            text = (self._proc / pid / "net/dev").read_text()
        except OSError:
            return None
        return Network(self._clock.now(), read_links(text))

    def _volumes_of(self, worker: PodWorker) -> tuple[VolumeSample, ...]:
        now = self._clock.now()
        known = self._volumes.get(worker.uid)
        if known is None or now - known[0] >= self._config.volume_stats_s:
            paths = worker.volume_paths
            found = (self._volume(worker, one, paths[one.name]) for one in worker.pod.spec.volumes if one.name in paths)
            known = self._volumes[worker.uid] = (now, tuple(one for one in found if one is not None))
        return known[1]

    def _volume(self, worker: PodWorker, volume: Volume, path: Path) -> VolumeSample | None:
        """None for what nobody counts: a folder of the node's own, a block device."""
        if volume.host_path is not None or not path.is_dir():
            return None
        if volume.persistent_volume_claim is not None:
            return VolumeSample(volume.name, self._space(path), volume.persistent_volume_claim.claim_name)
        if volume.ephemeral is not None:
            return VolumeSample(volume.name, self._space(path), f"{worker.pod.metadata.name}-{volume.name}")
        return VolumeSample(volume.name, self._space(path, *tree_usage(path)))

    def _ephemeral(
        self, worker: PodWorker, containers: tuple[ContainerSample, ...], volumes: tuple[VolumeSample, ...]
    ) -> Space:
        """Writable layers, logs, and the volumes that are on the node's disk."""
        in_memory = {one.name for one in worker.pod.spec.volumes if one.empty_dir and one.empty_dir.medium == "Memory"}
        parts = [part for one in containers for part in (one.rootfs, one.logs) if part is not None]
        parts += [one.space for one in volumes if not one.claim and one.name not in in_memory]
        used, inodes = (sum(amounts) for amounts in _columns(parts))
        return self._space(self._config.root, used, inodes)

    # ------------------------------------------------------------------------------------------------ node

    def _node(self, pods: tuple[PodSample, ...], only: bool) -> NodeSample:
        now = self._clock.now()
        used = self.reader.usage("/", now) if self.reader is not None else None
        used = used or total(now, (pod.usage for pod in pods if pod.usage is not None))
        began = self._booted()
        meminfo = machine.memory(self._proc)
        full = not only
        images = self._images
        return NodeSample(
            name=self._config.node_name,
            started_at=began,
            usage=used,
            memory_bytes=meminfo.get("MemTotal", 0),
            swap_total_bytes=meminfo.get("SwapTotal", 0),
            rate=self._rates.rate("/", used, began),
            network=self._links("self") if full else None,
            fs=self._space(self._config.root) if full else None,
            images=self._space(self._config.root, images[1], images[2]) if full and images is not None else None,
            max_pid=(machine.process_limit(self._proc) or None) if full else None,
            processes=(machine.processes(self._proc) or None) if full else None,
            system=tuple(self._system()),
        )

    def _system(self) -> Iterable[ContainerSample]:
        """The cgroups of the node that are no pod's: all pods' parent, and this process's own, where it has one."""
        if self.reader is None or self._config.cgroups is None:
            return
        named = {"kubelet": self._own_cgroup(), "pods": self._config.cgroups.kubepods}
        for name, path in named.items():
            usage = self.reader.usage(path, self._clock.now()) if path not in ("", "/") else None
            if usage is not None:
                began = self.reader.began(path)
                yield ContainerSample(name, began, usage, self._rates.rate(name, usage, began))

    def _own_cgroup(self) -> str:
        """This process's; empty where version 1 has it here in one hierarchy and there in another."""
        wanted = {""} if self.reader is not None and self.reader.v2 else {"memory", "cpuacct"}
        lines = (line.split(":", 2) for line in self._read("self/cgroup").splitlines())
        paths = {path for _, controllers, path in lines if wanted & set(controllers.split(","))}
        return paths.pop() if len(paths) == 1 else ""

    def _read(self, name: str) -> str:
        try:
            return (self._proc / name).read_text()
        except OSError:
            return ""

    def _booted(self) -> float:
        lines = (line.split() for line in self._read("stat").splitlines())
        return next((float(words[1]) for words in lines if words[:1] == ["btime"]), 0.0)

    def _space(self, path: Path, used: int | None = None, inodes_used: int | None = None) -> Space:
        """The file system at a path, and what is used of it: by all, unless it is said."""
        while not path.exists():
            path = path.parent
        disk = os.statvfs(path)
        return Space(
            at=self._clock.now(),
            available_bytes=disk.f_bavail * disk.f_frsize,
            capacity_bytes=disk.f_blocks * disk.f_frsize,
            used_bytes=(disk.f_blocks - disk.f_bfree) * disk.f_frsize if used is None else used,
            inodes_free=disk.f_ffree,
            inodes=disk.f_files,
            inodes_used=disk.f_files - disk.f_ffree if inodes_used is None else inodes_used,
        )


def _image(worker: PodWorker, one: Container) -> str:
    """The name that the pod has for a container's image, where the runtime has only its digest."""
    spec = worker.pod.spec
    named = (its.image for its in (*spec.containers, *spec.init_containers) if its.name == one.name)
    return next(named, None) or one.image if one.image.startswith("sha256:") else one.image


def _usage(used: ContainerUsage) -> Usage:
    """What a runtime tells, where this kubelet sees no cgroup of it."""
    return Usage(
        at=used.at,
        cpu_ns=used.cpu_ns,
        memory_bytes=used.memory_bytes,
        working_set_bytes=used.memory_working_set_bytes or used.memory_bytes,
        rss_bytes=used.memory_rss_bytes,
        page_faults=used.memory_page_faults,
        major_page_faults=used.memory_major_page_faults,
        pids=used.pids,
    )


def _columns(parts: Iterable[Space]) -> tuple[list[int], list[int]]:
    found = list(parts)
    return [one.used_bytes or 0 for one in found], [one.inodes_used or 0 for one in found]


def read_links(text: str) -> tuple[Link, ...]:
    """``/proc/net/dev``: the interfaces that lead outside."""
    made = []
    for line in text.splitlines()[2:]:
        name, _, counters = line.partition(":")
        name = name.strip()
        if not name.startswith(_NOT_OUTSIDE):
            n = [int(word) for word in counters.split()]
            made.append(Link(name, n[0], n[1], n[2], n[3], n[8], n[9], n[10], n[11]))
    return tuple(made)
