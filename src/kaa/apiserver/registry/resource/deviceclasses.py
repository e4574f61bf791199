"""DeviceClasses.

Source: pkg/registry/resource/deviceclass/strategy.go; ValidateDeviceClass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from kaa.api import fields
from kaa.api.fields import FieldError, Path
from kaa.api.types.resource_v1 import DeviceClass, DeviceClassConfiguration

from ...validation import devices
from ...validation.common import SPEC, is_extended_resource
from ..strategy import Strategy
from ..tables import age, shape


def _cells(obj: DeviceClass, now: float) -> Sequence[Any]:
    return obj.metadata.name, age(obj.metadata, now)


class DeviceClassStrategy(Strategy[DeviceClass]):
    kind = DeviceClass
    counts_generation = True
    table = shape("resource/deviceclasses", "Age", _cells)

    def validate(self, obj: DeviceClass) -> list[FieldError]:
        return list(_faults(obj))


def _faults(obj: DeviceClass) -> Iterator[FieldError]:
    yield from devices.selectors(SPEC.child("selectors"), obj.spec.selectors)
    yield from devices.each(SPEC.child("config"), obj.spec.config, devices.MOST_CONFIGS, _configuration)
    name = obj.spec.extended_resource_name
    if name is not None and not is_extended_resource(name):
        yield fields.invalid(SPEC.child("extendedResourceName"), name, "must be a valid extended resource name")


def _configuration(given: DeviceClassConfiguration, path: Path) -> Iterator[FieldError]:
    yield from devices.configuration(given.opaque, path)


STRATEGY = DeviceClassStrategy()
