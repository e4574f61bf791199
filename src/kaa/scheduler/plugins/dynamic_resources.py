"""DynamicResources: a pod goes where its ResourceClaims have devices, or can be given some; they are before it is bound.

A claim that has devices restricts its pods to the nodes these can be used from. One that has none gets what a search finds
(``scheduler/devices``); rows that see the same devices are searched once, and pods that ask for the same share the answer
(``scheduler/claims``). Reserving decides which devices; binding writes that to the claim, with who uses it, and waits where
a device must be made ready first (its binding conditions). A claim whose devices no node can use any more, and that nobody
else uses, is taken back when its pod fits nowhere. A pod is not looked at before its claims are there.

Source: API concepts "Dynamic Resource Allocation"; kubernetes/kubernetes
pkg/scheduler/framework/plugins/dynamicresources; texts are upstream's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Sequence
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from kaa.api.clock import Clock, format_time, parse_time
from kaa.api.device_claims import FINALIZER, can_be_reserved, consumer, is_reserved_for
from kaa.api.errors import ApiError, Conflict, NotFound
from kaa.api.types.core_v1 import Pod
from kaa.api.types.resource_v1 import AllocationResult, DeviceRequestAllocationResult, ResourceClaim
from kaa.client.client import Client, PatchType
from kaa.client.informer import key_of

from ..claims import FITS, INVALID, SHORT, TIMED_OUT, Claims
from ..columns import Mask
from ..cycle import Diagnosis
from ..devices import Fault, allocate
from ..devices.search import TooLong
from ..extended import IN_MEMORY, Special, special_claim
from ..framework import (
    SUCCESS,
    ClusterEvent,
    Code,
    Filter,
    Job,
    Recorder,
    Rejection,
    Score,
    Status,
    StillFilters,
    StillScore,
)
from ..snapshot import Snapshot
from ..template import Template
from .node_affinity import term_mask

NAME = "DynamicResources"
CANNOT = "cannot allocate all claims"
REASONS = (
    (TIMED_OUT, "timed out trying to allocate devices"),
    (INVALID, "invalid resource pools were encountered"),
    (SHORT, CANNOT),
)
NOT_HERE = "resourceclaim not available on the node"
NOTHING_TO_TAKE = "no new claims to deallocate"
TAKEN_BACK = "deallocation of ResourceClaim completed"
REMOVED = "deletion of ResourceClaim completed"
STILL_NOT = "still not schedulable"
BINDING_TIMEOUT_S = 600.0
TRIES = 5


class DynamicResources:
    name = NAME
    events = frozenset({ClusterEvent.NODE_ADD, ClusterEvent.NODE_LABEL, ClusterEvent.DEVICES})

    def __init__(self, claims: Claims, clock: Clock) -> None:
        self._claims, self._clock = claims, clock

    def backs(self, resource: str) -> bool:
        """Whether a class of devices stands for an extended resource."""
        return resource in self._claims.resources

    def filter(self, template: Template, nodes: Snapshot) -> Filter | Status | None:
        extended = self._claims.backed(template)
        if not template.pod.spec.resource_claims and not extended:
            return None
        claims = self._claims.of_pod(template.pod)
        if isinstance(claims, str):
            return Status(Code.UNRESOLVABLE, claims)
        if not claims and not extended:
            return None
        refused = next((fault for claim in claims if (fault := self._fault(template.pod, claim))), None)
        if refused is not None:
            return Status(Code.UNRESOLVABLE, refused)
        why = self._judge(template.pod, without_devices(claims), extended, nodes)
        if isinstance(why, str):
            return Status(Code.ERROR, f'running "{NAME}" filter plugin: {why}')
        rejections = [Rejection(why == code, reason, resolvable=False) for code, reason in REASONS]
        here = self.reach(claims, nodes)
        mask = nodes.alive & (why == FITS) & here
        return StillFilters(mask, [*rejections, Rejection(~here, NOT_HERE, resolvable=False)])

    def _judge(
        self, pod: Pod, missing: Sequence[ResourceClaim], extended: Sequence[str], nodes: Snapshot
    ) -> NDArray[np.int8] | str:
        """Whether each row can give what a pod's claims, and its extended resources, lack; or what is wrong with them."""
        why = np.full(nodes.size, FITS, np.int8)
        for lacking, mask in lacking_on(extended, nodes):
            claims = [*missing, special_claim(pod, lacking, self._claims.resources).claim] if lacking else missing
            if not claims:
                continue
            rows = self._claims.rows(claims, nodes)
            if rows.fault:
                return rows.fault
            why[mask] = rows.why[mask]
        return why

    def score(self, template: Template, nodes: Snapshot) -> Score | None:
        """Nodes where better alternatives can be had."""
        claims = self._claims.of_pod(template.pod) if template.pod.spec.resource_claims else ()
        missing = [] if isinstance(claims, str) else without_devices(claims)
        if not any(request.first_available for claim in missing for request in claim.spec.devices.requests):
            return None
        if any(self._claims.is_pending(claim) for claim in missing):
            return None
        return StillScore(self._claims.rows(missing, nodes).ranks)

    def _fault(self, pod: Pod, claim: ResourceClaim) -> str:
        """Why a claim cannot be used by a pod now, wherever; empty when it can."""
        if claim.status.allocation is not None:
            usable = can_be_reserved(claim) or is_reserved_for(pod, claim)
            return "" if usable else "resourceclaim in use"
        if self._claims.is_pending(claim):
            namespace, name = key_of(claim)
            return f"resource claim {namespace}/{name} is in the process of being allocated"
        for request in claim.spec.devices.requests:
            asked = [(f"{request.name}/{sub.name}", sub.device_class_name) for sub in request.first_available]
            if request.exactly is not None:
                asked = [(request.name, request.exactly.device_class_name)]
            for name, device_class in asked:
                if self._claims.device_class(device_class) is None:
                    return f"request {name}: device class {device_class} does not exist"
        return ""

    def reach(self, claims: Sequence[ResourceClaim], nodes: Snapshot) -> Mask:
        """The rows from which the devices that claims have can be used."""
        mask = np.ones(nodes.size, np.bool_)
        for claim in claims:
            allocation = claim.status.allocation
            if allocation is None:
                continue
            if allocation.node_selector is not None:
                terms = allocation.node_selector.node_selector_terms
                mask &= np.logical_or.reduce([term_mask(term, nodes) for term in terms])
            if self.is_lost(claim):
                mask &= False
        return mask

    def is_lost(self, claim: ResourceClaim) -> bool:
        """Whether a device failed to be made ready, or took too long."""
        try:
            return not is_ready(claim) and is_late(claim, self._clock.now())
        except NotBound:
            return True


