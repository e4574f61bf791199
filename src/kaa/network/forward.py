"""Asks other name servers what the cluster's zone does not know, and remembers for a little while.

The idea: a question goes on as it came, under an id of ours and from a port of its own; the answer goes back as it came.
Servers are tried in order, UDP first for a UDP client (a truncated answer is the client's to repeat over TCP).
"""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path
from typing import cast

import structlog

from kaa.api.clock import Clock

from .dns_wire import FormatError, least_ttl

log = structlog.get_logger(__name__)

TIMEOUT_S = 2.0
CACHE_MAX_S = 30.0  #: kubeadm's Corefile: ``cache 30``
CACHE_SIZE = 10_000
IN_FLIGHT = 1000  #: Corefile: ``max_concurrent 1000``


def read_upstreams(path: Path = Path("/etc/resolv.conf")) -> tuple[str, ...]:
    """The ``nameserver`` lines of a resolv.conf; none when there is no such file."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return ()
    words = [line.split() for line in lines]
    return tuple(line[1] for line in words if len(line) >= 2 and line[0] == "nameserver")


class Forwarder:
    """``upstreams`` are addresses, or ``(address, port)`` pairs."""

    def __init__(self, upstreams: tuple[str | tuple[str, int], ...], clock: Clock) -> None:
        self._upstreams = tuple((each, 53) if isinstance(each, str) else each for each in upstreams)
        self._clock = clock
        self._cache: dict[tuple[bytes, bool], tuple[float, bytes]] = {}  #: {(query but its id, tcp): (until, response)}
        self._in_flight = asyncio.Semaphore(IN_FLIGHT)

    async def ask(self, query: bytes, *, tcp: bool) -> bytes | None:
        """The response to a whole query message, or None when nobody answered."""
        key = (query[2:], tcp)
        kept = self._cache.get(key)
        if kept is not None and kept[0] > self._clock.monotonic():
            return query[:2] + kept[1][2:]
        if self._in_flight.locked():
            return None
        async with self._in_flight:
            for server in self._upstreams:
                response = await self._try(server, query, tcp=tcp)
                if response is not None:
                    self._keep(key, response)
                    return query[:2] + response[2:]
        return None

    async def _try(self, server: tuple[str, int], query: bytes, *, tcp: bool) -> bytes | None:
        ident = struct.pack("!H", self._clock.random.getrandbits(16))
        message = ident + query[2:]
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await (ask_tcp(server, message) if tcp else ask_udp(server, message))
        except (OSError, TimeoutError, EOFError) as err:
            log.debug("name server did not answer", server=server[0], error=str(err))
            return None

    def _keep(self, key: tuple[bytes, bool], response: bytes) -> None:
        try:
            ttl = min(least_ttl(response), CACHE_MAX_S)
        except FormatError:
            return
        if ttl <= 0 or response[3] & 15 not in (0, 3) or response[2] & 2:
            return
        if len(self._cache) >= CACHE_SIZE:
            self._cache.pop(next(iter(self._cache)))
        self._cache[key] = (self._clock.monotonic() + ttl, response)


class _Asked(asyncio.DatagramProtocol):
    def __init__(self, message: bytes) -> None:
        self.message = message
        self.answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.DatagramTransport, transport).sendto(self.message)  # by its class 3.11's own is none

    def datagram_received(self, data: bytes, addr: object) -> None:
        if data[:2] == self.message[:2] and len(data) >= 12 and data[2] & 0x80 and not self.answered.done():
            self.answered.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.answered.done():
            self.answered.set_exception(exc)


async def ask_udp(server: tuple[str, int], message: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(lambda: _Asked(message), remote_addr=server)
    try:
        return await protocol.answered
    finally:
        transport.close()


async def ask_tcp(server: tuple[str, int], message: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.write(struct.pack("!H", len(message)) + message)
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        data = await reader.readexactly(length)
    finally:
        writer.close()
    if data[:2] != message[:2] or length < 12:
        raise EOFError("not an answer to our question")
    return data
