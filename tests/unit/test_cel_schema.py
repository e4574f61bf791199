"""Schemas as CEL types, their values, and the costs that rules over them are estimated and counted at.

Source of the figures: apiextensions-apiserver schema/cel/compilation_test.go (TestCostEstimation),
celcoststability_test.go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from kaa.api.cel import BOOL, CompileError, Environment, EvaluationError, Program
from kaa.api.cel.escaping import escape, unescape
from kaa.api.cel.schema import converter, type_of_schema

Schema = dict[str, Any]


def primitive(kind: str) -> Schema:
    match kind:
        case "int-or-string":
            return {"x-kubernetes-int-or-string": True}
        case "duration" | "date" | "date-time" | "byte":
            return {"type": "string", "format": kind}
    return {"type": kind}


def limited(schema: Schema, **limits: int | None) -> Schema:
    return {**schema, **{key: value for key, value in limits.items() if value is not None}}


def array(kind: str) -> Callable[[int | None], Schema]:
    return lambda most: limited({"type": "array", "items": primitive(kind)}, maxItems=most)


def arrays(kind: str) -> Callable[[int | None], Schema]:
    inner = {"type": "array", "items": primitive(kind)}
    return lambda most: limited({"type": "array", "items": inner}, maxItems=most)


def objects(most: int | None) -> Schema:
    text = {"type": "string"}
    inner = {"type": "object", "properties": {"required": text, "optional": text}, "required": ["required"]}
    return limited({"type": "array", "items": inner}, maxItems=most)


def mapping(kind: str) -> Callable[[int | None], Schema]:
    return lambda most: limited({"type": "object", "additionalProperties": primitive(kind)}, maxProperties=most)


def text(most: int | None) -> Schema:
    return limited({"type": "string"}, maxLength=most)


def base64_text(most: int | None) -> Schema:
    return limited({"type": "string", "format": "byte"}, maxLength=most)


def texts_by_name(most: int | None) -> Schema:
    return limited({"type": "object", "additionalProperties": text(most)}, maxProperties=most)


def enumerated(most: int | None) -> Schema:
    return limited({"type": "string", "enum": ["A", "B", "C", "LongValue"]}, maxLength=most)


def split_object(most: int | None) -> Schema:
    return {"type": "object", "properties": {"str": text(most), "separator": text(most)}}


ESTIMATES: list[tuple[Callable[[int | None], Schema], str, int, int, int]] = [
    (array("number"), "self.all(x, true)", 4718591, 10, 32),
    (array("string"), "self.all(x, true)", 3145727, 20, 62),
    (array("boolean"), "self.all(x, true)", 1887437, 5, 17),
    (arrays("number"), "self.all(x, true)", 3145727, 100, 302),
    (objects, "self.all(x, true)", 555128, 50, 152),
    (mapping("number"), "self.all(x, true)", 1348169, 10, 32),
    (mapping("string"), "self.all(x, true)", 1179647, 3, 11),
    (mapping("boolean"), "self.all(x, true)", 943718, 100, 302),
    (text, "self.contains('test')", 314574, 10, 5),
    (text, "self.startsWith('test')", 2, 15, 2),
    (text, "self.endsWith('test')", 2, 30, 2),
    (text, 'size(self + "hello") > size("hello")', 314578, 4, 7),
    (array("number"), "self[1] == 0.0", 2, 5000, 2),
    (array("string"), "self[1] == self[1]", 314577, 8, 314577),
    (array("number"), "self.all(x, self.all(y, true))", 0, 10, 352),
    (array("number"), "self.all(x, self.all(y, self.all(z, true)))", 0, 10, 3552),
    (text, 'self.matches("x")', 314574, 50, 22),
    (text, '"".matches("(((((((((())))))))))[0-9]")', 7, 10, 7),
    (text, 'self.matches("")', 1, 100, 1),
    (texts_by_name, "self.all(x, x.contains(self[x]))", 2752507, 10, 72),
    (mapping("number"), 'self["x"] == 0.0', 2, 0, 2),
    (text, 'self == "x"', 2, 0, 1),
    (base64_text, 'self == b"x"', 2, 0, 1),
    (array("number"), "self.all(x, x == 0.0)", 6291454, 3 * 1024 * 2048, 25165826),
    (array("int-or-string"), "self.all(x, true)", 4718591, 10, 32),
    (array("int-or-string"), "self[0] == 5", 3, 10, 3),
    (array("boolean"), "self[0] == false", 2, 25, 2),
    (objects, "self[0] == null", 2, 422, 2),
    (arrays("number"), "self[0][0] == -1.0", 3, 51, 3),
    (split_object, "self.str.split(self.separator) == []", 629160, 10, 22),
    (text, "self.lowerAscii() == 'lower!'", 314575, 10, 6),
    (mapping("integer"), "oldSelf.size() == self.size()", 5, 10, 5),
    (mapping("date-time"), 'self["a"] == self["b"]', 8, 7, 8),
    (mapping("duration"), 'self["c"] == self["d"]', 8, 42, 8),
    (enumerated, "self.contains('A')", 2, 1000, 401),
]


@pytest.mark.parametrize(("schema", "rule", "open_cost", "limit", "limited_cost"), ESTIMATES)
def test_estimates_are_upstreams(
    schema: Callable[[int | None], Schema], rule: str, open_cost: int, limit: int, limited_cost: int
) -> None:
    for most, cost in ((None, open_cost), (limit, limited_cost)):
        declared = type_of_schema(schema(most))
        assert declared is not None
        program = Environment({"self": declared, "oldSelf": declared}).compile(rule, BOOL)
        if cost:
            assert program.estimate().maximum == cost


def vals(*values: tuple[Any, Schema]) -> tuple[Schema, dict[str, Any]]:
    """An object with fields val1, val2, …"""
    properties = {f"val{n}": schema for n, (_, schema) in enumerate(values, 1)}
    return {"type": "object", "properties": properties}, {f"val{n}": value for n, (value, _) in enumerate(values, 1)}


def equal_values(one: str, other: str, literal: str) -> str:
    return f"{one} == {other} && {one} == {literal} && {other} == {literal}"


INTEGER, NUMBER, STRING, BOOLEAN = (primitive(kind) for kind in ("integer", "number", "string", "boolean"))
BYTE, DURATION, DATE, DATE_TIME = (primitive(kind) for kind in ("byte", "duration", "date", "date-time"))
INTS = {"type": "array", "items": INTEGER}
SET = {"type": "array", "items": STRING, "x-kubernetes-list-type": "set"}
TEXTS = {"type": "object", "additionalProperties": STRING}
KV = {"type": "object", "properties": {"k": STRING, "v": STRING, "v2": STRING}}
MAP_LIST = {"type": "array", "items": KV, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]}
CHESS = "Rook takes 👑"

COSTS: list[tuple[tuple[Schema, dict[str, Any]], dict[str, int]]] = [
    (
        vals(
            (2**63 - 1, INTEGER), (2**63 - 1, INTEGER), (1, INTEGER), (1, INTEGER), (1, INTEGER), (2**63 - 1, INTEGER)
        ),
        {
            "self.val1 == self.val6": 5,
            "type(self.val1) == int": 4,
            "self.val3 + 1 == 1 + 1": 5,
        },
    ),
    (
        vals((1, NUMBER), (1.5, NUMBER), (5, INTEGER)),
        {
            "type(self.val1) == double": 4,
            "self.val1 == 1.0": 3,
            "double(self.val3) > self.val2": 6,
            "self.val3 > int(self.val2)": 6,
            "double(5) < 10.0": 1,
        },
    ),
    (
        vals((CHESS, STRING), (CHESS, STRING)),
        {
            "self.val1.startsWith('Rook')": 4,
            "!self.val1.startsWith('knight')": 5,
            "self.val1.matches('^[^0-9]*$')": 8,
            "!self.val1.matches('^[0-9]*$')": 7,
            "type(self.val1) == string": 4,
            "size(self.val1) == 12": 4,
            "self.val1.charAt(3) == 'k'": 4,
            "self.val1.indexOf('o') == 1": 4,
            "self.val1.indexOf('o', 2) == 2": 4,
            "self.val1.replace(' ', 'x') == 'Rookxtakesx👑'": 7,
            "self.val1.split(' ') == ['Rook', 'takes', '👑']": 6,
            "self.val1.split(' ', 2) == ['Rook', 'takes 👑']": 6,
            "self.val1.substring(5) == 'takes 👑'": 5,
            "self.val1.substring(4, 10).trim() == 'takes'": 6,
            "self.val1.upperAscii() == 'ROOK TAKES 👑'": 6,
        },
    ),
    (
        vals(("QUI=", BYTE), ("QUI=", BYTE)),
        {
            "self.val1 == self.val2": 5,
            "self.val1 == b'AB'": 3,
            "type(self.val1) == bytes": 4,
            "size(self.val1) == 2": 4,
        },
    ),
    (
        vals((True, BOOLEAN), (True, BOOLEAN), (False, BOOLEAN)),
        {equal_values("self.val1", "self.val2", "true"): 11, "self.val1 != self.val3": 5},
    ),
    (
        vals(("1h2m3s4ms", DURATION), ("1h2m3s4ms", DURATION)),
        {
            "self.val1 == duration('1h2m') + duration('3s4ms')": 4,
            "self.val1.getHours() == 1": 4,
            "type(self.val1) == google.protobuf.Duration": 4,
        },
    ),
    (
        vals(("1997-07-16", DATE), ("2011-08-18T19:03:37.010000000+01:00", DATE_TIME)),
        {
            "self.val1.getDate() == 16": 4,
            "self.val2.getDate('01:00') == 18": 4,
            "self.val2 == timestamp('2011-08-18T00:00:00.000+01:00') + duration('19h3m37s10ms')": 4,
            "type(self.val2) == google.protobuf.Timestamp": 4,
        },
    ),
    (
        vals((10, INTEGER), (10.0, NUMBER), (10.5, NUMBER), ("10", STRING), ("MTA=", BYTE)),
        {
            "int(self.val2) == self.val1": 6,
            "double(self.val1) == self.val2": 6,
            "bytes(self.val4) == self.val5": 6,
            "string(self.val1) == self.val4": 6,
            "string(self.val3) == '10.5'": 4,
        },
    ),
    (
        vals(("2011-08-18T19:03:37.01+01:00", STRING), ("2011-08-18T19:03:37.01+01:00", DATE_TIME)),
        {"timestamp(self.val1) == self.val2": 6, "string(self.val2) == self.val1": 8},
    ),
    (
        vals(([1, 2, 3], INTS), ([1, 2, 3], INTS)),
        {
            "1 in self.val1": 5,
            "self.val2[0] in self.val1": 8,
            "!(0 in self.val1)": 6,
            "self.val1 + self.val2 == [1, 2, 3, 1, 2, 3]": 6,
            "self.val1 + [4, 5] == [1, 2, 3, 4, 5]": 4,
        },
    ),
    (
        vals((["a", "b", "c"], SET), (["a", "c", "b"], SET)),
        {
            "self.val1 == ['c', 'b', 'a']": 3,
            "self.val1 == self.val2": 5,
            "'a' in self.val1": 5,
            "self.val1 + self.val2 == ['a', 'b', 'c']": 6,
            "self.val1 + ['c', 'd'] == ['a', 'b', 'c', 'd']": 4,
        },
    ),
    (
        (
            {"type": "object", "properties": {"objs": {"type": "array", "items": MAP_LIST}}},
            {
                "objs": [
                    [{"k": "a", "v": "1"}, {"k": "b", "v": "2"}],
                    [{"k": "b", "v": "2"}, {"k": "a", "v": "1"}],
                    [{"k": "b", "v": "3"}, {"k": "a", "v": "1"}],
                    [{"k": "c", "v": "4"}],
                ]
            },
        ),
        {
            "self.objs[0] == self.objs[1]": 7,
            "self.objs[0] + self.objs[2] == self.objs[2]": 11,
            "self.objs[2] + self.objs[0] == self.objs[0]": 11,
            "self.objs[0] == [self.objs[0][0], self.objs[0][1]]": 22,
            "self.objs[2] + [self.objs[0][0], self.objs[0][1]] == self.objs[0]": 26,
            "size(self.objs[0] + [self.objs[3][0]]) == 3": 20,
        },
    ),
    (
        vals(({"k1": "a", "k2": "b"}, TEXTS), ({"k2": "b", "k1": "a"}, TEXTS)),
        {
            "self.val1 == self.val2": 5,
            "'k1' in self.val1": 3,
            "!('k3' in self.val1)": 4,
            "self.val1 == {'k1': 'a', 'k2': 'b'}": 3,
        },
    ),
    (
        (
            {
                "type": "object",
                "properties": {
                    "a": {
                        "type": "object",
                        "properties": {"b": INTEGER, "c": INTEGER, "d": {**INTEGER, "nullable": True}},
                    },
                    "a1": {
                        "type": "object",
                        "properties": {
                            "b1": {"type": "object", "properties": {"c1": INTEGER}},
                            "d2": {"type": "object", "properties": {"e2": INTEGER}},
                        },
                    },
                },
            },
            {"a": {"b": 1, "d": None}, "a1": {"b1": {"c1": 4}}},
        ),
        {
            "has(self.a.b)": 2,
            "!has(self.a.d)": 3,
            "has(self.a1.b1.c1)": 3,
            "!(has(self.a1.d2) && has(self.a1.d2.e2))": 3,
            "!has(self.a1.d2)": 3,
        },
    ),
    (
        (
            {"type": "object", "properties": {"val": {"type": "object", "additionalProperties": INTEGER}}},
            {"val": {"b": 1, "d": 2}},
        ),
        {
            "!('a' in self.val)": 4,
            "has(self.val.b)": 2,
            "!has(self.val.c)": 3,
            "self.val.all(k, self.val[k] > 0)": 17,
            "self.val.exists_one(k, self.val[k] == 2)": 14,
            "!self.val.exists_one(k, self.val[k] > 0)": 17,
            "size(self.val) == 2": 4,
            "size(self.val.filter(k, self.val[k] > 1)) == 1": 26,
        },
    ),
    (
        (
            {"type": "object", "properties": {"listMap": MAP_LIST}},
            {"listMap": [{"k": "a1", "v": "b1"}, {"k": "a2", "v": "b2"}, {"k": "a3", "v": "b3", "v2": "z"}]},
        ),
        {
            "has(self.listMap[0].v)": 3,
            "self.listMap.all(m, m.k.startsWith('a'))": 21,
            "self.listMap.all(m, !has(m.v2) || m.v2 == 'z')": 21,
            "self.listMap.exists(m, m.k.endsWith('1'))": 13,
            "self.listMap.exists_one(m, m.k == 'a3')": 15,
            "!self.listMap.all(m, m.k.endsWith('1'))": 18,
            "!self.listMap.exists(m, m.v == 'x')": 25,
            "!self.listMap.exists_one(m, m.k.startsWith('a'))": 20,
            "size(self.listMap.filter(m, m.k == 'a1')) == 1": 27,
            "self.listMap.exists(m, m.k == 'a1' && m.v == 'b1')": 16,
            "self.listMap.map(m, m.v).exists(v, v == 'b1')": 55,
            "self.listMap.exists(m, has(m.v2) && m.v2 == 'z')": 21,
            "!self.listMap.all(m, has(m.v2) && m.v2 != 'z')": 10,
            "self.listMap.exists_one(m, has(m.v2) && m.v2 == 'z')": 12,
            "self.listMap.filter(m, has(m.v2) && m.v2 == 'z').size() == 1": 24,
            "self.listMap.map(m, has(m.v2) && m.v2 == 'z', m.v2).size() == 1": 25,
            "self.listMap.filter(m, has(m.v2) && m.v2 == 'z').map(m, m.v2).size() == 1": 39,
            "self.listMap.exists(m, m.v2 == 'z')": 24,  # two items fail, and the third decides
            "!self.listMap.all(m, m.v2 != 'z')": 22,
        },
    ),
    (
        ({"type": "object", "properties": {"array": INTS}}, {"array": [1, 1, 2, 2, 3, 3, 4, 5]}),
        {
            "2 in self.array": 10,
            "self.array.all(e, e > 0)": 43,
            "self.array.exists(e, e > 2)": 36,
            "self.array.exists_one(e, e > 4)": 22,
            "!self.array.all(e, e < 2)": 21,
            "!self.array.exists(e, e < 0)": 52,
            "!self.array.exists_one(e, e == 2)": 25,
            "size(self.array.filter(e, e%2 == 0)) == 3": 68,
            "self.array.map(e, e * 20).filter(e, e > 50).exists(e, e == 60)": 194,
        },
    ),
    (
        (
            {
                "type": "object",
                "properties": {"embedded": {"type": "object", "x-kubernetes-embedded-resource": True}},
            },
            {
                "embedded": {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"name": "foo", "generateName": "pickItForMe"},
                }
            },
        ),
        {
            "self.embedded.kind == 'Pod'": 4,
            "self.embedded.metadata.name == 'foo'": 5,
            "self.embedded.metadata.generateName == 'pickItForMe'": 6,
        },
    ),
    (
        vals(("25%", primitive("int-or-string")), (1, primitive("int-or-string")), (10, INTEGER)),
        {
            "type(self.val1) == int ? self.val1 == 1 : self.val1 == '25%'": 7,
            "type(self.val1) == string && self.val1 == '25%'": 7,
            "self.val1 == 1 || self.val1 == '25%'": 6,
            "self.val1 != ['anything']": 3,
            "type(self.val2) == int ? self.val2 == 1 : self.val2 == '25%'": 7,
            "self.val2 != 'some string'": 3,
            r"type(self.val1) == string && self.val1.matches(r'(\d+(\.\d+)?%)')": 10,
            "type(self.val1) == int ? self.val3 > self.val1"
            " : double(self.val3) / double(self.val3) >= double(self.val1.replace('%', '')) / 100.0": 17,
        },
    ),
    (
        vals(("v1", STRING), (None, {**STRING, "nullable": True}), ("v3", {**STRING, "nullable": True})),
        {
            "has(self.val1) && self.val1 == 'v1'": 4,
            "!has(self.val2)": 2,
            "type(self.val3) != null_type": 4,
        },
    ),
    (
        vals(({"a": None, "b": "x"}, {"type": "object", "additionalProperties": {**STRING, "nullable": True}})),
        {"self.val1.size() == 2": 4, "'a' in self.val1": 3, "type(self.val1['a']) == null_type": 5},
    ),
    (
        vals(
            (
                {"k1": {"f": 1}, "k2": {"f": 2}},
                {"type": "object", "additionalProperties": {"type": "object", "properties": {"f": INTEGER}}},
            )
        ),
        {"type(self) == type(self)": 5, "type(self.val1['k1']) == type(self.val1['k2'])": 9},
    ),
    (
        vals(
            ({"x": {"y": "b"}}, {"type": "object", "additionalProperties": TEXTS}),
            ({"o": [{"k": "1", "v": "d"}]}, {"type": "object", "additionalProperties": MAP_LIST}),
            ([{"z": "g"}], {"type": "array", "items": TEXTS}),
            ([{"k": "h"}], {"type": "array", "items": KV}),
            ([[{"k": "3", "v": "i"}]], {"type": "array", "items": MAP_LIST}),
        ),
        {
            "self.val1['x']['y'] == 'b'": 5,
            "self.val2['o'].exists(e, e.k == '1' && e.v == 'd')": 14,
            "self.val3[0]['z'] == 'g'": 5,
            "self.val4[0].k == 'h'": 5,
            "self.val5[0].exists(e, e.k == '3' && e.v == 'i')": 14,
        },
    ),
    (
        vals(({"k": "a"}, KV), ({"k": "v"}, TEXTS), (["a"], {"type": "array", "items": STRING})),
        {
            "optional.of('a') != optional.of('b')": 3,
            "optional.of('a') != optional.none()": 3,
            "optional.of('a').hasValue()": 2,
            "optional.of('a').or(optional.of('a')).hasValue()": 2,
            "optional.none().or(optional.of('a')).hasValue()": 3,
            "optional.of('a').optMap(v, v == 'value').hasValue()": 8,
            "self.val1.?k == optional.of('a')": 5,
            "self.val1.?v == optional.none()": 4,
            "self.val1.?k.orValue('v') == 'a'": 4,
            "self.val2[?'k'] == optional.of('v')": 5,
            "self.val3[?0] == optional.of('a')": 5,
            "optional.ofNonZeroValue(1).hasValue()": 2,
        },
    ),
]


def rule_over(schema: Mapping[str, Any], rule: str) -> Program:
    declared = type_of_schema(schema)
    assert declared is not None
    return Environment({"self": declared}).compile(rule, BOOL)


RULES = [(schema, value, rule, cost) for (schema, value), rules in COSTS for rule, cost in rules.items()]


@pytest.mark.parametrize(("schema", "value", "rule", "cost"), RULES, ids=[rule for _, _, rule, _ in RULES])
def test_rules_hold_at_upstreams_cost(schema: Schema, value: Any, rule: str, cost: int) -> None:
    convert = converter(schema)
    given = value if convert is None else convert(value)
    assert rule_over(schema, rule).evaluate({"self": given}) == (True, cost)


def test_plain_values_are_not_copied() -> None:
    assert converter({"type": "object", "properties": {"a": STRING, "b": INTS, "c": TEXTS}}) is None


def test_a_resources_metadata_is_always_known() -> None:
    declared = type_of_schema({"type": "object", "properties": {"spec": KV}}, root=True)
    assert declared is not None
    environment = Environment({"self": declared})
    environment.compile(
        "self.metadata.name.startsWith('x') && self.kind == 'A' && self.spec.k == self.apiVersion", BOOL
    )
    with pytest.raises(CompileError, match="undefined field 'labels'"):
        environment.compile("self.metadata.labels", BOOL)


def test_what_has_no_schema_is_not_shown() -> None:
    open_field = {"x-kubernetes-preserve-unknown-fields": True}
    with pytest.raises(CompileError, match="undefined field 'any'"):
        rule_over({"type": "object", "properties": {"any": open_field}}, "has(self.any)")


def test_properties_are_spelt_as_identifiers() -> None:
    schema = {"type": "object", "properties": {"namespace": STRING, "a-b.c/d": STRING, "x__y": STRING}}
    rule = "self.__namespace__ == 'n' && self.a__dash__b__dot__c__slash__d == 'p' && self.x__underscores__y == 'u'"
    value = {"namespace": "n", "a-b.c/d": "p", "x__y": "u"}
    assert rule_over(schema, rule).evaluate({"self": value}).value is True


def test_a_missing_property_is_named_as_it_is_spelt() -> None:
    program = rule_over({"type": "object", "properties": {"a-b": STRING}}, "self.a__dash__b == ''")
    with pytest.raises(EvaluationError, match="no such key: a__dash__b"):
        program.evaluate({"self": {}})


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("plain", "plain"),
        ("namespace", "__namespace__"),
        ("true", "__true__"),
        ("a.b-c/d", "a__dot__b__dash__c__slash__d"),
        ("a__b", "a__underscores__b"),
        ("a___b", "a__underscores___b"),
        ("1a", None),
        ("a@b", None),
        ("", None),
    ],
)
def test_escaping_and_back(name: str, escaped: str | None) -> None:
    assert escape(name) == escaped
    if escaped is not None:
        assert unescape(escaped) == name
