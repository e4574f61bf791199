"""What a definition's OpenAPI schema must look like: structural, with defaults that keep to it.

Source: apiextensions-apiserver pkg/apiserver/schema/{validation,complete}.go, schema/defaulting/validation.go,
pkg/apis/apiextensions/validation (ValidateCustomResourceDefinitionOpenAPISchema).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from kaa.api import fields, scheme
from kaa.api.fields import FieldError, Path
from kaa.api.types.apiextensions_v1 import JSONSchemaProps

from .field_paths import field_at

_TYPES = ("array", "boolean", "integer", "number", "object", "string")
_META = ("apiVersion", "kind", "metadata")
_ROOT, _ITEM, _FIELD = "at the root", "for specified array items", "for specified object fields"
_INT_OR_STRING = (JSONSchemaProps(type="integer"), JSONSchemaProps(type="string"))


def schema_faults(schema: JSONSchemaProps, path: Path) -> list[FieldError]:
    """The faults of a version's whole schema. Defaults are looked at in a structural one only."""
    found = []
    if schema.nullable:
        found.append(fields.forbidden(path.child("nullable"), "nullable cannot be true at the root"))
    structural = sorted({*_invariants(schema, path, _ROOT), *_completeness(schema, path)}, key=str)
    found += structural or _defaults(schema, path)
    return [*found, *_keywords(schema, path, root=True)]


#: the fields that a root may have when its status is written apart, as Go names them
_AT_ROOT = (
    "Description", "Type", "Format", "Title", "Maximum", "ExclusiveMaximum", "Minimum", "ExclusiveMinimum", "MaxLength",
    "MinLength", "Pattern", "MaxItems", "MinItems", "UniqueItems", "MultipleOf", "Required", "Items", "Properties",
    "ExternalDocs", "Example", "XPreserveUnknownFields", "XValidations",
)  # fmt: skip
_WIRE = {"XPreserveUnknownFields": "x-kubernetes-preserve-unknown-fields", "XValidations": "x-kubernetes-validations"}
_WIRE_AT_ROOT = frozenset(_WIRE.get(name, name[0].lower() + name[1:]) for name in _AT_ROOT)


def root_faults(schema: JSONSchemaProps, path: Path) -> list[FieldError]:
    """What the root may say beside a status subresource: no more than holds when the status is taken out of it."""
    plain = scheme.to_builtins(schema)
    if schema.type and schema.type != "object":
        detail = 'only "object" is allowed as the type at the root of the schema if the status subresource is enabled'
        return [fields.invalid(path.child("type"), schema.type, detail)]
    if not {name for name, value in plain.items() if value} - _WIRE_AT_ROOT:
        return []
    listed = " ".join(_AT_ROOT)
    detail = f"only [{listed}] fields are allowed at the root of the schema if the status subresource is enabled"
    return [fields.invalid(path, plain, detail)]


# ------------------------------------------------------------------------------------------------------- invariants


def _invariants(schema: JSONSchemaProps, path: Path, level: str) -> Iterator[FieldError]:
    if schema.type == "array" and schema.items is None:
        yield fields.required(path.child("items"), "must be specified")
    if schema.additional_properties is not None and level == _ROOT:
        yield fields.forbidden(path.child("additionalProperties"), "must not be used at the root")
    for inner, at, name in _below(schema, path):
        yield from _invariants(inner, at, _ITEM if name == "items" else _FIELD)
    if schema.x_kubernetes_int_or_string:
        yield from _int_or_string(schema, path)
    yield from _value_checks(
        schema, path, any_type=schema.any_of == _INT_OR_STRING, first=_first_is_int_or_string(schema)
    )
    yield from _type(schema, path, level)
    yield from _of_objects(schema, path, level)


def _below(schema: JSONSchemaProps, path: Path) -> Iterator[tuple[JSONSchemaProps, Path, str]]:
    """The schemas that say what lies below: (schema, its path, the keyword that holds it)."""
    if isinstance(schema.items, JSONSchemaProps):
        yield schema.items, path.child("items"), "items"
    for name in sorted(schema.properties):
        yield schema.properties[name], path.child("properties").key(name), "properties"
    if isinstance(schema.additional_properties, JSONSchemaProps):
        yield schema.additional_properties, path.child("additionalProperties"), "additionalProperties"


def every_schema(schema: JSONSchemaProps) -> Iterator[JSONSchemaProps]:
    """A schema and those in it, also those that only check values."""
    yield schema
    more = (inner for inner, _, _ in _below(schema, Path()))
    for inner in (*more, *schema.all_of, *schema.any_of, *schema.one_of, *filter(None, (schema.not_,))):
        yield from every_schema(inner)


