"""Deployments.

Source: pkg/registry/apps/deployment/strategy.go; ValidateDeploymentSpec.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields
from kaa.api.fields import FieldError
from kaa.api.types.apps_v1 import (
    Deployment,
    DeploymentSpec,
    DeploymentStatus,
    DeploymentStrategy,
    RollingUpdateDeployment,
)

from ...validation import selectors
from ...validation.common import SPEC, STATUS, at_most_all, immutable, int_or_percent, is_zero, one_of
from ..core import pod_defaults
from ..strategy import Strategy
from ..tables import age, containers_and_images, label_selector, shape
from .workload import counts_not_negative, template_faults

#: ``max int32``: "never" as a progress deadline.
_NEVER = 2**31 - 1


def _cells(obj: Deployment, now: float) -> Sequence[Any]:
    names, images = containers_and_images(obj.spec.template.spec.containers)
    return (
        obj.metadata.name,
        f"{obj.status.ready_replicas or 0}/{obj.spec.replicas or 0}",
        obj.status.updated_replicas or 0,
        obj.status.available_replicas or 0,
        age(obj.metadata, now),
        names,
        images,
        label_selector(obj.spec.selector),
    )


class DeploymentStrategyRules(Strategy[Deployment]):
    kind = Deployment
    counts_generation = True
    table = shape("apps/deployments", "Ready|Up-to-date|Available|Age|Containers+|Images+|Selector+", _cells)

    def default(self, obj: Deployment) -> Deployment:
        spec = _default(obj.spec)
        return obj if spec is obj.spec else replace(obj, spec=spec)

    def prepare_create(self, obj: Deployment) -> Deployment:
        return replace(obj, status=DeploymentStatus())

    def prepare_update(self, new: Deployment, old: Deployment) -> Deployment:
        return replace(new, status=old.status)

    def prepare_status_update(self, new: Deployment, old: Deployment) -> Deployment:
        metadata = replace(new.metadata, labels=old.metadata.labels)
        return replace(old, metadata=metadata, status=new.status)

    def spec_changed(self, new: Deployment, old: Deployment) -> bool:
        return new.spec != old.spec or new.metadata.annotations != old.metadata.annotations

    def validate(self, obj: Deployment) -> list[FieldError]:
        return list(_faults(obj.spec))

    def validate_update(self, new: Deployment, old: Deployment) -> list[FieldError]:
        changed = immutable(SPEC.child("selector"), new.spec.selector, old.spec.selector)
        return [*_faults(new.spec), *changed]

    def validate_status_update(self, new: Deployment, old: Deployment) -> list[FieldError]:
        return list(_status_faults(new.status, old.status))


def _default(spec: DeploymentSpec) -> DeploymentSpec:
    changes: dict[str, Any] = {}
    if spec.replicas is None:
        changes["replicas"] = 1
    if spec.revision_history_limit is None:
        changes["revision_history_limit"] = 10
    if spec.progress_deadline_seconds is None:
        changes["progress_deadline_seconds"] = 600
    kind = spec.strategy.type or "RollingUpdate"
    if kind == "RollingUpdate":
        rolling = spec.strategy.rolling_update or RollingUpdateDeployment()
        rolling = RollingUpdateDeployment(
            max_surge="25%" if rolling.max_surge is None else rolling.max_surge,
            max_unavailable="25%" if rolling.max_unavailable is None else rolling.max_unavailable,
        )
        changes["strategy"] = DeploymentStrategy(type=kind, rolling_update=rolling)
    template = pod_defaults.template(spec.template)
    if template is not spec.template:
        changes["template"] = template
    return replace(spec, **changes) if changes else spec


def _faults(spec: DeploymentSpec) -> Iterator[FieldError]:
    yield from counts_not_negative(SPEC, replicas=spec.replicas)
    if selectors.is_empty(spec.selector):
        if spec.selector is None or spec.selector == type(spec.selector)():
            yield fields.required(SPEC.child("selector"))
    else:
        yield from selectors.label_selector(spec.selector, SPEC.child("selector"))
    yield from template_faults(spec.template, spec.selector)
    yield from _strategy_faults(spec)
    yield from counts_not_negative(
        SPEC, minReadySeconds=spec.min_ready_seconds, revisionHistoryLimit=spec.revision_history_limit
    )
    deadline = spec.progress_deadline_seconds
    if deadline is not None:
        yield from counts_not_negative(SPEC, progressDeadlineSeconds=deadline)
        if deadline <= (spec.min_ready_seconds or 0):
            yield fields.invalid(
                SPEC.child("progressDeadlineSeconds"), deadline, "must be greater than minReadySeconds"
            )


def _strategy_faults(spec: DeploymentSpec) -> Iterator[FieldError]:
    at = SPEC.child("strategy")
    strategy = spec.strategy
    if strategy.type == "Recreate":
        if strategy.rolling_update is not None:
            detail = "may not be specified when strategy `type` is 'Recreate'"
            yield fields.forbidden(at.child("rollingUpdate"), detail)
        return
    if strategy.type != "RollingUpdate":
        yield from one_of(at, "type", strategy.type, ("Recreate", "RollingUpdate"), needed=True)
        return
    rolling = strategy.rolling_update
    if rolling is None:
        yield fields.required(at.child("rollingUpdate"), "this should be defaulted and never be nil")
        return
    surge, unavailable = rolling.max_surge, rolling.max_unavailable
    at = at.child("rollingUpdate")
    yield from int_or_percent(at.child("maxUnavailable"), unavailable)
    yield from int_or_percent(at.child("maxSurge"), surge)
    if is_zero(unavailable) and is_zero(surge):
        yield fields.invalid(at.child("maxUnavailable"), unavailable, "may not be 0 when `maxSurge` is 0")
    yield from at_most_all(at.child("maxUnavailable"), unavailable)


def _status_faults(new: DeploymentStatus, old: DeploymentStatus) -> Iterator[FieldError]:
    yield from counts_not_negative(
        STATUS,
        observedGeneration=new.observed_generation,
        replicas=new.replicas,
        updatedReplicas=new.updated_replicas,
        readyReplicas=new.ready_replicas,
        availableReplicas=new.available_replicas,
        unavailableReplicas=new.unavailable_replicas,
        collisionCount=new.collision_count,
    )
    total, ready, available = new.replicas or 0, new.ready_replicas or 0, new.available_replicas or 0
    for wire, value, limit, what in (
        ("updatedReplicas", new.updated_replicas or 0, total, "status.replicas"),
        ("readyReplicas", ready, total, "status.replicas"),
        ("availableReplicas", available, total, "status.replicas"),
        ("availableReplicas", available, ready, "readyReplicas"),
    ):
        if value > limit:
            yield fields.invalid(STATUS.child(wire), value, f"cannot be greater than {what}")
    if old.collision_count is not None and (new.collision_count or 0) < old.collision_count:
        yield fields.invalid(STATUS.child("collisionCount"), new.collision_count, "cannot be decremented")


STRATEGY = DeploymentStrategyRules()
