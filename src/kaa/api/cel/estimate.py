"""What an expression may cost, before it runs: from the least its shortest way takes to the most its longest does.

CRDs are refused for rules whose greatest cost is too high, so every figure here is upstream's, with its quirks. Sizes come
from literals, from what a schema promises (a type's ``max_elements``), and from what functions make of their arguments.

Source: cel-go checker/cost.go; apiserver pkg/cel/library/cost.go; apiextensions-apiserver schema/cel/compilation.go
(`sizeEstimator`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from . import costs
from .assignability import is_dyn
from .prices import price
from .ranges import ONE, UNKNOWN, UNLIMITED, ZERO, Operand, Path, Priced, Range, capped, fixed
from .syntax import (
    ACCUMULATOR,
    Call,
    Comprehension,
    Identifier,
    ListLiteral,
    Literal,
    MapLiteral,
    Node,
    Select,
    StructLiteral,
)
from .types import Kind, ObjectType, Type


class CostEstimate(NamedTuple):
    """Bounds on what an evaluation can cost; the largest is `UNLIMITED` where sizes are unknown."""

    minimum: int
    maximum: int


#: (path of a value, such as ("self", "items", "@items"), or () where it has none; its type) -> (smallest, largest size),
#: or None where nobody knows
Sizes = Callable[[Path, Type], tuple[int, int] | None]


class Entries(NamedTuple):
    """Sizes of a list's or map's keys and values, where they are written out."""

    kind: Kind
    key: Range
    value: Range


class _Local(NamedTuple):
    path: Path
    size: Range | None
    entries: Entries | None


def estimate(tree: Node, variables: Mapping[str, Type], sizes: Sizes | None) -> CostEstimate:
    """The bounds of a checked tree's cost."""
    return CostEstimate(*Estimator(variables, sizes).cost(tree))