def lacking_on(resources: Sequence[str], nodes: Snapshot) -> Iterator[tuple[list[str], Mask]]:
    """Rows by which of some extended resources they have none of: [(those, the rows)]."""
    if not resources:
        yield [], nodes.alive
        return
    absent = np.array([nodes.alloc[index] == 0 for index in [nodes.resource(name) for name in resources]])
    kinds, which = np.unique(absent, axis=1, return_inverse=True)
    for kind in range(kinds.shape[1]):
        lacking = [name for name, none in zip(resources, kinds[:, kind], strict=True) if none]
        yield lacking, which.reshape(-1) == kind


def without_devices(claims: Sequence[ResourceClaim]) -> list[ResourceClaim]:
    return [claim for claim in claims if claim.status.allocation is None]


# ------------------------------------------------------------------------------------------------ binding conditions


class NotBound(Exception):
    """A device will not be ready, or a claim cannot be written: the pod must be decided on again."""


def _waits_for(claim: ResourceClaim) -> list[DeviceRequestAllocationResult]:
    allocation = claim.status.allocation
    return [one for one in allocation.devices.results if one.binding_conditions] if allocation is not None else []


def is_ready(claim: ResourceClaim) -> bool:
    """Whether every device that must be made ready is. Raises NotBound: one never will be."""
    for one in _waits_for(claim):
        told = next(
            (d for d in claim.status.devices if (d.driver, d.pool, d.device) == (one.driver, one.pool, one.device)),
            None,
        )
        if told is None:
            return False
        true = {condition.type: condition for condition in told.conditions if condition.status == "True"}
        failed = next((true[name] for name in one.binding_failure_conditions if name in true), None)
        if failed is not None:
            text = f'reason={failed.reason}, message="{failed.message}"'
            raise NotBound(f"claim {claim.metadata.name} binding failed: {text}")
        if not all(name in true for name in one.binding_conditions):
            return False
    return True


