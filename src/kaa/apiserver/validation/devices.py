"""What claims, classes and slices of devices share: names, selectors, taints, configuration.

Source: pkg/apis/resource/validation/validation.go.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from kaa.api import fields, names, scheme
from kaa.api.device_claims import DOMAIN_LENGTH, NAME_LENGTH
from kaa.api.fields import FieldError, Path
from kaa.api.types.resource_v1 import DeviceSelector, DeviceTaint, DeviceToleration, OpaqueDeviceConfiguration

from .common import faults_of, named, one_of

MOST_SELECTORS = 32
MOST_CONFIGS = 32
MOST_REQUESTS = 32
_MOST_CONDITIONS = 4
_PARAMETERS_LENGTH = 10 * 1024
_POOL_LENGTH = 253
_EFFECTS = ("NoExecute", "NoSchedule", "None")
_IDENTIFIER = r"[A-Za-z_][A-Za-z0-9_]*"
NO_REFERENCE = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"

T = TypeVar("T")


def each(
    path: Path, given: Sequence[T], most: int, check: Callable[[T, Path], Iterable[FieldError]]
) -> Iterator[FieldError]:
    """The faults of a list's items; of one that is too long, nothing but that."""
    if len(given) > most:
        yield fields.too_many(path, len(given), most)
        return
    for n, item in enumerate(given):
        yield from check(item, path.index(n))


def unique(path: Path, keys: Iterable[Any]) -> Iterator[FieldError]:
    seen = set()
    for n, key in enumerate(keys):
        if key in seen:
            yield fields.duplicate(path.index(n), key)
        seen.add(key)


# ------------------------------------------------------------------------------------------------ names


def driver_name(path: Path, name: str) -> Iterator[FieldError]:
    if not name:
        yield fields.required(path)
    if len(name) > DOMAIN_LENGTH:
        yield fields.too_long(path, DOMAIN_LENGTH)
    if name:
        yield from faults_of(path, name.lower(), names.dns_subdomain(name.lower()))


def pool_name(path: Path, name: str) -> Iterator[FieldError]:
    if not name:
        yield fields.required(path)
        return
    if len(name) > _POOL_LENGTH:
        yield fields.too_long(path, _POOL_LENGTH)
    for part in name.split("/"):
        yield from faults_of(path, part, names.dns_subdomain(part))


def device_name(path: Path, name: str) -> Iterator[FieldError]:
    yield from faults_of(path, name, names.dns_label(name))


def attribute_name(path: Path, name: str) -> Iterator[FieldError]:
    """Of an attribute or a capacity: with a domain, or without for the driver's own."""
    parts = name.split("/")
    if len(parts) > 2:
        yield fields.invalid(path, name, "must not contain more than one slash")
        return
    if len(parts) == 2:
        if parts[0]:
            yield from driver_name(path, parts[0])
        else:
            yield fields.invalid(path, "", "the domain must not be empty")
        if not parts[1]:
            yield fields.invalid(path, "", "the name must not be empty")
            return
    yield from _identifier(path, parts[-1])


def _identifier(path: Path, text: str) -> Iterator[FieldError]:
    if len(text) > NAME_LENGTH:
        yield fields.too_long(path, NAME_LENGTH)
    if not re.fullmatch(_IDENTIFIER, text):
        message = (
            "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric"
        )
        yield fields.invalid(
            path, text, names.regex_error(f"{message} characters or '_'", _IDENTIFIER, "my_name", "MY_NAME", "MyName")
        )


def full_name(path: Path, name: str) -> Iterator[FieldError]:
    """Of an attribute, with its domain."""
    yield from attribute_name(path, name)
    if "/" not in name:
        yield fields.invalid(path, name, "a fully qualified name must be a domain and a name separated by a slash")


def references(path: Path, given: Sequence[str], requests: Collection[str]) -> Iterator[FieldError]:
    """Names of requests, or of alternatives in them, that there are."""
    if len(given) > MOST_REQUESTS:
        yield fields.too_many(path, len(given), MOST_REQUESTS)
        return
    for n, name in enumerate(given):
        yield from reference(path.index(n), name, requests)
    yield from unique(path, given)


def reference(path: Path, name: str, requests: Collection[str]) -> Iterator[FieldError]:
    parts = name.split("/")
    if len(parts) <= 2:
        for part in parts:
            yield from faults_of(path, part, names.dns_label(part))
    if name not in requests:
        yield fields.invalid(path, name, NO_REFERENCE)


