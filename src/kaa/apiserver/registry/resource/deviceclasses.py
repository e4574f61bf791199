"""DeviceClasses.

Source: pkg/registry/resource/deviceclass/strategy.go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kaa.api import fields
from kaa.api.fields import FieldError
from kaa.api.types.resource_v1 import DeviceClass

from ...validation.common import SPEC
from ..strategy import Strategy
from ..tables import age, shape

_MOST_SELECTORS = 32


def _cells(obj: DeviceClass, now: float) -> Sequence[Any]:
    return obj.metadata.name, age(obj.metadata, now)


class DeviceClassStrategy(Strategy[DeviceClass]):
    kind = DeviceClass
    counts_generation = True
    table = shape("resource/deviceclasses", "Age", _cells)

    def validate(self, obj: DeviceClass) -> list[FieldError]:
        found = []
        if len(obj.spec.selectors) > _MOST_SELECTORS:
            found.append(fields.too_many(SPEC.child("selectors"), len(obj.spec.selectors), _MOST_SELECTORS))
        for n, selector in enumerate(obj.spec.selectors):
            if selector.cel is None:
                found.append(fields.required(SPEC.child("selectors").index(n).child("cel")))
        return found


STRATEGY = DeviceClassStrategy()