class Estimator:
    """Walks a checked tree once, remembering the paths and sizes of what it has seen."""

    def __init__(self, variables: Mapping[str, Type], sizes: Sizes | None) -> None:
        self.variables = variables
        self.given = sizes
        self.paths: dict[Node, Path] = {}
        self.sizes: dict[Node, Range] = {}
        self.entries: dict[Node, Entries] = {}
        self.locals: dict[str, list[_Local]] = {}

    def cost(self, node: Node) -> Range:
        return _COSTS[type(node)](self, node)

    # -- leaves

    def literal(self, _node: Literal) -> Range:
        return ZERO

    def identifier(self, node: Identifier) -> Range:
        local = self.local(node.name)
        self.paths[node] = (node.name,) if local is None else local.path
        return ONE

    def select(self, node: Select) -> Range:
        operand = self.cost(node.operand)
        if node.test_only:
            return operand
        self.paths[node] = (*self.path(node.operand), node.name)
        if node.optional:
            return operand.plus(ONE)
        return operand.plus(ONE) if node.operand.type.kind in _CHARGED_SELECTS else operand

    # -- calls

    def call(self, node: Call) -> Range:
        if node.function == "dyn":
            inner = node.arguments[0]
            cost = self.cost(inner).plus(ONE)
            self.copy_sizes(node, inner)
            return cost
        if node.function in ("_&&_", "_||_"):
            return self.logical(node)
        argument_costs = [self.cost(one) for one in node.arguments]
        arguments = [self.operand(one) for one in node.arguments]
        total, target = ZERO, None
        if node.target is not None:
            total = self.cost(node.target)
            target = self.operand(node.target)
        priced, size = self.priced(node, target, arguments, argument_costs)
        if size is not None:
            self.sizes[node] = size
        return total.plus(priced)

    def logical(self, node: Call) -> Range:
        """The least is that of the first term; cel-go balances more than two terms, which comes to the same."""
        terms = [self.cost(one) for one in node.arguments]
        return Range(terms[0].low, capped(sum(term.high for term in terms)))

    def priced(
        self, node: Call, target: Operand | None, arguments: list[Operand], argument_costs: list[Range]
    ) -> tuple[Range, Range | None]:
        """The cost over all overloads that may apply, and the size of the result."""
        whole, size = Range(UNLIMITED, 0), None
        for overload in node.overloads:
            one = self.overload(node, overload, target, arguments, argument_costs)
            whole = whole.union(one.cost)
            if one.size is not None:
                size = one.size if size is None else size.union(one.size)
            if overload in ("index_list", "index_map") and arguments:
                entries = self.entries_of(node.arguments[0])
                size = None if entries is None else entries.value
                step = "@items" if overload == "index_list" else "@values"
                self.paths[node] = (*self.path(node.arguments[0]), step)
            if size is None:
                size = self.size_of(node)
        return whole, size

    def overload(
        self, node: Call, overload: str, target: Operand | None, arguments: list[Operand], argument_costs: list[Range]
    ) -> Priced:
        together = ZERO
        for cost in argument_costs:
            together = together.plus(cost)
        if overload == "conditional":
            return self.conditional(node, arguments, argument_costs)
        if overload in ("add_string", "add_bytes", "add_list"):
            self.join_entries(node)
        known = price(self, node.function, overload, target, arguments)
        return Priced(known.cost.plus(together), known.size)

    def conditional(self, node: Call, arguments: list[Operand], costs_: list[Range]) -> Priced:
        size = self.known_size(arguments[1]).union(self.known_size(arguments[2]))
        self.join_entries(node)
        return Priced(costs_[0].plus(costs_[1].union(costs_[2])), size)

    def join_entries(self, node: Call) -> None:
        found = [self.entries_of(one) for one in node.arguments[-2:]]
        one, other = found[0], found[1]
        if one is not None and other is not None:
            self.entries[node] = Entries(one.kind, one.key.union(other.key), one.value.union(other.value))

    # -- literals of many values

    def list_literal(self, node: ListLiteral) -> Range:
        total, item = ZERO, Range(UNLIMITED, 0) if node.elements else ZERO
        for one in node.elements:
            total = total.plus(self.cost(one))
            item = item.union(self.size_or_unknown(one))
        self.entries[node] = Entries(Kind.LIST, ONE, item)
        return total.plus(fixed(costs.LIST))

    def map_literal(self, node: MapLiteral) -> Range:
        total = ZERO
        key = value = Range(UNLIMITED, 0) if node.entries else ZERO
        for entry in node.entries:
            total = total.plus(self.cost(entry.key)).plus(self.cost(entry.value))
            key = key.union(self.size_or_unknown(entry.key))
            value = value.union(self.size_or_unknown(entry.value))
        self.entries[node] = Entries(Kind.MAP, key, value)
        return total.plus(fixed(costs.MAP))

    def struct(self, node: StructLiteral) -> Range:
        total = fixed(costs.STRUCT)
        for entry in node.entries:
            total = total.plus(self.cost(entry.value))
        return total

    # -- folds

    def comprehension(self, node: Comprehension) -> Range:
        total = self.cost(node.range).plus(self.cost(node.initial))
        self.push(node.accumulator, self.bound(node.initial))
        if self.is_bind(node):
            total = total.plus(self.cost(node.result))
            self.locals[node.accumulator].pop()
            self.copy_sizes(node, node.result)
            return total
        names = self.push_items(node)
        loop = self.cost(node.condition)
        loop = self.cost(node.step).plus(loop)
        for name in names:
            self.locals[name].pop()
        total = total.plus(self.cost(node.result))
        self.locals[node.accumulator].pop()
        count = self.size_or_unknown(node.range)
        if isinstance(node.initial, Literal):
            size = self.size_of(node.initial)
            if size is not None:
                self.sizes[node] = size
        elif isinstance(node.initial, ListLiteral | MapLiteral):
            self.sizes[node] = count
            entries = self.entries_of(node.step)
            if entries is not None:
                self.entries[node] = entries
        return total.plus(count.times(loop))

    @staticmethod
    def is_bind(node: Comprehension) -> bool:
        return (
            isinstance(node.range, ListLiteral)
            and not node.range.elements
            and isinstance(node.condition, Literal)
            and node.condition.value is False
            and node.accumulator != ACCUMULATOR
        )

    def bound(self, value: Node) -> _Local:
        return _Local(self.path(value), self.size_of(value), self.entries_of(value))

    def push(self, name: str, local: _Local) -> None:
        self.locals.setdefault(name, []).append(local)

    def push_items(self, node: Comprehension) -> list[str]:
        entries = self.entries_of(node.range)
        kind = entries.kind if entries is not None else node.range.type.kind
        path = self.path(node.range)
        is_list = kind is Kind.LIST
        key = None if entries is None else entries.key
        value = None if entries is None else entries.value
        if node.variable2 is None:
            self.push(node.variable, _Local((*path, "@items" if is_list else "@keys"), value if is_list else key, None))
            return [node.variable]
        self.push(node.variable, _Local((*path, "@indices" if is_list else "@keys"), key, None))
        self.push(node.variable2, _Local((*path, "@items" if is_list else "@values"), value, None))
        return [node.variable, node.variable2]

    # -- what is known of a node

    def local(self, name: str) -> _Local | None:
        found = self.locals.get(name)
        return found[-1] if found else None

    def path(self, node: Node) -> Path:
        if isinstance(node, Identifier):
            local = self.local(node.name)
            if local is not None:
                return local.path
        return self.paths.get(node, ())

    def operand(self, node: Node) -> Operand:
        path = self.path(node)
        if path and path[0] == ACCUMULATOR:
            path = ()
        return Operand(node, node.type, path, self.size_of(node))

    def copy_sizes(self, to: Node, source: Node) -> None:
        size, entries = self.size_of(source), self.entries_of(source)
        if size is not None:
            self.sizes[to] = size
        if entries is not None:
            self.entries[to] = entries

    def size_of(self, node: Node) -> Range | None:
        known = self.sizes.get(node) or _written(node)
        if known is not None:
            return known
        promised = self.promised(self.path(node), node.type)
        if promised is not None:
            self.sizes[node] = promised
            return promised
        if _is_scalar(node.type):
            return ONE
        if isinstance(node, Identifier):
            local = self.local(node.name)
            if local is not None:
                return local.size
        return None

    def size_or_unknown(self, node: Node) -> Range:
        return self.size_of(node) or UNKNOWN

    def known_size(self, operand: Operand) -> Range:
        return operand.size or UNKNOWN

    def entries_of(self, node: Node) -> Entries | None:
        known = self.entries.get(node)
        if known is None and isinstance(node, Identifier):
            local = self.local(node.name)
            return None if local is None else local.entries
        return known

    def promised(self, path: Path, type_of_value: Type) -> Range | None:
        """The size that the caller, or the type of what is at that path, promises."""
        if self.given is not None:
            given = self.given(path, type_of_value)
            if given is not None:
                return Range(*given)
        if not path:
            return None
        type_: Type | None = self.variables.get(path[0])
        if type_ is not None and type_.kind is Kind.OPTIONAL:
            type_ = type_.parameters[0]
        for step in path[1:]:
            type_ = None if type_ is None else _inner(type_, step)
        if type_ is None or type_.max_elements is None:
            return None
        return Range(0, capped(type_.max_elements))