def _int_or_string(schema: JSONSchemaProps, path: Path) -> Iterator[FieldError]:
    detail = "must be false if x-kubernetes-int-or-string is true"
    if schema.x_kubernetes_preserve_unknown_fields:
        yield fields.invalid(path.child("x-kubernetes-preserve-unknown-fields"), True, detail)
    if schema.x_kubernetes_embedded_resource:
        yield fields.invalid(path.child("x-kubernetes-embedded-resource"), True, detail)


def _first_is_int_or_string(schema: JSONSchemaProps) -> bool:
    return bool(schema.all_of) and schema.all_of[0].any_of == _INT_OR_STRING


def _type(schema: JSONSchemaProps, path: Path, level: str) -> Iterator[FieldError]:
    at = path.child("type")
    if schema.x_kubernetes_embedded_resource and schema.type != "object":
        yield _wanted(at, schema.type, "must be object if x-kubernetes-embedded-resource is true")
    elif not schema.type and not schema.x_kubernetes_int_or_string and not schema.x_kubernetes_preserve_unknown_fields:
        yield fields.required(at, f"must not be empty {level}")
    if level == _ROOT and schema.type and schema.type != "object":
        yield fields.invalid(at, schema.type, "must be object at the root")


def _wanted(path: Path, given: str | None, detail: str) -> FieldError:
    return fields.invalid(path, given, detail) if given else fields.required(path, detail)


def _of_objects(schema: JSONSchemaProps, path: Path, level: str) -> Iterator[FieldError]:
    """What whole objects have, at the root and in embedded ones: kind, apiVersion, metadata."""
    embedded = bool(schema.x_kubernetes_embedded_resource)
    if embedded and schema.additional_properties is not None:
        detail = "must not be used if x-kubernetes-embedded-resource is set"
        yield fields.forbidden(path.child("additionalProperties"), detail)
    if embedded and not schema.x_kubernetes_preserve_unknown_fields and not schema.properties:
        detail = (
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields"
        )
        yield fields.required(path.child("properties"), detail)
    if not embedded and level != _ROOT:
        return
    for name, wanted in (("kind", "string"), ("apiVersion", "string"), ("metadata", "object")):
        given = schema.properties.get(name)
        if given is not None and given.type != wanted:
            at = path.child("properties").key(name).child("type")
            yield fields.invalid(at, given.type or "", f"must be {wanted}")
    metadata = schema.properties.get("metadata")
    if level == _ROOT and metadata is not None and not _only_names(metadata):
        detail = "must not specify anything other than name and generateName, but metadata is implicitly specified"
        yield fields.forbidden(path.child("properties").key("metadata"), detail)


def _only_names(metadata: JSONSchemaProps) -> bool:
    names = metadata.properties if set(metadata.properties) <= {"name", "generateName"} else {}
    return metadata == JSONSchemaProps(type=metadata.type, default=metadata.default, properties=names)


def _value_checks(
    schema: JSONSchemaProps, path: Path, *, any_type: bool = False, first: bool = False
) -> Iterator[FieldError]:
    """``any_type`` and ``first``: anyOf, or that of the first allOf, says integer or string, which is allowed to name types."""
    if not any_type:
        for n, part in enumerate(schema.any_of):
            yield from _nested(part, path.child("anyOf").index(n))
    for n, part in enumerate(schema.all_of):
        yield from _nested(part, path.child("allOf").index(n), any_type=first and n == 0)
    for n, part in enumerate(schema.one_of):
        yield from _nested(part, path.child("oneOf").index(n))
    if schema.not_ is not None:
        yield from _nested(schema.not_, path.child("not"))
    if schema.pattern and (error := _regex_error(schema.pattern)):
        detail = f"must be a valid regular expression, but isn't: {error}"
        yield fields.invalid(path.child("pattern"), schema.pattern, detail)


def _regex_error(pattern: str) -> str:
    from kaa.api.cel.regex import BadPattern, compiled  # only definitions with patterns pay for it

    try:
        compiled(pattern)
    except BadPattern as err:
        return str(err)
    return ""


