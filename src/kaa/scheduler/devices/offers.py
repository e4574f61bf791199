"""A device as a ResourceSlice offers it, and what selectors say of it.

Source: k8s.io/dynamic-resource-allocation/cel; API reference "CELDeviceSelector".
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

from kaa.api import quantity
from kaa.api.types.resource_v1 import Device, DeviceAttribute, ResourceSlice

#: An attribute's value with its type: a version and a string of the same text differ.
Value = tuple[str, bool | int | str]
_TYPES = ("bool_", "int_", "string", "version")


class Fault(Exception):
    """Something is wrong with a claim, a class or a device: no node helps, and trying on is no use."""


class PoolId(NamedTuple):
    driver: str
    pool: str

    def __str__(self) -> str:
        return f"{self.driver}/{self.pool}"


class DeviceId(NamedTuple):
    driver: str
    pool: str
    device: str

    def __str__(self) -> str:
        return f"{self.driver}/{self.pool}/{self.device}"


class Selector(NamedTuple):
    """``where`` tells users which one it is: ``class gpu: selector #0``."""

    expression: str
    where: str


class Offer:
    """Lives as long as its slice stays as it is, and remembers what selectors said."""

    __slots__ = ("_matches", "_value", "capacity", "device", "id", "of", "shared")

    def __init__(self, of: ResourceSlice, offered: Device) -> None:
        self.of, self.device = of, offered
        self.id = DeviceId(of.spec.driver, of.spec.pool.name, offered.name)
        self.shared = bool(offered.allow_multiple_allocations)
        #: {name: all there is of it}
        self.capacity = {name: quantity.parse(each.value) for name, each in offered.capacity.items()}
        self._value: dict[str, Any] | None = None
        self._matches: dict[str, bool] = {}

    def matches(self, selector: Selector) -> bool:
        """Raises Fault."""
        known = self._matches.get(selector.expression)
        if known is None:
            known = self._matches[selector.expression] = self._ask(selector)
        return known

    def _ask(self, selector: Selector) -> bool:
        from kaa.api.cel import CompileError, EvaluationError  # CEL is for clusters that use it
        from kaa.api.cel.devices import compiled
        from kaa.api.cel.limits import DEVICE_SELECTOR

        try:
            program = compiled(selector.expression)
        except CompileError as err:
            raise Fault(f"{selector.where}: CEL compile error: {err}") from err
        try:
            if self._value is None:
                self._value = value_of(self.id.driver, self.device)
            found = program.evaluate({"device": self._value}, DEVICE_SELECTOR).value
        except EvaluationError as err:
            raise Fault(f"{selector.where} on device {self.id}: CEL runtime error: {err}") from err
        if not isinstance(found, bool):
            raise Fault(f"{selector.where} on device {self.id}: CEL runtime error: CEL result is not a bool")
        return found

    def attribute(self, name: str) -> Value | None:
        """By its full name; the driver's own may be listed without their domain."""
        found = self.device.attributes.get(name)
        domain, slash, identifier = name.partition("/")
        if found is None and slash and domain == self.id.driver:
            found = self.device.attributes.get(identifier)
        return _typed(found) if found is not None else None

    @property
    def consumes(self) -> dict[tuple[str, str], Fraction]:
        """{(counter set, counter): what the device takes of it}."""
        return {
            (each.counter_set, name): quantity.parse(counter.value)
            for each in self.device.consumes_counters
            for name, counter in each.counters.items()
        }


def _typed(attribute: DeviceAttribute) -> Value | None:
    for kind in _TYPES:
        value = getattr(attribute, kind)
        if value is not None:
            return kind, value
    return None


def value_of(driver: str, offered: Device) -> dict[str, Any]:
    """``device`` as selectors see it. Raises EvaluationError."""
    from kaa.api.cel.variables import device

    typed = {name: _typed(attribute) for name, attribute in offered.attributes.items()}
    plain = {name: value[1] for name, value in typed.items() if value is not None and value[0] != "version"}
    versions = {name: str(value[1]) for name, value in typed.items() if value is not None and value[0] == "version"}
    capacity = {name: str(each.value) for name, each in offered.capacity.items()}
    return device(driver, plain, versions, capacity, allow_multiple=bool(offered.allow_multiple_allocations))
