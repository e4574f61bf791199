"""PersistentVolumeClaims, also as templates in stateful sets and pods.

Source: pkg/apis/core/validation/validation.go (ValidatePersistentVolumeClaimSpec and its update).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

from msgspec.structs import replace

from kaa.api import fields, names, quantity
from kaa.api.fields import FieldError, Path
from kaa.api.types.core_v1 import PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimStatus
from kaa.api.values import Quantity

from .common import IMMUTABLE, METADATA, SPEC, STATUS, amount, faults_of, immutable, is_native_resource
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
_OLD_CLASS = "volume.beta.kubernetes.io/storage-class"
_NO_MORE = "update to {} is forbidden when status.currentVolumeAttributesClassName is not nil"


def claim_update(new: PersistentVolumeClaim, old: PersistentVolumeClaim) -> Iterator[FieldError]:
    """A bound claim may ask for more and for another attributes class; an unbound one may be bound.

    It may also ask for less than it did, when growing failed: but for more than it has."""
    yield from claim_spec(new.spec, SPEC)
    asks, asked = _but_for_what_may_change(new, old)
    annotated = new.metadata.annotations.get(_OLD_CLASS, "")
    if not _class_moves_to_spec(new, old) and annotated != old.metadata.annotations.get(_OLD_CLASS, ""):
        yield fields.invalid(METADATA.child("annotations", _OLD_CLASS), annotated, IMMUTABLE)
    if asks != asked:
        yield fields.forbidden(SPEC, f"{_MAY_CHANGE}\n{diff(asked, asks)}")
    size = _size(new.spec.resources.requests)
    if size < _size(old.spec.resources.requests) and size <= _size(old.status.capacity):
        detail = "field can not be less than status.capacity"
        yield fields.forbidden(SPEC.child("resources", "requests", "storage"), detail)
    yield from immutable(Path("volumeMode"), new.spec.volume_mode, old.spec.volume_mode)
    if old.status.current_volume_attributes_class_name is not None and not new.spec.volume_attributes_class_name:
        name = new.spec.volume_attributes_class_name
        if name != old.spec.volume_attributes_class_name:
            at = SPEC.child("volumeAttributesClassName")
            yield fields.forbidden(at, _NO_MORE.format("nil" if name is None else "empty string"))


def _but_for_what_may_change(
    new: PersistentVolumeClaim, old: PersistentVolumeClaim
) -> tuple[PersistentVolumeClaimSpec, PersistentVolumeClaimSpec]:
    """Both specs, alike in all that an update may change."""
    asks, asked = new.spec, old.spec
    if not asked.volume_name:
        asked = replace(asked, volume_name=asks.volume_name)
    if _class_moves_to_spec(new, old) or _class_is_given_late(new, old):
        asks = replace(asks, storage_class_name=None)
    if new.status.phase == "Bound":
        requests = {**asks.resources.requests, "storage": asked.resources.requests.get("storage", Quantity("0"))}
        asks = replace(
            asks,
            resources=replace(asks.resources, requests=requests),
            volume_attributes_class_name=asked.volume_attributes_class_name,
        )
    return asks, asked


def _class_moves_to_spec(new: PersistentVolumeClaim, old: PersistentVolumeClaim) -> bool:
    """From the annotation that was there before the field: the same class, on an annotation left alone or dropped."""
    before = old.metadata.annotations.get(_OLD_CLASS)
    kept = new.metadata.annotations.get(_OLD_CLASS, before)
    return before is not None and old.spec.storage_class_name is None and new.spec.storage_class_name == before == kept


def _class_is_given_late(new: PersistentVolumeClaim, old: PersistentVolumeClaim) -> bool:
    """A claim of no class gets the default one when there is one at last."""
    given = new.spec.storage_class_name
    return (
        given is not None
        and old.spec.storage_class_name is None
        and old.metadata.annotations.get(_OLD_CLASS, given) == given
    )


def _size(amounts: Mapping[str, Quantity]) -> Fraction:
    return quantity.parse(amounts.get("storage", "0"))


_RESIZES = (
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
)


def claim_status(status: PersistentVolumeClaimStatus) -> Iterator[FieldError]:
    """What drivers and kubelets write of a claim as it grows."""
    for name in sorted(status.capacity):
        yield from _basic(STATUS.child("capacity").key(name), status.capacity[name])
    at = STATUS.child("allocatedResourceStatuses")
    for name, said in sorted(status.allocated_resource_statuses.items()):
        yield from _resource_key(at, name)
        if said not in _RESIZES:
            yield fields.not_supported(at, name, sorted(_RESIZES))  # the key, as upstream has it
    at = STATUS.child("allocatedResources")
    for name in sorted(status.allocated_resources):
        faults = list(_resource_key(at, name))
        yield from faults or _basic(at.key(name), status.allocated_resources[name])


def _basic(at: Path, value: Quantity) -> Iterator[FieldError]:
    if quantity.parse(value) < 0:
        yield fields.invalid(at, -quantity.whole(value.removeprefix("-")), "must be a valid resource quantity")


def _resource_key(at: Path, name: str) -> Iterator[FieldError]:
    """Of Kubernetes' own resources storage alone; whatever others have made up."""
    faults = names.qualified_name(name)
    yield from faults_of(at, name, faults)
    if not faults and is_native_resource(name) and name != "storage":
        yield fields.not_supported(at, name, ("storage",))
