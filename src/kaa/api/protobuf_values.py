"""The wire of protobuf, and the values that fields of Kubernetes' messages hold, as JSON has them.

Numbers, texts, times and quantities are here; ``protobuf_messages`` makes messages of them. A reader takes (data, from,
to, depth) and gives the JSON value of what stands between; a writer gives the payload of a JSON value, without its length.
Source: protobuf's encoding guide; apimachinery's generated.proto of meta/v1, resource, intstr and runtime.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

VARINT, FIXED64, BYTES, START_GROUP, END_GROUP, FIXED32 = range(6)

#: (data, from, to, depth) -> the JSON value of what stands there
Reader = Callable[[bytes, int, int, int], Any]
#: JSON value -> its payload
Writer = Callable[[Any], bytes]


class Malformed(ValueError):
    """The bytes are no message of the kind, or the value cannot be written as one."""


# ------------------------------------------------------------------------------------------------ the wire


def read_varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """(value, position after it). Raises Malformed past ten bytes or past the end."""
    value = shift = 0
    while position < end:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
        shift += 7
        if shift > 63:
            raise Malformed("proto: integer overflow")
    raise Malformed("unexpected EOF")


def skip(data: bytes, position: int, end: int, key: int) -> int:
    """The position after a field of any kind, groups and what is in them included."""
    nesting = 0
    while True:
        wire = key & 7
        if wire == VARINT:
            position = read_varint(data, position, end)[1]
        elif wire == BYTES:
            length, position = read_varint(data, position, end)
            position += length
        elif wire in (FIXED32, FIXED64):
            position += 4 if wire == FIXED32 else 8
        elif wire == START_GROUP:
            nesting += 1
        elif wire == END_GROUP and nesting:
            nesting -= 1
        else:
            raise Malformed(f"proto: illegal wireType {wire}")
        if position > end:
            raise Malformed("unexpected EOF")
        if not nesting:
            return position
        key, position = read_varint(data, position, end)


# ------------------------------------------------------------------------------------------------ values, read


def _text(data: bytes, position: int, stop: int, depth: int) -> str:
    return str(data[position:stop], "utf-8", "replace")


def _integer(data: bytes, position: int, stop: int, depth: int) -> int:
    value = data[position] if stop - position == 1 else read_varint(data, position, stop)[0]
    return value if value < 1 << 63 else value - (1 << 64)


def _integer32(data: bytes, position: int, stop: int, depth: int) -> int:
    value = data[position] if stop - position == 1 else read_varint(data, position, stop)[0] & 0xFFFFFFFF
    return value if value < 1 << 31 else value - (1 << 32)


def _truth(data: bytes, position: int, stop: int, depth: int) -> bool:
    return _integer(data, position, stop, depth) != 0


_EXACT = 1 << 53  # whole numbers below it are exact in a double


def _double(data: bytes, position: int, stop: int, depth: int) -> int | float:
    """A number as Go's JSON shows it: without a fraction where it has none."""
    value = float(struct.unpack_from("<d", data, position)[0])
    if value != value or value in (float("inf"), float("-inf")):
        raise Malformed("json: unsupported value")
    return int(value) if value.is_integer() and abs(value) < _EXACT else value


def _base64(data: bytes, position: int, stop: int, depth: int) -> str:
    return base64.b64encode(data[position:stop]).decode()


def parts(data: bytes, position: int, end: int) -> dict[int, Any]:
    """{number: int, or bytes} of a small message; of repeated fields the last."""
    found: dict[int, Any] = {}
    while position < end:
        key, position = read_varint(data, position, end)
        number = key >> 3
        if key & 7 == VARINT:
            found[number], position = read_varint(data, position, end)
        elif key & 7 == BYTES:
            length, position = read_varint(data, position, end)
            if position + length > end:
                raise Malformed("unexpected EOF")
            found[number] = data[position : position + length]
            position += length
        else:
            position = skip(data, position, end, key)
    return found


def _kept(found: dict[int, Any], number: int, kind: type) -> Any:
    """A part, which must be of its type; None when it was not sent."""
    value = found.get(number)
    if value is not None and not isinstance(value, kind):
        raise Malformed(f"proto: wrong wireType for field {number}")
    return value


def _quantity(data: bytes, position: int, stop: int, depth: int) -> str:
    text = _kept(parts(data, position, stop), 1, bytes)
    return "0" if text is None else text.decode("utf-8", "replace")