_CHARGED_SELECTS = frozenset((Kind.MAP, Kind.OBJECT, Kind.PARAMETER))


def _inner(type_: Type, step: str) -> Type | None:
    if step == "@items":
        return type_.parameters[0] if type_.kind is Kind.LIST else None
    if step in ("@values", "@keys"):
        if type_.kind is not Kind.MAP:
            return None
        return type_.parameters[1 if step == "@values" else 0]
    if isinstance(type_, ObjectType):
        return type_.fields.get(step)
    return None


def _written(node: Node) -> Range | None:
    """The size of what is written out."""
    if isinstance(node, Literal):
        value = node.value
        return fixed(len(value)) if isinstance(value, str | bytes) else ONE
    if isinstance(node, ListLiteral):
        return fixed(len(node.elements))
    if isinstance(node, MapLiteral):
        return fixed(len(node.entries))
    return None


def _is_scalar(type_: Type) -> bool:
    if type_.kind is Kind.OPTIONAL:
        return _is_scalar(type_.parameters[0])
    return type_.kind in _SCALARS and not is_dyn(type_)


_SCALARS = frozenset((Kind.BOOL, Kind.DOUBLE, Kind.DURATION, Kind.INT, Kind.TIMESTAMP, Kind.UINT))

_COSTS: dict[type[Node], Callable[..., Range]] = {
    Literal: Estimator.literal,
    Identifier: Estimator.identifier,
    Select: Estimator.select,
    Call: Estimator.call,
    ListLiteral: Estimator.list_literal,
    MapLiteral: Estimator.map_literal,
    StructLiteral: Estimator.struct,
    Comprehension: Estimator.comprehension,
}
