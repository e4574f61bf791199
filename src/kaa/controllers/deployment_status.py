"""What a Deployment's status says: counts, availability, progress, and its deadline. No I/O.

Source: kubernetes pkg/controller/deployment (progress.go, util/deployment_util.go).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from kaa.api.clock import format_time, parse_time
from kaa.api.types.apps_v1 import (
    Deployment,
    DeploymentCondition,
    DeploymentStatus,
    ReplicaSet,
    ReplicaSetCondition,
)

from .controller import count
from .rolling import available, limits_of, total_size, wanted

NO_DEADLINE = 2**31 - 1

Conditions = tuple[DeploymentCondition, ...]


def condition_of(conditions: Iterable[DeploymentCondition], type: str) -> DeploymentCondition | None:
    return next((found for found in conditions if found.type == type), None)


def without(conditions: Iterable[DeploymentCondition], type: str) -> Conditions:
    return tuple(found for found in conditions if found.type != type)


def with_condition(
    conditions: Conditions, type: str, status: str, reason: str, message: str, now: float, *, renew: bool = False
) -> Conditions:
    """Set a condition. One of the same status and reason stays as it is, unless ``renew`` brings its text up to date."""
    old = condition_of(conditions, type)
    if old is not None and not renew and (old.status, old.reason) == (status, reason):
        return conditions
    stamp = format_time(now)
    since = old.last_transition_time if old is not None and old.status == status else stamp
    made = DeploymentCondition(
        type=type, status=status, reason=reason, message=message, last_update_time=stamp, last_transition_time=since
    )
    return (*without(conditions, type), made)


def has_deadline(deployment: Deployment) -> bool:
    return deployment.spec.progress_deadline_seconds not in (None, NO_DEADLINE)


def counted(deployment: Deployment, sets: Sequence[ReplicaSet], new: ReplicaSet | None, now: float) -> DeploymentStatus:
    """The status that the sets' own statuses add up to, with the condition Available."""
    statuses = [each.status for each in sets if each.status is not None]
    ready_to_serve = sum(map(available, sets))
    limits = limits_of(deployment)
    conditions = deployment.status.conditions
    if ready_to_serve >= limits.least_available:
        text = "MinimumReplicasAvailable", "Deployment has minimum availability."
        conditions = with_condition(conditions, "Available", "True", *text, now)
    else:
        text = "MinimumReplicasUnavailable", "Deployment does not have minimum availability."
        conditions = with_condition(conditions, "Available", "False", *text, now)
    return DeploymentStatus(
        observed_generation=deployment.metadata.generation,
        replicas=count(sum(each.replicas for each in statuses)),
        updated_replicas=count(new.status.replicas if new is not None and new.status is not None else 0),
        ready_replicas=count(sum(each.ready_replicas or 0 for each in statuses)),
        available_replicas=count(ready_to_serve),
        unavailable_replicas=count(max(0, total_size(sets) - ready_to_serve)),
        terminating_replicas=_terminating(sets),
        collision_count=deployment.status.collision_count,
        conditions=conditions,
    )


def _terminating(sets: Sequence[ReplicaSet]) -> int | None:
    """Unknown as long as one set has not counted."""
    counts = [each.status.terminating_replicas if each.status is not None else None for each in sets]
    known = [each for each in counts if each is not None]
    return sum(known) if len(known) == len(counts) else None


def is_complete(deployment: Deployment, status: DeploymentStatus) -> bool:
    """Every pod is of the new template and available, and the status speaks of the present spec."""
    target = wanted(deployment)
    counts = (status.updated_replicas or 0, status.replicas or 0, status.available_replicas or 0)
    seen = (status.observed_generation or 0) >= (deployment.metadata.generation or 0)
    return seen and all(each == target for each in counts)


def is_progressing(old: DeploymentStatus, new: DeploymentStatus) -> bool:
    """More pods are new, ready or available, or fewer are old, than before."""
    left = (new.replicas or 0) - (new.updated_replicas or 0)
    return (
        (new.updated_replicas or 0) > (old.updated_replicas or 0)
        or left < (old.replicas or 0) - (old.updated_replicas or 0)
        or (new.ready_replicas or 0) > (old.ready_replicas or 0)
        or (new.available_replicas or 0) > (old.available_replicas or 0)
    )


