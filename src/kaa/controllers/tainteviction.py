"""Pods leave nodes whose taints NoExecute they do not tolerate: at once, or when their toleration has run out.

Source: kubernetes pkg/controller/tainteviction.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from kaa.api.clock import parse_time
from kaa.api.placement import tolerates
from kaa.api.types.core_v1 import Node, Pod, Taint
from kaa.client.informer import key_of
from kaa.client.workqueue import Key

from .controller import Context, Controller
from .podcontrol import end_disrupted
from .podgc import BY_NODE
from .pods import condition_of, is_finished


def stays_for(pod: Pod, taints: Sequence[Taint], now: float, since: float | None = None) -> float:
    """Seconds that a pod may stay on a node with these taints: ``inf`` for ever, 0 not at all, or no longer.

    ``since``: when the pod's wait began, for taints that say not when they came.
    """
    left = inf
    for taint in taints:
        if taint.effect != "NoExecute":
            continue
        matching = [toleration for toleration in pod.spec.tolerations if tolerates(toleration, taint)]
        if not matching:
            return 0.0
        limits = [max(0, t.toleration_seconds) for t in matching if t.toleration_seconds is not None]
        if limits:
            began = now if since is None else since
            if taint.time_added:  # a pod that was placed later has its time from then on
                began = max(parse_time(taint.time_added), placed_at(pod))
            left = min(left, max(0.0, began + min(limits) - now))
    return left


def placed_at(pod: Pod) -> float:
    """When a pod got its node; when it was made, if nobody noted that."""
    found = condition_of(pod, "PodScheduled")
    stamp = (found.last_transition_time if found is not None else None) or pod.metadata.creation_timestamp
    return parse_time(stamp) if stamp else 0.0


class TaintEviction(Controller[Key]):
    """Keys are pods."""

    name = "node-controller"
    component = "taint-eviction-controller"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.nodes = context.informers.of(Node)
        self.pods = context.informers.of(Pod)
        self.pods.add_index(BY_NODE, lambda pod: (pod.spec.node_name or "",))
        self._waits: dict[str, float] = {}  #: {uid: when its wait began} of pods that will be evicted
        self.watch(Node, self._on_node)
        self.watch(Pod, self._on_pod)

    def _on_node(self, old: Node | None, new: Node | None) -> None:
        if new is None or (old is not None and old.spec.taints == new.spec.taints):
            return
        if old is None and not _drives_off(new):
            return
        for pod in self.pods.by_index(BY_NODE, new.metadata.name or ""):
            self.queue.add(key_of(pod))

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        if new is None:
            assert old is not None
            self._waits.pop(old.metadata.uid or "", None)
            return
        if not new.spec.node_name or (old is not None and old.spec == new.spec):
            return
        node = self.nodes.get(new.spec.node_name)
        if node is not None and _drives_off(node):
            self.queue.add(key_of(new))

    async def reconcile(self, key: Key) -> float | None:
        pod = self.pods.by_key(key)
        if pod is None or is_finished(pod) or pod.metadata.deletion_timestamp is not None:
            return None
        node = self.nodes.get(pod.spec.node_name or "")
        uid, name = pod.metadata.uid or "", f"{pod.metadata.namespace}/{pod.metadata.name}"
        now = self.clock.now()
        left = stays_for(pod, node.spec.taints if node is not None else (), now, self._waits.get(uid))
        if left == inf:
            if self._waits.pop(uid, None) is not None:
                self.events.event(pod, "Normal", "TaintManagerEviction", f"Cancelling deletion of Pod {name}")
            return None
        if left > 0:
            self._waits.setdefault(uid, now)
            return left
        self.events.event(pod, "Normal", "TaintManagerEviction", f"Marking for deletion Pod {name}")
        text = "Taint manager: deleting due to NoExecute taint"
        await end_disrupted(self.client, pod, "DeletionByTaintManager", text, self.now())
        return None


def _drives_off(node: Node) -> bool:
    return any(taint.effect == "NoExecute" for taint in node.spec.taints)
