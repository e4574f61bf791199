"""PodDisruptionBudgets: how many pods may go away of their own accord, kept up to date for those who evict.

``Disruptions`` keeps the budgets' statuses; ``StaleDisruptions`` takes back what pods say of a disruption that never came.

Source: kubernetes pkg/controller/disruption.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import selectors
from kaa.api.clock import parse_time
from kaa.api.errors import ApiError, NotFound
from kaa.api.types.apps_v1 import Deployment, ReplicaSet, StatefulSet
from kaa.api.types.autoscaling_v1 import Scale
from kaa.api.types.core_v1 import Pod, ReplicationController
from kaa.api.types.meta_v1 import Condition, OwnerReference
from kaa.api.types.policy_v1 import PodDisruptionBudget, PodDisruptionBudgetStatus
from kaa.client.client import PatchType
from kaa.client.informer import key_of
from kaa.client.workqueue import Key

from .controller import Context, Controller
from .owners import controller_of
from .pods import condition_of, is_finished, is_ready
from .rolling import scaled
from .served import Served

UNMANAGED = (
    "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status of the PDB"
    " cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set"
    ' ".spec.minAvailable" field of the PDB to an integer value.'
)
#: An eviction that was granted but not carried out for this long counts no more.
FORGET_EVICTION_S = 120.0
#: A pod that was said to be disrupted, and still stands after this long, is not.
STALE_S = 120.0
TRY_AGAIN_S = 15.0


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


def forgotten(budget: PodDisruptionBudget, pods: Iterable[Pod], now: float) -> list[Pod]:
    """The pods that were to be evicted long ago, and still stand."""
    late = {name for name, when in budget.status.disrupted_pods.items() if parse_time(when) + FORGET_EVICTION_S <= now}
    return [pod for pod in pods if pod.metadata.name in late and pod.metadata.deletion_timestamp is None]


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


def failed_safe(budget: PodDisruptionBudget, error: str, stamp: str) -> PodDisruptionBudgetStatus:
    """The status while nobody knows how many pods there should be: nothing may go."""
    old = next((c for c in budget.status.conditions if c.type == "DisruptionAllowed"), None)
    condition = Condition(
        type="DisruptionAllowed",
        status="False",
        reason="SyncFailed",
        message=error,
        observed_generation=budget.status.observed_generation,
        last_transition_time=old.last_transition_time if old is not None and old.status == "False" else stamp,
    )
    others = tuple(c for c in budget.status.conditions if c.type != "DisruptionAllowed")
    return replace(budget.status, disruptions_allowed=0, conditions=(*others, condition))


def needs_scale(budget: PodDisruptionBudget) -> bool:
    """Whether a budget speaks of a share of what should be, not of a number."""
    return budget.spec.max_unavailable is not None or isinstance(budget.spec.min_available, str)


class NoScale(Exception):
    """How many pods there should be cannot be found out."""


class Disruptions(Controller[Key]):
    """Keys are budgets."""

    name = "disruption-controller"
    component = "controllermanager"

    def __init__(self, context: Context, served: Served) -> None:
        super().__init__(context)
        self.served = served
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
                expected = (budget.status.expected_pods or 0) if budget.status is not None else 0
                self.look_soon(key_of(budget), expected)

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
        if not pods:
            self.events.event(budget, "Normal", "NoPods", "No matching pods found")
        try:
            scale = await self._scale(budget, pods) if needs_scale(budget) else 0
        except (NoScale, ApiError) as err:
            text = f"Failed to calculate the number of expected pods: {err}"
            self.events.event(budget, "Warning", "CalculateExpectedPodCountFailed", text)
            await self._write(budget, failed_safe(budget, str(err), self.now()))
            return TRY_AGAIN_S
        status: PodDisruptionBudgetStatus = status_of(budget, pods, scale, self.clock.now(), self.now())
        for pod in forgotten(budget, pods, self.clock.now()):
            text = f"Pod was expected by PDB {key} to be deleted but it wasn't"
            self.events.event(pod, "Warning", "NotDeleted", text)
        await self._write(budget, status)
        ends = [parse_time(when) + FORGET_EVICTION_S - self.clock.now() for when in status.disrupted_pods.values()]
        return max(0.1, min(ends)) if ends else None

    async def _write(self, budget: PodDisruptionBudget, status: PodDisruptionBudgetStatus) -> None:
        if status != budget.status:
            written = await self.client.update_status(replace(budget, status=status))
            await self.budgets.shows(written.metadata.resource_version)

    async def _scale(self, budget: PodDisruptionBudget, pods: Iterable[Pod]) -> int:
        """What the controllers of pods want to have together, each counted once. Raises NoScale or ApiError."""
        found: dict[str, int] = {}
        alone = False
        for pod in pods:
            owner, ref = self._top(pod), controller_of(pod)
            if owner is not None:
                found[owner.metadata.uid] = 1 if owner.spec.replicas is None else owner.spec.replicas
            elif ref is None:
                alone = True
            elif ref.uid not in found:
                found[ref.uid] = await self._asked_scale(pod, ref)
        if alone:
            self.events.event(
                budget, "Warning", "UnmanagedPods", UNMANAGED.format(selectors.as_go(budget.spec.selector))
            )
        return sum(found.values())

    async def _asked_scale(self, pod: Pod, ref: OwnerReference) -> int:
        """The replicas of an owner of any other kind, by its scale subresource."""
        row = self.served.by_kind(ref.api_version, ref.kind)
        if row is None:
            raise NoScale(f'found no controllers for pod "{pod.metadata.name}"')
        if not row.custom and row.subresource("scale") is None:
            raise NoScale(f"{row.group_resource} does not implement the scale subresource")
        try:
            scale = await self.client.call(row, ref.name, "scale", None, Scale, pod.metadata.namespace, verb="get")
        except NotFound as err:
            if not row.custom:  # the owner is gone
                raise NoScale(f'found no controllers for pod "{pod.metadata.name}"') from err
            raise NoScale(f"{row.group_resource} does not implement the scale subresource") from err
        if scale.metadata.uid not in (None, ref.uid):
            raise NoScale(f'found no controllers for pod "{pod.metadata.name}"')
        return scale.spec.replicas or 0

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


def stale_in(pod: Pod, now: float) -> float | None:
    """Seconds until it is plain that a disruption said of a pod has not come; None while nothing of the kind is said.

    What its kubelet says holds: a kubelet may take long over it.
    """
    found = condition_of(pod, "DisruptionTarget")
    if found is None or found.status != "True" or found.reason == "TerminationByKubelet":
        return None
    if is_finished(pod) or pod.metadata.deletion_timestamp is not None or not found.last_transition_time:
        return None
    return parse_time(found.last_transition_time) + STALE_S - now


class StaleDisruptions(Controller[Key]):
    """Keys are pods."""

    name = "disruption-controller"
    component = "controllermanager"
    workers = 1

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.pods = self.watch(Pod, self._on_pod)

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        if new is not None and stale_in(new, 0) is not None:
            self.queue.add(key_of(new))

    async def reconcile(self, key: Key) -> float | None:
        pod = self.pods.by_key(key)
        left = stale_in(pod, self.clock.now()) if pod is not None else None
        if pod is None or left is None or left > 0:
            return left
        condition = {"type": "DisruptionTarget", "status": "False", "lastTransitionTime": self.now()}
        meta = {"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version}
        patch = {"metadata": meta, "status": {"conditions": [condition]}}
        try:
            await self.client.patch(Pod, key.name, patch, key.namespace, type=PatchType.STRATEGIC, subresource="status")
        except NotFound:
            return None
        return None
