"""ResourceSlices.

Source: pkg/registry/resource/resourceslice/strategy.go; ValidateResourceSlice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields
from kaa.api.clock import format_time
from kaa.api.fields import FieldError, Path
from kaa.api.types.resource_v1 import Device, ResourceSlice

from ...validation import devices
from ...validation.common import SPEC, immutable
from ...validation.devices import each, unique
from ...view import View
from ..strategy import Strategy
from ..tables import UNSET, age, shape
from .offered import counter_set, device_faults, places

_MOST_DEVICES = 128
_MOST_DEVICES_WITH_MORE = 64  #: when one of them has taints, or draws on counters
_MOST_COUNTER_SETS = 8
_ONE_PLACE = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"


def _cells(obj: ResourceSlice, now: float) -> Sequence[Any]:
    spec = obj.spec
    return obj.metadata.name, spec.node_name or UNSET, spec.driver, spec.pool.name, age(obj.metadata, now)


class ResourceSliceStrategy(Strategy[ResourceSlice]):
    kind = ResourceSlice
    counts_generation = True
    table = shape("resource/resourceslices", "Node|Driver|Pool|Age", _cells)
    field_names = frozenset(("spec.nodeName", "spec.driver"))

    def allocate(self, new: ResourceSlice, old: ResourceSlice | None, view: View) -> ResourceSlice:
        """The moment when taints came, which needs the clock."""
        if all(taint.time_added for device in new.spec.devices for taint in device.taints):
            return new
        now = format_time(view.clock.now())
        made = tuple(_dated(device, now) for device in new.spec.devices)
        return replace(new, spec=replace(new.spec, devices=made))

    def validate(self, obj: ResourceSlice) -> list[FieldError]:
        return list(_faults(obj))

    def validate_update(self, new: ResourceSlice, old: ResourceSlice) -> list[FieldError]:
        found = self.validate(new)
        found += immutable(SPEC.child("pool", "name"), new.spec.pool.name, old.spec.pool.name)
        found += immutable(SPEC.child("driver"), new.spec.driver, old.spec.driver)
        found += immutable(SPEC.child("nodeName"), new.spec.node_name, old.spec.node_name)
        return found

    def fields(self, obj: ResourceSlice) -> Mapping[str, str]:
        return {"spec.nodeName": obj.spec.node_name or "", "spec.driver": obj.spec.driver}


def _dated(device: Device, now: str) -> Device:
    if all(taint.time_added for taint in device.taints):
        return device
    return replace(device, taints=tuple(t if t.time_added else replace(t, time_added=now) for t in device.taints))


def _faults(obj: ResourceSlice) -> Iterator[FieldError]:
    spec = obj.spec
    yield from devices.driver_name(SPEC.child("driver"), spec.driver)
    at = SPEC.child("pool")
    yield from devices.pool_name(at.child("name"), spec.pool.name)
    if spec.pool.resource_slice_count <= 0:
        count = spec.pool.resource_slice_count
        yield fields.invalid(at.child("resourceSliceCount"), count, "must be greater than zero")
    if spec.pool.generation < 0:
        detail = "must be greater than or equal to zero"
        yield fields.invalid(at.child("generation"), spec.pool.generation, detail)
    yield from _place(obj)
    if spec.shared_counters and spec.devices:
        yield fields.invalid(SPEC, "", "only one of `sharedCounters` or `devices` is allowed")
    with_more = any(device.taints or device.consumes_counters for device in spec.devices)

    def device(given: Device, path: Path) -> Iterator[FieldError]:
        yield from device_faults(given, path, placed=bool(spec.per_device_node_selection))

    most = _MOST_DEVICES_WITH_MORE if with_more else _MOST_DEVICES
    yield from each(SPEC.child("devices"), spec.devices, most, device)
    yield from unique(SPEC.child("devices"), (each.name for each in spec.devices))
    yield from each(SPEC.child("sharedCounters"), spec.shared_counters, _MOST_COUNTER_SETS, counter_set)
    yield from unique(SPEC.child("sharedCounters"), (each.name for each in spec.shared_counters))


def _place(obj: ResourceSlice) -> Iterator[FieldError]:
    """Where the slice's devices can be used: one of four ways."""
    spec = obj.spec
    given = (spec.node_name, spec.node_selector, spec.all_nodes)
    found = yield from places(SPEC, given, empty="must be either unset or set to a non-empty string")
    if spec.node_selector is not None and len(spec.node_selector.node_selector_terms) != 1:
        terms = spec.node_selector.node_selector_terms
        detail = "must have exactly one node selector term"
        yield fields.invalid(SPEC.child("nodeSelector", "nodeSelectorTerms"), list(terms), detail)
    if spec.per_device_node_selection:
        found.append("`perDeviceNodeSelection`")
    elif spec.per_device_node_selection is not None:
        at = SPEC.child("perDeviceNodeSelection")
        yield fields.invalid(at, spec.per_device_node_selection, "must be either unset or set to true")
    if not found:
        yield fields.required(SPEC, _ONE_PLACE)
    elif len(found) > 1:
        yield fields.invalid(SPEC, f"{{{', '.join(found)}}}", f"{_ONE_PLACE}, but multiple fields are set")


STRATEGY = ResourceSliceStrategy()
