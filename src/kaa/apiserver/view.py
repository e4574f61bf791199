"""What strategies, admission and authorization may read: the newest state that the API server knows.

The idea: deciding needs facts about other objects (does the namespace exist, which cluster IPs are taken); they come from
the watch cache, without I/O and typed, so that deciding stays plain code and is tested with a dict in its place.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from kaa.api.clock import Clock

T = TypeVar("T")


class View(Protocol):
    """Objects are shared and immutable."""

    @property
    def clock(self) -> Clock: ...

    def get(self, kind: type[T], name: str, namespace: str = "") -> T | None: ...

    def list(self, kind: type[T], namespace: str = "") -> Iterable[T]:
        """The objects of a namespace, or of all of them."""
        ...

    def changes(self, kind: type[T], namespace: str, after: int) -> Iterable[tuple[str, T | None]] | None:
        """(name, object or None for one that is gone) of each change in a namespace after a ``version``, oldest first.

        None when they are no longer all known: then only a list tells.
        """
        ...

    def version(self, kind: type[T]) -> int:
        """A number that changes whenever an object of the kind does: what was derived from them may be kept until then."""
        ...