def is_late(claim: ResourceClaim, now: float) -> bool:
    """Whether devices that must be made ready have had their time."""
    allocation = claim.status.allocation
    if allocation is None or allocation.allocation_timestamp is None or not _waits_for(claim):
        return False
    return parse_time(allocation.allocation_timestamp) + BINDING_TIMEOUT_S < now


# ---------------------------------------------------------------------------------------------------------- binding


class DeviceBinder:
    """Reserve, Unreserve, PreBind and PostFilter of DynamicResources."""

    name = NAME

    def __init__(
        self,
        plugin: DynamicResources,
        claims: Claims,
        nodes: Snapshot,
        client: Client,
        clock: Clock,
        recorder: Recorder,
    ) -> None:
        self._plugin, self._claims, self._nodes = plugin, claims, nodes
        self._client, self._clock, self._recorder = client, clock, recorder
        self._decided: dict[str, list[ResourceClaim]] = {}  #: {pod uid: claims with what was decided for them}
        self._special: dict[str, Special] = {}  #: {pod uid: the claim for its extended resources}

    def reserve(self, pod: Pod, node: str) -> Status:
        if not self._concerns(pod):
            return SUCCESS
        claims = self._claims.of_pod(pod)
        if isinstance(claims, str):
            return Status(Code.UNRESOLVABLE, claims)
        if self._claims.special_of(pod):  # of an earlier try: it goes first
            return Status(Code.UNRESOLVABLE, "cannot schedule extended resource claim")
        missing = without_devices(claims)
        special = self._specially(pod, node)
        if special is not None:
            self._special[pod.metadata.uid or ""] = special
            missing.append(special.claim)
        if not missing:
            return SUCCESS
        given = self._allocate(missing, node)
        if isinstance(given, Status):
            return given
        made = [_with(claim, allocation) for claim, allocation in zip(missing, given, strict=True)]
        self._decided[pod.metadata.uid or ""] = made
        for claim in made:
            self._claims.decide(claim)
        return SUCCESS

    def _concerns(self, pod: Pod) -> bool:
        return bool(pod.spec.resource_claims) or (bool(self._claims.resources) and _asks_for_extended(pod))

    def _specially(self, pod: Pod, node: str) -> Special | None:
        """The claim for what a node has none of."""
        row = self._nodes.rows[node]
        asked = self._claims.backed(self._nodes.templates.of(pod)) if self._claims.resources else []
        lacking = [name for name in asked if not self._nodes.alloc[self._nodes.resource(name), row]]
        return special_claim(pod, lacking, self._claims.resources) if lacking else None

    def _allocate(self, claims: Sequence[ResourceClaim], name: str) -> list[AllocationResult] | Status:
        node = self._nodes.nodes[self._nodes.rows[name]]
        assert node is not None
        pools = self._claims.inventory.pools_on(node)
        known, taken, random = self._claims.device_class, self._claims.taken, self._clock.random
        try:
            given = allocate(claims, pools, known, taken, node=node, random=random)
        except (Fault, TooLong) as fault:
            return Status(Code.ERROR, str(fault))
        return given if given is not None else Status(Code.UNRESOLVABLE, CANNOT)

    def waits(self, pod: Pod) -> bool:
        if not self._concerns(pod):
            return False
        claims = self._claims.of_pod(pod)
        if isinstance(claims, str):
            return False
        return any(_waits_for(claim) for claim in (*claims, *self._decided.get(pod.metadata.uid or "", ())))

    def unreserve(self, pod: Pod, node: str) -> Job | None:
        if not self._concerns(pod):
            return None
        self._special.pop(pod.metadata.uid or "", None)
        for claim in self._decided.pop(pod.metadata.uid or "", ()):
            self._claims.give_up(claim)
        claims, special = self._claims.of_pod(pod), self._claims.special_of(pod)
        reserved = [] if isinstance(claims, str) else [claim for claim in claims if is_reserved_for(pod, claim)]
        return (lambda: self._release(pod, reserved, special)) if reserved or special else None

    async def _release(self, pod: Pod, claims: Sequence[ResourceClaim], special: Sequence[ResourceClaim]) -> None:
        """The pod uses them no more, and what was made for it alone goes. If this fails, its next try finds them."""
        for claim in special:
            await self._remove(claim)
        for claim in claims:
            gone = {"$patch": "delete", "uid": pod.metadata.uid}
            patch: dict[str, Any] = {"metadata": {"uid": claim.metadata.uid}, "status": {"reservedFor": [gone]}}
            name, namespace = claim.metadata.name or "", claim.metadata.namespace
            await self._client.patch(
                ResourceClaim, name, patch, namespace, type=PatchType.STRATEGIC, subresource="status"
            )

    async def _remove(self, claim: ResourceClaim) -> None:
        name, namespace = claim.metadata.name or "", claim.metadata.namespace
        for left in reversed(range(TRIES)):
            kept = tuple(each for each in claim.metadata.finalizers if each != FINALIZER)
            try:
                if kept != claim.metadata.finalizers:
                    await self._client.update(replace(claim, metadata=replace(claim.metadata, finalizers=kept)))
                await self._client.delete(ResourceClaim, name, namespace)
                return
            except NotFound:
                return
            except Conflict:
                if not left:
                    raise
            claim = await self._client.get(ResourceClaim, name, namespace)

    async def pre_bind(self, pod: Pod, node: str) -> Status:
        if not self._concerns(pod):
            return SUCCESS
        try:
            await self._bind(pod, node)
        except (ApiError, NotBound, OSError, TimeoutError) as err:
            return Status(Code.ERROR, f'running PreBind plugin "{NAME}": {err}')
        self._decided.pop(pod.metadata.uid or "", None)
        self._special.pop(pod.metadata.uid or "", None)
        return SUCCESS

    async def _bind(self, pod: Pod, node: str) -> None:
        claims = self._claims.of_pod(pod)
        if isinstance(claims, str):
            raise NotBound(claims)
        for claim in claims:
            if not is_reserved_for(pod, claim):
                await self._write(pod, claim)
        special = self._special.get(pod.metadata.uid or "")
        if special is not None:
            await self._write_special(pod, special)
        if any(map(_waits_for, self._used(pod))):
            text = f"waiting for binding conditions for device on node {node}"
            self._recorder.event(pod, "Normal", "BindingConditionsPending", text)
            await self._until_ready(pod)

    def _used(self, pod: Pod) -> list[ResourceClaim]:
        """All claims of a pod. Raises NotBound: one of them is not there any more."""
        claims = self._claims.of_pod(pod)
        if isinstance(claims, str):
            raise NotBound(claims)
        return [*claims, *self._claims.special_of(pod)]

    async def _write_special(self, pod: Pod, special: Special) -> None:
        """Make the claim for a pod's extended resources, give it its devices, and tell the pod's kubelet of it."""
        decided = self._claims.decided(special.claim)
        meta = replace(special.claim.metadata, name=None, uid=None)
        where = f"create claim for extended resources {meta.namespace}/{IN_MEMORY}"
        made = await self._said(where, self._client.create(replace(special.claim, metadata=meta)))
        taken_over = replace(made, status=decided.status)
        self._decided[pod.metadata.uid or ""].append(taken_over)
        self._claims.decide(taken_over)
        self._claims.give_up(special.claim)
        await self._claims.shows(made)
        await self._write(pod, made)
        mappings = [
            {"containerName": one.container_name, "resourceName": one.resource_name, "requestName": one.request_name}
            for one in special.mappings
        ]
        told = {"resourceClaimName": made.metadata.name, "requestMappings": mappings}
        patch = {"metadata": {"uid": pod.metadata.uid}, "status": {"extendedResourceClaimStatus": told}}
        name, namespace = pod.metadata.name or "", pod.metadata.namespace
        await self._client.patch(Pod, name, patch, namespace, type=PatchType.STRATEGIC, subresource="status")

    async def _write(self, pod: Pod, claim: ResourceClaim) -> None:
        """Write what was decided for a claim, and that the pod uses it. Others may write it meanwhile."""
        allocation = self._claims.decided(claim).status.allocation if self._claims.is_pending(claim) else None
        for left in reversed(range(TRIES)):
            try:
                self._claims.written(await self._write_once(pod, claim, allocation))
                return
            except Conflict:
                if not left:
                    raise
            claim = await self._client.get(ResourceClaim, claim.metadata.name or "", claim.metadata.namespace)

    async def _write_once(self, pod: Pod, claim: ResourceClaim, allocation: AllocationResult | None) -> ResourceClaim:
        """Raises Conflict: it is another one by now. Raises NotBound."""
        where = f"claim {claim.metadata.namespace}/{claim.metadata.name}"
        if claim.metadata.deletion_timestamp is not None:
            raise NotBound(f"{where} got deleted in the meantime")
        if allocation is not None:
            if claim.status.allocation is not None:
                raise NotBound(f"{where} got allocated elsewhere in the meantime")
            if FINALIZER not in claim.metadata.finalizers:
                claim = await self._said(f"add finalizer to {where}", self._client.update(_protected(claim)))
            claim = replace(claim, status=replace(claim.status, allocation=allocation))
        if claim.status.allocation is None:
            raise NotBound(f"{where} got deallocated in the meantime")
        given = claim.status.allocation
        if given.allocation_timestamp is None:
            given = replace(given, allocation_timestamp=format_time(self._clock.now()))
        status = replace(claim.status, allocation=given, reserved_for=(*claim.status.reserved_for, consumer(pod)))
        what = "allocation and reservation" if allocation is not None else "reservation"
        return await self._said(f"add {what} to {where}", self._client.update_status(replace(claim, status=status)))

    @staticmethod
    async def _said(what: str, call: Awaitable[ResourceClaim]) -> ResourceClaim:
        """A failure says at what. A conflict is the caller's."""
        try:
            return await call
        except Conflict:
            raise
        except (ApiError, OSError, TimeoutError) as err:
            raise NotBound(f"{what}: {err}") from err

    async def _until_ready(self, pod: Pod) -> None:
        """Wait for the devices of all claims. Raises NotBound."""
        until = self._clock.monotonic() + BINDING_TIMEOUT_S
        while not self._all_ready(pod):
            left = until - self._clock.monotonic()
            if left <= 0:
                raise NotBound("device binding timeout")
            await self._moved(left)

    def _all_ready(self, pod: Pod) -> bool:
        for claim in self._used(pod):
            if not is_ready(claim):
                if is_late(claim, self._clock.now()):
                    raise NotBound(f"claim {claim.metadata.name} binding timeout")
                return False
        return True

    async def _moved(self, seconds: float) -> None:
        waits = (
            asyncio.ensure_future(self._clock.sleep(seconds)),
            asyncio.ensure_future(self._claims.moved.wait()),
        )
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    # ------------------------------------------------------------------------------------------------ PostFilter

    def take_back(self, pod: Pod, diagnosis: Diagnosis) -> tuple[str, Job | None]:
        """For a pod that fits nowhere: one of its claims that has devices which some node cannot use, and that nobody else
        uses, is to be without. (what to say of it, what to do)."""
        left = self._claims.special_of(pod) if self._concerns(pod) else ()
        if left:  # of an earlier try, whose end went wrong
            return REMOVED, lambda: self._release(pod, (), left)
        claims = self._claims.of_pod(pod) if pod.spec.resource_claims else ()
        if not claims or diagnosis.refused or isinstance(claims, str):
            return NOTHING_TO_TAKE, None
        if NOT_HERE not in diagnosis.reasons:
            return STILL_NOT, None
        alive = self._nodes.alive
        unusable = [claim for claim in claims if not self._plugin.reach([claim], self._nodes)[alive].all()]
        mine = [claim for claim in unusable if all(user.uid == pod.metadata.uid for user in claim.status.reserved_for)]
        if not mine:
            return STILL_NOT, None
        chosen = mine[self._clock.random.randrange(len(mine))]
        status = replace(chosen.status, allocation=None, reserved_for=(), devices=())

        async def act() -> None:
            self._claims.written(await self._client.update_status(replace(chosen, status=status)))

        return TAKEN_BACK, act


def _asks_for_extended(pod: Pod) -> bool:
    every = (*pod.spec.init_containers, *pod.spec.containers)
    return any("/" in name for container in every for name in container.resources.requests)


def _with(claim: ResourceClaim, allocation: AllocationResult) -> ResourceClaim:
    return replace(claim, status=replace(claim.status, allocation=allocation))


def _protected(claim: ResourceClaim) -> ResourceClaim:
    return replace(claim, metadata=replace(claim.metadata, finalizers=(*claim.metadata.finalizers, FINALIZER)))
