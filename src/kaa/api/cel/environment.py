"""Where expressions are compiled: the variables they may name and the functions they may call.

    base = Environment({"object": DYN, "request": request_type})
    program = base.compile("object.spec.replicas <= 5", BOOL)

One environment compiles any number of expressions, and is never changed: `extended` gives another. Compiling costs some
hundred microseconds; keep the Program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

from . import estimate, library
from .checker import TypeResolver, check
from .compiler import Compiled, compile_tree
from .declarations import Library, Overload
from .errors import CompileError, CostExceeded, EvaluationError
from .frame import NO_LIMIT, Frame
from .operations import MISSING
from .parser import Macros, parse
from .syntax import Node
from .types import DYN, Kind, ObjectType, Type
from .validators import invalid_literals

CostEstimate = estimate.CostEstimate
Sizes = estimate.Sizes


class Result(NamedTuple):
    """What an evaluation gave, and the units of cost that it took."""

    value: Any
    cost: int


#: quicker than calling the class
_RESULT = tuple.__new__


class Program:
    """A compiled expression. It holds no state between evaluations: threads may share it."""

    __slots__ = ("_further", "_names", "_only", "_run", "_tree", "_variables", "references", "source", "type")

    def __init__(
        self,
        source: str,
        tree: Node,
        compiled: Compiled,
        references: frozenset[str],
        variables: Mapping[str, Type],
    ) -> None:
        self.source = source
        self.type = tree.type
        #: variables of the environment that the expression names
        self.references = references
        self._tree = tree
        self._run, self._names, further = compiled
        self._further = (None,) * further
        self._only = self._names[0] if len(self._names) == 1 else None
        self._variables = variables

    def evaluate(self, values: Mapping[str, Any], budget: int | None = None) -> Result:
        """Run it on these values.

        Args:    values: the variables by name, plain values. A missing one is an error only where it is read.
                 budget: most units of cost; None is unlimited.
        Raises:  EvaluationError: it failed on these values; its ``cost`` is what was spent.
                 CostExceeded: the budget is spent.
        """
        limit = NO_LIMIT if budget is None else budget
        frame: Frame
        if self._only is not None:
            frame = [0, limit, values.get(self._only, MISSING), *self._further]
        else:
            frame = [0, limit, *[values.get(name, MISSING) for name in self._names], *self._further]
        try:
            value = self._run(frame)
        except EvaluationError as err:
            if frame[0] > limit and not isinstance(err, CostExceeded):
                err = CostExceeded()
            err.cost = frame[0]
            raise err from None
        except RecursionError:
            raise EvaluationError("evaluation recursion limit exceeded") from None
        if frame[0] > limit:
            fault = CostExceeded()
            fault.cost = frame[0]
            raise fault
        return _RESULT(Result, (value, frame[0]))

    def estimate(self, sizes: Sizes | None = None) -> CostEstimate:
        """What running it may cost at least and at most, by the sizes that the variables' types promise.

        Args: sizes: knows the size of values by path, before the types are asked.
        """
        return estimate.estimate(self._tree, self._variables, sizes)


class _Vocabulary(NamedTuple):
    """What some libraries declare together."""

    functions: Mapping[str, Sequence[Overload]]
    overloads: Mapping[tuple[str, str], Overload]
    macros: Macros
    types: Mapping[str, Type]


@lru_cache(maxsize=32)
def _vocabulary(libraries: tuple[Library, ...]) -> _Vocabulary:
    functions: dict[str, list[Overload]] = {}
    macros: dict[tuple[str, bool, int], Any] = {}
    types: dict[str, Type] = {}
    for one in libraries:
        for overload in one.functions:
            functions.setdefault(overload.function, []).append(overload)
        macros.update(one.macros)
        types.update(one.types)
    overloads = {(overload.function, overload.id): overload for found in functions.values() for overload in found}
    return _Vocabulary(functions, overloads, macros, types)


def _no_types(_name: str) -> ObjectType | None:
    return None


class Environment:
    """Variables by name, libraries whose functions may be called (by default all that Kubernetes has everywhere), and
    object types that expressions may write out by name (``Object.spec{…}``): a mapping, or what finds them.

    ``fold`` is cel-go's constant folding. Kubernetes has it on; with it off costs are those of upstream's unit tests.
    """

    def __init__(
        self,
        variables: Mapping[str, Type],
        libraries: Sequence[Library] | None = None,
        *,
        types: Mapping[str, ObjectType] | Callable[[str], ObjectType | None] | None = None,
        fold: bool = True,
    ) -> None:
        self.variables = MappingProxyType(dict(variables))
        self.libraries = tuple(library.KUBERNETES if libraries is None else libraries)
        self.fold = fold
        self._resolve: TypeResolver = types.get if isinstance(types, Mapping) else types or _no_types
        self._vocabulary = _vocabulary(self.libraries)

    def extended(self, variables: Mapping[str, Type]) -> Environment:
        """The same environment with further variables."""
        return Environment({**self.variables, **variables}, self.libraries, types=self._resolve, fold=self.fold)

    def compile(self, expression: str, expected: Type | None = None) -> Program:
        """Parse, check and compile.

        Args:    expected: the type it must have; None takes any. An expression of dynamic type fits any.
        Raises:  CompileError: with cel-go's text; for a type that is not ``expected``, ``must evaluate to bool``.
        """
        words = self._vocabulary
        tree = parse(expression, words.macros)
        tree, references = check(
            tree,
            expression,
            variables=self.variables,
            functions=words.functions,
            types=words.types,
            resolve=self._resolve,
        )
        issues = invalid_literals(tree, expression)
        if issues:
            raise CompileError(tuple(issues), expression)
        if expected is not None and not _fits(tree.type, expected):
            raise CompileError((), expression, text=f"must evaluate to {expected}")
        compiled = compile_tree(tree, expression, words.overloads, sorted(references), fold=self.fold)
        return Program(expression, tree, compiled, references, self.variables)


def _fits(given: Type, expected: Type) -> bool:
    return given == expected or given.kind is Kind.DYN or expected == DYN
