"""What an update may leave as it was, though the schema no longer allows it; and objects inside of objects."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaa.api.fields import FieldError
from kaa.apiserver.custom.embedded import embedded_faults
from kaa.apiserver.custom.ratcheting import is_old
from kaa.apiserver.custom.validation import checker
from kaa.apiserver.validation.common import same

TEXT = {"type": "string"}
SMALL = {"type": "integer", "maximum": 9}
KEYED = {
    "type": "array",
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["k"],
    "items": {"type": "object", "properties": {"k": TEXT, "v": SMALL}},
}
SCHEMA = {
    "type": "object",
    "required": ["z"],
    "properties": {
        "a": TEXT,
        "z": TEXT,
        "n": SMALL,
        "keyed": KEYED,
        "plain": {"type": "array", "items": SMALL},
        "map": {"type": "object", "additionalProperties": SMALL},
        "one": {"type": "integer", "anyOf": [{"minimum": 5}]},
    },
}


def counted(new: Any, old: Any) -> list[str]:
    """The faults of an update that count."""
    found: list[FieldError] = []
    checker(SCHEMA)(new, "", found)
    return [fault.field for fault in found if not is_old(fault, SCHEMA, new, old)]


@pytest.mark.parametrize(
    ("new", "old", "places"),
    [
        ({"z": "", "n": 50, "a": "x"}, {"z": "", "n": 50}, []),
        ({"z": "", "n": 51}, {"z": "", "n": 50}, ["n"]),
        ({"a": "x"}, {"a": "y"}, ["z"]),
        ({"a": "x"}, {"a": "x"}, []),
        ({"z": "", "keyed": [{"k": "y"}, {"k": "x", "v": 50}]}, {"z": "", "keyed": [{"k": "x", "v": 50}, {"k": "y"}]}, []),
        ({"z": "", "keyed": [{"k": "new", "v": 50}]}, {"z": "", "keyed": [{"k": "x", "v": 50}]}, ["keyed[0].v"]),
        ({"z": "", "plain": [50], "a": "x"}, {"z": "", "plain": [50]}, []),
        ({"z": "", "plain": [50, 1]}, {"z": "", "plain": [50]}, ["plain[0]"]),
        ({"z": "", "map": {"a.b/c": 50, "d": 1}}, {"z": "", "map": {"a.b/c": 50}}, []),
        ({"z": "", "one": 1, "a": "x"}, {"z": "", "one": 1}, []),
        ({"z": "", "one": 2}, {"z": "", "one": 1}, ["<nil>", "one"]),
        ({"z": "", "n": True}, {"z": "", "n": 1}, ["n"]),
    ],
)  # fmt: skip
def test_what_stood_may_stand(new: Any, old: Any, places: list[str]) -> None:
    assert counted(new, old) == places


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 60) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*SCHEMA["properties"], "k", "v"]), inner),
    max_leaves=12,
)  # fmt: skip


@given(VALUES)
def test_an_update_of_nothing_is_never_refused(value: Any) -> None:
    again = copy.deepcopy(value)
    assert same(value, again)
    assert counted(value, again) == []


EMBEDDED = {"type": "object", "properties": {"t": {"type": "object", "x-kubernetes-embedded-resource": True}}}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"kind": "Pod", "apiVersion": "v1"}, []),
        ({}, ["t.apiVersion: Required value", "t.kind: Required value"]),
        ({"kind": "Pod", "apiVersion": "a/b/c"}, ['t.apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c']),
        ({"kind": 1, "apiVersion": "v1"}, ["t.kind: Invalid value: 1: must be a string"]),
        ({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a/b"}}, ['t.metadata.name: Invalid value: "a/b": may not contain \'/\'']),
        ({"kind": "Pod", "apiVersion": "v1", "metadata": {"labels": {"k": "v"}, "namespace": "n"}}, []),
    ],
)  # fmt: skip
def test_embedded_objects(value: Any, words: list[str]) -> None:
    check = embedded_faults(EMBEDDED)
    assert check is not None
    found: list[FieldError] = []
    check({"t": value}, "", found)
    assert [str(fault) for fault in found] == words
