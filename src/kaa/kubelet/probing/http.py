"""The GET of a probe or a hook: as Go's client sends it, with what Go's client says when it fails.

TLS is taken as it comes, a connection serves one request, redirects are followed on the same host only, and of the body no
more than 10 KiB are read.
Source: pkg/probe/http (http.go, request.go), net/http.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from functools import cache
from typing import Any
from urllib.parse import urljoin, urlsplit

import httptools
import msgspec

from kaa.api.types.core_v1 import HTTPGetAction

BODY_MAX = 10 * 1024
_HEAD_MAX = 1 << 20
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_REDIRECTS_MAX = 10
_REFUSED = {
    111: "connect: connection refused",
    113: "connect: no route to host",
    101: "connect: network is unreachable",
    104: "connect: connection reset by peer",
}


class GetFailed(Exception):
    """No answer; the message is Go's. ``late``: the head had come, the body did not."""

    def __init__(self, message: str, *, late: bool = False) -> None:
        super().__init__(message)
        self.late = late


class Answer(msgspec.Struct, frozen=True):
    code: int
    location: str
    body: bytes


class Target(msgspec.Struct, frozen=True):
    """Where a request goes, and what it says of itself."""

    url: str
    host: str
    port: int
    headers: tuple[tuple[str, str], ...]


def address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def target_of(action: HTTPGetAction, ip: str, port: int, agent: str) -> Target:
    """The request of an ``httpGet``: headers of the same name are all sent, an empty User-Agent or Accept is left out."""
    host = action.host or ip
    scheme = (action.scheme or "HTTP").lower()
    path = action.path or "/"
    url = f"{scheme}://{address(host, port)}{path if path.startswith('/') else f'/{path}'}"
    given = [(header.name, header.value) for header in action.http_headers]
    named = {name.lower(): value for name, value in reversed(given)}
    headers = [("Host", named.get("host") or address(host, port))]
    for name, default in (("User-Agent", f"{agent}/1.36"), ("Accept", "*/*")):
        if named.get(name.lower(), default):
            headers.append((name, named.get(name.lower(), default)))
    headers += [(name, value) for name, value in given if name.lower() not in ("host", "user-agent", "accept")]
    return Target(url, host, port, (*headers, ("Connection", "close")))


async def fetch(target: Target, timeout_s: float | None) -> Answer:
    """Ask, and follow redirects on the same host. Raises GetFailed."""
    asked = [target]
    got: list[Answer] = []
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                answer = await _get(asked[-1], got)
                further = _redirected(asked, answer)
                if further is None:
                    return answer
                asked.append(further)
                got.clear()
    except TimeoutError as err:
        if got:
            text = "context deadline exceeded (Client.Timeout or context cancellation while reading body)"
            raise GetFailed(text, late=True) from err
        raise GetFailed(
            f'Get "{asked[-1].url}": context deadline exceeded (Client.Timeout exceeded while awaiting headers)'
        ) from err


def _redirected(asked: Sequence[Target], answer: Answer) -> Target | None:
    """Where an answer sends us on to; None when it is the last one. Raises GetFailed."""
    if answer.code not in _REDIRECTS or not answer.location:
        return None
    first, last = asked[0], asked[-1]
    url = urljoin(last.url, answer.location)
    parts = urlsplit(url)
    if (parts.hostname or "") != (urlsplit(first.url).hostname or ""):
        return None
    if len(asked) >= _REDIRECTS_MAX:
        raise GetFailed(f'Get "{url}": stopped after 10 redirects')
    port = parts.port or (443 if parts.scheme == "https" else 80)
    relative = not urlsplit(answer.location).netloc
    name = last.headers[0][1] if relative else parts.netloc
    return Target(url, parts.hostname or "", port, (("Host", name), *last.headers[1:]))


@cache
def _any_certificate() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class _Reader:
    """What httptools tells of an answer."""

    def __init__(self) -> None:
        self.location, self.body = "", b""
        self.headed = self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"location":
            self.location = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.headed = True

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True


async def _get(target: Target, got: list[Answer]) -> Answer:
    """One request on a connection of its own; ``got`` takes the head as soon as it has come."""
    secure = target.url.startswith("https:")
    begin = f'Get "{target.url}": '
    try:
        reader, writer = await asyncio.open_connection(
            target.host, target.port, ssl=_any_certificate() if secure else None
        )
    except ssl.SSLError as err:
        raise GetFailed(begin + _tls_error(err)) from err
    except OSError as err:
        raise GetFailed(f"{begin}dial tcp {address(target.host, target.port)}: {dial_error(err)}") from err
    try:
        writer.write(_request(target))
        return await _answer(reader, got)
    except GetFailed as err:
        raise GetFailed(begin + str(err)) from err
    except (ConnectionResetError, BrokenPipeError) as err:
        peer, own = writer.get_extra_info("peername"), writer.get_extra_info("sockname")
        text = (
            f"read tcp {address(*own[:2])}->{address(*peer[:2])}: read: connection reset by peer" if own else str(err)
        )
        raise GetFailed(begin + text) from err
    finally:
        writer.close()


def _request(target: Target) -> bytes:
    parts = urlsplit(target.url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = "".join(f"{name}: {value}\r\n" for name, value in target.headers)
    return f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode()


async def _answer(reader: asyncio.StreamReader, got: list[Answer]) -> Answer:
    told = _Reader()
    parser = httptools.HttpResponseParser(told)
    size = 0
    while not told.complete and len(told.body) < BODY_MAX:
        data = await reader.read(16 * 1024)
        if not data:
            break
        size += len(data)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            break
        except httptools.HttpParserError as err:
            if told.headed:
                break
            line = data.split(b"\r\n", 1)[0][:60].decode("latin-1")
            text = f'net/http: HTTP/1.x transport connection broken: malformed HTTP response "{line}"'
            raise GetFailed(text) from err
        if told.headed and not got:
            got.append(Answer(parser.get_status_code(), told.location, b""))
        if not told.headed and size > _HEAD_MAX:
            raise GetFailed("net/http: server response headers exceeded 1048576 bytes; aborted")
    if not told.headed:
        raise GetFailed("EOF")
    return Answer(parser.get_status_code(), told.location, told.body[:BODY_MAX])


def dial_error(err: OSError) -> str:
    """Why no connection was made, in Go's words."""
    found = _REFUSED.get(err.errno or 0)
    if found is not None:
        return found
    if err.errno is not None and err.errno < 0:  # a name that has no address
        return f"lookup: {err.strerror}"
    text: Any = err.strerror or err
    return f"connect: {str(text).lower()}"


def _tls_error(err: ssl.SSLError) -> str:
    if err.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
        return "http: server gave HTTP response to HTTPS client"
    return f"remote error: tls: {(err.reason or str(err)).lower().replace('_', ' ')}"
