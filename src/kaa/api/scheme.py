"""Kind to resource to type, and objects to bytes and back.

The wire form of an object is its Struct's JSON behind ``{"kind":…,"apiVersion":…,``; Structs hold neither, since their
class says both. Reading is strict about types and lenient the way Go is: ``null`` is absent, and an absent required
field is its zero value, for validation to name.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Hashable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Generic, TypeVar, cast

import msgspec

from .quantity import canonical
from .resources import OPTIONAL, RESOURCES, Resource
from .types import meta_v1
from .values import Base64, Quantity

T = TypeVar("T")


class ObjectList(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """A list of any kind: ``PodList`` is ``ObjectList[Pod]``."""

    metadata: meta_v1.ListMeta = msgspec.field(default_factory=meta_v1.ListMeta)
    items: tuple[T, ...] = ()


class TypeMeta(msgspec.Struct, frozen=True, kw_only=True, rename={"api_version": "apiVersion"}):
    """What any document says of itself."""

    kind: str = ""
    api_version: str = ""


class DecodeError(ValueError):
    """The bytes are no object of the type; the message says where."""


# -------------------------------------------------------------------------------------------------------- kinds

_BY_TYPE_NAME: dict[tuple[str, str], Resource[Any]] = {(r.api_version, r.kind): r for r in (*RESOURCES, *OPTIONAL)}
_BY_PATH: dict[tuple[str, str, str], Resource[Any]] = {
    (r.group, r.version, r.plural): r for r in (*RESOURCES, *OPTIONAL)
}


def resource_of(kind: Any) -> Resource[Any]:
    """The resource that serves a Struct class or an object of it. A Resource is its own answer.

    Raises: LookupError: none of ours; which resource serves a custom object, its kind does not say.
    """
    if isinstance(kind, Resource):
        return kind
    found = _BY_TYPE_NAME.get((kind.API_VERSION, kind.KIND))
    if found is None:
        raise LookupError(f"{kind.API_VERSION} {kind.KIND} is no built-in kind: say which resource serves it")
    return found


def resource_by_kind(api_version: str, kind: str) -> Resource[Any] | None:
    return _BY_TYPE_NAME.get((api_version, kind))


def resource_by_path(group: str, version: str, plural: str) -> Resource[Any] | None:
    return _BY_PATH.get((group, version, plural))


# -------------------------------------------------------------------------------------------------------- writing


def _encode_hook(value: object) -> object:
    if isinstance(value, (Quantity, Base64)):
        return str.__str__(value)
    raise TypeError(f"{type(value).__name__} has no place in an API object")


_ENCODER = msgspec.json.Encoder(enc_hook=_encode_hook)


@lru_cache(maxsize=None)
def prefix(api_version: str, kind: str) -> bytes:
    """``{"kind":"Pod","apiVersion":"v1",`` : what stands before the fields of every object of a kind."""
    return b'{"kind":%s,"apiVersion":%s,' % (_ENCODER.encode(kind), _ENCODER.encode(api_version))


def encode_inner(value: object) -> bytes:
    """The JSON of a Struct (or of any plain value) without kind and apiVersion."""
    return _ENCODER.encode(value)


def encode(obj: Any) -> bytes:
    """The wire JSON of an object: a kind's Struct, or a custom resource as a plain mapping."""
    if isinstance(obj, Mapping):
        return _ENCODER.encode(obj)
    return encode_as(obj, obj.API_VERSION, obj.KIND)


def encode_as(obj: Any, api_version: str, kind: str) -> bytes:
    """The wire JSON of a Struct that serves several group-versions and so names none (DeleteOptions)."""
    inner = _ENCODER.encode(obj)
    head = prefix(api_version, kind)
    return head + inner[1:] if len(inner) > 2 else head[:-1] + b"}"


def to_builtins(obj: Any) -> Any:
    """The plain JSON value of a Struct, without kind and apiVersion."""
    return msgspec.json.decode(_ENCODER.encode(obj))


def document(obj: Any) -> dict[str, Any]:
    """The plain JSON value of an object, with kind and apiVersion."""
    found: dict[str, Any] = msgspec.json.decode(encode(obj))
    return found


# -------------------------------------------------------------------------------------------------------- reading


def _decode_hook(kind: type, value: object) -> object:
    if kind is Quantity and isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return canonical(value)
    if kind is Base64 and isinstance(value, str):
        return _base64(value)
    raise msgspec.ValidationError(f"Expected `quantity`, got `{type(value).__name__}`")


_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/\r\n]|=(?!=?[\r\n]*$)")