def _nested(schema: JSONSchemaProps, path: Path, *, any_type: bool = False) -> Iterator[FieldError]:
    """Inside allOf, anyOf, oneOf and not there may be checks of values alone."""
    yield from _value_checks(schema, path, any_type=any_type)
    if isinstance(schema.items, JSONSchemaProps):
        yield from _nested(schema.items, path.child("items"))
    for name in sorted(schema.properties):
        yield from _nested(schema.properties[name], path.child("properties").key(name))
    for wire, given, state in (
        ("type", schema.type, "empty"),
        ("additionalProperties", schema.additional_properties is not None, "undefined"),
        ("default", schema.default is not None, "undefined"),
        ("title", schema.title, "empty"),
        ("description", schema.description, "empty"),
        ("nullable", schema.nullable, "false"),
        ("externalDocs", schema.external_docs, "undefined"),
        ("x-kubernetes-preserve-unknown-fields", schema.x_kubernetes_preserve_unknown_fields, "false"),
        ("x-kubernetes-embedded-resource", schema.x_kubernetes_embedded_resource, "false"),
        ("x-kubernetes-int-or-string", schema.x_kubernetes_int_or_string, "false"),
        ("x-kubernetes-list-map-keys", schema.x_kubernetes_list_map_keys, "empty"),
        ("x-kubernetes-list-type", schema.x_kubernetes_list_type is not None, "undefined"),
        ("x-kubernetes-map-type", schema.x_kubernetes_map_type is not None, "undefined"),
        ("x-kubernetes-validations", schema.x_kubernetes_validations, "empty"),
    ):
        if given:
            yield fields.forbidden(path.child(wire), f"must be {state} to be structural")
    if "metadata" in schema.properties:
        yield fields.forbidden(path.child("properties").key("metadata"), "must not be specified in a nested context")


# ----------------------------------------------------------------------------------------------------- completeness


def _completeness(schema: JSONSchemaProps, path: Path) -> Iterator[FieldError]:
    """Whatever is checked inside allOf, anyOf, oneOf and not is specified outside of them too."""
    yield from _junctors(schema, schema, path, path)
    for inner, at, _ in _below(schema, path):
        yield from _completeness(inner, at)


def _junctors(checks: JSONSchemaProps, outer: JSONSchemaProps, path: Path, here: Path) -> Iterator[FieldError]:
    for wire, listed in (("allOf", checks.all_of), ("anyOf", checks.any_of), ("oneOf", checks.one_of)):
        for n, part in enumerate(listed):
            yield from _specified(part, outer, path, here.child(wire).index(n))
    if checks.not_ is not None:
        yield from _specified(checks.not_, outer, path, here.child("not"))


def _specified(checks: JSONSchemaProps, outer: JSONSchemaProps, path: Path, here: Path) -> Iterator[FieldError]:
    yield from _junctors(checks, outer, path, here)
    if isinstance(checks.items, JSONSchemaProps):
        if isinstance(outer.items, JSONSchemaProps):
            yield from _specified(checks.items, outer.items, path.child("items"), here.child("items"))
        else:
            yield fields.required(path.child("items"), f"because it is defined in {here.child('items')}")
    for name in sorted(checks.properties):
        at, there = path.child("properties").key(name), here.child("properties").key(name)
        if name in outer.properties:
            yield from _specified(checks.properties[name], outer.properties[name], at, there)
        else:
            yield fields.required(at, f"because it is defined in {there}")


# --------------------------------------------------------------------------------------------------------- defaults


def _defaults(schema: JSONSchemaProps, path: Path, *, root: bool = True) -> list[FieldError]:
    """Each default has no unknown fields and keeps to its own schema. Those of metadata are forbidden elsewhere."""
    found: list[FieldError] = []
    if schema.default is not None:
        found += _default(schema, path.child("default"))
    for inner, at, keyword in _below(schema, path):
        of_objects = root and keyword == "properties" and str(at).endswith(tuple(f"[{name}]" for name in _META))
        if keyword != "additionalProperties" and not of_objects:
            found += _defaults(inner, at, root=bool(inner.x_kubernetes_embedded_resource))
    return found


def _default(schema: JSONSchemaProps, path: Path) -> list[FieldError]:
    from ...custom.embedded import embedded_faults
    from ...custom.structural import Structural
    from ...custom.validation import checker, list_checker

    plain = scheme.to_builtins(schema)
    found = []
    if Structural(plain).pruned(schema.default, "", []) != schema.default:
        found.append(fields.invalid(path, schema.default, "must not have unknown fields"))
    held = embedded_faults(plain)
    wrong: list[FieldError] = []
    if held is not None:
        held(schema.default, str(path), wrong)
    if not wrong:
        checker(plain)(schema.default, str(path), wrong)
    if not wrong and (lists := list_checker(plain)) is not None:
        lists(schema.default, str(path), wrong)
    return found + (wrong or _broken_rules(plain, schema.default, path))


