"""HTTP/1.1 in: an asyncio protocol on httptools that hands requests to an application and writes what it answers.

The idea: an answer that is ready (a cached object) is written in the turn of the loop that read the request, with no task
and no await; one that is not becomes the connection's one task. A connection answers in order.

Left to others: what a request means (front), TLS (ssl). An application may take a connection over (``Upgrade``) and then
speaks on the bare transport.
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from typing import Any, Protocol

import httptools
import structlog

log = structlog.get_logger(__name__)

BODY_LIMIT = 3 * 1024 * 1024  # bytes, as upstream's
#: Between the values of a header that came more than once and whose values may have commas: a line's end is in none.
APART = "\n"
HEADER_LIMIT = 1024 * 1024
READ_MAX = 256 * 1024  # bytes that one read of the transport may bring
HIGH_WATER = 256 * 1024  # bytes waiting in the transport before a writer pauses
COPIED = 16 << 10  # bytes of a chunk up to which its frame is made by copying: one TLS record instead of three
HEADER_TIMEOUT_S = 32.0  # for the TLS handshake, and for a request's head once its first byte is there: as upstream's
IDLE_TIMEOUT_S = 90.0  # between requests, as upstream's
LINGER_S = 0.5  # how long a refused client may go on sending before it is cut: a reset could overtake the answer

_REASONS = {
    101: "Switching Protocols", 200: "OK", 201: "Created", 202: "Accepted", 204: "No Content", 301: "Moved Permanently",
    302: "Found", 304: "Not Modified", 307: "Temporary Redirect", 400: "Bad Request", 401: "Unauthorized",
    403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed", 406: "Not Acceptable", 408: "Request Timeout",
    409: "Conflict", 410: "Gone", 413: "Request Entity Too Large", 415: "Unsupported Media Type",
    417: "Expectation Failed", 422: "Unprocessable Entity", 429: "Too Many Requests", 431: "Request Header Fields Too Large",
    500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Gateway Timeout",
}  # fmt: skip
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_STATUS_LINES = {code: b"HTTP/1.1 %d %s\r\n" % (code, text.encode()) for code, text in _REASONS.items()}


@dataclass(slots=True)
class HttpRequest:
    """One request as it came. ``headers`` have lower-case names; repeated ones are joined by commas."""

    method: str
    target: bytes  #: path and query, as sent
    headers: dict[str, str]
    connection: Connection
    body: bytes = b""
    last: bool = False  #: no other request follows on this connection
    old: bool = False  #: HTTP/1.0: it knows no chunks, and a connection that stays must be said
    note: Callable[[str, str], None] | None = None  #: takes notes for the audit log
    #: What is said of the sender's credentials: (audit annotation, its value, a warning or nothing).
    remarks: tuple[tuple[str, str, str], ...] = ()

    def remark(self, key: str, value: str, warning: str) -> None:
        self.remarks += ((key, value, warning),)

    def wants_upgrade(self) -> bool:
        return "upgrade" in self.headers.get("connection", "").lower() and "upgrade" in self.headers


@dataclass(slots=True)
class HttpResponse:
    """``body`` is bytes, or an iterator of chunks for answers that stream."""

    status: int
    body: bytes | AsyncIterator[bytes] = b""
    content_type: str = "application/json"
    headers: list[tuple[str, str]] = field(default_factory=list)
    endless: bool = False  #: streams that may end after any chunk: a server that stops ends them properly
    lines: bytes = b""  #: header lines that many answers share, as they go on the wire
    audit_id: str = ""  #: the id that the client gave or audit has used; empty: any


class Upgrade(Protocol):
    """An application that takes the connection over. It writes the 101 itself."""

    async def __call__(self, connection: Connection) -> None: ...


Answer = HttpResponse | Upgrade
Application = Callable[[HttpRequest], Answer | Awaitable[Answer]]


class _Date:
    """The Date header, made once a second."""

    at = 0
    line = b""

    @classmethod
    def now(cls) -> bytes:
        second = int(time.time())  # the machine's time by definition: HTTP's Date is not cluster time
        if second != cls.at:
            cls.at, cls.line = second, b"Date: " + formatdate(second, usegmt=True).encode() + b"\r\n"
        return cls.line


class _AuditIds:
    """Ids of answers: UUIDs whose first 80 bits are this process's and whose last 48 count."""

    process = str(uuid.uuid4())[:24].encode()
    counter = itertools.count(int.from_bytes(uuid.uuid4().bytes[:5], "big"))


def new_audit_id() -> str:
    return f"{_AuditIds.process.decode()}{next(_AuditIds.counter):012x}"


