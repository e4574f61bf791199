"""The ConfigMaps, Secrets and their kin that pods of this node name: fetched when asked, then followed by a watch each.

The idea: a node may read only the objects its pods refer to, so each gets a watch of its own name, shared by the pods that
use it and ended with the last of them, or once the object says that it never changes. A change tells the pods that use
the object, within moments.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from kaa.api.clock import Clock
from kaa.api.errors import NotFound
from kaa.client.client import Client
from kaa.client.informer import Informer

T = TypeVar("T")
_Name = tuple[type, str, str]  #: (kind, namespace, name)


@dataclass(slots=True)
class _Followed:
    informer: Informer[Any]
    task: asyncio.Task[None] | None = None
    users: set[str] = field(default_factory=set)
    fixed: Any = None  #: the object, if it is immutable: it is watched no more


class Objects:
    """``changed`` is called with a pod's uid whenever something it uses changed. ``run`` before any fetch."""

    def __init__(self, client: Client, clock: Clock, changed: Callable[[str], None]) -> None:
        self._client, self._clock, self._changed = client, clock, changed
        self._followed: dict[_Name, _Followed] = {}
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Own the watches until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                await asyncio.Event().wait()
            finally:
                self._tasks = None

    async def fetch(self, kind: type[T], namespace: str, name: str, *, user: str) -> T | None:
        """An object as it is (None when it does not exist), followed for the pod ``user`` from now on."""
        entry = self._follow((kind, namespace, name), user)
        if entry.fixed is not None:
            return cast(T, entry.fixed)
        if entry.informer.synced.is_set():
            found = entry.informer.get(name, namespace)
            if found is not None:
                return cast(T, found)
        try:
            return await self._client.get(kind, name, namespace)
        except NotFound:
            return None

    def _follow(self, key: _Name, user: str) -> _Followed:
        entry = self._followed.get(key)
        if entry is None:
            kind, namespace, name = key
            informer: Informer[Any] = Informer(
                self._client, kind, self._clock, namespace=namespace, field_selector=f"metadata.name={name}"
            )
            entry = self._followed[key] = _Followed(informer)
            followed = entry
            informer.add_handler(lambda old, new: self._changed_to(followed, new))
            if self._tasks is not None:
                entry.task = self._tasks.create_task(
                    informer.run(), name=f"kubelet/watch {kind.__name__} {namespace}/{name}"
                )
        entry.users.add(user)
        return entry

    def _changed_to(self, entry: _Followed, new: Any) -> None:
        if new is not None and getattr(new, "immutable", None) and entry.task is not None:
            entry.fixed = new
            entry.task.cancel()
        self._tell(entry)

    def _tell(self, entry: _Followed) -> None:
        for user in list(entry.users):
            self._changed(user)

    def release(self, user: str) -> None:
        """A pod is gone: stop following what nobody else uses."""
        for key, entry in list(self._followed.items()):
            entry.users.discard(user)
            if not entry.users:
                del self._followed[key]
                if entry.task is not None:
                    entry.task.cancel()
