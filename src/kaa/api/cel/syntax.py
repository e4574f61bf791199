"""The syntax tree of an expression.

Macros are nodes of their own while parsing and `Comprehension`s after, with the same helper calls that cel-go expands
them to: costs are counted on those. The checker writes each node's type and the overloads it resolved into the tree.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from .types import ERROR, Type


class Node(Struct, eq=False, kw_only=True):
    """``position`` is an offset into the source, in characters; ``type`` is the checker's."""

    position: int
    type: Type = ERROR


class Literal(Node, eq=False, kw_only=True):
    value: Any


class Identifier(Node, eq=False, kw_only=True):
    """``constant`` is set by the checker where the name is a type's (`int`, `google.protobuf.Duration`)."""

    name: str
    constant: Type | None = None


class Select(Node, eq=False, kw_only=True):
    """``operand.name``, or ``has(operand.name)`` with ``test_only``, or ``operand.?name`` with ``optional``."""

    operand: Node
    name: str
    test_only: bool = False
    optional: bool = False


class Call(Node, eq=False, kw_only=True):
    """``function(arguments)``, or ``target.function(arguments)``. Operators are calls: ``_+_``, ``_[_]``."""

    function: str
    arguments: list[Node]
    target: Node | None = None
    #: ids of the overloads that may apply, by the types known; exactly one where types are
    overloads: tuple[str, ...] = ()

    def operands(self) -> list[Node]:
        return self.arguments if self.target is None else [self.target, *self.arguments]


class ListLiteral(Node, eq=False, kw_only=True):
    elements: list[Node]
    #: indices of ``?element``s
    optional: frozenset[int] = frozenset()


class Entry(Struct, eq=False, kw_only=True):
    """A key and value of a map; in a struct the key is a field's name."""

    position: int
    key: Node
    value: Node
    optional: bool = False


class MapLiteral(Node, eq=False, kw_only=True):
    entries: list[Entry]


class FieldEntry(Struct, eq=False, kw_only=True):
    position: int
    name: str
    value: Node
    optional: bool = False


class StructLiteral(Node, eq=False, kw_only=True):
    name: str
    entries: list[FieldEntry]


class Comprehension(Node, eq=False, kw_only=True):
    """Fold a list or map: the accumulator starts at ``initial``; while ``condition``, it becomes ``step``; then ``result``.

    ``variable`` is the item or key; with ``variable2`` set, ``variable`` is index or key and ``variable2`` the value.
    """

    range: Node
    variable: str
    variable2: str | None
    accumulator: str
    initial: Node
    condition: Node
    step: Node
    result: Node


#: cel-go's name for the accumulator; no identifier in a source can be spelt so
ACCUMULATOR = "@result"
