"""Kubernetes' CBOR form of objects, ``application/cbor`` (KEP-4222): JSON's values, in RFC 8949's bytes.

A body is one data item in the tag that says of itself that it is CBOR; a watch is a sequence of them. Documents go in and
come out as plain JSON values, so that whatever checks JSON checks CBOR too. Three things are not as in JSON: fields of
bytes (``Secret.data``) travel as bytes, in the tag that promises base64 to who reads them as text; a key that comes twice
is refused; so are numbers that JSON does not have. Times and quantities are texts, as they are in JSON.

Only code that has met a CBOR body or Accept header imports this: cbor2 and its imports are not free.
Source: apimachinery pkg/runtime/serializer/cbor.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import cbor2
import msgspec

from . import scheme
from .resources import Resource
from .values import Base64

MEDIA_TYPE = "application/cbor"
SEQUENCE_MEDIA_TYPE = "application/cbor-seq"
#: Tag 55799, which stands around every body.
SELF_DESCRIBED = b"\xd9\xd9\xf7"
MAX_DEPTH = 64
MAX_INT, MIN_INT = (1 << 63) - 1, -(1 << 63)
BASE64URL_LATER, BASE64_LATER, BASE16_LATER = 21, 22, 23


class Malformed(ValueError):
    """The bytes are no CBOR, or say what JSON cannot."""


# -------------------------------------------------------------------------------------------------------- reading


def decode(data: bytes) -> Any:
    """The plain JSON value of a body, with or without its tag. Raises Malformed."""
    source = io.BytesIO(data.removeprefix(SELF_DESCRIBED))
    decoder = cbor2.CBORDecoder(
        source, max_depth=MAX_DEPTH, allow_duplicate_keys=False, semantic_decoders=_TAGS, tag_hook=_content
    )
    try:
        made = _plain(decoder.decode())
        left = len(source.read())
        if left:
            raise Malformed(f"{left} bytes of extraneous data")
        return made
    except (cbor2.CBORError, ValueError, TypeError, OverflowError) as err:
        raise Malformed(f"cbor: {err}") from None


def _content(tag: cbor2.CBORTag, immutable: bool) -> Any:
    """What a tag that means nothing to Kubernetes stands around."""
    return tag.value


def _inner(value: Any, immutable: bool) -> Any:
    return value


def _moment(value: Any, immutable: bool) -> str:
    """Seconds since 1970, as the text that JSON would have."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Malformed("a time must be a number")
    text = datetime.fromtimestamp(value, UTC).isoformat()
    return text.removesuffix("+00:00") + "Z"


def _big(value: Any, immutable: bool) -> Any:
    raise Malformed("integers of more than 64 bits are not accepted")


def _later(encode: Callable[[bytes], bytes]) -> Callable[[Any, bool], Any]:
    """Bytes that are to be read as text in an encoding."""

    def read(value: Any, immutable: bool) -> Any:
        return encode(value).decode() if isinstance(value, bytes) else value

    return read


def _base64url(value: bytes) -> bytes:
    return base64.urlsafe_b64encode(value).rstrip(b"=")


#: What tags mean; those of which the library would make Python's own objects mean nothing here.
_TAGS: dict[int, Callable[[Any, bool], Any]] = {
    **dict.fromkeys((0, 4, 5, 25, 28, 29, 30, 35, 36, 37, 100, 256, 258, 260, 261, 1004, 43000, 55799), _inner),
    1: _moment,
    2: _big,
    3: _big,
    BASE64URL_LATER: _later(_base64url),
    BASE64_LATER: _later(base64.b64encode),
    BASE16_LATER: _later(binascii.hexlify),
}


def _plain(value: Any) -> Any:
    """A JSON value of what the library read. Raises Malformed for what JSON does not have."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is bytes:
        return value.decode()
    if kind is int:
        if not MIN_INT <= value <= MAX_INT:
            raise Malformed(f"{value} overflows Go's int64")
        return value
    if kind is float:
        if not math.isfinite(value):
            raise Malformed("NaN and infinities are not accepted")
        return value
    if isinstance(value, Mapping):
        made = {_key(key): _plain(inner) for key, inner in value.items()}
        if len(made) < len(value):
            raise Malformed("duplicate map key")
        return made
    if isinstance(value, Sequence):
        return [_plain(inner) for inner in value]
    if value is cbor2.undefined:
        return None
    raise Malformed(f"no value of JSON: {value!r}")


def _key(key: Any) -> str:
    if type(key) is str:
        return key
    if type(key) is bytes:
        return key.decode()
    raise Malformed(f"the key of a map must be text, not {key!r}")


# -------------------------------------------------------------------------------------------------------- writing


def encode(document: Any) -> bytes:
    """The body of a document: an object, a list, a Table, or anything else that JSON can say."""
    return SELF_DESCRIBED + cbor2.dumps(_with_bytes(document))


def encode_watch_event(type: str, body: bytes) -> bytes:
    """One item of a watch's sequence, around an object's whole body."""
    return b"".join((SELF_DESCRIBED, b"\xa2dtype", cbor2.dumps(type), b"fobject", body))


def _with_bytes(document: Any) -> Any:
    """A document in which fields of bytes are bytes, where its kind, or the kind of what it lists, has any."""
    if not isinstance(document, dict):
        return document
    version, kind = str(document.get("apiVersion", "")), str(document.get("kind", ""))
    if kind == "Table" and version.startswith("meta.k8s.io/"):
        rows = [{**row, "object": _with_bytes(row.get("object"))} for row in document.get("rows") or ()]
        return {**document, "rows": rows}
    resource = scheme.resource_by_kind(version, kind)
    if resource is not None:
        return _filled(document, _places(resource))
    items = document.get("items")
    resource = scheme.resource_by_kind(version, kind.removesuffix("List"))
    if isinstance(items, list) and resource is not None and _places(resource) is not None:
        return {**document, "items": [_filled(item, _places(resource)) for item in items]}
    return document


#: Where below a value there are bytes: None, nowhere; True, here; else (dict of a Struct's wire names, or list, or map).
_Places = Any


@lru_cache(maxsize=None)
def _places(resource: Resource[Any]) -> _Places:
    return _find(resource.type, ())


def _find(kind: Any, above: tuple[type, ...]) -> _Places:
    kind = scheme.strip_optional(kind)
    if kind is Base64:
        return True
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        if kind in above:  # schemas hold schemas, which have no bytes
            return None
        fields = scheme.field_types(kind).items()
        found = {wire: place for wire, (_, hint, _) in fields if (place := _find(hint, (*above, kind))) is not None}
        return (dict, found) if found else None
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple or origin is dict:
        inner = _find(arguments[origin is dict], above)
        return None if inner is None else (list if origin is tuple else Mapping, inner)
    return None


def _filled(value: Any, places: _Places) -> Any:
    if places is None or value is None:
        return value
    if places is True:
        return cbor2.CBORTag(BASE64_LATER, base64.b64decode(value))
    shape, inner = places
    if shape is list:
        return [_filled(one, inner) for one in value]
    if shape is Mapping:
        return {key: _filled(one, inner) for key, one in value.items()}
    return {key: _filled(one, inner.get(key)) for key, one in value.items()}
