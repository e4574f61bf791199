"""Unknown fields are named wherever they stand, and found nowhere else."""

from __future__ import annotations

from typing import Any

import pytest

from kaa.api import scheme
from kaa.api.types.apiextensions_v1 import CustomResourceDefinition
from kaa.api.types.core_v1 import Pod

CONTAINER = {"name": "c", "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}


@pytest.mark.parametrize(
    ("document", "paths"),
    [
        pytest.param({"kind": "Pod", "apiVersion": "v1", "metadata": {}, "spec": {"containers": [CONTAINER]}}, [], id="none"),
        pytest.param({"metadata": {"labels": {"any": "thing"}, "annotations": None}}, [], id="free-form maps and nulls"),
        pytest.param({"spec": {"containers": [{"nam": "c"}]}}, ["spec.containers[0].nam"], id="in an item"),
        pytest.param({"metadata": {"kind": "x"}}, ["metadata.kind"], id="kind below the top"),
        pytest.param({"foo": {"deep": 1}, "spec": {"bar": 1}}, ["foo", "spec.bar"], id="named once, not what is below"),
        pytest.param({"spec": [1], "status": 7}, [], id="wrong shapes are the decoder's affair"),
    ],
)  # fmt: skip
def test_unknown_fields_of_a_pod(document: dict[str, Any], paths: list[str]) -> None:
    assert list(scheme.unknown_fields(Pod, document)) == paths


def test_types_that_hold_themselves() -> None:
    schema = {"properties": {"a": {"items": {"properties": {"b": {"typo": 1}}}}}}
    document = {"spec": {"versions": [{"schema": {"openAPIV3Schema": schema}}]}}
    found = list(scheme.unknown_fields(CustomResourceDefinition, document))
    assert len(found) == 1
    assert found[0].endswith("properties.b.typo")