def _broken_rules(schema: Mapping[str, Any], value: Any, path: Path) -> list[FieldError]:
    if b'"x-kubernetes-validations":' not in msgspec.json.encode(schema):
        return []
    from ...validation.schema_rules import ABSENT, Budget, place_of

    place = place_of(schema)
    return list(place.faults(value, ABSENT, str(path), Budget())) if place is not None else []


# --------------------------------------------------------------------------------------------------------- keywords


def _keywords(
    schema: JSONSchemaProps, path: Path, *, root: bool = False, barred: str = "", meta: bool = False
) -> Iterator[FieldError]:
    """What each schema may say, here and below. ``barred``: why there may be no default; ``meta``: inside metadata."""
    if schema.type and schema.type not in _TYPES:
        yield fields.not_supported(path.child("type"), schema.type, _TYPES)
    if schema.default is not None and barred:
        yield fields.forbidden(path.child("default"), f"must not be set {barred}")
    yield from _not_supported(schema, path)
    if meta and schema.x_kubernetes_embedded_resource:
        yield fields.forbidden(path.child("x-kubernetes-embedded-resource"), "must not be used inside of resource meta")
    if schema.unique_items:
        detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
        yield fields.forbidden(path.child("uniqueItems"), detail)
    if schema.properties and schema.additional_properties not in (None, True):
        detail = "additionalProperties and properties are mutual exclusive"
        yield fields.forbidden(path.child("additionalProperties"), detail)
    yield from _keywords_below(schema, path, root, barred, meta)
    yield from _kubernetes_types(schema, path)
    yield from _rules(schema, path)


def _not_supported(schema: JSONSchemaProps, path: Path) -> Iterator[FieldError]:
    for wire, given in (
        ("id", schema.id),
        ("additionalItems", schema.additional_items is not None),
        ("patternProperties", schema.pattern_properties),
        ("definitions", schema.definitions),
        ("dependencies", schema.dependencies),
        ("$ref", schema.ref is not None),
    ):
        if given:
            yield fields.forbidden(path.child(wire), f"{wire} is not supported")
    if schema.type == "null":
        yield fields.forbidden(path.child("type"), "type cannot be set to null, use nullable as an alternative")
    if isinstance(schema.items, tuple) and schema.items:
        yield fields.forbidden(path.child("items"), "items must be a schema object and not an array")


def _keywords_below(schema: JSONSchemaProps, path: Path, root: bool, barred: str, meta: bool) -> Iterator[FieldError]:
    for inner, at, keyword in _below(schema, path):
        why, inside = barred, meta
        if keyword == "additionalProperties" and meta:
            why = "inside additionalProperties applying to object metadata"
        elif keyword == "properties" and (root or schema.x_kubernetes_embedded_resource):
            name = str(at).rpartition("[")[2].removesuffix("]")
            inside = meta or name in _META
            why = f"in top-level {name}" if root and name in _META else barred
        yield from _keywords(inner, at, barred=why, meta=inside)
    for wire, listed in (("allOf", schema.all_of), ("oneOf", schema.one_of), ("anyOf", schema.any_of)):
        for n, part in enumerate(listed):
            yield from _keywords(part, path.child(wire).index(n), barred=barred, meta=meta)
    if schema.not_ is not None:
        yield from _keywords(schema.not_, path.child("not"), barred=barred, meta=meta)


def _kubernetes_types(schema: JSONSchemaProps, path: Path) -> Iterator[FieldError]:
    if schema.x_kubernetes_preserve_unknown_fields is False:
        yield fields.invalid(path.child("x-kubernetes-preserve-unknown-fields"), False, "must be true or undefined")
    map_type, kind = schema.x_kubernetes_map_type, schema.x_kubernetes_list_type
    if map_type is not None and schema.type != "object":
        yield _wanted(path.child("type"), schema.type, "must be object if x-kubernetes-map-type is specified")
    if map_type is not None and map_type not in ("atomic", "granular"):
        yield fields.not_supported(path.child("x-kubernetes-map-type"), map_type, ("atomic", "granular"))
    if kind is not None and schema.type != "array":
        yield _wanted(path.child("type"), schema.type, "must be array if x-kubernetes-list-type is specified")
    elif kind == "set" and isinstance(schema.items, JSONSchemaProps):
        yield from _set_items(schema.items, path.child("items"))
    if kind is not None and kind not in ("atomic", "set", "map"):
        yield fields.not_supported(path.child("x-kubernetes-list-type"), kind, ("atomic", "set", "map"))
    if schema.x_kubernetes_list_map_keys and kind != "map":
        detail = "must be map if x-kubernetes-list-map-keys is non-empty"
        yield _wanted(path.child("x-kubernetes-list-type"), kind, detail)
    if kind == "map":
        yield from _keyed_list(schema, path)
    if kind in ("set", "map") and isinstance(schema.items, JSONSchemaProps) and schema.items.nullable:
        detail = f"cannot be nullable when x-kubernetes-list-type is {kind}"
        yield fields.forbidden(path.child("items", "nullable"), detail)


