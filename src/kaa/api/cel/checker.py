"""Every node's type, or the faults.

Names are resolved against the innermost scope; calls against the overloads whose parameters the arguments' types fit,
so that a call with dynamic arguments may keep several to choose from when it runs.

Source: cel-go checker/checker.go; the texts are checker/errors.go's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from .assignability import Substitutions, assignable, assignable_all, is_dyn, most_general, substitute
from .declarations import Overload
from .errors import CompileError, Issue
from .lexer import issue_at
from .syntax import (
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
from .types import (
    BOOL,
    BYTES,
    DOUBLE,
    DYN,
    ERROR,
    INT,
    NULL,
    STRING,
    UINT,
    Kind,
    ListType,
    MapType,
    ObjectType,
    OptionalType,
    Parameter,
    Type,
    TypeType,
)
from .values import Uint

#: a name in an expression -> the object type it means, where it means one
TypeResolver = Callable[[str], ObjectType | None]

_OF_LITERAL: dict[type, Type] = {
    bool: BOOL,
    int: INT,
    Uint: UINT,
    float: DOUBLE,
    str: STRING,
    bytes: BYTES,
    type(None): NULL,
}


def check(
    tree: Node,
    source: str,
    *,
    variables: Mapping[str, Type],
    functions: Mapping[str, Sequence[Overload]],
    types: Mapping[str, Type],
    resolve: TypeResolver,
) -> tuple[Node, frozenset[str]]:
    """Write types into the tree. Returns it (a node may be replaced) and the variables it names.

    Raises CompileError with every fault.
    """
    checker = _Checker(source, variables, functions, types, resolve)
    try:
        tree = checker.visit(tree)
    except RecursionError:
        raise CompileError((issue_at(source, 0, "expression recursion limit exceeded: 250"),), source) from None
    if checker.issues:
        raise CompileError(tuple(sorted(checker.issues, key=lambda issue: (issue.line, issue.column))), source)
    for node in checker.visited:
        node.type = substitute(checker.found, node.type, to_dyn=True)
    return tree, frozenset(checker.references)


class _Checker:
    def __init__(
        self,
        source: str,
        variables: Mapping[str, Type],
        functions: Mapping[str, Sequence[Overload]],
        types: Mapping[str, Type],
        resolve: TypeResolver,
    ) -> None:
        self.source = source
        self.variables = variables
        self.functions = functions
        self.types = types
        self.resolve = resolve
        self.scopes: list[dict[str, Type]] = []
        self.found: Substitutions = {}
        self.fresh = 0
        self.issues: list[Issue] = []
        self.visited: list[Node] = []
        self.references: set[str] = set()

    # -- helpers

    def fault(self, node: Node, message: str) -> Type:
        self.issues.append(issue_at(self.source, node.position, message))
        return ERROR

    def unknown_type(self) -> Type:
        self.fresh += 1
        return Parameter(f"_var{self.fresh}")

    def settled(self, type_: Type) -> Type:
        return substitute(self.found, type_)

    def expect(self, node: Node, wanted: Type) -> None:
        if not assignable(self.found, wanted, node.type):
            self.mismatch(node, self.settled(wanted), self.settled(node.type))

    def mismatch(self, node: Node, wanted: Type, given: Type) -> Type:
        return self.fault(node, f"expected type '{wanted}' but found '{given}'")

    def undeclared(self, node: Node, name: str) -> Type:
        return self.fault(node, f"undeclared reference to '{name}' (in container '')")

    def visit(self, node: Node) -> Node:
        node = _VISITORS[type(node)](self, node)
        self.visited.append(node)
        return node

    # -- names

    def local(self, name: str) -> Type | None:
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        return None

    def named(self, node: Node, name: str) -> Identifier | None:
        """The variable or type of that name, as an Identifier in ``node``'s place."""
        local = None if name.startswith(".") else self.local(name)
        if local is not None:
            return Identifier(position=node.position, name=name, type=local)
        name = name.removeprefix(".")
        variable = self.variables.get(name)
        if variable is not None:
            self.references.add(name)
            return Identifier(position=node.position, name=name, type=variable)
        meant = self.types.get(name) or self.resolve(name)
        if meant is not None:
            return Identifier(position=node.position, name=name, type=TypeType(meant), constant=meant)
        return None

    def identifier(self, node: Identifier) -> Node:
        found = self.named(node, node.name)
        if found is None:
            node.type = self.undeclared(node, node.name)
            return node
        return found

    def literal(self, node: Literal) -> Node:
        node.type = _OF_LITERAL[type(node.value)]
        return node

    def select(self, node: Select) -> Node:
        path = None if node.test_only or node.optional else _path(node)
        if path is not None and self.local(path.split(".", 1)[0]) is None:
            found = self.named(node, path)
            if found is not None:
                return found
        node.operand = self.visit(node.operand)
        operand = self.settled(node.operand.type)
        optional = node.optional or operand.kind is Kind.OPTIONAL
        if operand.kind is Kind.OPTIONAL:
            operand = operand.parameters[0]
        field = self.field_type(node, operand)
        if node.test_only:
            node.type = BOOL
        else:
            node.type = OptionalType(field) if optional else self.settled(field)
        return node

    def field_type(self, node: Select, operand: Type) -> Type:
        if operand.kind is Kind.MAP:
            return operand.parameters[1]
        if isinstance(operand, ObjectType):
            field = operand.fields.get(node.name)
            return self.fault(node, f"undefined field '{node.name}'") if field is None else field
        if operand.kind is Kind.PARAMETER:
            assignable(self.found, DYN, operand)
        elif not is_dyn(operand):
            self.fault(node, f"type '{operand}' does not support field selection")
        return DYN

    # -- calls

    def call(self, node: Call) -> Node:
        namespaced = self.namespaced(node)
        if namespaced is not None:
            node.function, node.target = namespaced, None
        node.arguments = [self.visit(argument) for argument in node.arguments]
        if node.function in ("_&&_", "_||_"):
            return self.logical(node)
        if node.function == "_[?_]":
            return self.optional_index(node)
        overloads = self.functions.get(node.function.removeprefix("."))
        if node.target is not None:
            node.target = self.visit(node.target)
        if overloads is None:
            node.type = self.undeclared(node, node.function.removeprefix("."))
            return node
        node.function = node.function.removeprefix(".")
        node.type = self.resolved(node, overloads)
        return node

    def namespaced(self, node: Call) -> str | None:
        """``sets.contains(a, b)`` looks like a member call, and is a function with a dot in its name."""
        path = None if node.target is None else _path(node.target)
        if path is None or self.local(path.split(".", 1)[0]) is not None:
            return None
        name = f"{path}.{node.function}".removeprefix(".")
        return name if name in self.functions else None

    def logical(self, node: Call) -> Node:
        for argument in node.arguments:
            if not assignable(self.found, BOOL, argument.type):
                given = ", ".join(str(self.settled(one.type)) for one in node.arguments[:2])
                node.type = self.fault(node, f"found no matching overload for '{node.function}' applied to '({given})'")
                return node
        node.type = BOOL
        node.overloads = ("logical_and" if node.function == "_&&_" else "logical_or",)
        return node

    def optional_index(self, node: Call) -> Node:
        """``a[?k]``: as ``a[k]`` looks it up, and optional; an optional ``a`` is looked into."""
        node.type = self.resolved(node, self.functions["_[?_]"])
        return node

    def resolved(self, node: Call, overloads: Sequence[Overload]) -> Type:
        operands = node.operands()
        given = [one.type for one in operands]
        result: Type | None = None
        ids: list[str] = []
        for overload in overloads:
            if overload.member != (node.target is not None):
                continue
            wanted, gives = self.instance(overload)
            fits = assignable_all(self.found, wanted, given)
            if fits is None:
                continue
            self.found.update(fits)
            ids.append(overload.id)
            one = substitute(self.found, gives)
            if result is None:
                result = one
            elif not is_dyn(result) and one != result:
                result = DYN
        if result is None:
            return self.no_overload(node, [self.settled(type_) for type_ in given])
        node.overloads = tuple(ids)
        return result

    def instance(self, overload: Overload) -> tuple[list[Type], Type]:
        """The signature with parameters of its own for this call."""
        renamed: Substitutions = {}
        for argument in (*overload.arguments, overload.result):
            for name in _parameters(argument):
                if name not in renamed:
                    renamed[name] = self.unknown_type()
        if not renamed:
            return list(overload.arguments), overload.result
        return [substitute(renamed, one) for one in overload.arguments], substitute(renamed, overload.result)

    def no_overload(self, node: Call, given: list[Type]) -> Type:
        if node.target is not None:
            shown = f"{given[0]}.({', '.join(map(str, given[1:]))})"
        else:
            shown = f"({', '.join(map(str, given))})"
        return self.fault(node, f"found no matching overload for '{node.function}' applied to '{shown}'")

    # -- literals of many values

    def joined(self, before: Type | None, now: Type) -> Type:
        """The type of items of both types: dyn where neither takes the other. `validators` refuses most of these."""
        if before is None:
            return now
        return most_general(before, now) if assignable(self.found, before, now) else DYN

    def unwrapped(self, node: Node) -> Type:
        """The inner type of a ``?value``."""
        type_ = self.settled(node.type)
        if type_.kind is Kind.OPTIONAL:
            return type_.parameters[0]
        if not is_dyn(type_):
            return self.mismatch(node, OptionalType(type_), type_)
        return type_

    def list_literal(self, node: ListLiteral) -> Node:
        element: Type | None = None
        for index, one in enumerate(node.elements):
            one = node.elements[index] = self.visit(one)
            given = self.unwrapped(one) if index in node.optional else one.type
            element = self.joined(element, given)
        node.type = ListType(element or self.unknown_type())
        return node

    def map_literal(self, node: MapLiteral) -> Node:
        key: Type | None = None
        value: Type | None = None
        for entry in node.entries:
            entry.key = self.visit(entry.key)
            key = self.joined(key, entry.key.type)
            entry.value = self.visit(entry.value)
            given = self.unwrapped(entry.value) if entry.optional else entry.value.type
            value = self.joined(value, given)
        node.type = MapType(key or self.unknown_type(), value or self.unknown_type())
        return node

    def struct(self, node: StructLiteral) -> Node:
        named = self.resolve(node.name.removeprefix("."))
        if named is None:
            known = self.types.get(node.name)
            message = f"'{known}' is not a message type" if known is not None else None
            node.type = self.fault(node, message) if message else self.undeclared(node, node.name)
        else:
            node.type = named
        for entry in node.entries:
            entry.value = self.visit(entry.value)
            if named is None:
                continue
            field = named.fields.get(entry.name)
            if field is None:
                self.issues.append(issue_at(self.source, entry.position, f"undefined field '{entry.name}'"))
                continue
            given = self.unwrapped(entry.value) if entry.optional else entry.value.type
            if not assignable(self.found, field, given):
                wanted, shown = self.settled(field), self.settled(given)
                text = f"expected type of field '{entry.name}' is '{wanted}' but provided type is '{shown}'"
                self.issues.append(issue_at(self.source, entry.position, text))
        return node

    # -- folds

    def comprehension(self, node: Comprehension) -> Node:
        node.range = self.visit(node.range)
        node.initial = self.visit(node.initial)
        first, second = self.item_types(node)
        self.scopes.append({node.accumulator: node.initial.type})
        names = {node.variable: first}
        if node.variable2 is not None:
            names[node.variable2] = second
        self.scopes.append(names)
        node.condition = self.visit(node.condition)
        self.expect(node.condition, BOOL)
        node.step = self.visit(node.step)
        self.expect(node.step, node.initial.type)
        self.scopes.pop()
        node.result = self.visit(node.result)
        self.scopes.pop()
        node.type = self.settled(node.result.type)
        return node

    def item_types(self, node: Comprehension) -> tuple[Type, Type]:
        over = self.settled(node.range.type)
        if over.kind is Kind.LIST:
            return (INT, over.parameters[0]) if node.variable2 is not None else (over.parameters[0], DYN)
        if over.kind is Kind.MAP:
            return over.parameters[0], over.parameters[1]
        if is_dyn(over) or over.kind is Kind.PARAMETER:
            assignable(self.found, DYN, over)
            return DYN, DYN
        text = f"expression of type '{over}' cannot be range of a comprehension (must be list, map, or dynamic)"
        self.fault(node.range, text)
        return ERROR, ERROR


def _path(node: Node) -> str | None:
    """``a.b.c`` as one name, where it is nothing but names."""
    parts: list[str] = []
    while isinstance(node, Select):
        if node.test_only or node.optional:
            return None
        parts.append(node.name)
        node = node.operand
    if not isinstance(node, Identifier):
        return None
    return ".".join([node.name, *reversed(parts)])


def _parameters(type_: Type) -> list[str]:
    if type_.kind is Kind.PARAMETER:
        return [type_.name]
    return [name for inner in type_.parameters for name in _parameters(inner)]


_VISITORS: dict[type[Node], Callable[..., Node]] = {
    Literal: _Checker.literal,
    Identifier: _Checker.identifier,
    Select: _Checker.select,
    Call: _Checker.call,
    ListLiteral: _Checker.list_literal,
    MapLiteral: _Checker.map_literal,
    StructLiteral: _Checker.struct,
    Comprehension: _Checker.comprehension,
}
