"""Closures for lists, maps and objects that an expression writes out.

Source: cel-go interpreter/interpretable.go (evalList, evalMap, evalObj).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import costs
from .errors import EvaluationError
from .frame import Closure, Frame
from .operations import MISSING, find, type_name
from .types import ObjectType
from .values import OptionalValue, Uint


class ObjectValue(dict[str, Any]):
    """What ``Object{spec: …}`` makes: a map under wire names that knows its type."""

    __slots__ = ("cel_type",)

    def __init__(self, type_: ObjectType, fields: dict[str, Any]) -> None:
        super().__init__(fields)
        self.cel_type = type_


def _optional(value: Any) -> OptionalValue:
    if type(value) is OptionalValue:
        return value
    raise EvaluationError(f"cannot initialize optional entry from non-optional value {value}")


def list_maker(elements: Sequence[Closure], optional: frozenset[int]) -> Closure:
    if not optional:

        def make(frame: Frame) -> list[Any]:
            try:
                return [element(frame) for element in elements]
            finally:
                frame[0] += costs.LIST

        return make

    def make_some(frame: Frame) -> list[Any]:
        made: list[Any] = []
        for index, element in enumerate(elements):
            value = element(frame)
            if index not in optional:
                made.append(value)
            elif _optional(value).present:
                made.append(value.value)
        frame[0] += costs.LIST
        return made

    return make_some


def map_maker(entries: Sequence[tuple[Closure, Closure, bool]]) -> Closure:
    def make(frame: Frame) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        for key_run, value_run, optional in entries:
            key = key_run(frame)
            if type(key) not in (str, int, bool, Uint):
                raise EvaluationError(f"unsupported key type: {type_name(key)}")
            value = value_run(frame)
            if optional:
                if not _optional(value).present:
                    continue
                value = value.value
            if find(made, key) is not MISSING:
                raise EvaluationError(f"Failed with repeated key: {key}")
            made[key] = value
        frame[0] += costs.MAP
        return made

    return make


def struct_maker(type_: ObjectType, entries: Sequence[tuple[str, Closure, bool]]) -> Closure:
    def make(frame: Frame) -> ObjectValue:
        made: dict[str, Any] = {}
        for name, run, optional in entries:
            value = run(frame)
            if optional:
                if not _optional(value).present:
                    continue
                value = value.value
            made[name] = value
        frame[0] += costs.STRUCT
        return ObjectValue(type_, made)

    return make
