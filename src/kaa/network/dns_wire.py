"""The DNS message format, as much as a cluster's name server speaks. Pure; source: RFC 1035, RFC 6891 (EDNS0).

Names are tuples of lower-case labels without the root: ``("web", "default", "svc", "cluster", "local")``. Only what
arrives is doubted: a message that breaks a rule raises FormatError, whatever its bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

Name = tuple[str, ...]

_HEADER = struct.Struct("!HHHHHH")
_RECORD = struct.Struct("!HHIH")
MAX_UDP_BYTES = 512
#: What we offer and at most send in one datagram: beyond it fragments get lost. Source: DNS flag day 2020.
OUR_UDP_BYTES = 1232
IN = 1
ANY_CLASS = 255
QR, AA, TC, RD, RA, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0010


class Type(IntEnum):
    A = 1
    NS = 2
    CNAME = 5
    SOA = 6
    PTR = 12
    TXT = 16
    AAAA = 28
    SRV = 33
    OPT = 41
    ANY = 255


class Code(IntEnum):
    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5


class FormatError(ValueError):
    """Not a DNS message that we can read."""


class Record(NamedTuple):
    """A resource record. ``data`` is packed, but for the name at its end, if it has one."""

    name: Name
    type: int
    ttl: int
    data: bytes
    target: Name | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """One question. ``question`` is its bytes as they came: case included, to be sent back."""

    id: int
    flags: int
    opcode: int
    name: Name
    type: int
    klass: int
    question: bytes
    udp_bytes: int = MAX_UDP_BYTES
    edns: bool = False
    edns_version: int = 0
    wants_dnssec: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    code: Code = Code.NOERROR
    answers: tuple[Record, ...] = ()
    authority: tuple[Record, ...] = ()
    additional: tuple[Record, ...] = ()
    authoritative: bool = True


def parse_query(data: bytes) -> Query:
    """Read a query. Raises FormatError for anything that is not exactly one question."""
    if len(data) < _HEADER.size:
        raise FormatError("shorter than a header")
    ident, flags, questions, answers, authorities, additional = _HEADER.unpack_from(data)
    if flags & QR:
        raise FormatError("a response")
    if questions != 1:
        raise FormatError(f"{questions} questions")
    name, at = _read_plain_name(data, _HEADER.size)
    if at + 4 > len(data):
        raise FormatError("the question is cut off")
    kind, klass = struct.unpack_from("!HH", data, at)
    question = data[_HEADER.size : at + 4]
    size, edns, version, dnssec = _read_edns(data, at + 4, answers + authorities + additional)
    opcode = flags >> 11 & 15
    return Query(ident, flags, opcode, name, kind, klass, question, size, edns, version, dnssec)


def _read_plain_name(data: bytes, at: int) -> tuple[Name, int]:
    labels: list[str] = []
    start = at
    while True:
        if at >= len(data):
            raise FormatError("a name is cut off")
        length = data[at]
        if length == 0:
            return tuple(labels), at + 1
        if length > 63 or at + 1 + length > len(data) or at + length - start > 253:
            raise FormatError("a bad name")
        labels.append(data[at + 1 : at + 1 + length].decode("latin-1").lower())
        at += 1 + length


def _skip_name(data: bytes, at: int) -> int:
    while at < len(data):
        length = data[at]
        if length == 0:
            return at + 1
        if length >= 0xC0:
            return at + 2
        at += 1 + length
    raise FormatError("a name is cut off")


def _read_edns(data: bytes, at: int, records: int) -> tuple[int, bool, int, bool]:
    """(datagram size, whether there is EDNS, its version, whether DNSSEC is wanted)."""
    for _ in range(records):
        name_at, at = at, _skip_name(data, at)
        if at + _RECORD.size > len(data):
            raise FormatError("a record is cut off")
        kind, klass, ttl, length = _RECORD.unpack_from(data, at)
        at += _RECORD.size + length
        if at > len(data):
            raise FormatError("a record is cut off")
        if kind == Type.OPT and data[name_at] == 0:
            return max(klass, MAX_UDP_BYTES), True, ttl >> 16 & 0xFF, bool(ttl & 0x8000)
    return MAX_UDP_BYTES, False, 0, False


def read_addresses(data: bytes, kind: int) -> tuple[Record, ...]:
    """The records of type ``kind`` (an address) in a response's answer, and its aliases. Raises FormatError."""
    if len(data) < _HEADER.size:
        raise FormatError("shorter than a header")
    _, _, questions, answers, _, _ = _HEADER.unpack_from(data)
    at = _HEADER.size
    for _ in range(questions):
        at = _skip_name(data, at) + 4
    found = []
    for _ in range(answers):
        name = _read_name(data, at)
        at = _skip_name(data, at)
        if at + _RECORD.size > len(data):
            raise FormatError("a record is cut off")
        type_, _, ttl, length = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        if at + length > len(data):
            raise FormatError("a record is cut off")
        if type_ == kind and length in (4, 16):
            found.append(Record(name, type_, ttl, data[at : at + length]))
        elif type_ == Type.CNAME:
            found.append(Record(name, type_, ttl, b"", _read_name(data, at)))
        at += length
    return tuple(found)


