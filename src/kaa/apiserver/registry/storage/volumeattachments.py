"""VolumeAttachments.

Source: pkg/registry/storage/volumeattachment/strategy.go; ValidateVolumeAttachment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields
from kaa.api.fields import FieldError
from kaa.api.types.storage_v1 import VolumeAttachment, VolumeAttachmentStatus

from ...validation.common import SPEC, immutable
from ..strategy import Column, Strategy, TableShape
from ..tables import NAME_COLUMN, age, column
from .csidrivers import driver_name_faults

_NONE_YET = VolumeAttachmentStatus(attached=False)
_KEY = "storage/volumeattachments"


def _cells(obj: VolumeAttachment, now: float) -> Sequence[Any]:
    spec = obj.spec
    attached = obj.status.attached if obj.status is not None else False
    volume = spec.source.persistent_volume_name or ""
    return obj.metadata.name, spec.attacher, volume, spec.node_name, attached, age(obj.metadata, now)


class VolumeAttachmentStrategy(Strategy[VolumeAttachment]):
    kind = VolumeAttachment
    allows_unconditional_update = False
    table = TableShape(
        (
            NAME_COLUMN,
            Column("Attacher", "string", "name", column(_KEY, "Attacher").description),
            *(column(_KEY, word) for word in ("PV", "Node", "Attached:boolean", "Age")),
        ),
        _cells,
    )

    def prepare_create(self, obj: VolumeAttachment) -> VolumeAttachment:
        return replace(obj, status=_NONE_YET)

    def validate(self, obj: VolumeAttachment) -> list[FieldError]:
        return list(_faults(obj))

    def validate_update(self, new: VolumeAttachment, old: VolumeAttachment) -> list[FieldError]:
        return [*_faults(new), *immutable(SPEC, new.spec, old.spec)]


def _faults(obj: VolumeAttachment) -> Iterator[FieldError]:
    spec = obj.spec
    yield from driver_name_faults(SPEC.child("attacher"), spec.attacher)
    at = SPEC.child("source")
    if spec.source.inline_volume_spec is None and not spec.source.persistent_volume_name:
        yield fields.required(at, "must specify exactly one of inlineVolumeSpec and persistentVolumeName")
    elif spec.source.inline_volume_spec is not None and spec.source.persistent_volume_name is not None:
        detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
        yield fields.forbidden(at, detail)
    if not spec.node_name:
        yield fields.required(SPEC.child("nodeName"))


STRATEGY = VolumeAttachmentStrategy()
