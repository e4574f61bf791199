"""Frozen Structs as CEL maps: a view with wire names, converted field by field when asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


def view(value: msgspec.Struct) -> Mapping[str, Any]:
    """The object under its wire names; what the wire would not carry is absent."""
    raise NotImplementedError
