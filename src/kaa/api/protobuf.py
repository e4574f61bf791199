"""Kubernetes' protobuf form of objects, ``application/vnd.kubernetes.protobuf``: what stands around a message.

A body is ``k8s\\0`` and a ``runtime.Unknown`` that names the kind and carries the message. Documents go in and come out as
plain JSON values, so that whatever checks JSON checks protobuf too. ``protobuf_messages`` knows the messages. Only code
that has met a protobuf body or Accept header imports this: its tables are not free.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from . import scheme, types
from .protobuf_messages import Document, read_message, write_message
from .protobuf_values import Malformed, parts, sized
from .scheme import TypeMeta
from .types.protobuf_fields import FIELDS

__all__ = [
    "MAGIC", "MEDIA_TYPE", "WATCH_MEDIA_TYPE", "Malformed", "decode", "decode_object", "document_from_protobuf",
    "encode_document", "encode_list", "encode_object", "encode_raw", "encode_watch_event", "envelope", "find_struct", "message_of", "sized",
    "supports", "to_document",
]  # fmt: skip

T = TypeVar("T")
FindType = Callable[[str, str], "type | None"]

MAGIC = b"k8s\x00"
MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
WATCH_MEDIA_TYPE = MEDIA_TYPE + ";stream=watch"
JSON = "application/json"

_MODULES = {"": "core", "internal.apiserver.k8s.io": "apiserverinternal"}
#: Kinds that every group-version has.
_META_KINDS = frozenset(
    ("CreateOptions", "DeleteOptions", "GetOptions", "ListOptions", "PatchOptions", "Status", "UpdateOptions")
)


def message_of(struct: type) -> str | None:
    """The message of a Struct (``core_v1.Pod``); None when protobuf does not carry it."""
    name = f"{struct.__module__.rpartition('.')[2]}.{struct.__name__}"
    return name if name in FIELDS else None


def find_struct(api_version: str, kind: str) -> type | None:
    """The Struct of any built-in kind, ``Scale`` and ``Eviction`` among them; None when there is none."""
    group, _, version = api_version.rpartition("/")
    module = f"{_MODULES.get(group) or group.partition('.')[0]}_{version}"
    if f"{module}.{kind}" not in FIELDS:
        return None
    struct = getattr(importlib.import_module(f"{types.__name__}.{module}"), kind, None)
    named = getattr(struct, "API_VERSION", ""), getattr(struct, "KIND", "")
    return struct if named == (api_version, kind) else None


def _needed(struct: type) -> str:
    message = message_of(struct)
    if message is None:
        raise Malformed(f"object *{struct.__name__} does not implement the protobuf marshalling interface")
    return message


# -------------------------------------------------------------------------------------------------------- reading


def decode(data: bytes) -> tuple[TypeMeta, bytes]:
    """The kind of a body and the message in it. Raises Malformed."""
    type_meta, raw, _ = _envelope(data)
    return type_meta, raw


def _envelope(data: bytes) -> tuple[TypeMeta, bytes, str]:
    """(kind and version, the content, the content's media type)."""
    if not data.startswith(MAGIC):
        raise Malformed("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
    unknown = _texts(parts(data, len(MAGIC), len(data)))
    if unknown.get(3):
        raise Malformed(f"unsupported content encoding {unknown[3]!r}")
    inner = unknown.get(1, b"")
    names = {number: text.decode("utf-8", "replace") for number, text in _texts(parts(inner, 0, len(inner))).items()}
    meta = TypeMeta(kind=names.get(2, ""), api_version=names.get(1, ""))
    return meta, unknown.get(2, b""), unknown.get(4, b"").decode("utf-8", "replace")


def _texts(found: dict[int, Any]) -> dict[int, bytes]:
    """Fields 1 to 4, which must all be texts; others are skipped."""
    texts = {number: value for number, value in found.items() if number <= 4}
    for number, value in texts.items():
        if not isinstance(value, bytes):
            raise Malformed(f"proto: wrong wireType for field {number}")
    return texts


def to_document(struct: type, raw: bytes) -> Document:
    """The plain JSON value of a message, without kind and apiVersion. Raises Malformed."""
    return read_message(_needed(struct), raw)


def decode_object(struct: type[T], raw: bytes) -> T:
    """A Struct from its message. Raises Malformed."""
    try:
        return scheme.convert(struct, to_document(struct, raw))
    except scheme.DecodeError as err:
        raise Malformed(str(err)) from err


def document_from_protobuf(data: bytes, find_type: FindType = find_struct) -> Document:
    """The JSON value that a protobuf body stands for, with kind and apiVersion where the body has them.

    Args:    find_type: (apiVersion, kind) -> the Struct of that kind, None if there is no such kind.
    Raises:  Malformed: no envelope, a broken message, or a kind that has no message.
    """
    meta, raw, content_type = _envelope(data)
    if content_type.partition(";")[0] == JSON:
        document = _json_document(raw)
    else:
        if content_type and content_type != MEDIA_TYPE:
            raise Malformed(f"unsupported content type {content_type!r}")
        document = _of_kind(meta, raw, find_type)
    head = {"kind": meta.kind, "apiVersion": meta.api_version}
    return {**{name: text for name, text in head.items() if text}, **document}


def _json_document(raw: bytes) -> Document:
    try:
        document = msgspec.json.decode(raw)
    except (ValueError, RecursionError) as err:
        raise Malformed(str(err)) from None
    if not isinstance(document, dict):
        raise Malformed("the JSON within is no object")
    return document


def _of_kind(meta: TypeMeta, raw: bytes, find_type: FindType) -> Document:
    if meta.kind in _META_KINDS:
        return read_message("meta_v1." + meta.kind, raw)
    struct = find_type(meta.api_version, meta.kind)
    if struct is None:
        raise Malformed(f'no kind "{meta.kind}" is registered for version "{meta.api_version}"')
    return to_document(struct, raw)


# -------------------------------------------------------------------------------------------------------- writing


def envelope(api_version: str, kind: str, raw: bytes) -> bytes:
    """A body: the message ``raw`` with its kind, as upstream writes it, empty content fields included."""
    names = b"\x0a" + sized(api_version.encode()) + b"\x12" + sized(kind.encode())
    return b"".join((MAGIC, b"\x0a", sized(names), b"\x12", sized(raw), b"\x1a\x00\x22\x00"))


def encode_raw(obj: Any) -> bytes:
    """The message of a Struct, without its envelope. Raises Malformed for a type that protobuf does not carry."""
    return write_message(_needed(type(obj)), scheme.to_builtins(obj))


def encode_object(obj: Any, api_version: str = "", kind: str = "") -> bytes:
    """The body of an object. Kind and version are the Struct's own, unless it serves several (DeleteOptions)."""
    return envelope(api_version or obj.API_VERSION, kind or obj.KIND, encode_raw(obj))


def encode_document(struct: type, document: Mapping[str, Any]) -> bytes:
    """The body of an object given as its plain JSON value, which says its kind and version."""
    raw = write_message(_needed(struct), dict(document))
    return envelope(str(document.get("apiVersion", "")), str(document.get("kind", "")), raw)


def encode_list(api_version: str, kind: str, list_meta: Any, items: Iterable[bytes]) -> bytes:
    """The body of a list, from the messages of its items (``encode_raw``). ``kind`` is the list's: ``PodList``.

    ``list_meta`` is a ListMeta, or its plain JSON value.
    """
    meta = list_meta if isinstance(list_meta, dict) else scheme.to_builtins(list_meta)
    pieces = [b"\x0a", sized(write_message("meta_v1.ListMeta", meta))]
    for item in items:
        pieces += (b"\x12", sized(item))
    return envelope(api_version, kind, b"".join(pieces))


def encode_watch_event(type: str, body: bytes) -> bytes:
    """One frame of a watch: four bytes of length, then a WatchEvent around an object's whole body."""
    event = b"\x0a" + sized(type.encode()) + b"\x12" + sized(b"\x0a" + sized(body))
    return len(event).to_bytes(4, "big") + event


def supports(struct: type | None) -> bool:
    """Whether a kind has a protobuf form; custom resources have none."""
    return struct is not None and message_of(struct) is not None
