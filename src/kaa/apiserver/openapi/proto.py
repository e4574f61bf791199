"""OpenAPI v2 as the protobuf that client-go asks for: ``application/com.github.proto-openapi.spec.v2@v1.0+protobuf``.

A message is a function from its JSON value to bytes, put together from the functions of its fields; field numbers are
those of gnostic's ``OpenAPIv2.proto``. What has no fixed shape (extensions, defaults, enum values) travels as a text of
YAML, and JSON is YAML.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

#: Writes one field with its number; nothing when the value is protobuf's default.
Write = Callable[[Any], bytes]
#: The payload of one value, without number and length.
Payload = Callable[[Any], bytes]
Json = dict[str, Any]

_BYTES, _VARINT, _DOUBLE = 2, 0, 1


def varint(value: int) -> bytes:
    """Base-128, least significant group first; negative numbers as 64 bits of two's complement."""
    value &= (1 << 64) - 1
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def _tag(number: int, wire: int) -> bytes:
    return varint(number << 3 | wire)


_SHORT = [bytes([length]) for length in range(128)]


def _delimited(tag: bytes, payload: bytes) -> bytes:
    length = len(payload)
    return tag + (_SHORT[length] if length < 128 else varint(length)) + payload


def _one(number: int, payload: Payload) -> Write:
    """A message or text; written even when empty, for ``{}`` is not absence."""
    tag = _tag(number, _BYTES)
    return lambda value: _delimited(tag, payload(value))


def _each(number: int, payload: Payload) -> Write:
    tag = _tag(number, _BYTES)
    return lambda values: b"".join(_delimited(tag, payload(value)) for value in values)


def _named(number: int, payload: Payload) -> Write:
    """A JSON object as repeated ``{name = 1, value = 2}``."""
    tag, name, inner = _tag(number, _BYTES), _tag(1, _BYTES), _tag(2, _BYTES)

    def write(values: Mapping[str, Any]) -> bytes:
        pairs = (_delimited(name, key.encode()) + _delimited(inner, payload(value)) for key, value in values.items())
        return b"".join(_delimited(tag, pair) for pair in pairs)

    return write


def _text(number: int) -> Write:
    tag = _tag(number, _BYTES)
    return lambda value: _delimited(tag, value.encode()) if value else b""


def _flag(number: int) -> Write:
    tag = _tag(number, _VARINT)
    return lambda value: tag + b"\x01" if value else b""


def _integer(number: int) -> Write:
    tag = _tag(number, _VARINT)
    return lambda value: tag + varint(int(value)) if value else b""


def _double(number: int) -> Write:
    tag = _tag(number, _DOUBLE)
    return lambda value: tag + struct.pack("<d", value) if value else b""


def _message(extensions: int = 0, **fields: Write) -> Payload:
    """A message of named fields; ``extensions`` is the number under which its ``x-…`` fields go."""
    writers = {_KEYS.get(name, name): write for name, write in fields.items()}
    extend = _named(extensions, _any) if extensions else None

    def payload(value: Mapping[str, Any]) -> bytes:
        parts = []
        extra = {}
        for key, inner in value.items():
            if write := writers.get(key):
                parts.append(write(inner))
            elif key.startswith("x-"):
                extra[key] = inner
        if extra and extend:
            parts.append(extend(extra))
        return b"".join(parts)

    return payload


#: Python names of fields that are none in Python, or are written in another case in JSON.
_KEYS = {"ref": "$ref", "in_": "in"}


def _string(value: str) -> bytes:
    return value.encode()


def _any(value: Any) -> bytes:
    """``Any``: its YAML text is field 2."""
    return _delimited(_ANY_YAML, msgspec.json.encode(value))


_ANY_YAML = _tag(2, _BYTES)


def _strings(value: Any) -> bytes:
    """``TypeItem`` and ``StringArray``: one or several texts."""
    return _EACH_STRING([value] if isinstance(value, str) else value)


_EACH_STRING = _each(1, _string)


def _later(find: Callable[[], Payload]) -> Payload:
    """A message that refers to itself."""
    return lambda value: find()(value)


def _only(number: int, payload: Payload) -> Payload:
    """A message whose ``oneof`` is taken by field ``number``."""
    return _one(number, payload)


