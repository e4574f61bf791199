"""What a definition may say: structural schemas, their defaults and rules, selectable fields, columns, stored versions."""

from __future__ import annotations

from typing import Any

import pytest
from custom_lab import definition

from kaa.api import scheme
from kaa.api.types.apiextensions_v1 import CustomResourceDefinition
from kaa.apiserver.registry.apiextensions.customresourcedefinitions import STRATEGY

TEXT = {"type": "string"}
ROOT = "spec.validation.openAPIV3Schema"
SPEC = f"{ROOT}.properties[spec]"
META_ONLY = "must not specify anything other than name and generateName, but metadata is implicitly specified"
KEY = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def listed(items: Any, kind: str = "map", *keys: str) -> dict[str, Any]:
    more = {"x-kubernetes-list-map-keys": list(keys)} if keys else {}
    return {"type": "array", "items": items, "x-kubernetes-list-type": kind, **more}


def ruled(schema: Any, **rule: Any) -> dict[str, Any]:
    return {**schema, "x-kubernetes-validations": [{"rule": "true", **rule}]}


def said(schema: Any, **version: Any) -> list[str]:
    body = definition()
    body["spec"]["versions"] = [
        {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}, **version}
    ]
    obj = scheme.convert(CustomResourceDefinition, body)
    return [str(fault) for fault in STRATEGY.validate(STRATEGY.prepare_create(STRATEGY.default(obj)))]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (of(x={}), f"{SPEC}.properties[x].type: Required value: must not be empty for specified object fields"),
        ({"type": "array", "items": {}}, f"{SPEC}.items.type: Required value: must not be empty for specified array items"),
        ({"type": "array"}, f"{SPEC}.items: Required value: must be specified"),
        (of(a={"anyOf": [{"type": "string"}], **TEXT}), f"{SPEC}.properties[a].anyOf[0].type: Forbidden: must be empty to be structural"),
        ({**of(a=TEXT), "anyOf": [{"properties": {"z": {"minimum": 1}}}]},
         f"{SPEC}.properties[z]: Required value: because it is defined in {SPEC}.anyOf[0].properties[z]"),
        ({"x-kubernetes-int-or-string": True, "x-kubernetes-preserve-unknown-fields": True},
         f"{SPEC}.x-kubernetes-preserve-unknown-fields: Invalid value: true: must be false if x-kubernetes-int-or-string is true"),
        ({"type": "object", "x-kubernetes-embedded-resource": True},
         f"{SPEC}.properties: Required value: must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields"),
        ({"x-kubernetes-embedded-resource": True, "x-kubernetes-preserve-unknown-fields": True},
         f"{SPEC}.type: Required value: must be object if x-kubernetes-embedded-resource is true"),
        ({**TEXT, "pattern": "a("}, f"{SPEC}.pattern: Invalid value: \"a(\": must be a valid regular expression, but isn't: error parsing regexp: missing closing ): `a(`"),
        (of(a={"type": "integer", "default": "x"}),
         f'{SPEC}.properties[a].default: Invalid value: "string": {SPEC}.properties[a].default in body must be of type integer: "string"'),
        ({**of(a=TEXT), "default": {"q": 1}}, f'{SPEC}.default: Invalid value: {{"q":1}}: must not have unknown fields'),
        ({**of(a=TEXT), "additionalProperties": TEXT}, f"{SPEC}.additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive"),
        (listed(of(k=TEXT), "map", "k"), f"{SPEC}.items.properties[k].default: Required value: {KEY}"),
        (listed({**of(k=TEXT), "required": ["k"]}, "map", "q"),
         f'{SPEC}.x-kubernetes-list-map-keys: Invalid value: ["q"]: entries must all be names of item properties'),
        (listed(of(k=TEXT), "map"), f"{SPEC}.x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map"),
        (listed(of(a=TEXT), "set"), f"{SPEC}.items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a list with x-kubernetes-list-type=set"),
        (listed({**TEXT, "nullable": True}, "set"), f"{SPEC}.items.nullable: Forbidden: cannot be nullable when x-kubernetes-list-type is set"),
        (listed(TEXT, "bag"), f'{SPEC}.x-kubernetes-list-type: Unsupported value: "bag": supported values: "atomic", "set", "map"'),
        ({**of(a=TEXT), "x-kubernetes-map-type": "loose"}, f'{SPEC}.x-kubernetes-map-type: Unsupported value: "loose": supported values: "atomic", "granular"'),
        ({"type": "text"}, f'{SPEC}.type: Unsupported value: "text": supported values: "array", "boolean", "integer", "number", "object", "string"'),
        (ruled(of(a=TEXT), message=" "), f'{SPEC}.x-kubernetes-validations[0].message: Invalid value: " ": message must be non-empty if specified'),
        (ruled(of(a=TEXT), rule="true\n|| true"), f"{SPEC}.x-kubernetes-validations[0].message: Required value: message must be specified if rule contains line breaks"),
        (ruled(of(a=TEXT), messageExpression=" "), f"{SPEC}.x-kubernetes-validations[0].messageExpression: Required value: messageExpression must be non-empty if specified"),
        (ruled(of(a=TEXT), reason="No"),
         f'{SPEC}.x-kubernetes-validations[0].reason: Unsupported value: "No": supported values: "FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"'),
        (ruled(of(a=TEXT), fieldPath=".q"), f'{SPEC}.x-kubernetes-validations[0].fieldPath: Invalid value: ".q": fieldPath must be a valid path'),
        (ruled(of(a=TEXT), fieldPath="a"), f'{SPEC}.x-kubernetes-validations[0].fieldPath: Invalid value: "a": fieldPath must be a valid path'),
        (ruled(of(a=TEXT), fieldPath=".a[0]"), f'{SPEC}.x-kubernetes-validations[0].fieldPath: Invalid value: ".a[0]": fieldPath must be a valid path'),
        (ruled(of(a=TEXT), fieldPath="."), f'{SPEC}.x-kubernetes-validations[0].fieldPath: Invalid value: ".": fieldPath must be a valid path'),
        (ruled(of(a=TEXT), optionalOldSelf=True), f"{SPEC}.x-kubernetes-validations[0].optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule"),
        ({"type": "array", "maxItems": 3, "items": ruled({"type": "integer"}, rule="self > oldSelf")},
         f'{SPEC}.items.x-kubernetes-validations[0].rule: Invalid value: "self > oldSelf": oldSelf cannot be used on the uncorrelatable portion of the schema within {SPEC}'),
    ],
)  # fmt: skip
def test_schemas_that_are_refused(spec: Any, words: str) -> None:
    assert said(of(spec=spec)) == [words]


