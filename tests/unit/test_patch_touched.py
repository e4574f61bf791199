"""What a patch does not speak of is not read again, whatever its format."""

from __future__ import annotations

import pytest

from kaa.api.types.core_v1 import Pod
from kaa.apiserver.patches import only, touched_fields
from kaa.client.client import PatchType

ALL = ["metadata", "spec", "status"]


@pytest.mark.parametrize(
    ("kind", "patch", "touched"),
    [
        (PatchType.STRATEGIC, {"status": {"phase": "Running"}}, ["status"]),
        (PatchType.MERGE, {"metadata": {"labels": {"a": "b"}}, "kind": "Pod"}, ["metadata"]),
        (PatchType.MERGE, {"unknown": 1}, []),
        (PatchType.STRATEGIC, {"$patch": "replace", "metadata": {}}, ALL),
        (PatchType.STRATEGIC, {"$retainKeys": ["metadata"], "metadata": {}}, ALL),
        (PatchType.JSON, [{"op": "replace", "path": "/spec/nodeName", "value": "n"}], ["spec"]),
        (
            PatchType.JSON,
            [{"op": "move", "from": "/metadata/labels/a", "path": "/spec/nodeName"}],
            ["metadata", "spec"],
        ),
        (PatchType.JSON, [{"op": "replace", "path": "", "value": {}}], ALL),
        (PatchType.JSON, [{"op": "add", "path": "spec", "value": {}}], ALL),
    ],
)
def test_touched_fields_of_a_pod(kind: PatchType, patch: object, touched: list[str]) -> None:
    assert list(touched_fields(kind, patch, Pod)) == touched


def test_only_keeps_the_named_attributes() -> None:
    from kaa.api.scheme import convert

    pod = convert(Pod, {"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c"}]}})
    assert only(pod, ["metadata"]) == convert(Pod, {"metadata": {"name": "p"}})
