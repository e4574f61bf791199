"""exec and attach: a process's streams carried over channels, whichever protocol carries those.

``serve`` pumps between the runtime's ``Streams`` and a ``Channels``; ``WebSocketChannels`` and ``SpdyChannels`` are the two.
Source: apimachinery remotecommand constants; kubelet pkg/cri/streaming/remotecommand.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

from kaa.runtime.base import RuntimeFailure, Streams
from kaa.runtime.spdy import Session, Stream

from .websocket import Numbered, WebSocket

#: What we speak, best first.
WEBSOCKET_PROTOCOLS = (
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
)
SPDY_PROTOCOLS = ("v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io")
STREAM_CREATION_S = 30.0
_NUMBERS = {"stdin": 0, "stdout": 1, "stderr": 2, "error": 3, "resize": 4}
_CLOSE = 255
Output = Literal["stdout", "stderr", "error"]


@dataclass(frozen=True, slots=True)
class Options:
    """What the client asked for."""

    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    tty: bool = False


class Channels(Protocol):
    #: Whether the error channel carries a Status (protocol v4 and later) or plain text.
    structured: bool

    def received(self) -> AsyncIterator[tuple[str, bytes]]:
        """(``stdin`` or ``resize``, data); empty data on stdin is its end. Ends when the client is gone."""
        ...

    async def send(self, channel: Output, data: bytes) -> None: ...

    async def finish(self) -> None: ...


async def serve(streams: Streams, channels: Channels, options: Options, command: tuple[str, ...] = ()) -> None:
    """Carry a process's streams until it ends or the client goes; its outcome goes to the error channel."""
    feeding = asyncio.ensure_future(_feed(streams, channels, options))
    draining = asyncio.ensure_future(_drain(streams, channels, options))
    try:
        done, _ = await asyncio.wait((feeding, draining), return_when=asyncio.FIRST_COMPLETED)
        if draining in done:
            code = draining.result()
            await channels.send("error", outcome(code, command, structured=channels.structured))
    except RuntimeFailure as err:
        await channels.send("error", failure(str(err), structured=channels.structured))
    finally:
        feeding.cancel()
        draining.cancel()
        await asyncio.gather(feeding, draining, return_exceptions=True)
        await streams.close()
        await channels.finish()


async def _feed(streams: Streams, channels: Channels, options: Options) -> None:
    """Client to process; ends when the client is gone."""
    async for channel, data in channels.received():
        try:
            if channel == "resize":
                size = _size(data)
                if size is not None and options.tty:
                    await streams.resize(*size)
            elif options.stdin and data:
                await streams.write(data)
            elif options.stdin:
                await streams.close_stdin()
        except (RuntimeFailure, OSError):
            continue  # the process has closed its input; what it still says goes on


def _size(data: bytes) -> tuple[int, int] | None:
    try:
        value = msgspec.json.decode(data)
        return int(value["Width"]), int(value["Height"])
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        return None


async def _drain(streams: Streams, channels: Channels, options: Options) -> int:
    """Process to client; the exit code when it has ended."""
    async for name, data in streams.output():
        if (name == "stdout" and options.stdout) or (name == "stderr" and options.stderr):
            await channels.send(name, data)
    return await streams.wait()


def outcome(code: int, command: tuple[str, ...], *, structured: bool) -> bytes:
    """How it ended, in the error channel's words; nothing for plain-text protocols when all went well."""
    if not structured:
        return b"" if code == 0 else f"command terminated with non-zero exit code: exit status {code}".encode()
    if code == 0:
        return msgspec.json.encode({"metadata": {}, "status": "Success"})
    shown = " ".join(command)
    message = f"command terminated with non-zero exit code: error executing command [{shown}], exit code {code}"
    details = {"causes": [{"reason": "ExitCode", "message": str(code)}]}
    status = {"metadata": {}, "status": "Failure", "message": message, "reason": "NonZeroExitCode", "details": details}
    return msgspec.json.encode(status)


def failure(message: str, *, structured: bool) -> bytes:
    if not structured:
        return message.encode()
    status = {"metadata": {}, "status": "Failure", "message": message, "reason": "InternalError", "code": 500}
    return msgspec.json.encode({**status, "details": {"causes": [{"message": message}]}})


class WebSocketChannels:
    """Channels as the numbers of a WebSocket's messages."""

    def __init__(self, socket: WebSocket, protocol: str, options: Options) -> None:
        self._socket, self._options = Numbered(socket, protocol), options
        self._base64 = "base64" in protocol
        self._closes = protocol.startswith("v5")
        self.structured = protocol.startswith(("v4", "v5"))

    async def received(self) -> AsyncIterator[tuple[str, bytes]]:
        while (message := await self._socket.receive()) is not None:
            number, data = message
            if number == _CLOSE and self._closes:
                if data[:1] == b"\0":
                    yield "stdin", b""
            elif number == 0 and data:
                yield "stdin", data
            elif number == 4:
                yield "resize", data

    async def send(self, channel: Output, data: bytes) -> None:
        if data or channel != "error" or self._base64:
            await self._socket.send(_NUMBERS[channel], data)

    async def finish(self) -> None:
        await self._socket.close()


class SpdyChannels:
    """A SPDY stream a channel, each named by its ``streamtype`` header."""

    def __init__(self, session: Session, streams: dict[str, Stream], protocol: str) -> None:
        self._session, self._streams = session, streams
        self.structured = protocol.startswith("v4")
        self._inbox: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue(maxsize=2)  # chunks, of a frame each

    @classmethod
    async def gather(cls, session: Session, protocol: str, options: Options) -> SpdyChannels:
        """Wait until the client has opened every stream that it asked for. Raises TimeoutError or ConnectionError."""
        wanted = {"error"}
        wanted |= {"stdin"} if options.stdin else set()
        wanted |= {"stdout"} if options.stdout else set()
        wanted |= {"stderr"} if options.stderr and not options.tty else set()
        wanted |= {"resize"} if options.tty and protocol.startswith(("v3", "v4")) else set()
        found: dict[str, Stream] = {}
        async with asyncio.timeout(STREAM_CREATION_S):
            while wanted - set(found):
                stream = await session.accept()
                if stream is None:
                    raise ConnectionError("the client left before it had opened its streams")
                found[stream.headers.get("streamtype", "")] = stream
        return cls(session, found, protocol)

    async def received(self) -> AsyncIterator[tuple[str, bytes]]:
        readers = [asyncio.ensure_future(self._read(name)) for name in ("stdin", "resize") if name in self._streams]
        readers.append(asyncio.ensure_future(self._until_gone()))
        try:
            while (item := await self._inbox.get()) is not None:
                yield item
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)

    async def _read(self, name: str) -> None:
        while data := await self._streams[name].read():
            await self._inbox.put((name, data))
        if name == "stdin":
            await self._inbox.put((name, b""))

    async def _until_gone(self) -> None:
        while await self._session.accept() is not None:
            pass
        await self._inbox.put(None)

    async def send(self, channel: Output, data: bytes) -> None:
        stream = self._streams.get(channel)
        if stream is not None:
            await stream.write(data)

    async def finish(self) -> None:
        for stream in self._streams.values():
            await stream.close()
        await self._session.close()
