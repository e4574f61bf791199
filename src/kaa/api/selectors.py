"""Label and field selectors: parse once, match many.

Source: API concepts "Labels and Selectors"; apimachinery pkg/labels. Error texts are upstream's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from . import names
from .types.meta_v1 import LabelSelector, LabelSelectorRequirement


class SelectorError(ValueError):
    """The text is no selector; the message is what the API answers with."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One demand. ``operator`` is In, NotIn, Exists, DoesNotExist, Gt or Lt."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        if self.operator == "In":
            return value is not None and value in self.values
        if self.operator == "NotIn":
            return value is None or value not in self.values
        if self.operator == "Exists":
            return value is not None
        if self.operator == "DoesNotExist":
            return value is None
        return self._compares(value)

    def _compares(self, value: str | None) -> bool:
        try:
            left, right = int(value or ""), int(next(iter(self.values)))
        except ValueError:
            return False
        return left > right if self.operator == "Gt" else left < right


@dataclass(frozen=True, slots=True)
class Selector:
    """All requirements together. The empty selector matches everything; ``NOTHING`` matches nothing."""

    requirements: tuple[Requirement, ...] = ()
    nothing: bool = False

    def matches(self, labels: Mapping[str, str]) -> bool:
        if self.nothing:
            return False
        for requirement in self.requirements:  # noqa: SIM110  # a generator costs more than most selectors
            if not requirement.matches(labels):
                return False
        return True

    def matcher(self) -> Callable[[Mapping[str, str]], bool]:
        """``matches`` for many in a row: the objects of one template carry equal labels, and are matched once."""
        last: Mapping[str, str] | None = None
        answer = False

        def matches(labels: Mapping[str, str]) -> bool:
            nonlocal last, answer
            if labels != last:
                last, answer = labels, self.matches(labels)
            return answer

        return matches

    @property
    def empty(self) -> bool:
        return not self.requirements and not self.nothing

    @property
    def named_values(self) -> tuple[tuple[str, str], ...]:
        """The (key, value) of requirements that only one value meets."""
        return tuple((r.key, min(r.values)) for r in self.requirements if r.operator == "In" and len(r.values) == 1)

    def __str__(self) -> str:
        return ",".join(_text(requirement) for requirement in self.requirements)


EVERYTHING = Selector()
NOTHING = Selector(nothing=True)


def _text(r: Requirement) -> str:
    values = sorted(r.values)
    match r.operator:
        case "Exists":
            return r.key
        case "DoesNotExist":
            return f"!{r.key}"
        case "In" if len(values) == 1:
            return f"{r.key}={values[0]}"
        case "NotIn" if len(values) == 1:
            return f"{r.key}!={values[0]}"
        case "In":
            return f"{r.key} in ({','.join(values)})"
        case "NotIn":
            return f"{r.key} notin ({','.join(values)})"
        case "Gt":
            return f"{r.key}>{values[0]}"
        case _:
            return f"{r.key}<{values[0]}"


def from_labels(labels: Mapping[str, str]) -> Selector:
    """Every label equal: what ``matchLabels`` and a Service's selector mean."""
    return Selector(tuple(Requirement(key, "In", frozenset((value,))) for key, value in sorted(labels.items())))


def from_label_selector(selector: LabelSelector | None) -> Selector:
    """None matches nothing, an empty LabelSelector everything."""
    if selector is None:
        return NOTHING
    return Selector(
        from_labels(selector.match_labels).requirements + tuple(_requirement(r) for r in selector.match_expressions)
    )


def as_go(selector: LabelSelector | None) -> str:
    """A label selector as Go prints a pointer to one: events have it that way."""
    if selector is None:
        return "nil"
    labels = "".join(f"{key}: {value}," for key, value in sorted(selector.match_labels.items()))
    rules = "".join(
        f"LabelSelectorRequirement{{Key:{each.key},Operator:{each.operator},Values:[{' '.join(each.values)}],}},"
        for each in selector.match_expressions
    )
    expressions = f"[]LabelSelectorRequirement{{{rules}}}"
    return f"&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:{expressions},}}"


def _requirement(r: LabelSelectorRequirement) -> Requirement:
    if r.operator not in ("In", "NotIn", "Exists", "DoesNotExist"):
        raise SelectorError(f'"{r.operator}" is not a valid label selector operator')
    return Requirement(r.key, r.operator, frozenset(r.values))


# -------------------------------------------------------------------------------------------------------- labels

_TOKEN = re.compile(r"\s*(==|!=|=|!|,|\(|\)|<|>|[^\s=!,()<>]+)")


class _Tokens:
    def __init__(self, text: str) -> None:
        self.found: list[str] = []
        at = 0
        while at < len(text):
            token = _TOKEN.match(text, at)
            if token is None:
                break
            self.found.append(token[1])
            at = token.end()
        self.at = 0

    def peek(self) -> str:
        return self.found[self.at] if self.at < len(self.found) else ""

    def next(self) -> str:
        token = self.peek()
        self.at += 1
        return token


