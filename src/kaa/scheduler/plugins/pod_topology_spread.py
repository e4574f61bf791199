"""PodTopologySpread: pods of a kind evenly over zones, nodes, or whatever a label tells apart.

Source: API reference "TopologySpreadConstraint"; kubernetes/kubernetes pkg/scheduler/framework/plugins/podtopologyspread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kaa.api.selectors import Selector, from_label_selector
from kaa.api.types.core_v1 import TopologySpreadConstraint

from ..columns import Mask, Move, Rows, Vector
from ..domains import Domains, Matcher
from ..framework import MAX_SCORE, ClusterEvent, Filter, Rejection, Score
from ..snapshot import Snapshot
from ..template import Template, with_label_keys
from .node_affinity import matching
from .taint_toleration import TaintToleration

HOSTNAME, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"
REASON = "node(s) didn't match pod topology spread constraints"
#: What pods of a workload get when they say nothing: (topology key, max skew), ScheduleAnyway.
SYSTEM_DEFAULTS = ((HOSTNAME, 3), (ZONE, 5))

#: Finds the selector of the Services and the owner of a pod; an empty one when it has neither.
WorkloadSelector = Callable[[Template], Selector]


@dataclass(frozen=True, slots=True)
class Constraint:
    key: str
    max_skew: int
    selector: Selector
    min_domains: int = 1
    honour_affinity: bool = True
    honour_taints: bool = False


class PodTopologySpread:
    name = "PodTopologySpread"
    events = frozenset(
        {
            ClusterEvent.NODE_ADD,
            ClusterEvent.NODE_LABEL,
            ClusterEvent.NODE_TAINT,
            ClusterEvent.POD_ADD,
            ClusterEvent.POD_UPDATE,
            ClusterEvent.POD_DELETE,
        }
    )

    def __init__(self, workload: WorkloadSelector | None = None) -> None:
        self._workload = workload

    def filter(self, template: Template, nodes: Snapshot) -> Filter | None:
        hard = constraints(template, "DoNotSchedule")
        return Even(template, nodes, hard) if hard else None

    def score(self, template: Template, nodes: Snapshot) -> Score | None:
        if template.pod.spec.topology_spread_constraints:
            soft = constraints(template, "ScheduleAnyway")
            return Skew(template, nodes, soft, strict=True) if soft else None
        selector = self._workload(template) if self._workload else None
        if selector is None or selector.empty or selector.nothing:
            return None
        return Skew(template, nodes, [Constraint(key, skew, selector) for key, skew in SYSTEM_DEFAULTS], strict=False)


def constraints(template: Template, when: str) -> list[Constraint]:
    """The pod's own constraints of one ``whenUnsatisfiable``."""
    every = template.pod.spec.topology_spread_constraints
    return [_read(c, template) for c in every if c.when_unsatisfiable == when]


def _read(c: TopologySpreadConstraint, template: Template) -> Constraint:
    selector = with_label_keys(from_label_selector(c.label_selector), template.labels, c.match_label_keys)
    return Constraint(
        key=c.topology_key,
        max_skew=c.max_skew,
        selector=selector,
        min_domains=c.min_domains or 1,
        honour_affinity=c.node_affinity_policy != "Ignore",
        honour_taints=c.node_taints_policy == "Honor",
    )


