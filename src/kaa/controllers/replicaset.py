"""ReplicaSets and ReplicationControllers: so many pods of a template, no more and no fewer.

``plan`` decides whom to add or drop; ``Replicas.reconcile`` adopts, releases, creates and deletes, and writes status. One
key is one holder, and the holder keeps it until the pod cache shows what it wrote, so a stale cache is never counted twice.
Which pods run where is the scheduler's affair, what becomes of a finished pod the garbage collector's.

Source: kubernetes pkg/controller/replicaset.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar, Generic, TypeVar

from msgspec.structs import replace

from kaa.api import names, selectors
from kaa.api.errors import NotFound
from kaa.api.selectors import Selector
from kaa.api.types.apps_v1 import ReplicaSet, ReplicaSetCondition, ReplicaSetStatus
from kaa.api.types.core_v1 import (
    Pod,
    PodTemplateSpec,
    ReplicationController,
    ReplicationControllerCondition,
    ReplicationControllerStatus,
)
from kaa.client.informer import Informer, key_of
from kaa.client.workqueue import Key

from .controller import Context, Controller, count
from .owners import BY_CONTROLLER, ORPHANS, add_owner_indexes, claim, controller_of, newest, plan_claims
from .podcontrol import PodControl
from .pods import available_in, deletion_order, from_template, is_active, is_ready, is_terminating

BURST = 500


# ------------------------------------------------------------------------------------------------ deciding


@dataclass(frozen=True, slots=True)
class Plan:
    """``create`` pods to add, ``delete`` to drop. Never both."""

    create: int = 0
    delete: tuple[Pod, ...] = ()


def plan(
    replicas: int, pods: Sequence[Pod], related: Sequence[Pod] = (), *, now: float = 0, burst: int = BURST
) -> Plan:
    """Decide which pods to add or drop so that ``replicas`` are active, by at most ``burst`` changes.

    ``related`` are the active pods of all sets of the same owner: of those on crowded nodes one is dropped first.
    """
    active = [pod for pod in pods if is_active(pod)]
    gap = replicas - len(active)
    if gap >= 0:
        return Plan(create=min(gap, burst))
    drop = min(-gap, burst)
    if drop < len(active):
        neighbours = Counter(pod.spec.node_name or "" for pod in related or active)
        active = deletion_order(active, neighbours, now)
    return Plan(delete=tuple(active[:drop]))


@dataclass(frozen=True, slots=True)
class Counts:
    """What a status says of pods. ``available_in_s``: seconds until one more becomes available; ``inf`` for none."""

    replicas: int
    labeled: int
    ready: int
    available: int
    terminating: int
    available_in_s: float


def count_pods(pods: Iterable[Pod], template: PodTemplateSpec | None, min_ready_s: int, now: float) -> Counts:
    """Count pods for a status."""
    fits = selectors.from_labels(template.metadata.labels if template else {}).matcher()
    replicas = labeled = ready = available = terminating = 0
    soonest = inf
    for pod in pods:
        if not is_active(pod):
            terminating += is_terminating(pod)
            continue
        replicas += 1
        labeled += fits(pod.metadata.labels)
        if is_ready(pod):
            ready += 1
            wait = available_in(pod, min_ready_s, now) if min_ready_s else 0.0
            available += wait == 0
            soonest = min(soonest, wait) if wait else soonest
    return Counts(replicas, labeled, ready, available, terminating, soonest)


S = TypeVar("S", ReplicaSet, ReplicationController)


def status_of(owner: S, counts: Counts, failure: tuple[str, str] | None, now: str) -> Any:
    """The status of a set. ``failure``: (reason, message) of what went wrong with its pods, if something did."""
    old: Any = owner.status
    kept: tuple[Any, ...] = tuple(c for c in (old.conditions if old else ()) if c.type != "ReplicaFailure")
    standing: Any = next((c for c in (old.conditions if old else ()) if c.type == "ReplicaFailure"), None)
    if failure is not None and (standing is None or standing.reason != failure[0]):
        condition = ReplicaSetCondition if isinstance(owner, ReplicaSet) else ReplicationControllerCondition
        standing = condition(
            type="ReplicaFailure", status="True", reason=failure[0], message=failure[1], last_transition_time=now
        )
    conditions = kept if failure is None else (*kept, standing)
    shared: dict[str, Any] = {
        "conditions": conditions,
        "replicas": counts.replicas,
        "fully_labeled_replicas": count(counts.labeled),
        "ready_replicas": count(counts.ready),
        "available_replicas": count(counts.available),
        "observed_generation": owner.metadata.generation,
    }
    if isinstance(owner, ReplicaSet):
        return ReplicaSetStatus(**shared, terminating_replicas=counts.terminating)
    return ReplicationControllerStatus(**shared)


def pod_prefix(owner_name: str) -> str:
    """``web-``; without the dash where the name leaves it no room to be valid."""
    prefix = f"{owner_name}-"
    return owner_name if names.dns_subdomain(prefix.rstrip("-")) else prefix


def _asks_the_same(old: Any, new: Any) -> bool:
    before, now = old.metadata, new.metadata
    same = (before.generation, before.deletion_timestamp, before.labels, before.annotations, before.finalizers)
    return same == (now.generation, now.deletion_timestamp, now.labels, now.annotations, now.finalizers)


# ------------------------------------------------------------------------------------------------ doing


class Replicas(Controller[Key], Generic[S]):
    """What ReplicaSets and ReplicationControllers share."""

    kind: ClassVar[Any]
    workers = 5

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.sets: Informer[S] = self.watch(self.kind, self._on_set)
        self.pods = self.informers.of(Pod)
        add_owner_indexes(self.pods)
        self.watch(Pod, self._on_pod)
        self.control = PodControl(self.client, self.events, self.pods)

    # -- wiring: which keys an event concerns

    def _on_set(self, old: S | None, new: S | None) -> None:
        found = new or old
        assert found is not None
        if old is not None and new is not None and _asks_the_same(old, new):  # its status: most often our own word
            self.look_soon(key_of(new), self.pods.count(BY_CONTROLLER, new.metadata.uid or ""))
        else:
            self.queue.add(key_of(found))

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        pod = new or old
        assert pod is not None
        owner = controller_of(pod)
        before = controller_of(old) if old is not None and new is not None else None
        if before is not None and (owner is None or owner.uid != before.uid):
            self._look_at(pod.metadata.namespace or "", before.kind, before.name, before.uid)
        if owner is not None:
            self._look_at(pod.metadata.namespace or "", owner.kind, owner.name, owner.uid)
        elif new is not None and (old is None or before is not None or old.metadata.labels != new.metadata.labels):
            self._offer(pod)

    def _look_at(self, namespace: str, kind: str, name: str, uid: str) -> None:
        if kind == self.kind.KIND:
            self.look_soon(Key(namespace, name), self.pods.count(BY_CONTROLLER, uid))

    def _offer(self, orphan: Pod) -> None:
        for owner in self.sets.in_namespace(orphan.metadata.namespace or ""):
            if self.selector(owner).matches(orphan.metadata.labels):
                self.queue.add(key_of(owner))

    @staticmethod
    def selector(owner: Any) -> Selector:
        """Whose pods a set may adopt."""
        raise NotImplementedError

    # -- reconcile

    async def reconcile(self, key: Key) -> float | None:
        owner = self.sets.by_key(key)
        if owner is None:
            return None
        pods = await self._claim(owner)
        before = sum(map(is_active, pods))
        failure: tuple[str, str] | None = None
        error: Exception | None = None
        if owner.metadata.deletion_timestamp is None:
            wanted = plan(_replicas(owner), pods, self._related(owner), now=self.clock.now())
            failure, error = await self._apply(owner, wanted)
            if wanted != Plan():
                pods = self.pods.by_index(BY_CONTROLLER, owner.metadata.uid or "")
        min_ready_s = owner.spec.min_ready_seconds or 0
        counts = count_pods(pods, owner.spec.template, min_ready_s, self.clock.now())
        await self._write_status(owner, counts, failure)
        if error is not None:
            raise error
        if counts.replicas not in (before, _replicas(owner)):
            self.queue.add(key)  # a burst is done, more to come
        return counts.available_in_s if counts.available_in_s < inf else None

    async def _claim(self, owner: S) -> list[Pod]:
        controlled = self.pods.by_index(BY_CONTROLLER, owner.metadata.uid or "")
        orphans = [p for p in self.pods.by_index(ORPHANS, owner.metadata.namespace or "") if is_active(p)]
        claims = plan_claims(owner, self.selector(owner), controlled, orphans)
        if not claims.adopt and not claims.release:
            return list(claims.mine)
        pods = await claim(self.client, Pod, owner, claims)
        await self.pods.shows(newest([pod.metadata.resource_version for pod in pods]))
        return pods

    def _related(self, owner: S) -> list[Pod]:
        """Active pods of every set with the same controller: a Deployment's old and new ones."""
        above = controller_of(owner)
        uids = [owner.metadata.uid or ""]
        if above is not None:
            uids = [s.metadata.uid or "" for s in self.sets.by_index(BY_CONTROLLER, above.uid)]
        return [pod for uid in uids for pod in self.pods.by_index(BY_CONTROLLER, uid) if is_active(pod)]

    async def _apply(self, owner: S, wanted: Plan) -> tuple[tuple[str, str] | None, Exception | None]:
        """Carry out a plan and wait until the cache shows it. Returns what to say of a failure, and the failure."""
        if wanted.create:
            assert owner.spec.template is not None
            pod = from_template(owner.spec.template, owner, generate_name=pod_prefix(owner.metadata.name or ""))
            _, error = await self.control.create(owner, [pod] * wanted.create)
            return (None if error is None else ("FailedCreate", str(error))), error
        error = await self.control.delete(owner, wanted.delete)
        return (None if error is None else ("FailedDelete", str(error))), error

    async def _write_status(self, owner: S, counts: Counts, failure: tuple[str, str] | None) -> None:
        status = status_of(owner, counts, failure, self.now())
        if status == owner.status:
            return
        try:
            written = await self.client.update_status(replace(owner, status=status))
        except NotFound:
            return
        await self.sets.shows(written.metadata.resource_version)


def _replicas(owner: Any) -> int:
    return 1 if owner.spec.replicas is None else int(owner.spec.replicas)


class ReplicaSets(Replicas[ReplicaSet]):
    name = "replicaset-controller"
    kind = ReplicaSet

    def __init__(self, context: Context) -> None:
        add_owner_indexes(context.informers.of(ReplicaSet))
        super().__init__(context)

    @staticmethod
    def selector(owner: ReplicaSet) -> Selector:
        return selectors.from_label_selector(owner.spec.selector)


class ReplicationControllers(Replicas[ReplicationController]):
    name = "replication-controller"
    kind = ReplicationController

    def __init__(self, context: Context) -> None:
        add_owner_indexes(context.informers.of(ReplicationController))
        super().__init__(context)

    @staticmethod
    def selector(owner: ReplicationController) -> Selector:
        return selectors.from_labels(owner.spec.selector) if owner.spec.selector else selectors.NOTHING
