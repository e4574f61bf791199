"""What pure functions made of frozen values, remembered.

The idea: ten thousand pods of one template bring one spec. The Struct that a controller hands in, or that ``bodies`` read
from the same bytes before, is the very same object, so whatever is a pure function of it (defaults, what admission adds,
faults, the set of its fields) is worked out once. Values are told apart by identity, which costs nothing to compare, and
are held as long as they are remembered, so that no identity comes twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

R = TypeVar("R")

KEPT = 128  # results a function: more templates than are being written at any one moment


class Memo(Generic[R]):
    """A function of frozen values that answers the newest questions from memory; the oldest answer goes first."""

    __slots__ = ("_function", "_known", "_size")

    def __init__(self, function: Callable[..., R], size: int = KEPT) -> None:
        self._function, self._size = function, size
        self._known: dict[tuple[int, ...], tuple[tuple[Any, ...], R]] = {}

    def __call__(self, *values: Any) -> R:
        identity = tuple(map(id, values))
        found = self._known.get(identity)
        if found is not None:
            return found[1]
        made = self._function(*values)
        if len(self._known) >= self._size:
            del self._known[next(iter(self._known))]
        self._known[identity] = values, made
        return made
