"""Macros: calls that are rewritten before checking, as they bring names into scope.

The expansions are cel-go's, node for node, since costs are counted on them.

Source: cel-go parser/macro.go, cel/library.go (optionals), ext/comprehensions.go, ext/bindings.go, ext/lists.go.
"""

from __future__ import annotations

from collections.abc import Callable

from .parser import Expander, MacroError, Macros
from .syntax import ACCUMULATOR, Call, Comprehension, Identifier, ListLiteral, Literal, MapLiteral, Node, Select

UNUSED = "#unused"
_SORT_INPUT = "@__sortBy_input__"


class _At:
    """Makes nodes that stand where the macro was called."""

    def __init__(self, position: int) -> None:
        self.position = position

    def name(self, name: str) -> Identifier:
        return Identifier(position=self.position, name=name)

    def result(self) -> Identifier:
        return self.name(ACCUMULATOR)

    def literal(self, value: object) -> Literal:
        return Literal(position=self.position, value=value)

    def call(self, function: str, *arguments: Node) -> Call:
        return Call(position=self.position, function=function, arguments=list(arguments))

    def member(self, target: Node, function: str, *arguments: Node) -> Call:
        return Call(position=self.position, function=function, target=target, arguments=list(arguments))

    def list(self, *elements: Node) -> ListLiteral:
        return ListLiteral(position=self.position, elements=list(elements))

    def fold(
        self, over: Node, names: tuple[str, str | None], initial: Node, condition: Node, step: Node, result: Node
    ) -> Comprehension:
        return Comprehension(
            position=self.position,
            range=over,
            variable=names[0],
            variable2=names[1],
            accumulator=ACCUMULATOR,
            initial=initial,
            condition=condition,
            step=step,
            result=result,
        )

    def bind(self, name: str, value: Node, result: Node) -> Comprehension:
        """``value`` under a name in ``result``: a fold over nothing whose accumulator is the name."""
        return Comprehension(
            position=self.position,
            range=self.list(),
            variable=UNUSED,
            variable2=None,
            accumulator=name,
            initial=value,
            condition=self.literal(False),
            step=self.name(name),
            result=result,
        )


def _simple_name(node: Node) -> str:
    if isinstance(node, Identifier) and not node.name.startswith("."):
        return node.name
    raise MacroError(node.position, "argument must be a simple name")


def _names(arguments: list[Node], count: int) -> tuple[str, str | None]:
    names = [_simple_name(node) for node in arguments[:count]]
    if count == 2 and names[0] == names[1]:
        raise MacroError(arguments[1].position, f"duplicate variable name: {names[1]}")
    return names[0], names[1] if count == 2 else None


def _has(position: int, _target: Node | None, arguments: list[Node]) -> Node:
    (inner,) = arguments
    if isinstance(inner, Select) and not inner.test_only and not inner.optional:
        return Select(position=position, operand=inner.operand, name=inner.name, test_only=True)
    raise MacroError(inner.position, "invalid argument to has() macro")


Body = Callable[[_At, list[Node]], tuple[Node, Node, Node, Node]]


def _over(count: int, body: Body) -> Expander:
    """A macro that folds its target: ``count`` names, then what ``body`` makes of the rest."""

    def expand(position: int, target: Node | None, arguments: list[Node]) -> Node:
        assert target is not None
        at = _At(position)
        names = _names(arguments, count)
        initial, condition, step, result = body(at, arguments)
        return at.fold(target, names, initial, condition, step, result)

    return expand


def _all(at: _At, arguments: list[Node]) -> tuple[Node, Node, Node, Node]:
    goes_on = at.call("@not_strictly_false", at.result())
    return at.literal(True), goes_on, at.call("_&&_", at.result(), arguments[-1]), at.result()


def _exists(at: _At, arguments: list[Node]) -> tuple[Node, Node, Node, Node]:
    goes_on = at.call("@not_strictly_false", at.call("!_", at.result()))
    return at.literal(False), goes_on, at.call("_||_", at.result(), arguments[-1]), at.result()


def _exists_one(at: _At, arguments: list[Node]) -> tuple[Node, Node, Node, Node]:
    one_more = at.call("_+_", at.result(), at.literal(1))
    step = at.call("_?_:_", arguments[-1], one_more, at.result())
    return at.literal(0), at.literal(True), step, at.call("_==_", at.result(), at.literal(1))


