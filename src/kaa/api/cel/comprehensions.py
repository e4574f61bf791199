"""Closures for folds.

cel-go runs every macro as one general loop over an accumulator. Here each shape that a macro makes has a loop of its own,
which counts what the general loop would have cost; whatever has no such shape runs as the general loop.

Source: cel-go interpreter/interpretable.go (evalFold), parser/macro.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .errors import CostExceeded, EvaluationError
from .frame import COST, LIMIT, Closure, Frame, charge
from .operations import MISSING, find, no_overload, type_of
from .values import Duration, Timestamp, Uint

_GO_NAMES: dict[type, str] = {
    bool: "types.Bool",
    int: "types.Int",
    Uint: "types.Uint",
    float: "types.Double",
    str: "types.String",
    bytes: "types.Bytes",
    type(None): "types.Null",
    Timestamp: "types.Timestamp",
    Duration: "types.Duration",
}


class Loop(NamedTuple):
    """What is folded and where its variables are: one name takes items or keys, two take index or key, and value."""

    over: Closure
    slot: int
    slot2: int | None

    def items(self, frame: Frame) -> Iterable[Any]:
        value = self.over(frame)
        if isinstance(value, list | tuple):
            return value if self.slot2 is None else enumerate(value)
        if isinstance(value, Mapping):
            return value if self.slot2 is None else value.items()
        name = _GO_NAMES.get(type(value)) or type_of(value).name
        raise EvaluationError(f"got '{name}', expected iterable type")

    def bind(self, frame: Frame, item: Any) -> None:
        if self.slot2 is None:
            frame[self.slot] = item
        else:
            frame[self.slot], frame[self.slot2] = item


def quantifier(loop: Loop, test: Closure, *, decisive: bool) -> Closure:
    """``all`` (false decides) and ``exists`` (true does). A failing test counts only if nothing decides."""
    before = 3 if decisive else 2  # to ask, before each item, whether to go on
    items, slot, slot2 = loop.items, loop.slot, loop.slot2

    def run(frame: Frame) -> bool:
        fault: EvaluationError | None = None
        decided = False
        for item in items(frame):
            if decided:
                charge(frame, before)
                break
            frame[COST] = spent = frame[COST] + before + 1
            if spent > frame[LIMIT]:
                raise CostExceeded
            if slot2 is None:
                frame[slot] = item
            else:
                frame[slot], frame[slot2] = item
            try:
                value = test(frame)
            except CostExceeded:
                raise
            except EvaluationError as err:
                fault = fault or err
                continue
            if value is decisive:
                decided = True
            elif value is not (not decisive):
                fault = fault or no_overload()
        charge(frame, 1)
        if decided:
            return decisive
        if fault is not None:
            raise fault
        return not decisive

    return run


def exactly_one(loop: Loop, test: Closure) -> Closure:
    def run(frame: Frame) -> bool:
        count = 0
        for item in loop.items(frame):
            loop.bind(frame, item)
            value = test(frame)
            if value is True:
                count += 1
                charge(frame, 2)
            elif value is not False:
                raise no_overload()
            else:
                charge(frame, 0)
        charge(frame, 2)
        return count == 1

    return run


def gather(loop: Loop, accepts: Closure | None, element: Closure, *, element_cost: int, initial_cost: int) -> Closure:
    """``map``, ``filter``, ``transformList``. ``element_cost``: of the list that each item is added as."""
    step_cost = 2 + element_cost

    def run(frame: Frame) -> list[Any]:
        items = loop.items(frame)
        frame[COST] += initial_cost
        found: list[Any] = []
        for item in items:
            loop.bind(frame, item)
            if accepts is not None:
                accepted = accepts(frame)
                if accepted is False:
                    charge(frame, 0)
                    continue
                if accepted is not True:
                    raise no_overload()
            found.append(element(frame))
            charge(frame, step_cost)
        charge(frame, 1)
        return found

    return run


def insert(loop: Loop, accepts: Closure | None, key: Closure | None, value: Closure, *, initial_cost: int) -> Closure:
    """``transformMap`` with a key, ``transformMapEntry`` without: then ``value`` gives a map of what to insert."""

    def run(frame: Frame) -> dict[Any, Any]:
        items = loop.items(frame)
        frame[COST] += initial_cost
        found: dict[Any, Any] = {}
        for item in items:
            loop.bind(frame, item)
            if accepts is not None:
                accepted = accepts(frame)
                if accepted is False:
                    charge(frame, 0)
                    continue
                if accepted is not True:
                    raise no_overload()
            charge(frame, 2)
            if key is not None:
                put(found, key(frame), value(frame))
            else:
                for name, inner in _entries(value(frame)):
                    put(found, name, inner)
        charge(frame, 1)
        return found

    return run


def _entries(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return value.items()
    raise no_overload()


def put(mapping: dict[Any, Any], key: Any, value: Any) -> None:
    if find(mapping, key) is not MISSING:
        shown = f'"{key}"' if isinstance(key, str) else str(key)
        raise EvaluationError(f"insert failed: key {shown} already exists")
    mapping[key] = value


class Lazy(NamedTuple):
    """What a bound name will be, computed when it is first read."""

    run: Closure


def bound(slot: int, value: Closure, result: Closure, *, cost: int) -> Closure:
    """``cel.bind(name, value, result)``."""
    promise = Lazy(value)

    def run(frame: Frame) -> Any:
        frame[slot] = promise
        frame[COST] += cost
        return result(frame)

    return run


def bound_reader(slot: int, cost: int) -> Closure:
    def read(frame: Frame) -> Any:
        frame[COST] += cost
        value = frame[slot]
        if type(value) is Lazy:
            value = frame[slot] = value.run(frame)
            charge(frame, 0)
        return value

    return read


def general(loop: Loop, slot: int, initial: Closure, condition: Closure, step: Closure, result: Closure) -> Closure:
    """Any fold, as it is written."""

    def run(frame: Frame) -> Any:
        items = loop.items(frame)
        frame[slot] = initial(frame)
        for item in items:
            loop.bind(frame, item)
            if condition(frame) is not True:
                break
            frame[slot] = step(frame)
            charge(frame, 0)
        return result(frame)

    return run
