"""PersistentVolumeClaims.

Source: pkg/registry/core/persistentvolumeclaim/strategy.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api.fields import FieldError
from kaa.api.types.core_v1 import (
    PersistentVolumeClaim,
    PersistentVolumeClaimStatus,
    TypedLocalObjectReference,
    TypedObjectReference,
)

from ...validation import claims as rules
from ...validation.common import SPEC
from ..strategy import Strategy
from ..tables import UNSET, age, shape
from .pod_defaults import claim_spec

_SHORT_MODES = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}
_CLASS = "volume.beta.kubernetes.io/storage-class"


def short_modes(modes: Iterable[str]) -> str:
    given = set(modes)
    return ",".join(short for mode, short in _SHORT_MODES.items() if mode in given)


def _cells(obj: PersistentVolumeClaim, now: float) -> Sequence[Any]:
    spec, status = obj.spec, obj.status
    phase = "Terminating" if obj.metadata.deletion_timestamp is not None else status.phase or ""
    bound = bool(spec.volume_name)
    capacity = str(status.capacity.get("storage", "0")) if bound else ""
    return (
        obj.metadata.name,
        phase,
        spec.volume_name or "",
        capacity,
        short_modes(status.access_modes) if bound else "",
        obj.metadata.annotations.get(_CLASS) or spec.storage_class_name or "",
        spec.volume_attributes_class_name or UNSET,
        age(obj.metadata, now),
        spec.volume_mode or UNSET,
    )


class PersistentVolumeClaimStrategy(Strategy[PersistentVolumeClaim]):
    kind = PersistentVolumeClaim
    table = shape(
        "core/persistentvolumeclaims",
        "Status|Volume|Capacity|Access Modes|StorageClass|VolumeAttributesClass|Age|VolumeMode+",
        _cells,
    )

    def default(self, obj: PersistentVolumeClaim) -> PersistentVolumeClaim:
        changes: dict[str, Any] = {}
        spec = _with_data_source(claim_spec(obj.spec))
        if spec is not obj.spec:
            changes["spec"] = spec
        if not obj.status.phase:
            changes["status"] = replace(obj.status, phase="Pending")
        return replace(obj, **changes) if changes else obj

    def prepare_create(self, obj: PersistentVolumeClaim) -> PersistentVolumeClaim:
        return replace(obj, status=PersistentVolumeClaimStatus(phase="Pending"))

    def validate(self, obj: PersistentVolumeClaim) -> list[FieldError]:
        return list(rules.claim_spec(obj.spec, SPEC))

    def validate_update(self, new: PersistentVolumeClaim, old: PersistentVolumeClaim) -> list[FieldError]:
        return list(rules.claim_update(new, old))

    def validate_status_update(self, new: PersistentVolumeClaim, old: PersistentVolumeClaim) -> list[FieldError]:
        return list(rules.claim_status(new.status))

    def fields(self, obj: PersistentVolumeClaim) -> Mapping[str, str]:
        return {}


def _with_data_source(spec: Any) -> Any:
    """``dataSource`` and ``dataSourceRef`` say the same; the older one cannot name a namespace."""
    one, other = spec.data_source, spec.data_source_ref
    if one is not None and other is None:
        ref = TypedObjectReference(api_group=one.api_group, kind=one.kind, name=one.name)
        return replace(spec, data_source_ref=ref)
    if one is None and other is not None and not other.namespace:
        source = TypedLocalObjectReference(api_group=other.api_group, kind=other.kind, name=other.name)
        return replace(spec, data_source=source)
    return spec


STRATEGY = PersistentVolumeClaimStrategy()
