"""Reads tars that strangers made: in one pass, in linear time, in bounded memory, and never backwards.

ustar, GNU and pax headers are understood, sparse files of GNU's and of pax 0.1 and 1.0 as well. The standard library's reader
trusts more than that: it recurses once a header, matches expressions that take quadratic time, and lets a header seek. What
is no tar is a LayerError, and nothing else.

Source: POSIX pax; GNU tar manual "Basic Tar Format"; what is ambiguous is read as Go's archive/tar reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol

import msgspec

CHUNK = 1 << 18
BLOCK = 512
#: Of a pax header or a long name: far more than paths and xattrs need.
MAX_HEADER_BYTES = 1 << 20
_MAX_SEGMENTS = 1 << 16
_MAX_SIZE = 1 << 62
_ZEROS = bytes(BLOCK)
_FILE, _LINK, _SYMLINK, _CHARACTER, _BLOCK_DEVICE, _FOLDER, _FIFO = "0123456"
_HEADER_ONLY = frozenset("123456")
_TIME = re.compile(r"(-?\d{1,19})(?:\.\d*)?", re.ASCII)
_LATEST_S = 1 << 34  #: year 2514: file systems know no later times


class LayerError(ValueError):
    """The layer is broken, lies about its digest, or tries to leave its folder."""


class ByteSource(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class Entry(msgspec.Struct):
    """A file of an archive. Names may hold anything but NUL; what is no UTF-8 in them is escaped as ``os.fsdecode`` does.

    ``size`` is what its data take in the archive, ``real_size`` in the file; they differ when it is ``sparse``: then data are
    these parts of it, ((offset, length), …), and zeros lie between.
    """

    name: str
    kind: str  #: as in the header: ``0`` file … ``6`` fifo; others are kinds that no image has
    size: int = 0
    real_size: int = 0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    link: str = ""
    major: int = 0
    minor: int = 0
    pax: dict[str, str] = {}
    sparse: tuple[tuple[int, int], ...] | None = None

    @property
    def is_file(self) -> bool:
        return self.kind == _FILE

    @property
    def is_folder(self) -> bool:
        return self.kind == _FOLDER

    @property
    def is_symlink(self) -> bool:
        return self.kind == _SYMLINK

    @property
    def is_link(self) -> bool:
        return self.kind == _LINK

    @property
    def is_fifo(self) -> bool:
        return self.kind == _FIFO

    @property
    def is_character_device(self) -> bool:
        return self.kind == _CHARACTER


class TarReader:
    """``for entry in reader``, and ``reader.read`` for the data of the entry that came last. Raises LayerError."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._left = self._padding = 0
        self._buffer, self._at = b"", 0

    def read(self, size: int) -> bytes:
        """The next bytes of the entry's data, ``size`` at most; none at its end."""
        data = self._exactly(min(size, self._left))
        self._left -= len(data)
        return data

    def __iter__(self) -> Iterator[Entry]:
        pax: dict[str, str] = {}
        name = link = None
        while (header := self._header()) is not None:
            kind = header[156:157].decode("latin-1")
            if kind in "xX":
                pax = read_pax(self._small(_number(header[124:136]), "pax header"))
            elif kind == "g":  # of all that follows: archives of git say their commit there
                self._small(_number(header[124:136]), "pax header")
            elif kind == "L":
                name = _text(self._small(_number(header[124:136]), "name"))
            elif kind == "K":
                link = _text(self._small(_number(header[124:136]), "link"))
            else:
                yield self._entry(header, kind, pax, name, link)
                self._skip()
                pax, name, link = {}, None, None
        if pax or name is not None or link is not None:
            raise LayerError("layer ends in a header of nothing")

    # ------------------------------------------------------------------------------------------------------- headers

    def _header(self) -> bytes | None:
        """The next header, its checksum right; None at the end, which two blocks of zeros are, or no more bytes."""
        block = self._some(BLOCK)
        if not block:
            return None
        if len(block) < BLOCK:
            raise LayerError("layer is truncated")
        if block == _ZEROS:
            if self._some(BLOCK).strip(b"\0"):
                raise LayerError("layer cannot be read: data after its end")
            return None
        blank = block[:148] + b" " * 8 + block[156:]
        told, total = _number(block[148:156]), sum(blank)
        if told != total and told != total - 256 * sum(byte > 127 for byte in blank):  # some summed signed bytes
            raise LayerError("layer cannot be read: a header's checksum is wrong")
        return block

    def _entry(self, header: bytes, kind: str, pax: dict[str, str], name: str | None, link: str | None) -> Entry:
        ustar = header[257:263] == b"ustar\0"
        short = _text(header[:100])
        if ustar and (prefix := _text(header[345:500])):
            short = f"{prefix}/{short}"
        kind = _FILE if kind in "\0007" else kind
        size = _whole(pax["size"]) if "size" in pax else _number(header[124:136])
        devices = header[257:262] == b"ustar"
        entry = Entry(
            name=pax.get("path") or name or short,
            kind=kind,
            size=0 if kind in _HEADER_ONLY else _within(size, _MAX_SIZE, "size"),
            mode=_number(header[100:108]) & 0o7777,
            uid=_within(_whole(pax["uid"]) if "uid" in pax else _number(header[108:116]), (1 << 32) - 2, "owner"),
            gid=_within(_whole(pax["gid"]) if "gid" in pax else _number(header[116:124]), (1 << 32) - 2, "group"),
            mtime=_time(pax["mtime"]) if "mtime" in pax else _clamped(_number(header[136:148])),
            link=pax.get("linkpath") or link or _text(header[157:257]),
            major=_number(header[329:337]) if devices and kind in "34" else 0,
            minor=_number(header[337:345]) if devices and kind in "34" else 0,
            pax=pax,
        )
        entry.real_size = entry.size
        if kind == _FILE and entry.name.endswith("/"):
            entry.kind = _FOLDER
        self._left, self._padding = entry.size, -entry.size % BLOCK
        self._make_sparse(entry, header)
        for text in (entry.name, entry.link):
            if "\0" in text:
                raise LayerError("layer has a name with a NUL in it")
        return entry

    # -------------------------------------------------------------------------------------------------- sparse files

    def _make_sparse(self, entry: Entry, header: bytes) -> None:
        pax = entry.pax
        if entry.kind == "S":
            entry.kind, entry.real_size = _FILE, _number(header[483:495])
            entry.sparse = self._old_gnu_map(header)
        elif pax.get("GNU.sparse.major") == "1":
            entry.real_size = _whole(pax.get("GNU.sparse.realsize", ""))
            entry.sparse = self._map_in_data()
        elif "GNU.sparse.map" in pax:
            entry.real_size = _whole(pax.get("GNU.sparse.size", ""))
            entry.sparse = _pairs([_whole(number) for number in pax["GNU.sparse.map"].split(",")])
        elif any(key.startswith("GNU.sparse.") for key in pax):
            raise LayerError("layer has a sparse file of an unknown form")
        if entry.sparse is not None:
            entry.name = pax.get("GNU.sparse.name") or entry.name
            _check_sparse(entry, self._left)

    def _old_gnu_map(self, header: bytes) -> tuple[tuple[int, int], ...]:
        """The map in the header, and in the blocks behind it that do not count as data."""
        numbers, more = _gnu_numbers(header[386:482]), header[482]
        while more:
            block = self._exactly(BLOCK)
            numbers += _gnu_numbers(block[:504])
            more = block[504]
            if len(numbers) > 2 * _MAX_SEGMENTS:
                raise LayerError("layer has a sparse file of too many parts")
        return _pairs(numbers)

    def _map_in_data(self) -> tuple[tuple[int, int], ...]:
        """The map that the data begin with, a number a line, padded to a block."""
        numbers: list[int] = []
        text, wanted = b"", 1
        while len(numbers) < wanted:
            line, found, rest = text.partition(b"\n")
            if found:
                numbers.append(_whole(line.decode("latin-1")))
                text = rest
                if len(numbers) == 1:
                    wanted = 1 + 2 * _within(numbers[0], _MAX_SEGMENTS, "number of parts")
            elif len(text) > BLOCK or self._left < BLOCK:
                raise LayerError("layer has a sparse file without a map")
            else:
                text += self.read(BLOCK)
        return _pairs(numbers[1:])

    # --------------------------------------------------------------------------------------------------------- bytes

    def _skip(self) -> None:
        """Go to the next header."""
        while self._left:
            self.read(CHUNK)
        self._exactly(self._padding)
        self._padding = 0

    def _small(self, size: int, what: str) -> bytes:
        """The data of a header that says something of the next."""
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise LayerError(f"layer has an oversized header: a {what} of {size} bytes")
        data = self._exactly(size)
        self._exactly(-size % BLOCK)
        return data

    def _exactly(self, size: int) -> bytes:
        data = self._some(size)
        if len(data) < size:
            raise LayerError("layer is truncated")
        return data

    def _some(self, size: int) -> bytes:
        """``size`` bytes; fewer at the end only."""
        end = self._at + size
        while len(self._buffer) < end and (data := self._source.read(CHUNK)):
            self._buffer = self._buffer[self._at :] + data
            self._at, end = 0, size
        found = self._buffer[self._at : end]
        self._at = end
        return found


