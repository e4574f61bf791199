"""The arithmetic of a rolling update: how far up, how far down, and how to share a change of size. No I/O.

The invariant: pods never exceed ``replicas + max_surge``, and available ones never fall below
``replicas - max_unavailable`` by our doing.

Source: kubernetes pkg/controller/deployment (rolling.go, sync.go, util/deployment_util.go).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

from kaa.api.types.apps_v1 import Deployment, ReplicaSet

DESIRED = "deployment.kubernetes.io/desired-replicas"
MAX = "deployment.kubernetes.io/max-replicas"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a deployment allows during a rollout: absolute numbers."""

    replicas: int
    surge: int
    unavailable: int

    @property
    def most(self) -> int:
        return self.replicas + self.surge

    @property
    def least_available(self) -> int:
        return self.replicas - self.unavailable


def scaled(value: int | str | None, total: int, *, up: bool) -> int:
    """An int-or-percent of a total. Absent is 0."""
    if value is None:
        return 0
    if isinstance(value, int):
        return value
    share = int(value.rstrip("%")) * total / 100
    return ceil(share) if up else floor(share)


def is_rolling(deployment: Deployment) -> bool:
    return deployment.spec.strategy.type != "Recreate"


def limits_of(deployment: Deployment) -> Limits:
    """Surge rounds up, unavailable rounds down; if both come to nothing, one pod may be unavailable."""
    replicas = wanted(deployment)
    if not is_rolling(deployment):
        return Limits(replicas, 0, 0)
    rolling = deployment.spec.strategy.rolling_update
    surge = scaled(rolling.max_surge if rolling else None, replicas, up=True)
    unavailable = scaled(rolling.max_unavailable if rolling else None, replicas, up=False)
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return Limits(replicas, surge, min(unavailable, replicas))


def wanted(deployment: Deployment) -> int:
    return 1 if deployment.spec.replicas is None else deployment.spec.replicas


def size(replica_set: ReplicaSet) -> int:
    return 1 if replica_set.spec.replicas is None else replica_set.spec.replicas


def available(replica_set: ReplicaSet) -> int:
    return (replica_set.status.available_replicas or 0) if replica_set.status else 0


def total_size(replica_sets: Sequence[ReplicaSet]) -> int:
    return sum(size(each) for each in replica_sets)


def by_age(replica_sets: Sequence[ReplicaSet]) -> list[ReplicaSet]:
    """Oldest first."""
    return sorted(replica_sets, key=lambda s: (s.metadata.creation_timestamp or "", s.metadata.name or ""))


def size_of_new(deployment: Deployment, others: int, own: int) -> int:
    """How large the new set may be now. ``others``: pods of the old sets; ``own``: its size so far."""
    limits = limits_of(deployment)
    if not is_rolling(deployment):
        return limits.replicas
    room = limits.most - others - own
    if room <= 0:
        return own
    return own + min(room, limits.replicas - own)


def grow_new(deployment: Deployment, new: ReplicaSet, old: Sequence[ReplicaSet]) -> int:
    """The size the new set should have in this step of a rollout."""
    if size(new) >= wanted(deployment):
        return wanted(deployment)
    return size_of_new(deployment, total_size(old), size(new))


def shrink_old(deployment: Deployment, new: ReplicaSet | None, old: Sequence[ReplicaSet]) -> dict[str, int]:
    """{name of an old set: smaller size} of this step: unhealthy pods first, then what availability allows."""
    limits = limits_of(deployment)
    new_size, new_available = (size(new), available(new)) if new is not None else (0, 0)
    spare = total_size(old) + new_size - limits.least_available - (new_size - new_available)
    if total_size(old) == 0 or spare <= 0:
        return {}
    sizes = {each.metadata.name or "": size(each) for each in old}
    before = dict(sizes)
    _drop_unhealthy(old, sizes, spare)
    _drop_healthy(old, sizes, sum(map(available, old)) + new_available - limits.least_available)
    return {name: left for name, left in sizes.items() if left != before[name]}


def _drop_unhealthy(old: Sequence[ReplicaSet], sizes: dict[str, int], spare: int) -> None:
    for each in by_age(old):
        name = each.metadata.name or ""
        drop = max(0, min(spare, sizes[name] - available(each)))
        sizes[name] -= drop
        spare -= drop


def _drop_healthy(old: Sequence[ReplicaSet], sizes: dict[str, int], spare: int) -> None:
    for each in by_age(old):
        name = each.metadata.name or ""
        drop = max(0, min(spare, sizes[name]))
        sizes[name] -= drop
        spare -= drop


# ------------------------------------------------------------------------------------------------ scaling mid-rollout


def rescale(deployment: Deployment, new: ReplicaSet | None, old: Sequence[ReplicaSet]) -> dict[str, int]:
    """{name of a set: its size} after the deployment was scaled, or while it is paused.

    One set takes the whole change; several share it in proportion to their sizes, so that a rollout keeps its mixture.
    """
    everyone = [*old, *([new] if new is not None else [])]
    active = [each for each in everyone if size(each) > 0]
    if len(active) <= 1:
        only = active[0] if active else new or (by_age(old)[-1] if old else None)
        return {} if only is None else {only.metadata.name or "": wanted(deployment)}
    if new is not None and _saturated(deployment, new):
        return {each.metadata.name or "": 0 for each in old if size(each) > 0}
    return _share(deployment, active) if is_rolling(deployment) else {}


def _saturated(deployment: Deployment, new: ReplicaSet) -> bool:
    """The new set has all pods it is to have, and they are available."""
    target = wanted(deployment)
    return desired_of(new) == target == size(new) == available(new)


def desired_of(replica_set: ReplicaSet) -> int | None:
    """The deployment's size when it last set this set's."""
    text = replica_set.metadata.annotations.get(DESIRED, "")
    return int(text) if text.isdecimal() else None


def _share(deployment: Deployment, active: Sequence[ReplicaSet]) -> dict[str, int]:
    limits = limits_of(deployment)
    allowed = limits.most if limits.replicas > 0 else 0
    change = allowed - total_size(active)
    growing = change > 0
    ordered = by_age(active)[::-1] if growing else by_age(active)
    ordered.sort(key=size, reverse=True)
    sizes: dict[str, int] = {}
    given = 0
    for each in ordered:
        part = _proportion(deployment, each, limits, change, given)
        sizes[each.metadata.name or ""] = size(each) + part
        given += part
    largest = ordered[0].metadata.name or ""
    sizes[largest] = max(0, sizes[largest] + change - given)
    return sizes


def _proportion(deployment: Deployment, each: ReplicaSet, limits: Limits, change: int, given: int) -> int:
    if change == 0 or change == given:
        return 0
    fraction = _fraction(deployment, each, limits)
    left = change - given
    return min(fraction, left) if change > 0 else max(fraction, left)


def _fraction(deployment: Deployment, each: ReplicaSet, limits: Limits) -> int:
    """What a set's size would change by if it grew as the deployment did."""
    if limits.replicas == 0:
        return -size(each)
    text = each.metadata.annotations.get(MAX, "")
    before = int(text) if text.isdecimal() and int(text) else deployment.status.replicas or 0
    if before == 0:
        return 0
    return floor(size(each) * limits.most / before + 0.5) - size(each)
