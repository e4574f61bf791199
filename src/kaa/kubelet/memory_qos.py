"""Memory quality of service (cgroup v2): what a pod requests is not taken from it, and who nears its limit is slowed first.

    memory.high   a container that may have more than it requests is slowed beyond
                  request + memoryThrottlingFactor * (limit, else what the node has to give, - request), in whole pages
    memory.min    of guaranteed pods: never reclaimed                            memoryReservationPolicy: TieredReservation
    memory.low    of burstable pods: reclaimed when nothing else is left                                         (the same)

Only with the feature gate MemoryQoS. The classes above the pods have the sum of what theirs have, for the kernel gives a
cgroup no more than its parent has. Source: KEP-2570; kuberuntime_container_linux.go, cm/qos_container_manager_linux.go.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import msgspec

FIELDS = frozenset({"memoryReservationPolicy", "memoryThrottlingFactor"})
MIN, LOW, HIGH = "memory.min", "memory.low", "memory.high"
NONE, TIERED = "None", "TieredReservation"
_PAGE = os.sysconf("SC_PAGE_SIZE")


class MemoryQos(msgspec.Struct, frozen=True):
    """``tiered``: what is requested is kept, too; else containers are only slowed."""

    factor: Fraction = Fraction(9, 10)
    tiered: bool = False

    def kept(self, qos: str, requested_bytes: int) -> dict[str, str]:
        """What a pod, or a container in one, of a QoS class does not lose: {file: bytes}."""
        if not self.tiered or not requested_bytes:
            return {}
        return {"Guaranteed": {MIN: str(requested_bytes)}, "Burstable": {LOW: str(requested_bytes)}}.get(qos, {})

    def slowed(self, request: int, limit: int, allocatable: int) -> dict[str, str]:
        """Beyond what a container is slowed: {file: bytes}; {} for one that has what it requests, or requests nothing."""
        if request == limit:
            return {}
        most = limit or allocatable
        high = int((request + (most - request) * self.factor) / _PAGE) * _PAGE if most else 0
        return {HIGH: str(high)} if high > request else {}


def changes(given: Mapping[str, Any]) -> dict[str, Any]:
    """{field of the config: its value} of what a KubeletConfiguration says. Raises ValueError, in upstream's words."""
    on = (given.get("featureGates") or {}).get("MemoryQoS") is True
    factor, policy = given.get("memoryThrottlingFactor", 0.9), given.get("memoryReservationPolicy") or NONE
    if factor is None and on:
        raise ValueError("memoryThrottlingFactor is required when MemoryQoS feature flag is enabled")
    if factor is not None and not 0 < factor <= 1:
        raise ValueError(f"memoryThrottlingFactor {factor:g} must be greater than 0 and less than or equal to 1.0")
    if policy == TIERED and not on:
        raise ValueError(f'memoryReservationPolicy "{policy}" requires MemoryQoS feature gate to be enabled')
    if policy not in (NONE, TIERED):
        raise ValueError(
            f'option "{policy}" specified for memoryReservationPolicy. Valid options are "{NONE}" or "{TIERED}"'
        )
    return {"memory_qos": MemoryQos(Fraction(str(factor)), policy == TIERED)} if on else {}


class Classes:
    """What the classes of a node's pods have together: {path of a pod's cgroup: bytes of it}."""

    def __init__(self, held: Mapping[str, int]) -> None:
        self._held = dict(held)

    def changed(self, path: str, kept_bytes: int) -> bool:
        """A pod's cgroup has so much now, 0 when it has gone; whether that is another amount."""
        before = self._held.pop(path, 0)
        if kept_bytes:
            self._held[path] = kept_bytes
        return before != kept_bytes

    @property
    def all(self) -> int:
        """Of all pods: ``memory.min`` above them."""
        return sum(self._held.values())

    @property
    def burstable(self) -> int:
        return sum(kept for path, kept in self._held.items() if "/burstable/" in path)


def kept_bytes(values: Mapping[str, str]) -> int:
    return int(values.get(MIN) or values.get(LOW) or 0)
