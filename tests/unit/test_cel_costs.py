"""Costs of CEL expressions: the figures of upstream's own tests, which run without constant folding.

Source of the figures: apiserver pkg/cel/library/cost_test.go; cel-go interpreter/runtimecost_test.go.
"""

from __future__ import annotations

from typing import Any

import pytest

from kaa.api.cel import (
    BOOL,
    BYTES,
    DYN,
    INT,
    STRING,
    CostExceeded,
    Environment,
    EvaluationError,
    ListType,
    MapType,
    ObjectType,
    Type,
)
from kaa.api.cel.authorizer import Check, Verdict
from kaa.api.cel.library import MUTATING, authorization

INTS = "[1, 2, 3, 4, 5]"
UINTS = "[uint(1), uint(2), uint(3), uint(4), uint(5)]"
DOUBLES = "[1.0, 2.0, 3.0, 4.0, 5.0]"
BOOLS = "[false, true, false, true, false]"
STRINGS = "['012345678901', '012345678901', '012345678901', '012345678901', '012345678901']"
BYTES_LIST = f"[{', '.join(['bytes(' + chr(39) + '012345678901' + chr(39) + ')'] * 5)}]"
DURATIONS = "[duration('1s'), duration('2s'), duration('3s'), duration('4s'), duration('5s')]"
TIMESTAMPS = "[" + ", ".join(f"timestamp('2011-01-0{day}T00:00:00.000+01:00')" for day in range(1, 6)) + "]"
TEXT = "'01234567890123456789012345678901234567890123456789'"
URL = "url('https:://kubernetes.io/')"
V4, V6 = "ip('192.168.0.1')", "ip('2001:db8:3333:4444:5555:6666:7777:8888')"
C4, C6 = "cidr('192.168.0.0/16')", "cidr('2001:db8::/32')"
RESOURCE = "authorizer.group('apps').resource('deployments').subresource('status').namespace('test').name('backend')"
LONG = "spec.nodeName=example-node-name.fully.qualified.domain.name.example.com"
TEN = "['aa', 'bb', 'cc', 'd', 'e', 'f', 'g', 'h', 'i', 'j']"

