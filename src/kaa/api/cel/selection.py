"""Fields and indices: ``self.spec.replicas``, ``items[0]``, ``map[?key]``, ``has(a.b)``.

A chain of them is one closure. Its fast path trusts that every step is there; whatever goes wrong there, the chain is
walked again step by step, which finds the error and the exact cost.

Source: cel-go interpreter/attributes.go; for objects apiserver pkg/cel/common/values.go (`unstructuredMap.Find`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .errors import EvaluationError
from .frame import Closure, Frame
from .operations import MISSING, look_up, missing
from .values import NOTHING, OptionalValue


class Key(NamedTuple):
    """A step's key, as the value knows it; ``shown`` is how the expression spells it, for errors."""

    value: Any
    shown: Any


class Qualifier(NamedTuple):
    """One step: a constant key, or what computes it. In an ``object`` null is as good as absent."""

    key: Key | None
    run: Closure | None
    optional: bool = False
    object: bool = False


def _step(value: Any, key: Any, *, object: bool) -> Any:
    if type(value) is OptionalValue:
        if not value.present:
            return MISSING
        value = value.value
    found = look_up(value, key)
    return MISSING if found is None and object else found


def walked(frame: Frame, value: Any, path: Sequence[Qualifier]) -> Any:
    """Follow the path, charging for each step. After an optional step, what is missing makes the whole `none`."""
    if value is MISSING:
        raise EvaluationError("no such attribute(s)")
    optional = type(value) is OptionalValue
    if optional:
        if not value.present:
            return value
        value = value.value
    for qualifier in path:
        if qualifier.key is not None:
            key, shown = qualifier.key
        else:
            assert qualifier.run is not None
            key = shown = qualifier.run(frame)
        optional = optional or qualifier.optional
        found = _step(value, key, object=qualifier.object)
        if found is MISSING and optional:
            return NOTHING
        frame[0] += 1
        if found is MISSING:
            raise missing(value, shown)
        value = found
    return OptionalValue(value) if optional else value


def present(value: Any, key: Any, *, object: bool) -> bool:
    """``has(value.key)``."""
    if value is MISSING:
        raise EvaluationError("no such attribute(s)")
    return _step(value, key, object=object) is not MISSING


def chain(base: Closure, base_cost: int, path: Sequence[Qualifier], slot: int | None = None) -> Closure:
    """Follow a path from what ``base`` gives: piece by piece, each piece in its fastest way.

    Args: slot: where ``base`` reads its value in the frame, if it does no more than that.
    """
    if any(qualifier.optional for qualifier in path):
        return _walking(base, base_cost, path)
    at = 0
    while at < len(path):
        end = at
        while end < len(path) and end - at < 3 and _is_name(path[end]):
            end += 1
        if end == at:
            end = at + 1
            base = _indexed(base, base_cost, path[at])
        else:
            base = _named(base, base_cost, path[at:end], slot)
        at, base_cost, slot = end, 0, None
    return base


def relative(base: Closure, cost: int) -> Closure:
    """A chain's start that is no name: looking into it is charged also where it fails."""

    def run(frame: Frame) -> Any:
        try:
            return base(frame)
        except EvaluationError:
            frame[0] += cost
            raise

    return run


def _is_name(qualifier: Qualifier) -> bool:
    return qualifier.key is not None and type(qualifier.key.value) is str


def _named(base: Closure, base_cost: int, path: Sequence[Qualifier], slot: int | None) -> Closure:
    keys = [qualifier.key.value for qualifier in path if qualifier.key is not None]
    checked = path[-1].object
    if len(keys) == 1:
        if slot is not None:
            return _one_of_slot(slot, base_cost + 1, path, keys[0], checked)
        return _one(base, base_cost + 1, path, keys[0], checked)
    if len(keys) == 2:
        return _two(base, base_cost + 2, path, keys, checked)
    return _three(base, base_cost + 3, path, keys, checked)


def _indexed(base: Closure, base_cost: int, step: Qualifier) -> Closure:
    """``base[i]``: an item of a list, or a value of a map under a computed key."""
    path = (step,)
    cost = base_cost + 1
    if step.key is not None:
        at = step.key.value
        if type(at) is not int or at < 0:
            return _walking(base, base_cost, path)

        def item(frame: Frame) -> Any:
            value = base(frame)
            if type(value) is list and at < len(value):
                frame[0] += cost
                return value[at]
            frame[0] += base_cost
            return walked(frame, value, path)

        return item
    assert step.run is not None
    key_of = step.run

    def computed(frame: Frame) -> Any:
        value = base(frame)
        try:
            key = key_of(frame)
        except EvaluationError:
            frame[0] += cost
            raise
        if type(value) is dict and type(key) is str and key in value:
            frame[0] += cost
            return value[key]
        frame[0] += base_cost
        return walked(frame, value, (Qualifier(Key(key, key), None),))

    return computed


def _walking(base: Closure, base_cost: int, path: Sequence[Qualifier]) -> Closure:
    def walk(frame: Frame) -> Any:
        value = base(frame)
        frame[0] += base_cost
        return walked(frame, value, path)

    return walk


def _again(frame: Frame, value: Any, path: Sequence[Qualifier]) -> Any:
    frame[0] -= len(path)
    return walked(frame, value, path)


_LOST = (KeyError, TypeError, IndexError, AttributeError)


def _one(base: Closure, cost: int, path: Sequence[Qualifier], key: str, checked: bool) -> Closure:
    def one(frame: Frame) -> Any:
        value = base(frame)
        frame[0] += cost
        try:
            found = value[key]
        except _LOST:
            return _again(frame, value, path)
        return _again(frame, value, path) if found is None and checked else found

    return one


def _one_of_slot(slot: int, cost: int, path: Sequence[Qualifier], key: str, checked: bool) -> Closure:
    def one(frame: Frame) -> Any:
        value = frame[slot]
        frame[0] += cost
        try:
            found = value[key]
        except _LOST:
            return _again(frame, value, path)
        return _again(frame, value, path) if found is None and checked else found

    return one


def _two(base: Closure, cost: int, path: Sequence[Qualifier], keys: list[str], checked: bool) -> Closure:
    first, second = keys

    def two(frame: Frame) -> Any:
        value = base(frame)
        frame[0] += cost
        try:
            found = value[first][second]
        except _LOST:
            return _again(frame, value, path)
        return _again(frame, value, path) if found is None and checked else found

    return two


def _three(base: Closure, cost: int, path: Sequence[Qualifier], keys: list[str], checked: bool) -> Closure:
    first, second, third = keys

    def three(frame: Frame) -> Any:
        value = base(frame)
        frame[0] += cost
        try:
            found = value[first][second][third]
        except _LOST:
            return _again(frame, value, path)
        return _again(frame, value, path) if found is None and checked else found

    return three


def tester(base: Closure, base_cost: int, key: Any, *, object: bool) -> Closure:
    """``has(base.key)``."""
    cost = base_cost + 1

    def test(frame: Frame) -> bool:
        value = base(frame)
        frame[0] += cost
        if type(value) is dict:
            return key in value and not (object and value[key] is None)
        return present(value, key, object=object)

    return test
