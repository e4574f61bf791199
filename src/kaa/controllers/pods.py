"""Facts about pods that controllers decide by. No I/O.

Source: kubernetes pkg/api/v1/pod, pkg/controller (IsPodActive, IsPodAvailable, ActivePodsWithRanks).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cmp_to_key
from math import inf, log2

from kaa.api.clock import parse_time
from kaa.api.types.core_v1 import Pod, PodCondition, PodTemplateSpec
from kaa.api.types.meta_v1 import ObjectMeta, OwnerReference

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
FINISHED = ("Succeeded", "Failed")


def condition_of(pod: Pod, type: str) -> PodCondition | None:
    for found in pod.status.conditions:
        if found.type == type:
            return found
    return None


def is_finished(pod: Pod) -> bool:
    return pod.status.phase in FINISHED


def is_active(pod: Pod) -> bool:
    """Neither finished nor being deleted."""
    return pod.status.phase not in FINISHED and pod.metadata.deletion_timestamp is None


def is_terminating(pod: Pod) -> bool:
    """Being deleted, and not finished yet."""
    return pod.status.phase not in FINISHED and pod.metadata.deletion_timestamp is not None


def is_ready(pod: Pod) -> bool:
    found = condition_of(pod, "Ready")
    return found is not None and found.status == "True"


#: Times in the API are whole seconds: a pod may be ready for so much less than it says.
TIME_RESOLUTION_S = 1.0


def ready_since(pod: Pod) -> float | None:
    """The moment the pod last became ready; None while it is not, or when nobody noted it."""
    found = condition_of(pod, "Ready")
    if found is None or found.status != "True" or not found.last_transition_time:
        return None
    return parse_time(found.last_transition_time)


def available_in(pod: Pod, min_ready_s: int, now: float) -> float:
    """Seconds until a pod counts as available if nothing happens to it: 0 now, ``inf`` while it is not ready."""
    if not is_ready(pod):
        return inf
    if not min_ready_s:
        return 0.0
    since = ready_since(pod)
    return inf if since is None else max(0.0, since + TIME_RESOLUTION_S + min_ready_s - now)


def restarts(pod: Pod) -> int:
    """The most restarts of any container."""
    return max((status.restart_count for status in pod.status.container_statuses), default=0)


def deletion_cost(pod: Pod) -> int:
    try:
        return int(pod.metadata.annotations.get(DELETION_COST, "0"))
    except ValueError:
        return 0


# ------------------------------------------------------------------------------------------------ whom to delete first

_PHASE_RANK = {"Pending": 0, "": 0, "Unknown": 1, "Running": 2}


@dataclass(frozen=True, slots=True)
class _Rank:
    """A pod's place in the queue for deletion, part by part."""

    first: tuple[bool, int, bool, int, int]
    ready_at: float | None
    restarts: int
    created_at: float | None
    uid: str
    now: float


def deletion_order(pods: Iterable[Pod], neighbours: Mapping[str, int], now: float) -> list[Pod]:
    """Pods, whom to delete first first.

    Unassigned before assigned, pending before running, not ready before ready, cheap before dear
    (``pod-deletion-cost``), crowded nodes before others (``neighbours``: related pods by node name), lately ready before
    long ready, often restarted before seldom, young before old; ages compare by powers of two, and then by uid.
    """
    by_rank = cmp_to_key(_compare)
    return sorted(pods, key=lambda pod: by_rank(_rank(pod, neighbours, now)))


def _rank(pod: Pod, neighbours: Mapping[str, int], now: float) -> _Rank:
    node = pod.spec.node_name or ""
    ready = is_ready(pod)
    phase = _PHASE_RANK.get(pod.status.phase or "", 0)
    first = (bool(node), phase, ready, deletion_cost(pod), -neighbours.get(node, 0))
    created = pod.metadata.creation_timestamp
    return _Rank(
        first,
        ready_since(pod) if ready else None,
        restarts(pod),
        parse_time(created) if created else None,
        pod.metadata.uid or "",
        now,
    )


def _compare(a: _Rank, b: _Rank) -> int:
    if a.first != b.first:
        return -1 if a.first < b.first else 1
    if a.ready_at != b.ready_at:
        return _compare_ages(a, b, a.ready_at, b.ready_at)
    if a.restarts != b.restarts:
        return -1 if a.restarts > b.restarts else 1
    if a.created_at != b.created_at:
        return _compare_ages(a, b, a.created_at, b.created_at)
    return -1 if a.uid < b.uid else int(a.uid > b.uid)


def _compare_ages(a: _Rank, b: _Rank, left: float | None, right: float | None) -> int:
    if left is None or right is None:
        return -1 if left is None else 1
    gap = _magnitude(a.now - left) - _magnitude(b.now - right)
    if gap:
        return gap
    return -1 if a.uid < b.uid else 1


def _magnitude(age_s: float) -> int:
    """The power of two of an age in nanoseconds; -1 for none."""
    return int(log2(age_s * 1e9)) if age_s > 0 else -1


# ------------------------------------------------------------------------------------------------ pods from templates


def controller_reference(owner: object) -> OwnerReference:
    """The owner reference by which an object controls another, and waits for it when it is deleted in the foreground."""
    meta: ObjectMeta = owner.metadata  # type: ignore[attr-defined]  # every kind has metadata
    return OwnerReference(
        api_version=owner.API_VERSION,  # type: ignore[attr-defined]
        kind=owner.KIND,  # type: ignore[attr-defined]
        name=meta.name or "",
        uid=meta.uid or "",
        controller=True,
        block_owner_deletion=True,
    )


def from_template(template: PodTemplateSpec, owner: object, *, generate_name: str) -> Pod:
    """The pod that a template describes, controlled by ``owner``; nameless, so that the server names it."""
    namespace: str = owner.metadata.namespace  # type: ignore[attr-defined]
    meta = ObjectMeta(
        generate_name=generate_name,
        namespace=namespace,
        labels=template.metadata.labels,
        annotations=template.metadata.annotations,
        finalizers=template.metadata.finalizers,
        owner_references=(controller_reference(owner),),
    )
    return Pod(metadata=meta, spec=template.spec)