def _moment(data: bytes, position: int, stop: int) -> datetime | None:
    found = parts(data, position, stop)
    if not found:
        return None
    seconds, nanos = (
        value if value < 1 << 63 else value - (1 << 64) for value in (_kept(found, n, int) or 0 for n in (1, 2))
    )
    if not 0 <= nanos < 1_000_000_000:
        raise Malformed("proto: a time's nanoseconds are out of range")
    try:
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=nanos // 1000)
    except (OverflowError, ValueError, OSError):
        raise Malformed("Time.MarshalJSON: year outside of range [0,9999]") from None


def _time(data: bytes, position: int, stop: int, depth: int) -> str | None:
    moment = _moment(data, position, stop)
    return moment.replace(tzinfo=None).isoformat(timespec="seconds") + "Z" if moment else None


def _micro_time(data: bytes, position: int, stop: int, depth: int) -> str | None:
    moment = _moment(data, position, stop)
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z" if moment else None


def _int_or_string(data: bytes, position: int, stop: int, depth: int) -> int | str:
    found = parts(data, position, stop)
    if _kept(found, 1, int):
        return (_kept(found, 3, bytes) or b"").decode("utf-8", "replace")
    value = (_kept(found, 2, int) or 0) & 0xFFFFFFFF
    return value if value < 1 << 31 else value - (1 << 32)


def _json(data: bytes, position: int, stop: int, depth: int) -> Any:
    raw = _kept(parts(data, position, stop), 1, bytes)
    try:
        return msgspec.json.decode(raw) if raw else None
    except (ValueError, RecursionError) as err:
        raise Malformed(f"the JSON within: {err}") from None


def _texts(data: bytes, position: int, stop: int, depth: int) -> list[str]:
    """A message that is only a list: ``ExtraValue{items = 1}``."""
    found = []
    while position < stop:
        key, position = read_varint(data, position, stop)
        after = skip(data, position, stop, key)
        if key == 1 << 3 | BYTES:
            found.append(_text(data, read_varint(data, position, stop)[1], after, depth))
        position = after
    return found


# ------------------------------------------------------------------------------------------------ values, written


def varint(value: int) -> bytes:
    """A number as base-128 groups, the lowest first; a negative one takes ten bytes."""
    if 0 <= value < 0x80:
        return _ONE_BYTE[value]
    value &= 0xFFFFFFFFFFFFFFFF
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


_ONE_BYTE = tuple(bytes((n,)) for n in range(0x80))


def sized(payload: bytes) -> bytes:
    """A payload behind its length."""
    return varint(len(payload)) + payload


def _put_text(value: Any) -> bytes:
    return str.encode(value, "utf-8", "replace")


def _put_truth(value: Any) -> bytes:
    return b"\x01" if value else b"\x00"


def _put_double(value: Any) -> bytes:
    return struct.pack("<d", value)


def _put_base64(value: Any) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as err:
        raise Malformed(f"illegal base64 data: {err}") from None


def _put_quantity(value: Any) -> bytes:
    return b"\x0a" + sized(str(value or "0").encode())


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _put_time(value: Any) -> bytes:
    """Seconds and nanoseconds since 1970; nothing at all for no time."""
    if not value:
        return b""
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as err:
        raise Malformed(str(err)) from None
    since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
    return b"\x08" + varint(since // timedelta(seconds=1)) + b"\x10" + varint(since.microseconds * 1000)


def _put_int_or_string(value: Any) -> bytes:
    if isinstance(value, str):
        return b"\x08\x01\x10\x00\x1a" + sized(_put_text(value))
    return b"\x08\x00\x10" + varint(value or 0) + b"\x1a\x00"


def _put_json(value: Any) -> bytes:
    return b"" if value is None else b"\x0a" + sized(msgspec.json.encode(value))


def _put_texts(value: Any) -> bytes:
    return b"".join(b"\x0a" + sized(_put_text(text)) for text in value or ())


#: {kind in the field table: how it is read}
READERS: dict[str, Reader] = {
    "s": _text, "b": _base64, "i": _integer, "n": _integer32, "t": _truth, "d": _double, "q": _quantity, "T": _time,
    "M": _micro_time, "I": _int_or_string, "J": _json, "l": _texts,
}  # fmt: skip
WRITERS: dict[str, Writer] = {
    "s": _put_text, "b": _put_base64, "i": varint, "n": varint, "t": _put_truth, "d": _put_double, "q": _put_quantity,
    "T": _put_time, "M": _put_time, "I": _put_int_or_string, "J": _put_json, "l": _put_texts,
}  # fmt: skip
#: {kind: the JSON value of Go's zero}; other kinds have none
ZEROS: dict[str, Any] = {"s": "", "i": 0, "n": 0, "t": False, "d": 0.0, "q": "0", "I": 0}
WIRE_TYPES = {"i": VARINT, "n": VARINT, "t": VARINT, "d": FIXED64}