class Counted:
    """A constraint with its counts: matching pods of the same namespace per domain, on the rows that count.

    Pods that are being deleted do not count: their place is as good as free.
    """

    def __init__(self, constraint: Constraint, template: Template, nodes: Snapshot, eligible: Mask) -> None:
        self.constraint = constraint
        self.domains = Domains(constraint.key, nodes)
        self.eligible: Mask = eligible & nodes.alive
        if constraint.honour_affinity:
            self.eligible &= matching(template, nodes)
        if constraint.honour_taints:
            self.eligible &= TaintToleration().filter(template, nodes).mask
        self._counts = Matcher(lambda other: _counts(constraint, template, other))
        for other, rows in nodes.placed.get(template.namespace, {}).items():
            if self._counts(other):
                self.domains.add_rows(rows, 1, self.eligible)
        seen = self.domains.ids[self.eligible & self.domains.present]
        self.known: Mask = np.zeros(len(self.domains.numbers), np.bool_)  #: [value id]: some eligible row has it
        self.known[seen] = True

    def correct(self, moves: Sequence[Move]) -> bool:
        changed = False
        for row, other, sign in moves:
            if self.eligible[row] and self._counts(other):
                self.domains.add(row, sign)
                changed = True
        return changed


def _counts(constraint: Constraint, template: Template, other: Template) -> bool:
    return other.namespace == template.namespace and not other.terminating and constraint.selector.matches(other.labels)


class Even:
    """DoNotSchedule: with this pod, no domain may be more than ``max_skew`` ahead of the emptiest."""

    def __init__(self, template: Template, nodes: Snapshot, hard: Sequence[Constraint]) -> None:
        every = np.logical_and.reduce([nodes.label(c.key).ids >= 0 for c in hard])
        self._counted = [Counted(c, template, nodes, every) for c in hard]
        self._self = [int(c.selector.matches(template.labels)) for c in hard]
        self._missing: Mask = ~every
        self.mask = self._judge()

    def correct(self, rows: Rows, moves: Sequence[Move]) -> None:
        changed = [counted.correct(moves) for counted in self._counted]
        if any(changed):
            self.mask = self._judge()

    def _judge(self) -> Mask:
        mask: Mask = ~self._missing
        for counted, own in zip(self._counted, self._self, strict=True):
            constraint, numbers = counted.constraint, counted.domains.numbers
            known = numbers[counted.known]
            least = int(known.min()) if known.size >= max(constraint.min_domains, 1) else 0
            fits = numbers + own - least <= constraint.max_skew
            mask &= fits[counted.domains.ids]
        return mask

    def rejections(self) -> Iterator[Rejection]:
        yield Rejection(self._missing, f"{REASON} (missing required label)", resolvable=False)
        yield Rejection(~self.mask & ~self._missing, REASON)


class Skew:
    """ScheduleAnyway: the fewer matching pods in a row's domains the better, a domain weighing more the more there are.

    ``strict``: rows lacking one of the labels score nothing. The system's own constraints just skip them.
    """

    local = False

    def __init__(self, template: Template, nodes: Snapshot, soft: Sequence[Constraint], *, strict: bool) -> None:
        every = np.logical_and.reduce([nodes.label(c.key).ids >= 0 for c in soft])
        self._considered: Mask = every if strict else np.ones(nodes.size, np.bool_)
        self._counted = [Counted(c, template, nodes, self._considered) for c in soft]
        self.raw: Vector = np.zeros(nodes.size, np.int64)

    def correct(self, rows: Rows, moves: Sequence[Move]) -> None:
        for counted in self._counted:
            counted.correct(moves)

    def normalized(self, feasible: Mask) -> Vector:
        among = feasible & self._considered
        cost = np.zeros(among.size)
        for counted in self._counted:
            domains, constraint = counted.domains, counted.constraint
            if constraint.key == HOSTNAME:
                size = int(np.count_nonzero(among))
            else:
                size = np.unique(domains.ids[among & domains.present]).size
            weight = np.log(size + 2)
            by_value = domains.numbers * weight + (constraint.max_skew - 1)
            by_value[-1] = 0.0
            cost += by_value[domains.ids]
        whole = np.rint(cost).astype(np.int64)
        low = int(np.min(whole, where=among, initial=np.iinfo(np.int64).max))
        high = int(np.max(whole, where=among, initial=0))
        if high == 0:
            return np.where(among, MAX_SCORE, 0)
        return np.where(among, MAX_SCORE * (high + low - whole) // high, 0)
