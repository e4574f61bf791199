"""HTTP/1.1 out: what a client of the Kubernetes API needs, on asyncio and httptools.

The idea: a connection carries one request at a time. Answered and whole, it goes back to the pool; a stream (a watch) keeps
its own until it ends. A general client library costs an agent 100 ms of its start and a sixth of its memory.

Left to others: what is asked and what answers mean (http), TLS (ssl).
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol
from urllib.parse import quote, urlsplit

import httptools

CONNECT_S = 60.0
IDLE_CONNECTIONS = 8  # kept open for the next request
#: As many being busy and none coming free for so long, one more is opened: a handshake costs most of all.
PATIENCE_S = 0.05
HIGH_WATER = 1 << 20  # bytes of a stream that wait for their reader before the server is held up
_SAFE = "/?&=%:@!$'()*+,;~"  # what stands in paths and queries as it is; what is quoted already stays so
Headers = Mapping[str, str] | Sequence[tuple[str, str]]  #: pairs where a name comes more than once
_AGAIN = frozenset({"GET", "PUT", "DELETE"})  # may be sent twice without harm


class Broken(ConnectionError):
    """The connection ended before the answer did. ``begun``: some of the answer had come."""

    def __init__(self, message: str, begun: bool) -> None:
        super().__init__(message)
        self.begun = begun


class Connection(asyncio.Protocol):
    """One connection. ``send``, then ``body`` or ``chunks``, then ``send`` again if it is ``reusable``."""

    def __init__(self) -> None:
        self.closed = False
        self.status = 0
        self.headers: list[tuple[str, str]] = []  #: of the last answer; names in lower case
        self.complete = True  #: the last answer has come whole
        self.reusable = True
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # set before anything else is called
        self._parser = httptools.HttpResponseParser(self)
        self._chunks: deque[bytes] = deque()
        self._waiting = 0  # bytes in ``_chunks``
        self._held_up = False
        self._framed = False
        self._error: Exception | None = None
        self._news = asyncio.Event()

    # ------------------------------------------------------------------------------------------ from the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's transports are not asyncio's classes

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as err:
            self._error = ConnectionError(f"malformed answer: {err}")
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.reusable = False
        if not self.complete:
            if self.status and not self._framed and exc is None:
                self.complete = True  # an answer without a length ends with its connection
            else:
                self._error = self._error or Broken(str(exc or "the server closed the connection"), self.status > 0)
        self._news.set()

    # ---------------------------------------------------------------------------------------------- from the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.lower()
        if key in (b"content-length", b"transfer-encoding"):
            self._framed = True
        self.headers.append((key.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._news.set()

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)
        self._waiting += len(body)
        if self._waiting > HIGH_WATER and not self._held_up:
            self._held_up = True
            self._transport.pause_reading()
        self._news.set()

    def on_message_complete(self) -> None:
        self.complete = True
        self.reusable = self.reusable and self._parser.should_keep_alive()
        self._news.set()

    # ------------------------------------------------------------------------------------------------- asking

    async def send(self, request: bytes) -> int:
        """Write a request and wait for the answer's head; returns its status. Raises OSError."""
        self.status, self.complete, self._framed = 0, False, False
        self.headers = []
        self._transport.write(request)
        while not self.status:
            await self._wait()
        return self.status

    async def body(self) -> bytes:
        """The whole answer. Raises OSError."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def chunks(self) -> AsyncIterator[bytes]:
        """The answer as it comes. Raises OSError when it breaks off."""
        while True:
            if self._chunks:
                chunk = b"".join(self._chunks)
                self._chunks.clear()
                self._waiting = 0
                if self._held_up and not self.closed:
                    self._held_up = False
                    self._transport.resume_reading()
                yield chunk
            elif self.complete:
                return
            else:
                await self._wait()

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        if self.closed:
            raise Broken("the connection is closed", self.status > 0)
        self._news.clear()
        await self._news.wait()

    @property
    def taken(self) -> bool:
        """The last answer has come whole, and all of it was read: what is left of one would begin the next."""
        return self.complete and not self._chunks

    def close(self) -> None:
        self.reusable = False
        self._transport.abort()


class Asks(Protocol):
    """Where requests are sent."""

    def ask(
        self, method: str, path: str, headers: Headers, body: bytes = b"", *, lasting: bool = False
    ) -> AbstractAsyncContextManager[Connection]:
        """The connection on which the head of the answer has come. ``lasting``: the answer is a stream."""
        ...

    def close(self) -> None: ...


class Pool:
    """The connections to one server. ``server_name`` is whom its certificate must name, if not the host of ``url``."""

    def __init__(self, url: str, tls: ssl.SSLContext | None, headers: dict[str, str], *, server_name: str = "") -> None:
        parts = urlsplit(url)
        self._host, secure = parts.hostname or "", parts.scheme == "https"
        self._port = parts.port or (443 if secure else 80)
        self._tls = (tls or ssl.create_default_context()) if secure else None
        self._server_name = server_name or self._host
        self._base = parts.path.rstrip("/")
        self._head = "".join(f"{name}: {value}\r\n" for name, value in {"Host": parts.netloc, **headers}.items())
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._busy = 0  #: connections that will be given back before long
        self._moves = 0  #: how often a request ended, or one more was opened
        self._promised = 0  #: of ``_idle``, to requests that waited for one and are about to take it
        #: Those who wait for room are told whether one of ``_idle`` is theirs, or they may open one.
        self._waiting: deque[asyncio.Future[bool]] = deque()

    @asynccontextmanager
    async def ask(
        self,
        method: str,
        path: str,
        headers: Headers,
        body: bytes = b"",
        *,
        again: bool = False,
        lasting: bool = False,
    ) -> AsyncIterator[Connection]:
        """The connection on which the head of the answer has come. ``again``: it may be sent twice. Raises OSError."""
        request = self._request(method, path, headers, body)
        if not lasting and self._busy + self._promised >= IDLE_CONNECTIONS and len(self._idle) <= self._promised:
            await self._for_one_given_back()
        self._busy += not lasting
        try:
            connection = await self._sent(request, again=again or method in _AGAIN)
            try:
                yield connection
            finally:
                self._give_back(connection)
        finally:
            self._busy -= not lasting
            self._wake_one()

    async def _for_one_given_back(self) -> None:
        """Until a connection is there; or until all seem stuck, then one request after the other has a new one."""
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        before = -1
        try:
            while not waiter.done() and self._moves != before:
                before = self._moves
                await asyncio.wait((waiter,), timeout=PATIENCE_S)
        finally:
            if waiter.done():
                self._promised -= waiter.result()
            else:
                self._waiting.remove(waiter)
                self._moves += 1

    def _give_back(self, connection: Connection) -> None:
        if connection.taken and connection.reusable and len(self._idle) < IDLE_CONNECTIONS:
            self._idle.append(connection)
        else:
            connection.close()
            self._open.discard(connection)

    def _wake_one(self) -> None:
        """A request has ended, well or not: there is a connection for the next, or room for one."""
        self._moves += 1
        kept = len(self._idle) > self._promised
        if self._waiting and (kept or self._busy + self._promised < IDLE_CONNECTIONS):
            self._promised += kept
            self._waiting.popleft().set_result(kept)

    def _request(self, method: str, path: str, headers: Headers, body: bytes) -> bytes:
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        more = "".join(f"{name}: {value}\r\n" for name, value in pairs)
        if body or method in ("POST", "PUT", "PATCH"):
            more += f"Content-Length: {len(body)}\r\n"
        return f"{method} {self._base}{quote(path, safe=_SAFE)} HTTP/1.1\r\n{self._head}{more}\r\n".encode() + body

    async def _sent(self, request: bytes, *, again: bool) -> Connection:
        """A connection that kept open may have been closed by the server just now: then once more, on a new one."""
        while self._idle:
            connection = self._idle.pop()
            if connection.closed:
                self._open.discard(connection)
                continue
            try:
                await self._send(connection, request)
                return connection
            except Broken as err:
                if err.begun or not again:
                    raise
                break
        connection = await self._connect()
        await self._send(connection, request)
        return connection

    async def _send(self, connection: Connection, request: bytes) -> None:
        try:
            await connection.send(request)
        except BaseException:
            connection.close()
            self._open.discard(connection)
            raise

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        name = self._server_name if self._tls is not None else None
        async with asyncio.timeout(CONNECT_S):
            _, made = await loop.create_connection(
                Connection, self._host, self._port, ssl=self._tls, server_hostname=name
            )
        self._open.add(made)
        return made

    def close(self) -> None:
        for connection in list(self._open):
            connection.close()
        self._open.clear()
        self._idle.clear()
