"""Hearing of each change of a kind at once, in the turn of the event loop that takes it in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kaa.api.selectors import EVERYTHING

from .cacher import Cacher, Change, Watcher


class Hearer(Watcher):
    """Tells of changes and keeps none. ``tell`` must not fail and not take long: the watch cache waits for it."""

    def __init__(self, cacher: Cacher, kind: Any, tell: Callable[[Change], None]) -> None:
        super().__init__("", EVERYTHING, ())
        self._tell = tell
        self._cache = cacher.of(kind)
        self._cache.watchers.add(self)

    def offer(self, change: Change) -> None:
        self._tell(change)

    def stop(self) -> None:
        self._cache.watchers.discard(self)
