"""The kubelet: makes the pods that are bound to this node true, and says how they are.

The idea: sources of pods (the API server, a folder, host processes) and of news (runtime events, probes, changed objects)
only wake pod workers; each worker looks, plans and acts for itself. Nothing polls but the housekeeping, a safety net.

    kubelet = Kubelet(client, runtime, clock, KubeletConfig("node-1"), recorder)
    await kubelet.run()
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from functools import cached_property
from typing import TYPE_CHECKING

import structlog

from kaa.api import quantity
from kaa.api.clock import Clock
from kaa.api.types.core_v1 import Pod, Service
from kaa.client.client import Client
from kaa.client.informer import Informer
from kaa.runtime.base import Runtime, RuntimeFailure
from kaa.runtime.files import scatter

from .admission import HostPort
from .config import KubeletConfig, Recorder
from .evictor import Evictor
from .images.wiring import node_images
from .log_rotation import LogRotation, orphan_logs, remove_logs
from .machine import check_swap
from .memory_rules import Rules
from .metrics.counters import KubeletMetrics
from .metrics.runtime import measured
from .node import NodeKeeper
from .objects import Objects
from .plugins import Plugins
from .pod_host import PodHost
from .pod_resources.service import PodResourcesService
from .pod_worker import PodWorker
from .probing.probes import Prober
from .references import container_reference
from .room import Room
from .static_pods import StaticPods, is_mirror
from .status_writer import StatusWriter
from .tasks import Tasks
from .topology.hardware import Hardware
from .userns import UserNamespaces
from .volumes import Volumes

if TYPE_CHECKING:
    from .metrics.stats import Stats
    from .shutdown import Inhibitor, Shutdown

log = structlog.get_logger(__name__)
_CRASH_WAIT_S = 5.0


class Kubelet:
    """One node. ``run`` until cancelled; containers go on without it, and the next run finds them again."""

    def __init__(
        self,
        client: Client,
        runtime: Runtime,
        clock: Clock,
        config: KubeletConfig,
        recorder: Recorder,
        inhibitor: Inhibitor | None = None,
    ) -> None:
        self.metrics = KubeletMetrics(clock)
        runtime = measured(runtime, self.metrics, clock)
        self.client, self.runtime, self.clock, self.config = client, runtime, clock, config
        self.recorder = recorder
        self.workers: dict[str, PodWorker] = {}  #: {pod uid: its worker}
        self._room = Room(self._wake)
        self.pods: Informer[Pod] = Informer(client, Pod, clock, field_selector=f"spec.nodeName={config.node_name}")
        self._services: Informer[Service] = Informer(client, Service, clock)
        self.evictor: Evictor | None = None
        self.shutdown: Shutdown | None = None
        self.node = NodeKeeper(
            client,
            runtime,
            clock,
            config,
            recorder,
            self._pressure,
            lambda: self.plugins.resources(),
            self._shutdown_status,
        )
        if config.shutdown:
            self.shutdown = self._shutdown(inhibitor)
        images = node_images(client, runtime, clock, config, self.metrics.images)
        if config.eviction is not None:
            changed, forget = self.node.changed, images.forget
            workers = self.workers
            self.evictor = Evictor(
                runtime, clock, config, config.eviction, workers, changed, forget, metrics=self.metrics
            )
        self.hardware = Hardware(self._alive, self.metrics.hardware)
        if config.topology is not None:
            from .topology.setup import set_up

            set_up(self.hardware, config.topology, config, self.node.capacity, self._cpus_changed)
        self.plugins = Plugins(
            client,
            clock,
            config.root,
            config.node_name,
            changed=self.node.changed,
            wake=self._wake,
            loaded=self.hardware.add,
            metrics=self.metrics.hardware,
        )
        objects = Objects(client, clock, self._objects_changed)
        self._host = PodHost(
            client=client,
            runtime=runtime,
            clock=clock,
            config=config,
            recorder=recorder,
            images=images,
            volumes=Volumes(client, clock, objects, config.root, config.mounter),
            objects=objects,
            prober=Prober(
                runtime,
                clock,
                self._wake,
                self._unhealthy,
                warn=self._probe_warning,
                network=config.network_probes,
                probed=self.metrics.probed,
            ),
            statuses=StatusWriter(client, clock, self.metrics.pod_status_sync_duration_seconds.observe),
            services=self._services,
            memory_capacity_bytes=quantity.whole(self.node.capacity["memory"]),
            allocatable=self.node.allocatable,
            room=self._room,
            ports=self._ports,
            pressure=self._pressure,
            hardware=self.hardware,
            plugins=self.plugins,
            metrics=self.metrics,
            closing=self._closing,
            memory=Rules.of(
                config, *(quantity.whole(of["memory"]) for of in (self.node.capacity, self.node.allocatable))
            ),
            users=UserNamespaces(config.root, config.ids_per_pod),
        )
        self._workers = Tasks("kubelet/worker")
        self._sandboxes: dict[str, str] = {}  #: {sandbox id: pod uid}
        self.static = StaticPods(
            client,
            clock,
            config,
            self.pods,
            self.workers,
            self._begin_static,
            self._host.statuses,
            self.node.registered,
        )
        self._kept_at = clock.monotonic()
        self.ready = asyncio.Event()  #: set once the node is registered and its pods are known

    async def run(self) -> None:
        if self.config.fail_swap_on:
            check_swap()
        scatter(self.config.root / "pods")
        scatter(self.config.pod_log_root)
        self.pods.add_handler(self._pod_changed)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow_runtime(), name="kubelet/events")
                tasks.create_task(self._host.objects.run(), name="kubelet/objects")
                tasks.create_task(self._host.statuses.run(), name="kubelet/statuses")
                tasks.create_task(self._services.run(), name="kubelet/services")
                tasks.create_task(self.node.run(), name="kubelet/node")
                if self.config.pod_resources:
                    service = PodResourcesService(self.config.root, self.hardware, self._running)
                    tasks.create_task(service.run(), name="kubelet/pod-resources")
                tasks.create_task(self.static.run(), name="kubelet/static")
                tasks.create_task(self.plugins.run(self.ready), name="kubelet/plugins")
                await self._services.synced.wait()
                tasks.create_task(self.pods.run(), name="kubelet/pods")
                await self.pods.synced.wait()
                tasks.create_task(self._keep_house(), name="kubelet/housekeeping")
                tasks.create_task(LogRotation(self.runtime, self.clock, self.config).run(), name="kubelet/logs")
                if self.evictor is not None:
                    tasks.create_task(self.evictor.run(), name="kubelet/evictor")
                if self.shutdown is not None:
                    tasks.create_task(self.shutdown.run(), name="kubelet/shutdown")
                await self.node.registered.wait()
                self.ready.set()
        finally:
            await self._workers.close()
            await self._host.prober.close()

    @cached_property
    def stats(self) -> Stats:
        """What the node and its pods use, for whoever asks; most agents are never asked."""
        from .metrics.stats import Stats

        return Stats(self.runtime, self.clock, self.config, self.workers)

    @property
    def statuses(self) -> StatusWriter:
        return self._host.statuses

    def lag(self) -> str:
        """What is wrong when the kubelet has stopped looking after its pods; empty while it does."""
        behind = self.clock.monotonic() - self._kept_at
        return f"sync Loop took longer than expected: {behind:.0f}s" if behind > 2 * self.config.housekeeping_s else ""

    # ------------------------------------------------------------------------------------------------ pods

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        if old is not None and (new is None or new.metadata.uid != old.metadata.uid):
            self._pod_removed(old)
        if new is None:
            return
        if is_mirror(new):
            self.static.mirrors_changed()
            return
        uid = new.metadata.uid or ""
        worker = self.workers.get(uid)
        if worker is None:
            self._begin(PodWorker(self._host, new))
        else:
            worker.update(new)

    def _pod_removed(self, pod: Pod) -> None:
        if is_mirror(pod):
            self.static.mirrors_changed()
            return
        worker = self.workers.get(pod.metadata.uid or "")
        if worker is not None:
            worker.remove()

    def _begin(self, worker: PodWorker) -> None:
        self.workers[worker.uid] = worker
        task = self._workers.start(worker.uid, self._work(worker))
        task.add_done_callback(lambda _: self._ended(worker))

    def _ended(self, worker: PodWorker) -> None:
        """Forget a worker once its task's key is free, not before: a late watch event of its pod may come between."""
        if self.workers.get(worker.uid) is worker:
            del self.workers[worker.uid]
            self.metrics.forget_pod(worker.uid)
            self._room.forget(worker.uid)
        if worker.static:
            self.static.ended()

    def _begin_static(self, pod: Pod, mirror: Pod | None) -> None:
        worker = PodWorker(self._host, pod, static=True)
        if mirror is not None:
            worker.mirrored(mirror)
        self._begin(worker)

    async def _work(self, worker: PodWorker) -> None:
        """Run a worker to its pod's end; one that fails unforeseen is begun again."""
        while True:
            try:
                await worker.run()
                return
            except Exception:
                log.exception("pod worker failed", pod=worker.pod.metadata.name)
                await self.clock.sleep(_CRASH_WAIT_S)

    def _alive(self) -> Collection[str] | None:
        """Uids of this node's pods; None before all are known."""
        known = self.pods.synced.is_set() and self.static.known.is_set()
        return self.workers.keys() if known else None

    def _running(self) -> list[Pod]:
        """Pods that were let in and have not ended."""
        return [worker.pod for worker in self.workers.values() if worker.allocation.taken]

    def _cpus_changed(self) -> None:
        """Whatever runs may have to move to other CPUs."""
        for worker in self.workers.values():
            if worker.view.running():
                worker.wake()

    def _ports(self, uid: str) -> frozenset[HostPort]:
        others = (worker.allocation for worker in self.workers.values() if worker.uid != uid)
        return frozenset(port for other in others if other.taken for port in other.ports)

    def _pressure(self) -> frozenset[str]:
        return self.evictor.conditions if self.evictor is not None else frozenset()

    def _shutdown(self, inhibitor: Inhibitor | None) -> Shutdown:
        from .shutdown import Shutdown

        if inhibitor is None:
            from .logind import Logind

            inhibitor = Logind()
        return Shutdown(
            self.clock,
            self.config,
            self.recorder,
            self.metrics,
            self.workers,
            node=self.node.reference,
            changed=self.node.changed,
            inhibitor=inhibitor,
        )

    def _shutdown_status(self) -> str:
        return self.shutdown.status if self.shutdown is not None else ""

    def _closing(self) -> str:
        if self.shutdown is None or not self.shutdown.status:
            return ""
        from .shutdown import REFUSED_MESSAGE

        return REFUSED_MESSAGE

    def _wake(self, uid: str) -> None:
        worker = self.workers.get(uid)
        if worker is not None:
            worker.wake()

    def _objects_changed(self, uid: str) -> None:
        worker = self.workers.get(uid)
        if worker is not None:
            worker.objects_changed()

    def _unhealthy(self, pod: Pod, container: str, message: str) -> None:
        self.recorder.event(container_reference(pod, container), "Warning", "Unhealthy", message)

    def _probe_warning(self, pod: Pod, container: str, message: str) -> None:
        self.recorder.event(container_reference(pod, container), "Warning", "ProbeWarning", message)

    # ------------------------------------------------------------------------------------------------ runtime events

    async def _follow_runtime(self) -> None:
        while True:
            try:
                async for event in self.runtime.events():
                    self._wake(event.uid or await self._owner(event.sandbox_id))
            except (RuntimeFailure, OSError) as err:
                log.warning("runtime events ended", error=str(err))
            await self.clock.sleep(1.0)
            self._wake_all()

    async def _owner(self, sandbox_id: str) -> str:
        """The uid of a sandbox's pod; empty for one that is gone."""
        if sandbox_id not in self._sandboxes:
            self._sandboxes = {s.id: s.uid for s in await self.runtime.list_sandboxes()}
        return self._sandboxes.get(sandbox_id, "")

    def network_changed(self) -> None:
        """The runtime's network is there now, or gone: the node says so, and pods need not wait."""
        self.node.changed()
        for worker in list(self.workers.values()):
            worker.network_changed()

    def _wake_all(self) -> None:
        for worker in list(self.workers.values()):
            worker.wake()

    # ------------------------------------------------------------------------------------------------ housekeeping

    async def _keep_house(self) -> None:
        await self._all_known()
        while True:
            self._kept_at = self.clock.monotonic()
            try:
                await self.clean()
            except (RuntimeFailure, OSError) as err:
                log.warning("housekeeping failed", error=str(err))
            await self.clock.sleep(self.config.housekeeping_s)
            self._wake_all()

    async def _all_known(self) -> None:
        """Wait until the static pods are known, too, or a round has passed: what belongs to no pod is told only by all."""
        if self.config.static_pod_path is None:
            return
        timer = asyncio.ensure_future(self.clock.sleep(self.config.housekeeping_s))
        known = asyncio.ensure_future(self.static.known.wait())
        try:
            await asyncio.wait((timer, known), return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            known.cancel()

    async def clean(self) -> None:
        """Remove what belongs to no pod of this node: sandboxes, then folders, then cgroups."""
        if self._alive() is None:
            return
        self.hardware.forget_the_gone()
        for sandbox in await self.runtime.list_sandboxes():
            if sandbox.uid not in self.workers:
                self.metrics.orphaned_runtime_pods_total.inc()
                log.info("orphan sandbox removed", pod=f"{sandbox.namespace}/{sandbox.name}", sandbox=sandbox.id)
                await self.runtime.remove_sandbox(sandbox.id)
        await self.plugins.keep_only(self.workers)
        orphans = [uid for uid in await asyncio.to_thread(self._host.volumes.known_uids) if uid not in self.workers]
        self.metrics.orphan_pod_cleaned_volumes.set(len(orphans))
        for uid in orphans:
            await self._host.volumes.remove(uid)
            self._host.users.release(uid)
        for folder in await asyncio.to_thread(orphan_logs, self.config, self.workers):
            await asyncio.to_thread(remove_logs, self.config, folder)
        if self.config.cgroups is not None:
            for uid, path in list(self.config.cgroups.pods()):
                if uid not in self.workers:
                    await asyncio.to_thread(self.config.cgroups.remove_pod, path)
