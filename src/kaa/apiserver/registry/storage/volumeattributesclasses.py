"""VolumeAttributesClasses.

Source: pkg/registry/storage/volumeattributesclass/strategy.go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kaa.api import fields
from kaa.api.fields import FieldError, Path
from kaa.api.types.storage_v1 import VolumeAttributesClass

from ...validation.common import immutable
from ..strategy import Strategy
from ..tables import age, shape
from .csidrivers import driver_name_faults


def _cells(obj: VolumeAttributesClass, now: float) -> Sequence[Any]:
    return obj.metadata.name, obj.driver_name, age(obj.metadata, now)


class VolumeAttributesClassStrategy(Strategy[VolumeAttributesClass]):
    kind = VolumeAttributesClass
    table = shape("storage/volumeattributesclasses", "DriverName|Age", _cells)

    def validate(self, obj: VolumeAttributesClass) -> list[FieldError]:
        found = list(driver_name_faults(Path("driverName"), obj.driver_name))
        if not obj.parameters:
            found.append(fields.required(Path("parameters"), "must contain at least one key/value pair"))
        return found

    def validate_update(self, new: VolumeAttributesClass, old: VolumeAttributesClass) -> list[FieldError]:
        found = list(immutable(Path("driverName"), new.driver_name, old.driver_name))
        if new.parameters != old.parameters:
            found.append(fields.forbidden(Path("parameters"), "updates to parameters are forbidden."))
        return found


STRATEGY = VolumeAttributesClassStrategy()
