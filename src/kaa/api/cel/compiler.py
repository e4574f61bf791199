"""A checked tree to closures that run it.

A closure takes the frame of one evaluation and gives its node's value. What is known of types and constants is decided
here, once: a chain of fields is one closure, a comparison of two ints is Python's, a list of constants is made once.

Costs are cel-go's with its constant folding on: a name or a field is 1, constants nothing, a call what `costs` says.
A ternary's branches and an index that are mere names come without their own 1. An error is an exception here and a value
there: calls that it passes through are charged all the same. Only a ``map`` or ``filter`` ends at once where cel-go would
go on to fold with the error.

Source: cel-go interpreter/planner.go, decorators.go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from . import calls, comprehensions, costs, operators
from .comprehensions import Loop
from .declarations import Overload
from .errors import CompileError, EvaluationError
from .frame import FIRST_SLOT, NO_LIMIT, Closure, Code, constant
from .literals import list_maker, map_maker, struct_maker
from .regex import BadPattern, matcher
from .selection import Key, Qualifier, chain, relative, tester
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
from .types import Kind, ObjectType

_CONVERSIONS = frozenset(("bool", "bytes", "double", "duration", "dyn", "int", "string", "timestamp", "type", "uint"))
_INDEXES = frozenset(("_[_]", "_[?_]"))


class Compiled(NamedTuple):
    """The closure, the variables whose values go into the first slots, and how many slots follow them."""

    run: Closure
    variables: tuple[str, ...]
    further_slots: int


def compile_tree(
    tree: Node, source: str, overloads: Mapping[tuple[str, str], Overload], variables: Sequence[str], *, fold: bool
) -> Compiled:
    """Compile a checked tree. ``fold`` is cel-go's OptOptimize, which Kubernetes always sets.

    Raises: CompileError: a constant conversion fails.
    """
    compiler = _Compiler(source, overloads, variables, fold)
    code = compiler.visit(tree)
    return Compiled(code.run, tuple(variables), compiler.slots - FIRST_SLOT - len(variables))


class _Local(NamedTuple):
    slot: int
    lazy: bool


class _Compiler:
    def __init__(
        self, source: str, overloads: Mapping[tuple[str, str], Overload], variables: Sequence[str], fold: bool
    ) -> None:
        self.source = source
        self.overloads = overloads
        self.fold = fold
        self.variables = {name: FIRST_SLOT + n for n, name in enumerate(variables)}
        self.slots = FIRST_SLOT + len(variables)
        self.scopes: list[dict[str, _Local]] = []

    def visit(self, node: Node) -> Code:
        return _VISITORS[type(node)](self, node)

    def new_slot(self) -> int:
        self.slots += 1
        return self.slots - 1

    # -- names and what is selected from them

    def literal(self, node: Literal) -> Code:
        return constant(node.value)

    def identifier(self, node: Identifier) -> Code:
        if node.constant is not None:
            return constant(node.constant)
        return Code(self.reader(node.name, 1))

    def reader(self, name: str, cost: int) -> Closure:
        """A variable, for so much; with 0 it may give MISSING, for who looks into it."""
        for scope in reversed(self.scopes):
            if name in scope:
                local = scope[name]
                if local.lazy:
                    return comprehensions.bound_reader(local.slot, cost)
                return operators.item_reader(local.slot) if cost else operators.slot_reader(local.slot)
        slot = self.variables[name]
        return operators.named(slot, name, cost) if cost else operators.slot_reader(slot)

    def bare(self, node: Node) -> Closure:
        """The node's value without the 1 that naming it costs, where it is a name, a chain or a ternary."""
        if _is_chain(node):
            return self.chained(node, 0)
        if isinstance(node, Identifier) and node.constant is None:
            return self.named_value(node.name)
        return self.visit(node).run

    def named_value(self, name: str) -> Closure:
        """A variable for free, which fails where it is missing."""
        for scope in reversed(self.scopes):
            if name in scope:
                return self.reader(name, 0)
        return operators.named(self.variables[name], name, 0)

    def base(self, node: Node, cost: int) -> tuple[Closure, int]:
        """What a chain starts from, and what naming it costs: a ternary nothing, anything else ``cost``."""
        if isinstance(node, Identifier) and node.constant is None:
            return self.reader(node.name, 0), cost
        base = self.visit(node).run
        if isinstance(node, Call) and node.function == "_?_:_":
            return base, 0
        return relative(base, cost) if cost else base, cost

    def chained(self, node: Node, cost: int) -> Closure:
        path: list[Qualifier] = []
        while _is_chain(node):
            path.append(self.qualifier(node))
            node = node.operand if isinstance(node, Select) else _call(node).arguments[0]
        path.reverse()
        base, base_cost = self.base(node, cost)
        slot = self.plain_slot(node.name) if isinstance(node, Identifier) and node.constant is None else None
        return chain(base, base_cost, path, slot)

    def plain_slot(self, name: str) -> int | None:
        """The slot that a name's value is read from, unless it is computed when it is read."""
        for scope in reversed(self.scopes):
            if name in scope:
                return None if scope[name].lazy else scope[name].slot
        return self.variables[name]

    def qualifier(self, node: Node) -> Qualifier:
        if isinstance(node, Select):
            key, is_object = _field(node)
            return Qualifier(key, None, node.optional, is_object)
        call = _call(node)
        optional = call.function == "_[?_]"
        at = call.arguments[1]
        code = self.visit(at)
        if code.is_constant:
            return Qualifier(Key(code.value, code.value), None, optional)
        return Qualifier(None, self.bare(at), optional)

    def select(self, node: Select) -> Code:
        if not node.test_only:
            return Code(self.chained(node, 1))
        key, is_object = _field(node)
        operand = node.operand
        if _is_chain(operand):
            base = self.chained(operand, 0)
        else:
            base = self.base(operand, 0)[0]
        return Code(tester(base, 0, key.value, object=is_object))

    # -- calls

    def call(self, node: Call) -> Code:
        special = _SPECIAL.get(node.function)
        if special is not None:
            return special(self, node)
        if node.function in _INDEXES:
            return Code(self.chained(node, 1))
        operands = [self.visit(one) for one in node.operands()]
        if node.function == "or" or node.function == "orValue":
            lazy = self.optional_or(node, operands)
            if lazy is not None:
                return lazy
        overload = node.overloads[0] if len(node.overloads) == 1 else ""
        if node.function == "@in" and overload == "in_list" and self.fold and operands[1].is_constant:
            members = calls.membership(operands[0].run, operands[1].value)
            if members is not None:
                return members
        code = Code(self.called(node, overload, operands))
        if self.fold and node.function in _CONVERSIONS and len(operands) == 1 and operands[0].is_constant:
            return self.folded(node, code)
        return code

    def folded(self, node: Call, code: Code) -> Code:
        try:
            return constant(code.run([0, NO_LIMIT]))
        except EvaluationError as err:
            raise self.unplanned(err) from None

    def called(self, node: Call, overload: str, operands: list[Code]) -> Closure:
        runs = [one.run for one in operands]
        types = [one.type for one in node.operands()]
        if len(runs) == 2:
            left, right = runs
            pair = (types[0], types[1])
            if node.function in ("_==_", "_!=_"):
                return operators.equality(left, right, pair, negated=node.function == "_!=_")
            known = operators.known(node.function, overload, left, operands[1], pair)
            if known is not None:
                return known
        candidates = [self.overloads[node.function, id] for id in node.overloads]
        if overload == "matches_string" and isinstance(operands[1].value, str) and self.fold:
            return calls.compiled_match(runs[0], self.matcher(operands[1].value), operands[1].value)
        price = costs.price(node.function, overload, candidates[0].cost if len(candidates) == 1 else None)
        return calls.caller(
            calls.chooser(candidates, types),
            runs,
            price,
            price_last=node.function in costs.BY_RESULT or calls.is_guarded(candidates, types),
        )

    def matcher(self, pattern: str) -> Callable[[str], bool]:
        try:
            return matcher(pattern)
        except BadPattern as err:
            raise self.unplanned(err) from None

    def unplanned(self, err: Exception) -> CompileError:
        """What cel-go only finds when it plans the program."""
        return CompileError((), self.source, text=f"program instantiation failed: {err}")

    def optional_or(self, node: Call, operands: list[Code]) -> Code | None:
        if node.target is None or len(operands) != 2:
            return None
        return Code(operators.or_else(operands[0].run, operands[1].run, unwrap=node.function == "orValue"))

    def logical(self, node: Call) -> Code:
        terms = [self.visit(one).run for one in node.arguments]
        return Code(operators.both(terms) if node.function == "_&&_" else operators.either(terms))

    def conditional(self, node: Call) -> Code:
        condition, then, otherwise = node.arguments
        return Code(operators.choose(self.visit(condition).run, self.bare(then), self.bare(otherwise)))

    def not_strictly_false(self, node: Call) -> Code:
        return Code(operators.not_strictly_false(self.visit(node.arguments[0]).run))

    # -- literals of many values

    def list_literal(self, node: ListLiteral) -> Code:
        elements = [self.visit(one) for one in node.elements]
        if self.fold and not node.optional and all(one.is_constant for one in elements):
            return constant([one.value for one in elements])
        return Code(list_maker([one.run for one in elements], node.optional))

    def map_literal(self, node: MapLiteral) -> Code:
        entries = [(self.visit(one.key), self.visit(one.value), one.optional) for one in node.entries]
        run = map_maker([(key.run, value.run, optional) for key, value, optional in entries])
        constants = all(key.is_constant and value.is_constant and not optional for key, value, optional in entries)
        if self.fold and constants:
            try:
                return constant(run([0, NO_LIMIT]))
            except EvaluationError:
                return Code(run)
        return Code(run)

    def struct(self, node: StructLiteral) -> Code:
        type_ = node.type
        assert isinstance(type_, ObjectType)
        entries = [
            (type_.wire_names.get(one.name, one.name), self.visit(one.value).run, one.optional) for one in node.entries
        ]
        return Code(struct_maker(type_, entries))

    # -- folds

    def comprehension(self, node: Comprehension) -> Code:
        if _is_bind(node):
            return self.bind(node)
        over = self.visit(node.range).run
        slot = self.new_slot()
        slot2 = None if node.variable2 is None else self.new_slot()
        names = {node.variable: _Local(slot, False)}
        if node.variable2 is not None and slot2 is not None:
            names[node.variable2] = _Local(slot2, False)
        loop = Loop(over, slot, slot2)
        return Code(self.shaped(node, loop, names) or self.general(node, loop, names))

    def scoped(self, names: dict[str, _Local], compile: Callable[[], Closure]) -> Closure:
        self.scopes.append(names)
        try:
            return compile()
        finally:
            self.scopes.pop()

    def shaped(self, node: Comprehension, loop: Loop, names: dict[str, _Local]) -> Closure | None:
        """The loop made for the shape that a macro gave the fold, where it has one."""
        step = node.step
        if not isinstance(step, Call) or node.accumulator != ACCUMULATOR:
            return None
        if step.function in ("_&&_", "_||_") and isinstance(node.initial, Literal):
            tested = step.arguments[1]
            test = self.scoped(names, lambda: self.visit(tested).run)
            return comprehensions.quantifier(loop, test, decisive=step.function == "_||_")
        condition: Node | None = None
        if step.function == "_?_:_":
            condition, inner = step.arguments[0], step.arguments[1]
            assert isinstance(inner, Call)
            step = inner
        if step.function == "_+_" and isinstance(node.initial, Literal) and condition is not None:
            test_node = condition
            return comprehensions.exactly_one(loop, self.scoped(names, lambda: self.visit(test_node).run))
        accepts = None
        if condition is not None:
            asked = condition
            accepts = self.scoped(names, lambda: self.visit(asked).run)
        if step.function == "_+_" and isinstance(step.arguments[1], ListLiteral):
            return self.gathering(loop, names, accepts, step.arguments[1])
        if step.function == "cel.@mapInsert":
            return self.inserting(loop, names, accepts, step.arguments[1:])
        return None

    def gathering(self, loop: Loop, names: dict[str, _Local], accepts: Closure | None, added: ListLiteral) -> Closure:
        self.scopes.append(names)
        element = self.visit(added.elements[0])
        self.scopes.pop()
        element_cost = 0 if self.fold and element.is_constant else costs.LIST
        initial_cost = 0 if self.fold else costs.LIST
        return comprehensions.gather(loop, accepts, element.run, element_cost=element_cost, initial_cost=initial_cost)

    def inserting(self, loop: Loop, names: dict[str, _Local], accepts: Closure | None, inserted: list[Node]) -> Closure:
        self.scopes.append(names)
        runs = [self.visit(one).run for one in inserted]
        self.scopes.pop()
        key = runs[0] if len(runs) == 2 else None
        initial_cost = 0 if self.fold else costs.MAP
        return comprehensions.insert(loop, accepts, key, runs[-1], initial_cost=initial_cost)

    def general(self, node: Comprehension, loop: Loop, names: dict[str, _Local]) -> Closure:
        initial = self.visit(node.initial).run
        slot = self.new_slot()
        self.scopes.append({node.accumulator: _Local(slot, False)})
        self.scopes.append(names)
        condition, step = self.visit(node.condition).run, self.visit(node.step).run
        self.scopes.pop()
        result = self.visit(node.result).run
        self.scopes.pop()
        return comprehensions.general(loop, slot, initial, condition, step, result)

    def bind(self, node: Comprehension) -> Code:
        value = self.visit(node.initial).run
        slot = self.new_slot()
        result = self.scoped({node.accumulator: _Local(slot, True)}, lambda: self.visit(node.result).run)
        return Code(comprehensions.bound(slot, value, result, cost=0 if self.fold else costs.LIST))


