"""Ranges of sizes and costs, in 64 bits that stop at their end instead of turning over.

Source: cel-go checker/cost.go (SizeEstimate, CostEstimate).
"""

from __future__ import annotations

from math import ceil
from typing import Final, NamedTuple

from .syntax import Node
from .types import Type

UNLIMITED: Final = 2**64 - 1
#: the way to a value from a variable: ("self", "items", "@items", "name")
Path = tuple[str, ...]


class Range(NamedTuple):
    """From the least to the most, of a size or of a cost; sums and products stop at `UNLIMITED`."""

    low: int
    high: int

    def plus(self, other: Range) -> Range:
        return Range(capped(self.low + other.low), capped(self.high + other.high))

    def times(self, other: Range) -> Range:
        return Range(capped(self.low * other.low), capped(self.high * other.high))

    def scaled(self, factor: float) -> Range:
        return Range(_scaled(self.low, factor), _scaled(self.high, factor))

    def union(self, other: Range) -> Range:
        return Range(min(self.low, other.low), max(self.high, other.high))


def capped(value: int) -> int:
    return min(value, UNLIMITED)


def _scaled(value: int, factor: float) -> int:
    product = float(value) * factor
    return UNLIMITED if product >= 2.0**64 else ceil(product)


def fixed(value: int) -> Range:
    return Range(value, value)


ONE, ZERO, UNKNOWN = fixed(1), fixed(0), Range(0, UNLIMITED)


class Operand(NamedTuple):
    """What pricing a call knows of an argument."""

    node: Node | None
    type: Type
    path: Path
    size: Range | None


class Priced(NamedTuple):
    """A call's cost without its arguments', and the size of what it gives."""

    cost: Range
    size: Range | None = None
