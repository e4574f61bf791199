"""A CRD's structural schema as a CEL type, and its JSON values as CEL values.

    environment = Environment({"self": type_of_schema(schema, root=True)})
    convert = converter(schema, root=True)
    program.evaluate({"self": document if convert is None else convert(document)})

Most values are CEL values already, and then nothing is converted: `converter` says None, and so it does for every part
of a schema where that holds.

Source: apiserver pkg/cel/common/schemas.go, values.go; pkg/cel/limits.go.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from .errors import EvaluationError
from .escaping import escape
from .instants import parse_duration, parse_timestamp
from .limits import REQUEST_SIZE
from .operations import equal
from .types import BOOL, BYTES, DOUBLE, DURATION, DYN, INT, STRING, TIMESTAMP, ListType, MapType, ObjectType, Type

Schema = Mapping[str, Any]
Converter = Callable[[Any], Any]

_TIME_SIZE = 32
_DATE_SIZE = 12


class _Sized(NamedTuple):
    """A type, and the least bytes that its JSON takes."""

    type: Type
    least: int


def type_of_schema(schema: Schema, *, root: bool = False, name: str = "selfType") -> Type | None:
    """The CEL type of values of a structural schema (its JSON form); None where CEL can name none.

    Args: root: the schema is a custom resource's own, with apiVersion, kind and metadata.
          name: of the object type; the types of its fields have names below it.
    """
    found = _type(schema, root, name)
    return None if found is None else found.type


def _type(schema: Schema, root: bool, name: str) -> _Sized | None:
    if schema.get("x-kubernetes-int-or-string"):
        length = schema.get("maxLength")
        return _Sized(DYN.sized(REQUEST_SIZE - 2 if length is None else max(length, 0) * 4), 1)
    if root:
        schema = with_metadata(schema)
    match schema.get("type"):
        case "array":
            return _list_type(schema, name)
        case "object":
            return _map_type(schema, name) if _values_of(schema) is not None else _object_type(schema, name)
        case "string":
            return _string_type(schema)
        case "boolean":
            return _Sized(BOOL.sized(0), 4)
        case "number":
            return _Sized(DOUBLE.sized(0), 1)
        case "integer":
            return _Sized(INT.sized(0), 1)
    return None


def _embedded(schema: Schema) -> bool:
    return bool(schema.get("x-kubernetes-embedded-resource"))


def _values_of(schema: Schema) -> Schema | None:
    """The schema of a map's values."""
    inner = schema.get("additionalProperties")
    return inner if isinstance(inner, Mapping) else None


def _list_type(schema: Schema, name: str) -> _Sized | None:
    items = schema.get("items")
    inner = None if items is None else _type(items, _embedded(items), f"{name}.@idx")
    if inner is None:
        return None
    most = schema.get("maxItems")
    size = (REQUEST_SIZE - 2) // (inner.least + 1) if most is None else max(most, 0)
    return _Sized(ListType(inner.type, max_elements=size), 2)


def _map_type(schema: Schema, name: str) -> _Sized | None:
    values = _values_of(schema) or {}
    inner = _type(values, _embedded(values), f"{name}.@elem")
    if inner is None:
        return None
    most = schema.get("maxProperties")
    size = (REQUEST_SIZE - 2) // (inner.least + 6) if most is None else max(most, 0)
    return _Sized(MapType(STRING.sized(0), inner.type, max_elements=size), 2)


def _object_type(schema: Schema, name: str) -> _Sized:
    required = frozenset(schema.get("required") or ())
    fields: dict[str, Type] = {}
    wire_names: dict[str, str] = {}
    least = 2
    for key, inner in (schema.get("properties") or {}).items():
        escaped = escape(key)
        found = _type(inner, _embedded(inner), f"{name}.{escaped or key}")
        if found is None:
            continue
        if escaped is not None:
            fields[escaped] = found.type
            if escaped != key:
                wire_names[escaped] = key
        if key in required and inner.get("default") is None:
            least += len(key.encode()) + found.least + 4
    return _Sized(ObjectType(name, fields, wire_names=wire_names, max_elements=0), least)


def _string_type(schema: Schema) -> _Sized:
    length = schema.get("maxLength")
    match schema.get("format"):
        case "byte":
            return _Sized(BYTES.sized(REQUEST_SIZE - 2 if length is None else max(length, 0)), 2)
        case "duration":
            return _Sized(DURATION.sized(_TIME_SIZE), 3)
        case "date":
            return _Sized(TIMESTAMP.sized(_DATE_SIZE), _DATE_SIZE)
        case "date-time":
            return _Sized(TIMESTAMP.sized(_TIME_SIZE), 21)
    if length is not None:
        return _Sized(STRING.sized(max(length, 0) * 4), 2)
    known = [len(one.encode()) for one in schema.get("enum") or () if isinstance(one, str)]
    return _Sized(STRING.sized(max(known, default=0) if schema.get("enum") else REQUEST_SIZE - 2), 2)


