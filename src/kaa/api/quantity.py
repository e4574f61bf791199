"""Kubernetes quantities, exactly: ``250m``, ``1.5Gi``, ``3e2``.

Source: API reference "Quantity"; apimachinery pkg/api/resource.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from math import ceil

from .values import Quantity

#: {suffix: its factor}
BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
DECIMAL: dict[str, Fraction] = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    "": Fraction(1),
    "k": Fraction(10**3),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "T": Fraction(10**12),
    "P": Fraction(10**15),
    "E": Fraction(10**18),
}
_SHAPE = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]?|[eE][+-]?\d+)")
_LARGEST_EXPONENT = 30  # beyond it a quantity is capped upstream; refusing to compute it keeps input bounded
_DECIMAL_BY_POWER = {-9: "n", -6: "u", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P", 18: "E"}

INVALID = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"


class InvalidQuantity(ValueError):
    """The text is no quantity."""

    def __init__(self) -> None:
        super().__init__(INVALID)


def _split(text: str) -> tuple[Fraction, str]:
    found = _SHAPE.fullmatch(text)
    if found is None or len(text) > 64:
        raise InvalidQuantity
    sign, digits, suffix = found.groups()
    number = Fraction(digits.rstrip(".") or "0")
    if suffix in BINARY:
        number *= BINARY[suffix]
    elif suffix in DECIMAL:
        number *= DECIMAL[suffix]
    else:
        exponent = int(suffix[1:])
        if abs(exponent) > _LARGEST_EXPONENT:
            raise InvalidQuantity
        number *= Fraction(10) ** exponent
    return (-number if sign == "-" else number), suffix


@lru_cache(maxsize=8192)
def parse(text: str) -> Fraction:
    """Read a quantity exactly.

    Args:    text: decimal number with an SI or binary suffix or an exponent.
    Returns: the value in base units (cores, bytes), unrounded.
    Raises:  InvalidQuantity: empty text, a bad number, or an unknown suffix.
    """
    return _split(text)[0]


@lru_cache(maxsize=8192)
def canonical(value: str | int | float) -> Quantity:
    """The text that Kubernetes writes for a quantity: no fraction, the largest suffix that keeps it whole.

    ``1000m`` -> ``1``, ``0.5`` -> ``500m``, ``1024Mi`` -> ``1Gi``, ``1.5Gi`` -> ``1536Mi``. Below a nano-unit it rounds up.
    """
    text = str(value)
    number, suffix = _split(text)
    if suffix in BINARY:
        return _binary(number)
    if suffix[:1] in ("e", "E") and len(suffix) > 1:
        return _exponent(number)
    return _decimal(number)


def _binary(number: Fraction) -> Quantity:
    if number.denominator != 1 or abs(number) < 1024:  # upstream: too small for a binary suffix, so decimal
        return _decimal(number)
    for suffix, factor in reversed(BINARY.items()):
        if number % factor == 0:
            return Quantity(f"{number.numerator // factor}{suffix}")
    return Quantity(str(number.numerator))


def _power(number: Fraction) -> tuple[int, int]:
    """``number`` as a whole count of 10**power, with the largest power that is a multiple of three (up to 18)."""
    sign = -1 if number < 0 else 1
    nanos = sign * ceil(abs(number) * 10**9)
    if nanos == 0:
        return 0, 0
    power = -9
    while nanos % 1000 == 0 and power < 18:
        nanos //= 1000
        power += 3
    return nanos, power


def _decimal(number: Fraction) -> Quantity:
    count, power = _power(number)
    return Quantity(f"{count}{_DECIMAL_BY_POWER[power]}")


def _exponent(number: Fraction) -> Quantity:
    count, power = _power(number)
    return Quantity(f"{count}e{power}" if power else str(count))


def format_bytes(count: int) -> Quantity:
    """Bytes with the largest binary suffix that keeps them whole."""
    return _binary(Fraction(count))


def format_millis(count: int) -> Quantity:
    """Thousandths of a unit: 1500 -> ``1500m``, 2000 -> ``2``."""
    return _decimal(Fraction(count, 1000))


def millis(text: str) -> int:
    """The value in thousandths, rounded up, as the scheduler and cgroups count CPU."""
    return ceil(parse(text) * 1000)


def whole(text: str) -> int:
    """The value in whole units, rounded up: bytes, pods."""
    return ceil(parse(text))
