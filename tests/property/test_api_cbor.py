"""CBOR and JSON say the same: what is written is read again, and no bytes do worse than be refused."""

from __future__ import annotations

import contextlib
from typing import Any

import cbor2
from hypothesis import given, settings
from hypothesis import strategies as st

from kaa.api import cbor

NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
LEAVES = st.none() | st.booleans() | NUMBERS | st.text()
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5), max_leaves=30
)


def as_go_writes(value: Any) -> Any:
    """Texts and keys as byte strings."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, list):
        return [as_go_writes(inner) for inner in value]
    if isinstance(value, dict):
        return {key.encode(): as_go_writes(inner) for key, inner in value.items()}
    return value


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_what_is_written_is_read_again(value: Any) -> None:
    body = cbor.encode(value)
    assert cbor.decode(body) == value
    assert cbor.decode(cbor2.dumps(as_go_writes(value))) == value
    event = cbor.decode(cbor.encode_watch_event("ADDED", body))
    assert event == {"type": "ADDED", "object": value}


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_do_worse_than_be_refused(data: bytes) -> None:
    with contextlib.suppress(cbor.Malformed):
        cbor.encode(cbor.decode(data))


@settings(max_examples=200, deadline=None)
@given(VALUES, st.data())
def test_broken_bodies_do_no_worse_than_be_refused(value: Any, chance: st.DataObject) -> None:
    data = bytearray(cbor.encode(value))
    for _ in range(chance.draw(st.integers(1, 4))):
        data[chance.draw(st.integers(0, len(data) - 1))] = chance.draw(st.integers(0, 255))
    with contextlib.suppress(cbor.Malformed):
        cbor.decode(bytes(data[: chance.draw(st.integers(0, len(data)))]))