def _base64(text: str) -> Base64:
    """The text, if it is base64. Raises ValueError in Go's words, with the place of the first fault."""
    plain = text.rstrip("=\r\n")
    fault = _NOT_BASE64.search(plain)
    bare = text.replace("\r", "").replace("\n", "")
    if fault is not None or len(bare) % 4 or len(bare) - len(plain) > 2 + text.count("\n") + text.count("\r"):
        place = fault.start() if fault is not None else len(bare) - len(bare) % 4
        raise ValueError(f"illegal base64 data at input byte {place}")
    return Base64(text)


@lru_cache(maxsize=None)
def decoder(kind: Hashable) -> msgspec.json.Decoder[Any]:
    """The one JSON decoder of a type."""
    return msgspec.json.Decoder(cast(Any, kind), dec_hook=_decode_hook)


def decode(kind: type[T], data: bytes | bytearray | memoryview) -> T:
    """Read an object. Raises DecodeError with msgspec's words and the place (``$.spec.replicas``)."""
    try:
        found: T = decoder(kind).decode(data)  # type: ignore[arg-type]  # classes are hashable
        return found
    except msgspec.ValidationError:
        return convert(kind, _plain(data))
    except UnicodeDecodeError:
        return decode(kind, repaired(data))
    except msgspec.DecodeError as err:
        raise DecodeError(str(err)) from err


def repaired(data: bytes | bytearray | memoryview) -> bytes:
    """Text as Go reads it: with a replacement character for what is no UTF-8."""
    return bytes(data).decode("utf-8", "replace").encode()


def convert(kind: type[T], value: Any) -> T:
    """Make a Struct of a plain JSON value, as leniently as ``decode``. Raises DecodeError."""
    try:
        return msgspec.convert(value, kind, dec_hook=_decode_hook)
    except msgspec.ValidationError:
        pass
    try:
        return msgspec.convert(_as_go_reads(kind, value), kind, dec_hook=_decode_hook)
    except (msgspec.ValidationError, ValueError) as err:
        raise DecodeError(str(err)) from err


def _plain(data: bytes | bytearray | memoryview) -> Any:
    try:
        return msgspec.json.decode(data)
    except UnicodeDecodeError:
        return _plain(repaired(data))
    except msgspec.DecodeError as err:
        raise DecodeError(str(err)) from err


@lru_cache(maxsize=None)
def field_types(kind: type) -> dict[str, tuple[str, Any, bool]]:
    """{wire name: (attribute, type, required)} of a Struct."""
    hints = typing.get_type_hints(kind)
    return {f.encode_name: (f.name, hints[f.name], f.required) for f in msgspec.structs.fields(kind)}


def struct_in(hint: Any) -> type[msgspec.Struct] | None:
    """The Struct class in a field's type, through options, tuples and mappings; None when there is none."""
    hint = strip_optional(hint)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return hint
    for inner in typing.get_args(hint):
        found = struct_in(inner) if inner is not Ellipsis else None
        if found is not None:
            return found
    return None


