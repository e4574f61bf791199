"""The plain values that API types are made of: quantities and times, each a text with a meaning.

A ``Quantity`` is the text that Kubernetes writes, in its canonical form, so equal amounts of one notation are equal
texts; arithmetic happens on what ``quantity`` parses from it.
"""

from __future__ import annotations

from typing import TypeAlias

#: RFC 3339 in UTC with whole seconds: ``2026-11-21T02:31:37Z``. ``api.clock`` reads and writes it.
Time: TypeAlias = str
#: RFC 3339 in UTC with microseconds: ``2026-11-21T02:31:37.000000Z``.
MicroTime: TypeAlias = str


_EXPONENT_FROM = 1e21


class Quantity(str):
    """A canonical Kubernetes quantity: ``500m``, ``1Gi``. ``api.quantity`` parses, formats and compares them."""

    __slots__ = ()


class Base64(str):
    """Bytes as JSON carries them: standard base64 with padding, checked when it is read."""

    __slots__ = ()


def whole(value: float) -> int | float:
    """A number as Go writes a float64: whole ones without point and exponent, below 1e21."""
    return int(value) if value.is_integer() and abs(value) < _EXPONENT_FROM else value


def null() -> None:
    """Makes the default of a field that is on the wire even when it is absent: ``lastProbeTime: null``.

    msgspec leaves out what equals a default, but not what a factory made.
    """
    return
