"""Nodes that fall silent: their conditions become Unknown, taints keep pods off, and their pods count as not ready.

A kubelet renews its Lease every ten seconds. Renewals only move a moment in a dict; one look a grace period at each node is
all that a healthy cluster costs. Evicting pods is ``tainteviction``'s.

Source: kubernetes pkg/controller/nodelifecycle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from kaa.api.clock import parse_time
from kaa.api.errors import NotFound
from kaa.api.types.coordination_v1 import Lease
from kaa.api.types.core_v1 import Node, NodeCondition, Pod, Taint
from kaa.client.client import PatchType
from kaa.client.informer import key_of
from kaa.client.workqueue import Key

from .controller import Context, Controller, in_parallel
from .podgc import BY_NODE
from .pods import is_ready

#: Silence after which a node is unreachable (--node-monitor-grace-period), and that of one that never spoke.
GRACE_S, STARTUP_GRACE_S = 50.0, 60.0
#: Nodes of a zone whose pods begin to be evicted: one in so many seconds (--node-eviction-rate 0.1), and of a large zone
#: most of which is silent (--secondary-node-eviction-rate 0.01).
EVICTION_EVERY_S, SLOW_EVICTION_EVERY_S = 10.0, 100.0
#: "Most" (--unhealthy-zone-threshold), from so many nodes on; and when a zone is large (--large-cluster-size-threshold).
UNHEALTHY_SHARE, UNHEALTHY_LEAST, LARGE_ZONE = 0.55, 3, 50
LEASES = "kube-node-lease"
NOT_READY, UNREACHABLE = "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"
ZONE, REGION = "topology.kubernetes.io/zone", "topology.kubernetes.io/region"
WATCHED = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")
#: {condition: {its status: taint}}
TAINTS: Mapping[str, Mapping[str, str]] = {
    "Ready": {"False": NOT_READY, "Unknown": UNREACHABLE},
    "MemoryPressure": {"True": "node.kubernetes.io/memory-pressure"},
    "DiskPressure": {"True": "node.kubernetes.io/disk-pressure"},
    "NetworkUnavailable": {"True": "node.kubernetes.io/network-unavailable"},
    "PIDPressure": {"True": "node.kubernetes.io/pid-pressure"},
}
CORDONED = "node.kubernetes.io/unschedulable"
OURS = frozenset(taint for taints in TAINTS.values() for taint in taints.values()) | {CORDONED}


# ------------------------------------------------------------------------------------------------ deciding


def conditions_of(node: Node) -> tuple[NodeCondition, ...]:
    return node.status.conditions if node.status is not None else ()


def readiness(node: Node) -> str:
    """``True``, ``False`` or ``Unknown``; empty while nobody has said anything."""
    return next((c.status for c in conditions_of(node) if c.type == "Ready"), "")


def silenced(node: Node, now: str) -> tuple[NodeCondition, ...]:
    """The conditions of a node that has fallen silent."""
    made = list(conditions_of(node))
    for type in WATCHED:
        at = next((n for n, condition in enumerate(made) if condition.type == type), None)
        if at is None:
            never = "NodeStatusNeverUpdated", "Kubelet never posted node status."
            made.append(_unknown(type, *never, node.metadata.creation_timestamp or now, now))
        elif made[at].status != "Unknown":
            stopped = "NodeStatusUnknown", "Kubelet stopped posting node status."
            made[at] = _unknown(type, *stopped, made[at].last_heartbeat_time or now, now)
    return tuple(made)


def _unknown(type: str, reason: str, message: str, heartbeat: str, now: str) -> NodeCondition:
    return NodeCondition(
        type=type,
        status="Unknown",
        reason=reason,
        message=message,
        last_heartbeat_time=heartbeat,
        last_transition_time=now,
    )


def taints_of(node: Node, now: str, *, evict: bool) -> tuple[Taint, ...]:
    """The node's taints as its conditions want them; other people's stay. ``evict``: drive pods off an unready node.

    Evicting lags behind: a taint NoExecute that stands is only taken away, not moved, while ``evict`` is false.
    """
    keys = [TAINTS[c.type][c.status] for c in conditions_of(node) if c.status in TAINTS.get(c.type, {})]
    if node.spec.unschedulable:
        keys.append(CORDONED)
    wanted = [(key, "NoSchedule") for key in keys]
    unready = TAINTS["Ready"].get(readiness(node))
    if evict and unready is not None:
        wanted.append((unready, "NoExecute"))
    kept = [t for t in node.spec.taints if not _is_ours(t) or (t.key, t.effect) in wanted]
    standing = {(taint.key, taint.effect) for taint in kept}
    added = [Taint(key=key, effect=effect, time_added=now) for key, effect in wanted if (key, effect) not in standing]
    return (*kept, *added)


def _is_ours(taint: Taint) -> bool:
    if taint.effect == "NoExecute":
        return taint.key in (NOT_READY, UNREACHABLE)
    return taint.effect == "NoSchedule" and taint.key in OURS


def drives_off(taints: Iterable[Taint]) -> bool:
    """Whether pods leave because the node is unready."""
    return any(taint.effect == "NoExecute" and _is_ours(taint) for taint in taints)


def zone_of(node: Node) -> str:
    return f"{node.metadata.labels.get(REGION, '')}:{node.metadata.labels.get(ZONE, '')}"


def all_unready(nodes: Sequence[Node]) -> bool:
    """Nobody answers: more likely it is we who are cut off, so nothing is evicted."""
    return bool(nodes) and all(readiness(node) != "True" for node in nodes)


def eviction_every_s(zone: Sequence[Node]) -> float | None:
    """Seconds between two nodes of a zone whose pods are driven off; None: none are, for it looks like our own fault.

    A zone that is silent as a whole is emptied at the usual pace, as long as some other zone answers (``all_unready``).
    """
    silent = sum(readiness(node) != "True" for node in zone)
    if silent == len(zone) or silent < UNHEALTHY_LEAST or silent / len(zone) < UNHEALTHY_SHARE:
        return EVICTION_EVERY_S
    return SLOW_EVICTION_EVERY_S if len(zone) > LARGE_ZONE else None


# ------------------------------------------------------------------------------------------------ doing


class NodeLifecycle(Controller[Key]):
    name = "node-controller"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._heard: dict[str, float] = {}  #: {node: when it was last heard of, monotonic}
        self._last_eviction: dict[str, float] = {}  #: {zone: when a node of it was last evicted, monotonic}
        self.pods = context.informers.of(Pod)
        self.pods.add_index(BY_NODE, lambda pod: (pod.spec.node_name or "",))
        self.watch(Pod)
        self.nodes = self.watch(Node, self._on_node)
        self.watch(Lease, self._on_lease)

    def _on_node(self, old: Node | None, new: Node | None) -> None:
        if new is None:
            assert old is not None
            self._heard.pop(old.metadata.name or "", None)
            self._tell(old, "RemovingNode", f"Removing Node {old.metadata.name} from Controller")
            self._look_at_all()
            return
        if old is None:
            self._tell(new, "RegisteredNode", f"Registered Node {new.metadata.name} in Controller")
        if old is None or conditions_of(old) != conditions_of(new):
            self._heard[new.metadata.name or ""] = self.clock.monotonic()
        if old is None or readiness(old) != readiness(new):
            self._look_at_all()
        if old is None or old.spec != new.spec or conditions_of(old) != conditions_of(new):
            self.queue.add(key_of(new))

    def _look_at_all(self) -> None:
        """Whether anything is evicted depends on all nodes together."""
        for node in self.nodes:
            if readiness(node) != "True":
                self.queue.add(key_of(node))

    def _tell(self, node: Node, reason: str, what: str) -> None:
        self.events.event(node, "Normal", reason, f"Node {node.metadata.name} event: {what}")

    def _on_lease(self, old: Lease | None, new: Lease | None) -> None:
        if new is None or new.metadata.namespace != LEASES:
            return
        if old is None or old.spec.renew_time != new.spec.renew_time:
            self._heard[new.metadata.name or ""] = self.clock.monotonic()

    async def reconcile(self, key: Key) -> float | None:
        node = self.nodes.by_key(key)
        if node is None or node.metadata.deletion_timestamp is not None:
            return None
        left = self._silent_in(node)
        if left <= 0:
            node = await self._silence(node)
        wait = await self._taint(node)
        if readiness(node) in TAINTS["Ready"]:
            await self._mark_pods(node)
        waits = [each for each in (left if left > 0 else None, wait) if each is not None]
        return min(waits) if waits else None

    def _silent_in(self, node: Node) -> float:
        """Seconds until a node counts as silent, should it say nothing more."""
        spoke = any(condition.type == "Ready" for condition in conditions_of(node))
        heard = self._heard.get(node.metadata.name or "", self.clock.monotonic())
        if not spoke and node.metadata.creation_timestamp:
            age = self.clock.now() - parse_time(node.metadata.creation_timestamp)
            return max(STARTUP_GRACE_S - age, heard + GRACE_S - self.clock.monotonic())
        return heard + (GRACE_S if spoke else STARTUP_GRACE_S) - self.clock.monotonic()

    async def _silence(self, node: Node) -> Node:
        conditions = silenced(node, self.now())
        if conditions == conditions_of(node) or node.status is None:
            return node
        heard = self._heard.get(node.metadata.name or "")
        written = await self.client.update_status(replace(node, status=replace(node.status, conditions=conditions)))
        await self.nodes.shows(written.metadata.resource_version)
        if heard is not None:  # our own writing is no sign of life
            self._heard[node.metadata.name or ""] = heard
        text = f"Node {node.metadata.name} status is now: NodeNotReady"
        self.events.event(node, "Normal", "NodeNotReady", text)
        return written

    async def _taint(self, node: Node) -> float | None:
        """Set the taints. Returns the seconds until this node's pods may be driven off, if that must wait."""
        wait = self._eviction_in(node)
        taints = taints_of(node, self.now(), evict=wait is not None and wait <= 0)
        if taints == node.spec.taints:
            return wait if wait else None
        if drives_off(taints) and not drives_off(node.spec.taints):
            self._last_eviction[zone_of(node)] = self.clock.monotonic()
        written = await self.client.update(replace(node, spec=replace(node.spec, taints=taints)))
        await self.nodes.shows(written.metadata.resource_version)
        return wait if wait else None

    def _eviction_in(self, node: Node) -> float | None:
        """Seconds until an unready node's pods may be driven off; None while nothing is to be evicted."""
        nodes = list(self.nodes)
        if readiness(node) not in TAINTS["Ready"] or all_unready(nodes):
            return None
        if drives_off(node.spec.taints):
            return 0.0
        zone = zone_of(node)
        every_s = eviction_every_s([each for each in nodes if zone_of(each) == zone])
        if every_s is None:
            return None
        return max(0.0, self._last_eviction.get(zone, -every_s) + every_s - self.clock.monotonic())

    async def _mark_pods(self, node: Node) -> None:
        """What runs on a silent node may not be counted on."""
        pods = [pod for pod in self.pods.by_index(BY_NODE, node.metadata.name or "") if is_ready(pod)]
        for result in await in_parallel(self._mark(pod) for pod in pods):
            if isinstance(result, Exception) and not isinstance(result, NotFound):
                raise result

    async def _mark(self, pod: Pod) -> None:
        self.events.event(pod, "Warning", "NodeNotReady", "Node is not ready")
        condition = {"type": "Ready", "status": "False", "lastTransitionTime": self.now()}
        patch = {"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}}
        name = pod.metadata.name or ""
        await self.client.patch(
            Pod, name, patch, pod.metadata.namespace, type=PatchType.STRATEGIC, subresource="status"
        )