@lru_cache(maxsize=256)
def _head_start(status: int, content_type: str) -> bytes:
    """What all heads of a status and content type begin with, up to the audit id."""
    line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
    kind = b"Content-Type: %s\r\n" % content_type.encode() if content_type else b""
    return b"%sCache-Control: no-cache, private\r\n%sAudit-Id: " % (line, kind)


def head(response: HttpResponse, length: int | None, *, old: bool = False) -> bytes:
    """The status line and headers; ``length`` None announces chunks, or (``old``: HTTP/1.0) says no length."""
    size = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
    more = response.lines
    if response.headers:
        lines = [b"%s: %s\r\n" % (name.encode(), value.encode("utf-8", "replace")) for name, value in response.headers]
        more = b"".join((more, *lines))
    start = _head_start(response.status, response.content_type)
    if old:
        start = start.replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    if old and length is None:
        end = b""
    else:
        end = size + b"\r\n"
    if response.audit_id:
        named = response.audit_id.encode("latin-1", "replace")
        return b"%s%s\r\n%s%s%s\r\n" % (start, named, _Date.now(), more, end)
    number = next(_AuditIds.counter)
    return b"%s%s%012x\r\n%s%s%s\r\n" % (start, _AuditIds.process, number, _Date.now(), more, end)


@lru_cache(maxsize=1024)
def _header_name(name: bytes) -> str:
    return name.decode("latin-1").lower()


def _plain(status: int, more: str = "") -> HttpResponse:
    """A refusal of HTTP itself, as Go's server words it."""
    return HttpResponse(status, f"{status} {_REASONS[status]}{more}".encode(), "text/plain; charset=utf-8")


