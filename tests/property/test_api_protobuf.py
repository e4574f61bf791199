"""Protobuf and JSON say the same: whatever object is written can be read again, and no bytes do worse than be refused."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaa.api import protobuf, scheme
from kaa.api.protobuf_messages import Field, plan_of, read_message, write_message
from kaa.api.protobuf_values import Malformed
from kaa.api.resources import RESOURCES

KINDS = [resource.type for resource in RESOURCES if protobuf.supports(resource.type)]
SCALARS = {
    "s": lambda r: r.choice(["a", "web", "ünï-\u6f22", "x" * 200]),
    "b": lambda r: r.choice(["eQ==", "AAEC/w=="]),
    "i": lambda r: r.choice([1, -1, 127, 128, 2**40, -(2**63), 2**63 - 1]),
    "n": lambda r: r.choice([1, -1, 127, 128, 65535, -(2**31), 2**31 - 1]),
    "t": lambda r: True,
    "d": lambda r: r.choice([1.5, -2.25, 1e300]),
    "q": lambda r: r.choice(["100m", "1Gi", "0", "3"]),
    "T": lambda r: r.choice(["2026-11-21T02:31:37Z", "1969-12-31T23:59:59Z", "1970-01-01T00:00:00Z"]),
    "M": lambda r: r.choice(["2026-11-21T02:31:37.000001Z", "2026-11-21T02:31:37.000000Z"]),
    "I": lambda r: r.choice([0, 80, -1, "http", "25%", ""]),
    "J": lambda r: {"f:spec": {"f:replicas": {}}},
    "l": lambda r: ["a", "", "b"],
    "B": lambda r: r.choice([True, False, {"type": "string"}]),
    "A": lambda r: r.choice([{"type": "string"}, [{"type": "string"}, {"type": "integer"}]]),
    "S": lambda r: r.choice([{"type": "string"}, ["a", "b"]]),
}


def value_of(field: Field, chance: random.Random, depth: int) -> Any:
    make = SCALARS.get(field.kind)
    return make(chance) if make else document(field.kind, chance, depth + 1)


def document(message: str, chance: random.Random, depth: int = 0) -> dict[str, Any]:
    """A document as Go's JSON encoder would write one: no zero that it would leave out, no struct missing that it holds."""
    made: dict[str, Any] = {}
    for field in plan_of(message).fields:
        wanted = chance.random() < (0.5 if depth < 4 else 0.1 if depth < 7 else 0.0)
        if field.mode == "+":
            made.update(document(field.kind, chance, depth + 1))
        elif field.mode == "*":
            found = [value_of(field, chance, depth) for _ in range(chance.randint(0, 2) if wanted else 0)]
            if found or field.json_zero:
                made[field.name] = found
        elif field.mode == "%":
            if wanted:
                made[field.name] = {key: value_of(field, chance, depth) for key in chance.choice(("a", "ab"))}
        elif wanted or (field.mode in ".!" and (field.kind in "qIT" or field.json_zero or len(field.kind) > 1)):
            made[field.name] = value_of(field, chance, depth)
    return made


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(KINDS), st.randoms(use_true_random=False))
def test_what_is_written_is_read_again(kind: type, chance: random.Random) -> None:
    message = protobuf.message_of(kind)
    assert message is not None
    plain = document(message, chance)
    assert read_message(message, write_message(message, plain)) == plain

    obj = scheme.convert(kind, plain)
    body = protobuf.encode_object(obj)
    assert protobuf.decode_object(kind, protobuf.decode(body)[1]) == obj
    found = protobuf.document_from_protobuf(body)
    assert (found.pop("kind"), found.pop("apiVersion")) == (kind.KIND, kind.API_VERSION)  # type: ignore[attr-defined]
    assert scheme.convert(kind, found) == obj


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(KINDS), st.binary(max_size=300))
def test_no_bytes_do_worse_than_be_refused(kind: type, data: bytes) -> None:
    for attempt in (
        lambda: protobuf.decode_object(kind, data),
        lambda: protobuf.document_from_protobuf(b"k8s\0" + data),
    ):
        with contextlib.suppress(Malformed):
            attempt()


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(KINDS), st.randoms(use_true_random=False))
def test_broken_messages_do_no_worse_than_be_refused(kind: type, chance: random.Random) -> None:
    message = protobuf.message_of(kind)
    assert message is not None
    data = bytearray(write_message(message, document(message, chance)))
    for _ in range(chance.randint(1, 5)):
        if data:
            data[chance.randrange(len(data))] = chance.randrange(256)
    cut = bytes(data[: chance.randint(0, len(data))])
    with contextlib.suppress(Malformed):
        protobuf.decode_object(kind, cut)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.API_VERSION}-{kind.KIND}")
def test_every_kind_survives_a_full_document(kind: type) -> None:
    message = protobuf.message_of(kind)
    assert message is not None
    for seed in range(3):
        plain = document(message, random.Random(seed))
        assert read_message(message, write_message(message, plain)) == plain
