"""What plugins share: the two phases that do nothing, and a refusal in upstream's words."""

from __future__ import annotations

from typing import Any

from kaa.api.errors import Forbidden

from .base import Attributes, Passive

__all__ = ["Passive", "object_name", "refuse"]


def object_name(attributes: Attributes) -> str:
    """The object's name, or the base that its name will be generated from."""
    meta: Any = getattr(attributes.object, "metadata", None)
    given = (meta.name or meta.generate_name) if meta is not None else ""
    return given or attributes.request.name or "Unknown"


def refuse(attributes: Attributes, why: str) -> Forbidden:
    """``pods "x" is forbidden: <why>``"""
    return Forbidden.of(attributes.request.resource, object_name(attributes), why)
