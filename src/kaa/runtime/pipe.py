"""Two-way bytes: what the streaming protocols run on, be it a socket or a WebSocket that tunnels."""

from __future__ import annotations

import asyncio
from typing import Protocol

CHUNK = 64 * 1024


class Pipe(Protocol):
    async def read(self) -> bytes:
        """Some bytes; empty when the other side has ended."""
        ...

    async def write(self, data: bytes) -> None: ...

    async def close(self) -> None: ...


class SocketPipe:
    """A connection taken over from HTTP after its upgrade."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def read(self) -> bytes:
        try:
            return await self._reader.read(CHUNK)
        except ConnectionError:
            return b""

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def close(self) -> None:
        self._writer.close()
