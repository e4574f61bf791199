"""exec, attach and port-forward at a CRI runtime: the verb answers with a URL, behind which SPDY streams wait.

SPDY, since it is what every runtime's streaming server speaks, and since the WebSocket protocols that they know cannot say
that standard input has ended. Closing the streams hangs up; what becomes of an exec's process then is the runtime's matter,
for the CRI has no word to kill it.
Source: client-go tools/remotecommand (v4), tools/portforward; kubelet pkg/cri/streaming.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from ..base import RuntimeFailure
from ..pipe import SocketPipe
from ..spdy import Session, Stream

Channel = Literal["stdout", "stderr"]
COMMAND_PROTOCOL, FORWARD_PROTOCOL = "v4.channel.k8s.io", "portforward.k8s.io"
_CONNECT_TIMEOUT_S = 10.0
_QUEUE_MAX = 64


async def connect(url: str, protocol: str) -> Session:
    """Upgrade a connection to a streaming URL. Raises RuntimeFailure."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise RuntimeFailure(f"cannot stream from {url}: only plain http on this machine is spoken")
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
            try:
                lines = (
                    f"POST {parts.path}{'?' + parts.query if parts.query else ''} HTTP/1.1",
                    f"Host: {parts.netloc}",
                    "Connection: Upgrade",
                    "Upgrade: SPDY/3.1",
                    f"X-Stream-Protocol-Version: {protocol}",
                    "Content-Length: 0",
                )
                writer.write("".join(f"{line}\r\n" for line in (*lines, "")).encode())
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                if head.split(" ", 2)[1:2] != ["101"]:
                    body = await reader.read(4096)
                    raise RuntimeFailure(f"cannot stream from {url}: {head.splitlines()[0]} {body.decode().strip()}")
            except BaseException:
                writer.close()
                raise
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as err:
        raise RuntimeFailure(f"cannot stream from {url}: {err or type(err).__name__}") from err
    return Session(SocketPipe(reader, writer))


class CriStreams:
    """The streams of one exec, attach or forwarded connection; see ``Streams`` of the contract."""

    def __init__(self, session: Session, error: Stream, entry: Stream | None, outputs: dict[Channel, Stream]) -> None:
        self._session, self._error, self._entry, self._outputs = session, error, entry, outputs
        self._resize: Stream | None = None
        self._running = asyncio.create_task(self._run(), name="runtime/cri-streams")

    async def _run(self) -> None:
        with contextlib.suppress(ConnectionError):  # they have ended then, which their readers are told
            await self._session.run()

    async def write(self, data: bytes) -> None:
        if self._entry is not None:
            with contextlib.suppress(ConnectionError):  # a side that has gone swallows the rest
                await self._entry.write(data)

    async def close_stdin(self) -> None:
        if self._entry is not None:
            with contextlib.suppress(ConnectionError):
                await self._entry.close()

    async def resize(self, columns: int, rows: int) -> None:
        if self._resize is not None:
            with contextlib.suppress(ConnectionError):
                await self._resize.write(msgspec.json.encode({"Width": columns, "Height": rows}))

    async def output(self) -> AsyncIterator[tuple[Channel, bytes]]:
        queue: asyncio.Queue[tuple[Channel, bytes]] = asyncio.Queue(_QUEUE_MAX)

        async def read(channel: Channel, stream: Stream) -> None:
            while data := await stream.read():
                await queue.put((channel, data))
            await queue.put((channel, b""))

        readers = [
            asyncio.create_task(read(channel, stream), name=f"runtime/cri-{channel}")
            for channel, stream in self._outputs.items()
        ]
        try:
            left = len(readers)
            while left:
                channel, data = await queue.get()
                if data:
                    yield channel, data
                else:
                    left -= 1
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)

    async def wait(self) -> int:
        """What the error stream says when it ends."""
        said = b""
        while data := await self._error.read():
            said += data
        return exit_code(said)

    async def close(self) -> None:
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        await self._session.close()


async def command_streams(url: str, *, stdin: bool, tty: bool) -> CriStreams:
    """The streams of an exec or attach, opened in the order that client-go has."""
    session = await connect(url, COMMAND_PROTOCOL)
    error = await session.open({"streamtype": "error"})
    entry = await session.open({"streamtype": "stdin"}) if stdin else None
    outputs: dict[Channel, Stream] = {"stdout": await session.open({"streamtype": "stdout"})}
    if not tty:
        outputs["stderr"] = await session.open({"streamtype": "stderr"})
    streams = CriStreams(session, error, entry, outputs)
    if tty:
        streams._resize = await session.open({"streamtype": "resize"})
    return streams


class ForwardStreams(CriStreams):
    """One connection to a port. What its error stream says ends the output as a failure."""

    async def output(self) -> AsyncIterator[tuple[Channel, bytes]]:
        async for piece in super().output():
            yield piece
        said = await self._error.read()
        if said:
            raise RuntimeFailure(said.decode("utf-8", "replace"))

    async def wait(self) -> int:
        while await self._error.read():
            pass
        return 0


async def forward_streams(url: str, port: int) -> ForwardStreams:
    session = await connect(url, FORWARD_PROTOCOL)
    headers = {"port": str(port), "requestid": "0"}
    error = await session.open({"streamtype": "error", **headers})
    await error.close()
    data = await session.open({"streamtype": "data", **headers})
    return ForwardStreams(session, error, data, {"stdout": data})


def exit_code(said: bytes) -> int:
    """The exit code in a Status of the v4 protocol; 0 for success and for nothing at all. Raises RuntimeFailure."""
    if not said:
        return 0
    try:
        status = msgspec.json.decode(said)
    except msgspec.DecodeError:
        raise RuntimeFailure(said.decode("utf-8", "replace")) from None
    if status.get("status") == "Success":
        return 0
    causes = (status.get("details") or {}).get("causes") or ()
    code = next((cause["message"] for cause in causes if cause.get("reason") == "ExitCode"), None)
    if code is None:
        raise RuntimeFailure(status.get("message") or "the stream failed")
    return int(code)
