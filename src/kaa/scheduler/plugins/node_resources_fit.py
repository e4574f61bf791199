"""NodeResourcesFit: room for what a pod requests; prefer nodes with more (or, set so, less) of it left.

An extended resource that a DeviceClass stands for need not be on a node: DynamicResources sees to it then.

Source: kubernetes/kubernetes pkg/scheduler/framework/plugins/noderesources (fit.go, least_allocated.go).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Literal

import numpy as np

from ..columns import Mask, Move, Rows, Vector
from ..framework import MAX_SCORE, ClusterEvent, Filter, Rejection, Score
from ..snapshot import CPU, MEMORY, Snapshot
from ..template import Template

Strategy = Literal["LeastAllocated", "MostAllocated"]


class NodeResourcesFit:
    name = "NodeResourcesFit"
    events = frozenset(
        {
            ClusterEvent.NODE_ADD,
            ClusterEvent.NODE_ALLOCATABLE,
            ClusterEvent.POD_DELETE,
            ClusterEvent.POD_UPDATE,
            ClusterEvent.DEVICES,
        }
    )

    def __init__(self, strategy: Strategy = "LeastAllocated", backed: Callable[[str], bool] | None = None) -> None:
        """``backed``: whether a class of devices stands for a resource."""
        self.strategy: Strategy = strategy
        self._backed = backed or (lambda resource: False)

    def filter(self, template: Template, nodes: Snapshot) -> Filter:
        return Fit(template, nodes, frozenset(name for name in template.requests if self._backed(name)))

    def score(self, template: Template, nodes: Snapshot) -> Score:
        return Allocated(template, nodes, self.strategy)


class Fit:
    """Requests of the pods there, plus this pod's, within what the node allocates; and one more pod allowed."""

    def __init__(self, template: Template, nodes: Snapshot, backed: Collection[str] = ()) -> None:
        self._nodes = nodes
        self._wants = [(name, nodes.resource(name), amount) for name, amount in template.requests.items()]
        self._backed = frozenset(nodes.resource(name) for name in backed)
        self.mask: Mask = np.ones(nodes.size, np.bool_)
        self._fill(slice(0, nodes.size))

    def _fill(self, rows: Rows) -> None:
        nodes = self._nodes
        fits = nodes.used_pods[rows] < nodes.alloc_pods[rows]
        alloc, used = nodes.alloc, nodes.used
        for _, index, amount in self._wants:
            enough = used[index, rows] + amount <= alloc[index, rows]
            fits &= enough | (alloc[index, rows] == 0) if index in self._backed else enough
        self.mask[rows] = fits

    def correct(self, rows: Rows, moves: Sequence[Move]) -> None:
        if len(moves) > 1 or self._backed:
            self._fill(rows)
            return
        row, nodes = moves[0].row, self._nodes
        alloc, used = nodes.alloc, nodes.used
        self.mask[row] = nodes.used_pods[row] < nodes.alloc_pods[row] and all(
            used[index, row] + amount <= alloc[index, row] for _, index, amount in self._wants
        )

    def rejections(self) -> Iterator[Rejection]:
        """A request beyond all that the node has cannot be met by evicting pods."""
        nodes = self._nodes
        hopeless = np.zeros(nodes.size, np.bool_)
        for _, index, amount in self._wants:
            hopeless |= (amount > nodes.alloc[index]) & ~self._elsewhere(index)
        found = [(nodes.used_pods >= nodes.alloc_pods, "Too many pods")]
        for name, index, amount in self._wants:
            short = (nodes.used[index] + amount > nodes.alloc[index]) & ~self._elsewhere(index)
            found.append((short, f"Insufficient {name}"))
        for short, reason in found:
            yield Rejection(short & ~hopeless, reason)
            yield Rejection(short & hopeless, reason, resolvable=False)

    def _elsewhere(self, index: int) -> Mask:
        """Rows that have none of a resource which devices stand for."""
        none: Mask = self._nodes.alloc[index] == 0
        return none if index in self._backed else np.zeros_like(none)


class Allocated:
    """The mean over cpu and memory of the share left free (or taken), in whole percents."""

    local = True

    def __init__(self, template: Template, nodes: Snapshot, strategy: Strategy) -> None:
        self._nodes, self._strategy = nodes, strategy
        self._wants = ((CPU, template.scored_cpu_millis), (MEMORY, template.scored_memory_bytes))
        self.raw: Vector = np.zeros(nodes.size, np.int64)
        self.correct(slice(0, nodes.size), ())

    def correct(self, rows: Rows, moves: Sequence[Move]) -> None:
        if len(moves) == 1:
            self._correct_row(moves[0].row)
            return
        total: Vector | int = 0
        counted: Vector | int = 0
        alloc, scored = self._nodes.alloc, self._nodes.scored
        for index, amount in self._wants:
            has = alloc[index, rows]
            free = np.maximum(has - scored[index, rows] - amount, 0)
            if self._strategy == "MostAllocated":
                free = has - free
            total = total + free * MAX_SCORE // np.maximum(has, 1)
            counted = counted + (has > 0)
        self.raw[rows] = total // np.maximum(counted, 1)

    def _correct_row(self, row: int) -> None:
        """The same for one row in plain integers: ten times as fast as arrays of one."""
        total = counted = 0
        alloc, scored = self._nodes.alloc, self._nodes.scored
        for index, amount in self._wants:
            has = int(alloc[index, row])
            if has:
                free = max(has - int(scored[index, row]) - amount, 0)
                total += (has - free if self._strategy == "MostAllocated" else free) * MAX_SCORE // has
                counted += 1
        self.raw[row] = total // max(counted, 1)

    def normalized(self, feasible: Mask) -> Vector:
        return self.raw
