"""VolumeBinding: a pod goes where its volumes are, or can be; claims that waited for it are bound before it is.

A claim that is bound restricts its pod to the nodes its volume reaches. One whose class waits for the first consumer gets
the smallest free volume that reaches the node, or a volume to be made there. ``choose`` decides that for one node;
rows that the same volumes reach are decided once.

Source: API concepts "Storage Classes" (volume binding mode), "Persistent Volumes" (node affinity);
kubernetes/kubernetes pkg/scheduler/framework/plugins/volumebinding; texts are upstream's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from kaa.api import quantity
from kaa.api.clock import Clock
from kaa.api.errors import ApiError
from kaa.api.selectors import from_label_selector
from kaa.api.types.core_v1 import PersistentVolume, PersistentVolumeClaim, Pod
from kaa.api.types.meta_v1 import LabelSelector
from kaa.api.types.storage_v1 import StorageClass
from kaa.api.volume_match import (
    SELECTED_NODE,
    annotated,
    asked,
    bound_volume,
    candidates,
    capacity,
    claim_names,
    class_of,
    foreign_claim_fault,
    is_bound,
)
from kaa.client.client import Client
from kaa.client.informer import key_of

from ..columns import Mask
from ..framework import SUCCESS, ClusterEvent, Code, Filter, Rejection, Status, StillFilters, Unscored
from ..snapshot import Snapshot
from ..template import Template
from ..volumes import Volumes
from .node_affinity import values_mask

NODE_CONFLICT = "node(s) didn't match PersistentVolume's node affinity"
BIND_CONFLICT = "node(s) didn't find available persistent volumes to bind"
NOT_ENOUGH_SPACE = "node(s) did not have enough free storage"
VOLUME_ABSENT = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
UNBOUND_IMMEDIATE = "pod has unbound immediate PersistentVolumeClaims"
NO_PROVISIONER = "kubernetes.io/no-provisioner"
BIND_TIMEOUT_S = 600.0


@dataclass(slots=True)
class Claims:
    """A pod's claims, sorted by what is still to be done about them."""

    bound: list[PersistentVolumeClaim] = field(default_factory=list)
    immediate: list[PersistentVolumeClaim] = field(default_factory=list)  #: the binder must bind these first
    delayed: list[PersistentVolumeClaim] = field(default_factory=list)  #: these wait for the pod to be placed


@dataclass(frozen=True, slots=True)
class Choice:
    """What delayed claims get on one node: volumes that there are, by claim name; and those to be made."""

    static: Mapping[str, PersistentVolume]
    make: Sequence[PersistentVolumeClaim]


def sort_claims(template: Template, volumes: Volumes) -> Claims | Status:
    """Look the claims up. A Status says which of them makes the pod unschedulable on any node."""
    claims = Claims()
    for name, own in template.claims:
        claim = volumes.claim(template.namespace, name)
        fault = _fault(template.pod, name, claim, own)
        if fault or claim is None:
            return Status(Code.UNRESOLVABLE, fault)
        if is_bound(claim):
            claims.bound.append(claim)
        elif volumes.delays(claim) and not claim.spec.volume_name:
            claims.delayed.append(claim)
        else:
            claims.immediate.append(claim)
    return claims


def _fault(pod: Pod, name: str, claim: PersistentVolumeClaim | None, own: bool) -> str:
    if claim is None:
        if own:
            return f'waiting for ephemeral volume controller to create the persistentvolumeclaim "{name}"'
        return f'persistentvolumeclaim "{name}" not found'
    if claim.status.phase == "Lost":
        volume = claim.spec.volume_name or ""
        return f'persistentvolumeclaim "{name}" bound to non-existent persistentvolume "{volume}"'
    if claim.metadata.deletion_timestamp is not None:
        return f'persistentvolumeclaim "{name}" is being deleted'
    return foreign_claim_fault(pod, claim) if own else ""


