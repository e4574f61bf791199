"""The gRPC health check, spoken by hand: one request over HTTP/2 without TLS, as kubelet's grpc probe does.

Only what ``grpc.health.v1.Health/Check`` needs of HTTP/2 (RFC 9113) and HPACK (RFC 7541): literal headers out, and of the
answer the data frame, in which field 1 is the status.
"""

from __future__ import annotations

import asyncio
import struct

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_ACK, _END_STREAM, _END_HEADERS, _PADDED = 1, 1, 4, 8
_SERVING = 1
_STATUS = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}


class NotServing(OSError):
    """The service answered that it does not serve, or did not answer as a gRPC server does."""


async def check(host: str, port: int, service: str, timeout_s: float) -> None:
    """Ask once. Raises NotServing, or OSError when nobody listens."""
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        async with asyncio.timeout(timeout_s):
            status = await _ask(host, port, where, service)
    except TimeoutError as err:
        raise NotServing(f'timeout: failed to connect service "{where}" within {timeout_s:g}s') from err
    except (ConnectionError, asyncio.IncompleteReadError) as err:
        raise NotServing(f'error: failed to connect service at "{where}": {err}') from err
    if status != _SERVING:
        raise NotServing(f"service unhealthy (responded with {_STATUS.get(status, str(status))!r})".replace("'", '"'))


async def _ask(host: str, port: int, where: str, service: str) -> int:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(_PREFACE + _frame(_SETTINGS, 0, 0, b""))
        writer.write(_frame(_HEADERS, _END_HEADERS, 1, _headers(where)))
        name = service.encode()
        message = b"\x0a" + bytes([len(name)]) + name if name else b""
        writer.write(_frame(_DATA, _END_STREAM, 1, b"\0" + struct.pack(">I", len(message)) + message))
        return await _answer(reader, writer)
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    body = b""
    while True:
        head = await reader.readexactly(9)
        length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        payload = await reader.readexactly(length)
        if kind == _SETTINGS and not flags & _ACK:
            writer.write(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            writer.write(_frame(_PING, _ACK, 0, payload))
        elif kind == _DATA:
            body += payload[1 : length - payload[0]] if flags & _PADDED else payload
        elif kind in (_RST, _GOAWAY):
            raise NotServing("error: health rpc probe failed: stream closed")
        if kind in (_DATA, _HEADERS) and flags & _END_STREAM:
            return _status(body)


def _status(body: bytes) -> int:
    """The ``status`` of a length-prefixed HealthCheckResponse; an answer without a message is no health service."""
    if len(body) < 5:
        raise NotServing("error: this server does not implement the grpc health protocol (grpc.health.v1.Health)")
    message = body[5:]
    return message[1] if len(message) >= 2 and message[0] == 0x08 else 0


def _headers(where: str) -> bytes:
    fields = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/grpc.health.v1.Health/Check"),
        (":authority", where),
        ("content-type", "application/grpc"),
        ("user-agent", "kube-probe/1.36"),
        ("te", "trailers"),
    )
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in fields)


def _text(text: str) -> bytes:
    raw = text.encode()
    assert len(raw) < 127, "an HPACK length of one byte"
    return bytes([len(raw)]) + raw


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">I", stream) + payload