_SYMBOLS = frozenset("=!,()<>") | {"==", "!="}


@lru_cache(maxsize=1024)
def parse_labels(text: str) -> Selector:
    """``app=web,tier in (a, b),!old`` as a Selector. Raises SelectorError."""
    tokens = _Tokens(text)
    if not tokens.peek():
        return EVERYTHING
    made: list[Requirement] = []
    while True:
        made.append(_parse_requirement(tokens))
        token = tokens.next()
        if not token:
            return Selector(tuple(sorted(made, key=lambda r: r.key)))
        if token != ",":
            raise SelectorError(f"found '{token}', expected: ',' or 'end of string'")
        if not tokens.peek() or tokens.peek() == ",":
            raise SelectorError(f"found '{tokens.peek()}', expected: identifier after ','")


def _parse_requirement(tokens: _Tokens) -> Requirement:
    absent = tokens.peek() == "!"
    if absent:
        tokens.next()
    key = tokens.next()
    if not key or key in _SYMBOLS:
        raise SelectorError(f"unable to parse requirement: found '{key}', expected: identifier")
    _check(names.qualified_name(key), "key", key)
    if absent:
        return Requirement(key, "DoesNotExist")
    operator = tokens.peek()
    if operator in ("", ","):
        return Requirement(key, "Exists")
    tokens.next()
    match operator:
        case "in" | "notin":
            return Requirement(key, "In" if operator == "in" else "NotIn", _parse_values(tokens, key))
        case "=" | "==" | "!=":
            value = "" if tokens.peek() in ("", ",") else tokens.next()
            if value in _SYMBOLS:
                raise SelectorError(f"unable to parse requirement: found '{value}', expected: identifier")
            _check(names.label_value(value), f"values[0][{key}]", value)
            return Requirement(key, "NotIn" if operator == "!=" else "In", frozenset((value,)))
        case "<" | ">":
            value = tokens.next()
            if not re.fullmatch(r"-?\d+", value):
                message = "for 'Gt', 'Lt' operators, the value must be an integer"
                raise SelectorError(
                    f'unable to parse requirement: values[0][{key}]: Invalid value: "{value}": {message}'
                )
            return Requirement(key, "Gt" if operator == ">" else "Lt", frozenset((value,)))
    raise SelectorError(f"unable to parse requirement: found '{operator}', expected: in, notin, =, ==, !=, gt, lt")


def _parse_values(tokens: _Tokens, key: str) -> frozenset[str]:
    opening = tokens.next()
    if opening != "(":
        raise SelectorError(f"unable to parse requirement: found '{opening}' expected: '('")
    values: set[str] = set()
    expects_value = True
    while True:
        token = tokens.next()
        if token == ")":
            if expects_value:
                values.add("")
            break
        if token == ",":
            if expects_value:
                values.add("")
            expects_value = True
        elif not token or token in _SYMBOLS:
            raise SelectorError(f"unable to parse requirement: found '{token}', expected: ',', or ')'")
        else:
            values.add(token)
            expects_value = False
    for n, value in enumerate(sorted(values)):
        _check(names.label_value(value), f"values[{n}][{key}]", value)
    return frozenset(values)


def _check(faults: list[str], what: str, value: str) -> None:
    if faults:
        raise SelectorError(f'unable to parse requirement: {what}: Invalid value: "{value}": {"; ".join(faults)}')


# -------------------------------------------------------------------------------------------------------- fields


@dataclass(frozen=True, slots=True)
class FieldRequirement:
    field: str
    value: str
    equal: bool = True


@lru_cache(maxsize=1024)
def parse_fields(text: str) -> tuple[FieldRequirement, ...]:
    """``spec.nodeName=a,status.phase!=Running``. Backslash escapes ``,`` ``=`` and itself. Raises SelectorError."""
    made: list[FieldRequirement] = []
    for term in re.split(r"(?<!\\),", text):
        if not term:
            continue
        found = re.match(r"((?:\\.|[^=!\\])+)(==|!=|=)(.*)", term)
        if found is None:
            raise SelectorError(f"invalid selector: '{text}'; can't understand '{term}'")
        field, operator, value = found.groups()
        if re.search(r"(?<!\\)=", value):
            raise SelectorError(f"invalid field selector: unescaped character in value: {value}")
        made.append(FieldRequirement(field.strip(), re.sub(r"\\(.)", r"\1", value), operator != "!="))
    return tuple(made)


def matches_fields(requirements: tuple[FieldRequirement, ...], fields: Mapping[str, str]) -> bool:
    """``fields``: {path: text}; an absent field is the empty text."""
    for one in requirements:  # noqa: SIM110  # asked at each change by each watch that it may concern
        if (fields.get(one.field, "") == one.value) is not one.equal:
            return False
    return True
