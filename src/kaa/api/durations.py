"""Go's notation of durations: ``1h30m``, ``15.5s``, ``-300ms``.

Source: Go time.ParseDuration.
"""

from __future__ import annotations

import re

NANOS = 1_000_000_000  # in a second
_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": NANOS,
    "m": 60 * NANOS,
    "h": 3600 * NANOS,
}
_PART = re.compile(r"([0-9]*)(?:\.([0-9]*))?([^0-9.]*)")
_MOST = (1 << 63) - 1


def parse_nanos(text: str) -> int:
    """Nanoseconds. Raises ValueError in Go's words."""
    sign, rest = (-1, text[1:]) if text[:1] == "-" else (1, text.removeprefix("+"))
    if rest == "0":
        return 0
    total = 0
    at = 0
    while at < len(rest) or not rest:
        found = _PART.match(rest, at)
        assert found is not None  # the pattern matches anything
        whole, fraction, unit = found.groups()
        if not whole and not fraction:
            raise ValueError(f'time: invalid duration "{text}"')
        if not unit:
            raise ValueError(f'time: missing unit in duration "{text}"')
        if unit not in _UNITS:
            raise ValueError(f'time: unknown unit "{unit}" in duration "{text}"')
        total += int(whole or "0") * _UNITS[unit]
        if fraction:
            total += int(fraction) * _UNITS[unit] // 10 ** len(fraction)
        at = found.end()
    if not -_MOST - 1 <= sign * total <= _MOST:
        raise ValueError(f'time: invalid duration "{text}"')
    return sign * total


def parse_seconds(text: str) -> float:
    """Seconds. Raises ValueError in Go's words."""
    return parse_nanos(text) / NANOS
