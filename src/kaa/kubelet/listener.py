"""A gRPC socket of ours that few call. It listens without gRPC: the first caller makes the server start behind it.

Bytes are passed on between callers and that server, whose own socket nobody is told of: gRPC takes no socket that
listens already, and a node on which nobody calls is not to pay for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger(__name__)


class Listener:
    """``serve`` starts the server at a path. ``run`` until cancelled."""

    def __init__(self, path: Path, serve: Callable[[Path], Awaitable[Any]], *, keep: str = "") -> None:
        """``keep``: what stays in the socket's folder, which is emptied of all other files.

        Plugins watch it: that their sockets go and ours is made anew tells them to register again."""
        self._path, self._serve, self._keep = path, serve, keep
        self._inner = path.parent.parent / f".{path.parent.name}.grpc"  # beside the folder: plugins watch what is in it
        self._server: Any = None
        self._starting = asyncio.Lock()
        self.listening = asyncio.Event()

    async def run(self) -> None:
        """A socket that cannot be had (a path over 107 bytes, a full disk) is told of: the node goes on without."""
        try:
            _empty(self._path.parent, self._keep)
            listening = await asyncio.start_unix_server(self._relay, str(self._path))
        except OSError as err:
            log.error("socket not served", path=str(self._path), error=str(err))
            self.listening.set()
            return
        try:
            self.listening.set()
            await asyncio.Event().wait()
        finally:
            self.listening.clear()
            listening.close()
            remove_socket(self._path)
            if self._server is not None:
                await self._server.stop(0)
                remove_socket(self._inner)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._started()
            inner_reader, inner_writer = await asyncio.open_unix_connection(str(self._inner))
            try:
                await asyncio.gather(_pass_on(reader, inner_writer), _pass_on(inner_reader, writer))
            finally:
                inner_writer.close()
        except OSError as err:
            log.warning("connection broke", path=str(self._path), error=str(err))
        finally:
            writer.close()

    async def _started(self) -> None:
        async with self._starting:
            if self._server is None:
                remove_socket(self._inner)
                self._server = await self._serve(self._inner)
                os.chmod(self._inner, 0o600)


def _empty(folder: Path, keep: str) -> None:
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    for entry in folder.iterdir():
        if entry.name != keep and not entry.is_dir():
            entry.unlink(missing_ok=True)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Bytes from one to the other until there are no more."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        if writer.can_write_eof():
            writer.write_eof()


def remove_socket(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
