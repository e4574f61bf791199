"""Strategic merge patch, directive by directive."""

from __future__ import annotations

from typing import Any

import pytest

from kaa.api.errors import ApiError
from kaa.api.types.apps_v1 import Deployment
from kaa.api.types.core_v1 import ConfigMap, Pod, Service
from kaa.apiserver.patch.strategic import strategic_merge

Json = dict[str, Any]


def pod(*containers: Any, **spec: Any) -> Json:
    return {"spec": {"containers": list(containers), **spec}}


def names(document: Json) -> list[str]:
    return [item["name"] for item in document["spec"]["containers"]]


A, B, C = ({"name": name, "image": "1"} for name in "abc")


@pytest.mark.parametrize(
    ("document", "patch", "wanted"),
    [
        pytest.param(pod(A, B), pod({"name": "b", "image": "2"}), pod(A, {"name": "b", "image": "2"}), id="merged by key"),
        pytest.param(pod(A), pod(B), pod(B, A), id="a new item comes first"),
        pytest.param(pod(A, B), pod({"name": "a", "$patch": "delete"}), pod(B), id="an item deleted"),
        pytest.param(pod(A, B), pod({"$patch": "replace"}, C), pod(C), id="a list replaced"),
        pytest.param(pod(A, B), pod({"$patch": "replace", "name": "a"}, C), pod(C), id="replace is the whole list's"),
        pytest.param(pod(A), {"spec": {"$patch": "replace", "x": 1}}, {"spec": {"x": 1}}, id="a map replaced"),
        pytest.param(pod(A), {"spec": {"$patch": "delete"}}, {"spec": {}}, id="a map emptied"),
        pytest.param(pod(A, hostname="h"), {"spec": {"hostname": None}}, pod(A), id="null removes"),
        pytest.param({}, {"spec": {"a": {"b": None}, "c": [{"d": None}]}}, {"spec": {"a": {}, "c": [{}]}}, id="nulls of what is new go"),
        pytest.param({"spec": {"a": 1}}, {"spec": [1]}, {"spec": [1]}, id="another type is taken"),
        pytest.param(
            pod(A, B, C),
            {"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}]}},
            pod(B, C, A),
            id="an order alone; an item of the server\'s own stands before the first that it preceded",
        ),
        pytest.param(
            pod(B, A),
            {"spec": {"$setElementOrder/containers": [{"name": "a"}, {"name": "c"}], "containers": [C]}},
            pod(B, A, C),
            id="an item of the server's own stands before what it preceded",
        ),
        pytest.param(
            {},
            {"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [B, A]}},
            pod(B, A),
            id="an ordered list that is new",
        ),
        pytest.param(
            {"metadata": {"finalizers": ["x", "y"]}},
            {"metadata": {"finalizers": ["z", "x"]}},
            {"metadata": {"finalizers": ["z", "x", "y"]}},
            id="a set",
        ),
        pytest.param(
            {"metadata": {"finalizers": ["x", "y"]}},
            {"metadata": {"$deleteFromPrimitiveList/finalizers": ["x", "q"]}},
            {"metadata": {"finalizers": ["y"]}},
            id="taken out of a set",
        ),
        pytest.param(
            {"metadata": {"finalizers": ["x", "y"]}},
            {
                "metadata": {
                    "$deleteFromPrimitiveList/finalizers": ["x"],
                    "$setElementOrder/finalizers": ["z", "y"],
                    "finalizers": ["z"],
                }
            },
            {"metadata": {"finalizers": ["z", "y"]}},
            id="a set as kubectl patches it",
        ),
        pytest.param(
            pod(A, tolerations=[{"key": "a"}]),
            {"spec": {"tolerations": [{"key": "b"}]}},
            pod(A, tolerations=[{"key": "b"}]),
            id="a list without a key is replaced",
        ),
        pytest.param(
            pod(A, volumes=[{"name": "v", "emptyDir": {}}]),
            {"spec": {"volumes": [{"$retainKeys": ["name", "hostPath"], "name": "v", "hostPath": {"path": "/"}}]}},
            pod(A, volumes=[{"name": "v", "hostPath": {"path": "/"}}]),
            id="another source of a volume",
        ),
    ],
)  # fmt: skip
def test_pods(document: Json, patch: Json, wanted: Json) -> None:
    assert strategic_merge(document, patch, Pod) == wanted


def test_lists_in_lists() -> None:
    old = pod({"name": "a", "ports": [{"containerPort": 1, "name": "x"}, {"containerPort": 2}], "env": [{"name": "E"}]})
    patch = pod({"name": "a", "ports": [{"containerPort": 1, "name": "y"}, {"containerPort": 2, "$patch": "delete"}]})
    assert strategic_merge(old, patch, Pod) == pod(
        {"name": "a", "ports": [{"containerPort": 1, "name": "y"}], "env": [{"name": "E"}]}
    )


def test_what_kubectl_sends_for_another_strategy() -> None:
    """Three-way: last applied RollingUpdate, live with defaults, wanted Recreate."""
    live = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}}, "replicas": 3}}
    patch = {"spec": {"strategy": {"$retainKeys": ["type"], "rollingUpdate": None, "type": "Recreate"}}}
    assert strategic_merge(live, patch, Deployment) == {"spec": {"strategy": {"type": "Recreate"}, "replicas": 3}}


