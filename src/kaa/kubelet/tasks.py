"""Tasks with one owner: begun by name, waited for or cancelled together, so that none outlives what began it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

log = structlog.get_logger(__name__)


class Tasks:
    """A set of keyed tasks. What they raise is logged: a task that may fail says what its failure means itself.

    ``ended`` is called after each has ended and its key is free again.
    """

    def __init__(self, name: str, ended: Callable[[], None] | None = None) -> None:
        self._name, self._tell = name, ended
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, key: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin a task under a free key."""
        assert key not in self._tasks, f"{self._name}: {key} is under way"
        task = asyncio.get_running_loop().create_task(work, name=f"{self._name}/{key}")
        self._tasks[key] = task
        task.add_done_callback(lambda done: self._ended(key, done))
        return task

    def _ended(self, key: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
        if not task.cancelled() and task.exception() is not None:
            log.error("task failed", task=task.get_name(), exc_info=task.exception())
        if self._tell is not None:
            self._tell()

    def __contains__(self, key: str) -> bool:
        return key in self._tasks

    @property
    def keys(self) -> frozenset[str]:
        return frozenset(self._tasks)

    def end(self, key: str) -> None:
        """Cancel a task; its key is free once it has ended."""
        task = self._tasks.get(key)
        if task is not None:
            task.cancel()

    def cancel(self, key: str) -> None:
        """Cancel a task; its key is free at once."""
        task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Cancel all and wait until they have ended."""
        left = list(self._tasks.values())
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
