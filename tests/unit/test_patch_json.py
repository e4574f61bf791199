"""JSON patch and merge patch: upstream's dialect."""

from __future__ import annotations

from typing import Any

import pytest

from kaa.api.errors import ApiError
from kaa.apiserver.patch.json_patch import apply_json_patch
from kaa.apiserver.patch.merge import merge_patch

DOCUMENT: dict[str, Any] = {"a": {"b": 1, "x/y": 2, "~": 3}, "l": [1, 2, 3], "t": True, "n": None}
REFUSED = "the server rejected our request due to an error in our request"


def op(name: str, path: str, **more: Any) -> dict[str, Any]:
    return {"op": name, "path": path, **more}


@pytest.mark.parametrize(
    ("operations", "wanted"),
    [
        pytest.param([op("add", "/l/-", value=4)], {"l": [1, 2, 3, 4]}, id="at the end"),
        pytest.param([op("add", "/l/3", value=4)], {"l": [1, 2, 3, 4]}, id="at the length"),
        pytest.param([op("add", "/l/-1", value=4)], {"l": [1, 2, 3, 4]}, id="from the end"),
        pytest.param([op("remove", "/l/-1")], {"l": [1, 2]}, id="remove the last"),
        pytest.param([op("remove", "/a/x~1y"), op("remove", "/a/~0")], {"a": {"b": 1}}, id="escapes"),
        pytest.param([op("add", "/new")], {"new": None}, id="no value is null"),
        pytest.param([op("test", "/none", value=None)], {}, id="absent is null"),
        pytest.param([op("copy", "/c", **{"from": "/a/b"})], {"c": 1}, id="copy"),
        pytest.param([op("move", "/l/0", **{"from": "/l/2"})], {"l": [3, 1, 2]}, id="move"),
    ],
)
def test_operations(operations: list[Any], wanted: dict[str, Any]) -> None:
    assert apply_json_patch(DOCUMENT, operations) == {**DOCUMENT, **wanted}


def test_the_whole_document_may_be_replaced() -> None:
    assert apply_json_patch(DOCUMENT, [op("test", "", value=DOCUMENT), op("replace", "", value={"z": 1})]) == {"z": 1}


@pytest.mark.parametrize(
    "operation",
    [
        op("add", "", value={}),
        op("remove", ""),
        op("remove", "/nope"),
        op("replace", "/nope", value=1),
        op("add", "/no/where", value=1),
        op("add", "/l/4", value=1),
        op("add", "/l/-5", value=1),
        op("replace", "/l/-", value=1),
        op("add", "/l/x", value=1),
        op("test", "/t", value=1),
        op("test", "/a/b", value="1"),
        op("test", "/l/9", value=None),
        op("copy", "/c"),
        op("move", "/a/b/c", **{"from": "/a"}),
        op("invent", "/a"),
        op("replace", "", value=[]),
        {"op": "remove"},
    ],
    ids=str,
)
def test_refused(operation: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        apply_json_patch(DOCUMENT, [operation])
    assert (caught.value.status.code, caught.value.status.reason, caught.value.message) == (422, "Invalid", REFUSED)
    assert caught.value.bare_details


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        ("x", "error decoding patch: json: cannot unmarshal string into Go value of type handlers.jsonPatchOp"),
        (
            {"op": "add", "path": 1},
            "error decoding patch: json: cannot unmarshal number into Go struct field jsonPatchOp.path of type string",
        ),
    ],
)
def test_what_is_no_operation(operation: Any, words: str) -> None:
    with pytest.raises(ApiError) as caught:
        apply_json_patch(DOCUMENT, [operation])
    assert (caught.value.status.code, caught.value.message) == (400, words)


def test_too_many_operations() -> None:
    with pytest.raises(ApiError) as caught:
        apply_json_patch({}, [op("add", "/a", value=1)] * 10_001)
    assert (caught.value.status.code, caught.value.message) == (
        413,
        "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001",
    )


@pytest.mark.parametrize(
    ("document", "patch", "wanted"),
    [
        pytest.param({"a": 1, "b": 1}, {"a": None}, {"b": 1}, id="null removes"),
        pytest.param({}, {"a": {"b": None, "c": {"d": None}}}, {"a": {"c": {}}}, id="nulls of what is new go"),
        pytest.param({"a": [1]}, {"a": {"b": 1}}, {"a": {"b": 1}}, id="a map for a list"),
        pytest.param({"a": [1, 2]}, {"a": [3]}, {"a": [3]}, id="lists are replaced"),
        pytest.param({}, {"a": [{"b": None}, None]}, {"a": [{}, None]}, id="nulls in lists of maps go"),
    ],
)
def test_merge_patch(document: dict[str, Any], patch: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert merge_patch(document, patch) == wanted
