"""HTTP/1.1 for the kubelet's server: requests in, answers, chunked streams and upgrades out. Parsed by httptools."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, unquote

import httptools
import msgspec
import structlog

log = structlog.get_logger(__name__)
HEAD_MAX, BODY_MAX = 64 * 1024, 3 * 1024 * 1024
IDLE_S = 90.0
_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    411: "Length Required",
    413: "Request Entity Too Large",
    422: "Unprocessable Entity",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class HttpError(Exception):
    """An answer that is not success, as plain text."""

    def __init__(self, code: int, message: str, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__(message)
        self.code, self.message, self.headers = code, message, headers


@dataclass(slots=True)
class Request:
    """One request; header names are in lower case. ``peer`` is the client certificate that TLS verified, if any."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    peer: dict[str, Any] = field(default_factory=dict)
    taken: bool = False  #: the handler keeps or has ended the connection

    def first(self, *names: str) -> str:
        """The first value of a query parameter, under any of its names; empty without."""
        return next((self.query[name][0] for name in names if name in self.query), "")

    def flag(self, *names: str) -> bool:
        return self.first(*names).lower() in ("1", "true", "yes")

    @property
    def upgrade(self) -> str:
        wants = "upgrade" in self.headers.get("connection", "").lower()
        return self.headers.get("upgrade", "").lower() if wants else ""

    def answer(
        self,
        code: int,
        body: bytes,
        content_type: str = "text/plain; charset=utf-8",
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = (
            f"HTTP/1.1 {code} {_REASONS.get(code, 'Status')}\r\nContent-Type: {content_type}\r\n{more}"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self.writer.write(head.encode() + (b"" if self.method == "HEAD" else body))

    def answer_json(self, value: Any) -> None:
        self.answer(200, value if isinstance(value, bytes) else msgspec.json.encode(value), "application/json")

    def begin_chunks(self, content_type: str = "text/plain; charset=utf-8") -> Chunks:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.writer.write(head.encode())
        return Chunks(self.writer)


class Chunks:
    """A body of unknown length."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def send(self, data: bytes) -> None:
        if data:
            self._writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            await self._writer.drain()

    async def end(self) -> None:
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()


class _Head:
    """What httptools tells of a request's head."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: dict[str, str] = {}

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1")
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text


Handler = Callable[[Request], Awaitable[None]]


async def serve_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler) -> None:
    """Answer requests on a connection until it ends or a handler takes it over."""
    try:
        while (request := await _read(reader, writer)) is not None:
            await _handle(request, handler)
            if request.taken or request.headers.get("connection", "").lower() == "close":
                return
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
        return
    finally:
        writer.close()


async def _handle(request: Request, handler: Handler) -> None:
    try:
        await handler(request)
    except HttpError as err:
        request.answer(err.code, err.message.encode(), headers=err.headers)
    except (ConnectionError, TimeoutError):
        request.taken = True
    except Exception:
        log.exception("request failed", path=request.path)
        if request.taken:
            return
        request.answer(500, b"Internal Error\n")


class _Unreadable(Exception):
    """No request can be made of what came: it is answered, and the connection ended."""

    def __init__(self, code: int) -> None:
        super().__init__(_REASONS[code])
        self.code = code


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    """The next request; None when there is none, or when what came is none."""
    try:
        async with asyncio.timeout(IDLE_S):
            raw = await reader.readuntil(b"\r\n\r\n")
            return await _request(raw, reader, writer)
    except (asyncio.IncompleteReadError, TimeoutError):
        return None
    except asyncio.LimitOverrunError:
        _refuse(writer, 431)
    except _Unreadable as err:
        _refuse(writer, err.code)
    return None


def _refuse(writer: asyncio.StreamWriter, code: int) -> None:
    body = f"{code} {_REASONS[code]}"
    head = f"HTTP/1.1 {body}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    writer.write((head + body).encode())


async def _request(raw: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request:
    """A head that has arrived, with the body behind it. No request of ours has a body of unknown length."""
    head = _Head()
    parser = httptools.HttpRequestParser(head)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as err:
        raise _Unreadable(400) from err
    if "transfer-encoding" in head.headers:
        raise _Unreadable(411)
    length = head.headers.get("content-length", "0")
    if not length.isdecimal():
        raise _Unreadable(400)
    if int(length) > BODY_MAX:
        raise _Unreadable(413)
    path, _, query = head.url.decode("latin-1").partition("?")
    return Request(
        method=parser.get_method().decode(),
        path=unquote(path),
        query=parse_qs(query, keep_blank_values=True),
        headers=head.headers,
        body=await reader.readexactly(int(length)) if length != "0" else b"",
        reader=reader,
        writer=writer,
        peer=writer.get_extra_info("peercert") or {},
    )
