"""Sets of fields and apply: what holds for all of them."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kaa.apiserver.patch.documents import fields_of, merged, without
from kaa.apiserver.patch.field_sets import LEAF, SELF, FieldSet, difference, intersection, members, union
from kaa.apiserver.patch.type_view import view_of_schema

STEPS = st.sampled_from(["f:a", "f:b", "k:1", "v:x"])
PATHS = st.frozensets(st.lists(STEPS, min_size=1, max_size=3).map(tuple), max_size=6)

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "a": {"type": "string"},
        "m": {"type": "object", "additionalProperties": {"type": "string"}},
        "s": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "l": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "properties": {"name": {"type": "string"}, "n": {"type": "integer"}}},
        },
    },
}
VIEW = view_of_schema(SCHEMA)
WORDS = st.sampled_from("xyz")


def name_of(item: Any) -> str:
    return str(item["name"])


ITEMS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries({"name": WORDS}, optional={"n": st.integers(0, 2)})
DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "a": WORDS,
        "m": st.dictionaries(WORDS, WORDS, max_size=3),
        "s": st.lists(WORDS, unique=True, max_size=3),
        "l": st.lists(
            ITEMS,
            unique_by=name_of,
            max_size=3,
        ),
    },
)


def trie(paths: frozenset[tuple[str, ...]]) -> FieldSet:
    made: FieldSet = {}
    for path in sorted(paths, key=len):
        made = union(made, _one(path))
    return made


def _one(path: tuple[str, ...]) -> FieldSet:
    return {path[0]: _one(path[1:]) if len(path) > 1 else LEAF}


def model(fields: FieldSet) -> frozenset[tuple[str, ...]]:
    return frozenset(members(fields))


@settings(max_examples=300, deadline=None)
@given(PATHS, PATHS)
def test_sets_are_sets(left: frozenset[tuple[str, ...]], right: frozenset[tuple[str, ...]]) -> None:
    a, b = trie(left), trie(right)
    assert model(a) == left
    assert model(union(a, b)) == left | right
    assert model(difference(a, b)) == left - right
    assert model(intersection(a, b)) == left & right
    assert SELF not in difference(a, b), "the root is never a member"


@settings(max_examples=200, deadline=None)
@given(DOCUMENTS, DOCUMENTS)
def test_merging_is_idempotent_and_says_what_was_sent(live: dict[str, Any], sent: dict[str, Any]) -> None:
    once = merged(VIEW, live, sent)
    assert merged(VIEW, once, sent) == once
    said, found = model(fields_of(VIEW, sent)), model(fields_of(VIEW, once))
    assert {path for path in said if not _empty(sent, path)} <= found
    assert model(fields_of(VIEW, live)) - said <= found | said | {("f:m",)}


def _empty(document: dict[str, Any], path: tuple[str, ...]) -> bool:
    return document.get(path[0][2:]) in ({}, [])


@settings(max_examples=200, deadline=None)
@given(DOCUMENTS)
def test_removing_what_a_document_says_leaves_nothing_of_it(document: dict[str, Any]) -> None:
    fields = fields_of(VIEW, document)
    left = without(VIEW, document, fields)
    assert model(fields_of(VIEW, left)) == frozenset() or left.get("m") == {}
