"""StatefulSets: pods with names and volumes that stick, one after the other unless told otherwise.

``plan`` looks at all pods and says what may be done now; ``reconcile`` does it, keeps revisions, and writes status. The
invariants of an ordered set: a pod is made only when all before it run and are available, and taken away only when
all after it are gone; no two pods ever have one name, for the API server would not have it.

Source: kubernetes pkg/controller/statefulset/stateful_set_control.go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from msgspec.structs import replace

from kaa.api import selectors
from kaa.api.errors import AlreadyExists, ApiError, NotFound
from kaa.api.types.apps_v1 import ControllerRevision, StatefulSet, StatefulSetStatus
from kaa.api.types.core_v1 import PersistentVolumeClaim, Pod, PodTemplateSpec
from kaa.api.types.meta_v1 import DeleteOptions, Preconditions
from kaa.client.informer import key_of
from kaa.client.workqueue import Key

from .controller import Context, Controller, count, in_parallel, refused_since_it_ends
from .history import History, template_of
from .owners import BY_CONTROLLER, ORPHANS, add_owner_indexes, claim, controller_of, newest, plan_claims
from .pods import available_in, is_finished, is_ready
from .rolling import scaled
from .stateful_pods import (
    first_ordinal,
    fixed,
    is_member,
    is_stale,
    new_claims,
    new_pod,
    ordinal_of,
    ordinals,
    retained,
    revision_of,
)

HASH = "controller.kubernetes.io/hash"


# ------------------------------------------------------------------------------------------------ deciding


@dataclass(frozen=True, slots=True)
class Plan:
    """What may be done now. ``create``: ordinals; ``delete``: pods; ``fix``: pods to look at for identity and claims."""

    create: tuple[int, ...] = ()
    delete: tuple[Pod, ...] = ()
    fix: tuple[Pod, ...] = ()


@dataclass(slots=True)
class _Draft:
    create: list[int] = field(default_factory=list)
    delete: list[Pod] = field(default_factory=list)
    fix: list[Pod] = field(default_factory=list)

    def done(self) -> Plan:
        return Plan(tuple(self.create), tuple(self.delete), tuple(self.fix))


def is_ordered(owner: StatefulSet) -> bool:
    return owner.spec.pod_management_policy != "Parallel"


def is_running(pod: Pod) -> bool:
    return pod.status.phase == "Running" and is_ready(pod)


def _is_available(owner: StatefulSet, pod: Pod, now: float) -> bool:
    leaving = pod.metadata.deletion_timestamp is not None
    return not leaving and is_running(pod) and available_in(pod, owner.spec.min_ready_seconds or 0, now) == 0


def plan(owner: StatefulSet, pods: Sequence[Pod], update: str, now: float) -> Plan:
    """Decide what may be done about a set's pods. ``update``: name of the revision they should be of."""
    draft = _Draft()
    if owner.metadata.deletion_timestamp is not None:
        return draft.done()
    by_ordinal = {ordinal_of(pod): pod for pod in pods}
    if _keep(owner, by_ordinal, draft, now) or _shrink(owner, by_ordinal, draft, now):
        return draft.done()
    if not draft.create and not draft.delete:
        _roll(owner, by_ordinal, update, draft, now)
    return draft.done()


def _keep(owner: StatefulSet, pods: Mapping[int, Pod], draft: _Draft, now: float) -> bool:
    """Make what is missing and replace what has ended. Returns whether an ordered set has to wait."""
    waits = is_ordered(owner)
    for ordinal in ordinals(owner):
        pod = pods.get(ordinal)
        if pod is None:
            draft.create.append(ordinal)
            if waits:
                return True
        elif is_finished(pod):
            if pod.metadata.deletion_timestamp is None:
                draft.delete.append(pod)
            if waits:
                return True
        else:
            draft.fix.append(pod)
            if waits and not _is_available(owner, pod, now):
                return True
    return False


