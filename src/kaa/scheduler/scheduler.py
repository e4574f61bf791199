"""The scheduler: takes pods without a node, gives each the best one, and binds it.

The idea: deciding is synchronous and fast, on the snapshot; everything that waits for the API server (bindings, conditions,
evictions) goes to a bounded set of binders and overlaps with deciding. A decided pod is *assumed*: in the snapshot at
once, taken out again when its binding fails.

    scheduler = Scheduler(client, clock, recorder, informers=Informers(client, clock))
    await scheduler.run()        # until cancelled; the informers are run by whoever made them

Source: kubernetes/kubernetes pkg/scheduler/{scheduler,schedule_one,eventhandlers}.go; texts and reasons are upstream's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from kaa.api.clock import Clock, format_time
from kaa.api.errors import ApiError, NotFound
from kaa.api.types.core_v1 import Binding, Namespace, Node, ObjectReference, Pod, PodCondition
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.api.types.policy_v1 import PodDisruptionBudget
from kaa.client.client import Client, PatchType
from kaa.client.informer import Informer, Informers, key_of
from kaa.client.workqueue import Key

from .claims import Claims
from .columns import Mask
from .config import SchedulerConfig, plugins
from .cycle import Diagnosis, Pass, Passes, rejecting
from .framework import ClusterEvent, Code, Job, Plugin, Recorder, Reserver, Status
from .plugins.dynamic_resources import DeviceBinder, DynamicResources
from .plugins.volume_binding import BIND_TIMEOUT_S, VolumeBinder
from .preemption import Candidate, Preemptor, eligible, uid_of
from .queue import Entry, Place, SchedulingQueue
from .snapshot import Snapshot, same_for_scheduling
from .template import Template
from .volumes import Volumes
from .workloads import Workloads

log = structlog.get_logger(__name__)

#: Pods decided before other tasks get a turn.
TURN = 32
MESSAGE_MAX = 1024
CALL_TIMEOUT_S = 30.0


class Scheduler:
    """One profile of a scheduler. See the module's text for how to start it."""

    def __init__(
        self,
        client: Client,
        clock: Clock,
        recorder: Recorder,
        *,
        informers: Informers,
        config: SchedulerConfig | None = None,
    ) -> None:
        self._client, self._clock, self._recorder = client, clock, recorder
        self.config = config or SchedulerConfig()
        self.nodes = Snapshot()
        self._plugins: list[Plugin] = []
        self._passes = Passes(self.nodes, self._plugins, self.config.weights)
        self._preemptor = Preemptor(
            self.nodes,
            self._passes.of,
            percentage=self.config.min_candidate_nodes_percentage,
            least=self.config.min_candidate_nodes,
        )
        self.queue = SchedulingQueue(
            clock,
            awaited=lambda pod: self._claims.awaited(pod),
            initial_backoff_s=self.config.initial_backoff_s,
            max_backoff_s=self.config.max_backoff_s,
            flush_s=self.config.unschedulable_flush_s,
        )
        self._workloads = Workloads(informers, self._workload_changed)
        self._volumes = Volumes(informers, self._storage_changed)
        self._claims = Claims(informers, self._devices_changed, self.queue.release)
        devices = DynamicResources(self._claims, clock)
        self._plugins += plugins(self.config, self._workloads.selector, self._volumes, devices)
        self._devices = DeviceBinder(devices, self._claims, self.nodes, client, clock, recorder)
        storage = VolumeBinder(self._volumes, self.nodes, client, clock)
        self._reservers: tuple[Reserver, ...] = (storage, self._devices, *self.config.reservers)
        self._slow: asyncio.TaskGroup | None = None  #: of bindings that wait for volumes, each with its own limit
        self._jobs: asyncio.Queue[Job] = asyncio.Queue(self.config.binding_queue)
        self._assumed: dict[str, Entry] = {}  #: {pod uid: placed, its node not seen on the pod yet}
        self._nominated: dict[str, tuple[Pod, Template, str]] = {}  #: {pod uid: waits for its victims on a node}
        self._pods = informers.of(Pod)
        self._budgets = informers.of(PodDisruptionBudget)
        self._synced: list[Informer[Any]] = [self._pods, informers.of(Node), informers.of(Namespace), self._budgets]
        informers.of(Namespace).add_handler(self._on_namespace)
        informers.of(Node).add_handler(self._on_node)
        self._pods.add_handler(self._on_pod)

    # ------------------------------------------------------------------------------------------------- running

    async def run(self) -> None:
        """Schedule until cancelled; when this returns, every task begun here has ended."""
        for informer in self._synced:
            await informer.synced.wait()
        await self._workloads.synced()
        await self._volumes.synced()
        await self._claims.synced()
        async with asyncio.TaskGroup() as tasks:
            self._slow = tasks
            for number in range(self.config.binders):
                tasks.create_task(self._work(), name=f"scheduler/binder-{number}")
            tasks.create_task(self._decide(), name="scheduler/decide")

    async def _work(self) -> None:
        while True:
            await self._perform(await self._jobs.get(), CALL_TIMEOUT_S)

    @staticmethod
    async def _perform(job: Job, limit_s: float) -> None:
        try:
            async with asyncio.timeout(limit_s):
                await job()
        except Exception as err:  # the worker's edge: what failed is level-triggered and comes again
            log.warning("scheduler job failed", error=str(err), kind=type(err).__name__)

    async def _decide(self) -> None:
        while True:
            for _ in range(TURN):
                self.queue.changed.clear()
                entry = self.queue.pop()
                if entry is None:
                    await self._wait()
                    break
                job = self.schedule_one(entry)
                if job is not None:
                    await self._jobs.put(job)
            await asyncio.sleep(0)

    async def _wait(self) -> None:
        """Until the queue changes, or time alone makes something due."""
        due = self.queue.next_due()
        if due is None:
            await self.queue.changed.wait()
            return
        sleeping = asyncio.ensure_future(self._clock.sleep(max(0.0, due - self._clock.monotonic())))
        changed = asyncio.ensure_future(self.queue.changed.wait())
        try:
            await asyncio.wait((sleeping, changed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            changed.cancel()

    # ------------------------------------------------------------------------------------------------ deciding

    def schedule_one(self, entry: Entry) -> Job | None:
        """Decide on one pod, without waiting for anything. Returns what is then to be done on the API server."""
        if not self.queue.knows(entry) or entry.pod.metadata.deletion_timestamp is not None:
            self.queue.done(entry)
            return None
        found = self._passes.of(entry.template)
        row = found.choose(self._clock.random, self._with_nominated(entry, found))
        if row >= 0:
            return self._assume(entry, self.nodes.names[row])
        if found.refused is not None and found.refused.code is Code.ERROR:
            return self._failed(entry, found.refused.reason)
        return self._reject(entry, self._diagnose(entry.template))

    def _diagnose(self, template: Template) -> Diagnosis:
        return self._passes.of(template).diagnose()

    def _with_nominated(self, entry: Entry, found: Pass) -> Mask | None:
        """The mask with room kept on nominated nodes for pods as important as this one. None: nothing to keep."""
        mine = uid_of(entry.pod)
        kept = [
            (pod, template, node)
            for uid, (pod, template, node) in self._nominated.items()
            if uid != mine and template.priority >= entry.template.priority and node in self.nodes.rows
        ]
        if not kept or found.refused is not None:
            return None
        mask = found.feasible().copy()
        for pod, template, node in kept:
            self.nodes.add_pod(pod, node, template)
        full = self._passes.of(entry.template).feasible()
        for _, _, node in kept:
            row = self.nodes.rows[node]
            mask[row] &= full[row]
        for pod, _, _ in kept:
            self.nodes.remove_pod(uid_of(pod))
        self._passes.of(entry.template)
        return mask

    def _assume(self, entry: Entry, node: str) -> Job | None:
        uid = uid_of(entry.pod)
        self.nodes.add_pod(entry.pod, node, entry.template)
        self._assumed[uid] = entry
        self._nominated.pop(uid, None)
        for reserver in self._reservers:
            status = reserver.reserve(entry.pod, node)
            if not status.ok:
                return self._unassumed(entry, node, status)
        if self._slow is None or not any(reserver.waits(entry.pod) for reserver in self._reservers):
            return lambda: self._bind(entry, node)
        waiting = self._perform(lambda: self._bind(entry, node), BIND_TIMEOUT_S + CALL_TIMEOUT_S)
        self._slow.create_task(waiting, name=f"scheduler/bind/{entry.key}")
        return None

    def _unassumed(self, entry: Entry, node: str, status: Status) -> Job:
        jobs = self._forget(entry, node)
        self.queue.reject(entry, self._plugins)
        message = f"0/{self.nodes.count} nodes are available: {status.reason}."

        async def act() -> None:
            await self._report(entry.pod, "Unschedulable", message)
            await self._clean_up(entry, jobs)

        return act

    async def _clean_up(self, entry: Entry, jobs: Sequence[Job]) -> None:
        """What a pod that has no node leaves behind on the API server. What fails is tried again with the pod."""
        try:
            for job in jobs:
                await job()
        except (ApiError, OSError, TimeoutError):
            if entry.place is Place.UNSCHEDULABLE:
                self.queue.failed(entry)
            raise

    def _forget(self, entry: Entry, node: str) -> list[Job]:
        """Take an assumed pod back out, unless it turned out to be bound after all. Returns what is then to be done."""
        uid = uid_of(entry.pod)
        if self._assumed.pop(uid, None) is None:
            return []
        self.nodes.remove_pod(uid)
        jobs = [reserver.unreserve(entry.pod, node) for reserver in reversed(self._reservers)]
        return [job for job in jobs if job is not None]

    def _failed(self, entry: Entry, message: str) -> Job:
        """Something is wrong that has nothing to do with room: try again after a while."""
        self.queue.failed(entry)
        return lambda: self._report(entry.pod, "SchedulerError", message)

    def _reject(self, entry: Entry, diagnosis: Diagnosis) -> Job:
        """Fits nowhere: look for victims, put it aside, and say so."""
        taking, job = self._devices.take_back(entry.pod, diagnosis)
        candidate, after = self._preempt(entry, diagnosis, taking)
        message = diagnosis.message(after)
        also = (ClusterEvent.POD_DELETE,) if candidate else ()
        refusing = rejecting(diagnosis, self._plugins)
        if not diagnosis.node_count:
            also = (*also, ClusterEvent.NODE_ADD)
        nominated = None
        if candidate is not None:
            nominated = candidate.node
            self._nominated[uid_of(entry.pod)] = (entry.pod, entry.template, candidate.node)
        elif entry.pod.status.nominated_node_name and not eligible(entry.pod, self.nodes):
            nominated = ""  # evicting no longer helps, so no room is kept either
            self._nominated.pop(uid_of(entry.pod), None)
        self.queue.reject(entry, refusing, also=also)
        pod = entry.pod

        async def act() -> None:
            await self._report(pod, "Unschedulable", message, nominated=nominated)
            await self._clean_up(entry, [job] if job is not None else [])
            if candidate is not None:
                await self._evict(pod, candidate)

        return act

    def _preempt(self, entry: Entry, diagnosis: Diagnosis, taking: str) -> tuple[Candidate | None, str]:
        """``taking``: what is said of claims that may be taken back instead."""
        if not diagnosis.node_count:
            return None, ""
        if diagnosis.refused and DynamicResources.name not in diagnosis.plugins:
            return None, "not found"  # upstream's word when the pod itself is refused before claims are looked at
        why_not = eligible(entry.pod, self.nodes)
        if why_not:
            return None, f"{taking}, preemption: {why_not}"
        found, why = self._preemptor.find(entry.template, diagnosis, self._budgets, self._clock.random)
        return found, "" if found else f"{taking}, {why}"

    # ----------------------------------------------------------------------------------------------- API calls

    async def _bind(self, entry: Entry, node: str) -> None:
        """Bind an assumed pod. A failure takes it back and requeues it; a pod that is gone is dropped."""
        pod = entry.pod
        try:
            for reserver in self._reservers:
                status = await reserver.pre_bind(pod, node)
                if not status.ok:
                    raise BindingRefused(status.reason)
            await self._client.create(
                binding(pod, node),  # type: ignore[type-var, unused-ignore]
                namespace=pod.metadata.namespace,
                subresource="binding",
                name=pod.metadata.name or "",
            )
        except asyncio.CancelledError:
            self._forget(entry, node)
            self.queue.failed(entry)
            raise
        except NotFound:
            jobs = self._forget(entry, node)
            self.queue.done(entry)
            for job in jobs:
                await job()
        except (ApiError, BindingRefused, OSError, TimeoutError) as err:
            jobs = self._forget(entry, node)
            self.queue.failed(entry)
            self.queue.wake(ClusterEvent.POD_DELETE)
            refused = isinstance(err, BindingRefused)
            await self._report(pod, "SchedulerError", str(err) if refused else f"binding rejected: {err}")
            for job in jobs:
                await job()
        else:
            self.queue.done(entry)
            where = f"{pod.metadata.namespace}/{pod.metadata.name} to {node}"
            self._recorder.event(pod, "Normal", "Scheduled", f"Successfully assigned {where}")

    async def _report(self, pod: Pod, reason: str, message: str, *, nominated: str | None = None) -> None:
        """The event, and the condition PodScheduled=False if it says something new."""
        short = message if len(message) <= MESSAGE_MAX else message[: MESSAGE_MAX - len(" ...")] + " ..."
        self._recorder.event(pod, "Warning", "FailedScheduling", short)
        current = self._pods.get(pod.metadata.name or "", pod.metadata.namespace)
        if current is None or current.metadata.uid != pod.metadata.uid or current.spec.node_name:
            return
        patch = condition_patch(current, reason, message, nominated, format_time(self._clock.now()))
        if patch:
            await self._patch_status(current, patch)

    async def _patch_status(self, pod: Pod, status: dict[str, Any]) -> None:
        try:
            await self._client.patch(
                Pod,
                pod.metadata.name or "",
                {"metadata": {"uid": pod.metadata.uid}, "status": status},
                pod.metadata.namespace,
                type=PatchType.STRATEGIC,
                subresource="status",
            )
        except NotFound:
            log.debug("pod is gone", pod=str(key_of(pod)))

    async def _evict(self, pod: Pod, candidate: Candidate) -> None:
        """Mark the victims, delete them, and give up the nominations of lesser pods to the same node."""
        mine = pod.spec.priority or 0
        for placed in candidate.victims:
            victim = placed.pod
            if victim.metadata.deletion_timestamp is not None:
                continue
            await self._patch_status(victim, {"conditions": [disruption(self.config.scheduler_name, self._clock)]})
            try:
                await self._client.delete(Pod, victim.metadata.name or "", victim.metadata.namespace)
            except NotFound:
                continue
            by = f"Preempted by pod {pod.metadata.uid} on node {candidate.node}"
            self._recorder.event(victim, "Normal", "Preempted", by)
        for uid, (other, template, node) in list(self._nominated.items()):
            if node == candidate.node and template.priority < mine:
                del self._nominated[uid]
                await self._patch_status(other, {"nominatedNodeName": None})

    # ------------------------------------------------------------------------------------------------- watching

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        pod = new or old
        assert pod is not None
        if old is not None and new is not None and old.metadata.uid != new.metadata.uid:
            self._on_pod_gone(old)
        if new is None or new.status.phase in ("Succeeded", "Failed"):
            self._on_pod_gone(pod)
        elif new.spec.node_name:
            self._on_pod_placed(new, new.spec.node_name)
        elif (new.spec.scheduler_name or "default-scheduler") == self.config.scheduler_name:
            self._on_pod_waiting(new)

    def _on_pod_gone(self, pod: Pod) -> None:
        uid, key = uid_of(pod), key_of(pod)
        self._assumed.pop(uid, None)
        self._nominated.pop(uid, None)
        self._unqueue(key, uid)
        if self.nodes.remove_pod(uid) is not None:
            self.queue.wake(ClusterEvent.POD_DELETE)

    def _unqueue(self, key: Key, uid: str) -> None:
        """Drop it from the queue, if what is queued under its name is this very pod."""
        entry = self.queue.entry(key)
        if entry is not None and uid_of(entry.pod) == uid:
            self.queue.remove(key)

    def _on_pod_placed(self, pod: Pod, node: str) -> None:
        uid = uid_of(pod)
        before = self.nodes.pods.get(uid)
        was_assumed = self._assumed.pop(uid, None)
        self._nominated.pop(uid, None)
        self._unqueue(key_of(pod), uid)
        template = self.nodes.templates.of(pod)
        known = before.template if before else None
        self.nodes.add_pod(pod, node, template)
        if before is None or was_assumed is not None:
            self.queue.wake(ClusterEvent.POD_ADD)
        elif known is not template:
            self.queue.wake(ClusterEvent.POD_UPDATE)

    def _on_pod_waiting(self, pod: Pod) -> None:
        uid = uid_of(pod)
        if pod.metadata.deletion_timestamp is not None:
            self._nominated.pop(uid, None)
            self._unqueue(key_of(pod), uid)
            return
        template = self.nodes.templates.of(pod)
        nominated = pod.status.nominated_node_name
        if uid in self._assumed:
            return
        if nominated:
            self._nominated[uid] = (pod, template, nominated)
        self.queue.add(pod, template)

    def _on_node(self, old: Node | None, new: Node | None) -> None:
        if new is None:
            assert old is not None
            self.nodes.remove_node(old.metadata.name or "")
            return
        self.nodes.set_node(new)
        if old is None:
            self.queue.wake(ClusterEvent.NODE_ADD)
        elif not same_for_scheduling(old, new):
            for event in node_events(old, new):
                self.queue.wake(event)

    def _on_namespace(self, old: Namespace | None, new: Namespace | None) -> None:
        named = new or old
        assert named is not None
        self.nodes.set_namespace(named.metadata.name or "", new.metadata.labels if new else None)
        if old is None or new is None or old.metadata.labels != new.metadata.labels:
            self.queue.wake(ClusterEvent.NAMESPACE_LABEL)

    def _storage_changed(self, concerned: Callable[[Template], bool]) -> None:
        self._passes.drop(concerned)
        self.queue.wake(ClusterEvent.STORAGE, concerned)

    def _devices_changed(self, concerned: Callable[[Template], bool], helps: bool) -> None:
        self._passes.drop(concerned)
        if helps:
            self.queue.wake(ClusterEvent.DEVICES, concerned)

    def _workload_changed(self) -> None:
        self._passes.clear()


class BindingRefused(Exception):
    """A reserver could not make good what it had reserved."""


def binding(pod: Pod, node: str) -> Binding:
    meta = ObjectMeta(name=pod.metadata.name, namespace=pod.metadata.namespace, uid=pod.metadata.uid)
    return Binding(metadata=meta, target=ObjectReference(kind="Node", name=node))


def node_events(old: Node, new: Node) -> list[ClusterEvent]:
    """What of a node changed, in the words of queueing hints."""
    events: list[ClusterEvent] = []
    if old.status is None or new.status is None or old.status.allocatable != new.status.allocatable:
        events.append(ClusterEvent.NODE_ALLOCATABLE)
    if old.metadata.labels != new.metadata.labels:
        events.append(ClusterEvent.NODE_LABEL)
    if old.spec.taints != new.spec.taints or bool(old.spec.unschedulable) != bool(new.spec.unschedulable):
        events.append(ClusterEvent.NODE_TAINT)
    return events


def condition_patch(pod: Pod, reason: str, message: str, nominated: str | None, now: str) -> dict[str, Any]:
    """The status patch that says PodScheduled=False; empty when the pod says so already.

    ``nominated``: the node it waits for, empty to give that up, None to leave it as it is.
    """
    old = next((c for c in pod.status.conditions if c.type == "PodScheduled"), None)
    status: dict[str, Any] = {}
    if old is None or (old.status, old.reason, old.message) != ("False", reason, message):
        status["conditions"] = [_condition(old, pod.metadata.generation, reason, message, now)]
    if nominated is not None and nominated != (pod.status.nominated_node_name or ""):
        status["nominatedNodeName"] = nominated or None
    return status


def _condition(old: PodCondition | None, generation: int | None, reason: str, message: str, now: str) -> dict[str, Any]:
    since = old.last_transition_time if old is not None and old.status == "False" else now
    made: dict[str, Any] = {
        "type": "PodScheduled",
        "status": "False",
        "reason": reason,
        "message": message,
        "lastProbeTime": None,
        "lastTransitionTime": since,
    }
    if generation:
        made["observedGeneration"] = generation
    return made


def disruption(scheduler: str, clock: Clock) -> dict[str, Any]:
    return {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "PreemptionByScheduler",
        "message": f"{scheduler}: preempting to accommodate a higher priority pod",
        "lastTransitionTime": format_time(clock.now()),
    }
