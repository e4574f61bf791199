"""Protobuf messages to plain JSON values and back, by the field table in ``types/protobuf_fields``.

Which message a document is and what stands around it is ``protobuf``'s matter. A plan is made per message on first use:
for reading ``{key on the wire: field}``, for writing the fields in the order of their numbers. The bytes are those that Go
writes: fields that Go holds by value are written even when they are zero, and a zero read from one that JSON would omit is
absent again, so that a document read from protobuf is the one that would have come as JSON.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from .protobuf_values import (
    BYTES,
    READERS,
    VARINT,
    WIRE_TYPES,
    WRITERS,
    ZEROS,
    Malformed,
    Reader,
    Writer,
    read_varint,
    sized,
    skip,
    varint,
)  # fmt: skip
from .types.protobuf_fields import FIELDS

MAX_DEPTH = 150  # messages in one another; the deepest sane schema has some 60
Document = dict[str, Any]


# -------------------------------------------------------------------------------------------------------- plans


#: How a field is read: a value whose zero is not in JSON, one whose zero is, a message, a list, a map, a struct inlined.
VALUE, KEPT, MESSAGE, LIST, MAP, INLINED = range(6)
_OPERATIONS = {"*": LIST, "%": MAP, "+": INLINED}


class Field:
    """One field of a message: where it stands on the wire and how its value is read and written."""

    __slots__ = (
        "_plan", "json_zero", "key", "kind", "mode", "name", "number", "op", "read", "sized", "value_key",
        "value_sized", "write", "zero",
    )  # fmt: skip

    def __init__(self, module: str, text: str) -> None:
        self.name, _, place = text.partition("=")
        at = next(n for n, letter in enumerate(place) if not letter.isdigit())
        self.number, self.mode = int(place[:at]), place[at]
        kind = place[at + 1 :].removesuffix("!")
        self.json_zero = self.mode == "!" or text.endswith("!")
        self.kind = kind if len(kind) == 1 or "." in kind else f"{module}.{kind}"
        self.read: Reader = READERS.get(self.kind) or _SCHEMA_READERS.get(self.kind) or _message_reader(self.kind)
        self.write: Writer = WRITERS.get(self.kind) or _SCHEMA_WRITERS.get(self.kind) or _message_writer(self.kind)
        wire = BYTES if self.mode == "%" else WIRE_TYPES.get(self.kind, BYTES)
        self.key, self.sized = varint(self.number << 3 | wire), wire == BYTES
        value_wire = WIRE_TYPES.get(self.kind, BYTES)
        self.value_key, self.value_sized = varint(2 << 3 | value_wire), value_wire == BYTES
        self.zero = ZEROS.get(self.kind)
        self.op = _OPERATIONS.get(self.mode) or self._operation()
        self._plan: Plan | None = None

    def _operation(self) -> int:
        if self.kind in FIELDS:
            return MESSAGE
        return VALUE if self.mode == "." and self.kind not in ("q", "I") else KEPT

    def message_plan(self) -> Plan:
        """The plan of the message in it, found when one first comes: messages may hold themselves."""
        if self._plan is None:
            self._plan = plan_of(self.kind)
        return self._plan


class Plan:
    """What is needed to read and write one message."""

    __slots__ = ("by_key", "fields", "lists", "numbers", "zeros")

    def __init__(self, message: str) -> None:
        module = message.partition(".")[0]
        self.fields = tuple(Field(module, text) for text in FIELDS[message].split())
        self.by_key = {read_varint(field.key, 0, len(field.key))[0]: field for field in self.fields}
        self.numbers = {field.number for field in self.fields}
        shown = [field for field in self.fields if field.json_zero]
        #: (name, value) of scalars that JSON has even when nothing was sent
        self.zeros = tuple((f.name, ZEROS[f.kind]) for f in shown if f.mode == "!" and f.kind in ZEROS)
        #: lists that JSON has even when they are empty
        self.lists = tuple(field.name for field in shown if field.mode == "*")


@lru_cache(maxsize=None)
def plan_of(message: str) -> Plan:
    return Plan(message)


# -------------------------------------------------------------------------------------------------------- reading


def read_message(message: str, data: bytes) -> Document:
    """The JSON value of a whole message (``core_v1.Pod``). Raises Malformed."""
    return read_into({}, plan_of(message), data, 0, len(data), 0)


def read_into(found: Document, plan: Plan, data: bytes, position: int, end: int, depth: int) -> Document:
    """Read a message's fields into a document, which may have some from an earlier part of the same message.

    This loop is what decoding costs, so the commonest fields are dealt with in it: zeros, texts and messages.
    """
    if depth > MAX_DEPTH:
        raise Malformed("proto: messages are nested too deeply")
    by_key = plan.by_key
    while position < end:
        key = data[position]
        position += 1
        if key > 0x7F:
            key, position = read_varint(data, position - 1, end)
        field = by_key.get(key)
        if field is None:
            position = _other_key(found, plan, data, position, end, key)
            continue
        if position >= end:
            raise Malformed("unexpected EOF")
        op, size = field.op, data[position]
        if key & 7 == BYTES:
            position += 1
            if size > 0x7F:
                size, position = read_varint(data, position - 1, end)
            stop = position + size
            if stop > end:
                raise Malformed("unexpected EOF")
        elif key & 7 == VARINT:
            stop = position + 1 if size < 0x80 else read_varint(data, position, end)[1]
        else:
            stop = position + 8
            if stop > end:
                raise Malformed("unexpected EOF")
        if op == VALUE and size == 0 and field.kind != "d":
            found.pop(field.name, None)  # the last one counts
        elif op == MESSAGE:
            inner = found.get(field.name) or {}  # parts of one message are merged
            found[field.name] = read_into(inner, field.message_plan(), data, position, stop, depth + 1)
        elif op <= KEPT:
            value = field.read(data, position, stop, depth)
            if value is not None and (value or op == KEPT):
                found[field.name] = value
            else:
                found.pop(field.name, None)
        elif op == LIST:
            found.setdefault(field.name, []).append(field.read(data, position, stop, depth))
        elif op == MAP:
            name, value = _entry(field, data, position, stop, depth)
            found.setdefault(field.name, {})[name] = value
        else:
            read_into(found, field.message_plan(), data, position, stop, depth + 1)
        position = stop
    for name, zero in plan.zeros:
        if name not in found:
            found[name] = zero
    for name in plan.lists:
        if name not in found:
            found[name] = []
    return found


def _entry(field: Field, data: bytes, position: int, end: int, depth: int) -> tuple[str, Any]:
    """One entry of a map: a message of key (1) and value (2)."""
    name, value = "", None
    while position < end:
        key, position = read_varint(data, position, end)
        if key >> 3 in (1, 2) and key & 7 == BYTES:
            length, position = read_varint(data, position, end)
            stop = position + length
            if stop > end:
                raise Malformed("unexpected EOF")
            if key >> 3 == 1:
                name = READERS["s"](data, position, stop, depth)
            else:
                value = field.read(data, position, stop, depth)
            position = stop
        else:
            position = skip(data, position, end, key)
    return name, field.read(b"", 0, 0, depth) if value is None else value


def _other_key(found: Document, plan: Plan, data: bytes, position: int, end: int, key: int) -> int:
    """A key that the plan does not have: packed numbers, a field that we do not know, or a mistake."""
    number, wire = key >> 3, key & 7
    if number == 0 or number not in plan.numbers:
        if number == 0:
            raise Malformed(f"proto: illegal tag {number} (wire type {wire})")
        return skip(data, position, end, key)
    field = next(field for field in plan.fields if field.number == number)
    if field.mode != "*" or field.kind not in "in" or wire != BYTES:
        raise Malformed(f"proto: wrong wireType = {wire} for field {field.name}")
    length, position = read_varint(data, position, end)
    stop = position + length
    if stop > end:
        raise Malformed("unexpected EOF")
    while position < stop:
        after = read_varint(data, position, stop)[1]
        found.setdefault(field.name, []).append(field.read(data, position, after, 0))
        position = after
    return stop


# ------------------------------------------------------------------------------------------------ messages within


def _message_reader(message: str) -> Reader:
    def read(data: bytes, position: int, stop: int, depth: int) -> Document:
        return read_into({}, plan_of(message), data, position, stop, depth + 1)

    return read


def _message_writer(message: str) -> Writer:
    def write(value: Any) -> bytes:
        return write_message(message, value or {})

    return write


def _read_or(message: str, data: bytes, position: int, stop: int, depth: int) -> Document:
    return read_into({}, plan_of("apiextensions_v1.JSONSchemaPropsOr" + message), data, position, stop, depth + 1)


def _schema_or_array(data: bytes, position: int, stop: int, depth: int) -> Any:
    found = _read_or("Array", data, position, stop, depth)
    return found["schemas"] if "schemas" in found else found.get("schema")


def _schema_or_bool(data: bytes, position: int, stop: int, depth: int) -> Any:
    found = _read_or("Bool", data, position, stop, depth)
    return found["schema"] if "schema" in found else found["allows"]


def _schema_or_texts(data: bytes, position: int, stop: int, depth: int) -> Any:
    found = _read_or("StringArray", data, position, stop, depth)
    return found["texts"] if "texts" in found else found.get("schema")


def _put_schema_or_array(value: Any) -> bytes:
    return _write_or("Array", {"schemas": value} if isinstance(value, (list, tuple)) else {"schema": value})


def _put_schema_or_bool(value: Any) -> bytes:
    return _write_or("Bool", {"allows": value} if isinstance(value, bool) else {"allows": True, "schema": value})


def _put_schema_or_texts(value: Any) -> bytes:
    return _write_or("StringArray", {"texts": value} if isinstance(value, (list, tuple)) else {"schema": value})


def _write_or(message: str, value: Document) -> bytes:
    return write_message("apiextensions_v1.JSONSchemaPropsOr" + message, value)


_SCHEMA_READERS: dict[str, Reader] = {"A": _schema_or_array, "B": _schema_or_bool, "S": _schema_or_texts}
_SCHEMA_WRITERS: dict[str, Writer] = {"A": _put_schema_or_array, "B": _put_schema_or_bool, "S": _put_schema_or_texts}


# -------------------------------------------------------------------------------------------------------- writing


def write_message(message: str, value: Document) -> bytes:
    """A JSON value as the bytes of a message, as Go writes them. Raises Malformed."""
    made = bytearray()
    for field in plan_of(message).fields:
        mode = field.mode
        if mode == "+":
            made += field.key + sized(write_message(field.kind, value))
            continue
        found = value.get(field.name)
        if mode == "*":
            for inner in found or ():
                payload = field.write(inner)
                made += field.key + (sized(payload) if field.sized else payload)
        elif mode == "%":
            for key in sorted(found or ()):
                made += field.key + sized(_map_entry(field, key, found[key]))  # type: ignore[index]  # it has keys
        elif found is not None or (mode in ".!" and field.kind != "b"):
            payload = field.write(field.zero if found is None else found)
            made += field.key + (sized(payload) if field.sized else payload)
    return bytes(made)


def _map_entry(field: Field, key: str, value: Any) -> bytes:
    payload = field.write(value)
    if field.kind == "b" and not payload:
        return b"\x0a" + sized(key.encode())
    return b"\x0a" + sized(key.encode()) + field.value_key + (sized(payload) if field.value_sized else payload)