def _as_go_reads(kind: Any, value: Any) -> Any:
    """Drop nulls and put zero values where required fields are absent, all the way down."""
    kind = strip_optional(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        if not isinstance(value, dict):
            return value
        known = field_types(kind)
        made = {
            wire: _as_go_reads(known[wire][1], inner) if wire in known else inner
            for wire, inner in value.items()
            if inner is not None
        }
        for wire, (_, hint, required) in known.items():
            if required and wire not in made:
                made[wire] = _zero(hint)
        return made
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        return [_as_go_reads(arguments[0], _zero(arguments[0]) if inner is None else inner) for inner in value]
    if typing.get_origin(kind) is dict and isinstance(value, dict):
        return {k: _as_go_reads(arguments[1], _zero(arguments[1]) if v is None else v) for k, v in value.items()}
    return value


def strip_optional(kind: Any) -> Any:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        left = [part for part in typing.get_args(kind) if part is not type(None)]
        if len(left) == 1:
            return left[0]
        return next((part for part in left if isinstance(part, type) and issubclass(part, msgspec.Struct)), kind)
    return kind


_ZEROS: dict[Any, Any] = {str: "", int: 0, float: 0.0, bool: False, Quantity: "0", Base64: ""}


def _zero(kind: Any) -> Any:
    """Go's zero value of a field's type, as plain JSON."""
    kind = strip_optional(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _as_go_reads(kind, {})
    if typing.get_origin(kind) is tuple:
        return []
    if typing.get_origin(kind) is dict:
        return {}
    return _ZEROS.get(kind, 0 if int in typing.get_args(kind) else None)


# -------------------------------------------------------------------------------------------------------- strictness


def unknown_fields(kind: type, value: Any) -> Iterable[str]:
    """The paths of fields that a type does not have, as the server's strict decoding names them.

    Nearly every document has none, so first it is only compared with the type's outline; paths are made when one is there.
    """
    return () if _fits(_top_outline(kind), value) else _unknown(kind, value, "")


#: Where fields may be unknown below a value. None: nowhere. Of a Struct (None, its wire names, {wire name: outline}); of a
#: list or a mapping (its Python type, no names, what each item or value looks like).
_Outline = tuple[Any, frozenset[str], Any] | None


@lru_cache(maxsize=None)
def _top_outline(kind: Hashable) -> _Outline:
    own = _outline(kind)
    if own is None or not hasattr(kind, "KIND"):
        return own
    return (None, own[1] | {"kind", "apiVersion"}, own[2])


_outlines: dict[Any, tuple[Any, frozenset[str], dict[str, _Outline]]] = {}


def _outline(kind: Any) -> _Outline:
    kind = strip_optional(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        if kind not in _outlines:
            known = field_types(kind)
            deeper: dict[str, _Outline] = {}
            _outlines[kind] = (None, frozenset(known), deeper)  # before its fields are: types may hold themselves
            below = ((wire, _outline(hint)) for wire, (_, hint, _) in known.items())
            deeper.update({wire: outline for wire, outline in below if outline is not None})
        return _outlines[kind]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple or origin is dict:
        inner = _outline(arguments[0] if origin is tuple else arguments[1])
        return None if inner is None else (list if origin is tuple else dict, frozenset(), inner)
    return None


def _fits(outline: _Outline, value: Any) -> bool:
    """Whether a value has no field that its outline lacks."""
    if outline is None:
        return True
    shape, names, below = outline
    if shape is None:
        if type(value) is not dict:
            return True
        if not value.keys() <= names:
            return False
        for wire, inner in value.items():
            if wire in below and not _fits(below[wire], inner):
                return False
    elif type(value) is shape:
        for inner in value if shape is list else value.values():
            if not _fits(below, inner):
                return False
    return True


def _unknown(kind: type, value: Any, path: str) -> Iterable[str]:
    kind = strip_optional(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and isinstance(value, dict):
        known = field_types(kind)
        top = not path and hasattr(kind, "KIND")
        for wire, inner in value.items():
            here = f"{path}.{wire}" if path else wire
            if wire in known:
                yield from _unknown(known[wire][1], inner, here)
            elif not (top and wire in ("kind", "apiVersion")):
                yield here
    elif typing.get_origin(kind) is tuple and isinstance(value, list):
        for n, inner in enumerate(value):
            yield from _unknown(typing.get_args(kind)[0], inner, f"{path}[{n}]")
    elif typing.get_origin(kind) is dict and isinstance(value, dict):
        for key, inner in value.items():
            yield from _unknown(typing.get_args(kind)[1], inner, f"{path}.{key}")
