"""What closures share: the frame of an evaluation, and compiled code.

A frame is ``[cost so far, limit, *slots]``. Slots hold the variables of the environment that are named, then those of
folds. A list, as nothing else in Python is written to so cheaply.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from .errors import CostExceeded
from .operations import MISSING

COST: Final = 0
LIMIT: Final = 1
FIRST_SLOT: Final = 2
#: more than any evaluation can cost
NO_LIMIT: Final = 2**64

Frame = list[Any]
Closure = Callable[[Frame], Any]


class Code(NamedTuple):
    """A closure, and its value where that is known beforehand (else MISSING)."""

    run: Closure
    value: Any = MISSING

    @property
    def is_constant(self) -> bool:
        return self.value is not MISSING


def constant(value: Any) -> Code:
    return Code(lambda frame: value, value)


def charge(frame: Frame, cost: int) -> None:
    """Spend, and stop where the limit is passed."""
    frame[COST] += cost
    if frame[COST] > frame[LIMIT]:
        raise CostExceeded