def choose(
    claims: Sequence[PersistentVolumeClaim], fitting: Mapping[str, Sequence[PersistentVolume]], reached: Collection[str]
) -> Choice:
    """Give each claim the smallest fitting volume of those reached, the smallest claim first, no volume twice.

    ``fitting``: {claim name: its candidates}; ``reached``: names of the volumes that the node reaches.
    """
    static: dict[str, PersistentVolume] = {}
    make = []
    taken: set[str] = set()
    for claim in sorted(claims, key=asked):
        name = claim.metadata.name or ""
        free = [v for v in fitting[name] if v.metadata.name in reached and v.metadata.name not in taken]
        if not free:
            make.append(claim)
            continue
        found = static[name] = min(free, key=capacity)
        taken.add(found.metadata.name or "")
    return Choice(static, make)


class VolumeBinding(Unscored):
    name = "VolumeBinding"
    events = frozenset({ClusterEvent.NODE_ADD, ClusterEvent.NODE_LABEL, ClusterEvent.STORAGE})

    def __init__(self, volumes: Volumes) -> None:
        self._volumes = volumes

    def filter(self, template: Template, nodes: Snapshot) -> Filter | Status | None:
        if not template.claims:
            return None
        claims = sort_claims(template, self._volumes)
        if isinstance(claims, Status):
            return claims
        if claims.immediate:
            return Status(Code.UNRESOLVABLE, UNBOUND_IMMEDIATE)
        return judge(claims, self._volumes, nodes)


def judge(claims: Claims, volumes: Volumes, nodes: Snapshot) -> Filter:
    """The rows where bound claims are reached and delayed ones can be bound."""
    nowhere = np.zeros(nodes.size, np.bool_)
    conflict, absent = nowhere.copy(), nowhere.copy()
    for claim in claims.bound:
        volume = volumes.volume(claim.spec.volume_name or "")
        if volume is None:
            absent |= True
            break
        conflict |= ~volumes.reach(volume, nodes)
    unmatched, full = _judge_delayed(claims.delayed, volumes, nodes) if claims.delayed else (nowhere, nowhere)
    reasons = (
        (conflict, NODE_CONFLICT),
        (unmatched, BIND_CONFLICT),
        (full, NOT_ENOUGH_SPACE),
        (absent, VOLUME_ABSENT),
    )
    rejections = [Rejection(rows, reason, resolvable=False) for rows, reason in reasons]
    return StillFilters(nodes.alive & ~(conflict | unmatched | full | absent), rejections)


def _judge_delayed(delayed: Sequence[PersistentVolumeClaim], volumes: Volumes, nodes: Snapshot) -> tuple[Mask, Mask]:
    """Rows where some claim finds neither a volume nor a way to make one; and rows without the space to make it."""
    unmatched, full = ~nodes.alive, np.zeros(nodes.size, np.bool_)
    searching = []
    selected = []
    for claim in delayed:
        node = claim.metadata.annotations.get(SELECTED_NODE)
        if node is None:
            searching.append(claim)
            continue
        selected.append(claim)
        elsewhere = np.ones(nodes.size, np.bool_)
        if node in nodes.rows:
            elsewhere[nodes.rows[node]] = False
        unmatched |= elsewhere
    fitting = {claim.metadata.name or "": candidates_of(claim, volumes) for claim in searching}
    for rows, reached in _alike(fitting, volumes, nodes):
        undecided = rows & ~unmatched
        for claim in (*selected, *choose(searching, fitting, reached).make):
            can, room = _can_make(claim, volumes, nodes)
            unmatched |= undecided & ~can
            undecided &= can
            full |= undecided & ~room
            undecided &= room
    return unmatched, full


def candidates_of(claim: PersistentVolumeClaim, volumes: Volumes) -> list[PersistentVolume]:
    return candidates(claim, volumes.of_class(class_of(claim)))


def _alike(
    fitting: Mapping[str, Sequence[PersistentVolume]], volumes: Volumes, nodes: Snapshot
) -> Iterator[tuple[Mask, Collection[str]]]:
    """Rows that the same candidates reach, with the names of those."""
    pool = {volume.metadata.name or "": volume for found in fitting.values() for volume in found}
    if not pool:
        yield nodes.alive, ()
        return
    names = list(pool)
    table = np.array([volumes.reach(volume, nodes) for volume in pool.values()])
    kinds, which = np.unique(table, axis=1, return_inverse=True)
    for kind in range(kinds.shape[1]):
        yield which.reshape(-1) == kind, {name for name, here in zip(names, kinds[:, kind], strict=True) if here}


