"""What ResourceSlices offer: devices with their attributes, capacities, counters and taints.

Source: pkg/apis/resource/validation (validateDevice, validateCounterSet, validateRequestPolicy).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence

from kaa.api import fields, names, quantity
from kaa.api.device_claims import MOST_ENTRIES, VALUE_LENGTH
from kaa.api.fields import FieldError, Path
from kaa.api.types.core_v1 import NodeSelector
from kaa.api.types.resource_v1 import (
    CapacityRequestPolicy,
    CapacityRequestPolicyRange,
    Counter,
    CounterSet,
    Device,
    DeviceAttribute,
    DeviceCapacity,
    DeviceCounterConsumption,
)
from kaa.api.values import Quantity

from ...validation import devices
from ...validation.common import faults_of
from ...validation.devices import each, unique
from ...validation.selectors import node_selector

_MOST_TAINTS = 16
_MOST_SETS_DRAWN = 2
_MOST_COUNTERS = 32
_MOST_VALUES = 10
_VALUES = ("bool_", "int_", "string", "version", "bools", "ints", "strings", "versions")
_PLACES = ("nodeName", "nodeSelector", "allNodes")
_ONE_PLACE = (
    "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in"
    " the ResourceSlice spec"
)
_NO_PLACE = (
    "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the"
    " ResourceSlice spec"
)


def device_faults(device: Device, path: Path, *, placed: bool) -> Iterator[FieldError]:
    """``placed``: whether each device says itself where it can be used."""
    yield from devices.device_name(path.child("name"), device.name)
    entries = len(device.attributes) + len(device.capacity)
    if entries > MOST_ENTRIES:
        detail = f"the total number of attributes and capacities must not exceed {MOST_ENTRIES}"
        yield fields.invalid(path, entries, detail)
    for name, attribute in device.attributes.items():
        yield from devices.attribute_name(path.child("attributes"), name)
        yield from _attribute(attribute, path.child("attributes").key(name))
    for name, capacity in device.capacity.items():
        yield from devices.attribute_name(path.child("capacity"), name)
        shared = bool(device.allow_multiple_allocations)
        yield from _capacity(capacity, path.child("capacity").key(name).child("requestPolicy"), shared=shared)
    yield from each(path.child("taints"), device.taints, _MOST_TAINTS, devices.taint)
    yield from each(path.child("consumesCounters"), device.consumes_counters, _MOST_SETS_DRAWN, _draws)
    yield from unique(path.child("consumesCounters"), (one.counter_set for one in device.consumes_counters))
    yield from _place(device, path, placed=placed)
    yield from devices.binding_conditions(path, device.binding_conditions, device.binding_failure_conditions)


def _attribute(given: DeviceAttribute, path: Path) -> Iterator[FieldError]:
    values = [getattr(given, name) for name in _VALUES]
    count = sum(value is not None and value != () for value in values)
    if given.string is not None and len(given.string) > VALUE_LENGTH:
        yield fields.too_long(path.child("string"), VALUE_LENGTH)
    if given.version is not None:
        if not _is_version(given.version):
            detail = "must be a string compatible with semver.org spec 2.0.0"
            yield fields.invalid(path.child("version"), given.version, detail)
        if len(given.version) > VALUE_LENGTH:
            yield fields.too_long(path.child("version"), VALUE_LENGTH)
    if count != 1:
        yield fields.invalid(path, "" if not count else given, "exactly one value must be specified")


def _place(device: Device, path: Path, *, placed: bool) -> Iterator[FieldError]:
    given = (device.node_name, device.node_selector, device.all_nodes)
    if not placed:
        if any(each is not None for each in given):
            yield fields.invalid(path, None, _NO_PLACE)
        return
    found = yield from places(path, given, empty="must not be empty")
    if not found:
        yield fields.required(path, _ONE_PLACE)
    elif len(found) > 1:
        yield fields.invalid(path, f"{{{', '.join(found)}}}", _ONE_PLACE)


def places(
    path: Path, given: tuple[str | None, NodeSelector | None, bool | None], *, empty: str
) -> Generator[FieldError, None, list[str]]:
    """The faults of where something can be used; returns which of the three ways are given."""
    node, selector, everywhere = given
    found = []
    if node:
        found.append(f"`{_PLACES[0]}`")
        yield from faults_of(path.child(_PLACES[0]), node, names.dns_subdomain(node))
    elif node is not None:
        yield fields.invalid(path.child(_PLACES[0]), node, empty)
    if selector is not None:
        found.append(f"`{_PLACES[1]}`")
        yield from node_selector(selector, path.child(_PLACES[1]))
    if everywhere:
        found.append(f"`{_PLACES[2]}`")
    elif everywhere is not None:
        yield fields.invalid(path.child(_PLACES[2]), everywhere, "must be either unset or set to true")
    return found


# ------------------------------------------------------------------------------------------------ counters


def counter_set(given: CounterSet, path: Path) -> Iterator[FieldError]:
    yield from _counters(path, "name", given.name, given.counters)


def _draws(given: DeviceCounterConsumption, path: Path) -> Iterator[FieldError]:
    yield from _counters(path, "counterSet", given.counter_set, given.counters)


def _counters(path: Path, word: str, name: str, counters: Mapping[str, Counter]) -> Iterator[FieldError]:
    if not name:
        yield fields.required(path.child(word))
    else:
        yield from faults_of(path.child(word), name, names.dns_label(name))
    at = path.child("counters")
    if not counters:
        yield fields.required(at)
    if len(counters) > _MOST_COUNTERS:
        yield fields.too_many(at, len(counters), _MOST_COUNTERS)
        return
    for key in counters:
        yield from faults_of(at, key, names.dns_label(key))


# ------------------------------------------------------------------------------------------------ request policies


def _capacity(given: DeviceCapacity, path: Path, *, shared: bool) -> Iterator[FieldError]:
    policy = given.request_policy
    if policy is None:
        return
    if not shared:
        yield fields.forbidden(path, "allowMultipleAllocations must be true")
    elif policy.valid_values and policy.valid_range is not None:
        detail = 'exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time'
        yield fields.forbidden(path, detail)
    elif policy.valid_values:
        yield from _valid_values(policy, given.value, path)
    elif policy.valid_range is not None:
        yield from _valid_range(policy.valid_range, policy.default, given.value, path)


def _valid_values(policy: CapacityRequestPolicy, most: Quantity, path: Path) -> Iterator[FieldError]:
    if policy.default is None:
        yield fields.required(path.child("default"), "required when validValues is defined")
        return
    at, values = path.child("validValues"), [quantity.parse(value) for value in policy.valid_values]
    for n in range(1, len(values)):
        if values[n - 1] > values[n]:
            yield fields.invalid(at.index(n), policy.valid_values[n], "values must be sorted in ascending order")
    if len(values) > _MOST_VALUES:
        yield fields.too_many(at, len(values), _MOST_VALUES)
    for n, value in enumerate(values):
        if value > quantity.parse(most):
            yield fields.invalid(at.index(n), policy.valid_values[n], f"option is larger than capacity value: {most}")
    yield from unique(at, _texts(policy.valid_values))
    if quantity.parse(policy.default) not in values:
        yield fields.invalid(at, policy.default, "default value is not valid according to the requestPolicy")


def _texts(values: Sequence[Quantity]) -> list[str]:
    return [str(quantity.whole(value)) for value in values]


def _valid_range(
    given: CapacityRequestPolicyRange, default: Quantity | None, most: Quantity, path: Path
) -> Iterator[FieldError]:
    if default is None:
        yield fields.required(path.child("default"), "required when validRange is defined")
        return
    at = path.child("validRange")
    least, usual, every = quantity.parse(given.min), quantity.parse(default), quantity.parse(most)
    if least > every:
        yield fields.invalid(at.child("min"), given.min, f"min is larger than capacity value: {most}")
    if usual < least:
        yield fields.invalid(at.child("default"), default, f"default is less than min: {given.min}")
    if given.max is not None:
        greatest = quantity.parse(given.max)
        if least > greatest:
            yield fields.invalid(at.child("max"), given.min, f"min is larger than max: {given.max}")
        if greatest > every:
            yield fields.invalid(at.child("max"), given.max, f"max is larger than capacity value: {most}")
        if usual > greatest:
            yield fields.invalid(at.child("default"), default, f"default is more than max: {given.max}")
    if given.step is not None:
        yield from _step(given, given.step, default, most, at.child("step"))


def _step(
    given: CapacityRequestPolicyRange, size: Quantity, default: Quantity, most: Quantity, path: Path
) -> Iterator[FieldError]:
    step, least = quantity.parse(size), quantity.parse(given.min)
    if step <= 0:
        yield fields.invalid(path, size, "must be greater than zero")
        return
    if least + step > quantity.parse(most):
        one = quantity.canonical(str(float(least + step)))
        yield fields.invalid(path, size, f"one step {one} is larger than capacity value: {most}")
    for value in (default, given.max):
        if value is not None and (quantity.parse(value) - least) % step:
            detail = f"value is not a multiple of a given step ({size}) from ({given.min})"
            yield fields.invalid(path, value, detail)


def _is_version(text: str) -> bool:
    from kaa.api.cel.errors import EvaluationError  # CEL is for clusters that use it
    from kaa.api.cel.library.semvers import parse

    try:
        parse(text)
    except EvaluationError:
        return False
    return True
