"""Plugins that show themselves by a socket in ``plugins_registry``: asked who they are, handed to who serves their kind.

    a socket appears ──GetInfo──> handler of its type ──NotifyRegistrationStatus──> until the socket goes

The folder and those in it are watched by inotify; each look compares all that is there with all that is registered. A
plugin that cannot be registered is tried again, later each time.
Source: pkg/kubelet/pluginmanager (pluginwatcher, reconciler, operationexecutor).
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec
import structlog

from kaa.api.clock import Clock

from .. import inotify
from ..tasks import Tasks
from . import Refused, RpcFailure

if TYPE_CHECKING:
    from .messages import PluginInfo
    from .rpc import Connection

log = structlog.get_logger(__name__)

FOLDER = "plugins_registry"
_RETRY_FIRST_S, _RETRY_MAX_S = 0.5, 122.0
_ANSWER_TIMEOUT_S = 10.0
_BLIND_S = 30.0  #: between looks where inotify cannot be had


class PluginHandler(Protocol):
    """Serves one type of plugins."""

    async def connect(self, info: PluginInfo, endpoint: str) -> None:
        """A plugin came. Raises Refused with what it is told."""
        ...

    async def disconnect(self, name: str, endpoint: str) -> None:
        """Its socket went."""
        ...


class _Registered(msgspec.Struct, frozen=True):
    type: str
    name: str
    endpoint: str


_Mark = tuple[int, int]  #: what tells a socket from another at its path: inode, time of its making in ns


class PluginRegistry:
    """``handlers``: {``DRAPlugin``: says who serves it}. ``run`` until cancelled."""

    def __init__(self, root: Path, clock: Clock, handlers: Mapping[str, Callable[[], PluginHandler]]) -> None:
        self.folder = root / FOLDER
        self._clock, self._handlers = clock, handlers
        self._marks: dict[str, _Mark] = {}  #: {path: the socket that is registered there, or being so}
        self._registered: dict[str, _Registered] = {}  #: {path: as what}
        self._changed = asyncio.Event()
        self._tasks = Tasks("kubelet/plugin")
        self.watching = asyncio.Event()

    async def run(self) -> None:
        try:
            self.folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        except OSError as err:
            log.error("plugins cannot register", folder=str(self.folder), error=str(err))
            self.watching.set()
            return
        watch = inotify.Watch(self._changed.set, inotify.CREATE | inotify.DELETE | inotify.MOVED | inotify.ONLY_FOLDERS)
        try:
            while True:
                self._changed.clear()
                await self._look(watch)
                self.watching.set()
                await (self._clock.sleep(_BLIND_S) if watch.blind else self._changed.wait())
        finally:
            watch.close()
            await self._tasks.close()

    async def _look(self, watch: inotify.Watch) -> None:
        found = _sockets(self.folder, watch)
        for path, mark in list(self._marks.items()):
            if found.get(path) != mark:
                del self._marks[path]
                self._tasks.cancel(path)
                await self._leave(path)
        for path, mark in found.items():
            if path not in self._marks:
                self._marks[path] = mark
                self._tasks.start(path, self._register(path))

    async def _leave(self, path: str) -> None:
        was = self._registered.pop(path, None)
        if was is not None:
            log.info("plugin left", type=was.type, plugin=was.name)
            await self._handlers[was.type]().disconnect(was.name, was.endpoint)

    async def _register(self, path: str) -> None:
        """Until it succeeds; cancelled when the socket goes."""
        wait = _RETRY_FIRST_S
        while True:
            try:
                await self._try(path)
                return
            except (RpcFailure, Refused, OSError) as err:
                log.warning("plugin not registered", socket=path, error=str(err))
            await self._clock.sleep(wait)
            wait = min(wait * 2, _RETRY_MAX_S)

    async def _try(self, path: str) -> None:
        from .messages import PLUGIN_REGISTRATION, Empty, PluginInfo
        from .rpc import Connection

        connection = await Connection.to(path, PLUGIN_REGISTRATION)
        try:
            await connection.dial()
            info = await connection.call("GetInfo", Empty(), PluginInfo, _ANSWER_TIMEOUT_S)
            endpoint = info.endpoint or path
            try:
                await self._hand_over(path, info, endpoint)
            except Refused as err:
                await self._notify(connection, registered=False, error=str(err))
                raise
            log.info("plugin registered", type=info.type, plugin=info.name, endpoint=endpoint)
            await self._notify(connection, registered=True)
        finally:
            await connection.close()

    async def _hand_over(self, path: str, info: PluginInfo, endpoint: str) -> None:
        handler = self._handlers.get(info.type)
        if handler is None:
            raise Refused(f"no handler registered for plugin type: {info.type} at socket {path}")
        try:
            await handler().connect(info, endpoint)
        except Refused as err:
            raise Refused(f"plugin registration failed with err: {err}") from err
        self._registered[path] = _Registered(info.type, info.name, endpoint)

    async def _notify(self, connection: Connection, *, registered: bool, error: str = "") -> None:
        from .messages import Empty, RegistrationStatus

        status = RegistrationStatus(registered, error)
        try:
            await connection.call("NotifyRegistrationStatus", status, Empty, _ANSWER_TIMEOUT_S)
        except RpcFailure as err:
            log.warning("plugin not told that it is registered", registered=registered, error=str(err))


def _sockets(folder: Path, watch: inotify.Watch) -> dict[str, _Mark]:
    """{path: mark} of every socket in a folder and those below it, which are watched from now on; none that is hidden."""
    found: dict[str, _Mark] = {}
    for place, folders, files in os.walk(folder):
        watch.add(place)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = os.path.join(place, name)
            try:
                facts = os.lstat(path)
            except FileNotFoundError:
                continue
            if stat.S_ISSOCK(facts.st_mode) and not name.startswith("."):
                found[path] = facts.st_ino, facts.st_mtime_ns
    return found
