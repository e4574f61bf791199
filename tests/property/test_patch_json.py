"""JSON patch against a library, where the library and upstream agree."""

from __future__ import annotations

from typing import Any

import jsonpatch
from hypothesis import given, settings
from hypothesis import strategies as st

from kaa.api.errors import ApiError
from kaa.apiserver.patch.json_patch import apply_json_patch
from kaa.apiserver.patch.merge import merge_patch

KEYS = st.sampled_from(["a", "b", "x/y", "~", "0"])
VALUES = st.recursive(
    st.integers(0, 3) | st.sampled_from(["", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(KEYS, VALUES, max_size=4)


def escaped(step: str) -> str:
    return step.replace("~", "~0").replace("/", "~1")


POINTERS = st.lists(KEYS | st.sampled_from(["1", "-"]), min_size=1, max_size=3).map(
    lambda steps: "".join("/" + escaped(step) for step in steps)
)
OPERATIONS = st.one_of(
    st.builds(lambda o, p, v: {"op": o, "path": p, "value": v}, st.sampled_from(["add", "replace", "test"]), POINTERS, VALUES),
    st.builds(lambda p: {"op": "remove", "path": p}, POINTERS),
    st.builds(lambda o, p, f: {"op": o, "path": p, "from": f}, st.sampled_from(["copy", "move"]), POINTERS, POINTERS),
)  # fmt: skip


def theirs(document: Any, operations: list[Any]) -> Any:
    try:
        return jsonpatch.apply_patch(document, operations)
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, TypeError):
        return None


def ours(document: Any, operations: list[Any]) -> Any:
    try:
        return apply_json_patch(document, operations)
    except ApiError:
        return None


@settings(max_examples=300, deadline=None)
@given(DOCUMENTS, st.lists(OPERATIONS, min_size=1, max_size=4))
def test_as_the_library(document: dict[str, Any], operations: list[Any]) -> None:
    assert ours(document, operations) == theirs(document, operations)


@settings(max_examples=100, deadline=None)
@given(DOCUMENTS, DOCUMENTS)
def test_a_difference_leads_to_its_goal(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert apply_json_patch(old, list(jsonpatch.make_patch(old, new))) == new


@settings(max_examples=100, deadline=None)
@given(DOCUMENTS, DOCUMENTS)
def test_merge_patch_is_idempotent(document: dict[str, Any], patch: dict[str, Any]) -> None:
    once = merge_patch(document, patch)
    assert merge_patch(once, patch) == once