def _shrink(owner: StatefulSet, pods: Mapping[int, Pod], draft: _Draft, now: float) -> bool:
    """Take away pods beyond the size, highest first. Returns whether an ordered set has to wait."""
    wanted = ordinals(owner)
    condemned = [pods[n] for n in sorted(pods, reverse=True) if n >= 0 and n not in wanted]
    draft.fix += condemned
    unhealthy = [pods[n] for n in sorted(pods) if n >= 0 and not _is_healthy(pods[n])]
    for pod in condemned:
        leaving = pod.metadata.deletion_timestamp is not None
        if not is_ordered(owner):
            draft.delete += [] if leaving else [pod]
            continue
        waits = not is_finished(pod) and not _is_available(owner, pod, now)  # one that ended will never be available
        if leaving or (waits and unhealthy[:1] != [pod]):
            return True
        draft.delete.append(pod)
        return True
    return False


def _is_healthy(pod: Pod) -> bool:
    return is_running(pod) and pod.metadata.deletion_timestamp is None


def _roll(owner: StatefulSet, pods: Mapping[int, Pod], update: str, draft: _Draft, now: float) -> None:
    """Delete pods of other revisions, highest ordinal first, as far as availability allows."""
    if owner.spec.update_strategy.type == "OnDelete":
        return
    rolling = owner.spec.update_strategy.rolling_update
    first = first_ordinal(owner) + ((rolling.partition or 0) if rolling else 0)
    most = rolling.max_unavailable if rolling and rolling.max_unavailable else 1
    limit = max(1, scaled(most, len(ordinals(owner)), up=False))
    one_by_one = limit == 1
    if not one_by_one:
        missing = sum(1 for n in ordinals(owner) if n not in pods or not _is_available(owner, pods[n], now))
        limit -= missing
    for ordinal in reversed(ordinals(owner)):
        pod = pods.get(ordinal)
        if ordinal < first or pod is None or limit <= 0:
            return
        if pod.metadata.deletion_timestamp is None and revision_of(pod) != update:
            draft.delete.append(pod)
            limit -= 1
        elif one_by_one and not _is_available(owner, pod, now):
            return


def wants_current(owner: StatefulSet, ordinal: int) -> bool:
    """Whether a pod made now is to be of the current revision rather than the update revision."""
    strategy, start = owner.spec.update_strategy, first_ordinal(owner)
    if strategy.type == "OnDelete":
        return False
    if strategy.rolling_update is None:
        return ordinal < start + ((owner.status.current_replicas or 0) if owner.status else 0)
    return ordinal < start + (strategy.rolling_update.partition or 0)


def status_of(
    owner: StatefulSet, pods: Sequence[Pod], current: str, update: str, collisions: int, now: float
) -> tuple[StatefulSetStatus, float]:
    """The status over these pods, and the seconds until one more becomes available (``inf``: none by time alone).

    When all pods are updated and ready, the update revision becomes the current one.
    """
    waits = [available_in(pod, owner.spec.min_ready_seconds or 0, now) if is_running(pod) else inf for pod in pods]
    ready = sum(map(is_running, pods))
    staying = [revision_of(pod) for pod in pods if pod.metadata.deletion_timestamp is None]
    updated, on_current = staying.count(update), staying.count(current)
    is_rolling = owner.spec.update_strategy.type != "OnDelete"
    if is_rolling and updated == len(pods) == ready:
        current, on_current = update, updated
    status = StatefulSetStatus(
        replicas=len(pods),
        ready_replicas=count(ready),
        available_replicas=waits.count(0),
        current_replicas=count(on_current),
        updated_replicas=count(updated),
        current_revision=current,
        update_revision=update,
        collision_count=collisions,
        observed_generation=owner.metadata.generation,
        conditions=owner.status.conditions if owner.status else (),
    )
    return status, min((wait for wait in waits if wait), default=inf)


# ------------------------------------------------------------------------------------------------ doing


