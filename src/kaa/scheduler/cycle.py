"""One pass over all nodes for a template, kept true while its pods are placed one by one.

    passes = Passes(nodes, plugins, weights)
    current = passes.of(template)                 # built once, then caught up with what moved since
    row = current.choose(clock.random)            # -1: fits nowhere; then current.diagnose() says why

The message for a pod that fits nowhere is upstream's, to the letter.
Source: kubernetes/kubernetes pkg/scheduler/schedule_one.go, framework.FitError.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np

from .columns import Mask, Move, Rows, Vector
from .framework import Filter, Plugin, Score, Status, StillFilter
from .snapshot import JOURNAL_MAX, Snapshot
from .template import Template

#: Passes kept: one per template lately seen.
PASSES_MAX = 64
#: Plugins that may give several reasons for one node.
SEVERAL_REASONS = frozenset({"NodeResourcesFit", "VolumeBinding"})
NO_NODES = "no nodes available to schedule pods"


@dataclass(slots=True)
class Diagnosis:
    """Why a pod fits nowhere. ``resolvable`` rows are those where evicting pods may help."""

    node_count: int
    reasons: dict[str, int] = field(default_factory=dict)  #: {reason: nodes refused for it}
    plugins: set[str] = field(default_factory=set)  #: those that refused some node
    resolvable: list[int] = field(default_factory=list)
    refused: str = ""  #: the pod itself was refused, before any node was looked at

    def message(self, after: str = "") -> str:
        """``0/3 nodes are available: 1 Insufficient cpu, 2 Too many pods.`` and what was tried after that."""
        if not self.node_count:
            return NO_NODES
        why = self.refused or histogram(self.reasons)
        return (
            f"0/{self.node_count} nodes are available:" + (f" {why}." if why else "") + (f" {after}" if after else "")
        )


def histogram(reasons: Mapping[str, int]) -> str:
    return ", ".join(sorted(f"{count} {reason}" for reason, count in reasons.items()))


class Pass:
    """The masks and scores of one template over every row."""

    def __init__(
        self, template: Template, nodes: Snapshot, plugins: Sequence[Plugin], weights: Mapping[str, int]
    ) -> None:
        self.template, self._nodes = template, nodes
        self.epoch, self._seen = nodes.epoch, nodes.journal_end
        self.refused: Status | None = None
        self._filters: list[tuple[str, Filter]] = []
        self._local: list[tuple[int, Score]] = []
        self._wide: list[tuple[int, Score]] = []
        for plugin in plugins:
            self._ask(plugin, weights.get(plugin.name, 1))
        self._still: Mask = nodes.alive.copy()
        self._moving: list[Filter] = []
        for _, found in self._filters:
            if isinstance(found, StillFilter):
                self._still &= found.mask
            else:
                self._moving.append(found)
        self._sum: Vector = np.zeros(nodes.size, np.int64)
        for weight, score in self._local:
            self._sum += weight * score.raw

    def _ask(self, plugin: Plugin, weight: int) -> None:
        found = plugin.filter(self.template, self._nodes)
        if isinstance(found, Status):
            self.refused = self.refused or Status(found.code, found.reason, plugin.name)
        elif found is not None:
            self._filters.append((plugin.name, found))
        score = plugin.score(self.template, self._nodes) if weight else None
        if score is not None:
            (self._local if score.local else self._wide).append((weight, score))

    def catch_up(self) -> bool:
        """Take over what moved since the last time. False: too much did, build a new one."""
        nodes = self._nodes
        behind = nodes.journal_end - self._seen
        if nodes.epoch != self.epoch or behind > JOURNAL_MAX or self._seen < nodes.journal_base:
            return False
        if behind:
            moves = nodes.journal[self._seen - nodes.journal_base :]
            self._seen = nodes.journal_end
            self._correct(_rows(moves), moves)
        return True

    def _correct(self, rows: Rows, moves: Sequence[Move]) -> None:
        for found in self._moving:
            found.correct(rows, moves)
        for _, score in self._wide:
            score.correct(rows, moves)
        if self._local:
            total: Vector | int = 0
            for weight, score in self._local:
                score.correct(rows, moves)
                total = total + weight * score.raw[rows]
            self._sum[rows] = total

    def feasible(self) -> Mask:
        mask = self._still
        for found in self._moving:
            mask = mask & found.mask
        return mask

    def totals(self, feasible: Mask) -> Vector:
        """Weighted sums of all scores; rows that are not feasible get -1."""
        total = self._sum
        for weight, score in self._wide:
            total = total + weight * score.normalized(feasible)
        return np.where(feasible, total, -1)

    def choose(self, random: Random, feasible: Mask | None = None) -> int:
        """The row with the best score, drawn from the best if they are several; -1 if none is feasible."""
        if self.refused is not None:
            return -1
        total = self.totals(self.feasible() if feasible is None else feasible)
        best = total.max(initial=-1)
        if best < 0:
            return -1
        ties = np.flatnonzero(total == best)
        return int(ties[random.randrange(len(ties))] if len(ties) > 1 else ties[0])

    def diagnose(self) -> Diagnosis:
        """Count, for every node, the reasons of the first plugin that refuses it."""
        nodes = self._nodes
        diagnosis = Diagnosis(nodes.count)
        if self.refused is not None:
            diagnosis.refused = self.refused.reason
            diagnosis.plugins.add(self.refused.plugin)
            return diagnosis
        undecided = nodes.alive.copy()
        hopeless = np.zeros(nodes.size, np.bool_)
        for name, found in self._filters:
            self._tell(name, found, undecided, hopeless, diagnosis)
            undecided &= found.mask
        diagnosis.resolvable = [int(row) for row in np.flatnonzero(nodes.alive & ~undecided & ~hopeless)]
        return diagnosis

    def reasons_at(self, row: int) -> list[str]:
        """Why one row is refused: the reasons of the first plugin that refuses it."""
        for _, found in self._filters:
            if not found.mask[row]:
                return [rejection.reason for rejection in found.rejections() if rejection.rows[row]]
        return []

    @staticmethod
    def _tell(name: str, found: Filter, undecided: Mask, hopeless: Mask, diagnosis: Diagnosis) -> None:
        told = np.zeros(undecided.size, np.bool_)
        for rejection in found.rejections():
            rows = rejection.rows & undecided
            if name not in SEVERAL_REASONS:
                rows &= ~told
            count = int(np.count_nonzero(rows))
            if not count:
                continue
            told |= rows
            diagnosis.reasons[rejection.reason] = diagnosis.reasons.get(rejection.reason, 0) + count
            diagnosis.plugins.add(name)
            if not rejection.resolvable:
                hopeless |= rows


def _rows(moves: Sequence[Move]) -> Rows:
    if len(moves) == 1:
        return slice(moves[0].row, moves[0].row + 1)
    return np.array(sorted({move.row for move in moves}), np.intp)


class Passes:
    """The passes of the templates lately seen."""

    def __init__(self, nodes: Snapshot, plugins: Sequence[Plugin], weights: Mapping[str, int]) -> None:
        self._nodes, self._plugins, self._weights = nodes, plugins, weights
        self._kept: OrderedDict[Template, Pass] = OrderedDict()

    def of(self, template: Template) -> Pass:
        found = self._kept.get(template)
        if found is not None and found.catch_up():
            self._kept.move_to_end(template)
            return found
        found = self._kept[template] = Pass(template, self._nodes, self._plugins, self._weights)
        self._kept.move_to_end(template)
        if len(self._kept) > PASSES_MAX:
            self._kept.popitem(last=False)
        return found

    def drop(self, concerned: Callable[[Template], bool]) -> None:
        """What plugins know besides nodes and pods changed for some templates: those anew."""
        for template in [template for template in self._kept if concerned(template)]:
            del self._kept[template]

    def clear(self) -> None:
        """What plugins know besides nodes and pods changed: everything anew."""
        self._kept.clear()


def rejecting(diagnosis: Diagnosis, plugins: Iterable[Plugin]) -> list[Plugin]:
    return [plugin for plugin in plugins if plugin.name in diagnosis.plugins]
