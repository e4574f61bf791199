"""DefaultPreemption: which pods of lower priority must go so that one of higher priority fits.

The idea: try it on the snapshot itself. Take a node's lesser pods off, see whether the mask opens, put back as many as fit,
the most important first, and undo it all; every plugin takes part, for the pass follows each step.

Source: API concepts "Pod Priority and Preemption"; kubernetes/kubernetes pkg/scheduler/framework/preemption.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random

from kaa.api.selectors import from_label_selector
from kaa.api.types.core_v1 import Pod
from kaa.api.types.policy_v1 import PodDisruptionBudget

from .cycle import Diagnosis, Pass, histogram
from .snapshot import Placed, Snapshot
from .template import Template

NO_VICTIMS = "No preemption victims found for incoming pod"
NOT_HELPFUL = "Preemption is not helpful for scheduling"
NEVER = "not eligible due to preemptionPolicy=Never."
TERMINATING = "not eligible due to terminating pod on the nominated node."


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node, and the pods to evict from it, most important first. ``violations`` of disruption budgets among them."""

    row: int
    node: str
    victims: tuple[Placed, ...]
    violations: int


def priority(placed: Placed) -> int:
    return placed.template.priority


def started(placed: Placed) -> str:
    """When it started; pods that have not yet did so latest."""
    return placed.pod.status.start_time or "9999"


def eligible(pod: Pod, nodes: Snapshot) -> str:
    """Why the pod may not preempt; empty when it may. One that waits for its victims to end evicts no others."""
    if pod.spec.preemption_policy == "Never":
        return NEVER
    row = nodes.rows.get(pod.status.nominated_node_name or "", -1)
    mine = pod.spec.priority or 0
    if row >= 0 and any(p.template.terminating and priority(p) < mine for p in nodes.on_row[row].values()):
        return TERMINATING
    return ""


class Preemptor:
    """Looks for the best victims. ``pass_of`` gives a template's pass, caught up with the snapshot."""

    def __init__(
        self, nodes: Snapshot, pass_of: Callable[[Template], Pass], *, percentage: int = 10, least: int = 100
    ) -> None:
        self._nodes, self._pass_of = nodes, pass_of
        self._percentage, self._least = percentage, least

    def find(
        self, template: Template, diagnosis: Diagnosis, budgets: Iterable[PodDisruptionBudget], random: Random
    ) -> tuple[Candidate | None, str]:
        """The best candidate; or None and the message that says why there is none."""
        rows = diagnosis.resolvable
        reasons = {NOT_HELPFUL: diagnosis.node_count - len(rows)}
        budgets = list(budgets)
        enough = max(diagnosis.node_count * self._percentage // 100, self._least)
        start = random.randrange(len(rows)) if rows else 0
        candidates: list[Candidate] = []
        for row in rows[start:] + rows[:start]:
            found = self._try(row, template, budgets)
            if isinstance(found, Candidate):
                candidates.append(found)
                if len(candidates) >= enough:
                    break
                continue
            for reason in found:
                reasons[reason] = reasons.get(reason, 0) + 1
        if candidates:
            return best(candidates), ""
        told = {reason: count for reason, count in reasons.items() if count}
        return None, f"preemption: 0/{diagnosis.node_count} nodes are available: {histogram(told)}."

    def _try(self, row: int, template: Template, budgets: Sequence[PodDisruptionBudget]) -> Candidate | Sequence[str]:
        """The fewest victims on a row, or the reasons why even all of them would not do."""
        lesser = [p for p in self._nodes.on_row[row].values() if priority(p) < template.priority]
        if not lesser:
            return (NO_VICTIMS,)
        lesser.sort(key=lambda p: (-priority(p), started(p)))
        gone: dict[str, Placed] = {}
        try:
            for placed in lesser:
                self._take(placed, gone)
            if not self._fits(row, template):
                return self._reasons(row, template)
            violating, others = split_by_budgets(lesser, budgets)
            spared = [p for p in (*violating, *others) if self._spare(p, row, template, gone)]
            victims = tuple(p for p in lesser if p not in spared)
            return Candidate(row, self._nodes.names[row], victims, sum(p in victims for p in violating))
        finally:
            for placed in gone.values():
                self._nodes.add_pod(placed.pod, placed.node, placed.template)

    def _take(self, placed: Placed, gone: dict[str, Placed]) -> None:
        uid = uid_of(placed.pod)
        self._nodes.remove_pod(uid)
        gone[uid] = placed

    def _spare(self, placed: Placed, row: int, template: Template, gone: dict[str, Placed]) -> bool:
        """Put a pod back if there is room for it besides the new one."""
        uid = uid_of(placed.pod)
        self._nodes.add_pod(placed.pod, placed.node, placed.template)
        del gone[uid]
        if self._fits(row, template):
            return True
        self._take(placed, gone)
        return False

    def _fits(self, row: int, template: Template) -> bool:
        return bool(self._pass_of(template).feasible()[row])

    def _reasons(self, row: int, template: Template) -> Sequence[str]:
        return self._pass_of(template).reasons_at(row)


def uid_of(pod: Pod) -> str:
    return pod.metadata.uid or f"{pod.metadata.namespace}/{pod.metadata.name}"


def split_by_budgets(
    pods: Sequence[Placed], budgets: Iterable[PodDisruptionBudget]
) -> tuple[list[Placed], list[Placed]]:
    """Those whose eviction, in this order, would break a budget; and the others."""
    left = [(b.metadata.namespace, from_label_selector(b.spec.selector), b.status) for b in budgets]
    allowed = [status.disruptions_allowed or 0 for _, _, status in left]
    violating: list[Placed] = []
    others: list[Placed] = []
    for placed in pods:
        breaks = False
        for index, (namespace, selector, status) in enumerate(left):
            labels = placed.template.labels
            if namespace != placed.template.namespace or selector.empty or not labels or not selector.matches(labels):
                continue
            if placed.pod.metadata.name in status.disrupted_pods:
                continue  # on its way out already, and counted
            allowed[index] -= 1
            breaks |= allowed[index] < 0
        (violating if breaks else others).append(placed)
    return violating, others


def best(candidates: Sequence[Candidate]) -> Candidate:
    """Fewest broken budgets, least important victims, fewest of them, youngest; then the first."""

    def rank(candidate: Candidate) -> tuple[int, int, int, int]:
        priorities = [priority(p) + 2**31 for p in candidate.victims]
        return candidate.violations, max(priorities, default=0), sum(priorities), len(priorities)

    least = min(rank(candidate) for candidate in candidates)
    equal = [candidate for candidate in candidates if rank(candidate) == least]
    return max(equal, key=_earliest_of_highest)


def _earliest_of_highest(candidate: Candidate) -> str:
    highest = max(map(priority, candidate.victims), default=0)
    return min((started(p) for p in candidate.victims if priority(p) == highest), default="")
