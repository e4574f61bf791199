"""The protobuf form of v2, read back by a decoder that knows nothing of the encoder."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaa.apiserver.openapi import OpenAPI, proto

Fields = dict[int, list[Any]]


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def fields(data: bytes) -> Fields:
    """{field number: its values} of a message; those of length-delimited fields are bytes."""
    found: Fields = {}
    at = 0
    while at < len(data):
        key, at = read_varint(data, at)
        value: Any
        if key & 7 == 0:
            value, at = read_varint(data, at)
        elif key & 7 == 1:
            (value,), at = struct.unpack("<d", data[at : at + 8]), at + 8
        else:
            length, at = read_varint(data, at)
            value, at = data[at : at + length], at + length
        found.setdefault(key >> 3, []).append(value)
    return found


def named(messages: list[bytes]) -> dict[str, bytes]:
    pairs = [fields(message) for message in messages]
    return {pair[1][0].decode(): pair[2][0] for pair in pairs}


@given(st.integers(0, (1 << 64) - 1))
def test_numbers_are_read_back(value: int) -> None:
    assert read_varint(proto.varint(value), 0) == (value, len(proto.varint(value)))


def test_a_negative_number_takes_ten_bytes() -> None:
    assert proto.varint(-1) == b"\xff" * 9 + b"\x01"


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"$ref": "#/definitions/a"}, {1: [b"#/definitions/a"]}),
        ({"format": "int32", "type": "integer"}, {2: [b"int32"], 22: [b"\x0a\x07integer"]}),
        ({"description": ""}, {}),
        ({"default": {}}, {5: [b"\x12\x02{}"]}),
        ({"minimum": 1.5, "exclusiveMinimum": True}, {9: [1.5], 10: [1]}),
        ({"maxLength": 300, "minItems": 0}, {11: [300]}),
        ({"required": ["a", "b"]}, {19: [b"a", b"b"]}),
        ({"enum": ["x"]}, {20: [b'\x12\x03"x"']}),
        ({"additionalProperties": True}, {21: [b"\x10\x01"]}),
        ({"additionalProperties": {}}, {21: [b"\x0a\x00"]}),
        ({"items": {"type": "x"}}, {23: [b"\x0a\x06\xb2\x01\x03\x0a\x01x"]}),
        ({"x-a": [1]}, {31: [b"\x0a\x03x-a\x12\x05\x12\x03[1]"]}),
        ({"unknown": 1}, {}),
    ],
)
def test_schemas(schema: dict[str, Any], message: Fields) -> None:
    assert fields(proto.encode_schema(schema)) == message


@pytest.mark.parametrize(
    ("place", "route"),
    [("query", (8, 1, 2, 3)), ("path", (8, 1, 2, 4)), ("body", (8, 1, 1))],
    ids=["query", "path", "body"],
)
def test_parameters_are_as_deep_as_gnostic_has_them(place: str, route: tuple[int, ...]) -> None:
    inner = proto.encode_path({"get": {"parameters": [{"in": place, "name": "n", "required": True}]}})
    for number in (2, *route):
        (inner,) = fields(inner)[number]
    assert b"n" in {value for values in fields(inner).values() for value in values}


def test_the_whole_document_says_what_its_json_says() -> None:
    openapi = OpenAPI()
    plain = openapi.document("/openapi/v2")
    packed = openapi.document("/openapi/v2", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
    assert plain is not None
    assert packed is not None
    tree, message = json.loads(plain.body), fields(packed.body)
    assert message[1] == [b"2.0"]
    definitions = named(fields(message[9][0])[1])
    assert set(definitions) == set(tree["definitions"])
    for name, schema in tree["definitions"].items():
        properties = fields(definitions[name]).get(25, [b""])[0]
        assert set(named(fields(properties).get(1, []))) == set(schema.get("properties", ()))
    paths = named(fields(message[8][0])[2])
    assert set(paths) == set(tree["paths"])
    patch = fields(fields(paths["/api/v1/namespaces/{namespace}/pods/{name}"])[8][0])
    assert patch[5] == [b"patchCoreV1NamespacedPod"]
    assert {"x-kubernetes-action", "x-kubernetes-group-version-kind"} == set(named(patch[13]))
