"""How long a request may take: ``?timeout=`` in Go's notation, within what the server allows.

Source: apiserver pkg/endpoints/filters request_deadline.go; Go time.ParseDuration.
"""

from __future__ import annotations

import re

from kaa.api.errors import BadRequest, Timeout

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]*)(\.([0-9]*))?([^0-9.]*)")


def time_limit(text: str, most_s: float) -> float:
    """Seconds; 0, less, or more than the server allows is what the server allows. Raises BadRequest."""
    try:
        wanted = parse_duration(text) if text else 0.0
    except ValueError as err:
        raise BadRequest(f"invalid timeout specified in the request URL - {err}") from None
    return wanted if 0 < wanted < most_s else most_s


def parse_duration(text: str) -> float:
    """Seconds of ``1h15m30.5s``. Raises ValueError in Go's words."""
    sign, rest = (-1.0, text[1:]) if text[:1] == "-" else (1.0, text.removeprefix("+"))
    if rest == "0":
        return 0.0
    if not rest:
        raise ValueError(f'time: invalid duration "{text}"')
    total = 0.0
    while rest:
        found = _PART.match(rest)
        assert found is not None  # the pattern matches anything
        whole, _, fraction, unit = found.groups()
        if not whole and not fraction:
            raise ValueError(f'time: invalid duration "{text}"')
        if not unit:
            raise ValueError(f'time: missing unit in duration "{text}"')
        if unit not in _UNITS:
            raise ValueError(f'time: unknown unit "{unit}" in duration "{text}"')
        total += float(f"{whole or 0}.{fraction or 0}") * _UNITS[unit]
        rest = rest[found.end() :]
    return sign * total


def timed_out() -> Timeout:
    error = Timeout("Timeout: request did not complete within the allotted timeout")
    error.bare_details = True
    return error
