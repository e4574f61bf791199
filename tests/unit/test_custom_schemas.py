"""Schemas of custom resources: what is dropped, what is filled in, and what is refused in which words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaa.api.fields import FieldError, Path
from kaa.api.jsonpath import JSONPathError, compile_path
from kaa.apiserver.custom.structural import Structural
from kaa.apiserver.custom.validation import checker, list_checker
from kaa.apiserver.validation.schema_rules import ABSENT, Budget, place_of, rule_faults

TEXT = {"type": "string"}


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


# ---------------------------------------------------------------------------------------------------------- pruning


@pytest.mark.parametrize(
    ("schema", "value", "left", "unknown"),
    [
        (of(a=TEXT), {"a": "1", "b": 2}, {"a": "1"}, ["b"]),
        (of(a=of(b=TEXT)), {"a": {"c": 1}}, {"a": {}}, ["a.c"]),
        (of(a={"type": "array", "items": of(b=TEXT)}), {"a": [{"c": 1}, {"b": "x"}]}, {"a": [{}, {"b": "x"}]}, ["a[0].c"]),
        (of(a={"type": "object", "additionalProperties": of(b=TEXT)}), {"a": {"k": {"c": 1}}}, {"a": {"k": {}}}, ["a.k.c"]),
        (of(a={"type": "object", "additionalProperties": True}), {"a": {"k": {"c": 1}}}, {"a": {"k": {"c": 1}}}, []),
        (of(a={"type": "object", "x-kubernetes-preserve-unknown-fields": True, "properties": {"b": of(c=TEXT)}}),
         {"a": {"z": 1, "b": {"y": 1}}}, {"a": {"z": 1, "b": {}}}, ["a.b.y"]),
        (of(a={"type": "object", "x-kubernetes-embedded-resource": True}),
         {"a": {"kind": "K", "apiVersion": "v1", "metadata": {"name": "n", "x": 1}, "spec": {}}},
         {"a": {"kind": "K", "apiVersion": "v1", "metadata": {"name": "n"}}}, ["a.metadata.x", "a.spec"]),
        (of(a=TEXT, b={**TEXT, "nullable": True}, c={**TEXT, "default": "x"}, m={"type": "object", "additionalProperties": TEXT}),
         {"a": None, "b": None, "c": None, "m": {"k": None}}, {"b": None, "c": None, "m": {"k": None}}, []),
        (of(a={"x-kubernetes-int-or-string": True}), {"a": 1}, {"a": 1}, []),
    ],
)  # fmt: skip
def test_what_the_schema_does_not_know_goes(schema: Any, value: Any, left: Any, unknown: list[str]) -> None:
    found: list[str] = []
    assert Structural(schema).pruned(value, "", found) == left
    assert found == unknown


@pytest.mark.parametrize(
    ("schema", "value", "filled"),
    [
        (of(a={**TEXT, "default": "x"}), {}, {"a": "x"}),
        (of(a={**TEXT, "default": "x"}), {"a": None}, {"a": "x"}),
        (of(a={**TEXT, "default": "x", "nullable": True}), {"a": None}, {"a": None}),
        (of(a=of(b={**TEXT, "default": "x"})), {}, {}),
        (of(a={**of(b={**TEXT, "default": "x"}), "default": {}}), {}, {"a": {"b": "x"}}),
        (of(a={"type": "array", "items": of(b={"type": "integer", "default": 1})}), {"a": [{}, {"b": 2}]}, {"a": [{"b": 1}, {"b": 2}]}),
        (of(a={"type": "object", "additionalProperties": of(b={"type": "integer", "default": 1})}), {"a": {"k": {}}}, {"a": {"k": {"b": 1}}}),
    ],
)  # fmt: skip
def test_defaults_fill_what_is_absent(schema: Any, value: Any, filled: Any) -> None:
    assert Structural(schema).filled(value) == filled


LEAVES = st.sampled_from([TEXT, {**TEXT, "default": "d"}, {"type": "integer", "default": 3}, {"type": "boolean"}])
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(lambda found: of(**found)),
        inner.map(lambda one: {"type": "array", "items": one}),
        inner.map(lambda one: {"type": "object", "additionalProperties": one}),
    ),
    max_leaves=8,
)
VALUES = st.recursive(
    st.sampled_from([None, 1, "x", True]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=10,
)


@given(SCHEMAS, VALUES)
def test_pruning_and_filling_again_change_nothing(schema: Any, value: Any) -> None:
    tree = Structural(schema)
    once = tree.filled(tree.pruned(value, "", []))
    left: list[str] = []
    assert tree.pruned(once, "", left) is once
    assert tree.filled(once) == once
    assert left == []


# ------------------------------------------------------------------------------------------------------- validation


def said(schema: Any, value: Any) -> list[str]:
    found: list[FieldError] = []
    checker(schema)(value, "", found)
    twins = list_checker(schema)
    if twins is not None:
        twins(value, "", found)
    return [str(fault) for fault in found]


@pytest.mark.parametrize(
    ("schema", "value", "words"),
    [
        (of(a={"type": "integer"}), {"a": "1"}, 'a: Invalid value: "string": a in body must be of type integer: "string"'),
        (of(a={"type": "integer"}), {"a": 1.5}, 'a: Invalid value: "number": a in body must be of type integer: "number"'),
        (of(a=TEXT), {"a": None}, 'a: Invalid value: "null": a in body must be of type string: "null"'),
        (of(a={"type": "integer", "minimum": 1}), {"a": 0}, "a: Invalid value: 0: a in body should be greater than or equal to 1"),
        (of(a={"type": "number", "maximum": 1.5, "exclusiveMaximum": True}), {"a": 1.5}, "a: Invalid value: 1.5: a in body should be less than 1.5"),
        (of(a={"type": "integer", "multipleOf": 3}), {"a": 4}, "a: Invalid value: 4: a in body should be a multiple of 3"),
        (of(a={**TEXT, "minLength": 2}), {"a": "x"}, 'a: Invalid value: "x": a in body should be at least 2 chars long'),
        (of(a={**TEXT, "maxLength": 2}), {"a": "xyz"}, "a: Too long: may not be more than 2 bytes"),
        (of(a={**TEXT, "pattern": "^b"}), {"a": "ab"}, "a: Invalid value: \"ab\": a in body should match '^b'"),
        (of(a={**TEXT, "enum": ["x", "y"]}), {"a": "z"}, 'a: Unsupported value: "z": supported values: "x", "y"'),
        (of(a={**TEXT, "format": "date-time"}), {"a": "now"}, 'a: Invalid value: "now": a in body must be of type date-time: "now"'),
        (of(a={**TEXT, "format": "ipv4"}), {"a": "1.2.3"}, 'a: Invalid value: "1.2.3": a in body must be of type ipv4: "1.2.3"'),
        ({**of(a=TEXT), "required": ["a"]}, {}, "a: Required value"),
        (of(a={"type": "array", "items": TEXT, "maxItems": 1}), {"a": ["x", "y"]}, "a: Too many: 2: must have at most 1 items"),
        (of(a={"type": "array", "items": {"type": "integer"}}), {"a": ["x"]}, 'a[0]: Invalid value: "string": a[0] in body must be of type integer: "string"'),
        (of(a={"type": "object", "additionalProperties": TEXT}), {"a": {"k": 1}}, 'a.k: Invalid value: "integer": a.k in body must be of type string: "integer"'),
        (of(a={"x-kubernetes-int-or-string": True}), {"a": True}, 'a: Invalid value: "boolean": a in body must be of type integer,string: "boolean"'),
        (of(a={"type": "array", "items": TEXT, "x-kubernetes-list-type": "set"}), {"a": ["x", "x"]}, 'a[1]: Duplicate value: "x"'),
        (of(a={"type": "array", "items": of(k=TEXT), "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]}),
         {"a": [{"k": "x"}, {"k": "x"}]}, 'a[1]: Duplicate value: {"k":"x"}'),
        (of(a={"not": {"enum": ["x"]}, "type": "string"}), {"a": "x"}, '<nil>: Invalid value: "": "a" must not validate the schema (not)'),
    ],
)  # fmt: skip
def test_refusals(schema: Any, value: Any, words: str) -> None:
    assert said(schema, value) == [words]


INT32, INT64 = {"type": "integer", "format": "int32"}, {"type": "integer", "format": "int64"}
FLOAT, DOUBLE = {"type": "number", "format": "float"}, {"type": "number", "format": "double"}
AS_INT32 = '<nil>: Invalid value: "": {} value must be of type integer with format int32 in a'


@pytest.mark.parametrize(
    ("schema", "value", "words"),
    [
        (INT32, (1 << 31) - 1, []),
        (INT32, 1 << 31, [AS_INT32.format("Checked")]),
        (INT32, -(1 << 31) - 1, [AS_INT32.format("Checked")]),
        ({**INT32, "maximum": 4294967295}, 64512, [AS_INT32.format("Maximum boundary")]),
        ({**INT32, "minimum": -4294967295}, 1, [AS_INT32.format("Minimum boundary")]),
        ({**INT32, "multipleOf": 0.5}, 1, [AS_INT32.format("MultipleOf")]),
        (INT64, (1 << 63) - 1, []),
        (INT64, 1 << 63, ['a: Invalid value: "float64": a in body must be of type int64: "float64"']),
        (INT32, True, ['a: Invalid value: "": a in body must be of type int32: ""']),
        (INT32, 1.5, ['a: Invalid value: "float64": a in body must be of type int32: "float64"']),
        (INT32, "1", ['a: Invalid value: "string": a in body must be of type integer: "string"']),
        ({"type": "integer"}, 1 << 53, []),
        ({"type": "integer"}, float(1 << 53), ['a: Invalid value: "number": a in body must be of type integer: "number"']),
        (FLOAT, 3.5e38, ['<nil>: Invalid value: "": Checked value must be of type number with format float in a']),
        (FLOAT, 3.4e38, []),
        (DOUBLE, 3.5e38, []),
        (DOUBLE, True, ['a: Invalid value: "": a in body must be of type double: ""']),
        ({**TEXT, "format": "date-time"}, 5, ['a: Invalid value: "int64": a in body must be of type date-time: "int64"']),
        ({**TEXT, "format": "date-time"}, [], []),
        ({"type": "number", "format": "int32"}, 1 << 40, []),
    ],
)  # fmt: skip
def test_numbers_are_held_to_their_formats(schema: Any, value: Any, words: list[str]) -> None:
    assert said(of(a=schema), {"a": value}) == words


@pytest.mark.parametrize(
    ("format", "good", "bad"),
    [
        ("bsonobjectid", "507f1f77bcf86cd799439011", "507f1f77"),
        ("byte", "aGk=", ""),
        ("cidr", "10.0.0.0/8", "10.0.0.0/255.0.0.0"),
        ("cidr", "fd00::1/64", "fd00::1"),
        ("creditcard", "4111-1111-1111-1111", "4111-1111-1111-1112"),
        ("date", "2006-01-02", "20060102"),
        ("date-time", "2014-12-15T19:30:20.000Z", "2014-12-15 19:30:20Z"),
        ("date-time", "2014-12-15t19:30:20+01:00", "2014-12-15T24:30:20Z"),
        ("duration", "1h30m", "soon"),
        ("duration", "3 days", "3 moons"),
        ("email", "Ann <ann@example.com>", "ann@@example.com"),
        ("email", "ann@example", "ann"),
        ("hexcolor", "#FFaa00", "#FFaa0"),
        ("hostname", "www.example.com", "www.example.com."),
        ("hostname", "host", "a_b.example.com"),
        ("ipv4", "10.1.2.3", "10.1.2"),
        ("ipv6", "fe80::1", "fe80::1%eth0"),
        ("isbn", "978-0321751041", "978-0321751042"),
        ("isbn10", "0321751043", "0321751044"),
        ("isbn13", "978-0321751041", "0321751043"),
        ("k8s-long-name", "a.b-c", "A.b"),
        ("k8s-short-name", "a-b", "a.b"),
        ("mac", "01:23:45:67:89:ab", "01:23-45:67:89:ab"),
        ("mac", "0123.4567.89ab", "0123.4567"),
        ("rgbcolor", "rgb(255, 0,10)", "rgb(256,0,0)"),
        ("ssn", "111-22-3333", "111-222-333"),
        ("uri", "https://example.com/a?b", "example.com/a"),
        ("uri", "/path", "http://example.com/%zz"),
        ("uuid", "7b4a1f42-0000-0000-0000-1234567890AB", "7b4a1f42"),
        ("uuid4", "7b4a1f42-1c2d-4e5f-8a9b-1234567890ab", "7b4a1f42-1c2d-4e5f-7a9b-1234567890ab"),
        ("uuid5", "7b4a1f42-1c2d-5e5f-8a9b-1234567890ab", "7b4a1f42-1c2d-4e5f-8a9b-1234567890ab"),
    ],
)  # fmt: skip
def test_texts_are_held_to_their_formats(format: str, good: str, bad: str) -> None:
    schema = of(a={**TEXT, "format": format})
    assert said(schema, {"a": good}) == []
    shown = f'a: Invalid value: "{bad}": a in body must be of type {format}: "{bad}"'
    assert said(schema, {"a": bad}) == [shown]


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (of(a={"type": "integer"}), {"a": 2.0}),
        (of(a={**TEXT, "nullable": True}), {"a": None}),
        (of(a={"x-kubernetes-int-or-string": True}), {"a": "50%"}),
        (of(a={**TEXT, "format": "unheard-of"}), {"a": "x"}),
        (of(a={"type": "number", "multipleOf": 0.1}), {"a": 0.3}),
        (of(a={"anyOf": [{"minimum": 5}, {"maximum": 1}], "type": "integer"}), {"a": 7}),
    ],
)
def test_nothing_to_refuse(schema: Any, value: Any) -> None:
    assert said(schema, value) == []


def test_one_of_tells_how_many_were_met() -> None:
    schema = of(a={"type": "integer", "oneOf": [{"minimum": 1}, {"minimum": 2}]})
    assert said(schema, {"a": 3}) == [
        '<nil>: Invalid value: "": "a" must validate one and only one schema (oneOf). Found 2 valid alternatives'
    ]


# ------------------------------------------------------------------------------------------------------------ rules


def broken(schema: Any, value: Any, old: Any = ABSENT) -> list[str]:
    place = place_of(schema)
    assert place is not None
    return [str(fault) for fault in place.faults(value, old, "spec", Budget())]


def ruled(rule: str, **more: Any) -> dict[str, Any]:
    return {**of(a={"type": "integer"}, b={"type": "integer"}), "x-kubernetes-validations": [{"rule": rule, **more}]}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (ruled("self.a < self.b"), ["spec: Invalid value: failed rule: self.a < self.b"]),
        (ruled("self.a < self.b", message="too big"), ["spec: Invalid value: too big"]),
        (ruled("self.a < self.b", messageExpression="'a is %d'.format([self.a])"), ["spec: Invalid value: a is 3"]),
        (ruled("self.a < self.b", reason="FieldValueForbidden", fieldPath=".a"), ["spec.a: Forbidden: failed rule: self.a < self.b"]),
        (ruled("self.a < self.b", reason="FieldValueDuplicate"), ["spec: Duplicate value"]),
        (
            of(a={"type": "integer", "x-kubernetes-validations": [{"rule": "self < 3", "message": "too big"}]}),
            ["spec.a: Invalid value: 3: too big"],
        ),
        (ruled("self.a / 0 == 1"), ["spec: Invalid value: division by zero evaluating rule: self.a / 0 == 1"]),
        (ruled("self.a > self.b"), []),
    ],
)  # fmt: skip
def test_rules(schema: Any, words: list[str]) -> None:
    assert broken(schema, {"a": 3, "b": 2}) == words


def test_rules_of_transitions_run_on_what_stood_before() -> None:
    schema = ruled("self.a >= oldSelf.a", message="never less")
    assert broken(schema, {"a": 1, "b": 0}) == []
    assert broken(schema, {"a": 1, "b": 0}, {"a": 2, "b": 0}) == ["spec: Invalid value: never less"]
    listed = {"type": "array", "items": of(k=TEXT, v={"type": "integer", "x-kubernetes-validations": [{"rule": "self >= oldSelf"}]}),
              "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]}  # fmt: skip
    old = [{"k": "x", "v": 5}, {"k": "y", "v": 1}]
    assert broken(listed, [{"k": "y", "v": 2}, {"k": "x", "v": 4}], old) == [
        "spec[1].v: Invalid value: 4: failed rule: self >= oldSelf"
    ]


def test_an_optional_old_self_runs_on_creation_too() -> None:
    schema = ruled("oldSelf.hasValue() || self.a == 1", optionalOldSelf=True)
    assert broken(schema, {"a": 2, "b": 0}) == ["spec: Invalid value: failed rule: oldSelf.hasValue() || self.a == 1"]
    assert broken(schema, {"a": 2, "b": 0}, {"a": 9, "b": 9}) == []


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("self.c == 1", "undefined field 'c'"),
        ("self.a = 1", "Syntax error"),
        ("self.a", "must evaluate to bool"),
        ("", "rule is not specified"),
    ],
)
def test_rules_of_definitions_must_compile(rule: str, words: str) -> None:
    faults = rule_faults(ruled(rule), Path("schema"))
    assert len(faults) == 1
    assert faults[0].field == "schema.x-kubernetes-validations[0].rule"
    assert words in faults[0].body


def test_rules_of_definitions_may_not_cost_too_much() -> None:
    inner = {"type": "array", "items": {"type": "array", "items": {"type": "array", "items": TEXT}}}
    schema = of(a={**inner, "x-kubernetes-validations": [{"rule": "self.all(x, x.all(y, y.all(z, z.contains('q'))))"}]})
    bodies = [fault.body for fault in rule_faults(schema, Path("schema"))]
    assert any("estimated rule cost exceeds budget by factor of more than 100x" in body for body in bodies)


# --------------------------------------------------------------------------------------------------------- JSONPath

DOCUMENT = {
    "spec": {"a": 1, "b.c": 2, "list": [{"n": "x", "v": 1}, {"n": "y", "v": 2}]},
    "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]},
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (".spec.a", [1]),
        ("{.spec.a}", [1]),
        ("$.spec.a", [1]),
        (".spec.none.deeper", []),
        (".spec['b.c']", [2]),
        (".spec.b\\.c", [2]),
        (".spec.list[0].n", ["x"]),
        (".spec.list[-1].n", ["y"]),
        (".spec.list[5].n", []),
        (".spec.list[*].n", ["x", "y"]),
        (".spec.list[0:1].n", ["x"]),
        (".spec.list[?(@.v>1)].n", ["y"]),
        ('.status.conditions[?(@.type=="Ready")].status', ["True"]),
        (".status.conditions[?(@.type=='None')].status", []),
        ("..status", [DOCUMENT["status"], "True", "False"]),
    ],
)
def test_jsonpath(path: str, found: list[Any]) -> None:
    assert compile_path(path)(DOCUMENT) == found


@pytest.mark.parametrize("path", [".a[", ".a[b]", ".a[?(@.b==c)]", ".a]"])
def test_what_is_no_jsonpath(path: str) -> None:
    with pytest.raises(JSONPathError):
        compile_path(path)
