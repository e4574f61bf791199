"""Quantities: ``quantity(self.limit).isLessThan(quantity('1Gi'))``.

Source: apiserver pkg/cel/library/quantity.go; apimachinery pkg/api/resource (which values count as whole).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from typing import ClassVar

from ... import quantity
from ..declarations import Library, function, member
from ..errors import EvaluationError
from ..types import BOOL, DOUBLE, INT, STRING, OpaqueType, Type
from ..values import INT_MAX, INT_MIN

QUANTITY = OpaqueType("kubernetes.Quantity")
_SHAPE = re.compile(r"[+-]?0*(\d*)(?:\.(\d*))?([A-Za-z]*)([+-]?\d*)")
_MOST_DIGITS = 18


@dataclass(frozen=True)
class QuantityValue:
    """``whole``: Go keeps it as an int64 with no negative exponent, so that it can be had as an integer."""

    cel_type: ClassVar[Type] = QUANTITY
    value: Fraction
    whole: bool = field(compare=False)

    def is_integer(self) -> bool:
        return self.whole and INT_MIN <= self.value <= INT_MAX


def _is_whole(text: str, value: Fraction) -> bool:
    found = _SHAPE.fullmatch(text)
    if found is None or value.denominator != 1:
        return False
    digits, fraction, suffix, exponent = found.groups()
    if suffix in quantity.BINARY:
        power = quantity.BINARY[suffix].bit_length() - 1
        return not fraction and 15 - len(digits) - int(power * 3 / 10) - 1 >= 0
    power = int(exponent or 0) if suffix in ("e", "E") and exponent else _DECIMAL_POWERS.get(suffix, 0)
    return power - len(fraction or "") >= 0 and len(digits) + len(fraction or "") <= _MOST_DIGITS


_DECIMAL_POWERS = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}


def parse(text: str) -> QuantityValue:
    try:
        value = quantity.parse(text)
    except quantity.InvalidQuantity as err:
        raise EvaluationError(str(err)) from None
    return QuantityValue(value, _is_whole(text, value))


def _is_quantity(text: str) -> bool:
    try:
        quantity.parse(text)
    except quantity.InvalidQuantity:
        return False
    return True


def _compare(one: QuantityValue, other: QuantityValue) -> int:
    return (one.value > other.value) - (one.value < other.value)


def _added(one: QuantityValue, other: Fraction, whole: bool) -> QuantityValue:
    return QuantityValue(one.value + other, one.whole and whole)


def _as_integer(one: QuantityValue) -> int:
    if one.is_integer():
        return int(one.value)
    raise EvaluationError("cannot convert value to integer")


def _sign(one: QuantityValue) -> int:
    return (one.value > 0) - (one.value < 0)


_Q, _QQ, _QI = (QUANTITY,), (QUANTITY, QUANTITY), (QUANTITY, INT)

LIBRARY = Library(
    "kubernetes.quantity",
    (
        function("quantity", "string_to_quantity", (STRING,), QUANTITY, parse),
        function("isQuantity", "is_quantity_string", (STRING,), BOOL, _is_quantity),
        function("sign", "quantity_sign", _Q, INT, _sign),
        member("isGreaterThan", "quantity_is_greater_than", _QQ, BOOL, lambda a, b: _compare(a, b) == 1),
        member("isLessThan", "quantity_is_less_than", _QQ, BOOL, lambda a, b: _compare(a, b) == -1),
        member("compareTo", "quantity_compare_to", _QQ, INT, _compare),
        member("asApproximateFloat", "quantity_get_float", _Q, DOUBLE, lambda a: float(a.value)),
        member("asInteger", "quantity_get_int", _Q, INT, _as_integer),
        member("isInteger", "quantity_is_integer", _Q, BOOL, lambda a: a.is_integer()),
        member("add", "quantity_add", _QQ, QUANTITY, lambda a, b: _added(a, b.value, b.whole)),
        member("add", "quantity_add_int", _QI, QUANTITY, lambda a, b: _added(a, Fraction(b), True)),
        member("sub", "quantity_sub", _QQ, QUANTITY, lambda a, b: _added(a, -b.value, b.whole)),
        member("sub", "quantity_sub_int", _QI, QUANTITY, lambda a, b: _added(a, Fraction(-b), True)),
    ),
    types={"kubernetes.Quantity": QUANTITY},
)