def _set_items(items: JSONSchemaProps, path: Path) -> Iterator[FieldError]:
    detail = "must be atomic as item of a list with x-kubernetes-list-type=set"
    inner = items.x_kubernetes_list_type
    if items.type == "array" and inner not in (None, "atomic"):
        yield fields.invalid(path.child("x-kubernetes-list-type"), inner, detail)
    if items.type == "object" and items.x_kubernetes_map_type != "atomic":
        yield fields.invalid(path.child("x-kubernetes-map-type"), inner, detail)


def _keyed_list(schema: JSONSchemaProps, path: Path) -> Iterator[FieldError]:
    keys, items = schema.x_kubernetes_list_map_keys, schema.items
    at = path.child("x-kubernetes-list-map-keys")
    if not keys:
        yield fields.required(at, "must not be empty if x-kubernetes-list-type is map")
    if items is None:
        yield fields.required(path.child("items"), "must have a schema if x-kubernetes-list-type is map")
    if not isinstance(items, JSONSchemaProps):
        return
    if items.type != "object":
        detail = "must be object if parent array's x-kubernetes-list-type is map"
        yield fields.invalid(path.child("items", "type"), items.type or "", detail)
        return
    for n, key in enumerate(keys):
        if key not in items.properties:
            yield fields.invalid(at, list(keys), "entries must all be names of item properties")
        if key in keys[:n]:
            yield fields.invalid(at, list(keys), "must not contain duplicate entries")
    for key in keys:
        if key in items.properties:
            yield from _key(items.properties[key], key in items.required, path.child("items", "properties").key(key))


def _key(schema: JSONSchemaProps, required: bool, path: Path) -> Iterator[FieldError]:
    """A property by which the items of a keyed list are told apart."""
    if schema.type in ("array", "object"):
        detail = "must be a scalar type if parent array's x-kubernetes-list-type is map"
        yield fields.invalid(path.child("type"), "object", detail)
    if not required and schema.default is None:
        detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"
        yield fields.required(path.child("default"), detail)
    if schema.nullable:
        detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable"
        yield fields.forbidden(path.child("nullable"), detail)


# ------------------------------------------------------------------------------------------------------------ rules

_REASONS = ("FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired")


def _rules(schema: JSONSchemaProps, path: Path) -> Iterator[FieldError]:
    """What is said about rules; whether they compile is looked at where CEL is."""
    for n, rule in enumerate(schema.x_kubernetes_validations):
        at = path.child("x-kubernetes-validations").index(n)
        text, message, where = rule.rule.strip(), rule.message or "", rule.field_path or ""
        if not text:
            yield fields.required(at.child("rule"), "rule is not specified")
        elif message and not message.strip():
            yield fields.invalid(at.child("message"), message, "message must be non-empty if specified")
        elif _has_breaks(message.strip()):
            yield fields.invalid(at.child("message"), message, "message must not contain line breaks")
        elif _has_breaks(text) and not message.strip():
            yield fields.required(at.child("message"), "message must be specified if rule contains line breaks")
        if rule.message_expression and not rule.message_expression.strip():
            yield fields.required(at.child("messageExpression"), "messageExpression must be non-empty if specified")
        if rule.reason is not None and rule.reason not in _REASONS:
            yield fields.not_supported(at.child("reason"), rule.reason, _REASONS)
        if where and not where.strip():
            yield fields.invalid(at.child("fieldPath"), where, "fieldPath must be non-empty if specified")
        if _has_breaks(where):
            yield fields.invalid(at.child("fieldPath"), where, "fieldPath must not contain line breaks")
        if where and isinstance(field_at(schema, where), str):
            yield fields.invalid(at.child("fieldPath"), where, "fieldPath must be a valid path")


def _has_breaks(text: str) -> bool:
    return "\n" in text or "\r" in text