#: expression: (least, most, actual)
LIBRARY = {
    **{
        literal + call: cost
        for call in (".isSorted()", ".max()", ".min()")
        for literal, cost in {
            INTS: (15, 15, 15),
            UINTS: (20, 20, 20),
            DOUBLES: (15, 15, 15),
            BOOLS: (15, 15, 15),
            STRINGS: (15, 25, 15),
            BYTES_LIST: (25, 35, 25),
            DURATIONS: (20, 20, 20),
            TIMESTAMPS: (20, 20, 20),
        }.items()
    },
    INTS + ".sum()": (15, 15, 15),
    UINTS + ".sum()": (20, 20, 20),
    DURATIONS + ".sum()": (20, 20, 20),
    INTS + ".indexOf(3)": (15, 15, 15),
    UINTS + ".lastIndexOf(uint(3))": (21, 21, 21),
    STRINGS + ".indexOf('x')": (15, 25, 15),
    BYTES_LIST + ".indexOf(bytes('x'))": (26, 36, 26),
    TEXT + ".indexOf('123')": (5, 5, 5),
    URL + ".getScheme()": (4, 4, 4),
    V4: (2, 2, 2),
    V6: (4, 4, 4),
    V4 + ".family()": (3, 3, 3),
    V6 + ".isGlobalUnicast()": (5, 5, 5),
    V6 + " == ip('192.168.0.1')": (7, 7, 7),
    "ip.isCanonical('192.168.0.1')": (3, 3, 3),
    "ip.isCanonical('2001:db8:3333:4444:5555:6666:7777:8888')": (8, 8, 8),
    C4: (2, 2, 2),
    C4 + ".ip()": (3, 3, 3),
    C4 + " == cidr('2001:db8::/32')": (5, 5, 5),
    C4 + ".containsCIDR(cidr('192.0.0.0/30'))": (7, 11, 7),
    C4 + ".containsCIDR('192.0.0.0/30')": (7, 11, 7),
    C4 + ".containsIP(ip('192.0.0.1'))": (4, 7, 4),
    C4 + ".containsIP('192.169.0.1')": (5, 8, 5),
    C6 + ".containsCIDR(cidr('2001:db8::/126'))": (7, 11, 7),
    C6 + ".containsIP('2001:db8::1')": (5, 8, 5),
    "'ABCDEFGHIJ abcdefghij'.lowerAscii()": (3, 3, 3),
    "'ABCDEFGHIJ abcdefghij'.lowerAscii() == 'abcdefghij ABCDEFGHIJ'.lowerAscii()": (7, 9, 9),
    "strings.quote('ABCDEFGHIJ abcdefghij')": (3, 3, 3),
    "strings.quote('ABCDEFGHIJ abcdefghij') == strings.quote('ABCDEFGHIJ abcdefghij')": (7, 11, 9),
    "'abc 123 def 123'.replace('123', '456')": (3, 3, 3),
    "'abc 123 def 123'.replace('', 'x')": (3, 3, 3),
    "'abc 123 def 123'.replace('123', '456', 1)": (3, 3, 3),
    "'abc 123 def 123'.split(' ')": (3, 3, 3),
    "'abc 123 def 123'.split(' ', 1)": (3, 3, 3),
    "'abc 123 def 123'.substring(5)": (2, 2, 2),
    "'  abc 123 def 123  '.trim()": (2, 2, 2),
    TEN + ".join(' ')": (11, 23, 15),
    TEN + ".join()": (10, 22, 13),
    "'abc 123 def 123'.find('123')": (2, 2, 2),
    "'abc 123 def 123'.findAll('123', 1)": (2, 2, 2),
    "jsonpatch.escapeKey('abc/def~ abc/def~')": (2, 2, 2),
    "authorizer.path('/healthz')": (2, 2, 2),
    RESOURCE: (6, 6, 6),
    f"authorizer.group('').resource('pods').fieldSelector('{LONG}')": (1821, 1821, 1821),
    "authorizer.path('/healthz').check('get').allowed()": (350003, 350003, 350003),
    RESOURCE + ".check('create').errored()": (350007, 350007, 350007),
    'quantity("12Mi")': (1, 1, 1),
    'quantity("200M") == quantity("0.2G") && quantity("0.2G") == quantity("200M")': (3, 6, 6),
    'quantity("50k").sub(20) == quantity("49980")': (4, 4, 4),
    'quantity("50k").add(20).sub(quantity("100k")).sub(-50000).asInteger() > 0': (7, 7, 7),
    'quantity("50.703k").asApproximateFloat() > 0.0': (3, 3, 3),
    'format.named("dns1123subdomain")': (1, 1, 1),
    'format.named("dns1123Subdomain").value().validate("my-name")': (34, 34, 17),
    'format.named("dns1123Label").value().validate("my-name")': (34, 34, 10),
    'format.named("dns1123Label").value() == format.named("dns1123Label").value()': (5, 11, 5),
    "sets.contains([], [])": (21, 21, 21),
    "sets.contains([1, 2, 3, 4], [2, 3])": (29, 29, 29),
    "sets.contains([[1], [2, 3]], [[2, 3]])": (53, 53, 53),
    "!sets.contains([1], [2])": (23, 23, 23),
    "sets.equivalent([1], [1, 1])": (25, 25, 25),
    "sets.intersects([1, 1], [1])": (23, 23, 23),
    'semver("1.0.0")': (1, 1, 1),
    'semver("1234.56789012345.67890123456789")': (4, 4, 4),
    'semver("1.0.0").isLessThan(semver("1.1.0"))': (3, 3, 3),
    "{'a': 1, 'b': 2}.all(k, v, v > 0)": (37, 41, 41),
    "{'a': 1, 'b': 2}.exists(k, v, v > 0)": (39, 43, 40),
    "{'a': 1, 'b': 2}.existsOne(k, v, v > 0)": (38, 40, 40),
    "{'a': 1, 'b': 2}.transformMap(k, v, v + 1)": (71, 71, 71),
    "{'a': 1, 'b': 2}.transformMap(k, v, v < 5, v + 1)": (67, 75, 75),
    "{'a': 1, 'b': 2}.transformMapEntry(k, v, {k: v + 1})": (131, 131, 131),
    "[1, 2].exists(i, v, v > 0)": (19, 23, 20),
    "[1, 2].transformList(i, v, v + 1)": (49, 49, 49),
    "[1, 2].transformList(i, v, v < 5, v + 1)": (27, 53, 53),
}


