"""PersistentVolumes.

Source: pkg/registry/core/persistentvolume/strategy.go; ValidatePersistentVolume.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct, defstruct
from msgspec.structs import replace

from kaa.api import fields, names, quantity
from kaa.api.clock import format_time
from kaa.api.fields import FieldError, Path
from kaa.api.types.core_v1 import PersistentVolume, PersistentVolumeSpec, PersistentVolumeStatus

from ...validation import volumes
from ...validation.claims import access_modes
from ...validation.common import SPEC, faults_of, immutable
from ...validation.internal import diff
from ...validation.selectors import node_selector
from ...view import View
from ..strategy import Strategy
from ..tables import UNSET, age, shape
from .persistentvolumeclaims import short_modes
from .volume_defaults import PARAMETERS, parameters

_CLASS = "volume.beta.kubernetes.io/storage-class"
_RECLAIM = ("Delete", "Recycle", "Retain")
#: Attributes of the spec that hold its source.
_SOURCES = tuple(name for name in (*volumes.WIRE,) if name in PersistentVolumeSpec.__struct_fields__)
#: The source alone, its fields in Go's order: for messages.
PersistentVolumeSource = defstruct(
    "PersistentVolumeSource",
    [
        (name, Any, None)
        for name in """gce_persistent_disk aws_elastic_block_store host_path glusterfs nfs rbd quobyte iscsi flex_volume
        cinder cephfs fc flocker azure_file vsphere_volume azure_disk photon_persistent_disk portworx_volume scale_io local
        storageos csi""".split()
    ],
)


def _cells(obj: PersistentVolume, now: float) -> Sequence[Any]:
    spec = obj.spec
    claim = f"{spec.claim_ref.namespace}/{spec.claim_ref.name}" if spec.claim_ref is not None else ""
    phase = "Terminating" if obj.metadata.deletion_timestamp is not None else obj.status.phase or ""
    return (
        obj.metadata.name,
        str(spec.capacity.get("storage", "0")),
        short_modes(spec.access_modes),
        spec.persistent_volume_reclaim_policy or "",
        phase,
        claim,
        obj.metadata.annotations.get(_CLASS) or spec.storage_class_name or "",
        spec.volume_attributes_class_name or UNSET,
        obj.status.reason or "",
        age(obj.metadata, now),
        spec.volume_mode or UNSET,
    )


class PersistentVolumeStrategy(Strategy[PersistentVolume]):
    kind = PersistentVolume
    table = shape(
        "core/persistentvolumes",
        "Capacity|Access Modes|Reclaim Policy|Status|Claim|StorageClass|VolumeAttributesClass|Reason|Age|VolumeMode+",
        _cells,
    )

    def default(self, obj: PersistentVolume) -> PersistentVolume:
        spec = _default(obj.spec)
        changes: dict[str, Any] = {} if spec is obj.spec else {"spec": spec}
        if not obj.status.phase:
            changes["status"] = replace(obj.status, phase="Pending")
        return replace(obj, **changes) if changes else obj

    def prepare_create(self, obj: PersistentVolume) -> PersistentVolume:
        return replace(obj, status=PersistentVolumeStatus(phase="Pending"))

    def allocate(self, new: PersistentVolume, old: PersistentVolume | None, view: View) -> PersistentVolume:
        """The moment of the last change of phase, which needs the clock."""
        if old is not None and old.status.phase == new.status.phase:
            return new
        if old is None and new.status.last_phase_transition_time is not None:
            return new
        stamp = format_time(view.clock.now())
        return replace(new, status=replace(new.status, last_phase_transition_time=stamp))

    def validate(self, obj: PersistentVolume) -> list[FieldError]:
        return list(_faults(obj.spec))

    def validate_update(self, new: PersistentVolume, old: PersistentVolume) -> list[FieldError]:
        found = list(_faults(new.spec))
        wanted, had = _source(_but_for_a_new_secret(new.spec, old.spec)), _source(old.spec)
        if wanted != had:
            text = f"spec.persistentvolumesource is immutable after creation\n{diff(had, wanted)}"
            found.append(fields.forbidden(SPEC.child("persistentvolumesource"), text))
        return [*found, *immutable(Path("volumeMode"), new.spec.volume_mode, old.spec.volume_mode)]

    def validate_status_update(self, new: PersistentVolume, old: PersistentVolume) -> list[FieldError]:
        return []

    def fields(self, obj: PersistentVolume) -> Mapping[str, str]:
        return {"name": obj.metadata.name or ""}

    field_names = frozenset(("name",))


def _default(spec: PersistentVolumeSpec) -> PersistentVolumeSpec:
    changes: dict[str, Any] = {}
    if not spec.persistent_volume_reclaim_policy:
        changes["persistent_volume_reclaim_policy"] = "Retain"
    if spec.volume_mode is None:
        changes["volume_mode"] = "Filesystem"
    for name in PARAMETERS.keys() & set(_SOURCES):
        source = getattr(spec, name)
        if source is not None:
            changes[name] = parameters(name, source)
    return replace(spec, **changes) if changes else spec


def _faults(spec: PersistentVolumeSpec) -> Iterator[FieldError]:
    if not spec.access_modes:
        yield fields.required(SPEC.child("accessModes"))
    yield from access_modes(spec.access_modes, SPEC.child("accessModes"))
    if not spec.capacity:
        yield fields.required(SPEC.child("capacity"))
    if set(spec.capacity) != {"storage"}:
        yield fields.not_supported(SPEC.child("capacity"), dict(spec.capacity) or None, ("storage",))
    for name in sorted(spec.capacity):
        at, value = SPEC.child("capacity").key(name), spec.capacity[name]
        if quantity.parse(value) <= 0:
            yield fields.invalid(at, value, "must be greater than zero")
    policy = spec.persistent_volume_reclaim_policy
    if policy and policy not in _RECLAIM:
        yield fields.not_supported(SPEC.child("persistentVolumeReclaimPolicy"), policy, _RECLAIM)
    given = spec.node_affinity
    if given is not None and given.required is not None:
        yield from node_selector(given.required, SPEC.child("nodeAffinity", "required"))
    elif spec.local is not None:
        yield fields.required(SPEC.child("nodeAffinity"), "Local volume requires node affinity")
    yield from _sources(spec)
    if spec.storage_class_name:
        at = SPEC.child("storageClassName")
        yield from faults_of(at, spec.storage_class_name, names.dns_subdomain(spec.storage_class_name))
    if spec.volume_mode is not None and spec.volume_mode not in ("Block", "Filesystem"):
        yield fields.not_supported(SPEC.child("volumeMode"), spec.volume_mode, ("Block", "Filesystem"))


def _source(spec: PersistentVolumeSpec) -> Struct:
    return PersistentVolumeSource(**{name: getattr(spec, name) for name in PersistentVolumeSource.__struct_fields__})


def _but_for_a_new_secret(new: PersistentVolumeSpec, old: PersistentVolumeSpec) -> PersistentVolumeSpec:
    """A volume that could not be grown for want of a secret may get one."""
    if new.csi is None or old.csi is None or old.csi.controller_expand_secret_ref is not None:
        return new
    return replace(new, csi=replace(new.csi, controller_expand_secret_ref=None))


def _sources(spec: PersistentVolumeSpec) -> Iterator[FieldError]:
    found = 0
    for name in _SOURCES:
        source = getattr(spec, name)
        if source is None:
            continue
        found += 1
        at = SPEC.child(volumes.WIRE[name])
        if found > 1:
            yield fields.forbidden(at, "may not specify more than 1 volume type")
            continue
        if name == "host_path":
            yield from volumes.host_path(source, at)
        yield from volumes.needed(name, source, at)
        if name == "csi" and not source.volume_handle:
            yield fields.required(at.child("volumeHandle"))
        if name == "local" and not source.path:
            yield fields.required(at.child("path"))
    if not found:
        yield fields.required(SPEC, "must specify a volume type")


STRATEGY = PersistentVolumeStrategy()
