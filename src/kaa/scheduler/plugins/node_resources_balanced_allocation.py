"""NodeResourcesBalancedAllocation: prefer nodes where cpu and memory would be used in like shares.

Source: kubernetes/kubernetes pkg/scheduler/framework/plugins/noderesources/balanced_allocation.go.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..columns import Mask, Move, Rows, Vector
from ..framework import MAX_SCORE, ClusterEvent, Score, Unfiltered
from ..snapshot import CPU, MEMORY, Snapshot
from ..template import Template


class NodeResourcesBalancedAllocation(Unfiltered):
    name = "NodeResourcesBalancedAllocation"
    events: frozenset[ClusterEvent] = frozenset()

    def score(self, template: Template, nodes: Snapshot) -> Score | None:
        """Nothing to say of a pod that requests neither."""
        wants = template.requests.get("cpu", 0), template.requests.get("memory", 0)
        return Balance(wants, nodes) if any(wants) else None


class Balance:
    """100 less the standard deviation of the used shares, in percent. Of two shares that is half their difference."""

    local = True

    def __init__(self, wants: tuple[int, int], nodes: Snapshot) -> None:
        self._wants, self._nodes = wants, nodes
        self.raw: Vector = np.zeros(nodes.size, np.int64)
        self.correct(slice(0, nodes.size), ())

    def correct(self, rows: Rows, moves: Sequence[Move]) -> None:
        alloc, used = self._nodes.alloc, self._nodes.used
        if len(moves) == 1:
            row = moves[0].row
            has = int(alloc[CPU, row]), int(alloc[MEMORY, row])
            taken = int(used[CPU, row]) + self._wants[0], int(used[MEMORY, row]) + self._wants[1]
            shares = [min(t / max(h, 1), 1.0) for t, h in zip(taken, has, strict=True)]
            self.raw[row] = int((1.0 - abs(shares[0] - shares[1]) * all(has) / 2.0) * MAX_SCORE)
            return
        cpu_has, memory_has = alloc[CPU, rows], alloc[MEMORY, rows]
        cpu = np.minimum((used[CPU, rows] + self._wants[0]) / np.maximum(cpu_has, 1), 1.0)
        memory = np.minimum((used[MEMORY, rows] + self._wants[1]) / np.maximum(memory_has, 1), 1.0)
        both = (cpu_has > 0) & (memory_has > 0)
        self.raw[rows] = (1.0 - np.abs(cpu - memory) * both / 2.0) * MAX_SCORE

    def normalized(self, feasible: Mask) -> Vector:
        return self.raw
