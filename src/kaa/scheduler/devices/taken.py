"""What claims have been given: devices of which nobody else gets any, and parts of devices that are shared.

Source: kubernetes pkg/scheduler/framework/plugins/dynamicresources/allocateddevices.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction

from kaa.api import quantity
from kaa.api.types.resource_v1 import AllocationResult

from .offers import DeviceId, PoolId

Parts = dict[str, Fraction]  #: {capacity: how much of it}


class Taken:
    """A sum over claims: ``set`` replaces what one of them has."""

    def __init__(self) -> None:
        self._of: dict[str, AllocationResult] = {}  #: {claim uid: what it has}
        self._whole: dict[DeviceId, int] = {}  #: claims that have it; more than one after a mishap only
        self._shares: dict[DeviceId, list[Parts]] = {}

    def set(self, uid: str, allocation: AllocationResult | None) -> set[PoolId]:
        """Returns the pools whose devices this concerns; none when nothing changed."""
        old = self._of.get(uid)
        if old == allocation:
            return set()
        if old is not None:
            self._count(old, -1)
            del self._of[uid]
        if allocation is not None:
            self._count(allocation, 1)
            self._of[uid] = allocation
        each = (one for given in (old, allocation) if given is not None for one in given.devices.results)
        return {PoolId(one.driver, one.pool) for one in each}

    def _count(self, allocation: AllocationResult, sign: int) -> None:
        for one in allocation.devices.results:
            if one.admin_access:
                continue  # takes nothing from anybody
            device = DeviceId(one.driver, one.pool, one.device)
            if one.share_id is not None:
                self._share(device, {k: quantity.parse(v) for k, v in one.consumed_capacity.items()}, sign)
                continue
            left = self._whole.get(device, 0) + sign
            self._whole[device] = left
            if not left:
                del self._whole[device]

    def _share(self, device: DeviceId, parts: Parts, sign: int) -> None:
        shares = self._shares.setdefault(device, [])
        if sign > 0:
            shares.append(parts)
        else:
            shares.remove(parts)
        if not shares:
            del self._shares[device]

    def whole(self, device: DeviceId) -> bool:
        """Whether somebody has the device for themselves."""
        return device in self._whole

    def any(self, device: DeviceId) -> bool:
        return device in self._whole or device in self._shares

    def shared(self, device: DeviceId) -> bool:
        return device in self._shares

    def parts(self, device: DeviceId) -> Parts:
        """What is used of a shared device."""
        return total(self._shares.get(device, ()))


def total(shares: Iterable[Mapping[str, Fraction]]) -> Parts:
    found: Parts = {}
    for parts in shares:
        for name, amount in parts.items():
            found[name] = found.get(name, Fraction(0)) + amount
    return found