def allow(_check: Check) -> Verdict:
    return Verdict(True)


def twelve_characters(_path: tuple[str, ...], type_: Type) -> tuple[int, int] | None:
    return (0, 12) if type_ in (STRING, BYTES) else None


@pytest.mark.parametrize("expression", LIBRARY)
def test_library_costs_are_upstreams(expression: str) -> None:
    environment = Environment({"authorizer": authorization.AUTHORIZER}, MUTATING, fold=False)
    program = environment.compile(expression)
    least, most, actual = LIBRARY[expression]
    assert program.estimate(twelve_characters) == (least, most)
    assert program.evaluate({"authorizer": authorization.AuthorizerValue(allow)}).cost == actual


ALL_TYPES = ObjectType("AllTypes", {"single_int32": INT})
NESTED = MapType(STRING, MapType(STRING, ALL_TYPES))
RANDOM = "x" * 500

#: (expression, variables, values, cost)
STEPS: list[tuple[str, dict[str, Type], dict[str, Any], int]] = [
    ('"Hello World!"', {}, {}, 0),
    ("input", {"input": ListType(INT)}, {"input": [1, 2]}, 1),
    ("input['key']", {"input": MapType(STRING, STRING)}, {"input": {"key": "v"}}, 2),
    ("input[0]", {"input": ListType(STRING)}, {"input": ["v"]}, 2),
    ("input.single_int32", {"input": ALL_TYPES}, {"input": {"single_int32": 0}}, 2),
    ("input['ke' + 'y']", {"input": MapType(STRING, STRING)}, {"input": {"key": "v"}}, 3),
    ("input[3-3]", {"input": ListType(STRING)}, {"input": ["v"]}, 3),
    ("has(input.single_int32)", {"input": ALL_TYPES}, {"input": {}}, 1),
    ("has(input.testAttr.nestedAttr)", {"input": NESTED}, {"input": {"testAttr": {"nestedAttr": {}}}}, 2),
    ("[1, 2, 3]", {}, {}, 10),
    ('{"a": 1, "b": 2, "c": 3}', {}, {}, 30),
    ("input.all(x, true)", {"input": ListType(INT)}, {"input": []}, 2),
    ("[1, 2, 3].all(x, true)", {}, {}, 20),
    ("input.matches('[0-9]')", {"input": STRING}, {"input": RANDOM}, 103),
    ("'123'.matches('[0-9]')", {}, {}, 2),
    ("false || false", {}, {}, 0),
    ("a || b || c || d", dict.fromkeys("abcd", BOOL), dict.fromkeys("abcd", False), 4),
    ("a && b && c && d", dict.fromkeys("abcd", BOOL), dict.fromkeys("abcd", True), 4),
    ("1 < 2", {}, {}, 1),
    ("2 in [1, 2, 3]", {}, {}, 13),
    ("1 % 1", {}, {}, 1),
    ("true ? 1 : 2", {}, {}, 0),
    ('size("123")', {}, {}, 1),
    ("'12345678901234567890' == '123456789012345678901234567890'", {}, {}, 2),
    ("string(input)", {"input": BYTES}, {"input": RANDOM.encode()}, 51),
    ("bytes(input)", {"input": STRING}, {"input": RANDOM}, 51),
    ("input.contains(arg1)", {"input": STRING, "arg1": STRING}, {"input": RANDOM, "arg1": RANDOM}, 2502),
    ("input.matches('\\\\d+a\\\\d+b')", {"input": STRING}, {"input": RANDOM}, 103),
    ("input.startsWith(arg1)", {"input": STRING, "arg1": STRING}, {"input": "idc", "arg1": RANDOM}, 3),
    ("input.size()", {"input": STRING}, {"input": "500"}, 2),
    (
        "(x > 2 ? input1 : input2).all(y, true)",
        {"x": INT, "input1": ListType(INT), "input2": ListType(INT)},
        {"x": 1, "input1": [1], "input2": [1]},
        6,
    ),
    ("true ? false : 1 > 3", {}, {}, 0),
    ("false ? false : 1 > 3", {}, {}, 1),
    ("input.all(k, input[k].single_int32 > 3)", {"input": MapType(STRING, ALL_TYPES)}, {"input": {"v": {"single_int32": 0}}}, 9),
    ("(list1 + list2).all(x, true)", dict.fromkeys(("list1", "list2"), ListType(INT)), {"list1": [], "list2": []}, 4),
    ('"abcdefg".contains(str1 + str2)', {"str1": STRING, "str2": STRING}, {"str1": "val1", "str2": "val2222222"}, 6),
    ("(1 > 2 ? 5 : 3) > 1", {}, {}, 2),
    ("(1 > 2 || 2 > 1) == true", {}, {}, 3),
    ("[{'k1': 1}, {'k2': 2}].all(x, true)", {}, {}, 77),
]  # fmt: skip


