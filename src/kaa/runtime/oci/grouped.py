"""Things by id that are also found by what they belong to: a pod's sandboxes, a sandbox's containers, among hundreds of others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from typing import TypeVar

T = TypeVar("T")


class Grouped(MutableMapping[str, T]):
    """``group_of`` says what a thing belongs to, which does not change."""

    def __init__(self, group_of: Callable[[T], str]) -> None:
        self._group_of = group_of
        self._all: dict[str, T] = {}
        self._groups: dict[str, dict[str, T]] = {}

    def of(self, group: str) -> list[T]:
        """Those of one group, the first to come first."""
        return list(self._groups.get(group, {}).values())

    def __getitem__(self, key: str) -> T:
        return self._all[key]

    def __setitem__(self, key: str, thing: T) -> None:
        if key in self._all:
            del self[key]
        self._all[key] = thing
        self._groups.setdefault(self._group_of(thing), {})[key] = thing

    def __delitem__(self, key: str) -> None:
        group = self._group_of(self._all.pop(key))
        del self._groups[group][key]
        if not self._groups[group]:
            del self._groups[group]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)
