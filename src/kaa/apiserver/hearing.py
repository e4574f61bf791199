"""Hearing of each change of a kind at once, in the turn of the event loop that takes it in; and resting until one comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from kaa.api.clock import Clock
from kaa.api.selectors import EVERYTHING

from .cacher import Cacher
from .watchers import Change, Watcher


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


async def rest(changed: asyncio.Event, clock: Clock, seconds: float) -> None:
    """Until something has changed, but no longer than ``seconds``."""
    waits = (asyncio.ensure_future(changed.wait()), asyncio.ensure_future(clock.sleep(seconds)))
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
