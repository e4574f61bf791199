"""A client that asks as fast as it can, in a process of its own so that it does not share the server's core.

``python -m bench.load`` reads one JSON line on standard input (``Load``) and answers with one (``Outcome``). Raw HTTP/1.1 on
uvloop: no client library's cost is in the figures, but this client is still Python: where wrk is installed, GETs are its.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import msgspec

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


class Load(msgspec.Struct, kw_only=True):
    """What to ask: ``total`` requests over ``connections``; ``{n}`` in path and body becomes the request's number."""

    port: int
    token: str
    ca: str
    method: str = "GET"
    path: str
    body: str = ""
    content_type: str = "application/json"
    total: int
    connections: int = 32
    first: int = 0


class Outcome(msgspec.Struct, kw_only=True):
    """Rates in requests a second, times in milliseconds, ``bytes`` of one answer."""

    rate: float
    p50: float
    p99: float
    best: float
    bytes: int
    refused: int = 0


class _Answers(asyncio.Protocol):
    """One connection: a request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before anything else is called
        self._buffer = bytearray()
        self._needed = 0
        self._answered: asyncio.Future[tuple[int, int]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's are not asyncio's classes

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._needed:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            length = _LENGTH.search(self._buffer, 0, end + 2)
            self._needed = end + 4 + int(length[1]) if length else -1
        whole = self._buffer.endswith(b"\r\n0\r\n\r\n") if self._needed < 0 else len(self._buffer) >= self._needed
        if whole and self._answered is not None:
            status, size = int(self._buffer[9:12]), len(self._buffer)
            self._buffer.clear()
            self._needed = 0
            self._answered.set_result((status, size))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(exc or ConnectionResetError("the server closed the connection"))

    async def ask(self, request: bytes) -> tuple[int, int]:
        """(status, bytes of the answer)."""
        self._answered = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._answered


async def run(load: Load) -> Outcome:
    context = ssl.create_default_context(cafile=load.ca)
    head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {load.token}\r\nAccept: application/json\r\n"
    times: list[float] = []
    size = refused = 0
    numbers = iter(range(load.first, load.first + load.total))
    loop = asyncio.get_running_loop()
    clients = [
        (await loop.create_connection(_Answers, "127.0.0.1", load.port, ssl=context))[1]
        for _ in range(load.connections)
    ]

    async def worker(client: _Answers) -> None:
        nonlocal size, refused
        for n in numbers:
            body = load.body.replace("{n}", str(n)).encode()
            more = f"Content-Type: {load.content_type}\r\nContent-Length: {len(body)}\r\n" if body else ""
            line = f"{load.method} {load.path.replace('{n}', str(n))} HTTP/1.1\r\n"
            asked = time.perf_counter()
            status, size = await client.ask(f"{line}{head}{more}\r\n".encode() + body)
            times.append(time.perf_counter() - asked)
            refused += status >= 300

    begin = time.perf_counter()
    await asyncio.gather(*(worker(client) for client in clients))
    elapsed = time.perf_counter() - begin
    for client in clients:
        client.transport.close()
    times.sort()
    return Outcome(
        rate=load.total / elapsed,
        p50=statistics.median(times) * 1e3,
        p99=times[len(times) * 99 // 100] * 1e3,
        best=times[0] * 1e3,
        bytes=size,
        refused=refused,
    )


def together(loads: Sequence[Load]) -> list[Outcome]:
    """Run loads side by side, a process each."""
    processes = [
        subprocess.Popen([sys.executable, "-m", "bench.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in loads
    ]
    for process, load in zip(processes, loads, strict=True):
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(load) + b"\n")
        process.stdin.close()
    found = []
    for process in processes:
        assert process.stdout is not None
        found.append(msgspec.json.decode(process.stdout.read(), type=Outcome))
        process.wait()
    return found


if __name__ == "__main__":
    import uvloop

    asked = msgspec.json.decode(sys.stdin.buffer.readline(), type=Load)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(run(asked))) + b"\n")
