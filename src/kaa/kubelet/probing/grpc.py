"""The gRPC health check, spoken by hand: one request over HTTP/2 without TLS, as kubelet's grpc probe does.

Only what ``grpc.health.v1.Health/Check`` needs of HTTP/2 (RFC 9113) and HPACK (RFC 7541): literal headers out; of the answer
the data frame, in which field 1 is the status, and the trailers, which say why there is none.
Source: pkg/probe/grpc/grpc.go.
"""

from __future__ import annotations

import asyncio
import struct
from urllib.parse import unquote

from ..pod_plan import go_duration
from .hpack import Decoder, HpackError

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _CONTINUATION = 0, 1, 3, 4, 6, 7, 9
_ACK, _END_STREAM, _END_HEADERS, _PADDED, _PRIORITY = 1, 1, 4, 8, 32
_SERVING, _UNIMPLEMENTED = 1, 12
_FRAME_MAX = 1 << 20
_STATUS = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
_CODES = (
    "OK Canceled Unknown InvalidArgument DeadlineExceeded NotFound AlreadyExists PermissionDenied ResourceExhausted"
    " FailedPrecondition Aborted OutOfRange Unimplemented Internal Unavailable DataLoss Unauthenticated"
).split()


class NotServing(OSError):
    """The service answered that it does not serve, or did not answer as a gRPC server does."""


class _Answer:
    """What came of the one stream."""

    def __init__(self) -> None:
        self.body = b""
        self.headers: dict[str, str] = {}
        self.connected = False


async def check(host: str, port: int, service: str, timeout_s: float) -> None:
    """Ask once. Raises NotServing."""
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    answer = _Answer()
    try:
        async with asyncio.timeout(timeout_s):
            await _ask(host, port, where, service, answer)
    except TimeoutError as err:
        if answer.connected:
            raise NotServing(f"timeout: health rpc did not complete within {go_duration(timeout_s)}") from err
        text = (
            f'timeout: failed to connect service "{where}" within {go_duration(timeout_s)}: context deadline exceeded'
        )
        raise NotServing(text) from err
    except NotServing:
        raise
    except (OSError, asyncio.IncompleteReadError) as err:
        if answer.connected:
            raise NotServing(_failed("Unavailable", "error reading from server: EOF")) from err
        # grpc's client dials again and again until the time is up: a refusal is seen as that
        text = (
            f'timeout: failed to connect service "{where}" within {go_duration(timeout_s)}: context deadline exceeded'
        )
        raise NotServing(text) from err
    except HpackError as err:
        raise NotServing(_failed("Internal", f"malformed header: {err}")) from err
    _judge(answer)


def _failed(code: str, message: str) -> str:
    return f"error: health rpc probe failed: rpc error: code = {code} desc = {message}"


def _judge(answer: _Answer) -> None:
    code = int(answer.headers.get("grpc-status", "0") or 0)
    message = unquote(answer.headers.get("grpc-message", ""))
    if code == _UNIMPLEMENTED:
        text = "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)"
        raise NotServing(f"{text}: {message}")
    if code:
        raise NotServing(_failed(_CODES[code] if code < len(_CODES) else f"Code({code})", message))
    status = _status(answer.body)
    if status != _SERVING:
        raise NotServing(f'service unhealthy (responded with "{_STATUS.get(status, str(status))}")')


def _status(body: bytes) -> int:
    """The ``status`` of a length-prefixed HealthCheckResponse; an empty message says UNKNOWN."""
    if len(body) < 5:
        raise NotServing(_failed("Internal", "server closed the stream without sending a response message"))
    message = body[5:]
    return message[1] if len(message) >= 2 and message[0] == 0x08 else 0


async def _ask(host: str, port: int, where: str, service: str, answer: _Answer) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(_PREFACE + _frame(_SETTINGS, 0, 0, b""))
        writer.write(_frame(_HEADERS, _END_HEADERS, 1, _headers(where)))
        name = service.encode()
        message = b"\x0a" + _varint(len(name)) + name if name else b""
        writer.write(_frame(_DATA, _END_STREAM, 1, b"\0" + struct.pack(">I", len(message)) + message))
        await _read(reader, writer, answer)
    finally:
        writer.close()


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: _Answer) -> None:
    decoder, block, last = Decoder(), b"", False
    while True:
        head = await reader.readexactly(9)
        length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        if length > _FRAME_MAX:
            raise NotServing(_failed("Unavailable", "connection error: http2: frame too large"))
        payload = await reader.readexactly(length)
        if kind == _SETTINGS and not flags & _ACK:
            answer.connected = True
            writer.write(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            writer.write(_frame(_PING, _ACK, 0, payload))
        elif kind == _DATA:
            answer.body += _unpadded(payload, flags)
        elif kind in (_HEADERS, _CONTINUATION):
            block += _unpadded(payload, flags, priority=True) if kind == _HEADERS else payload
            if flags & _END_HEADERS:
                answer.headers |= decoder.read(block)
                block = b""
        elif kind in (_RST, _GOAWAY):
            raise NotServing(_failed("Unavailable", "stream terminated by the server"))
        last = last or (kind in (_DATA, _HEADERS) and bool(flags & _END_STREAM))
        if last and not block:
            return


def _unpadded(payload: bytes, flags: int, *, priority: bool = False) -> bytes:
    padding = payload[0] if flags & _PADDED and payload else 0
    start = (1 if flags & _PADDED else 0) + (5 if priority and flags & _PRIORITY else 0)
    return payload[start : len(payload) - padding]


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


def _varint(value: int) -> bytes:
    made = b""
    while value > 0x7F:
        made, value = made + bytes([value & 0x7F | 0x80]), value >> 7
    return made + bytes([value])


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">I", stream) + payload
