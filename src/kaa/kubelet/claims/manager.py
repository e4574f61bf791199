"""The ResourceClaims of this node's pods: prepared by their drivers before the pods run, taken back when they are over.

    pod ──its claims, read from the API, checked──> NodePrepareResources ──> CDI names ──> its containers
        ──all of it ended──> NodeUnprepareResources, of claims that no other pod here uses

What was asked of drivers is on disk before they are asked, so that it can always be taken back.
Source: pkg/kubelet/cm/dra/manager.go; k8s.io/dynamic-resource-allocation/resourceclaim.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from msgspec.structs import replace

from kaa.api.device_claims import actual_name, foreign_fault, is_reserved_for
from kaa.api.errors import ApiError
from kaa.api.types.core_v1 import Container, Pod, ResourceHealth, ResourceStatus
from kaa.api.types.resource_v1 import ResourceClaim
from kaa.client.client import Client

from ..devices import RpcFailure
from ..topology.base import Given, Hint
from . import ClaimFailure, checkpoint
from .checkpoint import ClaimState, Device, DriverState
from .drivers import Drivers, NoDriver
from .messages import Claim, Claims, PrepareResponse, UnprepareResponse

if TYPE_CHECKING:
    from ..pod_resources.messages import DynamicResource

log = structlog.get_logger(__name__)
_Key = tuple[str, str]  #: (namespace, name)


class ClaimManager:
    """A Provider (``topology.base``) of what its ``prepare`` has made ready."""

    def __init__(self, client: Client, root: Path, drivers: Drivers, wake: Callable[[str], None]) -> None:
        """``wake``: devices of a pod (its uid) are well or ill now."""
        self._wake = wake
        drivers.health.changed = self._devices_changed
        self._client, self._path, self.drivers = client, root / checkpoint.FILE, drivers
        self.claims: dict[_Key, ClaimState] = {}
        self._prepared: set[_Key] = set()  #: in this life of the kubelet
        self._lock = asyncio.Lock()  # drivers may rely on it: nothing is prepared while something is taken back
        self._restore()

    def _restore(self) -> None:
        try:
            self.claims = {(one.namespace, one.claim_name): one for one in checkpoint.load(self._path)}
        except (ValueError, OSError) as err:
            log.error("state of claims not read: drain the node and remove it", path=str(self._path), error=str(err))

    async def _save(self) -> None:
        """Raises ClaimFailure."""
        entries = tuple(self.claims[key] for key in sorted(self.claims))
        try:
            await asyncio.to_thread(checkpoint.save, self._path, entries)
        except OSError as err:
            raise ClaimFailure(f"checkpoint ResourceClaim state: {err}") from err

    # ------------------------------------------------------------------------------------------------ preparing

    async def prepare(self, pod: Pod) -> None:
        """Make a pod's claims ready; repeatable. Raises ClaimFailure."""
        async with self._lock:
            try:
                found = await self._checked(pod)
                batches = await self._noted(pod, found)
                for driver, claims in batches.items():
                    await self._ask_to_prepare(driver, claims)
            except (NoDriver, ClaimFailure) as err:
                raise ClaimFailure(f"prepare dynamic resources: {err}") from err
            ready = {(one.metadata.namespace or "", one.metadata.name or "") for one in found}
            if ready - self._prepared:
                self._prepared |= ready
                await self._save()

    async def _checked(self, pod: Pod) -> list[ResourceClaim]:
        """The pod's claims, all of which may be prepared. Raises ClaimFailure, NoDriver."""
        found = []
        for name, generated in claim_names(pod):
            try:
                claim = await self._client.get(ResourceClaim, name, pod.metadata.namespace)
            except (ApiError, OSError, TimeoutError) as err:
                raise ClaimFailure(f"fetch ResourceClaim {name}: {err}") from err
            check(pod, claim, generated=generated)
            for driver in drivers_of(claim):
                self.drivers.check(driver)
            found.append(claim)
        return found

    async def _noted(self, pod: Pod, found: Sequence[ResourceClaim]) -> dict[str, list[Claim]]:
        """Write down that the pod uses the claims. Returns {driver: those that it must prepare}. Raises ClaimFailure."""
        batches: dict[str, list[Claim]] = {}
        changed = False
        for claim in found:
            meta = claim.metadata
            key = meta.namespace or "", meta.name or ""
            known = self.claims.get(key)
            if known is None:
                states = {driver: DriverState() for driver in drivers_of(claim)}
                known = ClaimState(meta.uid or "", key[1], key[0], {}, states)
            elif known.claim_uid != meta.uid:
                raise ClaimFailure(
                    f"old ResourceClaim with same name {key[1]} and different UID {known.claim_uid} still exists"
                    " (previous pod force-deleted?!)"
                )
            noted = replace(known, pod_uids={**known.pod_uids, pod.metadata.uid or "": {}})
            if self.claims.get(key) != noted:
                self.claims[key], changed = noted, True
            if key not in self._prepared:
                asked = Claim(namespace=known.namespace, uid=known.claim_uid, name=known.claim_name)
                for driver in known.driver_state:
                    batches.setdefault(driver, []).append(asked)
        if changed:
            await self._save()
        return batches

    async def _ask_to_prepare(self, driver: str, claims: Sequence[Claim]) -> None:
        """Raises ClaimFailure, NoDriver."""
        for claim, result in await self._ask(driver, "NodePrepareResources", claims, PrepareResponse):
            key = claim.namespace, claim.name
            devices = tuple(
                Device(one.pool, one.device, one.share_id or None, one.requests, one.cdi_devices)
                for one in result.devices
            )
            known = self.claims[key]
            self.claims[key] = replace(known, driver_state={**known.driver_state, driver: DriverState(devices)})

    async def _ask(
        self, driver: str, verb: str, claims: Sequence[Claim], kind: type[PrepareResponse] | type[UnprepareResponse]
    ) -> list[tuple[Claim, Any]]:
        """[(claim, what the driver says of it)] of all of them. Raises ClaimFailure, NoDriver."""
        try:
            answer = await self.drivers.ask(driver, verb, Claims(tuple(claims)), kind)
        except RpcFailure as err:
            raise ClaimFailure(f"{verb}: {err}") from err
        asked, found = {one.uid: one for one in claims}, list[tuple[Claim, Any]]()
        for entry in answer.claims:
            if entry.uid not in asked:
                raise ClaimFailure(f"{verb} returned result for unknown claim UID {entry.uid}")
            if entry.result.error:
                raise ClaimFailure(f"{verb} failed for ResourceClaim {asked[entry.uid].name}: {entry.result.error}")
            found.append((asked[entry.uid], entry.result))
        if len(found) != len(claims):
            raise ClaimFailure(f"{verb} skipped {len(claims) - len(found)} ResourceClaims")
        return found

    # ------------------------------------------------------------------------------------------------ taking back

    async def unprepare(self, pod: Pod) -> None:
        """The pod is over; repeatable. Raises ClaimFailure."""
        await self._unprepare(pod.metadata.uid or "")

    async def keep_only(self, uids: Collection[str]) -> None:
        """Take back what pods have that are no more. What fails is logged, and tried at the next call."""
        for uid in {uid for claim in self.claims.values() for uid in claim.pod_uids} - set(uids):
            try:
                await self._unprepare(uid)
            except ClaimFailure as err:
                log.warning("claims of a pod that is gone not taken back yet", pod=uid, error=str(err))

    async def _unprepare(self, uid: str) -> None:
        async with self._lock:
            mine = [key for key, claim in self.claims.items() if uid in claim.pod_uids]
            last = [key for key in mine if len(self.claims[key].pod_uids) == 1]
            batches: dict[str, list[Claim]] = {}
            for claim in (self.claims[key] for key in last):
                for driver in claim.driver_state:
                    asked = Claim(namespace=claim.namespace, uid=claim.claim_uid, name=claim.claim_name)
                    batches.setdefault(driver, []).append(asked)
            try:
                for driver, claims in batches.items():
                    await self._ask(driver, "NodeUnprepareResources", claims, UnprepareResponse)
            except (NoDriver, ClaimFailure) as err:
                raise ClaimFailure(f"unprepare dynamic resources: {err}") from err
            for key in mine:
                left = {pod: mark for pod, mark in self.claims[key].pod_uids.items() if pod != uid}
                if left:
                    self.claims[key] = replace(self.claims[key], pod_uids=left)
                else:
                    del self.claims[key]
                    self._prepared.discard(key)
            if mine:
                await self._save()

    # ------------------------------------------------------------------------------------------------ a Provider

    def hints(self, pod: Pod, container: Container) -> Mapping[str, Sequence[Hint] | None]:
        return {}  # where claimed devices are, the scheduler has decided

    async def allocate(self, pod: Pod, container: Container, where: Hint) -> None:
        return

    def release(self, pod_uid: str) -> None:
        return  # drivers must be asked: ``unprepare``

    def given(self, pod: Pod, container: Container) -> Given:
        """The CDI devices of the claims, or of the requests in them, that a container names."""
        names = [
            name
            for key, request in self._uses(pod, container)
            if key in self.claims
            for name in cdi_names(self.claims[key], request)
        ]
        return Given(cdi_devices=tuple(dict.fromkeys(names)))

    def health(self, pod: Pod, container: Container) -> tuple[ResourceStatus, ...]:
        """How claimed devices are, for the container's status."""
        made = []
        by_name = {one.name: one for one in pod.spec.resource_claims}
        for wanted in container.resources.claims if container.resources is not None else ():
            actual = actual_name(pod, by_name[wanted.name])[0] if wanted.name in by_name else None
            claim = self.claims.get((pod.metadata.namespace or "", actual or ""))
            request = wanted.request or ""
            found = [self._health(driver, one) for driver, one in devices_for(claim, request)] if claim else []
            if found:
                name = f"claim:{wanted.name}/{request}" if request else f"claim:{wanted.name}"
                unique = {one.resource_id: one for one in reversed(found)}
                made.append(ResourceStatus(name=name, resources=tuple(reversed(unique.values()))))
        return tuple(made)

    def _health(self, driver: str, device: Device) -> ResourceHealth:
        health = self.drivers.health.of((driver, device.pool_name, device.device_name))
        ids = device.cdi_device_ids or (f"{driver}/{device.pool_name}/{device.device_name}",)
        return ResourceHealth(resource_id=ids[0], health=health.status, message=health.message or None)

    def _devices_changed(self, devices: Collection[tuple[str, str, str]]) -> None:
        """Tell the pods that have some of them."""
        for claim in self.claims.values():
            mine = {(driver, one.pool_name, one.device_name) for driver, one in devices_for(claim, "")}
            if not mine.isdisjoint(devices):
                for uid in claim.pod_uids:
                    self._wake(uid)

    def claims_of(self, pod: Pod, container: Container) -> list[DynamicResource]:
        """Which claimed devices a container has, for monitors."""
        from ..pod_resources.messages import CdiDevice, ClaimResource, DynamicResource

        found = []
        for key in dict.fromkeys(key for key, _ in self._uses(pod, container)):
            claim = self.claims.get(key)
            devices = [
                ClaimResource(tuple(map(CdiDevice, one.cdi_device_ids or ())), driver, one.pool_name, one.device_name)
                for driver, state in sorted(claim.driver_state.items() if claim is not None else ())
                for one in state.devices or ()
            ]
            if claim is not None:
                found.append(DynamicResource(claim.claim_name, claim.namespace, tuple(devices)))
        return found

    def _uses(self, pod: Pod, container: Container) -> list[tuple[_Key, str]]:
        """[(a claim, the request in it that is meant, all for none)] of a container."""
        namespace, found = pod.metadata.namespace or "", []
        wanted = container.resources.claims if container.resources is not None else ()
        for one in pod.spec.resource_claims:
            name = actual_name(pod, one)[0]
            found += [((namespace, name), use.request or "") for use in wanted if name and use.name == one.name]
        extended = pod.status.extended_resource_claim_status
        for mapping in extended.request_mappings if extended is not None else ():
            if extended is not None and mapping.container_name == container.name:
                found.append(((namespace, extended.resource_claim_name), mapping.request_name))
        return found


