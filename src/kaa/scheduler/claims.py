"""Devices as the scheduler takes them to be: what claims the API server shows to have, and over it what was decided and is
not shown yet.

A claim that was decided on is *pending* until it is written, and *written* until the API server shows it. Both count: no
device is given twice. Which rows could give claims what they ask for is remembered, since the pods of one workload ask for
the same, and corrected by the nodes that changes concern (``Rows``).

Source: kubernetes/kubernetes pkg/scheduler/framework/plugins/dynamicresources/dra_manager.go.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from kaa.api.device_claims import actual_name, foreign_fault
from kaa.api.types.core_v1 import NodeSelector, Pod
from kaa.api.types.resource_v1 import Device, DeviceClass, ResourceClaim, ResourceSlice, ResourceSliceSpec
from kaa.client.informer import Informer, Informers, key_of
from kaa.client.workqueue import Key

from .columns import Mask, Vector
from .devices import Fault, Inventory, PoolId, Taken, rank_of
from .devices.search import TooLong
from .extended import ANNOTATION, by_resource
from .plugins.node_affinity import term_mask
from .snapshot import Snapshot
from .template import Template

#: Told which templates a change may concern, and whether it may help them.
Changed = Callable[[Callable[[Template], bool], bool], None]
#: The nodes that a change concerns; None: perhaps all.
Concerned = frozenset[str] | None
ROWS_MAX = 32
JOURNAL_MAX = 4096
BY_EXTENDED = "pod whose extended resources it is for"

FITS, SHORT, INVALID, TIMED_OUT = 0, 1, 2, 3


class Claims:
    """Lookups of claims, slices and classes. ``moved`` is set, and replaced, whenever a claim changes."""

    def __init__(self, informers: Informers, changed: Changed, appeared: Callable[[Key], None]) -> None:
        """``appeared``: a claim is there for pods to use."""
        self._claims = informers.of(ResourceClaim)
        self._slices = informers.of(ResourceSlice)
        self._classes = informers.of(DeviceClass)
        self._changed, self._appeared = changed, appeared
        self._claims.add_index(BY_EXTENDED, _extended_users)
        self.resources: dict[str, str] = {}  #: {extended resource: the class that stands for it}
        self._pending: dict[str, ResourceClaim] = {}  #: {uid: as it was decided}
        self._written: dict[str, ResourceClaim] = {}  #: {uid: as it was written}
        self._rows: OrderedDict[bytes, Rows] = OrderedDict()
        self.inventory, self.taken = Inventory(), Taken()
        self.journal: list[Concerned] = []
        self.journal_base = 0
        self.moved = asyncio.Event()
        self._claims.add_handler(self._on_claim)
        self._slices.add_handler(self._on_slice)
        self._classes.add_handler(self._on_class)

    async def synced(self) -> None:
        informers: Iterable[Informer[ResourceClaim] | Informer[ResourceSlice] | Informer[DeviceClass]] = (
            self._claims,
            self._slices,
            self._classes,
        )
        for informer in informers:
            await informer.synced.wait()

    # ------------------------------------------------------------------------------------------------- looking

    def device_class(self, name: str) -> DeviceClass | None:
        return self._classes.get(name)

    def shown(self, key: Key) -> ResourceClaim | None:
        """A claim as it was last written or shown, without what is only decided."""
        found = self._claims.by_key(key)
        return None if found is None else self._written.get(found.metadata.uid or "", found)

    def is_pending(self, claim: ResourceClaim) -> bool:
        return (claim.metadata.uid or "") in self._pending

    def decided(self, claim: ResourceClaim) -> ResourceClaim:
        """The claim with what was decided for it."""
        return self._pending.get(claim.metadata.uid or "", claim)

    def of_pod(self, pod: Pod) -> list[ResourceClaim] | str:
        """The claims that a pod uses; or what keeps it from using one."""
        found: list[ResourceClaim] = []
        for entry in pod.spec.resource_claims:
            name, own, fault = actual_name(pod, entry)
            if fault:
                return fault
            if name is None:  # it needs none
                continue
            claim = self.shown(Key(pod.metadata.namespace or "", name))
            if claim is None:
                return f'could not find ResourceClaim "{pod.metadata.namespace}/{name}"'
            if claim.metadata.deletion_timestamp is not None:
                return f'resourceclaim "{name}" is being deleted'
            if own and (fault := foreign_fault(pod, claim)):
                return fault
            found.append(claim)
        return found

    def special_of(self, pod: Pod) -> list[ResourceClaim]:
        """The claim that was made for a pod's extended resources, if it was."""
        found = self._claims.by_index(BY_EXTENDED, pod.metadata.uid or "")
        return [self._written.get(claim.metadata.uid or "", claim) for claim in found]

    def backed(self, template: Template) -> list[str]:
        """The extended resources that pods ask for and a class stands for."""
        return [name for name in template.requests if name in self.resources] if self.resources else []

    async def shows(self, claim: ResourceClaim) -> None:
        """Wait until a claim that was written is shown. Raises TimeoutError."""
        await self._claims.shows(claim.metadata.resource_version)

    def awaited(self, pod: Pod) -> Key | None:
        """What a pod waits for before it may be looked at: one of its claims, or (its own key) to be told which."""
        if not pod.spec.resource_claims or not isinstance(self.of_pod(pod), str):
            return None
        for entry in pod.spec.resource_claims:
            name, own, _ = actual_name(pod, entry)
            key = Key(pod.metadata.namespace or "", name or "")
            claim = self.shown(key) if name else None
            if name and (claim is None or claim.metadata.deletion_timestamp or (own and foreign_fault(pod, claim))):
                return key
        return key_of(pod)

    def rows(self, claims: Sequence[ResourceClaim], nodes: Snapshot) -> Rows:
        """Where claims could be given what they ask for."""
        key = msgspec.json.encode([claim.spec for claim in claims])
        found = self._rows.get(key)
        if found is None or not found.catch_up():
            found = self._rows[key] = Rows(claims, self, nodes)
        self._rows.move_to_end(key)
        if len(self._rows) > ROWS_MAX:
            self._rows.popitem(last=False)
        return found

    # ------------------------------------------------------------------------------------------------- deciding

    def decide(self, claim: ResourceClaim) -> None:
        """Take a claim to have the allocation in its status."""
        self._pending[claim.metadata.uid or ""] = claim
        self._count(claim.metadata.uid or "", None)
        self._changed(uses_devices, False)

    def give_up(self, claim: ResourceClaim) -> None:
        """What was decided will not be."""
        if self._pending.pop(claim.metadata.uid or "", None) is not None:
            self._count(claim.metadata.uid or "", self.shown(key_of(claim)))
            self._changed(uses_devices, True)

    def written(self, claim: ResourceClaim) -> None:
        """A claim was written so."""
        uid = claim.metadata.uid or ""
        self._pending.pop(uid, None)
        shown = self._claims.by_key(key_of(claim))
        if shown is not None and _version(shown) < _version(claim):
            self._written[uid] = claim
        self._count(uid, self.shown(key_of(claim)))
        self._changed(uses_devices, False)

    def _count(self, uid: str, shown: ResourceClaim | None) -> None:
        """Count what a claim has now."""
        claim = self._pending.get(uid, shown)
        pools = self.taken.set(uid, claim.status.allocation if claim is not None else None)
        self._note(pools)

    # ------------------------------------------------------------------------------------------------- watching

    def _on_claim(self, old: ResourceClaim | None, new: ResourceClaim | None) -> None:
        claim = new or old
        assert claim is not None
        uid = claim.metadata.uid or ""
        if new is None:
            self._pending.pop(uid, None)
        if new is None or (uid in self._written and _version(new) >= _version(self._written[uid])):
            self._written.pop(uid, None)
        self._count(uid, self._written.get(uid, new) if new is not None else None)
        if old is None:
            self._appeared(key_of(claim))
        if old is not None and new is not None and _telling(old) == _telling(new):
            return
        self.moved.set()
        self.moved = asyncio.Event()
        freed = old is not None and old.status.allocation is not None and (new is None or new.status.allocation is None)
        namespace, name = key_of(claim)
        mine = uses_devices if freed else lambda template: template.namespace == namespace and name in _names(template)
        self._changed(mine, True)

    def _on_slice(self, old: ResourceSlice | None, new: ResourceSlice | None) -> None:
        if old is not None and new is not None and old.spec == new.spec:
            return
        slices = [each for each in (old, new) if each is not None]
        pools = {PoolId(each.spec.driver, each.spec.pool.name) for each in slices}
        self._note(pools)
        if new is not None:
            self.inventory.put(new)
        elif old is not None:
            self.inventory.remove(old.metadata.name or "")
        self._note(pools)
        self._changed(uses_devices, True)

    def _on_class(self, old: DeviceClass | None, new: DeviceClass | None) -> None:
        if old is None or new is None or old.spec != new.spec:
            self._rows.clear()
            self.resources = by_resource(list(self._classes))
            self._changed(uses_devices, True)

    def _note(self, pools: Iterable[PoolId]) -> None:
        for pool in pools:
            names = self.inventory.nodes_of(pool)
            self.journal.append(None if names is None else frozenset(names))
        if len(self.journal) > 2 * JOURNAL_MAX:
            del self.journal[:JOURNAL_MAX]
            self.journal_base += JOURNAL_MAX


