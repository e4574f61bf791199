"""ReplicaSets.

Source: pkg/registry/apps/replicaset/strategy.go; ValidateReplicaSetSpec.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields
from kaa.api.fields import FieldError
from kaa.api.types.apps_v1 import ReplicaSet, ReplicaSetSpec, ReplicaSetStatus

from ...validation import selectors
from ...validation.common import SPEC, STATUS, immutable
from ..core import pod_defaults
from ..strategy import Strategy
from ..tables import age, containers_and_images, label_selector, shape
from .workload import counts_not_negative, template_faults

_NONE_YET = ReplicaSetStatus(replicas=0)


def _cells(obj: ReplicaSet, now: float) -> Sequence[Any]:
    status = obj.status or _NONE_YET
    names, images = containers_and_images(obj.spec.template.spec.containers)
    return (
        obj.metadata.name,
        obj.spec.replicas or 0,
        status.replicas,
        status.ready_replicas or 0,
        age(obj.metadata, now),
        names,
        images,
        label_selector(obj.spec.selector),
    )


class ReplicaSetStrategy(Strategy[ReplicaSet]):
    kind = ReplicaSet
    counts_generation = True
    table = shape(
        "apps/replicasets", "Desired:integer|Current:integer|Ready:integer|Age|Containers+|Images+|Selector+", _cells
    )
    field_names = frozenset(("status.replicas",))

    def default(self, obj: ReplicaSet) -> ReplicaSet:
        changes: dict[str, Any] = {}
        if obj.spec.replicas is None:
            changes["replicas"] = 1
        template = pod_defaults.template(obj.spec.template)
        if template is not obj.spec.template:
            changes["template"] = template
        return replace(obj, spec=replace(obj.spec, **changes)) if changes else obj

    def prepare_create(self, obj: ReplicaSet) -> ReplicaSet:
        return replace(obj, status=_NONE_YET)

    def prepare_update(self, new: ReplicaSet, old: ReplicaSet) -> ReplicaSet:
        return replace(new, status=old.status)

    def validate(self, obj: ReplicaSet) -> list[FieldError]:
        return list(_faults(obj.spec))

    def validate_update(self, new: ReplicaSet, old: ReplicaSet) -> list[FieldError]:
        changed = immutable(SPEC.child("selector"), new.spec.selector, old.spec.selector)
        return [*_faults(new.spec), *changed]

    def validate_status_update(self, new: ReplicaSet, old: ReplicaSet) -> list[FieldError]:
        return list(replica_status_faults(new.status)) if new.status is not None else []

    def fields(self, obj: ReplicaSet) -> Mapping[str, str]:
        return {"status.replicas": str((obj.status or _NONE_YET).replicas)}


def _faults(spec: ReplicaSetSpec) -> Iterator[FieldError]:
    yield from counts_not_negative(SPEC, replicas=spec.replicas, minReadySeconds=spec.min_ready_seconds)
    if selectors.is_empty(spec.selector):
        yield fields.required(SPEC.child("selector"))
    else:
        yield from selectors.label_selector(spec.selector, SPEC.child("selector"))
    yield from template_faults(spec.template, spec.selector)


def replica_status_faults(status: Any) -> Iterator[FieldError]:
    """The counts of a replica set or replication controller."""
    yield from counts_not_negative(
        STATUS,
        replicas=status.replicas,
        fullyLabeledReplicas=status.fully_labeled_replicas,
        readyReplicas=status.ready_replicas,
        availableReplicas=status.available_replicas,
        observedGeneration=status.observed_generation,
    )
    total, ready, available = status.replicas, status.ready_replicas or 0, status.available_replicas or 0
    for wire, value, limit, what in (
        ("fullyLabeledReplicas", status.fully_labeled_replicas or 0, total, "status.replicas"),
        ("readyReplicas", ready, total, "status.replicas"),
        ("availableReplicas", available, total, "status.replicas"),
        ("availableReplicas", available, ready, "readyReplicas"),
    ):
        if value > limit:
            yield fields.invalid(STATUS.child(wire), value, f"cannot be greater than {what}")


STRATEGY = ReplicaSetStrategy()
