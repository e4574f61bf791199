"""Selectors of devices: compiled once, and what they may cost.

Source: dynamic-resource-allocation cel/compile.go, cel/cache.go.
"""

from __future__ import annotations

from functools import lru_cache

from ..device_claims import DOMAIN_LENGTH, MOST_ENTRIES, NAME_LENGTH, VALUE_LENGTH
from .environment import Environment, Program
from .errors import CompileError
from .library import DEVICES
from .ranges import Path
from .types import BOOL, DYN, Type
from .variables import DEVICE


@lru_cache(maxsize=1)
def _environment() -> Environment:
    return Environment({"device": DEVICE}, DEVICES)


@lru_cache(maxsize=256)
def compiled(expression: str) -> Program:
    """Raises CompileError, with the text that users get."""
    try:
        program = _environment().compile(expression)
    except CompileError as err:
        raise CompileError((), expression, text=f"compilation failed: {err}") from err
    if program.type not in (BOOL, DYN):
        text = f"must evaluate to bool or the unknown type, not {program.type}"
        raise CompileError((), expression, text=text)
    return program


def greatest_cost(program: Program) -> int:
    """What a selector may cost on the largest device there may be."""
    return program.estimate(_sizes).maximum


def _sizes(path: Path, kind: Type) -> tuple[int, int] | None:
    match path:
        case ("device", "driver"):
            return 0, DOMAIN_LENGTH
        case ("device", "attributes" | "capacity") | ("device", "attributes" | "capacity", "@values"):
            return 0, MOST_ENTRIES
        case ("device", "attributes" | "capacity", "@keys"):
            return 0, DOMAIN_LENGTH
        case ("device", "attributes" | "capacity", "@values", "@keys"):
            return 0, NAME_LENGTH
        case ("device", "attributes", _, _):
            return 0, VALUE_LENGTH
        case ("device", "attributes" | "capacity", _):
            return 0, MOST_ENTRIES
    return None
