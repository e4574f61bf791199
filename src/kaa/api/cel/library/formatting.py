"""``'%s has %d pods'.format([name, count])``.

Source: cel-go ext/formatting.go.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from math import isinf, isnan
from typing import Any

from ..conversions import double_text, to_string
from ..errors import EvaluationError
from ..operations import type_name
from ..types import Type
from ..values import Duration, Timestamp

_CLAUSE = re.compile(r"%(?:\.(\d*))?(.?)", re.DOTALL)
_MOST_DIGITS = 1000


def format_string(text: str, arguments: Sequence[Any]) -> str:
    """The text with its clauses filled in. Raises EvaluationError: a bad clause, or an argument that does not fit."""
    at = 0

    def fill(found: re.Match[str]) -> str:
        nonlocal at
        precision, verb = found.groups()
        if verb == "%" and precision is None:
            return "%"
        if verb == "":
            raise EvaluationError("could not parse formatting clause: unexpected end of string")
        write = _VERBS.get(verb)
        if write is None:
            raise EvaluationError(f'could not parse formatting clause: unrecognized formatting clause "{verb}"')
        if at >= len(arguments):
            raise EvaluationError(f"index {at} out of range")
        digits = _precision(precision)
        at += 1
        return write(arguments[at - 1], digits)

    return _CLAUSE.sub(fill, text)


def format_fault(text: str, count: int) -> str | None:
    """Why a format cannot be filled with so many arguments; None where it can."""
    wanted = 0
    for precision, verb in _CLAUSE.findall(text):
        if verb == "%" and not precision:
            continue
        if verb == "":
            return "could not parse formatting clause: unexpected end of string"
        if verb not in _VERBS:
            return f'could not parse formatting clause: unrecognized formatting clause "{verb}"'
        if wanted >= count:
            return f"index {wanted} out of range"
        wanted += 1
    if count > wanted:
        return f"too many arguments supplied to string.format (expected {wanted}, got {count})"
    return None


def _precision(text: str | None) -> int:
    if text is None:
        return 6
    if text == "":
        return 0
    if int(text) > _MOST_DIGITS:
        raise EvaluationError(f"precision {text} exceeds maximum supported precision {_MOST_DIGITS}")
    return int(text)


def _refuse(clause: str, wanted: str, value: Any) -> EvaluationError:
    return EvaluationError(
        f"error during formatting: {clause} clause can only be used on {wanted}, was given {type_name(value)}"
    )


def _no_number(value: float) -> str | None:
    if isnan(value):
        return "NaN"
    if isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return None


def _fixed_shortest(value: float) -> str:
    shown = double_text(value)
    if "e" not in shown:
        return shown
    whole = f"{value:.340f}".rstrip("0").rstrip(".") if abs(value) < 1 else f"{int(value)}"
    return repr(value) if "e" not in repr(value) and not repr(value).endswith(".0") else whole


def _string(value: Any, _digits: int = 6) -> str:
    match value:
        case None:
            return "null"
        case bool() | str() | Duration() | Timestamp():
            return to_string(value)
        case bytes():
            return value.decode("utf-8", "replace")
        case float():
            return _no_number(value) or _fixed_shortest(value)
        case int():
            return str(int(value))
        case Type():
            return value.name
        case Mapping():
            inner = sorted(f"{_string(key)}: {_string(item)}" for key, item in value.items())
            return "{" + ", ".join(inner) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(_string, value)) + "]"
    raise _refuse(
        "string", "strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps", value
    )


def _decimal(value: Any, _digits: int) -> str:
    if isinstance(value, float) and (shown := _no_number(value)):
        return shown
    if isinstance(value, int) and not isinstance(value, bool):
        return str(int(value))
    raise _refuse("decimal", "integers", value)


def _float(value: Any, clause: str) -> float:
    if isinstance(value, float):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    raise _refuse(clause, "doubles", value)


def _fixed(value: Any, digits: int) -> str:
    number = _float(value, "fixed-point")
    return _no_number(number) or f"{number:.{digits}f}"


def _scientific(value: Any, digits: int) -> str:
    number = _float(value, "scientific")
    return _no_number(number) or f"{number:.{digits}e}"


def _binary(value: Any, _digits: int) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, int):
        return f"{int(value):b}"
    raise _refuse("binary", "integers and bools", value)


def _octal(value: Any, _digits: int) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{int(value):o}"
    raise _refuse("octal", "integers", value)


def _hexadecimal(value: Any, _digits: int) -> str:
    if isinstance(value, str):
        return value.encode().hex()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{int(value):x}"
    raise _refuse("hex", "integers, byte buffers, and strings", value)


_VERBS: dict[str, Callable[[Any, int], str]] = {
    "s": _string,
    "d": _decimal,
    "f": _fixed,
    "e": _scientific,
    "b": _binary,
    "o": _octal,
    "x": _hexadecimal,
    "X": lambda value, digits: _hexadecimal(value, digits).upper(),
}
