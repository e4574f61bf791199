"""Literals that are looked at before anything runs: durations, timestamps and regular expressions must be some; items of
a list or map must be of one type; formats must fit their arguments.

Source: cel-go cel/validator.go; ext/strings.go (stringFormatValidator).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .errors import CelError, Issue
from .instants import parse_duration, parse_timestamp
from .lexer import issue_at
from .library.formatting import format_fault
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
from .types import Type


def invalid_literals(tree: Node, source: str) -> list[Issue]:
    """What is wrong with the literals of a checked tree."""
    found: list[Issue] = []
    pending = [(tree, False)]
    while pending:
        node, in_format = pending.pop()
        for at, message in _faults(node, in_format):
            found.append(issue_at(source, at.position, message))
        within = in_format or (isinstance(node, Call) and node.function == "format")
        pending.extend((child, within) for child in _children(node))
    return sorted(found, key=lambda issue: (issue.line, issue.column))


def _faults(node: Node, in_format: bool) -> Iterator[tuple[Node, str]]:
    match node:
        case Call(function="format", target=Literal(value=str() as text), arguments=[ListLiteral() as listed]):
            fault = format_fault(text, len(listed.elements))
            if fault is not None:
                yield node, fault
        case Call():
            for name, at in _suspects(node):
                if not _CHECKS[name](at.value):
                    yield at, f"invalid {name} argument"
        case ListLiteral() if not in_format:
            yield from _mixed((one, index in node.optional) for index, one in enumerate(node.elements))
        case MapLiteral() if not in_format:
            yield from _mixed((entry.key, False) for entry in node.entries)
            yield from _mixed((entry.value, entry.optional) for entry in node.entries)


def _mixed(items: Iterable[tuple[Node, bool]]) -> Iterator[tuple[Node, str]]:
    """The first item whose type is not that of the first."""
    expected: Type | None = None
    for node, optional in items:
        given = node.type.parameters[0] if optional and node.type.parameters else node.type
        if expected is None:
            expected = given
        elif expected != given:
            yield node, f"expected type '{expected}' but found '{given}'"
            return


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
