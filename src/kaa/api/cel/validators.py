"""Literals that are looked at before anything runs: durations, timestamps and regular expressions must be some.

Source: cel-go cel/validator.go (ValidateDurationLiterals, ValidateTimestampLiterals, ValidateRegexLiterals).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .errors import CelError, Issue
from .instants import parse_duration, parse_timestamp
from .lexer import issue_at
from .regex import BadPattern, compiled
from .syntax import (
    Call,
    Comprehension,
    ListLiteral,
    Literal,
    MapLiteral,
    Node,
    Select,
    StructLiteral,
)


def invalid_literals(tree: Node, source: str) -> list[Issue]:
    return [
        issue_at(source, at.position, f"invalid {name} argument")
        for node in _nodes(tree)
        if isinstance(node, Call)
        for name, at in _suspects(node)
        if not _CHECKS[name](at.value)
    ]


def _suspects(node: Call) -> Iterator[tuple[str, Literal]]:
    check = _CHECKS.get(node.function)
    if check is None:
        return
    at = 0
    if node.function == "matches":
        at = 0 if node.target is not None else 1
    elif node.target is not None or len(node.arguments) != 1:
        return
    if at < len(node.arguments):
        argument = node.arguments[at]
        if isinstance(argument, Literal):
            yield node.function, argument


def _is_regex(value: Any) -> bool:
    try:
        compiled(value)
    except BadPattern:
        return False
    return True


def _parses(parse: Callable[[str], object]) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        if not isinstance(value, str):
            return True
        try:
            return parse(value) is not None
        except CelError:
            return False

    return check


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "duration": _parses(parse_duration),
    "timestamp": _parses(parse_timestamp),
    "matches": lambda value: not isinstance(value, str) or _is_regex(value),
}


def _nodes(tree: Node) -> Iterator[Node]:
    pending = [tree]
    while pending:
        node = pending.pop()
        yield node
        pending.extend(_children(node))


def _children(node: Node) -> list[Node]:
    match node:
        case Select():
            return [node.operand]
        case Call():
            return node.operands()
        case ListLiteral():
            return node.elements
        case MapLiteral():
            return [inner for entry in node.entries for inner in (entry.key, entry.value)]
        case StructLiteral():
            return [entry.value for entry in node.entries]
        case Comprehension():
            return [node.range, node.initial, node.condition, node.step, node.result]
    return []
