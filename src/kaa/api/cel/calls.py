"""Closures for calls of functions: choosing the overload, calling it, charging for it.

Source: cel-go interpreter/interpretable.go (evalUnary, evalVarArgs, evalSetMembership); common/decls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import Any

from . import operations
from .assignability import is_dyn
from .costs import REGEX_FACTOR, STRING_FACTOR, Traversal, traversal
from .declarations import CostTracker, Overload
from .errors import CostExceeded, EvaluationError
from .frame import Closure, Code, Frame, charge, constant
from .operations import NO_OVERLOAD, accepts, actual_size, type_name
from .operators import FAILED, left_failed, right_failed
from .types import Type
from .values import Uint

Run = Callable[..., Any]


def is_guarded(candidates: Sequence[Overload], types: Sequence[Type]) -> bool:
    """Whether the arguments' values decide if, and what, is called."""
    return len(candidates) != 1 or any(is_dyn(type_) for type_ in types)


def chooser(candidates: Sequence[Overload], types: Sequence[Type]) -> Run:
    """What to call with the arguments' values: checked where the types leave something open."""
    return _dispatching(candidates) if is_guarded(candidates, types) else candidates[0].run


def _dispatching(candidates: Sequence[Overload]) -> Run:
    general = _GENERAL.get(candidates[0].function)
    if general is not None:
        return general
    guarded = [(tuple(accepts(type_) for type_ in one.arguments), one.run) for one in candidates]
    plain = candidates[0].function in _PLAINLY

    def run(*values: Any) -> Any:
        for guards, target in guarded:
            if all(guard(value) for guard, value in zip(guards, values, strict=True)):
                return target(*values)
        if plain:
            raise EvaluationError(NO_OVERLOAD)
        given = ", ".join(type_name(value) for value in values)
        raise EvaluationError(f"{NO_OVERLOAD}: {candidates[0].function}({given})")

    return run


#: operators that find out for themselves what they are given
_GENERAL: dict[str, Run] = {
    "_+_": operations.add,
    "_-_": operations.subtract,
    "_*_": operations.multiply,
    "_/_": operations.divide,
    "_%_": operations.modulo,
    "-_": operations.negate,
    "!_": operations.invert,
    "@in": operations.contains,
    "_<_": lambda one, other: operations.compare(one, other) < 0,
    "_<=_": lambda one, other: operations.compare(one, other) <= 0,
    "_>_": lambda one, other: operations.compare(one, other) > 0,
    "_>=_": lambda one, other: operations.compare(one, other) >= 0,
}
#: CEL's own functions, whose failure to match says no more than that
_PLAINLY = frozenset("contains endsWith startsWith matches size".split())


def caller(run: Run, arguments: Sequence[Closure], price: CostTracker | int, *, price_last: bool) -> Closure:
    """A call. ``price_last``: its price is only known, or its arguments are only proved, once it is done."""
    if isinstance(price, Traversal) and price.factor == 1 and len(arguments) == 2:
        return _text_binary(run, arguments[0], arguments[1])
    if not isinstance(price, int):
        return _tracked(run, arguments, price, price_last=price_last)
    match arguments:
        case [one]:
            return _unary(run, one, price)
        case [one, other]:
            return _binary(run, one, other, price)
    return _any(run, arguments, price)


def _unary(run: Run, argument: Closure, price: int) -> Closure:
    def call(frame: Frame) -> Any:
        try:
            value = argument(frame)
        except EvaluationError:
            frame[0] += price
            raise
        frame[0] += price
        return run(value)

    return call


def _binary(run: Run, left: Closure, right: Closure, price: int) -> Closure:
    def cost(_one: Any, _other: Any) -> int:
        return price

    def call(frame: Frame) -> Any:
        try:
            one = left(frame)
        except EvaluationError as fault:
            raise left_failed(frame, fault, right, cost) from None
        try:
            other = right(frame)
        except EvaluationError as fault:
            raise right_failed(frame, fault, one, cost) from None
        frame[0] += price
        return run(one, other)

    return call


def _text_binary(run: Run, left: Closure, right: Closure) -> Closure:
    """``text.startsWith(part)`` and its like, as long as the text."""

    def cost(one: Any, _other: Any) -> int:
        return ceil(actual_size(one) * STRING_FACTOR)

    def call(frame: Frame) -> Any:
        try:
            one = left(frame)
        except EvaluationError as fault:
            raise left_failed(frame, fault, right, cost) from None
        try:
            other = right(frame)
        except EvaluationError as fault:
            raise right_failed(frame, fault, one, cost) from None
        frame[0] += ceil(len(one) * STRING_FACTOR) if type(one) is str else ceil(actual_size(one) * STRING_FACTOR)
        return run(one, other)

    return call


def evaluated(frame: Frame, arguments: Sequence[Closure], price: CostTracker | int) -> list[Any]:
    """The arguments' values. If one fails, the call is charged where all of them were computed: two always are, of more
    none after the one that failed."""
    values: list[Any] = []
    fault: EvaluationError | None = None
    for argument in arguments:
        try:
            values.append(argument(frame))
        except CostExceeded:
            raise
        except EvaluationError as err:
            fault = fault or err
            values.append(FAILED)
            if len(arguments) > 2:
                break
    if fault is None:
        return values
    if len(values) == len(arguments):
        frame[0] += price if isinstance(price, int) else price(values, FAILED)
    raise fault


def _any(run: Run, arguments: Sequence[Closure], price: int) -> Closure:
    def call(frame: Frame) -> Any:
        values = evaluated(frame, arguments, price)
        frame[0] += price
        return run(*values)

    return call


def _tracked(run: Run, arguments: Sequence[Closure], price: CostTracker, *, price_last: bool) -> Closure:
    if price_last:

        def call_first(frame: Frame) -> Any:
            values = evaluated(frame, arguments, price)
            result = run(*values)
            charge(frame, price(values, result))
            return result

        return call_first

    def charge_first(frame: Frame) -> Any:
        values = evaluated(frame, arguments, price)
        charge(frame, price(values, None))
        return run(*values)

    return charge_first


def compiled_match(text: Closure, test: Callable[[str], bool], pattern: str) -> Closure:
    """``text.matches('…')`` with a constant expression."""
    factor = ceil(len(pattern) * REGEX_FACTOR)

    def match(frame: Frame) -> bool:
        try:
            value = text(frame)
        except EvaluationError:
            frame[0] += traversal(2.0) * factor
            raise
        if type(value) is not str:
            frame[0] += traversal(2.0) * factor
            raise EvaluationError(NO_OVERLOAD)
        frame[0] += traversal(1.0 + len(value)) * factor
        return test(value)

    return match


def membership(item: Closure, members: Sequence[Any]) -> Code | None:
    """``item in [constants]``, which cel-go does not charge for; None where the list has more than plain constants."""
    if not members:
        return constant(False)
    if any(type(one) not in (bool, int, Uint, float, str, type(None)) for one in members):
        return None
    known = frozenset((_word(one), one) for one in members)

    def contained(frame: Frame) -> bool:
        value = item(frame)
        try:
            return (_word(value), value) in known
        except TypeError:
            return False

    return Code(contained)


def _word(value: Any) -> str:
    """What keeps ``true`` apart from 1."""
    return "number" if type(value) in (int, Uint, float) else type(value).__name__
