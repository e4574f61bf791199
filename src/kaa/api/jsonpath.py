"""JSONPath as Kubernetes has it: printer columns, selectable fields, ``kubectl get -o jsonpath`` without its template.

    find = compile_path('.status.conditions[?(@.type=="Ready")].status')
    find(document)  # ["True"]

A missing key yields nothing. Source: client-go util/jsonpath.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

Find = Callable[[Any], list[Any]]
_Step = Callable[[Any], Iterable[Any]]

_TOKEN = re.compile(
    r"""\.\.(?P<deep>[\w*-]+) | \.?\[(?P<inside>(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\((?:[^()]|\([^()]*\))*\)|[^\]'"()])*)\] |
    \.(?P<name>(?:[^.\[\]\\]|\\.)+) | (?P<dot>\.)(?=$)""",
    re.VERBOSE,
)
_SLICE = re.compile(r"(-?\d*)(?::(-?\d*))?(?::(-?\d*))?")
_FILTER = re.compile(r"\?\((?P<left>.+?)(?:\s*(?P<operator>==|!=|<=|>=|<|>)\s*(?P<right>.+))?\)$")


class JSONPathError(ValueError):
    """The text is no path."""


def compile_path(text: str) -> Find:
    """The finder of a path such as ``.spec.containers[*].image``. Braces around it are fine.

    Raises: JSONPathError.
    """
    steps = [_step(token) for token in _tokens(text)]

    def find(value: Any) -> list[Any]:
        found: list[Any] = [value]
        for step in steps:
            found = [inner for one in found for inner in step(one)]
        return found

    return find


def _tokens(text: str) -> Iterator[re.Match[str]]:
    path = text.strip()
    if path.startswith("{") and path.endswith("}"):
        path = path[1:-1].strip()
    path = path.removeprefix("$").removeprefix("@")
    if path and path[0] not in ".[":
        path = "." + path
    at = 0
    while at < len(path):
        token = _TOKEN.match(path, at)
        if token is None:
            raise JSONPathError(f"unrecognized character in path: {path[at]!r}")
        yield token
        at = token.end()


def _step(token: re.Match[str]) -> _Step:
    if token["deep"]:
        return _below(token["deep"])
    if token["inside"] is not None:
        return _bracket(token["inside"].strip())
    if token["dot"]:
        return lambda value: (value,)
    return _field(re.sub(r"\\(.)", r"\1", token["name"]))


def _field(name: str) -> _Step:
    if name == "*":
        return _all

    def step(value: Any) -> Iterable[Any]:
        return (value[name],) if isinstance(value, dict) and name in value else ()

    return step


def _all(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _below(name: str) -> _Step:
    here = _field(name)

    def step(value: Any) -> Iterable[Any]:
        yield from here(value)
        for inner in _all(value):
            yield from step(inner)

    return step


def _bracket(inside: str) -> _Step:
    if inside.startswith("?"):
        return _filter(inside)
    parts = [part.strip() for part in re.split(r""",(?=(?:[^'"]|'[^']*'|"[^"]*")*$)""", inside)]
    steps = [_one(part) for part in parts]
    return steps[0] if len(steps) == 1 else lambda value: (found for step in steps for found in step(value))


def _one(part: str) -> _Step:
    if part == "*":
        return _all
    if part[:1] in ("'", '"'):
        return _field(re.sub(r"\\(.)", r"\1", part[1:-1]))
    numbers = _SLICE.fullmatch(part)
    if numbers is None or not part:
        raise JSONPathError(f"invalid array index {part}")
    if ":" not in part:
        return _index(int(part))
    start, stop, step = (int(text) if text else None for text in numbers.groups(default=""))
    return lambda value: value[start:stop:step] if isinstance(value, list) else ()


def _index(n: int) -> _Step:
    def step(value: Any) -> Iterable[Any]:
        return (value[n],) if isinstance(value, list) and -len(value) <= n < len(value) else ()

    return step


_COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: bool(a == b),
    "!=": lambda a, b: bool(a != b),
    "<": lambda a, b: bool(a < b),
    "<=": lambda a, b: bool(a <= b),
    ">": lambda a, b: bool(a > b),
    ">=": lambda a, b: bool(a >= b),
}


def _filter(inside: str) -> _Step:
    found = _FILTER.fullmatch(inside)
    if found is None:
        raise JSONPathError(f"unterminated filter: {inside}")
    left = _operand(found["left"])
    right = _operand(found["right"]) if found["right"] else None
    compare = _COMPARED.get(found["operator"] or "")

    def holds(item: Any) -> bool:
        mine = left(item)
        if compare is None or right is None:
            return bool(mine)
        other = right(item)
        try:
            return bool(mine) and bool(other) and compare(mine[0], other[0])
        except TypeError:
            return False

    return lambda value: [item for item in _all(value) if holds(item)]


def _operand(text: str) -> Callable[[Any], Sequence[Any]]:
    text = text.strip()
    if text.startswith(("@", "$")):
        return compile_path(text)
    constant = _constant(text)
    return lambda _: (constant,)


def _constant(text: str) -> Any:
    if text[:1] in ("'", '"'):
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    if text in ("true", "false"):
        return text == "true"
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        raise JSONPathError(f"unrecognized operand {text}") from None
