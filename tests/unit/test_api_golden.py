"""Objects that a real kube-apiserver answered with: every form says the same of them."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kaa.api import cbor, protobuf, scheme

GOLDEN = Path(os.environ.get("KAA_GOLDEN") or Path(__file__).resolve().parents[3] / "shared/golden/v1.36")
#: What an object of the kind loses on its way through protobuf, upstream as here: a claim template's kind.
LOST = ("StatefulSet",)


def objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if value.get("kind") and value.get("apiVersion") and "metadata" in value:
            yield value
        for inner in value.values():
            yield from objects(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from objects(inner)


def recorded() -> list[dict[str, Any]]:
    answers = json.loads((GOLDEN / "answers/answers.json").read_bytes())
    bootstrap = json.loads(gzip.decompress((GOLDEN / "bootstrap/objects.json.gz").read_bytes()))
    return list(objects([[case["answer"] for case in answers], bootstrap]))


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.skipif(not GOLDEN.exists(), reason="no recorded answers of kube-apiserver here (KAA_GOLDEN)")
def test_every_form_says_the_same() -> None:
    found, known = recorded(), 0
    for document in found:
        assert cbor.decode(cbor.encode(document)) == document
        resource = scheme.resource_by_kind(document["apiVersion"], document["kind"])
        if resource is None:
            continue
        known += 1
        inner = {key: value for key, value in document.items() if key not in ("kind", "apiVersion")}
        made = scheme.document(scheme.convert(resource.type, inner))
        assert without_nulls(made) == without_nulls(document)
        if resource.kind not in LOST:
            body = protobuf.encode_document(resource.type, document)
            assert without_nulls(protobuf.document_from_protobuf(body)) == without_nulls(document)
    assert known > 80
