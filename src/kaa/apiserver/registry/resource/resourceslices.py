"""ResourceSlices.

Source: pkg/registry/resource/resourceslice/strategy.go; ValidateResourceSlice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kaa.api import fields, names
from kaa.api.fields import FieldError
from kaa.api.types.resource_v1 import ResourceSlice

from ...validation.common import SPEC, faults_of, immutable
from ..strategy import Strategy
from ..tables import UNSET, age, shape

_MOST_DEVICES = 128


def _cells(obj: ResourceSlice, now: float) -> Sequence[Any]:
    spec = obj.spec
    return obj.metadata.name, spec.node_name or UNSET, spec.driver, spec.pool.name, age(obj.metadata, now)


class ResourceSliceStrategy(Strategy[ResourceSlice]):
    kind = ResourceSlice
    counts_generation = True
    table = shape("resource/resourceslices", "Node|Driver|Pool|Age", _cells)
    field_names = frozenset(("spec.nodeName", "spec.driver"))

    def validate(self, obj: ResourceSlice) -> list[FieldError]:
        return list(_faults(obj))

    def validate_update(self, new: ResourceSlice, old: ResourceSlice) -> list[FieldError]:
        found = self.validate(new)
        found += immutable(SPEC.child("driver"), new.spec.driver, old.spec.driver)
        found += immutable(SPEC.child("pool", "name"), new.spec.pool.name, old.spec.pool.name)
        found += immutable(SPEC.child("nodeName"), new.spec.node_name, old.spec.node_name)
        return found

    def fields(self, obj: ResourceSlice) -> Mapping[str, str]:
        return {"spec.nodeName": obj.spec.node_name or "", "spec.driver": obj.spec.driver}


def _faults(obj: ResourceSlice) -> Iterator[FieldError]:
    spec = obj.spec
    if not spec.driver:
        yield fields.required(SPEC.child("driver"))
    else:
        yield from faults_of(SPEC.child("driver"), spec.driver, names.dns_subdomain(spec.driver))
    if not spec.pool.name:
        yield fields.required(SPEC.child("pool", "name"))
    if spec.pool.resource_slice_count <= 0:
        value = spec.pool.resource_slice_count
        yield fields.invalid(SPEC.child("pool", "resourceSliceCount"), value, "must be greater than zero")
    if spec.pool.generation < 0:
        detail = "must be greater than or equal to zero"
        yield fields.invalid(SPEC.child("pool", "generation"), spec.pool.generation, detail)
    places = (spec.node_name, spec.node_selector, spec.all_nodes, spec.per_device_node_selection)
    given = sum(bool(place) for place in places)
    if not given and not spec.shared_counters:
        detail = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
        yield fields.required(SPEC, detail)
    elif given > 1:
        detail = (
            "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required,"
            " but multiple fields are set"
        )
        yield fields.invalid(SPEC, None, detail)
    if len(spec.devices) > _MOST_DEVICES:
        yield fields.too_many(SPEC.child("devices"), len(spec.devices), _MOST_DEVICES)
    seen: set[str] = set()
    for n, device in enumerate(spec.devices):
        at = SPEC.child("devices").index(n).child("name")
        yield from faults_of(at, device.name, names.dns_label(device.name))
        if device.name in seen:
            yield fields.duplicate(at, device.name)
        seen.add(device.name)


STRATEGY = ResourceSliceStrategy()
