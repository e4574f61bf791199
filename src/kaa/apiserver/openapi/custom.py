"""Schemas of custom resources: what the definition says, with what every object has."""

from __future__ import annotations

from typing import Any

from kaa.api.resources import Resource

from .schemas import META, Json, definition_of_resource, gvk, reference

_API_VERSION = "The versioned schema of this representation of an object: group/version."
_METADATA = "Standard object metadata."
_KIND = "The resource that this object represents, in CamelCase."


def definitions(resource: Resource[Any], schema: Json | None) -> dict[str, Json]:
    """{definition: schema} of a custom resource's kind and its list."""
    name = definition_of_resource(resource)
    kind = gvk(resource.group, resource.version, resource.kind)
    return {name: _kind(schema, kind), f"{name}List": _list(name, resource, {**kind, "kind": f"{resource.kind}List"})}


def _type_meta() -> Json:
    return {
        "apiVersion": {"type": "string", "description": _API_VERSION},
        "kind": {"type": "string", "description": _KIND},
    }


def _object_properties() -> Json:
    return {**_type_meta(), "metadata": {"allOf": [reference(f"{META}.ObjectMeta")], "description": _METADATA}}


def _kind(schema: Json | None, kind: Json) -> Json:
    """Without a schema nothing is said but that it is an object: kubectl then takes any field."""
    if schema is None:
        return {"type": "object", "x-kubernetes-group-version-kind": [kind]}
    made = embedded(schema)
    made["properties"] = {**made.get("properties", {}), **_object_properties()}
    made["x-kubernetes-group-version-kind"] = [kind]
    return made


def embedded(schema: Json) -> Json:
    """A copy in which every ``x-kubernetes-embedded-resource`` has the fields that all objects have."""
    made = dict(schema)
    if "properties" in made:
        made["properties"] = {wire: embedded(inner) for wire, inner in made["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(made.get(key), dict):
            made[key] = embedded(made[key])
    if made.get("x-kubernetes-embedded-resource"):
        made["properties"] = {**_object_properties(), **made.get("properties", {})}
    return made


def _list(name: str, resource: Resource[Any], kind: Json) -> Json:
    return {
        "type": "object",
        "description": f"{resource.kind}List is a list of {resource.kind}",
        "properties": {
            **_type_meta(),
            "items": {"type": "array", "items": reference(name), "description": f"List of {resource.plural}."},
            "metadata": {"allOf": [reference(f"{META}.ListMeta")]},
        },
        "required": ["items"],
        "x-kubernetes-group-version-kind": [kind],
    }