def test_what_kubectl_sends_for_another_port() -> None:
    """Three-way: port 80 was applied, 81 is wanted; another one added 9090."""
    live = {"spec": {"ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}, {"port": 9090, "name": "m"}]}}
    patch = {
        "spec": {
            "$setElementOrder/ports": [{"port": 81}],
            "ports": [{"port": 81, "name": "web"}, {"$patch": "delete", "port": 80}],
        }
    }
    assert strategic_merge(live, patch, Service) == {
        "spec": {"ports": [{"port": 81, "name": "web"}, {"port": 9090, "name": "m"}]}
    }


def test_the_document_given_stays() -> None:
    document = pod(A, B)
    strategic_merge(document, pod({"name": "a", "image": "2"}), Pod)
    assert document == pod(A, B)


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        pytest.param({"spec": {"$patch": "explode"}}, "unknown patch type: explode in map: map[$patch:explode]", id="directive"),
        pytest.param({"spec": {"$patch": "merge"}}, "unknown patch type: merge in map: map[$patch:merge]", id="merge of a map"),
        pytest.param(pod({"image": "2"}), "map: map[image:2] does not contain declared merge key: name", id="no key"),
        pytest.param(pod({"$patch": "delete"}), "map: map[$patch:delete] does not contain declared merge key: name", id="delete without a key"),
        pytest.param(pod({"$patch": "merge", "name": "a"}), "merging lists cannot yet be specified in the patch", id="merge of an item"),
        pytest.param(pod("a"), "list element types are not identical", id="a text among maps"),
        pytest.param({"spec": {"$retainKeys": ["x"], "hostname": "h"}}, "invalid patch format of retainKeys", id="retain"),
        pytest.param({"spec": {"$setElementOrder/containers": 1}}, "invalid patch format of setElementOrder list", id="order"),
        pytest.param(
            {"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "b"}], "containers": [B, C]}},
            "The order in patch list:\n[map[image:1 name:b] map[image:1 name:c]]\n doesn't match $setElementOrder list:\n"
            "[map[name:c] map[name:b]]\n",
            id="orders differ",
        ),
        pytest.param({"metadata": {"$deleteFromPrimitiveList/finalizers": 1}}, "invalid patch format of primitive list", id="delete from"),
    ],
)  # fmt: skip
def test_refusals(patch: Json, words: str) -> None:
    document = {"metadata": {"finalizers": ["x"]}, **pod(A, B)}
    with pytest.raises(ApiError) as caught:
        strategic_merge(document, patch, Pod)
    assert caught.value.message == words
    shapes = ("retainKeys", "setElementOrder", "primitive list")
    assert caught.value.status.code == (
        400 if words.startswith("invalid") and words.split(" of ")[-1].startswith(shapes) else 500
    )


def test_plain_maps_merge() -> None:
    old = {"data": {"a": "1", "b": "1"}}
    assert strategic_merge(old, {"data": {"a": None, "c": "1"}}, ConfigMap) == {"data": {"b": "1", "c": "1"}}
