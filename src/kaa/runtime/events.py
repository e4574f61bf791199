"""Events to whoever listens: bounded, and advisory, so the oldest are dropped before anyone is made to wait."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import AsyncIterator

from .base import RuntimeEvent

_BACKLOG = 4096


class Subscription(AsyncIterator[RuntimeEvent]):
    """Events since it was made. Ends when the runtime closes."""

    def __init__(self) -> None:
        self.pending: deque[RuntimeEvent] = deque(maxlen=_BACKLOG)
        self.arrived, self.closed = asyncio.Event(), False

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> RuntimeEvent:
        while not self.pending:
            if self.closed:
                raise StopAsyncIteration
            self.arrived.clear()
            await self.arrived.wait()
        return self.pending.popleft()


class Events:
    """The list of listeners; one that is no longer referred to vanishes by itself."""

    def __init__(self) -> None:
        self._listeners: weakref.WeakSet[Subscription] = weakref.WeakSet()

    def subscribe(self) -> Subscription:
        listener = Subscription()
        self._listeners.add(listener)
        return listener

    def publish(self, event: RuntimeEvent) -> None:
        for listener in list(self._listeners):
            listener.pending.append(event)
            listener.arrived.set()

    def close(self) -> None:
        for listener in list(self._listeners):
            listener.closed = True
            listener.arrived.set()
