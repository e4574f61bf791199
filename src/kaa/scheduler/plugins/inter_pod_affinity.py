"""InterPodAffinity: next to some pods, away from others; and away from pods that want to be away from this one.

Source: API reference "PodAffinityTerm"; kubernetes/kubernetes pkg/scheduler/framework/plugins/interpodaffinity.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..columns import Mask, Move, Rows, Vector
from ..domains import Domains, Matcher, placed
from ..framework import MAX_SCORE, ClusterEvent, Filter, Rejection, Score
from ..snapshot import Snapshot
from ..template import Template, Term

#: What a pod's required affinity is worth as a wish of the pods that it names (upstream: hardPodAffinityWeight).
HARD_WEIGHT = 1


class InterPodAffinity:
    name = "InterPodAffinity"
    events = frozenset(
        {
            ClusterEvent.NODE_ADD,
            ClusterEvent.NODE_LABEL,
            ClusterEvent.POD_ADD,
            ClusterEvent.POD_UPDATE,
            ClusterEvent.POD_DELETE,
            ClusterEvent.NAMESPACE_LABEL,
        }
    )

    def __init__(self, hard_weight: int = HARD_WEIGHT) -> None:
        self._hard_weight = hard_weight

    def filter(self, template: Template, nodes: Snapshot) -> Filter | None:
        shunned = any(shuns(other, template, nodes) for other in nodes.affine)
        if not template.affinity and not template.anti_affinity and not shunned:
            return None
        return Affine(template, nodes)

    def score(self, template: Template, nodes: Snapshot) -> Score | None:
        if not template.preferred and not any(other.affinity or other.preferred for other in nodes.affine):
            return None
        return Liking(template, nodes, self._hard_weight)


def shuns(other: Template, template: Template, nodes: Snapshot) -> bool:
    """Whether pods of ``other`` must not be near one of ``template``."""
    return any(term.matches(template, nodes.namespaces) for term in other.anti_affinity)


class Affine:
    """The three demands, each as counts per domain:

    - ``near``: pods that match all the required affinity terms, one count per term; every count must be above 0
    - ``away``: pods that match an anti-affinity term of this pod; must be 0
    - ``shunning``: pods with an anti-affinity term that matches this pod; must be 0
    """

    def __init__(self, template: Template, nodes: Snapshot) -> None:
        self._template, self._nodes = template, nodes
        self._near = [Domains(term.topology_key, nodes) for term in template.affinity]
        self._away = [(Domains(term.topology_key, nodes), self._matcher((term,))) for term in template.anti_affinity]
        self._shunning: dict[str, Domains] = {}
        self._wanted = self._matcher(template.affinity)
        self._shuns = Matcher(lambda other: shuns(other, template, nodes))
        for other, counts in placed(nodes):
            for domains, term_count in self._counted(other):
                domains.add_rows(counts, term_count)
        self._first = bool(template.affinity) and self._wanted(template)
        self.mask = self._judge()

    def _matcher(self, terms: Sequence[Term]) -> Matcher:
        known = self._nodes.namespaces
        return Matcher(lambda other: all(term.matches(other, known) for term in terms))

    def _counted(self, other: Template) -> Iterator[tuple[Domains, int]]:
        """The counts that a pod of ``other`` is part of."""
        if self._near and self._wanted(other):
            yield from ((domains, 1) for domains in self._near)
        for domains, matches in self._away:
            if matches(other):
                yield domains, 1
        if other.anti_affinity and self._shuns(other):
            for term in other.anti_affinity:
                if term.matches(self._template, self._nodes.namespaces):
                    if term.topology_key not in self._shunning:
                        self._shunning[term.topology_key] = Domains(term.topology_key, self._nodes)
                    yield self._shunning[term.topology_key], 1

    def correct(self, rows: Rows, moves: Sequence[Move]) -> None:
        changed = False
        for row, other, sign in moves:
            for domains, term_count in self._counted(other):
                domains.add(row, sign * term_count)
                changed = True
        if changed:
            self.mask = self._judge()

    def _judge(self) -> Mask:
        near, away, shunned = self._demands()
        mask: Mask = near & away & ~shunned
        return mask

    def _demands(self) -> tuple[Mask, Mask, Mask]:
        near = np.ones(self._nodes.size, np.bool_)
        away = np.ones(self._nodes.size, np.bool_)
        shunned = np.zeros(self._nodes.size, np.bool_)
        anybody = any(domains.numbers.any() for domains in self._near)
        for domains in self._near:  # the first of a group that wants to be together may go anywhere
            near &= domains.present if self._first and not anybody else domains.per_row() > 0
        for domains, _ in self._away:
            away &= domains.per_row() == 0
        for domains in self._shunning.values():
            shunned |= domains.per_row() > 0
        return near, away, shunned

    def rejections(self) -> Iterator[Rejection]:
        near, away, shunned = self._demands()
        yield Rejection(~near, "node(s) didn't match pod affinity rules", resolvable=False)
        yield Rejection(near & ~away, "node(s) didn't match pod anti-affinity rules")
        yield Rejection(near & away & shunned, "node(s) didn't satisfy existing pods anti-affinity rules")


class Liking:
    """Weights per domain: of this pod's wishes for the pods there, and of their wishes for this one."""

    local = False

    def __init__(self, template: Template, nodes: Snapshot, hard_weight: int) -> None:
        self._template, self._nodes, self._hard_weight = template, nodes, hard_weight
        self._sums: dict[str, Domains] = {}
        self._weights_of: dict[Template, list[tuple[Domains, int]]] = {}
        for other, counts in placed(nodes):
            for domains, weight in self._weights(other):
                domains.add_rows(counts, weight)
        self.raw: Vector = self._total()

    def _weights(self, other: Template) -> list[tuple[Domains, int]]:
        """What one pod of ``other`` adds, and to which domains."""
        known = self._weights_of.get(other)
        if known is None:
            namespaces, mine = self._nodes.namespaces, self._template
            found = [(t.topology_key, t.weight) for t in mine.preferred if t.matches(other, namespaces)]
            found += [(t.topology_key, t.weight) for t in other.preferred if t.matches(mine, namespaces)]
            if self._hard_weight:
                found += [(t.topology_key, self._hard_weight) for t in other.affinity if t.matches(mine, namespaces)]
            known = self._weights_of[other] = [(self._domains(key), weight) for key, weight in found]
        return known

    def _domains(self, key: str) -> Domains:
        if key not in self._sums:
            self._sums[key] = Domains(key, self._nodes)
        return self._sums[key]

    def correct(self, rows: Rows, moves: Sequence[Move]) -> None:
        changed = False
        for row, other, sign in moves:
            for domains, weight in self._weights(other):
                domains.add(row, sign * weight)
                changed = True
        if changed:
            self.raw = self._total()

    def _total(self) -> Vector:
        total = np.zeros(self._nodes.size, np.int64)
        for domains in self._sums.values():
            total += domains.per_row()
        return total

    def normalized(self, feasible: Mask) -> Vector:
        among = self.raw[feasible]
        low, high = (int(among.min()), int(among.max())) if among.size else (0, 0)
        if low == high:
            return np.zeros(self._nodes.size, np.int64)
        return (MAX_SCORE * ((self.raw - low) / (high - low))).astype(np.int64)
