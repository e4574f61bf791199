"""SPDY/3.1 as Kubernetes speaks it: streams opened by the client, data both ways, half-closes, pings.

The kubelet is its server for kubectl; towards a CRI runtime's streaming server we are the client.

No flow control: neither client-go nor the kubelet it speaks to has any; instead a session whose streams are not read stops
reading itself once ``UNREAD_MAX`` bytes wait, and TCP holds the other side back. Frames (draft-mbelshe-httpbis-spdy-00):

    control  1 | version 3 (15) | type (16) | flags (8) | length (24) | payload
    data     0 | stream id (31)             | flags (8) | length (24) | payload
"""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import Mapping

from .pipe import Pipe

VERSION = 3
SYN_STREAM, SYN_REPLY, RST_STREAM, PING, GOAWAY, HEADERS = 1, 2, 3, 6, 7, 8
FIN = 1
_CANCEL, _REFUSED = 5, 3
STREAMS_MAX = 1000
UNREAD_MAX = 8 << 20
HEADERS_MAX = 64 << 10  #: of one block, unpacked

_NAMES = (
    "options,head,post,put,delete,trace,accept,accept-charset,accept-encoding,accept-language,accept-ranges,age,allow,"
    "authorization,cache-control,connection,content-base,content-encoding,content-language,content-length,"
    "content-location,content-md5,content-range,content-type,date,etag,expect,expires,from,host,if-match,"
    "if-modified-since,if-none-match,if-range,if-unmodified-since,last-modified,location,max-forwards,pragma,"
    "proxy-authenticate,proxy-authorization,range,referer,retry-after,server,te,trailer,transfer-encoding,upgrade,"
    "user-agent,vary,via,warning,www-authenticate,method,get,status,200 OK,version,HTTP/1.1,url,public,set-cookie,"
    "keep-alive,origin"
)
_REST = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden"
    "404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug "
    "Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,"
    "application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset="
    "utf-8charset=iso-8859-1,utf-,*,enq=0."
)
#: What both sides' header compression begins with; its Adler-32 is 0xe3c6a7c2.
DICTIONARY = b"".join(struct.pack(">I", len(n)) + n.encode() for n in _NAMES.split(",")) + _REST.encode()


class ProtocolError(Exception):
    """The other side does not speak SPDY/3.1."""


class Stream:
    """One stream: what the other side sends is read here; ``headers`` are those it was opened with."""

    def __init__(self, session: Session, stream_id: int, headers: Mapping[str, str]) -> None:
        self._session, self.id, self.headers = session, stream_id, headers
        self._received: asyncio.Queue[bytes] = asyncio.Queue()
        self._ended = False
        self._closed = False

    async def read(self) -> bytes:
        """Some bytes; empty when the other side has closed its half."""
        if self._ended and self._received.empty():
            return b""
        data = await self._received.get()
        self._session.holds(-len(data))
        return data

    async def write(self, data: bytes) -> None:
        if data and not self._closed:
            await self._session.send_data(self.id, data)

    async def close(self) -> None:
        """Close our side."""
        if not self._closed:
            self._closed = True
            await self._session.send_data(self.id, b"", FIN)

    async def reset(self) -> None:
        self._closed = True
        await self._session.send_control(RST_STREAM, 0, struct.pack(">II", self.id, _CANCEL))

    def took(self, data: bytes) -> None:
        if data:
            self._session.holds(len(data))
            self._received.put_nowait(data)

    def drop(self) -> None:
        """Nobody will read what is left."""
        while not self._received.empty():
            self._session.holds(-len(self._received.get_nowait()))
        self._ended = True

    def ended(self) -> None:
        if not self._ended:
            self._ended = True
            self._received.put_nowait(b"")


