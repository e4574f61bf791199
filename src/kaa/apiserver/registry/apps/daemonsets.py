"""DaemonSets.

Source: pkg/registry/apps/daemonset/strategy.go; ValidateDaemonSetSpec.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields
from kaa.api.fields import FieldError
from kaa.api.types.apps_v1 import (
    DaemonSet,
    DaemonSetSpec,
    DaemonSetStatus,
    DaemonSetUpdateStrategy,
    RollingUpdateDaemonSet,
)

from ...validation import selectors
from ...validation.common import SPEC, STATUS, at_most_all, immutable, int_or_percent, is_zero, not_negative, one_of
from ..core import pod_defaults
from ..strategy import Strategy
from ..tables import age, containers_and_images, label_selector, labels, shape
from .workload import counts_not_negative, template_faults

_TEMPLATE_GENERATION = "deprecated.daemonset.template.generation"
_NONE_YET = DaemonSetStatus(
    current_number_scheduled=0, desired_number_scheduled=0, number_misscheduled=0, number_ready=0
)


def _cells(obj: DaemonSet, now: float) -> Sequence[Any]:
    status = obj.status or _NONE_YET
    spec = obj.spec.template.spec
    return (
        obj.metadata.name,
        status.desired_number_scheduled,
        status.current_number_scheduled,
        status.number_ready,
        status.updated_number_scheduled or 0,
        status.number_available or 0,
        labels(spec.node_selector),
        age(obj.metadata, now),
        *containers_and_images(spec.containers),
        label_selector(obj.spec.selector),
    )


class DaemonSetStrategy(Strategy[DaemonSet]):
    kind = DaemonSet
    counts_generation = True
    table = shape(
        "apps/daemonsets",
        "Desired:integer|Current:integer|Ready:integer|Up-to-date:integer|Available:integer|Node Selector|Age"
        "|Containers+|Images+|Selector+",
        _cells,
    )

    def default(self, obj: DaemonSet) -> DaemonSet:
        """The annotation stands for a field of upstream's internal type, whose zero is there before anything is set."""
        obj = replace(obj, spec=_default(obj.spec))
        return obj if _TEMPLATE_GENERATION in obj.metadata.annotations else _with_template_generation(obj, 0)

    def prepare_create(self, obj: DaemonSet) -> DaemonSet:
        return replace(_with_template_generation(obj, 1), status=_NONE_YET)

    def prepare_update(self, new: DaemonSet, old: DaemonSet) -> DaemonSet:
        known = old.metadata.annotations.get(_TEMPLATE_GENERATION, "1")
        generation = int(known) if known.isdigit() else 1
        if new.spec.template != old.spec.template:
            generation += 1
        return replace(_with_template_generation(new, generation), status=old.status)

    def validate(self, obj: DaemonSet) -> list[FieldError]:
        return list(_faults(obj.spec))

    def validate_update(self, new: DaemonSet, old: DaemonSet) -> list[FieldError]:
        changed = immutable(SPEC.child("selector"), new.spec.selector, old.spec.selector)
        return [*_faults(new.spec), *changed]

    def validate_status_update(self, new: DaemonSet, old: DaemonSet) -> list[FieldError]:
        status = new.status or _NONE_YET
        return list(
            counts_not_negative(
                STATUS,
                currentNumberScheduled=status.current_number_scheduled,
                numberMisscheduled=status.number_misscheduled,
                desiredNumberScheduled=status.desired_number_scheduled,
                numberReady=status.number_ready,
                observedGeneration=status.observed_generation,
                updatedNumberScheduled=status.updated_number_scheduled,
                numberAvailable=status.number_available,
                numberUnavailable=status.number_unavailable,
                collisionCount=status.collision_count,
            )
        )


def _with_template_generation(obj: DaemonSet, generation: int) -> DaemonSet:
    notes = {**obj.metadata.annotations, _TEMPLATE_GENERATION: str(generation)}
    return replace(obj, metadata=replace(obj.metadata, annotations=notes))


def _default(spec: DaemonSetSpec) -> DaemonSetSpec:
    changes: dict[str, Any] = {"template": pod_defaults.template(spec.template)}
    if spec.revision_history_limit is None:
        changes["revision_history_limit"] = 10
    kind = spec.update_strategy.type or "RollingUpdate"
    if kind == "RollingUpdate":
        rolling = spec.update_strategy.rolling_update or RollingUpdateDaemonSet()
        rolling = RollingUpdateDaemonSet(
            max_unavailable=1 if rolling.max_unavailable is None else rolling.max_unavailable,
            max_surge=0 if rolling.max_surge is None else rolling.max_surge,
        )
        changes["update_strategy"] = DaemonSetUpdateStrategy(type=kind, rolling_update=rolling)
    return replace(spec, **changes)


def _faults(spec: DaemonSetSpec) -> Iterator[FieldError]:
    yield from selectors.label_selector(spec.selector, SPEC.child("selector"))
    if selectors.is_empty(spec.selector):
        yield fields.invalid(SPEC.child("selector"), {}, "empty selector is invalid for daemonset")
    yield from template_faults(spec.template, None if selectors.is_empty(spec.selector) else spec.selector)
    yield from not_negative(SPEC, "minReadySeconds", spec.min_ready_seconds)
    at = SPEC.child("updateStrategy")
    strategy = spec.update_strategy
    if strategy.type == "RollingUpdate":
        rolling = strategy.rolling_update
        if rolling is None:
            yield fields.required(at.child("rollingUpdate"))
        else:
            yield from _rolling(rolling)
    elif strategy.type != "OnDelete":
        yield from one_of(at, "type", strategy.type, ("RollingUpdate", "OnDelete"), needed=True)
    yield from not_negative(SPEC, "revisionHistoryLimit", spec.revision_history_limit)


def _rolling(rolling: RollingUpdateDaemonSet) -> Iterator[FieldError]:
    at = SPEC.child("updateStrategy", "rollingUpdate")
    for wire, value in (("maxUnavailable", rolling.max_unavailable), ("maxSurge", rolling.max_surge)):
        yield from int_or_percent(at.child(wire), value)
        yield from at_most_all(at.child(wire), value)
    unavailable, surge = not is_zero(rolling.max_unavailable), not is_zero(rolling.max_surge)
    if unavailable and surge:
        yield fields.invalid(at.child("maxSurge"), rolling.max_surge, "may not be set when maxUnavailable is non-zero")
    elif not unavailable and not surge:
        yield fields.required(at.child("maxUnavailable"), "cannot be 0 when maxSurge is 0")


STRATEGY = DaemonSetStrategy()
