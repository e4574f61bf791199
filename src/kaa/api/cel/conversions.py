"""``int(x)``, ``string(x)`` and their kin.

Source: CEL specification "Standard definitions"; cel-go common/types (ConvertToType); Go strconv.
"""

from __future__ import annotations

import re
from decimal import Decimal
from math import isinf, isnan
from typing import Any, NoReturn

from .errors import EvaluationError
from .instants import duration_text, parse_duration, parse_timestamp, timestamp_text, unix
from .operations import type_name, unsigned, whole
from .values import INT_MAX, INT_MIN, NANOS, UINT_MAX, Duration, Timestamp, Uint

_INTEGER = re.compile(r"[+-]?[0-9]+")
_UNSIGNED = re.compile(r"[0-9]+")
_DOUBLE = re.compile(
    r"[+-]?(?:inf|infinity|nan|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?)", re.IGNORECASE | re.ASCII
)
_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))


def _refuse(value: Any, wanted: str) -> NoReturn:
    raise EvaluationError(f"type conversion error from '{type_name(value)}' to '{wanted}'")


def to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value in _TRUE:
        return True
    if isinstance(value, str) and value in _FALSE:
        return False
    _refuse(value, "bool")


def to_bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    _refuse(value, "bytes")


def to_double(value: Any) -> float:
    if isinstance(value, float):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and _DOUBLE.fullmatch(value):
        number = float(value)
        if not isinf(number) or value.lstrip("+-")[:1] in "iI":
            return number
    _refuse(value, "double")


def to_int(value: Any) -> int:
    kind = type(value)
    if kind is int:
        return int(value)
    if kind is Uint:
        return whole(int(value))
    if kind is float:
        if isnan(value) or isinf(value) or not -(2.0**63) < value < 2.0**63:
            raise EvaluationError("integer overflow")
        return int(value)
    if kind is str and _INTEGER.fullmatch(value) and INT_MIN <= int(value) <= INT_MAX:
        return int(value)
    if kind is Timestamp:
        return int(value.nanos // NANOS)
    if kind is Duration:
        return int(value.nanos)
    _refuse(value, "int")


def to_uint(value: Any) -> Uint:
    kind = type(value)
    if kind is Uint:
        return Uint(value)
    if kind is int:
        return unsigned(value)
    if kind is float:
        if isnan(value) or isinf(value) or not 0 <= value < 2.0**64:
            raise EvaluationError("unsigned integer overflow")
        return Uint(int(value))
    if kind is str and _UNSIGNED.fullmatch(value) and int(value) <= UINT_MAX:
        return Uint(value)
    _refuse(value, "uint")


def to_string(value: Any) -> str:
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(int(value))
        case float():
            return double_text(value)
        case Duration():
            return duration_text(value)
        case Timestamp():
            return timestamp_text(value)
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError:
                raise EvaluationError("invalid UTF-8 in bytes, cannot convert to string") from None
    text = getattr(value, "cel_text", None)
    if text is not None:
        return str(text)
    _refuse(value, "string")


def to_duration(value: Any) -> Duration:
    if isinstance(value, Duration):
        return value
    if type(value) is int:
        return Duration(value)
    found = parse_duration(value) if isinstance(value, str) else None
    return found if found is not None else _refuse(value, "google.protobuf.Duration")


def to_timestamp(value: Any) -> Timestamp:
    if isinstance(value, Timestamp):
        return value
    if type(value) is int:
        return unix(value)
    found = parse_timestamp(value) if isinstance(value, str) else None
    return found if found is not None else _refuse(value, "google.protobuf.Timestamp")


def double_text(value: float) -> str:
    """As Go's ``%g`` at its shortest: ``1e+06``, ``0.0001``, ``3.14``."""
    if isnan(value):
        return "NaN"
    if isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    sign, digits, exponent = Decimal(repr(value)).as_tuple()
    assert isinstance(exponent, int)
    text = "".join(map(str, digits)).lstrip("0") or "0"
    stripped = text.rstrip("0") or "0"
    exponent += len(text) - len(stripped)
    point = len(stripped) + exponent  # where the point stands, counted in digits
    head = "-" if sign else ""
    if stripped == "0":
        return head + "0"
    if not -4 <= point - 1 < 6:
        mantissa = stripped[0] + (f".{stripped[1:]}" if len(stripped) > 1 else "")
        return f"{head}{mantissa}e{'-' if point < 1 else '+'}{abs(point - 1):02d}"
    if point <= 0:
        return f"{head}0.{'0' * -point}{stripped}"
    if point >= len(stripped):
        return head + stripped + "0" * (point - len(stripped))
    return f"{head}{stripped[:point]}.{stripped[point:]}"
