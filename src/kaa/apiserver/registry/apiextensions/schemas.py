"""Structural schemas: what a CRD's OpenAPI schema must look like.

Source: apiextensions-apiserver pkg/apiserver/schema/validation.go; concepts "Specifying a structural schema".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from kaa.api import fields
from kaa.api.fields import FieldError, Path
from kaa.api.types.apiextensions_v1 import JSONSchemaProps

_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
_LIST_TYPES = ("atomic", "map", "set")
_MAP_TYPES = ("atomic", "granular")
#: Go RE2 has neither look-around nor back references.
_NOT_RE2 = re.compile(r"\(\?[=!<]|\\[1-9]")


def schema_faults(schema: JSONSchemaProps, path: Path) -> Iterator[FieldError]:
    """The faults of a version's whole schema."""
    if schema.type != "object":
        if schema.type:
            detail = "must be object"
            yield fields.invalid(path.child("type"), schema.type, detail)
        else:
            yield fields.required(path.child("type"), "must not be empty at the root")
    if schema.nullable:
        yield fields.forbidden(path.child("nullable"), "nullable cannot be true at the root")
    yield from _structural(schema, path, root=True)


def _structural(schema: JSONSchemaProps, path: Path, *, root: bool = False) -> Iterator[FieldError]:
    """Every field has a type, unless it is an int-or-string or keeps unknown fields."""
    free = schema.x_kubernetes_int_or_string or schema.x_kubernetes_preserve_unknown_fields
    if not schema.type and not free and not root:
        yield fields.required(path.child("type"), "must not be empty for specified object fields")
    elif schema.type and schema.type not in _TYPES:
        yield fields.not_supported(path.child("type"), schema.type, _TYPES)
    yield from _forbidden(schema, path)
    yield from _extensions(schema, path)
    if schema.pattern and not _compiles(schema.pattern):
        detail = (
            f"must be a valid regular expression, but isn't: error parsing regexp: invalid regexp: `{schema.pattern}`"
        )
        yield fields.invalid(path.child("pattern"), schema.pattern, detail)
    if schema.properties and schema.additional_properties is not None:
        detail = "must not be used in combination with properties" if schema.additional_properties else ""
        yield fields.forbidden(
            path.child("additionalProperties"), detail or "must not be used in combination with properties"
        )
    if schema.type == "array" and schema.items is None:
        yield fields.required(path.child("items"), "must be specified")
    yield from _children(schema, path)


def _forbidden(schema: JSONSchemaProps, path: Path) -> Iterator[FieldError]:
    for wire, value in (
        ("$ref", schema.ref),
        ("definitions", schema.definitions),
        ("dependencies", schema.dependencies),
        ("patternProperties", schema.pattern_properties),
        ("additionalItems", schema.additional_items),
        ("id", schema.id),
    ):
        if value:
            yield fields.forbidden(path.child(wire), f"{wire} is not supported")
    if schema.unique_items:
        detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
        yield fields.forbidden(path.child("uniqueItems"), detail)


def _extensions(schema: JSONSchemaProps, path: Path) -> Iterator[FieldError]:
    kind = schema.x_kubernetes_list_type
    if kind is not None:
        at = path.child("x-kubernetes-list-type")
        if kind not in _LIST_TYPES:
            yield fields.not_supported(at, kind, _LIST_TYPES)
        if schema.type != "array":
            yield fields.invalid(
                path.child("type"), schema.type or "", "must be array if x-kubernetes-list-type is specified"
            )
        if kind == "map" and not schema.x_kubernetes_list_map_keys:
            detail = "must not be empty if x-kubernetes-list-type is map"
            yield fields.required(path.child("x-kubernetes-list-map-keys"), detail)
    if schema.x_kubernetes_list_map_keys and kind != "map":
        at = path.child("x-kubernetes-list-type")
        yield fields.invalid(at, kind, "must be map if x-kubernetes-list-map-keys is non-empty")
    map_type = schema.x_kubernetes_map_type
    if map_type is not None and map_type not in _MAP_TYPES:
        yield fields.not_supported(path.child("x-kubernetes-map-type"), map_type, _MAP_TYPES)
    if schema.x_kubernetes_preserve_unknown_fields is False:
        at = path.child("x-kubernetes-preserve-unknown-fields")
        yield fields.invalid(at, False, "must be true or undefined")
    if schema.x_kubernetes_embedded_resource and schema.type != "object":
        detail = "must be object if x-kubernetes-embedded-resource is true"
        yield fields.invalid(path.child("type"), schema.type or "", detail)
    for n, rule in enumerate(schema.x_kubernetes_validations):
        if not rule.rule.strip():
            yield fields.required(
                path.child("x-kubernetes-validations").index(n).child("rule"), "rule is not specified"
            )


def _compiles(pattern: str) -> bool:
    if _NOT_RE2.search(pattern):
        return False
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _children(schema: JSONSchemaProps, path: Path) -> Iterator[FieldError]:
    for name in sorted(schema.properties):
        yield from _structural(schema.properties[name], path.child("properties").key(name))
    inner: Any = schema.additional_properties
    if isinstance(inner, JSONSchemaProps):
        yield from _structural(inner, path.child("additionalProperties"))
    if isinstance(schema.items, JSONSchemaProps):
        yield from _structural(schema.items, path.child("items"))
    elif schema.items:
        yield fields.forbidden(path.child("items"), "items must be a schema object and not an array")
    for wire, listed in (("allOf", schema.all_of), ("anyOf", schema.any_of), ("oneOf", schema.one_of)):
        for n, part in enumerate(listed):
            yield from _value_only(part, path.child(wire).index(n), schema.x_kubernetes_int_or_string or False)
    if schema.not_ is not None:
        yield from _value_only(schema.not_, path.child("not"), False)


def _value_only(schema: JSONSchemaProps, path: Path, any_type: bool) -> Iterator[FieldError]:
    """Inside allOf, anyOf, oneOf and not there may be checks of values alone."""
    for wire, value in (
        ("type", "" if any_type else schema.type),
        ("description", schema.description),
        ("default", schema.default),
        ("nullable", schema.nullable),
        ("additionalProperties", schema.additional_properties),
    ):
        if value:
            yield fields.forbidden(
                path.child(wire),
                "must be empty to be structural" if wire == "type" else "must be undefined to be structural",
            )
    for name in sorted(schema.properties):
        yield from _value_only(schema.properties[name], path.child("properties").key(name), False)