def _can_make(claim: PersistentVolumeClaim, volumes: Volumes, nodes: Snapshot) -> tuple[Mask, Mask]:
    """Rows where the class's provisioner may make a volume for a claim; and rows with room for it."""
    found = volumes.classes.get(class_of(claim))
    everywhere = np.ones(nodes.size, np.bool_)
    if found is None or found.provisioner in ("", NO_PROVISIONER):
        return ~everywhere, everywhere
    return _allowed(found, nodes), _room(claim, found, volumes, nodes)


def _allowed(storage_class: StorageClass, nodes: Snapshot) -> Mask:
    """Rows that ``allowedTopologies`` names; all without it."""
    mask = np.zeros(nodes.size, np.bool_)
    for term in storage_class.allowed_topologies:
        here = np.ones(nodes.size, np.bool_)
        for each in term.match_label_expressions:
            here &= values_mask(each.key, each.values, nodes)
        mask |= here
    return mask if storage_class.allowed_topologies else ~mask


def _room(claim: PersistentVolumeClaim, storage_class: StorageClass, volumes: Volumes, nodes: Snapshot) -> Mask:
    """Rows where the driver, if it tells of its capacity, has enough of it."""
    driver = volumes.drivers.get(storage_class.provisioner)
    if driver is None or not driver.spec.storage_capacity:
        return np.ones(nodes.size, np.bool_)
    mask = np.zeros(nodes.size, np.bool_)
    for told in volumes.capacities:
        limit = told.maximum_volume_size or told.capacity
        free = quantity.parse(limit) if limit else Fraction(0)
        if told.storage_class_name == storage_class.metadata.name and free >= asked(claim):
            mask |= _of_topology(told.node_topology, nodes)
    return mask


def _of_topology(topology: LabelSelector | None, nodes: Snapshot) -> Mask:
    """Rows whose labels a CSIStorageCapacity's selector takes; none without one."""
    selector = from_label_selector(topology)
    if selector.nothing:
        return np.zeros(nodes.size, np.bool_)
    mask = nodes.alive.copy()
    for row in np.flatnonzero(mask):
        node = nodes.nodes[row]
        mask[row] = node is not None and selector.matches(node.metadata.labels)
    return mask


# ------------------------------------------------------------------------------------------------ binding


@dataclass(frozen=True, slots=True)
class Decision:
    """What must be written before a pod is bound: volumes with their claims, claims with the node chosen."""

    volumes: tuple[PersistentVolume, ...]
    static: tuple[tuple[str, str], ...]  #: (namespace, name) of the claims of ``volumes``, in the same order
    make: tuple[PersistentVolumeClaim, ...]


class BindingFailed(Exception):
    """A claim will not be bound as decided: the pod must be decided on again."""


