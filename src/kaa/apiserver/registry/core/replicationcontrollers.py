"""ReplicationControllers.

Source: pkg/registry/core/replicationcontroller/strategy.go; ValidateReplicationControllerSpec.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields
from kaa.api.fields import FieldError
from kaa.api.types.core_v1 import ReplicationController, ReplicationControllerStatus

from ...validation.common import SPEC
from ...validation.meta import label_faults
from ...validation.pods import pod_template
from ..apps.replicasets import replica_status_faults
from ..apps.workload import MISMATCH, TEMPLATE, counts_not_negative, restart_faults
from ..strategy import Strategy
from ..tables import age, containers_and_images, labels, shape
from . import pod_defaults

_NONE_YET = ReplicationControllerStatus(replicas=0)


def _cells(obj: ReplicationController, now: float) -> Sequence[Any]:
    status = obj.status or _NONE_YET
    listed = containers_and_images(obj.spec.template.spec.containers) if obj.spec.template is not None else ("", "")
    return (
        obj.metadata.name,
        obj.spec.replicas or 0,
        status.replicas,
        status.ready_replicas or 0,
        age(obj.metadata, now),
        *listed,
        labels(obj.spec.selector),
    )


class ReplicationControllerStrategy(Strategy[ReplicationController]):
    kind = ReplicationController
    counts_generation = True
    field_names = frozenset(("status.replicas",))
    table = shape(
        "core/replicationcontrollers",
        "Desired:integer|Current:integer|Ready:integer|Age|Containers+|Images+|Selector+",
        _cells,
    )

    def default(self, obj: ReplicationController) -> ReplicationController:
        spec, template = obj.spec, obj.spec.template
        changes: dict[str, Any] = {}
        if spec.replicas is None:
            changes["replicas"] = 1
        if template is not None:
            changes["template"] = pod_defaults.template(template)
            if template.metadata.labels and not spec.selector:
                changes["selector"] = template.metadata.labels
            if template.metadata.labels and not obj.metadata.labels:
                obj = replace(obj, metadata=replace(obj.metadata, labels=template.metadata.labels))
        return replace(obj, spec=replace(spec, **changes))

    def prepare_create(self, obj: ReplicationController) -> ReplicationController:
        return replace(obj, status=_NONE_YET)

    def validate(self, obj: ReplicationController) -> list[FieldError]:
        return list(_faults(obj))

    def validate_status_update(self, new: ReplicationController, old: ReplicationController) -> list[FieldError]:
        return list(replica_status_faults(new.status or _NONE_YET))

    def fields(self, obj: ReplicationController) -> Mapping[str, str]:
        return {"status.replicas": str((obj.status or _NONE_YET).replicas)}


def _faults(obj: ReplicationController) -> Iterator[FieldError]:
    spec = obj.spec
    yield from counts_not_negative(SPEC, minReadySeconds=spec.min_ready_seconds)
    if not spec.selector:
        yield fields.required(SPEC.child("selector"))
    yield from counts_not_negative(SPEC, replicas=spec.replicas)
    if spec.template is None:
        yield fields.required(TEMPLATE)
        return
    labels_given = spec.template.metadata.labels
    if spec.selector and not spec.selector.items() <= labels_given.items():
        yield fields.invalid(TEMPLATE.child("metadata", "labels"), dict(labels_given) or None, MISMATCH)
    yield from label_faults(spec.selector, SPEC.child("selector"))
    yield from pod_template(spec.template, TEMPLATE)
    yield from restart_faults(spec.template, TEMPLATE)


STRATEGY = ReplicationControllerStrategy()