def with_metadata(schema: Schema) -> Schema:
    """The schema of a resource: rules always reach its apiVersion, kind, metadata.name and metadata.generateName."""
    text = {"type": "string"}
    metadata = {"type": "object", "properties": {"name": text, "generateName": text}}
    properties = schema.get("properties") or {}
    given = properties.get("metadata") or {}
    inner = given.get("properties") or {}
    if "name" in inner and "generateName" in inner and "kind" in properties and "apiVersion" in properties:
        return schema
    return {**schema, "properties": {**properties, "apiVersion": text, "kind": text, "metadata": metadata}}


def max_cardinality(schema: Schema, *, root: bool = False) -> int:
    """How many values of a schema one request can hold at most: what a rule's cost counts as often as, in a list or map
    that has no limit of its own."""
    found = _type(schema, root, "selfType")
    return 1 if found is None else REQUEST_SIZE // (found.least + 1)


# -- values


class SetList(list[Any]):
    """A list of ``x-kubernetes-list-type: set``: order does not count, and adding leaves out what is there."""

    def cel_equal(self, other: Sequence[Any]) -> bool:
        return len(self) == len(other) and all(any(equal(one, mine) for mine in self) for one in other)

    def cel_add(self, other: Sequence[Any]) -> SetList:
        found = SetList(self)
        for one in other:
            if not any(equal(one, mine) for mine in found):
                found.append(one)
        return found


class MapList(list[Any]):
    """A list of ``x-kubernetes-list-type: map``: items go by their keys, and adding replaces those of the same keys."""

    def __init__(self, items: Sequence[Any], keys: tuple[str, ...]) -> None:
        super().__init__(items)
        self.keys = keys

    def key(self, item: Any) -> tuple[Any, ...]:
        return tuple(item.get(name) for name in self.keys)

    def cel_equal(self, other: Sequence[Any]) -> bool:
        if len(self) != len(other):
            return False
        mine = {self.key(item): item for item in self}
        return all((key := self.key(item)) in mine and equal(mine[key], item) for item in other)

    def cel_add(self, other: Sequence[Any]) -> MapList:
        found = {self.key(item): item for item in self}
        found.update((self.key(item), item) for item in other)
        return MapList(list(found.values()), self.keys)


def converter(schema: Schema, *, root: bool = False) -> Converter | None:
    """What makes a JSON value of that schema a CEL value; None where the JSON value already is one.

    Numbers become floats, ``date-time`` strings Timestamps, sets and maps in lists compare and add as such. The value
    must be valid by the schema. Raises EvaluationError: a formatted string is not of its format.
    """
    if schema.get("x-kubernetes-int-or-string"):
        return None
    if root or _embedded(schema):
        schema = with_metadata(schema)
    match schema.get("type"):
        case "array":
            return _list_converter(schema)
        case "object":
            values = _values_of(schema)
            return _object_converter(schema) if values is None else _map_converter(values)
        case "string":
            return _FORMATS.get(schema.get("format") or "")
        case "number":
            return float
    return None


def _list_converter(schema: Schema) -> Converter | None:
    convert = converter(schema.get("items") or {})
    kind = schema.get("x-kubernetes-list-type")
    keys = tuple(schema.get("x-kubernetes-list-map-keys") or ())

    def wrap(items: list[Any]) -> list[Any]:
        if kind == "set":
            return SetList(items)
        return MapList(items, keys) if kind == "map" else items

    if convert is None:
        return wrap if kind in ("set", "map") else None
    return lambda value: value if value is None else wrap([None if one is None else convert(one) for one in value])


def _map_converter(values: Schema) -> Converter | None:
    convert = converter(values)
    if convert is None:
        return None

    def run(value: Any) -> Any:
        if value is None:
            return None
        return {key: None if one is None else convert(one) for key, one in value.items()}

    return run


def _object_converter(schema: Schema) -> Converter | None:
    found = {key: converter(inner) for key, inner in (schema.get("properties") or {}).items()}
    needed = [(key, convert) for key, convert in found.items() if convert is not None]
    if not needed:
        return None

    def run(value: Any) -> Any:
        if value is None:
            return None
        converted = dict(value)
        for key, convert in needed:
            inner = converted.get(key)
            if inner is not None:
                converted[key] = convert(inner)
        return converted

    return run


def _duration(text: str) -> Any:
    found = parse_duration(text)
    if found is None:
        raise EvaluationError(f"Invalid duration {text}: unable to parse {text} as duration")
    return found


def _date(text: str) -> Any:
    found = parse_timestamp(f"{text}T00:00:00Z")
    if found is None:
        raise EvaluationError(f"Invalid date formatted string {text}")
    return found


def _date_time(text: str) -> Any:
    found = parse_timestamp(text.upper())
    if found is None:
        raise EvaluationError(f"Invalid date-time formatted string {text}")
    return found


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise EvaluationError(f"Invalid byte formatted string {text}") from None


_FORMATS: dict[str, Converter] = {"duration": _duration, "date": _date, "date-time": _date_time, "byte": _bytes}
