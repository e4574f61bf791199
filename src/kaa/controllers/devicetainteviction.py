"""Pods leave devices whose taints NoExecute their claims do not tolerate: at once, or when the toleration has run out.

Taints are those that drivers publish in ResourceSlices; the tolerations, those that a claim was allocated with.

Source: kubernetes pkg/controller/devicetainteviction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import inf

from kaa.api.clock import parse_time
from kaa.api.device_claims import actual_name, foreign_fault, is_reserved_for, tolerates
from kaa.api.types.core_v1 import Pod
from kaa.api.types.resource_v1 import (
    DeviceTaint,
    DeviceToleration,
    ResourceClaim,
    ResourceSlice,
)
from kaa.client.informer import key_of
from kaa.client.workqueue import Key

from .controller import Context, Controller
from .podcontrol import end_disrupted
from .pods import is_finished

#: The taints of a device: (driver, pool, device).
TaintsOf = Callable[[str, str, str], Sequence[DeviceTaint]]
BY_POOL = "pool"
REASON = "DeviceTaintManagerEviction"


def drives_off_at(claims: Iterable[ResourceClaim], taints_of: TaintsOf, since: float) -> float:
    """When users of claims must be gone (seconds since 1970): ``inf`` for never.

    ``since``: when their wait began, for taints that say not when they came.
    """
    due = inf
    for claim in claims:
        allocation = claim.status.allocation
        for device in allocation.devices.results if allocation is not None else ():
            for taint in taints_of(device.driver, device.pool, device.device):
                if taint.effect == "NoExecute":
                    began = parse_time(taint.time_added) if taint.time_added else since
                    due = min(due, began + tolerated_s(device.tolerations, taint))
    return due


def tolerated_s(tolerations: Iterable[DeviceToleration], taint: DeviceTaint) -> float:
    """Seconds for which a taint is tolerated: the least of those that are told; ``inf`` where one tells none."""
    matching = [each for each in tolerations if tolerates(each, taint)]
    limits = [each.toleration_seconds if each.effect == "NoExecute" else None for each in matching]
    if None in limits:
        return inf
    return max(0.0, min((float(limit) for limit in limits if limit is not None), default=0.0))


def newest_taints(slices: Sequence[ResourceSlice], device: str) -> Sequence[DeviceTaint]:
    """The taints of a device, by the newest generation of its pool."""
    newest = max((each.spec.pool.generation for each in slices), default=0)
    for each in slices:
        if each.spec.pool.generation == newest:
            for found in each.spec.devices:
                if found.name == device:
                    return found.taints
    return ()


class DeviceTaintEviction(Controller[Key]):
    """Keys are pods."""

    name = "device-taint-eviction-controller"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.pods = context.informers.of(Pod)
        self.claims = self.watch(ResourceClaim, self._on_claim)
        self.claims.add_index(BY_POOL, _pools_of)
        self.slices = self.watch(ResourceSlice, self._on_slice)
        self.slices.add_index(BY_POOL, lambda each: (_word(each.spec.driver, each.spec.pool.name),))
        self._waiting: dict[str, float] = {}  #: {uid: when its wait began} of pods that will be evicted
        self.watch(Pod, self._on_pod)

    def _on_slice(self, old: ResourceSlice | None, new: ResourceSlice | None) -> None:
        """Whoever uses the pool, if something drives off from it now or did."""
        if old is not None and new is not None and old.spec == new.spec:
            return
        for each in (old, new):
            if each is not None:
                word = _word(each.spec.driver, each.spec.pool.name)
                if _has_taints(each) or any(map(_has_taints, self.slices.by_index(BY_POOL, word))):
                    for claim in self.claims.by_index(BY_POOL, word):
                        self._look_at_users(claim)

    def _on_claim(self, old: ResourceClaim | None, new: ResourceClaim | None) -> None:
        if old is not None and new is not None and old.status == new.status:
            return
        for each in (old, new):
            if each is not None and each.status.allocation is not None:
                self._look_at_users(each)

    def _look_at_users(self, claim: ResourceClaim) -> None:
        for user in claim.status.reserved_for:
            if user.resource == "pods" and not user.api_group:
                self.queue.add(Key(claim.metadata.namespace or "", user.name))

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        if new is None:
            assert old is not None
            self._waiting.pop(old.metadata.uid or "", None)
        elif _has_claims(new) and new.spec.node_name and (old is None or _claims_differ(old, new)):
            self.queue.add(key_of(new))

    async def reconcile(self, key: Key) -> float | None:
        pod = self.pods.by_key(key)
        if pod is None or not pod.spec.node_name or is_finished(pod) or pod.metadata.deletion_timestamp is not None:
            return None
        uid, now = pod.metadata.uid or "", self.clock.now()
        due = drives_off_at(self._used(pod), self._taints, self._waiting.get(uid, now))
        if due == inf:
            if self._waiting.pop(uid, None) is not None:
                self.events.event(pod, "Normal", REASON, "Cancelling deletion")
            return None
        if due > now:
            self._waiting.setdefault(uid, now)
            return due - now
        self._waiting.pop(uid, None)
        self.events.event(pod, "Normal", REASON, "Marking for deletion")
        text = "Device Taint manager: deleting due to NoExecute taint"
        await end_disrupted(self.client, pod, "DeletionByDeviceTaintManager", text, self.now())
        return None

    def _used(self, pod: Pod) -> list[ResourceClaim]:
        """The claims that are the pod's to use."""
        found = []
        for entry in pod.spec.resource_claims:
            name, own, _ = actual_name(pod, entry)
            claim = self.claims.get(name, pod.metadata.namespace) if name is not None else None
            if claim is not None and is_reserved_for(pod, claim) and not (own and foreign_fault(pod, claim)):
                found.append(claim)
        extended = pod.status.extended_resource_claim_status
        special = self.claims.get(extended.resource_claim_name, pod.metadata.namespace) if extended else None
        return [*found, special] if special is not None and is_reserved_for(pod, special) else found

    def _taints(self, driver: str, pool: str, device: str) -> Sequence[DeviceTaint]:
        return newest_taints(self.slices.by_index(BY_POOL, _word(driver, pool)), device)


def _word(driver: str, pool: str) -> str:
    return f"{driver}/{pool}"


def _pools_of(claim: ResourceClaim) -> set[str]:
    allocation = claim.status.allocation
    return {_word(one.driver, one.pool) for one in allocation.devices.results} if allocation is not None else set()


def _has_taints(each: ResourceSlice) -> bool:
    return any(taint.effect == "NoExecute" for device in each.spec.devices for taint in device.taints)


def _has_claims(pod: Pod) -> bool:
    return bool(pod.spec.resource_claims) or pod.status.extended_resource_claim_status is not None


def _claims_differ(old: Pod, new: Pod) -> bool:
    """Whether a pod has come to its devices, or to others."""
    if old.spec.node_name != new.spec.node_name:
        return True
    return old.status.resource_claim_statuses != new.status.resource_claim_statuses