def _heads_too_large() -> HttpResponse:
    return _plain(431)


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before anything else is called
        self.peer_certificate = b""
        self.peer = ""
        self.memo: dict[Any, Any] = {}  #: whatever the application wants to know again on this connection
        self.closed: asyncio.Event = asyncio.Event()
        self._waiting: deque[HttpRequest | HttpResponse] = deque()  #: requests, and the refusal that ends them
        self._task: asyncio.Task[None] | None = None
        self._drained = asyncio.Event()
        self._drained.set()
        self._sink: Callable[[bytes], None] | None = None  #: takes the bytes of an upgraded connection
        self._raw: list[bytes] = []
        self._ended = False  #: what arrives is not read any more
        self._chunked = True  #: the stream that is being sent
        self._continues = False  #: the client waits to be told to send its body, behind other answers
        self._linger: asyncio.TimerHandle | None = None
        self._seen: tuple[Any, bool] = (
            None,
            False,
        )  #: what the last sweep found: (the headers being read, any bytes yet)
        self._seen_at = 0.0
        self._reset()

    def _reset(self) -> None:
        self._target = b""
        self._headers: dict[str, str] = {}
        self._header_bytes = self._head_bytes = 0
        self._in_head = True
        self._body: list[bytes] = []
        self._body_bytes = 0

    # ------------------------------------------------------------------------------------------ from the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's transports are not asyncio's classes
        self.transport.set_write_buffer_limits(high=HIGH_WATER)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        if tls is not None:
            self.peer_certificate = tls.getpeercert(binary_form=True) or b""
        name = transport.get_extra_info("peername")
        self.peer = name[0] if isinstance(name, tuple) else ""
        self._server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._sink is not None:
            self._sink(data)
            return
        if self._ended:
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEADER_LIMIT + READ_MAX:
                self._refuse(_heads_too_large())
                return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
            if rest:
                self._raw.append(rest)
        except httptools.HttpParserError:
            self._refuse(_plain(400))

    def sweep(self, now: float) -> None:
        """Close when nothing has come for too long. Requests set no timers: their headers are a new dict each, so who looks
        now and then sees whether it is still the same one."""
        if self._task is not None or self._sink is not None or self._ended:
            self._seen = (None, False)
            return
        begun = not self._in_head or self._head_bytes > 0
        if self._seen[0] is not self._headers or self._seen[1] != begun:
            self._seen, self._seen_at = (self._headers, begun), now
        elif not self._in_head:
            if now - self._seen_at > self._server.body_timeout_s:
                self._refuse(self._server.too_late())
        elif now - self._seen_at > (self._server.header_timeout_s if begun else self._server.idle_timeout_s):
            self.transport.close()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self.closed.set()
        self._drained.set()
        self._ended = True
        if self._linger is not None:
            self._linger.cancel()
        if self._sink is not None:
            self._sink(b"")
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._drained.clear()

    def resume_writing(self) -> None:
        self._drained.set()

    # ---------------------------------------------------------------------------------------------- from the parser

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > HEADER_LIMIT:
            self._refuse(_heads_too_large())
            return
        key = _header_name(name)
        text = value.decode("latin-1")
        if key in self._headers:
            between = APART if key.startswith("impersonate-") else ","
            text = f"{self._headers[key]}{between}{text}"
        self._headers[key] = text

    def on_headers_complete(self) -> None:
        self._in_head = False
        headers = self._headers
        if "host" not in headers and self._parser.get_http_version() == "1.1":
            self._refuse(_plain(400, ": missing required Host header"))
        length = headers.get("content-length", "")
        if len(length) > 6 and length.isdigit() and int(length[:20]) > self._server.body_limit:
            self._refuse(self._server.too_large(int(length[:20])))
        expected = headers.get("expect")
        if expected:
            self._expect(expected)

    def _expect(self, expected: str) -> None:
        """Tell a client that waits for it to send the body, once the answers before it are out."""
        if expected.lower() != "100-continue":
            self._refuse(_plain(417))
        elif self._task is not None:
            self._continues = True
        elif not self._ended:
            self.transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._ended:
            return
        if self._body_bytes > self._server.body_limit:
            self._refuse(self._server.too_large(self._body_bytes))
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self._ended:
            return
        parser = self._parser
        request = HttpRequest(parser.get_method().decode(), self._target, self._headers, self, b"".join(self._body))
        if "connection" in request.headers or not parser.should_keep_alive():
            request.old = parser.get_http_version() == "1.0"
            request.last = not parser.should_keep_alive()
        if parser.should_upgrade():  # whatever the answer is: what follows would be another protocol
            request.last = True
        self._reset()
        if self._task is None:
            self._answer(request)
            return
        self._waiting.append(request)
        if len(self._waiting) > 64:
            self.transport.pause_reading()

    # ------------------------------------------------------------------------------------------------- answering

    def _refuse(self, refusal: HttpResponse) -> None:
        """Answer no, in its turn, and read no further."""
        if self._ended:
            return
        self._ended = True
        self._body.clear()
        if self._task is None:
            self._write(refusal, close=True)
        else:
            self._waiting.append(refusal)

    def _answer(self, request: HttpRequest) -> None:
        answer = self._server.ask(request)
        if isinstance(answer, HttpResponse) and isinstance(answer.body, bytes):
            self._write(answer, request, close=self._ends(request))
        else:
            self._task = self._server.start(self._finish(request, answer), f"http {request.method}")

    def _ends(self, request: HttpRequest) -> bool:
        return request.last or self._server.closing

    async def _finish(self, request: HttpRequest, answer: Answer | Awaitable[Answer]) -> None:
        """Answer; an answer that broke off leaves a connection on which nothing more can be said."""
        try:
            await self._finish_all(request, answer)
        except BaseException:
            self.transport.close()
            raise

    async def _finish_all(self, request: HttpRequest, answer: Answer | Awaitable[Answer]) -> None:
        """Await and write one answer, then those that queued behind it."""
        upcoming: HttpRequest | HttpResponse | None = request
        while isinstance(upcoming, HttpRequest):
            made = await answer if isinstance(answer, Awaitable) else answer
            if isinstance(made, HttpResponse):
                await self._send(made, upcoming)
            else:
                await made(self)
                self.transport.close()
                return
            if self._ends(upcoming):
                return
            upcoming = self._waiting.popleft() if self._waiting else None
            if isinstance(upcoming, HttpRequest):
                self.transport.resume_reading()
                answer = self._server.ask(upcoming)
        self._task = None
        if isinstance(upcoming, HttpResponse):
            self._write(upcoming, close=True)
        elif self._continues:
            self._continues = False
            self.transport.write(_CONTINUE)

    async def _send(self, response: HttpResponse, request: HttpRequest) -> None:
        if isinstance(response.body, bytes):
            self._write(response, request, close=self._ends(request))
            await self._drained.wait()
            return
        close = self._ends(request) or request.old
        if close:
            request.last = self._ended = True
            response.headers.append(("Connection", "close"))
        body = response.body
        ended = b"" if request.old else b"0\r\n\r\n"
        self.transport.write(head(response, None, old=request.old))
        try:
            if request.method == "HEAD":
                ended = b""
            else:
                await self._stream(body, chunked=not request.old)
        except asyncio.CancelledError:
            if response.endless and self._server.closing:
                self.transport.write(ended)
            raise
        finally:
            stop = getattr(body, "aclose", None)
            if stop is not None:
                await stop()
        if ended:
            self.transport.write(ended)
        if close:
            self._hang_up()

    async def _stream(self, body: AsyncIterator[bytes], *, chunked: bool) -> None:
        self._chunked = chunked
        async for chunk in body:
            if chunk:
                self._write_piece(chunk)
                if not self._drained.is_set():
                    await self._drained.wait()

    def write_chunk(self, chunk: bytes) -> bool:
        """Write a chunk of the answer that is being streamed, out of its iterator's turn. False: the client reads slowly."""
        if not self._drained.is_set():
            return False
        self._write_piece(chunk)
        return True

    def _write_piece(self, chunk: bytes) -> None:
        if not self._chunked:
            self.transport.write(chunk)
        elif len(chunk) <= COPIED:
            self.transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        else:
            self.transport.writelines((b"%x\r\n" % len(chunk), chunk, b"\r\n"))

    def _write(self, response: HttpResponse, request: HttpRequest | None = None, *, close: bool = False) -> None:
        assert isinstance(response.body, bytes)
        old = request is not None and request.old
        if close or old:
            response.headers.append(("Connection", "close" if close else "keep-alive"))
        start = head(response, len(response.body), old=old)
        empty = request is not None and request.method == "HEAD"
        self.transport.write(start if empty else start + response.body)
        if close:
            self._hang_up()

    def _hang_up(self) -> None:
        """Close; a client that may still be sending is first given the time to read its answer."""
        self._ended = True
        self._waiting.clear()
        if self._in_head and not self._head_bytes:
            self.transport.close()
        elif self._linger is None:
            self.transport.resume_reading()
            self._linger = asyncio.get_running_loop().call_later(LINGER_S, self.transport.close)

    def shut(self) -> None:
        """End now, streams at a chunk's end: the server stops."""
        if self._task is not None:
            self._task.cancel()
        else:
            self.transport.close()

    # --------------------------------------------------------------------------------------- taking a connection over

    def take_over(self, sink: Callable[[bytes], None]) -> None:
        """From now on every byte received goes to ``sink``; an empty one says that the client has gone."""
        self._sink = sink
        for data in self._raw:
            sink(data)
        self._raw.clear()

    async def write(self, data: bytes) -> None:
        """Write on a connection that was taken over, waiting while the client does not read."""
        self.transport.write(data)
        await self._drained.wait()


