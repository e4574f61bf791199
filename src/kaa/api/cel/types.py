"""CEL's types, as they are declared for variables and found for expressions.

A type is a value: two lists of ints are one type. Object types are known by their name, so that a type may hold
itself. ``max_elements`` is no part of a type's identity: it is the size that a schema promises, which cost estimates
rest on.

Source: cel-go common/types/types.go; apiserver pkg/cel/types.go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import ClassVar


class Kind(StrEnum):
    """What the checker tells apart. The words are those that cel-go prints, where it prints the kind."""

    ANY = "any"
    BOOL = "bool"
    BYTES = "bytes"
    DOUBLE = "double"
    DURATION = "duration"
    DYN = "dyn"
    ERROR = "!error!"
    INT = "int"
    LIST = "list"
    MAP = "map"
    NULL = "null"
    OBJECT = "object"
    OPAQUE = "opaque"
    OPTIONAL = "optional_type"
    PARAMETER = "parameter"
    STRING = "string"
    TIMESTAMP = "timestamp"
    TYPE = "type"
    UINT = "uint"


@dataclass(frozen=True)
class Type:
    """A type: its kind, its runtime name (what ``type(x)`` prints), and its parameters.

    ``max_elements``: most characters, bytes, items or entries that a value may have; None when nothing says.
    """

    kind: Kind
    name: str
    parameters: tuple[Type, ...] = ()
    max_elements: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        """As cel-go writes a type in its errors: ``map(string, dyn)``."""
        shown = self.kind.value if self.kind in _SHOWN_BY_KIND else self.name
        if not self.parameters:
            return shown
        return f"{shown}({', '.join(map(str, self.parameters))})"

    def sized(self, max_elements: int) -> Type:
        """The same type, of values no larger than that."""
        return replace(self, max_elements=max_elements)


_SHOWN_BY_KIND = frozenset((Kind.DURATION, Kind.TIMESTAMP, Kind.NULL, Kind.ERROR, Kind.ANY))

BOOL = Type(Kind.BOOL, "bool")
INT = Type(Kind.INT, "int")
UINT = Type(Kind.UINT, "uint")
DOUBLE = Type(Kind.DOUBLE, "double")
STRING = Type(Kind.STRING, "string")
BYTES = Type(Kind.BYTES, "bytes")
DURATION = Type(Kind.DURATION, "google.protobuf.Duration")
TIMESTAMP = Type(Kind.TIMESTAMP, "google.protobuf.Timestamp")
NULL = Type(Kind.NULL, "null_type")
DYN = Type(Kind.DYN, "dyn")
ERROR = Type(Kind.ERROR, "!error!")
TYPE = Type(Kind.TYPE, "type")


def ListType(element: Type, *, max_elements: int | None = None) -> Type:
    return Type(Kind.LIST, "list", (element,), max_elements)


def MapType(key: Type, value: Type, *, max_elements: int | None = None) -> Type:
    return Type(Kind.MAP, "map", (key, value), max_elements)


def OptionalType(inner: Type) -> Type:
    return Type(Kind.OPTIONAL, "optional_type", (inner,))


def TypeType(inner: Type) -> Type:
    """The type of a type: ``type(1)`` is of ``type(int)``."""
    return Type(Kind.TYPE, "type", (inner,))


def OpaqueType(name: str, *parameters: Type) -> Type:
    """A library's own type, such as ``kubernetes.URL``: only its functions can look inside."""
    return Type(Kind.OPAQUE, name, parameters)


def Parameter(name: str) -> Type:
    """A type variable in a function's signature."""
    return Type(Kind.PARAMETER, name)


@dataclass(frozen=True)
class ObjectType(Type):
    """A type with named fields. Known by its name alone: two types of one name are one type.

    ``fields`` maps the CEL name of each field (escaped, see `escaping`) to its type; any Mapping will do, so that one
    which computes types when asked makes recursive types possible. ``wire_names`` maps a CEL name to the key in the
    value, where they differ.
    """

    fields: Mapping[str, Type] = field(default_factory=dict, compare=False, repr=False)
    wire_names: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    #: whether a field that is null is there all the same
    keeps_null: ClassVar[bool] = False

    def __init__(
        self,
        name: str,
        fields: Mapping[str, Type],
        *,
        wire_names: Mapping[str, str] | None = None,
        max_elements: int | None = None,
    ) -> None:
        Type.__init__(self, Kind.OBJECT, name, (), max_elements)
        object.__setattr__(self, "fields", fields)
        object.__setattr__(self, "wire_names", {} if wire_names is None else wire_names)

    __hash__ = Type.__hash__
