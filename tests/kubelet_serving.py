"""A kubelet's API on a real port, for tests that are a story of a world and that port."""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from kubelet_world import World
from wsproto.connection import Connection
from wsproto.events import BytesMessage, CloseConnection, TextMessage

from kaa.kubelet.serving.server import KubeletServer
from kaa.runtime import spdy

Story = Callable[[World, int], Awaitable[None]]


@asynccontextmanager
async def serving(tmp_path: Path, **config: Any) -> AsyncIterator[tuple[World, int]]:
    async with World(tmp_path, **config) as world:
        server = KubeletServer(world.kubelet, auth=None, tls=None)
        port = await server.start("127.0.0.1", 0)
        try:
            yield world, port
        finally:
            await server.close()


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., None]:
    def run(story: Story, **config: Any) -> None:
        async def go() -> None:
            async with asyncio.timeout(20), serving(tmp_path, **config) as (world, port):
                await story(world, port)

        asyncio.run(go())

    return run


Play = Callable[..., None]


async def fetch(port: int, path: str) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    raw = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = raw.partition(b"\r\n\r\n")
    if b"chunked" in head:
        body = unchunk(body)
    return int(head.split()[1]), body


def unchunk(body: bytes) -> bytes:
    made = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        made, body = made + body[:length], body[length + 2 :]
    return made


async def upgrade(port: int, method: str, path: str, headers: dict[str, str]) -> tuple[Any, Any, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = "".join(f"{k}: {v}\r\n" for k, v in {"Host": "x", "Connection": "Upgrade", **headers}.items())
    writer.write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    return reader, writer, head


WEBSOCKET = {"Upgrade": "websocket", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}


async def websocket_messages(reader: asyncio.StreamReader, frames: Connection) -> AsyncIterator[bytes]:
    while True:
        for event in frames.events():
            if isinstance(event, BytesMessage):
                yield bytes(event.data)
            elif isinstance(event, TextMessage):
                yield event.data.encode()
            elif isinstance(event, CloseConnection):
                return
        data = await reader.read(65536)
        if not data:
            return
        frames.receive_data(data)


class SpdyClient:
    """A client's half of SPDY/3.1, as client-go speaks it."""

    def __init__(self, reader: Any, writer: Any) -> None:
        self._reader, self._writer = reader, writer
        self._deflate = zlib.compressobj(9, zlib.DEFLATED, 15, 8, zlib.Z_DEFAULT_STRATEGY, spdy.DICTIONARY)
        self._inflate = zlib.decompressobj(zdict=spdy.DICTIONARY)
        self._next = 1

    async def _write(self, data: bytes) -> None:
        self._writer.write(data)

    async def _read(self, size: int) -> bytes:
        data: bytes = await self._reader.readexactly(size)
        return data

    async def open(self, **headers: str) -> int:
        stream_id, self._next = self._next, self._next + 2
        block = self._deflate.compress(spdy.write_headers(headers)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        payload = struct.pack(">IIH", stream_id, 0, 0) + block
        await self._write(struct.pack(">HHB", 0x8003, 1, 0) + len(payload).to_bytes(3, "big") + payload)
        return stream_id

    async def send(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        await self._write(struct.pack(">IB", stream_id, int(end)) + len(data).to_bytes(3, "big") + data)

    async def collect(self, until_ended: set[int]) -> dict[int, bytes]:
        got: dict[int, bytes] = {}
        left = set(until_ended)
        while left:
            head = await self._read(8)
            payload = await self._read(int.from_bytes(head[5:], "big"))
            if head[0] & 0x80:
                if struct.unpack(">HH", head[:4])[1] == 2:
                    self._inflate.decompress(payload[4:])
                continue
            stream_id = struct.unpack(">I", head[:4])[0]
            got[stream_id] = got.get(stream_id, b"") + payload
            if head[4] & 1:
                left.discard(stream_id)
        return got
