"""What an expression may cost, before it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from .syntax import Node
from .types import Type


class CostEstimate(NamedTuple):
    minimum: int
    maximum: int


Sizes = Callable[[tuple[str, ...]], tuple[int, int] | None]


def estimate(tree: Node, variables: Mapping[str, Type], sizes: Sizes | None) -> CostEstimate:
    raise NotImplementedError