_schema: Payload = _message(
    31,
    ref=_text(1),
    format=_text(2),
    title=_text(3),
    description=_text(4),
    default=_one(5, _any),
    multipleOf=_double(6),
    maximum=_double(7),
    exclusiveMaximum=_flag(8),
    minimum=_double(9),
    exclusiveMinimum=_flag(10),
    maxLength=_integer(11),
    minLength=_integer(12),
    pattern=_text(13),
    maxItems=_integer(14),
    minItems=_integer(15),
    uniqueItems=_flag(16),
    maxProperties=_integer(17),
    minProperties=_integer(18),
    required=_each(19, _string),
    enum=_each(20, _any),
    additionalProperties=_one(21, lambda value: _additional(value)),
    type=_one(22, _strings),
    items=_one(23, _only(1, _later(lambda: _schema))),
    allOf=_each(24, _later(lambda: _schema)),
    properties=_one(25, _named(1, _later(lambda: _schema))),
    discriminator=_text(26),
    readOnly=_flag(27),
    externalDocs=_one(29, _message(3, description=_text(1), url=_text(2))),
    example=_one(30, _any),
)
_additional_schema, _additional_flag = _only(1, _schema), _flag(2)


def _additional(value: Any) -> bytes:
    return _additional_flag(value) if isinstance(value, bool) else _additional_schema(value)


_body_parameter = _message(
    6, description=_text(1), name=_text(2), in_=_text(3), required=_flag(4), schema=_one(5, _schema)
)
_query_parameter = _message(
    23,
    required=_flag(1),
    in_=_text(2),
    description=_text(3),
    name=_text(4),
    type=_text(6),
    format=_text(7),
    uniqueItems=_flag(20),
)
_path_parameter = _message(
    22,
    required=_flag(1),
    in_=_text(2),
    description=_text(3),
    name=_text(4),
    type=_text(5),
    format=_text(6),
    uniqueItems=_flag(18),
)
#: ``ParametersItem`` holds a ``Parameter``, which holds a body or, one deeper, a query or a path parameter.
_PLACES = {
    "body": _only(1, _only(1, _body_parameter)),
    "query": _only(1, _only(2, _only(3, _query_parameter))),
    "path": _only(1, _only(2, _only(4, _path_parameter))),
}


def _parameter(value: Json) -> bytes:
    return _PLACES["body"](value) if value["in"] == "body" else _plain_parameter(tuple(value.items()))


@lru_cache(maxsize=128)
def _plain_parameter(items: tuple[tuple[str, Any], ...]) -> bytes:
    """Thousands of operations share a few dozen parameters."""
    value = dict(items)
    return _PLACES[value["in"]](value)


_response = _only(1, _message(5, description=_text(1), schema=_one(2, _only(1, _schema))))
_security = _named(1, _strings)
_operation = _message(
    13,
    tags=_each(1, _string),
    summary=_text(2),
    description=_text(3),
    operationId=_text(5),
    produces=_each(6, _string),
    consumes=_each(7, _string),
    parameters=_each(8, _parameter),
    responses=_one(9, _named(1, _response)),
    schemes=_each(10, _string),
    deprecated=_flag(11),
    security=_each(12, _security),
)
_path_item = _message(
    10,
    get=_one(2, _operation),
    put=_one(3, _operation),
    post=_one(4, _operation),
    delete=_one(5, _operation),
    options=_one(6, _operation),
    head=_one(7, _operation),
    patch=_one(8, _operation),
    parameters=_each(9, _parameter),
)
_api_key = _only(2, _message(5, type=_text(1), name=_text(2), in_=_text(3), description=_text(4)))
#: Paths and definitions come packed already, by the two functions below.
_packed: Payload = bytes
_document = _message(
    16,
    swagger=_text(1),
    info=_one(2, _message(7, title=_text(1), version=_text(2), description=_text(3))),
    paths=_one(8, _named(2, _packed)),
    definitions=_one(9, _named(1, _packed)),
    security=_each(12, _security),
    securityDefinitions=_one(13, _named(1, _api_key)),
)


def encode_path(path_item: Json) -> bytes:
    return _path_item(path_item)


def encode_schema(schema: Json) -> bytes:
    return _schema(schema)


def encode(document: Json) -> bytes:
    """The bytes of an OpenAPI v2 document whose paths and definitions were packed one by one."""
    return _document(document)
