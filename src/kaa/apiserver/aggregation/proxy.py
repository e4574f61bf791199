"""A request that goes on to the server behind an APIService, and its answer as it comes.

Answers of known and modest length are passed on whole; all others (lists, watches) chunk by chunk, no faster than the
client reads. An upgrade becomes a relay of bytes. Failures are plain texts, as upstream's aggregator gives them.
Source: kube-aggregator pkg/apiserver handler_proxy.go.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import structlog

from kaa.client.connection import Connection
from kaa.client.pipeline import User

from ..connect import Place, Undialled, dial, read_head
from ..connect_relay import Relay
from ..http import Answer, HttpRequest, HttpResponse
from .backend import Backend, BadTrust, forwarded_headers, returned_headers

log = structlog.get_logger(__name__)

WHOLE = 256 * 1024  # bytes up to which an answer is taken whole
TEXT = "text/plain; charset=utf-8"
#: (the answer's connection, and how to let go of it)
Held = tuple[Connection, AbstractAsyncContextManager[Connection]]


def plain(status: int, text: str) -> HttpResponse:
    """An error as Go's ``http.Error`` writes it."""
    return HttpResponse(status, text.encode() + b"\n", TEXT, [("X-Content-Type-Options", "nosniff")])


def unavailable() -> HttpResponse:
    return plain(503, "service unavailable")


async def forward(
    http: HttpRequest, user: User, backend: Backend, address: tuple[str, int], *, audit_id: str, timeout_s: float | None
) -> Answer:
    """Pass a request on. ``timeout_s`` limits the wait for the answer to begin; None waits for ever (watches)."""
    headers = forwarded_headers(http.headers, user, http.connection.peer, audit_id)
    try:
        if http.wants_upgrade():
            return await _upgrade(http, headers, backend, address)
        target = http.target.decode("latin-1")
        asked = backend.pool(*address).ask(http.method, target, headers, http.body)
        async with asyncio.timeout(timeout_s):
            connection = await asked.__aenter__()
            return await _answer(http, connection, asked)
    except BadTrust as err:
        return plain(500, str(err))
    except TimeoutError:
        raise
    except OSError as err:
        log.warning("a server behind an APIService failed", service=backend.server_name, error=str(err))
        return plain(503, str(err) or type(err).__name__)


async def _answer(
    http: HttpRequest, connection: Connection, asked: AbstractAsyncContextManager[Connection]
) -> HttpResponse:
    content_type, headers = returned_headers(connection.headers)
    length = next((int(v) for n, v in connection.headers if n == "content-length" and v.isdigit()), None)
    bodiless = http.method == "HEAD" or connection.status in (204, 304)
    if bodiless or (length is not None and length <= WHOLE):
        try:
            body = b"" if bodiless else await connection.body()
        finally:
            await asked.__aexit__(None, None, None)
        return HttpResponse(connection.status, body, content_type, headers)
    return HttpResponse(connection.status, _Stream(connection, asked), content_type, headers)


class _Stream(AsyncIterator[bytes]):
    """An answer's chunks. It lets go of its connection when it ends or is closed, even if nobody began to read."""

    def __init__(self, connection: Connection, asked: AbstractAsyncContextManager[Connection]) -> None:
        self._chunks, self._asked = connection.chunks(), asked
        self._open = True

    async def __anext__(self) -> bytes:
        return await self._chunks.__anext__()

    async def aclose(self) -> None:
        if self._open:
            self._open = False
            await self._chunks.aclose()  # type: ignore[attr-defined]  # it is a generator
            await self._asked.__aexit__(None, None, None)


async def _upgrade(
    http: HttpRequest, headers: list[tuple[str, str]], backend: Backend, address: tuple[str, int]
) -> Answer:
    """Send the request on a connection of its own; whatever the server says, from then on bytes go both ways."""
    host, port = address
    place = Place(host, port, http.target.decode("latin-1"), backend.tls, backend.server_name)
    try:
        reader, writer = await dial(place)
    except Undialled as err:
        raise ConnectionError(f"error trying to reach service: {err}") from err
    try:
        lines = [f"{http.method} {place.path} HTTP/1.1", f"Host: {host}:{port}", "Connection: Upgrade"]
        lines += [f"{name}: {value}" for name, value in headers]
        lines.append(f"Content-Length: {len(http.body)}")
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + http.body)
        await writer.drain()
        head = await read_head(reader)
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as err:
        writer.close()
        raise ConnectionError(str(err)) from err
    except BaseException:
        writer.close()
        raise
    return Relay(head, reader, writer)
