"""Pod statuses on their way to the API server: the newest of each pod, a few at once, again after failures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
from msgspec.structs import replace

from kaa.api.clock import Clock
from kaa.api.errors import ApiError, Conflict, NotFound
from kaa.api.types.core_v1 import Pod, PodCondition, PodStatus
from kaa.client.client import Client, PatchType
from kaa.client.workqueue import WorkQueue

from .status import OWNED, status_patch

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Wanted:
    pod: Pod
    status: PodStatus
    sent: PodStatus
    since: float = 0.0  #: when the first change that is not known there was seen, by the monotonic clock
    version: int = 0  #: the resource version that our last patch made
    settled: asyncio.Event = field(default_factory=asyncio.Event)


class StatusWriter:
    """``set`` returns at once; ``flushed`` waits until what was set is known to the server (or the pod is gone there)."""

    WORKERS = 2
    RETRY_MAX_S = 10.0  #: how long after an outage a status may come: upstream's status manager looks again so often

    def __init__(self, client: Client, clock: Clock, synced: Callable[[float], None] = lambda seconds: None) -> None:
        """``synced`` is told how many seconds a change took to be known to the server."""
        self._client, self._clock, self._synced = client, clock, synced
        self._wanted: dict[str, _Wanted] = {}
        self._queue: WorkQueue[str] = WorkQueue(clock, max_s=self.RETRY_MAX_S)

    def set(self, pod: Pod, status: PodStatus) -> None:
        """Publish a status. ``pod`` is the object as last read: once it shows our last patch, its status is the one to change.

        Resource versions compare as numbers: so Kubernetes promises from 1.35 on (KEP-5504).
        """
        uid = pod.metadata.uid or ""
        held = self._wanted.get(uid)
        if held is None:
            held = self._wanted[uid] = _Wanted(pod, status, pod.status)
        held.pod, held.status = pod, status
        if int(pod.metadata.resource_version or "0") >= held.version:
            held.sent = pod.status
        if status_patch(pod, held.sent, status) is None:
            held.settled.set()
            return
        if held.settled.is_set() or not held.since:
            held.since = self._clock.monotonic()
        held.settled.clear()
        self._queue.add(uid)

    def made(self, pod: Pod) -> bool:
        """Whether this version of a pod is what our last patch of its status made of it."""
        held = self._wanted.get(pod.metadata.uid or "")
        return held is not None and bool(held.version) and int(pod.metadata.resource_version or "0") == held.version

    def last(self, uid: str) -> PodStatus | None:
        held = self._wanted.get(uid)
        return held.status if held is not None else None

    async def flushed(self, uid: str) -> None:
        held = self._wanted.get(uid)
        if held is not None:
            await held.settled.wait()

    def forget(self, uid: str) -> None:
        held = self._wanted.pop(uid, None)
        if held is not None:
            held.settled.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._queue.run(), name="kubelet/status-queue")
            for n in range(self.WORKERS):
                tasks.create_task(self._work(), name=f"kubelet/status-{n}")

    async def _work(self) -> None:
        while True:
            async with self._queue.claim() as claim:
                try:
                    await self._send(claim.key)
                    claim.done()
                except (ApiError, OSError, TimeoutError) as err:
                    log.warning("pod status not written", pod=claim.key, error=str(err))
                    claim.retry(err)

    async def _send(self, uid: str) -> None:
        held = self._wanted.get(uid)
        if held is None:
            return
        wanted = held.status
        patch = status_patch(held.pod, held.sent, wanted)
        if patch is not None:
            meta = held.pod.metadata
            try:
                answer = await self._client.patch(
                    Pod, meta.name or "", patch, meta.namespace, type=PatchType.STRATEGIC, subresource="status"
                )
            except (NotFound, Conflict):  # gone, or another pod under the same name: nobody to tell
                held.settled.set()
                return
            held.sent = wanted
            held.version = int(answer.metadata.resource_version or "0")
        if held.status is wanted:
            held.settled.set()
            self._synced(self._clock.monotonic() - held.since)
        else:
            self._queue.add(uid)


def with_status(pod: Pod, status: PodStatus | None) -> Pod:
    """The pod as it is with the status that we last set, which the watch may not have shown yet."""
    if status is None:
        return pod
    ours = tuple(c for c in status.conditions if c.type in OWNED)
    return replace(pod, status=replace(status, conditions=(*ours, *foreign_conditions(pod.status))))


def foreign_conditions(status: PodStatus) -> tuple[PodCondition, ...]:
    """The conditions that are not the kubelet's."""
    return tuple(c for c in status.conditions if c.type not in OWNED)
