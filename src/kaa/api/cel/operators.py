"""Closures for operators: Python's own where the types are known to allow it.

The closures repeat each other's way of computing two operands on purpose: shared, it would cost a call more an operator.

Source: cel-go interpreter/interpretable.go (evalOr, evalAnd, evalEq, evalBinary), interpreter/attributes.go (ternary).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from math import ceil
from typing import Any, Final

from . import operations
from .costs import STRING_FACTOR, smaller
from .errors import CostExceeded, EvaluationError
from .frame import Closure, Code, Frame
from .operations import MISSING, equal, no_overload
from .types import Kind, Type
from .values import OptionalValue

_UNIT_SIZED = frozenset((bool, int, float, type(None)))
_SAME_SIZE = frozenset((Kind.BOOL, Kind.INT, Kind.UINT, Kind.DURATION, Kind.TIMESTAMP))


#: what a failed operand is to the pricing of the call that it fails: something of size 1
FAILED: Final = object()
#: (left, right) -> cost
PairCost = Callable[[Any, Any], int]


def left_failed(frame: Frame, fault: EvaluationError, right: Closure, cost: PairCost) -> EvaluationError:
    """Charge for a call whose left operand failed: the right one is computed all the same, as errors are values."""
    if isinstance(fault, CostExceeded):
        return fault
    try:
        other = right(frame)
    except CostExceeded as stopped:
        return stopped
    except EvaluationError:
        other = FAILED
    frame[0] += cost(FAILED, other)
    return fault


def right_failed(frame: Frame, fault: EvaluationError, one: Any, cost: PairCost) -> EvaluationError:
    if not isinstance(fault, CostExceeded):
        frame[0] += cost(one, FAILED)
    return fault


def one_unit(_one: Any, _other: Any) -> int:
    return 1


def _as_far_as_shorter(one: Any, other: Any) -> int:
    return smaller((one, other))


def both(terms: Sequence[Closure]) -> Closure:
    """``a && b && …``: false if any is, whatever the others do."""
    return _logical(terms, False)


def either(terms: Sequence[Closure]) -> Closure:
    """``a || b || …``: true if any is, whatever the others do."""
    return _logical(terms, True)


def _logical(terms: Sequence[Closure], decisive: bool) -> Closure:
    neutral = not decisive  # what a term is that leaves the question open
    if len(terms) == 2:
        return _two_terms(terms[0], terms[1], decisive)

    def many(frame: Frame) -> bool:
        fault: EvaluationError | None = None
        for term in terms:
            try:
                value = term(frame)
            except CostExceeded:
                raise
            except EvaluationError as err:
                fault = fault or err
                continue
            if value is decisive:
                return not neutral
            if value is not neutral:
                fault = fault or no_overload()
        if fault is not None:
            raise fault
        return neutral

    return many


def _two_terms(left: Closure, right: Closure, decisive: bool) -> Closure:
    neutral = not decisive

    def absorb(frame: Frame, fault: EvaluationError) -> bool:
        """The left term failed: only the right one can still decide."""
        try:
            value = right(frame)
        except CostExceeded:
            raise
        except EvaluationError:
            raise fault from None
        if value is decisive:
            return not neutral
        raise fault

    def two(frame: Frame) -> bool:
        try:
            value = left(frame)
        except CostExceeded:
            raise
        except EvaluationError as err:
            return absorb(frame, err)
        if value is decisive:
            return not neutral
        if value is not neutral:
            return absorb(frame, no_overload())
        value = right(frame)
        if value is True:
            return True
        if value is False:
            return False
        raise no_overload()

    return two


def choose(condition: Closure, then: Closure, otherwise: Closure) -> Closure:
    """``condition ? then : otherwise``."""

    def conditional(frame: Frame) -> Any:
        value = condition(frame)
        if value is True:
            return then(frame)
        if value is False:
            return otherwise(frame)
        raise no_overload()

    return conditional


def not_strictly_false(operand: Closure) -> Closure:
    def lenient(frame: Frame) -> bool:
        frame[0] += 1
        try:
            return operand(frame) is not False
        except CostExceeded:
            raise
        except EvaluationError:
            return True

    return lenient


def or_else(optional: Closure, other: Closure, *, unwrap: bool) -> Closure:
    """``a.or(b)`` and ``a.orValue(b)``: the second is computed only where it is needed, and the call is free."""

    def run(frame: Frame) -> Any:
        value = optional(frame)
        if type(value) is not OptionalValue:
            raise no_overload()
        if value.present:
            return value.value if unwrap else value
        found = other(frame)
        if not unwrap and type(found) is not OptionalValue:
            raise no_overload()
        return found

    return run


def equality(left: Closure, right: Closure, types: tuple[Type, Type], *, negated: bool) -> Closure:
    kinds = {types[0].kind, types[1].kind}
    if len(kinds) == 1 and kinds <= _SAME_SIZE:
        return _plain_equality(left, right, negated)
    if kinds == {Kind.STRING}:
        return _text_equality(left, right, negated)

    def same(frame: Frame) -> bool:
        try:
            one = left(frame)
        except EvaluationError as fault:
            raise left_failed(frame, fault, right, _as_far_as_shorter) from None
        try:
            other = right(frame)
        except EvaluationError as fault:
            raise right_failed(frame, fault, one, _as_far_as_shorter) from None
        if type(one) is type(other) and type(one) in _UNIT_SIZED:
            frame[0] += 1
            return (one == other) is not negated
        frame[0] += smaller((one, other))
        return equal(one, other) is not negated

    return same


def _plain_equality(left: Closure, right: Closure, negated: bool) -> Closure:
    def same(frame: Frame) -> bool:
        try:
            one = left(frame)
        except EvaluationError as fault:
            raise left_failed(frame, fault, right, one_unit) from None
        try:
            other = right(frame)
        except EvaluationError as fault:
            raise right_failed(frame, fault, one, one_unit) from None
        frame[0] += 1
        return (one == other) is not negated

    return same


def _text_equality(left: Closure, right: Closure, negated: bool) -> Closure:
    def same(frame: Frame) -> bool:
        try:
            one = left(frame)
        except EvaluationError as fault:
            raise left_failed(frame, fault, right, _as_far_as_shorter) from None
        try:
            other = right(frame)
        except EvaluationError as fault:
            raise right_failed(frame, fault, one, _as_far_as_shorter) from None
        try:
            frame[0] += ceil(min(len(one), len(other)) * STRING_FACTOR)
        except TypeError:
            frame[0] += 1
        return (one == other) is not negated

    return same


_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "_<_": operator.lt,
    "_<=_": operator.le,
    "_>_": operator.gt,
    "_>=_": operator.ge,
}


def _ordering(test: Callable[[Any, Any], bool], left: Closure, right: Code) -> Closure:
    if right.is_constant:
        return _ordering_constant(test, left, right.value)
    other_run = right.run

    def run(frame: Frame) -> bool:
        try:
            one = left(frame)
        except EvaluationError as fault:
            raise left_failed(frame, fault, other_run, one_unit) from None
        try:
            other = other_run(frame)
        except EvaluationError as fault:
            raise right_failed(frame, fault, one, one_unit) from None
        frame[0] += 1
        try:
            return test(one, other)
        except TypeError:
            raise no_overload() from None

    return run


def _ordering_constant(test: Callable[[Any, Any], bool], left: Closure, other: Any) -> Closure:
    def run(frame: Frame) -> bool:
        try:
            one = left(frame)
        except EvaluationError as fault:
            raise right_failed(frame, fault, other, one_unit) from None
        frame[0] += 1
        try:
            return test(one, other)
        except TypeError:
            raise no_overload() from None

    return run


_INT_ARITHMETIC: dict[str, Callable[[int, int], Any]] = {
    "add_int64": operations.add_int,
    "subtract_int64": operations.subtract_int,
    "multiply_int64": operations.multiply_int,
    "divide_int64": operations.divide_int,
    "modulo_int64": operations.modulo_int,
}


def known(function: str, overload: str, left: Closure, right: Code, types: tuple[Type, Type]) -> Closure | None:
    """The operator for operands of types that are known; None where there is nothing better than the general way."""
    if types[0].kind is not types[1].kind:
        return None
    kind = types[0].kind
    if function in _ORDERS and kind in _SAME_SIZE:
        return _ordering(_ORDERS[function], left, right)
    if overload in _INT_ARITHMETIC and kind is Kind.INT:
        return _int_arithmetic(_INT_ARITHMETIC[overload], left, right.run)
    return None


def _int_arithmetic(operate: Callable[[int, int], Any], left: Closure, right: Closure) -> Closure:
    def run(frame: Frame) -> Any:
        try:
            one = left(frame)
        except EvaluationError as fault:
            raise left_failed(frame, fault, right, one_unit) from None
        try:
            other = right(frame)
        except EvaluationError as fault:
            raise right_failed(frame, fault, one, one_unit) from None
        frame[0] += 1
        try:
            return operate(one, other)
        except TypeError:
            raise no_overload() from None

    return run


def named(slot: int, name: str, cost: int) -> Closure:
    """A variable's value."""

    def read(frame: Frame) -> Any:
        frame[0] += cost
        value = frame[slot]
        if value is MISSING:
            raise EvaluationError(f"no such attribute(s): {name}")
        return value

    return read


def item_reader(slot: int) -> Closure:
    """A fold's variable, which is always there."""

    def read(frame: Frame) -> Any:
        frame[0] += 1
        return frame[slot]

    return read


def slot_reader(slot: int) -> Closure:
    """A variable's value or MISSING, for free: what a chain starts from."""

    def read(frame: Frame) -> Any:
        return frame[slot]

    return read
