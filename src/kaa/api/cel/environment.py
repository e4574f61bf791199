"""Where expressions are compiled: the variables they may name and the functions they may call.

    base = Environment({"object": DYN, "request": request_type})
    program = base.compile("object.spec.replicas <= 5", BOOL)

One environment compiles any number of expressions, and is never changed: `extended` gives another. Compiling costs some
hundred microseconds; keep the Program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .types import Type


class Result(NamedTuple):
    """What an evaluation gave, and the units of cost that it took."""

    value: Any
    cost: int


class CostEstimate(NamedTuple):
    """Bounds on what an evaluation can cost; the largest is `estimate.UNLIMITED` where sizes are unknown."""

    minimum: int
    maximum: int


#: (path of a value, such as ("self", "items", "@items")) -> (smallest, largest size), or None where nobody knows
Sizes = Callable[[tuple[str, ...]], tuple[int, int] | None]


class Program:
    """A compiled expression. It holds no state between evaluations: threads may share it."""

    source: str
    type: Type
    #: variables of the environment that the expression names
    references: frozenset[str]

    def evaluate(self, values: Mapping[str, Any], budget: int | None = None) -> Result:
        """Run it on these values.

        Args:    values: the variables by name, plain values. A missing one is an error only where it is read.
                 budget: most units of cost; None is unlimited.
        Raises:  EvaluationError: it failed on these values. CostExceeded: the budget is spent.
        """
        raise NotImplementedError

    def estimate(self, sizes: Sizes | None = None) -> CostEstimate:
        """What running it may cost at least and at most, by the sizes that the variables' types promise.

        Args: sizes: knows the size of values by path, before the types are asked.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Environment:
    """Variables by name, and the libraries whose functions may be called (default: all that Kubernetes has)."""

    variables: Mapping[str, Type]
    libraries: Sequence[Any] = ()

    def extended(self, variables: Mapping[str, Type]) -> Environment:
        """The same environment with further variables."""
        raise NotImplementedError

    def compile(self, expression: str, expected: Type | None = None) -> Program:
        """Parse, check and compile.

        Args:    expected: the type it must have; None takes any.
        Raises:  CompileError: with cel-go's text; for a type that is not ``expected``, upstream's
                 ``must evaluate to bool``.
        """
        raise NotImplementedError
