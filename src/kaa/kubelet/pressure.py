"""When a node runs short, and whom that costs. Pure: what was observed and what stands from before, in; a verdict, out.

    observations ── judge ──> conditions that hold · the shortage to relieve first ── rank ──> the pod to end

A hard threshold counts at once, a soft one after its grace. A condition stays for a while after its cause has gone, so that
the scheduler does not see it flap. Source: pkg/kubelet/eviction (helpers.go, eviction_manager.go).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

import msgspec

from kaa.api import quantity
from kaa.api.placement import untolerated
from kaa.api.types.core_v1 import Pod, Taint

from .cgroups import pod_amount, qos_class

MEMORY, NODE_FS, NODE_INODES = "memory.available", "nodefs.available", "nodefs.inodesFree"
IMAGE_FS, IMAGE_INODES, PIDS = "imagefs.available", "imagefs.inodesFree", "pid.available"

#: {signal: (the node's condition, the resource in messages)}, in the order in which shortages are relieved.
SIGNALS: Mapping[str, tuple[str, str]] = {
    MEMORY: ("MemoryPressure", "memory"),
    NODE_FS: ("DiskPressure", "ephemeral-storage"),
    NODE_INODES: ("DiskPressure", "inodes"),
    IMAGE_FS: ("DiskPressure", "ephemeral-storage"),
    IMAGE_INODES: ("DiskPressure", "inodes"),
    PIDS: ("PIDPressure", "pids"),
}
_MEMORY_TAINT = Taint(key="node.kubernetes.io/memory-pressure", effect="NoSchedule")
CRITICAL_PRIORITY = 2_000_000_000


class Observation(msgspec.Struct, frozen=True):
    """A signal now, in bytes or counts."""

    available: int
    capacity: int


class Threshold(msgspec.Struct, frozen=True):
    """Under ``value`` a signal is met; ``reclaim`` is what must be free beyond it before pressure ends."""

    signal: str
    value: str  #: ``100Mi``, ``10%``
    grace_s: float = 0.0  #: of soft thresholds
    hard: bool = True
    reclaim: str = ""

    def amount(self, capacity: int) -> int:
        return _amount(self.value, capacity)

    def is_met(self, seen: Observation, *, with_reclaim: bool = False) -> bool:
        wanted = self.amount(seen.capacity)
        if with_reclaim and self.reclaim:
            wanted += _amount(self.reclaim, seen.capacity)
        return seen.available < wanted


def _amount(text: str, capacity: int) -> int:
    if text.endswith("%"):
        return int(Fraction(text[:-1]) * capacity / 100)
    return quantity.whole(text)


def thresholds(
    hard: Mapping[str, str],
    soft: Mapping[str, str] | None = None,
    grace_s: Mapping[str, float] | None = None,
    reclaim: Mapping[str, str] | None = None,
) -> tuple[Threshold, ...]:
    """Of a KubeletConfiguration's four maps by signal. Raises ValueError for unknown signals and soft ones without grace."""
    soft, grace_s, reclaim = soft or {}, grace_s or {}, reclaim or {}
    unknown = {*hard, *soft, *grace_s, *reclaim} - SIGNALS.keys()
    if unknown:
        raise ValueError(f"unknown eviction signals: {', '.join(sorted(unknown))}; there are {', '.join(SIGNALS)}")
    without = soft.keys() - grace_s.keys()
    if without:
        raise ValueError(f"soft eviction thresholds without a grace period: {', '.join(sorted(without))}")
    made = [Threshold(name, value, reclaim=reclaim.get(name, "")) for name, value in hard.items()]
    made += [Threshold(name, value, grace_s[name], False, reclaim.get(name, "")) for name, value in soft.items()]
    return tuple(made)


# -------------------------------------------------------------------------------------------------------- judging


class Shortage(msgspec.Struct, frozen=True):
    """A threshold that counts, and what was seen."""

    threshold: Threshold
    seen: Observation

    @property
    def resource(self) -> str:
        return SIGNALS[self.threshold.signal][1]


class Verdict(msgspec.Struct, frozen=True):
    """``since`` {threshold: when it was first met} and ``held`` {condition: when it was last met} go into the next judgement."""

    conditions: frozenset[str] = frozenset()
    shortage: Shortage | None = None
    since: Mapping[Threshold, float] = msgspec.field(default_factory=dict)
    held: Mapping[str, float] = msgspec.field(default_factory=dict)


def judge(
    last: Verdict, wanted: Sequence[Threshold], seen: Mapping[str, Observation], now: float, transition_s: float
) -> Verdict:
    """Which conditions hold, and which shortage comes first. A signal that was not seen is no shortage."""
    met = [one for one in wanted if one.signal in seen and one.is_met(seen[one.signal], with_reclaim=one in last.since)]
    since = {one: last.since.get(one, now) for one in met}
    held = {**last.held, **{SIGNALS[one.signal][0]: now for one in met}}
    held = {name: at for name, at in held.items() if at == now or now - at < transition_s}
    counting = [one for one in met if now - since[one] >= one.grace_s]
    order = list(SIGNALS)
    first = min(counting, key=lambda one: (order.index(one.signal), not one.hard), default=None)
    shortage = Shortage(first, seen[first.signal]) if first is not None else None
    return Verdict(frozenset(held), shortage, since, held)


