"""What expressions mean, and what is said of those that mean nothing."""

from __future__ import annotations

from typing import Any

import pytest

from kaa.api.cel import (
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    DYN,
    INT,
    NULL,
    STRING,
    TIMESTAMP,
    UINT,
    CompileError,
    CostExceeded,
    Environment,
    EvaluationError,
    ListType,
    MapType,
    ObjectType,
    OptionalType,
    Type,
)
from kaa.api.cel.library import DEVICES
from kaa.api.cel.values import NOTHING, Duration, OptionalValue, Timestamp, Uint


class Recursive(dict[str, Type]):
    """Fields of a type that holds itself, made when asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.type = ObjectType("Node", self)
        self.update(value=INT, next=self.type, children=ListType(self.type))


NODE = Recursive().type
SPEC = ObjectType("Spec", {"replicas": INT, "maxReplicas": INT, "name": STRING, "labels": MapType(STRING, STRING)})
ENVIRONMENT = Environment({"self": SPEC, "node": NODE, "x": DYN, "i": INT, "s": STRING, "b": BOOL}, DEVICES)
VALUES: dict[str, Any] = {
    "self": {"replicas": 3, "maxReplicas": 5, "name": "web", "labels": {"app": "web"}},
    "node": {"value": 1, "next": {"value": 2, "children": [{"value": 3}]}},
    "x": {"n": 5, "list": ["a", "b"], "halves": [0.5, 1.0], "none": None, "map": {"k": {"v": 1}}},
    "i": 7,
    "s": "text",
    "b": True,
}


def run(expression: str) -> Any:
    return ENVIRONMENT.compile(expression).evaluate(VALUES).value


@pytest.mark.parametrize(
    "expression",
    [
        "self.replicas <= self.maxReplicas && self.name.startsWith('w')",
        "node.next.children[0].value == 3 && !has(node.next.next)",
        "has(x.none) && x.none == null",
        "!has(x.missing)",
        "x.?missing.deeper.orValue(9) == 9",
        "x.?map.k.v.value() == 1",
        "x.map[?'k'].hasValue() && !x.list[?2].hasValue()",
        "optional.of(1).or(optional.of(2)).value() == 1",
        "optional.none().orValue(3) == 3",
        "!optional.ofNonZeroValue('').hasValue()",
        "optional.of(4).optMap(v, v * 2).value() == 8",
        "x.?map.optFlatMap(m, m.?k.v).value() == 1",
        "[?optional.of(1), ?optional.none(), 3] == [1, 3]",
        "{?'a': optional.ofNonZeroValue(0), 'b': 1}.size() == 1",
        "cel.bind(twice, i * 2, twice + twice) == 28",
        "cel.bind(unused, 1 / 0, true)",
        "[1, 2, 3].transformList(n, v, v > 1, n * v) == [2, 6]",
        "{'a': 1}.transformMap(k, v, v + 1) == {'a': 2}",
        "{'a': 'b'}.transformMapEntry(k, v, {v: k}) == {'b': 'a'}",
        "[3, 1].exists(n, v, n == 1 && v == 1)",
        "{'a': 1, 'b': 2}.all(k, v, k < 'c' && v < 3)",
        "[1, 2].existsOne(n, v, v == 2)",
        "[3, 1, 2].sort() == [1, 2, 3] && ['b', 'a'].sortBy(e, e)[0] == 'a'",
        "[[1, 2], [3]].flatten() == [1, 2, 3] && [[[1]], [[2]]].flatten(2) == [1, 2]",
        "[1, 1, 2].distinct() == [1, 2] && [1, 2].reverse() == [2, 1] && lists.range(3) == [0, 1, 2]",
        "[1, 2, 3].slice(1, 2) == [2]",
        "dyn(1) == dyn(1u) && dyn(1) == dyn(1.0) && dyn(1) != dyn('1') && dyn(true) != dyn(1)",
        "1 < dyn(1.5) && dyn(2u) > 1",
        "{1: 'a'}[dyn(1.0)] == 'a'",
        "type(x.n) == int && type(null) == null_type && type(type(1)) == type",
        "b'\\303\\251' == bytes('é') && '\\u00e9' == 'é' && r'\\n'.size() == 2",
        "timestamp('2024-02-29T12:30:00+02:00').getHours() == 10",
        "timestamp('2024-02-29T12:30:00Z').getHours('America/New_York') == 7",
        "timestamp('2024-01-01T00:00:00Z') + duration('36h') > timestamp('2024-01-02T00:00:00Z')",
        "string(timestamp('2011-08-18T19:03:37.01+01:00')) == '2011-08-18T19:03:37.01+01:00'",
        "string(duration('1h1m1.5s')) == '3661.5s' && duration('90m').getHours() == 1",
        "(1 / 0 == 1) || true",
        "!((1 / 0 == 1) && false)",
        "[0, 2].exists(v, 4 / v == 2)",
        "!([0, 2].all(v, 4 / v == 1))",
        "s.matches('^t.x') && !s.matches('^x')",
        "string(1e6) == '1e+06' && string(0.1) == '0.1' && string(123456.0) == '123456'",
        "-5 / 2 == -2 && -5 % 3 == -2 && 5 % -3 == 2",
        "!has(x.n.deeper)",
        "x.halves.sum() == 1.5 && x.halves.max() == 1.0 && x.list.sort() == ['a', 'b']",
    ],
)
def test_it_holds(expression: str) -> None:
    assert run(expression) is True


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("x.missing", "no such key: missing"),
        ("x.map.k.w", "no such key: w"),
        ("x.list[2]", "index out of bounds: 2"),
        ("x.list[-1]", "index out of bounds: -1"),
        ("x.list['a']", "unsupported index type 'string' in list"),
        ("x.n.deeper", "no such key: deeper"),
        ("has(x.missing.deeper)", "no such key: missing"),
        ("node.next.next.value", "no such key: next"),
        ("self.labels['none']", "no such key: none"),
        ("i / 0", "division by zero"),
        ("i % 0", "modulus by zero"),
        ("i + 9223372036854775807", "integer overflow"),
        ("-(-9223372036854775808) == i", "integer overflow"),
        ("1u - 2u", "unsigned integer overflow"),
        ("x.n + 'a'", "no such overload"),
        ("x.n < 'a'", "no such overload"),
        ("x.n.startsWith('a')", "no such overload"),
        ("x.n && true", "no such overload"),
        ("x.none ? 1 : 2", "no such overload"),
        ("x.n.all(v, true)", "got 'types.Int', expected iterable type"),
        ("int(x.list[0])", "type conversion error from 'string' to 'int'"),
        ("optional.none().value()", "optional.none() dereference"),
        ("duration(s)", "type conversion error from 'string' to 'google.protobuf.Duration'"),
        ("timestamp('2024-01-01T00:00:00Z').getHours('Nowhere')", "unknown time zone Nowhere"),
        ("timestamp('9999-12-31T23:59:59Z') + duration('1s')", "timestamp overflow"),
        ("quantity(s)", "quantities must match the regular expression"),
        ("{s: 1, 'text': 2}", "Failed with repeated key: text"),
        ("s.matches('a' + '[')", "error parsing regexp: missing closing ]: `["),
        ("dyn(0.0) / 0.0 < 1.0", "NaN values cannot be ordered"),
    ],
)
def test_it_fails(expression: str, fault: str) -> None:
    with pytest.raises(EvaluationError) as failed:
        run(expression)
    assert str(failed.value).startswith(fault)


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("y", "ERROR: <input>:1:1: undeclared reference to 'y' (in container '')\n | y\n | ^"),
        ("i + y", "ERROR: <input>:1:5: undeclared reference to 'y' (in container '')\n | i + y\n | ....^"),
        ("self.foo", "ERROR: <input>:1:5: undefined field 'foo'\n | self.foo\n | ....^"),
        (
            "1 + 'a'",
            "ERROR: <input>:1:3: found no matching overload for '_+_' applied to '(int, string)'\n | 1 + 'a'\n | ..^",
        ),
        (
            "s.startsWith(1)",
            "ERROR: <input>:1:13: found no matching overload for 'startsWith' applied to 'string.(int)'"
            "\n | s.startsWith(1)\n | ............^",
        ),
        ("nope(1)", "ERROR: <input>:1:5: undeclared reference to 'nope' (in container '')\n | nope(1)\n | ....^"),
        ("[1, 'a']", "ERROR: <input>:1:5: expected type 'int' but found 'string'\n | [1, 'a']\n | ....^"),
        ("i.foo", "ERROR: <input>:1:2: type 'int' does not support field selection\n | i.foo\n | .^"),
        ("has(i)", "ERROR: <input>:1:5: invalid argument to has() macro\n | has(i)\n | ....^"),
        ("x.all(1, true)", "ERROR: <input>:1:7: argument must be a simple name\n | x.all(1, true)\n | ......^"),
        (
            "i.all(v, true)",
            "ERROR: <input>:1:1: expression of type 'int' cannot be range of a comprehension"
            " (must be list, map, or dynamic)\n | i.all(v, true)\n | ^",
        ),
        ("(i", "ERROR: <input>:1:3: Syntax error: missing ')' at '<EOF>'\n | (i\n | ..^"),
        ("i)", "ERROR: <input>:1:2: Syntax error: extraneous input ')' expecting <EOF>\n | i)\n | .^"),
        (
            "i +",
            "ERROR: <input>:1:4: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true',"
            " 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}\n | i +\n | ...^",
        ),
        (
            "x.spec.(",
            "ERROR: <input>:1:8: Syntax error: no viable alternative at input '.('\n | x.spec.(\n | .......^",
        ),
        ("for", "ERROR: <input>:1:1: reserved identifier: for\n | for\n | ^"),
        ("duration('1d')", "ERROR: <input>:1:10: invalid duration argument\n | duration('1d')\n | .........^"),
        ("s.matches('[')", "ERROR: <input>:1:11: invalid matches argument\n | s.matches('[')\n | ..........^"),
        ("timestamp('now')", "ERROR: <input>:1:11: invalid timestamp argument\n | timestamp('now')\n | ..........^"),
        ("9223372036854775808", "ERROR: <input>:1:1: invalid int literal\n | 9223372036854775808\n | ^"),
        ("'é' + y", "ERROR: <input>:1:7: undeclared reference to 'y' (in container '')\n | 'é' + y\n | .．....^"),
        ("i\n+ y", "ERROR: <input>:2:3: undeclared reference to 'y' (in container '')\n | + y\n | ..^"),
    ],
)
def test_it_is_refused(expression: str, fault: str) -> None:
    with pytest.raises(CompileError) as refused:
        ENVIRONMENT.compile(expression)
    assert str(refused.value) == fault


def test_every_fault_is_named_in_order() -> None:
    with pytest.raises(CompileError) as refused:
        ENVIRONMENT.compile("y + z")
    assert [(issue.column, issue.message) for issue in refused.value.issues] == [
        (0, "undeclared reference to 'y' (in container '')"),
        (4, "undeclared reference to 'z' (in container '')"),
    ]


def test_the_type_may_be_asked_for() -> None:
    with pytest.raises(CompileError, match="must evaluate to bool"):
        ENVIRONMENT.compile("1", BOOL)
    assert ENVIRONMENT.compile("x.n", BOOL).type == DYN


@pytest.mark.parametrize(
    ("expression", "type_"),
    [
        ("1", INT),
        ("1u", UINT),
        ("1.5", DOUBLE),
        ("'a'", STRING),
        ("b'a'", BYTES),
        ("null", NULL),
        ("duration('1s')", DURATION),
        ("timestamp(0)", TIMESTAMP),
        ("[1]", ListType(INT)),
        ("{'a': [1]}", MapType(STRING, ListType(INT))),
        ("[]", ListType(DYN)),
        ("self", SPEC),
        ("x.?a", OptionalType(DYN)),
        ("[1].map(v, string(v))", ListType(STRING)),
        ("b ? 1 : x", DYN),
        ("node.children.filter(c, c.value > 1)", ListType(NODE)),
    ],
)
def test_types_are_found(expression: str, type_: Type) -> None:
    assert ENVIRONMENT.compile(expression).type == type_


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1u + 2u", Uint(3)),
        ("duration('1.5s')", Duration(1_500_000_000)),
        ("timestamp('1970-01-01T00:00:01Z')", Timestamp(1_000_000_000)),
        ("optional.of(1)", OptionalValue(1)),
        ("optional.none()", NOTHING),
        ("b'\\x00'", b"\x00"),
    ],
)
def test_values_that_python_has_no_word_for(expression: str, value: Any) -> None:
    found = run(expression)
    assert type(found) is type(value)
    assert found == value


def test_references_name_variables_alone() -> None:
    program = ENVIRONMENT.compile("[1].all(i, i > 0) && s == 'a' && type(x) == int")
    assert program.references == {"s", "x"}


def test_a_missing_variable_counts_only_where_it_is_read() -> None:
    program = ENVIRONMENT.compile("b || i > 1")
    assert program.evaluate({"b": True}).value is True
    with pytest.raises(EvaluationError, match="no such attribute"):
        program.evaluate({"b": False})


def test_objects_are_written_out_by_name() -> None:
    spec = ObjectType(
        "Object.spec", {"replicas": INT, "__namespace__": STRING}, wire_names={"__namespace__": "namespace"}
    )
    types = {"Object": ObjectType("Object", {"spec": spec}), "Object.spec": spec}
    environment = Environment({}, types=types)
    program = environment.compile(
        "Object{spec: Object.spec{replicas: 1, __namespace__: 'a', ?replicas: optional.none()}}"
    )
    assert program.type == types["Object"]
    assert program.evaluate({}) == ({"spec": {"replicas": 1, "namespace": "a"}}, 81)
    with pytest.raises(CompileError, match="undefined field 'replica'"):
        environment.compile("Object.spec{replica: 1}")
    with pytest.raises(CompileError, match="expected type of field 'replicas' is 'int' but provided type is 'string'"):
        environment.compile("Object.spec{replicas: 'a'}")


def test_computed_variables_are_computed_when_read() -> None:
    class Lazily(dict[str, Any]):
        def __missing__(self, key: str) -> Any:
            self[key] = found = {"one": 1}[key]
            return found

    lazy = Lazily()
    environment = Environment({"variables": ObjectType("Variables", {"one": INT, "two": INT})})
    assert environment.compile("true || variables.two == 1").evaluate({"variables": lazy}).value is True
    assert lazy == {}
    assert environment.compile("variables.one == 1").evaluate({"variables": lazy}).value is True
    assert lazy == {"one": 1}


def test_a_fold_stops_at_the_budget() -> None:
    program = Environment({"n": ListType(INT)}).compile("n.all(a, n.all(b, n.all(c, a + b + c >= 0)))")
    with pytest.raises(CostExceeded) as stopped:
        program.evaluate({"n": list(range(1000))}, budget=10_000)
    assert 10_000 < stopped.value.cost < 10_100


def test_no_text_grows_without_bound() -> None:
    program = Environment({"s": STRING}).compile("s.replace('', s)")
    with pytest.raises(CostExceeded):
        program.evaluate({"s": "x" * 1_000_000}, budget=10_000_000)


@pytest.mark.parametrize(
    "expression", ["(" * 2000 + "1" + ")" * 2000, "1" + "+1" * 2000, "[" * 2000, "x" + ".a" * 2000, "!" * 2000 + "b"]
)
def test_no_depth_breaks_the_compiler(expression: str) -> None:
    try:
        ENVIRONMENT.compile(expression)
    except CompileError as fault:
        refused = str(fault)
    else:
        refused = "expression recursion limit exceeded: 250"
    assert "expression recursion limit exceeded: 250" in refused or "Syntax error" in refused


def test_deep_expressions_within_the_limit_run() -> None:
    assert run("(" * 60 + "1" + ")" * 60) == 1
    assert run("1" + "+1" * 240) == 241
    assert run(" || ".join(["i == 0"] * 2000) + " || true") is True
