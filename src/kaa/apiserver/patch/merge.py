"""JSON merge patch (RFC 7386), as upstream applies it."""

from __future__ import annotations

from typing import Any


def merge_patch(document: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """The document with the patch's members put in and its nulls taken out; the one given stays as it was."""
    merged: dict[str, Any] = dict(document)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            inner = merged.get(key)
            merged[key] = merge_patch(inner if isinstance(inner, dict) else {}, value)
        else:
            merged[key] = _without_nulls(value)
    return merged


def _without_nulls(value: Any) -> Any:
    """A list as it is put in: upstream, unlike the RFC, drops the null members of objects in it."""
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return value