class HttpServer:
    """Listens, and owns every task that its connections start."""

    def __init__(
        self,
        application: Application,
        *,
        body_limit: int = BODY_LIMIT,
        too_large: Callable[[int], HttpResponse] | None = None,
        too_late: Callable[[], HttpResponse] | None = None,
        body_timeout_s: float = 60.0,
    ) -> None:
        self._application = application
        self.body_limit = body_limit
        self.too_large = too_large or (lambda _: HttpResponse(413, b"413", "text/plain; charset=utf-8"))
        self.too_late = too_late or (lambda: _plain(408))
        self.header_timeout_s, self.idle_timeout_s = HEADER_TIMEOUT_S, IDLE_TIMEOUT_S
        self.body_timeout_s = body_timeout_s  #: for the whole of a body
        self.connections: set[Connection] = set()
        self.closing = False
        self._tasks: asyncio.TaskGroup | None = None
        self._listening: list[asyncio.Server] = []

    def ask(self, request: HttpRequest) -> Answer | Awaitable[Answer]:
        return self._application(request)

    def start(self, work: Any, name: str) -> asyncio.Task[None]:
        assert self._tasks is not None
        return self._tasks.create_task(_contained(work), name=name)

    async def listen(self, host: str, port: int, context: ssl.SSLContext | None) -> int:
        """Open a socket; returns its port. Requests are answered once ``run`` is on."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Connection(self),
            host,
            port,
            ssl=context,
            backlog=1024,
            start_serving=False,
            ssl_handshake_timeout=self.header_timeout_s if context is not None else None,
        )
        self._listening.append(server)
        found: int = server.sockets[0].getsockname()[1]
        return found

    async def run(self) -> None:
        """Serve until cancelled; then connections are closed and their tasks ended."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                for server in self._listening:
                    await server.start_serving()
                await self._sweep()
            finally:
                self.closing = True
                for server in self._listening:
                    server.close()
                for connection in list(self.connections):
                    connection.shut()

    async def _sweep(self) -> None:
        """Look for connections that have gone silent, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(self.header_timeout_s, self.idle_timeout_s, self.body_timeout_s) / 4)
            for connection in list(self.connections):
                connection.sweep(loop.time())


async def _contained(work: Awaitable[None]) -> None:
    """A connection's failure is its own: it must not end the server's task group."""
    try:
        await work
    except (ConnectionError, ssl.SSLError):
        pass
    except Exception:
        log.exception("a connection's task failed")
