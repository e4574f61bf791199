"""PersistentVolumeClaims, also as templates in stateful sets and pods.

Source: pkg/apis/core/validation/validation.go (ValidatePersistentVolumeClaimSpec and its update).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from kaa.api import fields, names, quantity
from kaa.api.fields import FieldError, Path
from kaa.api.types.core_v1 import PersistentVolumeClaim, PersistentVolumeClaimSpec

from .common import SPEC, amount, faults_of
from .internal import diff
from .selectors import label_selector

ACCESS_MODES = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
_DATA_KINDS = (("", "PersistentVolumeClaim"), ("snapshot.storage.k8s.io", "VolumeSnapshot"))


def access_modes(modes: Sequence[str], path: Path) -> Iterator[FieldError]:
    for mode in modes:
        if mode not in ACCESS_MODES:
            yield fields.not_supported(path, mode, ACCESS_MODES)
    if "ReadWriteOncePod" in modes and len(modes) > 1:
        detail = "may not use ReadWriteOncePod with other access modes"
        yield fields.forbidden(path, detail)


def claim_spec(spec: PersistentVolumeClaimSpec, path: Path) -> Iterator[FieldError]:
    at = path.child("accessModes")
    if not spec.access_modes:
        yield fields.required(at, "at least 1 access mode is required")
    yield from label_selector(spec.selector, path.child("selector"))
    yield from access_modes(spec.access_modes, at)
    size = spec.resources.requests.get("storage")
    if size is None:
        yield fields.required(path.child("resources").key("storage"))
    else:
        at = path.child("resources").key("storage")
        if quantity.parse(size) <= 0:
            yield fields.invalid(at, size, "must be greater than zero")
        else:
            yield from amount(at, "storage", size)
    if spec.storage_class_name:
        at = path.child("storageClassName")
        yield from faults_of(at, spec.storage_class_name, names.dns_subdomain(spec.storage_class_name))
    if spec.volume_mode is not None and spec.volume_mode not in ("Block", "Filesystem"):
        yield fields.not_supported(path.child("volumeMode"), spec.volume_mode, ("Block", "Filesystem"))
    yield from _data_source(spec, path)
    if spec.volume_attributes_class_name:
        at = path.child("volumeAttributesClassName")
        name = spec.volume_attributes_class_name
        yield from faults_of(at, name, names.dns_subdomain(name))


def _data_source(spec: PersistentVolumeClaimSpec, path: Path) -> Iterator[FieldError]:
    for wire, source in (("dataSource", spec.data_source), ("dataSourceRef", spec.data_source_ref)):
        if source is None:
            continue
        at = path.child(wire)
        if not source.name:
            yield fields.required(at.child("name"))
        if not source.kind:
            yield fields.required(at.child("kind"))
        if not source.api_group and source.kind != "PersistentVolumeClaim":
            yield fields.invalid(
                at, source.kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup"
            )
    if spec.data_source is not None and spec.data_source_ref is not None and not spec.data_source_ref.namespace:
        one, other = spec.data_source, spec.data_source_ref
        if (one.api_group, one.kind, one.name) != (other.api_group, other.kind, other.name):
            yield fields.invalid(path, str(path.child("dataSource")), "must match dataSourceRef")


_MAY_CHANGE = (
    "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
)


def claim_update(new: PersistentVolumeClaim, old: PersistentVolumeClaim) -> Iterator[FieldError]:
    """A bound claim may ask for more and for another attributes class; an unbound one may be bound."""
    yield from claim_spec(new.spec, SPEC)
    mine, its = new.spec, old.spec
    kept = replace(mine, resources=its.resources, volume_attributes_class_name=its.volume_attributes_class_name)
    bound = old.status.phase == "Bound"
    if not its.volume_name:
        kept = replace(kept, volume_name=its.volume_name)
    if its.storage_class_name is None:  # the default class may be set retroactively
        kept = replace(kept, storage_class_name=None)
    if kept != its or (not bound and mine.resources != its.resources):
        yield fields.forbidden(SPEC, f"{_MAY_CHANGE}\n{diff(its, mine)}")
        return
    before, after = its.resources.requests.get("storage"), mine.resources.requests.get("storage")
    if bound and before and after and quantity.parse(after) < quantity.parse(before):
        capacity = old.status.capacity.get("storage")
        if capacity is None or quantity.parse(after) <= quantity.parse(capacity):
            detail = "field can not be less than status.capacity"
            yield fields.forbidden(SPEC.child("resources", "requests", "storage"), detail)