@pytest.mark.parametrize(
    "spec",
    [
        of(a={"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]}),
        of(a={"x-kubernetes-int-or-string": True, "allOf": [{"anyOf": [{"type": "integer"}, {"type": "string"}]}]}),
        {"x-kubernetes-preserve-unknown-fields": True},
        {**of(a=TEXT), "anyOf": [{"required": ["a"]}, {"properties": {"a": {"pattern": "^x"}}}]},
        listed({**of(k=TEXT), "required": ["k"]}, "map", "k"),
        listed(of(k={**TEXT, "default": "x"}), "map", "k"),
        listed({**of(a=TEXT), "x-kubernetes-map-type": "atomic"}, "set"),
        {"type": "object", "x-kubernetes-embedded-resource": True, "x-kubernetes-preserve-unknown-fields": True},
        ruled(of(a={"type": "object", "additionalProperties": TEXT}), fieldPath=".a['b.c']"),
    ],
)
def test_schemas_that_are_taken(spec: Any) -> None:
    assert said(of(spec=spec)) == []


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({}, [f"{ROOT}.type: Required value: must not be empty at the root"]),
        ({"type": "string"}, [f'{ROOT}.type: Invalid value: "string": must be object at the root']),
        (of(metadata=of(labels={"type": "object"})), [f"{ROOT}.properties[metadata]: Forbidden: {META_ONLY}"]),
        (of(metadata=of(name={**TEXT, "maxLength": 5})), []),
        (of(kind={"type": "integer"}), [f'{ROOT}.properties[kind].type: Invalid value: "integer": must be string']),
        (of(kind={**TEXT, "default": "K"}), [f"{ROOT}.properties[kind].default: Forbidden: must not be set in top-level kind"]),
    ],
)  # fmt: skip
def test_the_root_of_a_schema(schema: Any, words: list[str]) -> None:
    assert said(schema) == words


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        ([".spec.a"], []),
        ([".spec.q"], ['jsonPath: Invalid value: ".spec.q": is an invalid path: does not refer to a valid field']),
        (["spec.a"], ['jsonPath: Invalid value: "spec.a": is an invalid path: expected [ or . but got: spec']),
        (
            [".spec['a']"],
            ["jsonPath: Invalid value: \".spec['a']\": is an invalid path: array notation is not allowed"],
        ),
        ([".metadata.name"], ['jsonPath: Invalid value: ".metadata.name": must not point to fields in metadata']),
        (
            [".spec"],
            [
                'jsonPath: Invalid value: ".spec": must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.'
            ],
        ),
        ([".spec.a", ".spec.a"], ['jsonPath: Duplicate value: ".spec.a"']),
    ],
)
def test_selectable_fields(paths: list[str], words: list[str]) -> None:
    found = said(of(spec=of(a=TEXT), metadata=of(name=TEXT)), selectableFields=[{"jsonPath": one} for one in paths])
    assert [one.partition("].")[2] for one in found] == words


def test_columns_and_warnings() -> None:
    column = {"name": "a", "type": "string", "jsonPath": "spec", "format": "odd"}
    assert said(of(spec=TEXT), additionalPrinterColumns=[column], deprecationWarning="old") == [
        'spec.versions[0].deprecationWarning: Invalid value: "old": can only be set for deprecated versions',
        'spec.additionalPrinterColumns[0].format: Invalid value: "odd": must be one of byte,date,date-time,double,float,int32,int64,password',
        'spec.additionalPrinterColumns[0].JSONPath: Invalid value: "spec": must be a simple json path starting with .',
    ]


def test_a_stored_version_must_stay() -> None:
    body = definition()
    body["status"] = {"acceptedNames": {"kind": "", "plural": ""}, "storedVersions": ["v0", "v1"]}
    obj = STRATEGY.default(scheme.convert(CustomResourceDefinition, body))
    assert [str(fault) for fault in STRATEGY.validate(obj)] == [
        'status.storedVersions[0]: Invalid value: "v0": missing from spec.versions; v0 was previously a storage version, and'
        " must remain in spec.versions until a storage migration ensures no data remains persisted in v0 and removes v0 from"
        " status.storedVersions"
    ]