class VolumeBinder:
    """Reserve, Unreserve and PreBind of VolumeBinding."""

    name = "VolumeBinding"

    def __init__(self, volumes: Volumes, nodes: Snapshot, client: Client, clock: Clock) -> None:
        self._volumes, self._nodes, self._client, self._clock = volumes, nodes, client, clock
        self._decided: dict[str, Decision] = {}  #: {pod uid: what was assumed for it}

    def reserve(self, pod: Pod, node: str) -> Status:
        if not claim_names(pod):
            return SUCCESS
        claims = sort_claims(self._nodes.templates.of(pod), self._volumes)
        if isinstance(claims, Status):
            return claims
        if not claims.delayed:
            return SUCCESS
        decision = self._decide(claims.delayed, node)
        self._decided[pod.metadata.uid or ""] = decision
        for obj in (*decision.volumes, *decision.make):
            self._volumes.assume(obj)
        return SUCCESS

    def _decide(self, delayed: Sequence[PersistentVolumeClaim], node: str) -> Decision:
        searching = [claim for claim in delayed if SELECTED_NODE not in claim.metadata.annotations]
        fitting = {claim.metadata.name or "": candidates_of(claim, self._volumes) for claim in searching}
        row = self._nodes.rows[node]
        pool = {v.metadata.name or "": v for found in fitting.values() for v in found}
        reached = {name for name, volume in pool.items() if self._volumes.reach(volume, self._nodes)[row]}
        choice = choose(searching, fitting, reached)
        chosen = [claim for claim in searching if claim.metadata.name in choice.static]
        waiting = [claim for claim in delayed if claim not in chosen]
        return Decision(
            tuple(bound_volume(choice.static[claim.metadata.name or ""], claim) for claim in chosen),
            tuple(key_of(claim) for claim in chosen),
            tuple(annotated(claim, **{SELECTED_NODE: node}) for claim in waiting),
        )

    def unreserve(self, pod: Pod, node: str) -> None:
        decision = self._decided.pop(pod.metadata.uid or "", None)
        if decision is not None:
            for obj in (*decision.volumes, *decision.make):
                self._volumes.restore(obj)

    def waits(self, pod: Pod) -> bool:
        return (pod.metadata.uid or "") in self._decided

    async def pre_bind(self, pod: Pod, node: str) -> Status:
        decision = self._decided.get(pod.metadata.uid or "")
        if decision is None:
            return SUCCESS
        try:
            for obj in (*decision.volumes, *decision.make):
                await self._client.update(obj)
            await self._until_bound(decision, node)
        except (ApiError, BindingFailed, OSError, TimeoutError) as err:
            return Status(Code.ERROR, f'running PreBind plugin "{self.name}": binding volumes: {err}')
        self._decided.pop(pod.metadata.uid or "", None)
        return SUCCESS

    async def _until_bound(self, decision: Decision, node: str) -> None:
        """Wait until the API server shows every claim bound. Raises BindingFailed when that cannot be any more."""
        until = self._clock.monotonic() + BIND_TIMEOUT_S
        while not self._all_bound(decision, node):
            left = until - self._clock.monotonic()
            if left <= 0:
                raise BindingFailed("context deadline exceeded")
            await self._moved(left)

    async def _moved(self, seconds: float) -> None:
        waits = (
            asyncio.ensure_future(self._clock.sleep(seconds)),
            asyncio.ensure_future(self._volumes.moved.wait()),
        )
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _all_bound(self, decision: Decision, node: str) -> bool:
        done = True
        for wanted, (namespace, name) in zip(decision.volumes, decision.static, strict=True):
            volume = self._volumes.shown_volume(wanted.metadata.name or "")
            if volume is None:
                raise BindingFailed(f'could not find pv "{wanted.metadata.name}"')
            if volume.metadata.resource_version == wanted.metadata.resource_version:
                return False  # what we wrote is not shown yet
            self._check_reach(volume, node)
            if volume.spec.claim_ref is None or not volume.spec.claim_ref.uid:
                raise BindingFailed(f'ClaimRef got reset for pv "{volume.metadata.name}"')
            claim = self._volumes.shown_claim(namespace, name)
            done &= claim is not None and is_bound(claim)
        return all(self._made(wanted, node) for wanted in decision.make) and done

    def _made(self, wanted: PersistentVolumeClaim, node: str) -> bool:
        """Whether a claim whose volume was to be made is bound."""
        name = wanted.metadata.name or ""
        claim = self._volumes.shown_claim(wanted.metadata.namespace or "", name)
        if claim is None:
            raise BindingFailed(f'could not find pvc "{wanted.metadata.namespace}/{name}"')
        if claim.metadata.resource_version == wanted.metadata.resource_version:
            return claim.metadata.annotations.get(SELECTED_NODE) == node and is_bound(claim)
        if claim.metadata.annotations.get(SELECTED_NODE) != node:
            raise BindingFailed(f'provisioning failed for PVC "{name}"')
        volume = self._volumes.shown_volume(claim.spec.volume_name or "")
        if volume is not None:
            self._check_reach(volume, node)
        return is_bound(claim) and volume is not None

    def _check_reach(self, volume: PersistentVolume, node: str) -> None:
        row = self._nodes.rows.get(node, -1)
        if row >= 0 and not self._volumes.reach(volume, self._nodes)[row]:
            raise BindingFailed(f'pv "{volume.metadata.name}" node affinity doesn\'t match node "{node}"')
