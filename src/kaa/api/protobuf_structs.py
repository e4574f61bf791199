"""Protobuf for Structs: a field says its number, its type says the rest.

    class Mount(Message, frozen=True):
        container_path: Annotated[str, 1] = ""
        readonly: Annotated[bool, 3] = False

Texts, bytes, integers and enums (both plain ints), booleans, messages (``X | None``), lists (tuples) and maps of texts are
all that the gRPC interfaces of a node have: CRI, device plugins, DRA. Fields with a zero are not written, as proto3 has it;
unknown ones are passed over. A map of messages is a list of messages, its key field 1 and its value field 2.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Annotated, Any, Self, get_args, get_origin, get_type_hints

import msgspec

from .protobuf_values import BYTES, VARINT, Malformed, read_varint, sized, skip, varint

_SIGN = 1 << 64


class Message(msgspec.Struct, frozen=True):
    """Base of all messages. Structs, since a module of dataclasses costs a tenth of a second to import."""

    def encode(self) -> bytes:
        return b"".join(
            field.write(value) for field in _fields(type(self)).values() if (value := getattr(self, field.name))
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises Malformed."""
        fields, found = _fields(cls), dict[str, Any]()
        position, end = 0, len(data)
        while position < end:
            key, position = read_varint(data, position, end)
            field = fields.get(key >> 3)
            if field is None:
                position = skip(data, position, end, key)
            elif key & 7 == VARINT:
                value, position = read_varint(data, position, end)
                field.take_number(found, value)
            elif key & 7 == BYTES:
                size, position = read_varint(data, position, end)
                if position + size > end:
                    raise Malformed("unexpected EOF")
                field.take_bytes(found, data[position : position + size])
                position += size
            else:
                raise Malformed(f"proto: wrong wireType {key & 7} for {cls.__name__}.{field.name}")
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in found.items()})


class _Field:
    """How one field is read and written."""

    def __init__(self, name: str, number: int, hint: Any) -> None:
        self.name, self.number = name, number
        origin = get_origin(hint)
        self.repeated, self.mapped = origin is tuple, origin is Mapping
        if origin is types.UnionType:
            hint = next(one for one in get_args(hint) if one is not type(None))
        self.type: type = get_args(hint)[0] if self.repeated else hint
        self.numeric = self.type in (int, bool)
        self._key = varint(number << 3 | (VARINT if self.numeric and not self.repeated else BYTES))

    def write(self, value: Any) -> bytes:
        """A value that is not zero, with its key. Numbers of a list are packed."""
        if self.mapped:
            pairs = (b"\x0a" + sized(key.encode()) + b"\x12" + sized(text.encode()) for key, text in value.items())
            return b"".join(self._key + sized(pair) for pair in pairs)
        if self.repeated and self.numeric:
            return self._key + sized(b"".join(varint(one % _SIGN) for one in value))
        if self.repeated:
            return b"".join(self._key + sized(_payload(one)) for one in value)
        return self._key + (varint(int(value) % _SIGN) if self.numeric else sized(_payload(value)))

    def take_number(self, found: dict[str, Any], value: int) -> None:
        signed = value - _SIGN if value >> 63 else value
        if self.repeated:
            found.setdefault(self.name, []).append(signed)
        else:
            found[self.name] = self.type(signed)

    def take_bytes(self, found: dict[str, Any], data: bytes) -> None:
        if self.mapped:
            pair = _Pair.decode(data)
            found.setdefault(self.name, {})[pair.key] = pair.value
        elif self.repeated and self.numeric:
            position = 0
            while position < len(data):
                value, position = read_varint(data, position, len(data))
                self.take_number(found, value)
        elif self.repeated:
            found.setdefault(self.name, []).append(self._read(data))
        else:
            found[self.name] = self._read(data)

    def _read(self, data: bytes) -> Any:
        if issubclass(self.type, Message):
            return self.type.decode(data)
        return data.decode("utf-8", "replace") if self.type is str else data


def _payload(value: Any) -> bytes:
    if isinstance(value, Message):
        return value.encode()
    return value.encode() if isinstance(value, str) else bytes(value)


class _Pair(Message, frozen=True):
    """An entry of a map."""

    key: Annotated[str, 1] = ""
    value: Annotated[str, 2] = ""


_FIELDS: dict[type[Message], dict[int, _Field]] = {}


def _fields(message: type[Message]) -> dict[int, _Field]:
    """{number: field}, found on a message's first use."""
    found = _FIELDS.get(message)
    if found is None:
        hints = get_type_hints(message, include_extras=True)
        marked = ((name, *get_args(hint)) for name, hint in hints.items() if get_origin(hint) is Annotated)
        found = _FIELDS[message] = {number: _Field(name, number, hint) for name, hint, number in marked}
    return found
