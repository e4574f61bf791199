"""Discovery as kube-apiserver writes it, and with custom resources."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from kaa.api.resources import Resource, Subresource
from kaa.apiserver.discovery import Discovery

GOLDEN = Path(os.environ.get("KAA_GOLDEN") or Path(__file__).resolve().parents[3] / "shared/golden/v1.36") / "discovery"
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
RECORDED = sorted(path for path in GOLDEN.glob("*.json") if path.name != "version.json")
WIDGET: Resource[Any] = Resource(
    "example.com", "v1", "widgets", "Widget", True, "widget", ("wd",), ("all",), custom=True,
    subresources=(Subresource("status", "Widget"),),
)  # fmt: skip


def read(discovery: Discovery, path: str, accept: str = "application/json") -> Any:
    found = discovery.document(path, accept)
    assert found is not None
    return json.loads(found[0])


@pytest.mark.skipif(not RECORDED, reason="no recorded documents of kube-apiserver here (KAA_GOLDEN)")
@pytest.mark.parametrize("recorded", RECORDED, ids=lambda path: path.stem)
def test_documents_are_as_kube_apiserver_writes_them(recorded: Path) -> None:
    path = "/" + recorded.name.removesuffix(".json").removesuffix(".aggregated").replace("__", "/")
    accept = AGGREGATED if ".aggregated" in recorded.name else "application/json"
    assert read(Discovery("192.0.2.2:16443"), path, accept) == json.loads(recorded.read_bytes())


def test_an_aggregated_document_has_an_etag_that_follows_its_content() -> None:
    discovery = Discovery()
    first = discovery.document("/apis", AGGREGATED)
    assert first is not None
    assert first[1] == AGGREGATED
    discovery.serve([WIDGET], {"example.com": ("v1",)})
    changed = discovery.document("/apis", AGGREGATED)
    discovery.serve([], {})
    assert changed is not None
    assert changed[2] != first[2]
    assert discovery.document("/apis", AGGREGATED) == first


def test_custom_resources_are_listed_with_their_own_kind() -> None:
    discovery = Discovery()
    discovery.serve([WIDGET], {"example.com": ("v1",)})
    group = read(discovery, "/apis", AGGREGATED)["items"][-1]
    assert group["metadata"] == {"name": "example.com"}
    (resource,) = group["versions"][0]["resources"]
    kind = {"group": "example.com", "version": "v1", "kind": "Widget"}
    assert resource["responseKind"] == kind
    assert [sub["responseKind"] for sub in resource["subresources"]] == [kind]
    names = [entry["name"] for entry in read(discovery, "/apis/example.com/v1")["resources"]]
    assert names == ["widgets", "widgets/status"]


def test_the_preferred_version_stands_first() -> None:
    discovery = Discovery()
    discovery.serve([WIDGET], {"example.com": ("v1", "v1beta1")})
    group = read(discovery, "/apis/example.com")
    assert group["preferredVersion"]["version"] == "v1"
    assert [version["version"] for version in group["versions"]] == ["v1", "v1beta1"]


@pytest.mark.parametrize("path", ["/apis/nothing", "/apis/nothing/v1", "/api/v2", "/apis/apps/v1/deployments"])
def test_there_is_nothing_elsewhere(path: str) -> None:
    assert Discovery().document(path, "application/json") is None


@pytest.mark.parametrize(("version", "wanted"), [("v2", "v2"), ("v2beta1", "v2beta1")])
def test_older_clients_get_the_version_they_know(version: str, wanted: str) -> None:
    accept = AGGREGATED.replace("v=v2", f"v={version}")
    assert read(Discovery(), "/apis", f"{accept},application/json")["apiVersion"] == f"apidiscovery.k8s.io/{wanted}"
