"""How long a request may take: ``?timeout=`` in Go's notation, within what the server allows.

Source: apiserver pkg/endpoints/filters request_deadline.go.
"""

from __future__ import annotations

from kaa.api.durations import parse_seconds
from kaa.api.errors import BadRequest, Timeout


def time_limit(text: str, most_s: float) -> float:
    """Seconds; 0, less, or more than the server allows is what the server allows. Raises BadRequest."""
    try:
        wanted = parse_seconds(text) if text else 0.0
    except ValueError as err:
        raise BadRequest(f"invalid timeout specified in the request URL - {err}") from None
    return wanted if 0 < wanted < most_s else most_s


def timed_out() -> Timeout:
    error = Timeout("Timeout: request did not complete within the allotted timeout")
    error.bare_details = True
    return error
