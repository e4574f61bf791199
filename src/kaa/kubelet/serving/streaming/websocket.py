"""A WebSocket after its handshake: whole messages in and out, pings answered. Frames are wsproto's business."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
from collections.abc import Iterable

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from kaa.runtime.pipe import Pipe

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_MESSAGE_MAX = 32 * 1024 * 1024


def accept_key(key: str) -> str:
    """``Sec-WebSocket-Accept`` for a request's ``Sec-WebSocket-Key`` (RFC 6455, 4.2.2)."""
    return base64.b64encode(hashlib.sha1((key + _GUID).encode(), usedforsecurity=False).digest()).decode()


def choose(offered: str, spoken: Iterable[str]) -> str:
    """The first protocol we speak that the client offers, in our order; empty for none."""
    wanted = [word.strip() for word in offered.split(",")]
    return next((protocol for protocol in spoken if protocol in wanted), "")


def handshake(key: str, protocol: str) -> bytes:
    """The answer that turns an HTTP connection into a WebSocket."""
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept_key(key)}",
    ]
    if protocol:
        lines.append(f"Sec-WebSocket-Protocol: {protocol}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class WebSocket:
    """One connection's server side, on a pipe behind the handshake."""

    def __init__(self, pipe: Pipe, *, initial: bytes = b"") -> None:
        self._pipe = pipe
        self._frames = Connection(ConnectionType.SERVER)
        self._part: list[bytes] = []
        self._part_bytes = 0
        self._ready: list[bytes] = []
        self._closed = False
        self._sending = asyncio.Lock()
        if initial:
            self._frames.receive_data(initial)

    async def receive(self) -> bytes | None:
        """The next message; None once the other side has closed."""
        while not self._ready:
            if self._closed:
                return None
            if await self._handle_events():
                continue
            data = await self._pipe.read()
            if not data:
                self._closed = True
                return None
            try:
                self._frames.receive_data(data)
            except RemoteProtocolError:
                await self.close(1002)
        return self._ready.pop(0)

    async def _handle_events(self) -> bool:
        """Take in what has arrived; true when that ended the wait."""
        try:
            for event in self._frames.events():
                match event:
                    case BytesMessage() | TextMessage():
                        self._gather(event)
                    case Ping():
                        await self._send(self._frames.send(event.response()))
                    case CloseConnection():
                        await self._answer_close(event)
        except RemoteProtocolError:
            await self.close(1002)
        return bool(self._ready) or self._closed

    def _gather(self, event: BytesMessage | TextMessage) -> None:
        data = event.data
        self._part.append(data.encode() if isinstance(data, str) else bytes(data))
        self._part_bytes += len(self._part[-1])
        if self._part_bytes > _MESSAGE_MAX:
            self._closed = True
            return
        if event.message_finished:
            self._ready.append(b"".join(self._part))
            self._part, self._part_bytes = [], 0

    async def _answer_close(self, event: CloseConnection) -> None:
        self._closed = True
        try:
            await self._send(self._frames.send(event.response()))
        except LocalProtocolError:
            return

    async def send(self, data: bytes, *, text: bool = False) -> None:
        if self._closed:
            return
        message = TextMessage(data=data.decode()) if text else BytesMessage(data=data)
        await self._send(self._frames.send(message))

    async def _send(self, data: bytes) -> None:
        async with self._sending:
            try:
                await self._pipe.write(data)
            except ConnectionError:
                self._closed = True

    async def close(self, code: int = 1000, reason: str = "") -> None:
        if not self._closed:
            self._closed = True
            with contextlib.suppress(LocalProtocolError):  # it was closing already
                await self._send(self._frames.send(CloseConnection(code=code, reason=reason)))
        await self._pipe.close()


class Numbered:
    """Messages of numbered channels: the first byte is the number; in base64 protocols a digit before base64 text."""

    def __init__(self, socket: WebSocket, protocol: str) -> None:
        self._socket, self._base64 = socket, "base64" in protocol

    async def receive(self) -> tuple[int, bytes] | None:
        """(channel, data) of the next message; None once the other side has closed."""
        while (message := await self._socket.receive()) is not None:
            if message and self._base64:
                try:
                    return message[0] - ord("0"), base64.b64decode(message[1:], validate=True)
                except binascii.Error:
                    await self._socket.close(1002)
                    return None
            if message:
                return message[0], message[1:]
        return None

    async def send(self, channel: int, data: bytes) -> None:
        if self._base64:
            await self._socket.send(str(channel).encode() + base64.b64encode(data), text=True)
        else:
            await self._socket.send(bytes([channel]) + data)

    async def close(self) -> None:
        await self._socket.close()


class Tunnel:
    """Bytes inside a WebSocket's messages, as a pipe: SPDY through proxies that know only WebSocket."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket

    async def read(self) -> bytes:
        while (message := await self._socket.receive()) is not None:
            if message:
                return message
        return b""

    async def write(self, data: bytes) -> None:
        await self._socket.send(data)

    async def close(self) -> None:
        await self._socket.close()
