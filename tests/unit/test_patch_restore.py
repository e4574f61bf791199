"""Patches whose result is no object: what is told of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from api_lab import Lab, run

from kaa.apiserver.patch.restore import in_words_of_maps

PODS = "/api/v1/namespaces/default/pods"
POD = {"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
FIELD = "json: cannot unmarshal {} into Go struct field A.b of type {}"


@pytest.mark.parametrize(
    ("got", "wanted", "words"),
    [
        ("string", "map[string]string", "cannot restore map from string"),
        ("object", "[]v1.Container", "cannot restore slice from map"),
        ("array", "v1.PodSpec", "cannot restore struct from: slice"),
        ("string", "int32", "unrecognized type: int32"),
        ("number", "string", "cannot convert int64 to string"),
        ("number", "bool", "unrecognized type: bool"),
    ],
)
def test_words_of_maps(got: str, wanted: str, words: str) -> None:
    assert in_words_of_maps(FIELD.format(got, wanted)) == words


@pytest.mark.parametrize(
    ("media", "patch", "words"),
    [
        (
            "strategic-merge-patch",
            {"metadata": {"labels": "invalid"}},
            ' "" is invalid: patch: Invalid value: "map[metadata:map[labels:invalid]]": cannot restore map from string',
        ),
        ("merge-patch", {"metadata": {"labels": "invalid"}}, ": json: cannot unmarshal string into Go struct field"),
        (
            "json-patch",
            [{"op": "add", "path": "/spec/nodeName", "value": 1}],
            ": json: cannot unmarshal number into Go",
        ),
    ],
)
def test_the_patch_is_at_fault(media: str, patch: Any, words: str) -> None:
    async def use(lab: Lab) -> None:
        assert (await lab.ask("POST", PODS, POD)).status == 201
        answer = await lab.ask("PATCH", f"{PODS}/a", patch, content_type=f"application/{media}+json")
        told = json.loads(answer.body)
        assert (answer.status, told["reason"]) == (422, "Invalid")
        assert words in told["message"]
        assert [cause["field"] for cause in told["details"]["causes"]] == ["patch"]

    run(use, http=True)
