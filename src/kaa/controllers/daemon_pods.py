"""A DaemonSet's pods on nodes: where they belong, what to add and drop, how to roll. No I/O.

Source: kubernetes pkg/controller/daemon (daemon_controller.go, update.go, util/daemonset_util.go).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from msgspec.structs import replace

from kaa.api.placement import NAME_FIELD, attracts, target_of, untolerated
from kaa.api.types.apps_v1 import DaemonSet, DaemonSetStatus
from kaa.api.types.core_v1 import (
    Affinity,
    Node,
    NodeAffinity,
    NodeSelector,
    NodeSelectorRequirement,
    NodeSelectorTerm,
    Pod,
    Toleration,
)

from .controller import count
from .history import REVISION_HASH
from .pods import available_in, from_template, is_ready
from .rolling import scaled

BURST = 250
GENERATION_LABEL = "pod-template-generation"
GENERATION = "deprecated.daemonset.template.generation"
#: Taints that daemons put up with, by effect.
TOLERATED = (
    *((f"node.kubernetes.io/{name}", "NoExecute") for name in ("not-ready", "unreachable")),
    *(
        (f"node.kubernetes.io/{name}", "NoSchedule")
        for name in ("disk-pressure", "memory-pressure", "pid-pressure", "unschedulable")
    ),
)
OF_HOST_NETWORK = ("node.kubernetes.io/network-unavailable", "NoSchedule")


def new_pod(owner: DaemonSet, node: str, word: str) -> Pod:
    """The daemon of one node, of the revision with that hash: tied to the node by affinity, the scheduler binds it."""
    pod = from_template(owner.spec.template, owner, generate_name=f"{owner.metadata.name}-")
    labels = {**pod.metadata.labels, REVISION_HASH: word}
    generation = owner.metadata.annotations.get(GENERATION)
    if generation:
        labels[GENERATION_LABEL] = generation
    spec = replace(pod.spec, affinity=_tied(pod.spec.affinity, node), tolerations=_tolerations(pod))
    return replace(pod, metadata=replace(pod.metadata, labels=labels), spec=spec)


def _tied(affinity: Affinity | None, node: str) -> Affinity:
    wish = NodeSelectorRequirement(key=NAME_FIELD, operator="In", values=(node,))
    required = NodeSelector(node_selector_terms=(NodeSelectorTerm(match_fields=(wish,)),))
    affinity = affinity or Affinity()
    to_nodes = affinity.node_affinity or NodeAffinity()
    to_nodes = replace(to_nodes, required_during_scheduling_ignored_during_execution=required)
    return replace(affinity, node_affinity=to_nodes)


def _tolerations(pod: Pod) -> tuple[Toleration, ...]:
    wanted = [*TOLERATED, OF_HOST_NETWORK] if pod.spec.host_network else TOLERATED
    own = pod.spec.tolerations
    added = tuple(Toleration(key=key, operator="Exists", effect=effect) for key, effect in wanted)
    return (*own, *(each for each in added if each not in own))


def belongs(owner: DaemonSet, node: Node) -> tuple[bool, bool]:
    """(a daemon should run on the node, one that runs there may stay)."""
    pod = from_template(owner.spec.template, owner, generate_name="")
    if pod.spec.node_name not in (None, "", node.metadata.name) or not attracts(pod, node):
        return False, False
    pod = replace(pod, spec=replace(pod.spec, tolerations=_tolerations(pod)))
    taints = node.spec.taints
    if untolerated(pod, taints, "NoSchedule", "NoExecute"):
        return False, not untolerated(pod, taints, "NoExecute")
    return True, True


def by_node(pods: Iterable[Pod]) -> dict[str, list[Pod]]:
    """{node: its daemons}"""
    found: dict[str, list[Pod]] = {}
    for pod in pods:
        found.setdefault(target_of(pod), []).append(pod)
    return found


# ------------------------------------------------------------------------------------------------ deciding


@dataclass(slots=True)
class Plan:
    """``create``: nodes that lack a daemon; ``delete``: pods too many; ``failed``, ``succeeded``: pods that ended."""

    create: list[str] = field(default_factory=list)
    delete: list[Pod] = field(default_factory=list)
    failed: list[Pod] = field(default_factory=list)
    succeeded: list[Pod] = field(default_factory=list)

    def empty(self) -> bool:
        return not (self.create or self.delete or self.failed or self.succeeded)


@dataclass(frozen=True, slots=True)
class View:
    """What a plan looks at. ``word``: the hash of the present revision."""

    owner: DaemonSet
    nodes: Sequence[Node]
    pods: Mapping[str, Sequence[Pod]]
    word: str
    now: float

    def available(self, pod: Pod) -> bool:
        return available_in(pod, self.owner.spec.min_ready_seconds or 0, self.now) == 0

    def is_new(self, pod: Pod) -> bool:
        return pod.metadata.labels.get(REVISION_HASH) == self.word


def limits(owner: DaemonSet, desired: int) -> tuple[int, int]:
    """(surge, unavailable) in pods; percentages round up."""
    rolling = owner.spec.update_strategy.rolling_update
    surge = scaled(rolling.max_surge if rolling else 0, desired, up=True)
    unavailable = scaled(
        1 if rolling is None or rolling.max_unavailable is None else rolling.max_unavailable, desired, up=True
    )
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return surge, unavailable


def plan(view: View) -> Plan:
    """Decide which daemons to add and drop so that each node that should have one has one."""
    wanted = Plan()
    rolls = view.owner.spec.update_strategy.type != "OnDelete"
    surge = limits(view.owner, len(view.nodes))[0] if rolls else 0
    for node in view.nodes:
        on_node = view.pods.get(node.metadata.name or "", ())
        should, may_stay = belongs(view.owner, node)
        if should and not on_node:
            wanted.create.append(node.metadata.name or "")
        elif not may_stay:
            wanted.delete += [pod for pod in on_node if pod.metadata.deletion_timestamp is None]
        else:
            _tidy(view, node.metadata.name or "", on_node, wanted, should=should, surges=surge > 0)
    known = {node.metadata.name for node in view.nodes}
    gone = [pod for name, pods in view.pods.items() if name not in known and name for pod in pods]
    wanted.delete += [pod for pod in gone if pod.metadata.deletion_timestamp is None and not pod.spec.node_name]
    return wanted


def _tidy(view: View, node: str, pods: Sequence[Pod], wanted: Plan, *, should: bool, surges: bool) -> None:
    """One node: drop what has ended, and all but the oldest of several; in a surge, of old and new one each may stay."""
    running: list[Pod] = []
    for pod in pods:
        if pod.metadata.deletion_timestamp is not None:
            continue
        match pod.status.phase:
            case "Failed":
                wanted.failed.append(pod)
            case "Succeeded":
                wanted.succeeded.append(pod)
            case _:
                running.append(pod)
    running.sort(key=_seniority)
    if not surges:
        wanted.delete += running[1:]
        return
    if should and not running:  # in a surge the next comes before the last one has gone
        wanted.create.append(node)
    new = [pod for pod in running if view.is_new(pod)]
    old = [pod for pod in running if not view.is_new(pod)]
    keeps_old = not new or (old and not view.available(new[0]) and view.available(old[0]))
    wanted.delete += [*new[1:], *(old[1:] if keeps_old else old)]


def _seniority(pod: Pod) -> tuple[bool, bool, str, str]:
    return (
        not pod.spec.node_name,
        not is_ready(pod),
        pod.metadata.creation_timestamp or "",
        pod.metadata.name or "",
    )


def roll(view: View) -> Plan:
    """Decide which old daemons to replace now, as far as ``maxUnavailable`` or ``maxSurge`` allow."""
    wanted = Plan()
    nodes = [node.metadata.name or "" for node in view.nodes if belongs(view.owner, node)[0]]
    surge, unavailable = limits(view.owner, len(nodes))
    if surge:
        _surge(view, nodes, surge, wanted)
    else:
        _replace(view, nodes, unavailable, wanted)
    return wanted


def _replace(view: View, nodes: Iterable[str], unavailable: int, wanted: Plan) -> None:
    down = 0
    candidates: list[Pod] = []
    for name in nodes:
        pods = view.pods.get(name, ())
        pod = pods[0] if len(pods) == 1 and pods[0].metadata.deletion_timestamp is None else None
        if pod is None:  # none, or several, or on its way out
            down += 1
        elif view.is_new(pod):
            down += not view.available(pod)
        elif not view.available(pod):
            down += 1
            wanted.delete.append(pod)
        else:
            candidates.append(pod)
    wanted.delete += candidates[: max(0, unavailable - down)]


def _surge(view: View, nodes: Iterable[str], surge: int, wanted: Plan) -> None:
    surging = 0
    candidates: list[str] = []
    for name in nodes:
        pods = [pod for pod in view.pods.get(name, ()) if pod.metadata.deletion_timestamp is None]
        new, old = [p for p in pods if view.is_new(p)], [p for p in pods if not view.is_new(p)]
        if old and new:
            if view.available(new[0]) or not view.available(old[0]):
                wanted.delete += old
            else:
                surging += 1
        elif old:
            (candidates if view.available(old[0]) else wanted.create).append(name)
    wanted.create += candidates[: max(0, surge - surging)]


def status_of(view: View, collisions: int) -> tuple[DaemonSetStatus, float]:
    """The status, and the seconds until one more daemon becomes available (``inf``: none by time alone)."""
    owner = view.owner
    desired = current = misplaced = ready = available = updated = 0
    soonest = inf
    for node in view.nodes:
        pods = sorted(view.pods.get(node.metadata.name or "", ()), key=_seniority)
        if not belongs(owner, node)[0]:
            misplaced += bool(pods)
            continue
        desired += 1
        if not pods:
            continue
        current += 1
        updated += any(map(view.is_new, pods))
        if is_ready(pods[0]):
            ready += 1
            wait = available_in(pods[0], owner.spec.min_ready_seconds or 0, view.now)
            available += wait == 0
            soonest = min(soonest, wait) if wait else soonest
    status = DaemonSetStatus(
        current_number_scheduled=current,
        desired_number_scheduled=desired,
        number_misscheduled=misplaced,
        number_ready=ready,
        number_available=count(available),
        number_unavailable=count(desired - available),
        updated_number_scheduled=count(updated),
        observed_generation=owner.metadata.generation,
        collision_count=collisions or None,
        conditions=owner.status.conditions if owner.status else (),
    )
    return status, soonest
