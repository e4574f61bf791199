"""Filling in what is absent: both answer with their argument when there was nothing to fill."""

from __future__ import annotations

from collections.abc import Callable
from operator import is_
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)


def each(items: tuple[T, ...], fill: Callable[[T], T]) -> tuple[T, ...]:
    """``fill`` applied to all."""
    made = [fill(item) for item in items]
    return items if all(map(is_, items, made)) else tuple(made)


def filled(given: S, **fields: Any) -> S:
    """``given`` with these fields."""
    changes = {name: value for name, value in fields.items() if getattr(given, name) != value}
    return replace(given, **changes) if changes else given