def _read_name(data: bytes, at: int) -> Name:
    """A name that may be compressed. Pointers must lead backwards, so that reading ends."""
    labels: list[str] = []
    size, bound = 0, at + 1
    while True:
        if at >= len(data):
            raise FormatError("a name is cut off")
        length = data[at]
        if length >= 0xC0:
            if at + 1 >= len(data):
                raise FormatError("a name is cut off")
            at = (length & 0x3F) << 8 | data[at + 1]
            if at >= bound - 1:
                raise FormatError("a pointer forward")
            bound = at + 1
            continue
        if length == 0:
            return tuple(labels)
        size += 1 + length
        if length > 63 or size > 254 or at + 1 + length > len(data):
            raise FormatError("a bad name")
        labels.append(data[at + 1 : at + 1 + length].decode("latin-1").lower())
        at += 1 + length


def least_ttl(data: bytes) -> int:
    """The smallest TTL of a response's records (an OPT is none); 0 without any. Raises FormatError."""
    if len(data) < _HEADER.size:
        raise FormatError("shorter than a header")
    _, _, questions, *counts = _HEADER.unpack_from(data)
    at = _HEADER.size
    for _ in range(questions):
        at = _skip_name(data, at) + 4
    ttls = []
    for _ in range(sum(counts)):
        at = _skip_name(data, at)
        if at + _RECORD.size > len(data):
            raise FormatError("a record is cut off")
        kind, _, ttl, length = _RECORD.unpack_from(data, at)
        at += _RECORD.size + length
        if kind != Type.OPT:
            ttls.append(ttl)
    return min(ttls, default=0)


def encode(query: Query, answer: Answer, limit: int) -> bytes:
    """The response to ``query`` in at most ``limit`` bytes: truncated (TC, no records) when they do not suffice."""
    flags = QR | query.flags & (0x7800 | RD | CD) | answer.code & 15 | (AA if answer.authoritative else 0)
    sections = (answer.answers, answer.authority, answer.additional)
    body = bytearray(_HEADER.size)
    body += query.question
    places: dict[Name, int] = {query.name[n:]: at for n, at in _label_places(query.name)}
    for section in sections:
        for record in section:
            _write_record(body, record, places)
    opt = _opt(query, 0) if query.edns else b""
    counts = [len(section) for section in sections]
    if len(body) + len(opt) > limit:
        body = bytearray(_HEADER.size) + query.question
        flags |= TC
        counts = [0, 0, 0]
    _HEADER.pack_into(body, 0, query.id, flags, 1, counts[0], counts[1], counts[2] + bool(opt))
    return bytes(body + opt)


def _opt(query: Query, extended: int) -> bytes:
    flags = extended << 24 | (0x8000 if query.wants_dnssec else 0)
    return b"\0" + _RECORD.pack(Type.OPT, OUR_UDP_BYTES, flags, 0)


def bad_version(query: Query) -> bytes:
    """The answer to an EDNS version that we do not know (BADVERS). Source: RFC 6891 6.1.3."""
    flags = QR | query.flags & (0x7800 | RD)
    return _HEADER.pack(query.id, flags, 1, 0, 0, 1) + query.question + _opt(query, 1)


def failure(data: bytes, code: Code) -> bytes:
    """A bare response to something unreadable: just its id and the code."""
    ident, flags = struct.unpack_from("!HH", data)
    return _HEADER.pack(ident, QR | flags & (0x7800 | RD) | code, 0, 0, 0, 0)


def _label_places(name: Name) -> list[tuple[int, int]]:
    found, at = [], _HEADER.size
    for number, label in enumerate(name):
        found.append((number, at))
        at += 1 + len(label)
    return found


def _write_name(body: bytearray, name: Name, places: dict[Name, int]) -> None:
    for number, label in enumerate(name):
        place = places.get(name[number:])
        if place is not None:
            body += struct.pack("!H", 0xC000 | place)
            return
        if len(body) < 0x4000:
            places[name[number:]] = len(body)
        raw = label.encode("latin-1")
        body.append(len(raw))
        body += raw
    body.append(0)


def _write_record(body: bytearray, record: Record, places: dict[Name, int]) -> None:
    _write_name(body, record.name, places)
    at = len(body)
    body += _RECORD.pack(record.type, IN, record.ttl, 0) + record.data
    if record.target is not None:
        # A SRV target must not be compressed (RFC 2782); the names of CNAME, PTR and NS may.
        _write_name(body, record.target, {} if record.type == Type.SRV else places)
    struct.pack_into("!H", body, at + 8, len(body) - at - _RECORD.size)


def pack_name(name: Name) -> bytes:
    """A name without compression."""
    return b"".join(bytes((len(label),)) + label.encode("latin-1") for label in name) + b"\0"


def make_query(ident: int, name: Name, kind: int) -> bytes:
    """A recursive query of our own, with EDNS0."""
    question = pack_name(name) + struct.pack("!HH", kind, IN)
    opt = b"\0" + _RECORD.pack(Type.OPT, OUR_UDP_BYTES, 0, 0)
    return _HEADER.pack(ident, RD, 1, 0, 0, 1) + question + opt


def soa_data(zone: Name, serial: int, minimum_s: int) -> bytes:
    names = pack_name(("ns", "dns", *zone)) + pack_name(("hostmaster", *zone))
    return names + struct.pack("!IIIII", serial & 0xFFFFFFFF, 7200, 1800, 86400, minimum_s)


def total(records: Sequence[Record], kinds: tuple[int, ...]) -> int:
    """How many of the records are of some types."""
    return sum(record.type in kinds for record in records)