class StatefulSets(Controller[Key]):
    """Keys are sets; one is one holder, until the cache shows what it wrote."""

    name = "statefulset-controller"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.sets = self.watch(StatefulSet, self._on_set)
        self.pods = self.informers.of(Pod)
        add_owner_indexes(self.pods)
        self.watch(Pod, self._on_pod)
        self.claims = self.watch(PersistentVolumeClaim)
        self.history = History(self.client, self.watch(ControllerRevision), hash_label=HASH)

    def _on_set(self, old: StatefulSet | None, new: StatefulSet | None) -> None:
        found = new or old
        assert found is not None
        self.queue.add(key_of(found))

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        pod = new or old
        assert pod is not None
        for owner in (controller_of(each) for each in (old, new) if each is not None):
            if owner is not None and owner.kind == "StatefulSet":
                parts = self.pods.count(BY_CONTROLLER, owner.uid)
                self.look_soon(Key(pod.metadata.namespace or "", owner.name), parts)
        if controller_of(pod) is None:
            for each in self.sets.in_namespace(pod.metadata.namespace or ""):
                if is_member(each.metadata.name or "", pod):
                    self.queue.add(key_of(each))

    async def reconcile(self, key: Key) -> float | None:
        owner = self.sets.by_key(key)
        if owner is None:
            return None
        pods = await self._claim(owner)
        revisions = await self.history.of(owner)
        collisions = (owner.status.collision_count or 0) if owner.status else 0
        update, collisions = await self.history.settle(owner, revisions, collisions)
        standing = owner.status.current_revision if owner.status else None
        current = next((r for r in revisions if r.metadata.name == standing), update)
        names = current.metadata.name or "", update.metadata.name or ""
        wanted = plan(owner, pods, names[1], self.clock.now())
        error = await self._apply(owner, wanted, current, update)
        pods = [p for p in self.pods.by_index(BY_CONTROLLER, owner.metadata.uid or "") if ordinal_of(p) >= 0]
        status, wait = status_of(owner, pods, *names, collisions, self.clock.now())
        await self._write(owner, status)
        live = {*names, *map(revision_of, pods)}
        await self.history.truncate(revisions, live, owner.spec.revision_history_limit)
        if error is not None:
            raise error
        return wait if wait < inf else None

    async def _claim(self, owner: StatefulSet) -> list[Pod]:
        controlled = self.pods.by_index(BY_CONTROLLER, owner.metadata.uid or "")
        orphans = self.pods.by_index(ORPHANS, owner.metadata.namespace or "")
        orphans = [pod for pod in orphans if is_member(owner.metadata.name or "", pod)]
        claims = plan_claims(owner, selectors.from_label_selector(owner.spec.selector), controlled, orphans)
        if not claims.adopt and not claims.release:
            return list(claims.mine)
        pods = await claim(self.client, Pod, owner, claims)
        await self.pods.shows(newest([pod.metadata.resource_version for pod in pods]))
        return pods

    # -- carrying out a plan

    async def _apply(
        self, owner: StatefulSet, wanted: Plan, current: ControllerRevision, update: ControllerRevision
    ) -> Exception | None:
        """Carry out a plan, and wait until the cache shows it. Returns the first failure."""
        made = [self._pod(owner, ordinal, current, update) for ordinal in wanted.create]
        results: list[Any] = await in_parallel(
            [
                *(self._fix(owner, pod) for pod in wanted.fix),
                *(self._create(owner, pod) for pod in made),
                *(self._delete(owner, pod) for pod in wanted.delete),
            ]
        )
        failures = [each for each in results if isinstance(each, Exception)]
        written = [each for each in results if isinstance(each, Pod)]
        await self.pods.shows(newest([pod.metadata.resource_version for pod in written]))
        if not failures:
            await self.pods.gone(wanted.delete)
        return next((error for error in failures if not refused_since_it_ends(error)), None)

    def _pod(self, owner: StatefulSet, ordinal: int, current: ControllerRevision, update: ControllerRevision) -> Pod:
        revision = current if wants_current(owner, ordinal) else update
        template: PodTemplateSpec = template_of(revision)
        return new_pod(owner, template, revision.metadata.name or "", ordinal)

    async def _create(self, owner: StatefulSet, pod: Pod) -> Pod | None:
        """Make a pod and the claims it lacks; None while an old claim is still on its way out."""
        uids = {each.metadata.uid or "" for each in self.pods.by_index(BY_CONTROLLER, owner.metadata.uid or "")}
        if not await self._make_claims(owner, pod, uids):
            self.queue.add_after(key_of(owner), 1.0)
            return None
        where = f"Pod {pod.metadata.name} in StatefulSet {owner.metadata.name}"
        try:
            made = await self.client.create(pod)
        except ApiError as err:
            if not refused_since_it_ends(err):
                self.events.event(owner, "Warning", "FailedCreate", f"create {where} failed error: {err}")
            raise
        self.events.event(owner, "Normal", "SuccessfulCreate", f"create {where} successful")
        return made

    async def _make_claims(self, owner: StatefulSet, pod: Pod, pod_uids: set[str]) -> bool:
        """See that a pod's claims stand. False while one of them belongs to a pod that is gone."""
        for wanted in new_claims(owner, ordinal_of(pod)):
            found = self.claims.by_key(key_of(wanted))
            if found is None:
                await self._make_claim(owner, pod, wanted)
            elif is_stale(found, pod_uids):
                return False
            elif found.metadata.deletion_timestamp is not None:
                error = f"pvc {found.metadata.name} is being deleted"
                where = f"Pod {pod.metadata.name} in StatefulSet {owner.metadata.name}"
                self.events.event(owner, "Warning", "FailedCreate", f"create {where} failed error: {error}")
                return False
        return True

    async def _make_claim(self, owner: StatefulSet, pod: Pod, wanted: PersistentVolumeClaim) -> None:
        where = f"Claim {wanted.metadata.name} Pod {pod.metadata.name} in StatefulSet {owner.metadata.name}"
        try:
            made = await self.client.create(wanted)
        except AlreadyExists:
            return
        except ApiError as err:
            if not refused_since_it_ends(err):
                self.events.event(owner, "Warning", "FailedCreate", f"create {where} failed error: {err}")
            raise
        self.events.event(owner, "Normal", "SuccessfulCreate", f"create {where} success")
        await self.claims.shows(made.metadata.resource_version)

    async def _delete(self, owner: StatefulSet, pod: Pod) -> None:
        name = pod.metadata.name or ""
        self._tell_of_end(owner, pod)
        options = DeleteOptions(preconditions=Preconditions(uid=pod.metadata.uid))
        where = f"Pod {name} in StatefulSet {owner.metadata.name}"
        try:
            await self.client.delete(Pod, name, pod.metadata.namespace, options=options)
        except NotFound:
            return
        except ApiError as err:
            self.events.event(owner, "Warning", "FailedDelete", f"delete {where} failed error: {err}")
            raise
        self.events.event(owner, "Normal", "SuccessfulDelete", f"delete {where} successful")

    def _tell_of_end(self, owner: StatefulSet, pod: Pod) -> None:
        whose = f"StatefulSet {owner.metadata.namespace}/{owner.metadata.name} is recreating"
        if pod.status.phase == "Failed":
            text = f"{whose} failed Pod {pod.metadata.name}"
            self.events.event(owner, "Warning", "RecreatingFailedPod", text)
        elif pod.status.phase == "Succeeded":
            text = f"{whose} terminated Pod {pod.metadata.name}"
            self.events.event(owner, "Normal", "RecreatingTerminatedPod", text)

    async def _fix(self, owner: StatefulSet, pod: Pod) -> Pod | None:
        """Give a pod its identity again, and its claims and their owners as the retention policy says."""
        ordinal = ordinal_of(pod)
        for wanted in new_claims(owner, ordinal):
            found = self.claims.by_key(key_of(wanted))
            if found is None:
                if pod.status.phase == "Pending" and ordinal in ordinals(owner):
                    await self._make_claim(owner, pod, wanted)
            elif (kept := retained(owner, found, pod, ordinal)) is not found:
                await self._update_claim(kept)
        better = fixed(owner, pod)
        if better is pod or pod.metadata.deletion_timestamp is not None:
            return None
        written = await self.client.update(better)
        where = f"Pod {pod.metadata.name} in StatefulSet {owner.metadata.name}"
        self.events.event(owner, "Normal", "SuccessfulUpdate", f"update {where} successful")
        return written

    async def _update_claim(self, kept: PersistentVolumeClaim) -> None:
        try:
            written = await self.client.update(kept)
        except NotFound:
            return
        await self.claims.shows(written.metadata.resource_version)

    async def _write(self, owner: StatefulSet, status: StatefulSetStatus) -> None:
        if status == owner.status:
            return
        try:
            written = await self.client.update_status(replace(owner, status=status))
        except NotFound:
            return
        await self.sets.shows(written.metadata.resource_version)