def _filtered(at: _At, step: Node, condition: Node | None) -> Node:
    return step if condition is None else at.call("_?_:_", condition, step, at.result())


def _gather(names: int) -> Body:
    """`map` and `transformList`: names, then maybe a filter, then what to add."""

    def body(at: _At, arguments: list[Node]) -> tuple[Node, Node, Node, Node]:
        condition = arguments[names] if len(arguments) == names + 2 else None
        step = at.call("_+_", at.result(), at.list(arguments[-1]))
        return at.list(), at.literal(True), _filtered(at, step, condition), at.result()

    return body


def _filter(at: _At, arguments: list[Node]) -> tuple[Node, Node, Node, Node]:
    step = at.call("_+_", at.result(), at.list(arguments[0]))
    return at.list(), at.literal(True), _filtered(at, step, arguments[1]), at.result()


def _transform_map(*, entry: bool) -> Body:
    def body(at: _At, arguments: list[Node]) -> tuple[Node, Node, Node, Node]:
        condition = arguments[2] if len(arguments) == 4 else None
        inserted = [arguments[-1]] if entry else [at.name(_simple_name(arguments[0])), arguments[-1]]
        step = at.call("cel.@mapInsert", at.result(), *inserted)
        initial = MapLiteral(position=at.position, entries=[])
        return initial, at.literal(True), _filtered(at, step, condition), at.result()

    return body


def _optional_map(*, flat: bool) -> Expander:
    def expand(position: int, target: Node | None, arguments: list[Node]) -> Node:
        assert target is not None
        at = _At(position)
        bound: Node = at.bind(_simple_name(arguments[0]), at.member(target, "value"), arguments[1])
        then = bound if flat else at.call("optional.of", bound)
        return at.call("_?_:_", at.member(target, "hasValue"), then, at.call("optional.none"))

    return expand


def _bind(position: int, target: Node | None, arguments: list[Node]) -> Node | None:
    if not (isinstance(target, Identifier) and target.name == "cel"):
        return None
    name, value, result = arguments
    if not isinstance(name, Identifier):
        raise MacroError(name.position, "cel.bind() variable names must be simple identifiers")
    return _At(position).bind(name.name, value, result)


def _sort_by(position: int, target: Node | None, arguments: list[Node]) -> Node:
    assert target is not None
    if isinstance(target, Literal | MapLiteral):
        what = "list, identifier, comprehension, call or select expression"
        raise MacroError(target.position, f"sortBy can only be applied to a {what}")
    at = _At(position)
    keys = _over(1, _gather(1))(position, at.name(_SORT_INPUT), arguments)
    assert keys is not None
    return at.bind(_SORT_INPUT, target, at.member(at.name(_SORT_INPUT), "@sortByAssociatedKeys", keys))


STANDARD: Macros = {
    ("has", False, 1): _has,
    ("all", True, 2): _over(1, _all),
    ("exists", True, 2): _over(1, _exists),
    ("exists_one", True, 2): _over(1, _exists_one),
    ("existsOne", True, 2): _over(1, _exists_one),
    ("map", True, 2): _over(1, _gather(1)),
    ("map", True, 3): _over(1, _gather(1)),
    ("filter", True, 2): _over(1, _filter),
}
OPTIONALS: Macros = {
    ("optMap", True, 2): _optional_map(flat=False),
    ("optFlatMap", True, 2): _optional_map(flat=True),
}
TWO_VARIABLES: Macros = {
    ("all", True, 3): _over(2, _all),
    ("exists", True, 3): _over(2, _exists),
    ("existsOne", True, 3): _over(2, _exists_one),
    ("exists_one", True, 3): _over(2, _exists_one),
    ("transformList", True, 3): _over(2, _gather(2)),
    ("transformList", True, 4): _over(2, _gather(2)),
    ("transformMap", True, 3): _over(2, _transform_map(entry=False)),
    ("transformMap", True, 4): _over(2, _transform_map(entry=False)),
    ("transformMapEntry", True, 3): _over(2, _transform_map(entry=True)),
    ("transformMapEntry", True, 4): _over(2, _transform_map(entry=True)),
}
BINDINGS: Macros = {("bind", True, 3): _bind}
SORT_BY: Macros = {("sortBy", True, 2): _sort_by}