# ----------------------------------------------------------------------------------------------------------- the parts


def read_pax(data: bytes) -> dict[str, str]:
    """``30 path=some/name\\n`` …: the length counts the whole record. Raises LayerError."""
    found, at = {}, 0
    while at < len(data):
        space = data.find(b" ", at, at + 10)
        digits = data[at:space]
        if space < 0 or not digits.isdigit():
            if not data[at:].strip(b"\0"):
                break
            raise LayerError("layer cannot be read: a pax header is broken")
        end = at + int(digits)
        record = data[space + 1 : end]
        key, equals, value = record[:-1].partition(b"=")
        if end > len(data) or not record.endswith(b"\n") or not equals or not key:
            raise LayerError("layer cannot be read: a pax header is broken")
        found[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        at = end
    return found


def _number(field: bytes) -> int:
    """Octal digits, or with the first bit set a number of base 256."""
    if field[0] & 0x80:
        number = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        return number - (1 << (8 * len(field) - 1)) if field[0] & 0x40 else number
    text = field.partition(b"\0")[0].strip()
    if not text:
        return 0
    if text.translate(None, b"01234567"):
        raise LayerError("layer cannot be read: a number in a header is none")
    return int(text, 8)


def _whole(text: str) -> int:
    """A number of a pax header."""
    bare = text.removeprefix("-")
    if not (bare.isascii() and bare.isdigit()) or len(bare) > 19:
        raise LayerError("layer cannot be read: a number in a header is none")
    return int(text)


def _within(number: int, most: int, what: str) -> int:
    if not 0 <= number <= most:
        raise LayerError(f"layer has a file with an impossible {what}: {number}")
    return number


def _time(text: str) -> int:
    match = _TIME.fullmatch(text)
    return _clamped(int(match[1])) if match else 0


def _clamped(seconds: int) -> int:
    """A time that file systems know; any other is none, as containerd has it."""
    return seconds if 0 <= seconds <= _LATEST_S else 0


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _gnu_numbers(field: bytes) -> list[int]:
    """Offsets and lengths in turns, 12 bytes each, up to the first that is empty."""
    found: list[int] = []
    for at in range(0, len(field) - 23, 24):
        if not field[at : at + 24].strip(b"\0 "):
            break
        found += (_number(field[at : at + 12]), _number(field[at + 12 : at + 24]))
    return found


def _pairs(numbers: list[int]) -> tuple[tuple[int, int], ...]:
    if len(numbers) % 2 or len(numbers) > 2 * _MAX_SEGMENTS:
        raise LayerError("layer has a sparse file with a broken map")
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def _check_sparse(entry: Entry, stored: int) -> None:
    """Parts lie in order inside the file, and the archive holds exactly them."""
    _within(entry.real_size, _MAX_SIZE, "size")
    at = total = 0
    for offset, length in entry.sparse or ():
        if not (at <= offset and 0 <= length <= _MAX_SIZE and offset + length <= entry.real_size):
            raise LayerError("layer has a sparse file with a broken map")
        at, total = offset + length, total + length
    if total != stored:
        raise LayerError("layer has a sparse file with a broken map")
