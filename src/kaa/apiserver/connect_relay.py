"""What goes between a client and a kubelet, a pod or a server behind: bytes, or a log as WebSocket messages.

Source of the messages: apiserver pkg/util/wsstream (stream.go).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Mapping

import httptools

from .http import Connection

_KEY = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _BINARY, _CLOSE = 1, 2, 8
#: how a stream is framed for whom asks for which protocol
_FRAMES = {"": _BINARY, "binary.k8s.io": _BINARY, "base64.binary.k8s.io": _TEXT}


class Relay:
    """Bytes both ways until either side ends."""

    def __init__(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._head, self._reader, self._writer = head, reader, writer

    async def __call__(self, connection: Connection) -> None:
        ended = asyncio.Event()

        def sink(data: bytes) -> None:
            if data:
                self._received(data)
            else:
                ended.set()

        connection.take_over(sink)
        down = asyncio.ensure_future(self._down(connection))
        gone = asyncio.ensure_future(ended.wait())
        try:
            await asyncio.wait((down, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            down.cancel()
            gone.cancel()
            self._writer.close()

    def _received(self, data: bytes) -> None:
        self._writer.write(data)

    async def _down(self, connection: Connection) -> None:
        await connection.write(self._head if self._head.split(b" ", 2)[1] == b"101" else self._last(self._head))
        while data := await self._reader.read(64 * 1024):
            await connection.write(data)

    @staticmethod
    def _last(head: bytes) -> bytes:
        """The head of an answer after which the connection ends, which a client that keeps connections must be told."""
        return without(head, b"connection", b"keep-alive")[:-2] + b"Connection: close\r\n\r\n"


class MessageRelay(Relay):
    """A stream that is only read, as WebSocket messages: an empty one, what comes, and a close frame."""

    def __init__(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: Mapping[str, str]
    ) -> None:
        super().__init__(head, reader, writer)
        self._key = asked.get("sec-websocket-key", "")
        offered = [word.strip() for word in asked.get("sec-websocket-protocol", "").split(",")]
        self._protocol = next((word for word in offered if word in _FRAMES), "")

    def _received(self, data: bytes) -> None:
        """What the client says is of no interest."""

    async def _down(self, connection: Connection) -> None:
        await connection.write(self._handshake())
        kind = _FRAMES[self._protocol]
        await connection.write(_frame(kind, b""))
        async for data in contents(self._head, self._reader):
            await connection.write(_frame(kind, base64.b64encode(data) if kind == _TEXT else data))
        await connection.write(_frame(_CLOSE, (1000).to_bytes(2, "big")))

    def _handshake(self) -> bytes:
        accept = base64.b64encode(hashlib.sha1((self._key + _KEY).encode(), usedforsecurity=False).digest()).decode()
        lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
        lines.append(f"Sec-WebSocket-Accept: {accept}")
        if self._protocol:
            lines.append(f"Sec-WebSocket-Protocol: {self._protocol}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def asks_for_messages(headers: Mapping[str, str]) -> bool:
    """Whether a request's headers ask for a WebSocket that can be had."""
    return (
        headers.get("upgrade", "").lower() == "websocket"
        and "upgrade" in headers.get("connection", "").lower()
        and bool(headers.get("sec-websocket-key"))
    )


def _frame(kind: int, data: bytes) -> bytes:
    """One whole message, as a server sends it: unmasked. Source: RFC 6455, 5.2."""
    size = len(data)
    if size < 126:
        return bytes((0x80 | kind, size)) + data
    if size < 1 << 16:
        return bytes((0x80 | kind, 126)) + size.to_bytes(2, "big") + data
    return bytes((0x80 | kind, 127)) + size.to_bytes(8, "big") + data


def header(head: bytes, name: bytes) -> bytes:
    """A header's value; ``name`` is lower case. Empty when it is not there."""
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.lower() == name:
            return value.strip()
    return b""


def without(head: bytes, *names: bytes) -> bytes:
    """A head without these headers; ``names`` are lower case."""
    first, *lines = head.split(b"\r\n")
    kept = [line for line in lines if line.partition(b":")[0].lower() not in names]
    return b"\r\n".join((first, *kept))


class _Body:
    """What httptools tells of an answer's body."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.complete = False

    def on_body(self, data: bytes) -> None:
        self.parts.append(data)

    def on_message_complete(self) -> None:
        self.complete = True


async def contents(head: bytes, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """An answer's body without its chunks' frames. It ends where it says, or with the connection."""
    body = _Body()
    parser = httptools.HttpResponseParser(body)
    data = head
    while data and not body.complete:
        try:
            parser.feed_data(data)
        except httptools.HttpParserError:
            return
        for part in body.parts:
            yield part
        body.parts.clear()
        if not body.complete:
            data = await reader.read(64 * 1024)
