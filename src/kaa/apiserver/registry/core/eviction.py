"""Eviction: may a pod go, given the disruption budgets that speak for it.

Source: pkg/registry/core/pod/storage/eviction.go; concepts "Disruptions".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from kaa.api import errors, selectors
from kaa.api.clock import format_time
from kaa.api.types.core_v1 import Pod, PodCondition
from kaa.api.types.meta_v1 import StatusCause
from kaa.api.types.policy_v1 import PodDisruptionBudget

_VIOLATED = "Cannot evict pod as it would violate the pod's disruption budget."
#: Pods that a budget may hold as "about to go" before it is refused more.
_MOST_DISRUPTED = 2000
_RETRY_S = 10


@dataclass(frozen=True, slots=True)
class Verdict:
    """``refusal``: why the pod may not go; None lets it. ``budget``: the budget to store first, charged with this pod."""

    refusal: errors.ApiError | None = None
    budget: PodDisruptionBudget | None = None


def budgets_of(pod: Pod, budgets: Iterable[PodDisruptionBudget]) -> list[PodDisruptionBudget]:
    """The budgets of the pod's namespace that select it."""
    return [
        budget
        for budget in budgets
        if budget.metadata.namespace == pod.metadata.namespace
        and selectors.from_label_selector(budget.spec.selector).matches(pod.metadata.labels)
    ]


def may_ignore_budgets(pod: Pod) -> bool:
    """Pods that are done, not begun, or going already disturb nobody."""
    return pod.metadata.deletion_timestamp is not None or pod.status.phase in ("Succeeded", "Failed", "Pending")


def decide(pod: Pod, budgets: Sequence[PodDisruptionBudget], now: float) -> Verdict:
    """``budgets``: those of ``budgets_of``. ``now`` in seconds since 1970."""
    if may_ignore_budgets(pod) or not budgets:
        return Verdict()
    if len(budgets) > 1:
        message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
        return Verdict(errors.InternalError(message, reason="InternalError"))
    budget = budgets[0]
    ready = any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions)
    if not ready:
        policy = budget.spec.unhealthy_pod_eviction_policy
        status = budget.status
        healthy = (status.current_healthy or 0) >= (status.desired_healthy or 0) > 0
        if policy == "AlwaysAllow" or (policy != "AlwaysAllow" and healthy):
            return Verdict()
    return _charge(pod, budget, now)


def _charge(pod: Pod, budget: PodDisruptionBudget, now: float) -> Verdict:
    status, name = budget.status, budget.metadata.name or ""
    if (status.observed_generation or 0) < (budget.metadata.generation or 0):
        detail = f"The disruption budget {name} is still being processed by the server."
        return Verdict(_refused(detail, retry_after_s=_RETRY_S))
    allowed = status.disruptions_allowed or 0
    if allowed < 0:
        return Verdict(errors.Forbidden("pdb disruptions allowed is negative"))
    if len(status.disrupted_pods) > _MOST_DISRUPTED:
        return Verdict(
            errors.Forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller")
        )
    if allowed == 0:
        need, have = status.desired_healthy or 0, status.current_healthy or 0
        detail = f"The disruption budget {name} needs {need} healthy pods and has {have} currently"
        return Verdict(_refused(detail))
    disrupted = {**status.disrupted_pods, pod.metadata.name or "": format_time(now)}
    charged = replace(status, disruptions_allowed=allowed - 1, disrupted_pods=disrupted)
    return Verdict(budget=replace(budget, status=charged))


def mark(pod: Pod, now: float) -> Pod:
    """The pod saying why it goes, for whoever counts its failure: pod failure policies of Jobs read this."""
    before = next((c for c in pod.status.conditions if c.type == "DisruptionTarget"), None)
    since = before.last_transition_time if before and before.status == "True" else None
    made = PodCondition(
        type="DisruptionTarget",
        status="True",
        reason="EvictionByEvictionAPI",
        message="Eviction API: evicting",
        observed_generation=pod.metadata.generation,
        last_transition_time=since or format_time(now),
    )
    kept = (c for c in pod.status.conditions if c is not before)
    return replace(pod, status=replace(pod.status, conditions=(*kept, made)))


def _refused(detail: str, retry_after_s: int | None = None) -> errors.ApiError:
    cause = StatusCause(reason="DisruptionBudget", message=detail)
    return errors.TooManyRequests(_VIOLATED, causes=[cause], retry_after_s=retry_after_s)