class Rows:
    """Whether each row could give some claims what they ask for, and how good that would be."""

    def __init__(self, claims: Sequence[ResourceClaim], known: Claims, nodes: Snapshot) -> None:
        self._claims, self._known, self._nodes = claims, known, nodes
        self._epoch, self._seen = nodes.epoch, known.journal_base + len(known.journal)
        self.why: NDArray[np.int8] = np.full(nodes.size, SHORT, np.int8)  #: ``FITS``, or why not
        self.ranks: Vector = np.zeros(nodes.size, np.int64)
        self.fault = ""  #: there is something wrong with a claim or a class: nothing fits
        self._judge(None)

    @property
    def mask(self) -> Mask:
        found: Mask = self.why == FITS
        return found

    def catch_up(self) -> bool:
        """Take over what changed since the last time. False: too much did, or there is a fault that may have gone."""
        known = self._known
        if self.fault or self._nodes.epoch != self._epoch or self._seen < known.journal_base:
            return False
        behind = known.journal[self._seen - known.journal_base :]
        self._seen = known.journal_base + len(known.journal)
        if behind:
            everywhere = any(each is None for each in behind)
            self._judge(None if everywhere else {name for each in behind if each is not None for name in each})
        return True

    def _judge(self, names: set[str] | None) -> None:
        """Ask anew on some nodes, or on all. Rows that see the same devices are asked once."""
        rows = self._nodes.rows
        local = self._known.inventory.local
        try:
            for name in local if names is None else names:
                if name in rows:
                    self.why[rows[name]], self.ranks[rows[name]] = self._ask(rows[name])
            if names is None:
                alike = self._nodes.alive.copy()
                alike[[rows[name] for name in local if name in rows]] = False
                for kind in self._kinds(alike):
                    self.why[kind], self.ranks[kind] = self._ask(int(kind[0]))
        except Fault as fault:
            self.fault = str(fault)

    def _ask(self, row: int) -> tuple[int, int]:
        """(``FITS`` or why not, rank) of a row. Raises Fault."""
        node = self._nodes.nodes[row]
        assert node is not None
        pools = self._known.inventory.pools_on(node)
        try:
            rank = rank_of(self._claims, pools, self._known.device_class, self._known.taken)
        except TooLong:
            return TIMED_OUT, 0
        if rank is not None:
            return FITS, rank
        return INVALID if any(pool.invalid for pool in pools) else SHORT, 0

    def _kinds(self, among: Mask) -> list[NDArray[np.intp]]:
        """Rows, by which of the devices that are shared between nodes they see."""
        (rows,) = np.nonzero(among)
        wishes = self._wishes()
        if not len(rows):
            return []
        if not wishes:
            return [rows]
        table = np.array([wish[rows] for wish in wishes])
        kinds, which = np.unique(table, axis=1, return_inverse=True)
        return [rows[which.reshape(-1) == kind] for kind in range(kinds.shape[1])]

    def _wishes(self) -> list[Mask]:
        """For each selector that slices or devices have: the rows that it selects."""
        selectors: dict[NodeSelector, None] = {}
        single: dict[str, None] = {}
        for listing in self._known.inventory.shared.values():
            places: list[ResourceSliceSpec | Device] = [listing.of.spec, *listing.of.spec.devices]
            for where in places:
                if where.node_name:
                    single[where.node_name] = None
                elif where.node_selector is not None:
                    selectors[where.node_selector] = None
        found = []
        for selector in selectors:
            found.append(np.logical_or.reduce([term_mask(t, self._nodes) for t in selector.node_selector_terms]))
        for name in single.keys() & self._nodes.rows.keys():
            mask = np.zeros(self._nodes.size, np.bool_)
            mask[self._nodes.rows[name]] = True
            found.append(mask)
        return found


def uses_devices(template: Template) -> bool:
    """Whether devices may have to do with a pod: it names claims, or extended resources."""
    return bool(template.pod.spec.resource_claims) or any("/" in name for name in template.requests)


def _names(template: Template) -> set[str | None]:
    return {actual_name(template.pod, entry)[0] for entry in template.pod.spec.resource_claims}


def _telling(claim: ResourceClaim) -> tuple[object, ...]:
    """What of a claim the scheduler heeds, besides its spec, which never changes."""
    return claim.status, claim.metadata.deletion_timestamp


def _extended_users(claim: ResourceClaim) -> list[str]:
    if claim.metadata.annotations.get(ANNOTATION) != "true":
        return []
    return [owner.uid for owner in claim.metadata.owner_references if owner.controller]


def _version(claim: ResourceClaim) -> int:
    return int(claim.metadata.resource_version or 0)
