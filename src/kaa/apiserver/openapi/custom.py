"""Schemas of custom resources: what the definition says, with what every object has.

Source: apiextensions-apiserver pkg/controller/openapi/builder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kaa.api.resources import Resource

from .schemas import META, Json, definition_of_resource, gvk, reference

_CONVENTIONS = "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md"

#: {field: what is said of it}
Words = Mapping[str, str]


def definitions(resource: Resource[Any], schema: Json | None, words: Words, list_words: Words) -> dict[str, Json]:
    """{definition: schema} of a custom resource's kind and its list.

    Args:   words: of the fields that every object has; ``list_words``: of those that every list has.
    """
    name = definition_of_resource(resource)
    kind = gvk(resource.group, resource.version, resource.kind)
    of_list = {**kind, "kind": f"{resource.kind}List"}
    return {name: _kind(schema, kind, words), f"{name}List": _list(name, resource, of_list, list_words)}


def _said(schema: Json, words: Words, field: str) -> Json:
    return {**schema, "description": words[field]} if words.get(field) else schema


def _type_meta(words: Words) -> Json:
    return {name: _said({"type": "string"}, words, name) for name in ("apiVersion", "kind")}


def _object_properties(words: Words) -> Json:
    metadata = {"allOf": [reference(f"{META}.ObjectMeta")]}
    return {**_type_meta(words), "metadata": _said(metadata, words, "metadata")}


def _kind(schema: Json | None, kind: Json, words: Words) -> Json:
    """Without a schema nothing is said but that it is an object: kubectl then takes any field."""
    if schema is None:
        return {"type": "object", "x-kubernetes-group-version-kind": [kind]}
    made = embedded(schema, words)
    made["properties"] = {**made.get("properties", {}), **_object_properties(words)}
    made["x-kubernetes-group-version-kind"] = [kind]
    return made


def embedded(schema: Json, words: Words) -> Json:
    """A copy in which every ``x-kubernetes-embedded-resource`` has the fields that all objects have."""
    made = dict(schema)
    if "properties" in made:
        made["properties"] = {wire: embedded(inner, words) for wire, inner in made["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(made.get(key), dict):
            made[key] = embedded(made[key], words)
    if made.get("x-kubernetes-embedded-resource"):
        made["properties"] = {**_object_properties(words), **made.get("properties", {})}
    return made


def _list(name: str, resource: Resource[Any], kind: Json, words: Words) -> Json:
    items = f"List of {resource.plural}. More info: {_CONVENTIONS}"
    return {
        "type": "object",
        "description": f"{resource.kind}List is a list of {resource.kind}",
        "properties": {
            **_type_meta(words),
            "items": {"type": "array", "items": reference(name), "description": items},
            "metadata": _said({"allOf": [reference(f"{META}.ListMeta")]}, words, "metadata"),
        },
        "required": ["items"],
        "x-kubernetes-group-version-kind": [kind],
    }
