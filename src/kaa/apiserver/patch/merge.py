"""JSON merge patch (RFC 7386)."""

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
            merged[key] = value
    return merged
