"""Pods that no API server asked for: from files and URLs, and host processes shown as if they were pods.

A static pod runs from its manifest, whether or not an API server answers; a mirror pod shows it in the API. The mirror's
annotation ``kubernetes.io/config.mirror`` holds the manifest's hash: a mirror of another hash is deleted and made anew. Of two
manifests of one name, the new one begins when the old one's pod has ended. A host process is a mirror pod without a pod.
Source: pkg/kubelet (pod_workers, kubelet_pods), pkg/kubelet/pod/mirror_client.go.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog
from msgspec.structs import replace

from kaa.api.clock import Clock, format_time
from kaa.api.errors import AlreadyExists, ApiError, NotFound
from kaa.api.types.core_v1 import (
    Container,
    ContainerState,
    ContainerStateRunning,
    ContainerStatus,
    HostIP,
    Node,
    Pod,
    PodCondition,
    PodIP,
    PodSpec,
    PodStatus,
)
from kaa.api.types.meta_v1 import DeleteOptions, ObjectMeta, OwnerReference, Preconditions
from kaa.client.client import Client
from kaa.client.informer import Informer

from .config import HostProcess, KubeletConfig
from .static_sources import HASH, MIRROR, SEEN, SOURCE, TOLERATE_ALL, PathSource, UrlSource, watch
from .status_writer import StatusWriter

__all__ = [
    "HASH",
    "MIRROR",
    "SEEN",
    "SOURCE",
    "Mirrors",
    "StaticPods",
    "host_process_pod",
    "host_process_status",
    "is_mirror",
]

log = structlog.get_logger(__name__)
HOST_PROCESS = "kaa.dev/host-process"
MIRRORS_KNOWN_S, MIRROR_PERIOD_S, SETTLE_S = 2.0, 20.0, 0.1


def host_process_pod(process: HostProcess, node_name: str) -> Pod:
    """The pod that stands for a component running on the node itself."""
    labels = {
        "component": process.component,
        "tier": "control-plane",
        "kaa.dev/runs-as": "host-process",
        **process.labels,
    }
    text = f"{node_name}/{process.name}/{process.image}/{process.command}/{sorted(labels.items())}"
    digest = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    annotations = {HASH: digest, SEEN: format_time(process.started_at), SOURCE: "file", HOST_PROCESS: process.component}
    return Pod(
        metadata=ObjectMeta(
            name=f"{process.name}-{node_name}",
            namespace="kube-system",
            uid=digest,
            labels=labels,
            annotations=annotations,
        ),
        spec=PodSpec(
            containers=(
                Container(
                    name=process.name, image=process.image, image_pull_policy="IfNotPresent", command=process.command
                ),
            ),
            host_network=True,
            node_name=node_name,
            priority_class_name="system-node-critical",
            restart_policy="Always",
            termination_grace_period_seconds=30,
            dns_policy="ClusterFirst",
            enable_service_links=True,
            tolerations=(TOLERATE_ALL,),
        ),
    )


def host_process_status(mirror: Pod, process: HostProcess, host_ips: tuple[str, ...]) -> PodStatus:
    """Running and ready since the process began."""
    since = format_time(process.started_at)
    types = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    return replace(
        mirror.status,
        phase="Running",
        conditions=tuple(
            PodCondition(
                type=t, status="True", last_transition_time=since, observed_generation=mirror.metadata.generation
            )
            for t in types
        ),
        host_ip=host_ips[0] if host_ips else None,
        host_ips=tuple(HostIP(ip=ip) for ip in host_ips),
        pod_ip=host_ips[0] if host_ips else None,
        pod_ips=tuple(PodIP(ip=ip) for ip in host_ips),
        start_time=since,
        qos_class=mirror.status.qos_class or "BestEffort",
        observed_generation=mirror.metadata.generation,
        container_statuses=(
            ContainerStatus(
                name=process.name,
                image=process.image,
                image_id=process.image,
                container_id=f"kaa://{mirror.metadata.annotations.get(HASH, '')}",
                ready=True,
                started=True,
                restart_count=0,
                state=ContainerState(running=ContainerStateRunning(started_at=since)),
            ),
        ),
    )


def is_mirror(pod: Pod) -> bool:
    return MIRROR in pod.metadata.annotations


class Mirrors:
    """Keeps one mirror pod a static pod at the API server."""

    def __init__(self, client: Client, node_name: str, existing: Callable[[str, str], Pod | None]) -> None:
        self._client, self._node, self._existing = client, node_name, existing

    async def ensure(self, pod: Pod) -> Pod | None:
        """The mirror of a static pod, made (or made anew) if need be; None while the node is not there to own it."""
        meta = pod.metadata
        mirror = self._existing(meta.namespace or "", meta.name or "")
        if mirror is not None:
            same = mirror.metadata.annotations.get(MIRROR) == meta.annotations[HASH]
            if same and not mirror.metadata.deletion_timestamp:
                return mirror
            await self.delete(mirror)
        try:
            node = await self._client.get(Node, self._node)
        except NotFound:
            return None
        if node.metadata.deletion_timestamp:
            return None
        owner = OwnerReference(
            api_version="v1", kind="Node", name=self._node, uid=node.metadata.uid or "", controller=True
        )
        annotations = {**meta.annotations, MIRROR: meta.annotations[HASH]}
        fresh = replace(
            pod,
            metadata=replace(meta, uid=None, annotations=annotations, owner_references=(owner,)),
            status=PodStatus(),
        )
        try:
            return await self._client.create(fresh)
        except AlreadyExists:
            return await self._client.get(Pod, meta.name or "", meta.namespace)

    async def delete(self, mirror: Pod) -> None:
        options = DeleteOptions(grace_period_seconds=0, preconditions=Preconditions(uid=mirror.metadata.uid))
        try:
            await self._client.delete(Pod, mirror.metadata.name or "", mirror.metadata.namespace, options=options)
        except NotFound:
            return


class Worker(Protocol):
    """What a static pod is run by: a pod worker."""

    @property
    def static(self) -> bool: ...

    @property
    def pod(self) -> Pod: ...

    def update(self, pod: Pod) -> None: ...

    def mirrored(self, mirror: Pod) -> None: ...

    def remove(self) -> None: ...


class StaticPods:
    """Runs the node's static pods and keeps their mirrors.

    ``begin`` starts a worker of a pod, with its mirror if one is known; ``ended`` is to be called when one has ended, and
    ``mirrors_changed`` when a mirror did.
    """

    def __init__(
        self,
        client: Client,
        clock: Clock,
        config: KubeletConfig,
        pods: Informer[Pod],
        workers: Mapping[str, Worker],
        begin: Callable[[Pod, Pod | None], None],
        statuses: StatusWriter,
        registered: asyncio.Event,
    ) -> None:
        self._clock, self._config, self._pods = clock, config, pods
        self._workers, self._begin, self._statuses, self._registered = workers, begin, statuses, registered
        self._mirrors = Mirrors(client, config.node_name, lambda namespace, name: pods.get(name, namespace))
        self._path = PathSource(config.static_pod_path, config.node_name) if config.static_pod_path else None
        self._url = (
            UrlSource(config.static_pod_url, config.static_pod_headers, config.node_name, clock)
            if config.static_pod_url
            else None
        )
        self._found: list[Pod] = []  #: of the path
        self._wanted: dict[str, Pod] = {}
        self._look = asyncio.Event()
        self._mirror = asyncio.Event()
        self._running = False
        self.known = asyncio.Event()  #: set once it is known which static pods there are

    def ended(self) -> None:
        """A worker has ended: one of the same name may begin."""
        if self._running:
            self._apply()

    def mirrors_changed(self) -> None:
        self._mirror.set()

    async def run(self) -> None:
        """Until cancelled; returns at once where there is nothing to run or to show."""
        if self._path is None and self._url is None:
            self.known.set()
            if not self._config.host_processes:
                return
        self._running = True
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_pods(), name="kubelet/static-pods")
                tasks.create_task(self._keep_mirrors(), name="kubelet/mirrors")
        finally:
            self._running = False

    # ------------------------------------------------------------------------------------------------ pods

    async def _keep_pods(self) -> None:
        await self._wait(self._pods.synced, MIRRORS_KNOWN_S)  # a mirror tells what probes found in an earlier life
        async with asyncio.TaskGroup() as tasks:
            if self._path is not None:
                tasks.create_task(self._follow_path(self._path), name="kubelet/static-path")
            if self._url is not None:
                tasks.create_task(self._follow_url(self._url), name="kubelet/static-url")

    async def _follow_path(self, path: PathSource) -> None:
        assert self._config.static_pod_path is not None
        with watch(self._config.static_pod_path, self._look.set):
            while True:
                self._look.clear()
                try:
                    self._found = await asyncio.to_thread(path.read, self._clock.now())
                    self.known.set()
                    self._apply()
                except OSError as err:
                    log.warning("unable to read static pods", path=str(self._config.static_pod_path), error=str(err))
                await self._wait(self._look, self._config.file_check_s)
                if self._look.is_set():
                    await self._clock.sleep(SETTLE_S)  # a file that is being written is read once it stands

    async def _follow_url(self, url: UrlSource) -> None:
        while True:
            if await url.read():
                self._apply()
            if self._path is None:
                self.known.set()
            await self._clock.sleep(self._config.http_check_s)

    def _apply(self) -> None:
        """Begin what is new, end what is gone. Of one name there is one pod at a time."""
        self._wanted = self._unique([*self._found, *(self._url.pods if self._url is not None else ())])
        running = {_full_name(worker.pod): uid for uid, worker in self._workers.items() if worker.static}
        for uid in running.values():
            if uid not in self._wanted:
                self._workers[uid].remove()
        for uid, pod in self._wanted.items():
            worker = self._workers.get(uid)
            if worker is not None:
                if worker.pod.spec != pod.spec or worker.pod.metadata != pod.metadata:
                    worker.update(pod)
            elif _full_name(pod) not in running:
                self._begin(pod, self._known_mirror(pod))
        self._mirror.set()

    def _unique(self, pods: list[Pod]) -> dict[str, Pod]:
        """{uid: pod}, the first of each name."""
        made: dict[str, Pod] = {}
        taken: set[tuple[str, str]] = set()
        for pod in pods:
            if _full_name(pod) in taken or pod.metadata.uid in made:
                log.warning("a static pod of this name is there already", pod="/".join(_full_name(pod)))
                continue
            taken.add(_full_name(pod))
            made[pod.metadata.uid or ""] = pod
        return made

    def _known_mirror(self, pod: Pod) -> Pod | None:
        namespace, name = _full_name(pod)
        found = self._pods.get(name, namespace)
        same = found is not None and found.metadata.annotations.get(MIRROR) == pod.metadata.annotations[HASH]
        return found if same else None

    # ------------------------------------------------------------------------------------------------ mirrors

    async def _keep_mirrors(self) -> None:
        await self._registered.wait()
        await self._pods.synced.wait()
        await self.known.wait()
        while True:
            self._mirror.clear()
            for work in (self._show_pods, self._show_processes, self._drop):
                try:
                    await work()
                except (ApiError, OSError, TimeoutError) as err:
                    log.warning("static pods not mirrored", error=str(err))
            await self._wait(self._mirror, MIRROR_PERIOD_S)

    async def _show_pods(self) -> None:
        failed: Exception | None = None
        for uid, pod in list(self._wanted.items()):
            worker = self._workers.get(uid)
            if worker is None:  # it waits for the one before it, and so does its mirror
                continue
            try:
                mirror = await self._mirrors.ensure(pod)
            except (ApiError, OSError, TimeoutError) as err:
                failed = err
                continue
            if mirror is not None:
                worker.mirrored(mirror)
        if failed is not None:
            raise failed

    async def _show_processes(self) -> None:
        for process in self._config.host_processes:
            mirror = await self._mirrors.ensure(host_process_pod(process, self._config.node_name))
            if mirror is not None:
                self._statuses.set(mirror, host_process_status(mirror, process, self._config.node_ips))

    async def _drop(self) -> None:
        """Mirrors of pods that this node no longer has, once these have ended."""
        kept = {pod.metadata.annotations[HASH] for pod in self._wanted.values()}
        processes = (host_process_pod(one, self._config.node_name) for one in self._config.host_processes)
        kept |= {pod.metadata.annotations[HASH] for pod in processes}
        ending = {_full_name(worker.pod) for worker in self._workers.values() if worker.static}
        for pod in list(self._pods):
            if is_mirror(pod) and pod.metadata.annotations[MIRROR] not in kept and _full_name(pod) not in ending:
                await self._mirrors.delete(pod)
                self._statuses.forget(pod.metadata.uid or "")

    async def _wait(self, event: asyncio.Event, seconds: float) -> None:
        """Until it is set, or so long."""
        timer = asyncio.ensure_future(self._clock.sleep(seconds))
        set_ = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait((timer, set_), return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            set_.cancel()


def _full_name(pod: Pod) -> tuple[str, str]:
    return pod.metadata.namespace or "", pod.metadata.name or ""
