"""Counts of pods per topology domain: the arithmetic under pod affinity and topology spread.

A domain is a value of a node label (a zone); ``Domains`` holds a number per value, and looks it up for all rows at once.

    zone ids of rows   [0, 0, 1, -1]     numbers per value  [5, 2]  and 0 for "no such label"
    per_row()       -> [5, 5, 2, 0]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from .columns import Mask, Vector
from .snapshot import Snapshot
from .template import Template


class Domains:
    """A number per value of a label."""

    def __init__(self, key: str, nodes: Snapshot) -> None:
        column = nodes.label(key)
        self.ids = column.ids
        self.numbers: Vector = np.zeros(len(column.values) + 1, np.int64)  # the last is of rows without the label

    def add(self, row: int, number: int) -> None:
        index = self.ids[row]
        if index >= 0:
            self.numbers[index] += number

    def add_rows(self, counts: Mapping[int, int], weight: int = 1, only: Mask | None = None) -> None:
        """``counts``: {row: pods}; rows outside ``only`` do not count."""
        rows = np.fromiter(counts, np.intp, len(counts))
        numbers = np.fromiter(counts.values(), np.int64, len(counts)) * weight
        ids = self.ids[rows]
        use = ids >= 0 if only is None else (ids >= 0) & only[rows]
        np.add.at(self.numbers, ids[use], numbers[use])

    def per_row(self) -> Vector:
        found: Vector = self.numbers[self.ids]
        return found

    @property
    def present(self) -> Mask:
        """Rows that have the label."""
        return self.ids >= 0


class Matcher:
    """Remembers which templates a question is true of."""

    def __init__(self, question: Callable[[Template], bool]) -> None:
        self._question = question
        self._known: dict[Template, bool] = {}

    def __call__(self, template: Template) -> bool:
        known = self._known.get(template)
        if known is None:
            known = self._known[template] = self._question(template)
        return known


def placed(nodes: Snapshot) -> Iterator[tuple[Template, dict[int, int]]]:
    """Every template with its pods: {row: pods}."""
    for templates in nodes.placed.values():
        yield from templates.items()
