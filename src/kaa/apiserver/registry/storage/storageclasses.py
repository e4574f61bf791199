"""StorageClasses.

Source: pkg/registry/storage/storageclass/strategy.go; ValidateStorageClass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields, names
from kaa.api.fields import FieldError, Path
from kaa.api.types.storage_v1 import StorageClass

from ...validation.common import ROOT, faults_of, one_of
from ..strategy import Strategy
from ..tables import UNSET, age, shape

_DEFAULT = ("storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class")
_MODES = ("Immediate", "WaitForFirstConsumer")
_PARAMETERS_LIMIT_BYTES = 256 * 1024


def _cells(obj: StorageClass, now: float) -> Sequence[Any]:
    default = any(obj.metadata.annotations.get(key) == "true" for key in _DEFAULT)
    return (
        f"{obj.metadata.name} (default)" if default else obj.metadata.name,
        obj.provisioner,
        obj.reclaim_policy or "Delete",
        obj.volume_binding_mode or UNSET,
        "true" if obj.allow_volume_expansion else "false",
        age(obj.metadata, now),
    )


class StorageClassStrategy(Strategy[StorageClass]):
    kind = StorageClass
    allows_create_on_update = False
    table = shape(
        "storage/storageclasses", "Provisioner|ReclaimPolicy|VolumeBindingMode|AllowVolumeExpansion|Age", _cells
    )

    def default(self, obj: StorageClass) -> StorageClass:
        changes: dict[str, Any] = {}
        if obj.reclaim_policy is None:
            changes["reclaim_policy"] = "Delete"
        if obj.volume_binding_mode is None:
            changes["volume_binding_mode"] = "Immediate"
        return replace(obj, **changes) if changes else obj

    def validate(self, obj: StorageClass) -> list[FieldError]:
        return list(_faults(obj))

    def validate_update(self, new: StorageClass, old: StorageClass) -> list[FieldError]:
        found = list(_faults(new))
        for wire, mine, its in (
            ("parameters", new.parameters, old.parameters),
            ("provisioner", new.provisioner, old.provisioner),
            ("reclaimPolicy", new.reclaim_policy, old.reclaim_policy),
            ("volumeBindingMode", new.volume_binding_mode, old.volume_binding_mode),
        ):
            if mine != its:
                found.append(fields.invalid(Path(wire), mine, "field is immutable"))
        return found


def provisioner_faults(path: Path, text: str) -> Iterator[FieldError]:
    if not text:
        yield fields.required(path)
    else:
        yield from faults_of(path, text, names.qualified_name(text.lower()))


def _faults(obj: StorageClass) -> Iterator[FieldError]:
    yield from provisioner_faults(Path("provisioner"), obj.provisioner)
    if sum(len(key) + len(value) for key, value in obj.parameters.items()) > _PARAMETERS_LIMIT_BYTES:
        yield fields.too_long(Path("parameters"), _PARAMETERS_LIMIT_BYTES)
    if len(obj.parameters) > 512:
        yield fields.too_long(Path("parameters"), 512)
    for key in obj.parameters:
        if not key:
            yield fields.invalid(Path("parameters"), key, "field can not be empty.")
    yield from one_of(ROOT, "reclaimPolicy", obj.reclaim_policy, ("Delete", "Retain"))
    yield from one_of(ROOT, "volumeBindingMode", obj.volume_binding_mode, _MODES, needed=True)


STRATEGY = StorageClassStrategy()