@pytest.mark.parametrize(("expression", "variables", "values", "cost"), STEPS, ids=[step[0] for step in STEPS])
def test_step_costs_are_cel_gos(expression: str, variables: dict[str, Type], values: dict[str, Any], cost: int) -> None:
    program = Environment(variables, fold=False).compile(expression)
    assert program.evaluate(values).cost == cost
    least, most = program.estimate()
    assert least <= cost <= most


def test_a_budget_may_be_spent_to_the_last_unit() -> None:
    variables = {"str1": STRING, "str2": STRING}
    program = Environment(variables, fold=False).compile('"abcdefg".contains(str1 + str2)')
    values = {"str1": "val1", "str2": "val2222222"}
    assert program.evaluate(values, budget=6).cost == 6
    with pytest.raises(CostExceeded, match="operation cancelled: actual cost limit exceeded"):
        program.evaluate(values, budget=5)


@pytest.mark.parametrize(
    ("expression", "cost"),
    [
        ("[1, 2, 3].sum()", 3),
        ("x in ['a', 'b']", 1),
        ("x in []", 0),
        ("[1].map(i, 2)", 3),
        ("duration('1s') < duration('2s')", 1),
        ("{'a': 1}.a", 2),
    ],
)
def test_constants_are_free_where_kubernetes_folds_them(expression: str, cost: int) -> None:
    assert Environment({"x": STRING}).compile(expression).evaluate({"x": "a"}).cost == cost


def test_no_error_hides_a_spent_budget() -> None:
    program = Environment({"x": DYN}).compile("x.all(i, i.y > 1) || true")
    with pytest.raises(CostExceeded):
        program.evaluate({"x": [{}] * 1000}, budget=100)


@pytest.mark.parametrize("operands", ["1/n {} n + n", "n {} 1/n", "'a' {} ['b'][n + 1]", "[1/n] {} [2]"])
def test_inequality_costs_what_equality_does_also_when_an_operand_fails(operands: str) -> None:
    spent = []
    for operator in ("==", "!="):
        with pytest.raises(EvaluationError) as failed:
            Environment({"n": INT}).compile(operands.format(operator)).evaluate({"n": 0})
        spent.append(failed.value.cost)
    assert spent[0] == spent[1] > 0
