"""Custom resources: plain JSON values with an ObjectMeta.

A custom object has no Struct, for its schema arrives while the server runs. What every object has (metadata) is typed;
the rest is the JSON it came as.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from . import scheme
from .types.meta_v1 import ObjectMeta


class CustomObject(msgspec.Struct, frozen=True, kw_only=True, weakref=True):
    """An object of any kind. ``content`` is everything but kind, apiVersion and metadata; treat it as read-only."""

    kind: str
    api_version: str
    metadata: ObjectMeta
    content: Mapping[str, Any] = msgspec.field(default_factory=dict)

    @property
    def KIND(self) -> str:
        return self.kind

    @property
    def API_VERSION(self) -> str:
        return self.api_version

    def document(self) -> dict[str, Any]:
        head = {"kind": self.kind, "apiVersion": self.api_version, "metadata": scheme.to_builtins(self.metadata)}
        return {**head, **self.content}


def from_document(value: Mapping[str, Any]) -> CustomObject:
    """Read any object's JSON value. Raises scheme.DecodeError when its metadata is none."""
    metadata = scheme.convert(ObjectMeta, value.get("metadata") or {})
    content = {key: inner for key, inner in value.items() if key not in ("kind", "apiVersion", "metadata")}
    return CustomObject(
        kind=value.get("kind", ""), api_version=value.get("apiVersion", ""), metadata=metadata, content=content
    )