# -------------------------------------------------------------------------------------------------------- ranking


class Usage(msgspec.Struct, frozen=True):
    """What a pod uses of what runs short, and what each of its containers does."""

    pod: Pod
    total: int
    containers: Mapping[str, int] = msgspec.field(default_factory=dict)


def may_be_evicted(pod: Pod, *, static: bool) -> bool:
    """Critical pods stay: static ones, and those of the highest priorities."""
    return not static and (pod.spec.priority or 0) < CRITICAL_PRIORITY


def rank(resource: str, pods: Iterable[Usage]) -> list[Usage]:
    """First those that use more than they asked for, of them the least important, of them the greediest."""

    def key(one: Usage) -> tuple[bool, int, int]:
        beyond = one.total - _request(one.pod, resource)
        return beyond <= 0, one.pod.spec.priority or 0, -beyond

    return sorted(pods, key=key)


def _request(pod: Pod, resource: str) -> int:
    return (pod_amount(pod, "requests", resource) or 0) if resource in ("memory", "ephemeral-storage") else 0


def eviction_message(shortage: Shortage, victim: Usage) -> str:
    """What the pod's status and event say."""
    resource, bytes_ = shortage.resource, shortage.resource in ("memory", "ephemeral-storage")
    threshold, seen = shortage.threshold, shortage.seen
    text = f"The node was low on resource: {resource}. "
    text += f"Threshold quantity: {_shown(threshold.amount(seen.capacity), bytes_)}, "
    text += f"available: {_shown(seen.available, bytes_)}. "
    for container in victim.pod.spec.containers:
        used = victim.containers.get(container.name, 0)
        asked = container.resources.requests.get(resource, "0")
        if bytes_ and used > quantity.whole(asked):
            text += f"Container {container.name} was using {_shown(used, True)}, request is {asked}, "
            text += f"has larger consumption of {resource}. "
    return text


def _shown(amount: int, is_bytes: bool) -> str:
    return f"{amount // 1024}Ki" if is_bytes and amount else str(amount)


def refused_under(conditions: Iterable[str], pod: Pod, *, static: bool) -> str:
    """Why a node under pressure takes no such pod; empty if it does."""
    found = sorted(conditions)
    if not found or not may_be_evicted(pod, static=static):
        return ""
    only_memory = found == ["MemoryPressure"]
    if only_memory and (qos_class(pod) != "BestEffort" or not untolerated(pod, [_MEMORY_TAINT], "NoSchedule")):
        return ""
    return f"The node had condition: [{' '.join(found)}]. "


# -------------------------------------------------------------------------------------------------------- local storage


class Storage(msgspec.Struct, frozen=True):
    """Bytes that a pod keeps on its node: in emptyDir volumes on disk, and for each container its root and logs."""

    volumes: Mapping[str, int] = msgspec.field(default_factory=dict)
    containers: Mapping[str, int] = msgspec.field(default_factory=dict)


def has_storage_limit(pod: Pod) -> bool:
    """Whether anything limits what a pod keeps on disk: only then is it measured."""
    on_disk = (volume.empty_dir for volume in pod.spec.volumes)
    if any(one is not None and one.medium != "Memory" and one.size_limit for one in on_disk):
        return True
    return any("ephemeral-storage" in one.resources.limits for one in pod.spec.containers)


def storage_excess(pod: Pod, used: Storage) -> str:
    """How a pod uses more local storage than it may; empty if it does not."""
    for volume in pod.spec.volumes:
        limit = volume.empty_dir.size_limit if volume.empty_dir is not None else None
        if limit and used.volumes.get(volume.name, 0) > quantity.whole(limit):
            return f'Usage of EmptyDir volume "{volume.name}" exceeds the limit "{limit}". '
    total = pod_amount(pod, "limits", "ephemeral-storage")
    if total and sum(used.volumes.values()) + sum(used.containers.values()) > total:
        named = [one.resources.limits.get("ephemeral-storage", "") for one in pod.spec.containers]
        binary = next((text for text in named if text), "").endswith("i")  # a sum is written as its first term
        shown = quantity.format_bytes(total) if binary else quantity.canonical(total)
        return f"Pod ephemeral local storage usage exceeds the total limit of containers {shown}. "
    for container in pod.spec.containers:
        own = container.resources.limits.get("ephemeral-storage")
        if own and used.containers.get(container.name, 0) > quantity.whole(own):
            return f'Container {container.name} exceeded its local ephemeral storage limit "{own}". '
    return ""