class Session:
    """An end of a connection. ``run`` reads frames until it ends; a server ``accept``s streams, a client ``open``s them."""

    def __init__(self, pipe: Pipe, *, initial: bytes = b"") -> None:
        self._pipe = pipe
        self._buffer = bytearray(initial)
        self._streams: dict[int, Stream] = {}
        self._opened: asyncio.Queue[Stream | None] = asyncio.Queue()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(9, zlib.DEFLATED, 15, 8, zlib.Z_DEFAULT_STRATEGY, DICTIONARY)
        self._sending = asyncio.Lock()
        self._next_id = 1  # a client's are odd
        self._unread = 0  #: bytes that streams have received and nobody has taken
        self._room = asyncio.Event()
        self._room.set()

    async def open(self, headers: Mapping[str, str]) -> Stream:
        """Begin a stream, as the client; it may be written to at once."""
        stream = self._streams[self._next_id] = Stream(self, self._next_id, headers)
        self._next_id += 2
        async with self._sending:  # header blocks are compressed in the order in which they go out
            payload = struct.pack(">IIH", stream.id, 0, 0) + self._compressed(headers)
            await self._pipe.write(_control(SYN_STREAM, 0, payload))
        return stream

    async def accept(self) -> Stream | None:
        """The next stream that the client opens; None when the connection has ended."""
        return await self._opened.get()

    async def run(self) -> None:
        try:
            while True:
                await self._room.wait()
                head = await self._exactly(8)
                if head is None:
                    return
                length = int.from_bytes(head[5:8], "big")
                payload = await self._exactly(length)
                if payload is None:
                    return
                await self._frame(head, payload)
        except struct.error as err:
            raise ProtocolError(f"a frame that is too short: {err}") from err
        finally:
            for stream in self._streams.values():
                stream.ended()
            self._opened.put_nowait(None)

    def holds(self, more: int) -> None:
        """So many more bytes wait to be read; less than none: they have been."""
        self._unread += more
        if self._unread > UNREAD_MAX:
            self._room.clear()
        else:
            self._room.set()

    def _headers(self, block: bytes) -> dict[str, str]:
        """A packed header block. Raises ProtocolError for one that is none, or unpacks to too much."""
        try:
            plain = self._inflate.decompress(block, HEADERS_MAX)
            if self._inflate.unconsumed_tail:
                raise ProtocolError(f"headers of more than {HEADERS_MAX} bytes")
            return read_headers(plain) if plain else {}
        except (zlib.error, struct.error) as err:
            raise ProtocolError(f"headers: {err}") from err

    async def _exactly(self, size: int) -> bytes | None:
        while len(self._buffer) < size:
            data = await self._pipe.read()
            if not data:
                return None
            self._buffer += data
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    async def _frame(self, head: bytes, payload: bytes) -> None:
        flags = head[4]
        if not head[0] & 0x80:
            self._data(struct.unpack(">I", head[:4])[0], flags, payload)
            return
        version, kind = struct.unpack(">HH", head[:4])
        if version & 0x7FFF != VERSION:
            raise ProtocolError(f"SPDY version {version & 0x7FFF}")
        match kind:
            case 1:  # SYN_STREAM
                await self._syn_stream(flags, payload)
            case 2:  # SYN_REPLY: the inflater must see it
                self._headers(payload[4:])
            case 3:  # RST_STREAM
                stream = self._streams.pop(struct.unpack(">I", payload[:4])[0] & 0x7FFFFFFF, None)
                if stream is not None:
                    stream.ended()
            case 6:  # PING
                if (
                    struct.unpack(">I", payload)[0] & 1 or self._next_id > 1
                ):  # a client's are odd, a server's even; we begin none
                    await self.send_control(PING, 0, payload)
            case 8:  # HEADERS: nothing we need, but the inflater must see it
                self._headers(payload[4:])
            case _:
                return

    def _data(self, stream_id: int, flags: int, payload: bytes) -> None:
        stream = self._streams.get(stream_id & 0x7FFFFFFF)
        if stream is None:
            return
        stream.took(payload)
        if flags & FIN:
            stream.ended()

    async def _syn_stream(self, flags: int, payload: bytes) -> None:
        stream_id = struct.unpack(">I", payload[:4])[0] & 0x7FFFFFFF
        headers = self._headers(payload[10:])
        if stream_id in self._streams:
            raise ProtocolError(f"stream {stream_id} is open already")
        if len(self._streams) >= STREAMS_MAX:
            await self.send_control(RST_STREAM, 0, struct.pack(">II", stream_id, _REFUSED))
            return
        stream = self._streams[stream_id] = Stream(self, stream_id, headers)
        reply = struct.pack(">I", stream_id) + self._compressed({})
        await self.send_control(SYN_REPLY, 0, reply)
        if flags & FIN:
            stream.ended()
        self._opened.put_nowait(stream)

    def _compressed(self, headers: Mapping[str, str]) -> bytes:
        return self._deflate.compress(write_headers(headers)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def forget(self, stream: Stream) -> None:
        """Both sides are done with a stream."""
        self._streams.pop(stream.id, None)
        stream.drop()

    async def send_data(self, stream_id: int, data: bytes, flags: int = 0) -> None:
        await self._send(struct.pack(">IB", stream_id, flags) + len(data).to_bytes(3, "big") + data)

    async def send_control(self, kind: int, flags: int, payload: bytes) -> None:
        await self._send(_control(kind, flags, payload))

    async def _send(self, frame: bytes) -> None:
        async with self._sending:
            await self._pipe.write(frame)

    async def close(self) -> None:
        """Say goodbye and hang up."""
        try:
            await self.send_control(GOAWAY, 0, struct.pack(">II", max(self._streams, default=0), 0))
        except ConnectionError:
            pass
        finally:
            await self._pipe.close()


def _control(kind: int, flags: int, payload: bytes) -> bytes:
    return struct.pack(">HHB", 0x8000 | VERSION, kind, flags) + len(payload).to_bytes(3, "big") + payload


def read_headers(block: bytes) -> dict[str, str]:
    """A name/value block: a count, then names and values, each behind its length."""
    [count] = struct.unpack_from(">I", block)
    at, made = 4, {}
    for _ in range(count):
        pair = []
        for _ in range(2):
            [length] = struct.unpack_from(">I", block, at)
            pair.append(block[at + 4 : at + 4 + length].decode("utf-8", "replace"))
            at += 4 + length
        made[pair[0]] = pair[1]
    return made


def write_headers(headers: Mapping[str, str]) -> bytes:
    made = struct.pack(">I", len(headers))
    for name, value in headers.items():
        for text in (name.lower().encode(), value.encode()):
            made += struct.pack(">I", len(text)) + text
    return made
