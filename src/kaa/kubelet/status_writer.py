"""Pod statuses on their way to the API server: the newest of each pod, a few at once, again after failures.

A status that is no news to anyone waits a little, for the one that follows mostly comes soon: of a pod that starts or ends at
once, the API server hears once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog
from msgspec.structs import replace

from kaa.api.clock import Clock
from kaa.api.errors import ApiError, Conflict, NotFound
from kaa.api.types.core_v1 import ContainerStatus, Pod, PodCondition, PodStatus
from kaa.client.client import Client, PatchType
from kaa.client.workqueue import WorkQueue

from .status import OWNED, status_patch

log = structlog.get_logger(__name__)
PATIENCE_S = 1.0  #: how long a status waits for the next when it is no news
_STARTING = frozenset(("ContainerCreating", "PodInitializing"))


@dataclass(slots=True)
class _Wanted:
    pod: Pod
    status: PodStatus
    sent: PodStatus
    since: float = 0.0  #: when the first change that is not known there was seen, by the monotonic clock
    version: int = 0  #: the resource version that our last patch made
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    made: tuple[PodStatus, PodStatus, dict[str, Any] | None] | None = None  #: the patch from the one to the other

    def patch(self) -> dict[str, Any] | None:
        """What the server is to be told; None when it knows."""
        if self.made is None or self.made[0] is not self.sent or self.made[1] is not self.status:
            self.made = self.sent, self.status, status_patch(self.pod, self.sent, self.status)
        return self.made[2]


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
        if held.patch() is None:
            held.settled.set()
            return
        if held.settled.is_set() or not held.since:
            held.since = self._clock.monotonic()
        held.settled.clear()
        if _is_news(pod, held.sent, status):
            self._queue.add(uid)
        else:
            self._queue.add_after(uid, PATIENCE_S)

    def made(self, pod: Pod) -> bool:
        """Whether this version of a pod is what our last patch of its status made of it."""
        held = self._wanted.get(pod.metadata.uid or "")
        return held is not None and bool(held.version) and int(pod.metadata.resource_version or "0") == held.version

    def last(self, uid: str) -> PodStatus | None:
        held = self._wanted.get(uid)
        return held.status if held is not None else None

    async def flushed(self, uid: str) -> None:
        held = self._wanted.get(uid)
        if held is not None and not held.settled.is_set():
            self._queue.add(uid)  # somebody waits for it, news or not
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
        patch = held.patch()
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


def _is_news(pod: Pod, sent: PodStatus, status: PodStatus) -> bool:
    """Whether someone may be waiting for a status: not while nothing has run yet and nothing is wrong; nor once everything of
    a deleted pod has ended, before its last word; nor for numbers and addresses alone."""
    states = [each.state for each in _containers(status)]
    starting = all(s is None or (s.waiting is not None and s.waiting.reason in _STARTING) for s in states)
    if status.phase == "Pending" and starting:
        return False
    ended = all(s is not None and s.terminated is not None for s in states)
    if pod.metadata.deletion_timestamp and ended and status.phase not in ("Succeeded", "Failed"):
        return False
    return _essence(sent) != _essence(status)


def _containers(status: PodStatus) -> tuple[ContainerStatus, ...]:
    return (*status.init_container_statuses, *status.container_statuses, *status.ephemeral_container_statuses)


def _essence(status: PodStatus) -> PodStatus:
    """A status without what follows from the rest, or is told only to be complete."""

    def plain(containers: tuple[ContainerStatus, ...]) -> tuple[ContainerStatus, ...]:
        return tuple(replace(each, container_id=None) for each in containers)

    return replace(
        status,
        observed_generation=None,
        pod_ip=None,
        pod_ips=(),
        conditions=tuple(
            replace(each, observed_generation=None)
            for each in status.conditions
            if each.type in OWNED and each.type != "PodReadyToStartContainers"
        ),
        init_container_statuses=plain(status.init_container_statuses),
        container_statuses=plain(status.container_statuses),
        ephemeral_container_statuses=plain(status.ephemeral_container_statuses),
    )


def with_status(pod: Pod, status: PodStatus | None) -> Pod:
    """The pod as it is with the status that we last set, which the watch may not have shown yet."""
    if status is None:
        return pod
    ours = tuple(c for c in status.conditions if c.type in OWNED)
    return replace(pod, status=replace(status, conditions=(*ours, *foreign_conditions(pod.status))))


def foreign_conditions(status: PodStatus) -> tuple[PodCondition, ...]:
    """The conditions that are not the kubelet's."""
    return tuple(c for c in status.conditions if c.type not in OWNED)
