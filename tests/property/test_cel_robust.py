"""Whatever values an expression meets, it gives one or fails in words of CEL; no budget is passed unnoticed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from kaa.api.cel import DYN, INT, CelError, CompileError, CostExceeded, Environment, OptionalValue, Timestamp, Uint
from kaa.api.cel.library import DEVICES, JSON_PATCH
from kaa.api.cel.values import NOTHING, Duration

ENVIRONMENT = Environment({"x": DYN, "y": DYN}, (*DEVICES, JSON_PATCH))
FUNCTIONS = sorted(
    {
        (overload.function, overload.member, len(overload.arguments))
        for library in DEVICES
        for overload in library.functions
        if overload.function[0] not in "_!-@" and "@" not in overload.function
    }
)
OPERATORS = ("+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "in", "&&", "||")
FORMS = (
    "x[y]", "x[?y]", "x.a", "x.?a", "has(x.a)", "x.a.b[0]", "-x", "!x", "x ? y : x", "x.all(i, i == y)",
    "x.exists(i, i > y)", "x.map(i, i + y)", "x.filter(i, i != y)", "x.exists_one(i, i == y)", "x.transformMap(k, v, v)",
    "x.transformMapEntry(k, v, {k: v})", "[x, y]", "{x: y}", "{'a': x}.a", "[?x]", "{?'a': x}", "x.optMap(v, v)",
    "x.sortBy(i, i)", "type(x) == type(y)", "'%s %d %f %x'.format([x, y, x, y])", "x.or(y)", "x.orValue(y)",
)  # fmt: skip
VALUES: list[Any] = [
    None, True, 1, -1, 2**62, 1.5, float("nan"), "a", "", "10.0.0.1", "10.0.0.0/8", "1Gi", "1.2.3", "https://a.b/c?d=e",
    b"x", [], [1, 2], ["a"], [[1]], [None, 1], {}, {"a": 1}, {"a": {"b": [1]}}, Uint(3), Duration(5), Timestamp(10**18),
    OptionalValue(1), NOTHING, INT,
]  # fmt: skip


def call(function: tuple[str, bool, int]) -> SearchStrategy[str]:
    name, member, count = function
    arguments = st.lists(st.sampled_from(("x", "y", "dyn(1)", "dyn('a')", "dyn('[')")), min_size=count, max_size=count)
    if member:
        return arguments.map(lambda given: f"{given[0]}.{name}({', '.join(given[1:])})")
    return arguments.map(lambda given: f"{name}({', '.join(given)})")


EXPRESSIONS = st.one_of(
    st.sampled_from(FUNCTIONS).flatmap(call),
    st.sampled_from(FORMS),
    st.sampled_from(OPERATORS).map(lambda operator: f"x {operator} y"),
    st.tuples(*[st.sampled_from(OPERATORS)] * 3).map(lambda three: "(x {} y) {} (y {} x)".format(*three)),
)


@settings(max_examples=1500, deadline=None)
@given(EXPRESSIONS, st.sampled_from(VALUES), st.sampled_from(VALUES))
def test_no_value_breaks_an_expression(expression: str, x: Any, y: Any) -> None:
    try:
        program = ENVIRONMENT.compile(expression)
    except CompileError:
        return
    try:
        cost = program.evaluate({"x": x, "y": y}, budget=1_000_000).cost
    except CelError:
        return
    assert 0 <= cost <= 1_000_000
    if cost:
        with pytest.raises(CostExceeded):
            program.evaluate({"x": x, "y": y}, budget=cost - 1)
