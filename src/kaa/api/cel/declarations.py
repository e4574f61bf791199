"""What a library brings: functions with their overloads, macros, names of types.

    Library("sets", functions=(member("contains", "list_sets_contains", (LIST_A, LIST_A), BOOL, contains),))

An overload's ``run`` takes plain values and returns one, raising EvaluationError; where the types of arguments are known
when compiling, it is called without further checks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .parser import Macros
from .types import Type

#: (arguments, result) -> units of cost
CostTracker = Callable[[Sequence[Any], Any], int]


@dataclass(frozen=True)
class Overload:
    """One signature of a function; for a member function the target is the first of ``arguments``."""

    function: str
    id: str
    member: bool
    arguments: tuple[Type, ...]
    result: Type
    run: Callable[..., Any]
    #: what a call costs, before the rules for all are asked (cel-go's OverloadCostTracker)
    cost: CostTracker | None = None


def function(name: str, id: str, arguments: tuple[Type, ...], result: Type, run: Callable[..., Any]) -> Overload:
    return Overload(name, id, False, arguments, result, run)


def member(name: str, id: str, arguments: tuple[Type, ...], result: Type, run: Callable[..., Any]) -> Overload:
    return Overload(name, id, True, arguments, result, run)


@dataclass(frozen=True, eq=False)
class Library:
    name: str
    functions: tuple[Overload, ...] = ()
    macros: Macros = field(default_factory=dict)
    #: {name in expressions: the type it names}
    types: Mapping[str, Type] = field(default_factory=dict)