def _call(node: Node) -> Call:
    assert isinstance(node, Call)
    return node


def _is_chain(node: Node) -> bool:
    if isinstance(node, Select):
        return not node.test_only
    return isinstance(node, Call) and node.function in _INDEXES


def _field(node: Select) -> tuple[Key, bool]:
    """The key of a field in the value, and whether the value is an object whose nulls are absent."""
    operand = node.operand.type
    if operand.kind is Kind.OPTIONAL:
        operand = operand.parameters[0]
    if isinstance(operand, ObjectType):
        return Key(operand.wire_names.get(node.name, node.name), node.name), not operand.keeps_null
    return Key(node.name, node.name), False


def _is_bind(node: Comprehension) -> bool:
    return (
        isinstance(node.range, ListLiteral)
        and not node.range.elements
        and isinstance(node.condition, Literal)
        and node.condition.value is False
        and node.accumulator != ACCUMULATOR
    )


_VISITORS: dict[type[Node], Callable[..., Code]] = {
    Literal: _Compiler.literal,
    Identifier: _Compiler.identifier,
    Select: _Compiler.select,
    Call: _Compiler.call,
    ListLiteral: _Compiler.list_literal,
    MapLiteral: _Compiler.map_literal,
    StructLiteral: _Compiler.struct,
    Comprehension: _Compiler.comprehension,
}
_SPECIAL: dict[str, Callable[..., Code]] = {
    "_&&_": _Compiler.logical,
    "_||_": _Compiler.logical,
    "_?_:_": _Compiler.conditional,
    "@not_strictly_false": _Compiler.not_strictly_false,
}
