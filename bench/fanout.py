"""One change to many watches: from sending it to the last watch having its event. Raw HTTP/1.1 on uvloop, one core's client."""

from __future__ import annotations

import asyncio
import json
import ssl
import time

from .load import Load

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"


class _Watching(asyncio.Protocol):
    """One watch; ``arrived`` is called once it has begun, and at each event."""

    def __init__(self, request: bytes, crowd: Crowd) -> None:
        self._request, self._crowd = request, crowd
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before anything else is called

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's are not asyncio's classes
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if b"HTTP/1.1 200" in data or b'"MODIFIED"' in data:
            self._crowd.arrived()

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.lost()


class Crowd:
    """Waits until each of ``size`` watches has what was sent."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.expect()

    def expect(self) -> None:
        self._missing = self._size
        self.all: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def arrived(self) -> None:
        self._missing -= 1
        if not self._missing:
            self.all.set_result(None)

    def lost(self) -> None:
        if not self.all.done():
            self.all.set_exception(ConnectionResetError("a watch ended"))


async def fan_out(load: Load, version: str, watches: int, writes: int) -> list[float]:
    """Milliseconds from sending each of ``writes`` PATCHes to ``configmaps/watched`` to the last watch having its event."""
    loop = asyncio.get_running_loop()
    context = ssl.create_default_context(cafile=load.ca)
    head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {load.token}\r\n"
    query = f"watch=1&resourceVersion={version}&fieldSelector=metadata.name%3Dwatched"
    request = f"GET {CONFIG_MAPS}?{query} HTTP/1.1\r\n{head}\r\n".encode()
    crowd = Crowd(watches)
    opened = [
        (await loop.create_connection(lambda: _Watching(request, crowd), "127.0.0.1", load.port, ssl=context))[0]
        for _ in range(watches)
    ]
    await crowd.all
    _, writer = await asyncio.open_connection("127.0.0.1", load.port, ssl=context)
    delays = []
    for n in range(writes):
        crowd.expect()
        body = json.dumps({"data": {"n": str(n)}})
        more = f"Content-Type: application/merge-patch+json\r\nContent-Length: {len(body)}\r\n"
        begin = time.perf_counter()
        writer.write(f"PATCH {CONFIG_MAPS}/watched HTTP/1.1\r\n{head}{more}\r\n{body}".encode())
        await crowd.all
        delays.append((time.perf_counter() - begin) * 1e3)
    crowd.all.cancel()
    for transport in (*opened, writer.transport):
        transport.abort()
    return delays