def timed_out(deployment: Deployment, conditions: Conditions, now: float) -> bool:
    """No progress for as long as the deadline allows."""
    found = condition_of(conditions, "Progressing")
    if not has_deadline(deployment) or found is None or found.reason == "NewReplicaSetAvailable":
        return False
    if found.reason == "ProgressDeadlineExceeded":
        return True
    since = parse_time(found.last_update_time or format_time(now))
    return since + (deployment.spec.progress_deadline_seconds or 0) < now


def rollout(deployment: Deployment, sets: Sequence[ReplicaSet], new: ReplicaSet | None, now: float) -> DeploymentStatus:
    """The status after a step of a rollout: ``counted``, with progress and failures."""
    status = counted(deployment, sets, new, now)
    conditions = status.conditions
    progress = condition_of(deployment.status.conditions, "Progressing")
    if not has_deadline(deployment):
        conditions = without(conditions, "Progressing")
    standing = (status.replicas or 0) == (status.updated_replicas or 0)
    done = standing and progress is not None and progress.reason == "NewReplicaSetAvailable"
    if has_deadline(deployment) and not done:
        conditions = _progress(deployment, status, new, now, conditions)
    conditions = without(conditions, "ReplicaFailure")
    failure = _failure(sets, new)
    if failure is not None:
        conditions = (*conditions, failure)
    return replace(status, conditions=conditions)


def _progress(
    deployment: Deployment, status: DeploymentStatus, new: ReplicaSet | None, now: float, conditions: Conditions
) -> Conditions:
    subject = f'Deployment "{deployment.metadata.name}"' if new is None else f'ReplicaSet "{new.metadata.name}"'
    if is_complete(deployment, status):
        said = f"{subject} has successfully progressed."
        return with_condition(conditions, "Progressing", "True", "NewReplicaSetAvailable", said, now)
    if is_progressing(deployment.status, status):
        said = f"{subject} is progressing."
        return with_condition(conditions, "Progressing", "True", "ReplicaSetUpdated", said, now, renew=True)
    if timed_out(deployment, status.conditions, now):
        said = f"{subject} has timed out progressing."
        return with_condition(conditions, "Progressing", "False", "ProgressDeadlineExceeded", said, now)
    return conditions


def _failure(sets: Sequence[ReplicaSet], new: ReplicaSet | None) -> DeploymentCondition | None:
    """Why pods could not be made: the new set's reason first."""
    for each in ([new] if new is not None else []) + list(sets):
        for condition in each.status.conditions if each.status is not None else ():
            if condition.type == "ReplicaFailure":
                return _as_ours(condition)
    return None


def _as_ours(condition: ReplicaSetCondition) -> DeploymentCondition:
    return DeploymentCondition(
        type=condition.type,
        status=condition.status,
        reason=condition.reason,
        message=condition.message,
        last_transition_time=condition.last_transition_time,
        last_update_time=condition.last_transition_time,
    )


def pause_conditions(deployment: Deployment, now: float) -> Conditions:
    """The conditions, saying whether the deployment is paused: a pause stops its deadline."""
    conditions = deployment.status.conditions
    found = condition_of(conditions, "Progressing")
    if not has_deadline(deployment) or (found is not None and found.reason == "ProgressDeadlineExceeded"):
        return conditions
    paused = found is not None and found.reason == "DeploymentPaused"
    if deployment.spec.paused and not paused:
        said = "DeploymentPaused", "Deployment is paused"
        return with_condition(conditions, "Progressing", "Unknown", *said, now)
    if not deployment.spec.paused and paused:
        said = "DeploymentResumed", "Deployment is resumed"
        return with_condition(conditions, "Progressing", "Unknown", *said, now)
    return conditions


def deadline_in(deployment: Deployment, status: DeploymentStatus, now: float) -> float | None:
    """Seconds until the deadline may have passed; None when there is nothing to wait for."""
    found = condition_of(status.conditions, "Progressing")
    if not has_deadline(deployment) or found is None or is_complete(deployment, status):
        return None
    if found.reason in ("ProgressDeadlineExceeded", "NewReplicaSetAvailable", "DeploymentPaused"):
        return None
    since = parse_time(found.last_update_time or format_time(now))
    return max(0.0, since + (deployment.spec.progress_deadline_seconds or 0) - now) + 1