def devices_for(claim: ClaimState, request: str) -> list[tuple[str, Device]]:
    """[(driver, device)] of a claim; with a request, those that are for it. A request's alternatives share its name."""
    base = request.partition("/")[0]
    return [
        (driver, device)
        for driver, state in sorted(claim.driver_state.items())
        for device in state.devices or ()
        if not base or not device.request_names or base in device.request_names
    ]


def cdi_names(claim: ClaimState, request: str) -> list[str]:
    """Their CDI devices."""
    return [name for _, device in devices_for(claim, request) for name in device.cdi_device_ids or ()]


def claim_names(pod: Pod) -> list[tuple[str, bool]]:
    """[(name, whether it was generated for the pod)] of a pod's claims; of one that needs none, nothing.

    Raises ClaimFailure.
    """
    found = []
    for one in pod.spec.resource_claims:
        name, generated, fault = actual_name(pod, one)
        if fault:
            raise ClaimFailure(fault)
        if name:
            found.append((name, generated))
    extended = pod.status.extended_resource_claim_status
    if extended is not None:
        found.append((extended.resource_claim_name, False))
    return found


def check(pod: Pod, claim: ResourceClaim, *, generated: bool) -> None:
    """Raises ClaimFailure for a claim that the pod may not use, or not yet."""
    meta, own = claim.metadata, pod.metadata
    fault = foreign_fault(pod, claim) if generated else ""
    if fault:
        raise ClaimFailure(fault)
    if not is_reserved_for(pod, claim):
        raise ClaimFailure(f"pod {own.name} ({own.uid}) is not allowed to use ResourceClaim {meta.name} ({meta.uid})")
    if claim.status.allocation is None:
        raise ClaimFailure(f"ResourceClaim {meta.name}: not allocated")


def drivers_of(claim: ResourceClaim) -> list[str]:
    """Every driver that has part in a claim's allocation."""
    allocation = claim.status.allocation
    results = allocation.devices.results if allocation is not None else ()
    return list(dict.fromkeys(result.driver for result in results))
