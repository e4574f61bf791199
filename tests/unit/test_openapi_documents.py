"""The documents: what there is, how it is asked for, and that it holds together."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kaa.api.errors import NotAcceptable
from kaa.api.resources import RESOURCES, Resource, Subresource
from kaa.apiserver.openapi import CustomSchema, OpenAPI
from kaa.apiserver.openapi.render import schema_v2

GOLDEN = Path(os.environ.get("KAA_GOLDEN") or Path(__file__).resolve().parents[3] / "shared/golden/v1.36") / "openapi"
PROTOBUF = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
CRON_TAB: Resource[Any] = Resource(
    "stable.example.com",
    "v1",
    "crontabs",
    "CronTab",
    True,
    "crontab",
    subresources=(Subresource("status", "CronTab"), Subresource("scale", "Scale", group="autoscaling", version="v1")),
    custom=True,
)
SPEC = {
    "type": "object",
    "required": ["when", "maybe"],
    "properties": {
        "when": {"type": "string", "default": "@daily"},
        "maybe": {"type": "integer", "nullable": True},
        "template": {"type": "object", "x-kubernetes-embedded-resource": True},
        "free": {
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": True,
            "properties": {"a": {"type": "string"}},
        },
        "port": {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]},
    },
}
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"spec": SPEC}}


@pytest.fixture(scope="module")
def openapi() -> OpenAPI:
    return OpenAPI()


def read(openapi: OpenAPI, path: str, accept: str = "application/json") -> Any:
    found = openapi.document(path, accept)
    assert found is not None, path
    return json.loads(found.body)


def paths(openapi: OpenAPI) -> list[str]:
    return list(read(openapi, "/openapi/v3")["paths"])


def references(tree: Any) -> set[str]:
    if isinstance(tree, dict):
        own = {tree["$ref"]} if isinstance(tree.get("$ref"), str) else set()
        return own.union(*(references(inner) for inner in tree.values()))
    return set().union(*(references(inner) for inner in tree)) if isinstance(tree, list) else set()


# ---------------------------------------------------------------------------------------------------- what there is


def test_the_index_names_each_document_by_its_hash(openapi: OpenAPI) -> None:
    for name, entry in read(openapi, "/openapi/v3")["paths"].items():
        url, _, digest = entry["serverRelativeURL"].partition("?hash=")
        found = openapi.document(url)
        assert url == f"/openapi/v3/{name}"
        assert found is not None
        assert (found.hash, found.etag) == (digest, f'"{digest}"')


def test_every_resource_is_in_the_document_of_its_group_version(openapi: OpenAPI) -> None:
    for resource in RESOURCES:
        document = read(openapi, f"/openapi/v3{resource.root}")
        place = resource.path("{namespace}")
        assert place in document["paths"]


@pytest.mark.parametrize("path", ["/openapi", "/openapi/v1", "/openapi/v3/apis/nothing/v1", "/openapi/v2/pods", "/api"])
def test_there_is_nothing_elsewhere(openapi: OpenAPI, path: str) -> None:
    assert openapi.document(path) is None


def test_references_lead_somewhere(openapi: OpenAPI) -> None:
    for name in paths(openapi):
        document = read(openapi, f"/openapi/v3/{name}")
        known = {f"#/components/schemas/{name}" for name in document["components"].get("schemas", ())}
        assert references(document) == known
    document = read(openapi, "/openapi/v2")
    assert references(document) == {f"#/definitions/{name}" for name in document["definitions"]}


def test_operation_ids_are_unique(openapi: OpenAPI) -> None:
    ids = [
        operation["operationId"]
        for item in read(openapi, "/openapi/v2")["paths"].values()
        for method, operation in item.items()
        if method != "parameters"
    ]
    assert len(ids) == len(set(ids)) > 600


def without_words(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {
            key: sorted(inner) if key == "required" and isinstance(inner, list) else without_words(inner)
            for key, inner in tree.items()
            if not (key == "description" and isinstance(inner, str))
        }
    return [without_words(inner) for inner in tree] if isinstance(tree, list) else tree


def test_a_time_that_may_be_null_is_required_all_the_same(openapi: OpenAPI) -> None:
    found = read(openapi, "/openapi/v3/apis/events.k8s.io/v1")["components"]["schemas"]["io.k8s.api.events.v1.Event"]
    assert found["required"] == ["eventTime"]


@pytest.mark.skipif(not GOLDEN.exists(), reason="no recorded documents of kube-apiserver here (KAA_GOLDEN)")
@pytest.mark.parametrize(
    "name", sorted(path.name[: -len(".json.gz")].replace("__", "/") for path in GOLDEN.glob("*.json.gz"))
)
def test_documents_are_as_kube_apiserver_writes_them(openapi: OpenAPI, name: str) -> None:
    recorded = json.loads(gzip.decompress((GOLDEN / f"{name.replace('/', '__')}.json.gz").read_bytes()))
    assert without_words(read(openapi, f"/openapi/v3/{name}")) == without_words(recorded)


@pytest.mark.skipif(not GOLDEN.exists(), reason="no recorded documents of kube-apiserver here (KAA_GOLDEN)")
def test_the_index_lists_what_kube_apiserver_lists(openapi: OpenAPI) -> None:
    assert paths(openapi) == json.loads((GOLDEN / "index.json").read_bytes())["paths"]


# ---------------------------------------------------------------------------------------------------- asking


def test_a_client_gets_the_encoding_it_accepts(openapi: OpenAPI) -> None:
    packed, plain = (
        openapi.document("/openapi/v3/apis/batch/v1", "", "gzip, br"),
        openapi.document("/openapi/v3/apis/batch/v1"),
    )
    assert packed is not None
    assert plain is not None
    assert (packed.encoding, plain.encoding) == ("gzip", "")
    assert gzip.decompress(packed.body) == plain.body
    assert packed.etag == plain.etag


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/yaml, application/*;q=0.5", "application/json"),
        (PROTOBUF, PROTOBUF.replace("@", ".")),
        (PROTOBUF.replace("@", "."), PROTOBUF.replace("@", ".")),
        (f"application/json;q=0.1, {PROTOBUF}", PROTOBUF.replace("@", ".")),
    ],
)
def test_v2_comes_as_json_or_protobuf(openapi: OpenAPI, accept: str, kind: str) -> None:
    found = openapi.document("/openapi/v2", accept)
    assert found is not None
    assert found.content_type == kind
    assert found.body.startswith(b"{") == (kind == "application/json")


@pytest.mark.parametrize(
    ("path", "accept"), [("/openapi/v2", "text/html"), ("/openapi/v3", PROTOBUF), ("/openapi/v3/api", "a/b")]
)
def test_other_forms_are_not_acceptable(openapi: OpenAPI, path: str, accept: str) -> None:
    with pytest.raises(NotAcceptable):
        openapi.document(path, accept)


def test_nothing_is_loaded_until_a_document_is_asked_for() -> None:
    code = "import sys, kaa.apiserver.openapi as o; o.OpenAPI(); print([m for m in sys.modules if 'openapi.' in m])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": "src"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "['kaa.apiserver.openapi.documents']"


def test_descriptions_come_from_a_package_that_may_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    with_words = read(OpenAPI(), "/openapi/v3/apis/policy/v1")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    bare = read(OpenAPI(), "/openapi/v3/apis/policy/v1")
    name = "io.k8s.api.policy.v1.PodDisruptionBudget"
    assert "description" in with_words["components"]["schemas"][name]
    assert "description" not in bare["components"]["schemas"][name]
    assert without_words(bare["paths"]) == without_words(with_words["paths"])


# ---------------------------------------------------------------------------------------------------- custom resources


def test_custom_resources_come_and_go() -> None:
    openapi = OpenAPI()
    kept, index = openapi.document("/openapi/v3/apis/node.k8s.io/v1"), openapi.document("/openapi/v3")
    openapi.serve([CustomSchema(CRON_TAB, SCHEMA)])
    first, changed = openapi.document("/openapi/v3/apis/stable.example.com/v1"), openapi.document("/openapi/v3")
    openapi.serve([CustomSchema(CRON_TAB)])
    second = openapi.document("/openapi/v3/apis/stable.example.com/v1")
    assert first is not None
    assert second is not None
    assert first.etag != second.etag
    assert index != changed
    assert openapi.document("/openapi/v3/apis/node.k8s.io/v1") == kept
    openapi.serve([])
    assert openapi.document("/openapi/v3/apis/stable.example.com/v1") is None
    assert openapi.document("/openapi/v3") == index


def test_what_looks_like_a_reference_in_a_custom_schema_is_left_alone() -> None:
    spec = {"type": "object", "default": {"$ref": "#/components/schemas/no.such.Thing"}, "description": '"$ref":"x"'}
    openapi = OpenAPI()
    openapi.serve([CustomSchema(CRON_TAB, {"type": "object", "properties": {"spec": spec}})])
    document = read(openapi, "/openapi/v3/apis/stable.example.com/v1")
    assert document["components"]["schemas"]["com.example.stable.v1.CronTab"]["properties"]["spec"] == spec


@pytest.mark.parametrize(
    ("accept", "encoding"), [("gzip;q=0", ""), ("*", "gzip"), ("br", ""), ("br, gzip;q=0.5", "gzip")]
)
def test_gzip_is_used_when_it_is_welcome(openapi: OpenAPI, accept: str, encoding: str) -> None:
    found = openapi.document("/openapi/v3/version", "", accept)
    assert found is not None
    assert found.encoding == encoding


def test_a_custom_resource_is_documented() -> None:
    openapi = OpenAPI()
    openapi.serve([CustomSchema(CRON_TAB, SCHEMA)])
    document = read(openapi, "/openapi/v3/apis/stable.example.com/v1")
    root = "/apis/stable.example.com/v1"
    place = f"{root}/namespaces/{{namespace}}/crontabs"
    one = f"{place}/{{name}}"
    assert set(document["paths"]) == {f"{root}/", f"{root}/crontabs", place, one, f"{one}/status", f"{one}/scale"}
    assert document["paths"][one]["patch"]["operationId"] == "patchStableExampleComV1NamespacedCronTab"
    assert set(document["paths"][one]["put"]["requestBody"]["content"]) == {"application/json", "application/yaml"}
    kind = document["components"]["schemas"]["com.example.stable.v1.CronTab"]
    assert set(kind["properties"]) == {"apiVersion", "kind", "metadata", "spec"}
    said = {name: inner["description"] for name, inner in kind["properties"].items() if name != "spec"}
    assert {name: words.partition(".")[0] for name, words in said.items()} == {
        "apiVersion": "APIVersion defines the versioned schema of this representation of an object",
        "kind": "Kind is a string value representing the REST resource this object represents",
        "metadata": "Standard object's metadata",
    }
    assert kind["x-kubernetes-group-version-kind"] == [
        {"group": "stable.example.com", "kind": "CronTab", "version": "v1"}
    ]
    assert set(kind["properties"]["spec"]["properties"]["template"]["properties"]) == {"apiVersion", "kind", "metadata"}
    assert "com.example.stable.v1.CronTabList" in document["components"]["schemas"]
    assert "com.example.stable.v1.CronTab" in read(openapi, "/openapi/v2")["definitions"]


def test_v2_says_no_more_of_a_schema_than_it_can() -> None:
    assert schema_v2(SPEC) == {
        "type": "object",
        "required": ["when"],
        "properties": {
            "when": {"type": "string"},
            "maybe": {},
            "template": {"type": "object", "x-kubernetes-embedded-resource": True},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
            "port": {"x-kubernetes-int-or-string": True},
        },
    }