# ------------------------------------------------------------------------------------------------ selectors


def selectors(path: Path, given: Sequence[DeviceSelector]) -> Iterator[FieldError]:
    yield from each(path, given, MOST_SELECTORS, _selector)


def _selector(given: DeviceSelector, path: Path) -> Iterator[FieldError]:
    if given.cel is None:
        yield fields.required(path.child("cel"))
        return
    from kaa.api.cel import CompileError  # CEL is for clusters that use it
    from kaa.api.cel.devices import compiled, greatest_cost
    from kaa.api.cel.limits import DEVICE_SELECTOR, DEVICE_SELECTOR_LENGTH

    at, expression = path.child("cel", "expression"), given.cel.expression
    if len(expression) > DEVICE_SELECTOR_LENGTH:
        yield fields.too_long(at, DEVICE_SELECTOR_LENGTH)
        return
    try:
        program = compiled(expression)
    except CompileError as err:
        yield fields.invalid(at, expression, str(err))
        return
    if greatest_cost(program) > DEVICE_SELECTOR:
        yield fields.forbidden(at, "too complex, exceeds cost limit")


# ------------------------------------------------------------------------------------------------ taints


def taint(given: DeviceTaint, path: Path) -> Iterator[FieldError]:
    yield from faults_of(path.child("key"), given.key, names.qualified_name(given.key))
    if given.value:
        yield from faults_of(path.child("value"), given.value, names.label_value(given.value))
    yield from one_of(path, "effect", given.effect, _EFFECTS, needed=True)


def toleration(given: DeviceToleration, path: Path) -> Iterator[FieldError]:
    if given.key:
        yield from faults_of(path.child("key"), given.key, names.qualified_name(given.key))
    value = given.value or ""
    match given.operator:
        case "Exists":
            if value:
                yield fields.invalid(path.child("value"), value, "must be empty for operator `Exists`")
        case "Equal":
            yield from faults_of(path.child("value"), value, names.label_value(value))
        case other:
            yield from one_of(path, "operator", other, ("Equal", "Exists"), needed=True)
    yield from one_of(path, "effect", given.effect, _EFFECTS)


# ------------------------------------------------------------------------------------------------ configuration


def configuration(given: OpaqueDeviceConfiguration | None, path: Path) -> Iterator[FieldError]:
    """``path``: of what holds ``opaque``."""
    if given is None:
        yield fields.required(path.child("opaque"))
        return
    at = path.child("opaque")
    yield from driver_name(at.child("driver"), given.driver)
    yield from json_object(at.child("parameters"), given.parameters, _PARAMETERS_LENGTH)


def json_object(path: Path, value: Any, most: int) -> Iterator[FieldError]:
    """What a driver alone understands: an object of not too many bytes."""
    if value is None:
        yield fields.required(path)
    elif len(scheme.encode_inner(value)) > most:
        yield fields.too_long(path, most)
    elif not isinstance(value, dict):
        yield fields.invalid(path, "<value omitted>", "must be a valid JSON object")


def binding_conditions(path: Path, wanted: Sequence[str], failures: Sequence[str]) -> Iterator[FieldError]:
    """What a device must be told to be before pods are bound to it, and what says that it will not be."""
    for word, given in (("bindingConditions", wanted), ("bindingFailureConditions", failures)):
        yield from each(path.child(word), given, _MOST_CONDITIONS, _condition)
    yield from unique(path.child("bindingConditions"), wanted)
    seen = set()
    at = path.child("bindingFailureConditions")
    for n, word in enumerate(failures):
        if word in seen:
            yield fields.duplicate(at.index(n), word)
        seen.add(word)
        if word in wanted:
            yield fields.invalid(at.index(n), word, "bindingFailureConditions must not overlap with bindingConditions")
    if failures and not wanted:
        detail = "bindingConditions are required to use bindingFailureConditions"
        yield fields.invalid(path.child("bindingConditions"), list(wanted), detail)
    if wanted and not failures:
        yield fields.invalid(at, list(failures), "bindingFailureConditions are required to use bindingConditions")


def _condition(given: str, path: Path) -> Iterator[FieldError]:
    yield from faults_of(path, given, names.qualified_name(given))


def class_name(path: Path, name: str) -> Iterator[FieldError]:
    yield from named(path, "deviceClassName", name, names.dns_subdomain)
