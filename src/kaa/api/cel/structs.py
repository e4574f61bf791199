"""Frozen Structs as CEL maps, and CEL values as JSON again.

A view holds its Struct and looks fields up under their wire names when asked: a policy that reads two fields of a pod
costs two attributes, not an encoding. What the wire would not carry is absent.

Source: apiserver pkg/cel/mutation/common/val.go, pkg/admission/plugin/policy/mutating/patch (values to JSON).
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from .errors import EvaluationError
from .instants import duration_text, timestamp_text
from .operations import type_name
from .values import Duration, OptionalValue, Timestamp

_EXACT = frozenset((str, int, float, bool, type(None)))


@lru_cache(maxsize=None)
def _fields(kind: type[msgspec.Struct]) -> dict[str, tuple[str, Any]]:
    """{wire name: (attribute, the value that the wire leaves out)}"""
    return {field.encode_name: (field.name, _left_out(field)) for field in msgspec.structs.fields(kind)}


def _left_out(field: msgspec.structs.FieldInfo) -> Any:
    return {} if field.default_factory is dict else field.default


class StructView(Mapping[str, Any]):
    """A Struct under its wire names."""

    __slots__ = ("_head", "_known", "_struct")

    def __init__(self, struct: msgspec.Struct, head: Mapping[str, str]) -> None:
        self._struct = struct
        self._head = head
        #: what has been looked up
        self._known: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        known = self._known
        if key in known:
            return known[key]
        field = _fields(type(self._struct)).get(key)
        if field is None:
            return self._head[key]
        value = getattr(self._struct, field[0])
        if value is None or value == field[1]:
            raise KeyError(key)
        known[key] = converted = _converted(value)
        return converted

    def __iter__(self) -> Iterator[str]:
        yield from self._head
        for key, (attribute, default) in _fields(type(self._struct)).items():
            value = getattr(self._struct, attribute)
            if value is not None and value != default:
                yield key

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _converted(value: Any) -> Any:
    kind = type(value)
    if kind in _EXACT:
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, msgspec.Struct):
        return StructView(value, {})
    if isinstance(value, tuple | list):
        return value if all(type(one) in _EXACT for one in value) else [_converted(one) for one in value]
    if isinstance(value, Mapping):
        return value if all(type(one) in _EXACT for one in value.values()) else _converted_map(value)
    return value


def _converted_map(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _converted(one) for key, one in value.items()}


def view(value: msgspec.Struct) -> Mapping[str, Any]:
    """The object under its wire names, with kind and apiVersion where its class has them."""
    kind = getattr(value, "KIND", None)
    head = {} if kind is None else {"kind": kind, "apiVersion": value.API_VERSION}  # type: ignore[attr-defined]  # KIND has it
    return StructView(value, head)


def to_json(value: Any) -> Any:
    """A CEL value as plain JSON: times and durations as text, bytes as base64.

    Raises EvaluationError: the value has no JSON, such as a type or an empty optional.
    """
    match value:
        case None | bool() | str() | float():
            return value
        case int():
            return int(value)
        case bytes():
            return base64.b64encode(value).decode()
        case Timestamp():
            return timestamp_text(value)
        case Duration():
            return duration_text(value)
        case OptionalValue() if value.present:
            return to_json(value.value)
        case Mapping():
            return {str(key): to_json(inner) for key, inner in value.items()}
        case list() | tuple():
            return [to_json(inner) for inner in value]
    raise EvaluationError(f"type conversion error from '{type_name(value)}' to 'google.protobuf.Value'")
