"""PodDisruptionBudgets: how many pods may go away of their own accord, kept up to date for those who evict.

Source: kubernetes pkg/controller/disruption.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import selectors
from kaa.api.clock import parse_time
from kaa.api.types.apps_v1 import Deployment, ReplicaSet, StatefulSet
from kaa.api.types.core_v1 import Pod, ReplicationController
from kaa.api.types.meta_v1 import Condition
from kaa.api.types.policy_v1 import PodDisruptionBudget, PodDisruptionBudgetStatus
from kaa.client.informer import key_of
from kaa.client.workqueue import Key

from .controller import Context, Controller
from .owners import controller_of
from .pods import is_finished, is_ready
from .rolling import scaled

#: An eviction that was granted but not carried out for this long counts no more.
FORGET_EVICTION_S = 120.0


def desired(budget: PodDisruptionBudget, pods: int, scale: int) -> tuple[int, int]:
    """(pods expected, pods that must be healthy). ``scale``: what the pods' controllers want to have."""
    most, least = budget.spec.max_unavailable, budget.spec.min_available
    if most is not None:
        return scale, max(0, scale - scaled(most, scale, up=True))
    if isinstance(least, str):
        return scale, scaled(least, scale, up=True)
    return pods, least or 0


def evicting(budget: PodDisruptionBudget, pods: Iterable[Pod], now: float) -> dict[str, str]:
    """{pod: when its eviction was granted}, of those that still stand and may be about to go."""
    granted = budget.status.disrupted_pods
    standing = {pod.metadata.name or "" for pod in pods if pod.metadata.deletion_timestamp is None}
    return {
        name: when for name, when in granted.items() if name in standing and parse_time(when) + FORGET_EVICTION_S > now
    }


def status_of(budget: PodDisruptionBudget, pods: Sequence[Pod], scale: int, now: float, stamp: str) -> Any:
    """The status of a budget over these pods."""
    expected, healthy_wanted = desired(budget, len(pods), scale)
    leaving = evicting(budget, pods, now)
    healthy = sum(
        is_ready(pod) and pod.metadata.deletion_timestamp is None and pod.metadata.name not in leaving for pod in pods
    )
    allowed = max(0, healthy - healthy_wanted) if expected > 0 else 0
    old = next((c for c in budget.status.conditions if c.type == "DisruptionAllowed"), None)
    value, reason = ("True", "SufficientPods") if allowed else ("False", "InsufficientPods")
    condition = Condition(
        type="DisruptionAllowed",
        status=value,
        reason=reason,
        message="",
        observed_generation=budget.metadata.generation,
        last_transition_time=old.last_transition_time if old is not None and old.status == value else stamp,
    )
    others = tuple(c for c in budget.status.conditions if c.type != "DisruptionAllowed")
    return PodDisruptionBudgetStatus(
        conditions=(*others, condition),
        current_healthy=healthy,
        desired_healthy=healthy_wanted,
        disrupted_pods=leaving,
        disruptions_allowed=allowed,
        expected_pods=expected,
        observed_generation=budget.metadata.generation,
    )


class Disruptions(Controller[Key]):
    """Keys are budgets."""

    name = "disruption-controller"
    component = "controllermanager"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.budgets = self.watch(PodDisruptionBudget, self._on_budget)
        self.pods = self.watch(Pod, self._on_pod)
        self.owners = {
            kind.KIND: self.watch(kind, self._on_owner)
            for kind in (Deployment, ReplicaSet, StatefulSet, ReplicationController)
        }

    def _on_budget(self, old: PodDisruptionBudget | None, new: PodDisruptionBudget | None) -> None:
        if new is not None:
            self.queue.add(key_of(new))

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        pod = new or old
        assert pod is not None
        for budget in self.budgets.in_namespace(pod.metadata.namespace or ""):
            wanted = selectors.from_label_selector(budget.spec.selector)
            if any(wanted.matches(each.metadata.labels) for each in (old, new) if each is not None):
                self.queue.add(key_of(budget))

    def _on_owner(self, old: Any, new: Any) -> None:
        """A controller of another size expects another number of pods."""
        if old is not None and new is not None and old.spec.replicas == new.spec.replicas:
            return
        for budget in self.budgets.in_namespace((new or old).metadata.namespace or ""):
            self.queue.add(key_of(budget))

    async def reconcile(self, key: Key) -> float | None:
        budget = self.budgets.by_key(key)
        if budget is None:
            return None
        wanted = selectors.from_label_selector(budget.spec.selector)
        pods = [pod for pod in self.pods.in_namespace(key.namespace, wanted) if not is_finished(pod)]
        status = status_of(budget, pods, self._scale(pods), self.clock.now(), self.now())
        if status != budget.status:
            written = await self.client.update_status(replace(budget, status=status))
            await self.budgets.shows(written.metadata.resource_version)
        ends = [parse_time(when) + FORGET_EVICTION_S - self.clock.now() for when in status.disrupted_pods.values()]
        return max(0.1, min(ends)) if ends else None

    def _scale(self, pods: Iterable[Pod]) -> int:
        """What the controllers of pods want to have together, each counted once."""
        found: dict[str, int] = {}
        for pod in pods:
            owner = self._top(pod)
            if owner is not None:
                found[owner.metadata.uid] = 1 if owner.spec.replicas is None else owner.spec.replicas
        return sum(found.values())

    def _top(self, pod: Pod) -> Any:
        """The workload behind a pod: its ReplicaSet's Deployment rather than the set."""
        found: Any = pod
        for _ in range(2):
            ref = controller_of(found)
            informer = self.owners.get(ref.kind) if ref is not None else None
            above: Any = informer.get(ref.name, pod.metadata.namespace) if informer is not None and ref else None
            if above is None or ref is None or above.metadata.uid != ref.uid:
                break
            found = above
        return None if found is pod else found
