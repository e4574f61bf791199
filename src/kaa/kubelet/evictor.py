"""Keeps a node from running dry: looks every ten seconds, frees what it can, ends a pod where that is not enough.

What is decided stands in ``pressure`` and ``image_gc``; this is the loop around them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from kaa.api.clock import Clock
from kaa.api.types.core_v1 import Pod
from kaa.runtime.base import ContainerState, Runtime, RuntimeFailure

from . import image_gc, pressure
from .config import Eviction, KubeletConfig
from .container_config import log_directory
from .measure import observe, storage
from .metrics.counters import KubeletMetrics
from .pod_plan import grace_of
from .pod_worker import PodWorker
from .pressure import Observation, Usage

log = structlog.get_logger(__name__)
PERIOD_S = 10.0
_DISK = ("ephemeral-storage", "inodes")
_HARD_GRACE_S = 1.0


class Evictor:
    """``conditions`` are those that hold now; ``changed`` is called when they are others.

    ``forget_images`` is told after a collection which images (ids) there were at what time: the rest is gone.
    """

    def __init__(
        self,
        runtime: Runtime,
        clock: Clock,
        config: KubeletConfig,
        eviction: Eviction,
        workers: Mapping[str, PodWorker],
        changed: Callable[[], None],
        forget_images: Callable[[frozenset[str], float], Awaitable[None]],
        look: Callable[[], dict[str, Observation]] | None = None,
        metrics: KubeletMetrics | None = None,
    ) -> None:
        self._metrics = metrics or KubeletMetrics(clock)
        self._judged_at = 0.0
        self._runtime, self._clock, self._config, self._workers = runtime, clock, config, workers
        self._changed, self._forget_images = changed, forget_images
        self._look = look or (lambda: observe(config.root))
        self._eviction = eviction
        self._thresholds = pressure.thresholds(eviction.hard, eviction.soft, eviction.soft_grace_s, eviction.reclaim)
        self._verdict = pressure.Verdict()
        self._records: dict[str, image_gc.Record] = {}
        self._collected_at = clock.monotonic()

    @property
    def conditions(self) -> frozenset[str]:
        return self._verdict.conditions

    async def run(self) -> None:
        while True:
            await self._clock.sleep(PERIOD_S)
            try:
                await self.step()
            except (RuntimeFailure, OSError) as err:
                log.warning("pressure not looked at", error=str(err))

    async def step(self) -> None:
        """One look: conditions, then what relieves the first shortage, then pods over their own limits."""
        now = self._clock.monotonic()
        before = self._verdict
        await self._judge(now)
        if self._verdict.conditions != before.conditions:
            self._changed()
        if now - self._collected_at >= self._config.images.period_s:
            self._collected_at = now
            await self._collect_images()
        if self._verdict.shortage is not None and not await self._relieved(now):
            await self._evict_one()
        await self._evict_excess()

    async def _judge(self, now: float) -> None:
        seen = await asyncio.to_thread(self._look)
        transition_s = self._eviction.transition_s
        self._verdict = pressure.judge(self._verdict, self._thresholds, seen, now, transition_s)
        self._judged_at = self._clock.monotonic()

    async def _relieved(self, now: float) -> bool:
        """Free disk that nothing needs; says whether that was enough."""
        shortage = self._verdict.shortage
        if shortage is None or shortage.resource not in _DISK:
            return shortage is None
        await self._remove_images(1 << 62, 0.0)
        await self._judge(now)
        return self._verdict.shortage is None

    # ------------------------------------------------------------------------------------------------ images

    async def _collect_images(self) -> None:
        seen = (await asyncio.to_thread(self._look)).get(pressure.IMAGE_FS)
        if seen is not None:
            policy = self._config.images.policy
            free = image_gc.bytes_to_free(policy, seen.capacity - seen.available, seen.capacity)
            await self._remove_images(free, policy.min_age_s)

    async def _remove_images(self, free: int, min_age_s: float) -> None:
        """Remove what nobody used for too long, then as much more as is to be freed."""
        now, held = self._clock.now(), await self._runtime.list_images()
        images = [one for one in held if not one.pinned]
        used = image_gc.in_use(await self._runtime.list_containers())
        self._records = image_gc.observe(self._records, images, used, now)
        old = image_gc.too_old(images, self._records, used, now, self._config.images.policy.max_age_s)
        left = [image for image in images if image not in old]
        free -= sum(image.size_bytes for image in old)
        doomed = image_gc.to_remove(left, self._records, used, now, free, min_age_s)
        for image, why in (
            *((one, "not used for too long") for one in old),
            *((one, "its disk is full") for one in doomed),
        ):
            log.info("image removed", image=image.id, bytes=image.size_bytes, why=why)
            await self._runtime.remove_image(image.id)
            self._metrics.images.image_garbage_collected_total.inc("age" if image in old else "space")
        kept = {image.id for image in held} - {image.id for image in (*old, *doomed)}
        await self._forget_images(frozenset(kept), now)

    # ------------------------------------------------------------------------------------------------ pods

    async def _evict_one(self) -> None:
        shortage = self._verdict.shortage
        assert shortage is not None
        candidates = [worker for worker in self._workers.values() if worker.evictable]
        uses = await self._uses(candidates, shortage.resource)
        if not uses:
            log.warning("short of a resource, and no pod may be evicted", resource=shortage.resource)
            return
        victim = pressure.rank(shortage.resource, uses)[0]
        most = self._eviction.max_grace_s
        grace_s = _HARD_GRACE_S if shortage.threshold.hard else min(grace_of(victim.pod), most)
        self._evicted(shortage.threshold.signal)
        self._evict(victim.pod, pressure.eviction_message(shortage, victim), grace_s)

    def _evicted(self, signal: str) -> None:
        self._metrics.evictions.inc(signal)
        self._metrics.eviction_stats_age_seconds.observe(self._clock.monotonic() - self._judged_at, signal)

    def _evict(self, pod: Pod, message: str, grace_s: float) -> None:
        self._workers[pod.metadata.uid or ""].evict(message, grace_s)

    async def _uses(self, workers: list[PodWorker], resource: str) -> list[Usage]:
        held = {one.container_id: one for one in await self._runtime.usage()}
        made = []
        for worker in workers:
            running = {
                one.name: held.get(one.id) for one in worker.view.containers if one.state is ContainerState.RUNNING
            }
            found = {name: use for name, use in running.items() if use is not None}
            if resource == "memory":
                by_container = {name: use.memory_working_set_bytes for name, use in found.items()}
            elif resource == "pids":
                by_container = {name: use.pids for name, use in found.items()}
            else:
                kept = await self._storage(worker, {name: use.rootfs_bytes for name, use in found.items()})
                by_container = dict(kept.containers)
                made.append(Usage(worker.pod, sum(kept.volumes.values()) + sum(by_container.values()), by_container))
                continue
            made.append(Usage(worker.pod, sum(by_container.values()), by_container))
        return made

    async def _storage(self, worker: PodWorker, roots: dict[str, int]) -> pressure.Storage:
        logs = log_directory(self._config, worker.pod)
        return await asyncio.to_thread(storage, worker.pod, worker.host.volumes.pod_dir(worker.uid), logs, roots)

    async def _evict_excess(self) -> None:
        """End the pods that keep more on disk than they may. Only those that have a limit are measured."""
        limited = [one for one in self._workers.values() if one.evictable and pressure.has_storage_limit(one.pod)]
        if not limited:
            return
        held = {one.container_id: one.rootfs_bytes for one in await self._runtime.usage()}
        for worker in limited:
            roots = {one.name: held.get(one.id, 0) for one in worker.view.containers}
            excess = pressure.storage_excess(worker.pod, await self._storage(worker, roots))
            if excess:
                self._evicted("ephemeralpodfs.limit")
                self._evict(worker.pod, excess, _HARD_GRACE_S)
