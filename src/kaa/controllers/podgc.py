"""Pods that nobody else would delete: of nodes that are gone or out of service, ended in masses, or deleted before they
had a node.

Source: kubernetes pkg/controller/podgc.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kaa.api.errors import Conflict, NotFound
from kaa.api.types.core_v1 import Node, Pod, PodCondition
from kaa.api.types.meta_v1 import DeleteOptions, Preconditions
from kaa.client.client import PatchType

from .controller import Context, Controller, in_parallel
from .pods import is_finished

#: Ended pods to keep (upstream's --terminated-pod-gc-threshold).
THRESHOLD = 12_500
PERIOD_S = 20.0
#: A node must be missing this long before its pods go.
QUARANTINE_S = 40.0
BY_NODE = "node"
#: Set by people on a node that is down and will not write to its volumes again.
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"


def surplus(pods: Iterable[Pod], threshold: int) -> list[Pod]:
    """The ended pods beyond the threshold: evicted ones first, then the oldest."""
    ended = [pod for pod in pods if is_finished(pod)]
    if threshold <= 0 or len(ended) <= threshold:
        return []
    ended.sort(key=lambda p: (p.status.reason != "Evicted", p.metadata.creation_timestamp or "", p.metadata.name or ""))
    return ended[: len(ended) - threshold]


def never_placed(pods: Iterable[Pod]) -> list[Pod]:
    """Pods being deleted that no kubelet will ever confirm."""
    return [pod for pod in pods if pod.metadata.deletion_timestamp is not None and not pod.spec.node_name]


def is_out_of_service(node: Node | None) -> bool:
    """Whether a node is not ready, and somebody vouches that it is down."""
    if node is None or not any(taint.key == OUT_OF_SERVICE for taint in node.spec.taints):
        return False
    return not any(c.type == "Ready" and c.status == "True" for c in (node.status.conditions if node.status else ()))


def missing_nodes(named: Iterable[str], exists: Callable[[str], bool]) -> set[str]:
    return {name for name in named if name and not exists(name)}


class PodGC(Controller[str]):
    """Its one key is a round; a node's going begins one."""

    name = "pod-garbage-collector"
    workers = 1
    ROUND = "round"

    def __init__(self, context: Context, *, threshold: int = THRESHOLD) -> None:
        super().__init__(context)
        self.threshold = threshold
        self.pods = context.informers.of(Pod)
        self.pods.add_index(BY_NODE, lambda pod: (pod.spec.node_name or "",))
        self._missing: dict[str, float] = {}  #: {node: when it was first found missing}
        self.nodes = self.watch(Node, self._on_node)
        self.watch(Pod, self._on_pod)
        self.queue.add(self.ROUND)

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        """A round is worth its while only if a pod can have become garbage."""
        if new is None:
            return
        placed = new.spec.node_name or ""
        lost = placed and placed not in self._missing and self.nodes.synced.is_set() and self.nodes.get(placed) is None
        unplaced = not placed and new.metadata.deletion_timestamp is not None
        stuck = new.metadata.deletion_timestamp is not None and is_out_of_service(self.nodes.get(placed))
        if lost or unplaced or stuck or (is_finished(new) and not (old is not None and is_finished(old))):
            self.queue.add_after(self.ROUND, PERIOD_S)

    def _on_node(self, old: Node | None, new: Node | None) -> None:
        if new is None or (is_out_of_service(new) and not is_out_of_service(old)):
            self.queue.add(self.ROUND)

    async def reconcile(self, key: str) -> float | None:
        pods = list(self.pods)
        now = self.clock.monotonic()
        orphans = await self._orphans(pods, now)
        doomed = [(pod, "") for pod in (*surplus(pods, self.threshold), *never_placed(pods), *self._stuck())]
        doomed += [(pod, "PodGC: node no longer exists") for pod in orphans]
        for result in await in_parallel(self._delete(pod, why) for pod, why in doomed):
            if isinstance(result, Exception) and not isinstance(result, (NotFound, Conflict)):
                raise result
        return PERIOD_S if self._missing else None

    def _stuck(self) -> list[Pod]:
        """Pods being deleted whose kubelet will never say that they ended."""
        down = [node.metadata.name or "" for node in self.nodes if is_out_of_service(node)]
        pods = [pod for name in down for pod in self.pods.by_index(BY_NODE, name)]
        return [pod for pod in pods if pod.metadata.deletion_timestamp is not None]

    async def _orphans(self, pods: Iterable[Pod], now: float) -> list[Pod]:
        """Pods of nodes that were missing for long enough, and still are when asked for."""
        missing = missing_nodes({p.spec.node_name or "" for p in pods}, lambda name: self.nodes.get(name) is not None)
        self._missing = {name: self._missing.get(name, now) for name in missing}
        gone = {name for name, since in self._missing.items() if now - since >= QUARANTINE_S}
        gone = {name for name in gone if not await self._exists(name)}
        return [pod for name in sorted(gone) for pod in self.pods.by_index(BY_NODE, name)]

    async def _exists(self, node: str) -> bool:
        try:
            await self.client.get(Node, node)
        except NotFound:
            return False
        return True

    async def _delete(self, pod: Pod, why: str) -> None:
        """Mark a pod as failed, for its owner to count, and delete it at once."""
        name, namespace = pod.metadata.name or "", pod.metadata.namespace
        if not is_finished(pod):
            condition = PodCondition(
                type="DisruptionTarget",
                status="True",
                reason="DeletionByPodGC",
                message=why,
                last_transition_time=self.now(),
            )
            status: dict[str, object] = {"phase": "Failed"}
            if why:
                status["conditions"] = [_entry(condition)]
            patch = {"metadata": {"uid": pod.metadata.uid}, "status": status}
            await self.client.patch(Pod, name, patch, namespace, type=PatchType.STRATEGIC, subresource="status")
        options = DeleteOptions(grace_period_seconds=0, preconditions=Preconditions(uid=pod.metadata.uid))
        await self.client.delete(Pod, name, namespace, options=options)


def _entry(condition: PodCondition) -> dict[str, str | None]:
    return {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": condition.last_transition_time,
    }
