"""The generated Structs as CEL types, for checking expressions against the kinds that they are about.

Types are made as they are asked for, since kinds may hold themselves.

Source: apiserver pkg/cel/common/schemas.go, on the OpenAPI documents that the Structs are generated from.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from .. import scheme
from ..values import Base64, Quantity
from .escaping import escape
from .types import BOOL, BYTES, DOUBLE, DYN, INT, STRING, TIMESTAMP, ListType, MapType, ObjectType, Type

_PLAIN: dict[Any, Type] = {str: STRING, int: INT, float: DOUBLE, bool: BOOL, Quantity: STRING, Base64: BYTES}
_TIME = re.compile(r"\b(Micro)?Time\b")
_HEAD = {"kind": STRING, "apiVersion": STRING}


class _Fields(Mapping[str, Type]):
    """The fields of a Struct under the names that expressions use."""

    def __init__(self, struct: type[msgspec.Struct], head: Mapping[str, Type]) -> None:
        known = scheme.field_types(struct)
        self._struct, self._head = struct, head
        #: {name in expressions: (attribute, type hint)}
        self._known = {escape(wire) or wire: (name, hint) for wire, (name, hint, _) in known.items()}

    def __getitem__(self, name: str) -> Type:
        if name in self._head:
            return self._head[name]
        attribute, hint = self._known[name]
        if _TIME.search(str(_annotation(self._struct, attribute))):
            return TIMESTAMP
        return type_of_hint(hint)

    def __iter__(self) -> Iterator[str]:
        yield from self._head
        yield from self._known

    def __len__(self) -> int:
        return len(self._head) + len(self._known)


def _annotation(struct: type, attribute: str) -> Any:
    """A field's annotation as it is written: read, a time is a plain string."""
    return inspect.get_annotations(struct).get(attribute, "")


@lru_cache(maxsize=None)
def type_of_struct(struct: type[msgspec.Struct]) -> ObjectType:
    """A kind's own type (with kind and apiVersion), or that of a part of one."""
    fields = _Fields(struct, _HEAD if hasattr(struct, "KIND") else {})
    wire_names = {escaped: wire for wire in scheme.field_types(struct) if (escaped := escape(wire) or wire) != wire}
    return ObjectType(struct.__name__, fields, wire_names=wire_names)


def type_of_hint(hint: Any) -> Type:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        left = [one for one in arguments if one is not type(None)]
        return type_of_hint(left[0]) if len(left) == 1 else DYN
    if origin is tuple:
        return ListType(type_of_hint(arguments[0]))
    if origin is dict:
        return MapType(STRING, type_of_hint(arguments[1]))
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return type_of_struct(hint)
    return _PLAIN.get(hint, DYN)
