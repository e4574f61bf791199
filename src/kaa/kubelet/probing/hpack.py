"""Reading HPACK (RFC 7541), as far as the answer to a health check needs it: names and values in ASCII.

The Huffman code is canonical: within a length, codes rise with the character. So the lengths are all there is to know, and
those of ASCII (up to 15 bits) do; what lies beyond has no place in a status.
"""

from __future__ import annotations

_STATIC = 61  #: entries of the static table; none of their names matters here
#: {length in bits: the characters that have it, in order}
_LENGTHS = {
    5: "012aceiost",
    6: " %-./3456789=A_bdfghlmnpru",
    7: ":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
    8: "&*,;XZ",
    10: '!"()?',
    11: "'+|",
    12: "#>",
    13: "\0$@[]~",
    14: "^}",
    15: "<`{",
}


def _codes() -> dict[tuple[int, int], str]:
    """{(length, code): character}"""
    made: dict[tuple[int, int], str] = {}
    code = last = 0
    for length in sorted(_LENGTHS):
        code <<= length - last
        last = length
        for character in _LENGTHS[length]:
            made[length, code] = character
            code += 1
    return made


_CODES = _codes()


class HpackError(ValueError):
    """It is no header block that this reads."""


class Decoder:
    """Reads the header blocks of one connection, in their order."""

    def __init__(self) -> None:
        self._dynamic: list[tuple[str, str]] = []  #: newest first

    def read(self, block: bytes) -> dict[str, str]:
        """{name: value} of a block; names of the static table are left out. Raises HpackError."""
        found: dict[str, str] = {}
        at = 0
        while at < len(block):
            first = block[at]
            if first & 0x80:  # a field of a table
                index, at = _number(block, at, 7)
                name, value = self._entry(index)
            elif first & 0xE0 == 0x20:  # the dynamic table's size
                _, at = _number(block, at, 5)
                continue
            else:
                index, at = _number(block, at, 6 if first & 0x40 else 4)
                name = self._entry(index)[0] if index else ""
                if not index:
                    name, at = _text(block, at)
                value, at = _text(block, at)
                if first & 0x40:
                    self._dynamic.insert(0, (name, value))
            if name:
                found[name] = value
        return found

    def _entry(self, index: int) -> tuple[str, str]:
        if index <= _STATIC:
            return "", ""
        try:
            return self._dynamic[index - _STATIC - 1]
        except IndexError:
            raise HpackError(f"there is no header {index}") from None


def _number(block: bytes, at: int, bits: int) -> tuple[int, int]:
    """An integer with a prefix of so many bits, and where it ends."""
    limit = (1 << bits) - 1
    try:
        value = block[at] & limit
        at += 1
        shift = 0
        while value >= limit and shift <= 28:
            byte = block[at]
            value += (byte & 0x7F) << shift
            at += 1
            shift += 7
            if not byte & 0x80:
                break
    except IndexError:
        raise HpackError("the block ends within a number") from None
    return value, at


def _text(block: bytes, at: int) -> tuple[str, int]:
    if at >= len(block):
        raise HpackError("the block ends within a text")
    packed = bool(block[at] & 0x80)
    length, at = _number(block, at, 7)
    raw = block[at : at + length]
    if len(raw) < length:
        raise HpackError("the block ends within a text")
    return (_unpacked(raw) if packed else raw.decode("latin-1")), at + length


def _unpacked(raw: bytes) -> str:
    made: list[str] = []
    length = code = 0
    for byte in raw:
        for bit in range(7, -1, -1):
            code, length = code << 1 | byte >> bit & 1, length + 1
            character = _CODES.get((length, code))
            if character is not None:
                made.append(character)
                length = code = 0
    if length > 7 or code != (1 << length) - 1:  # what fills the last byte are ones
        raise HpackError("a text is no Huffman code of ASCII")
    return "".join(made)
