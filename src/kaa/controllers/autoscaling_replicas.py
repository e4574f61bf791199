"""How many replicas a metric asks for. No I/O; amounts are thousandths of the metric's unit, as upstream counts them.

The idea: replicas wanted = usage / target, for the pods of which usage is known. Pods of which it is not are taken to use
what speaks against the change: all when scaling down, nothing when scaling up; and no change is made that they turn round.

Source: API concepts "Horizontal Pod Autoscaling"; kubernetes pkg/controller/podautoscaler/replica_calculator.go.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

from kaa.api import quantity
from kaa.api.clock import parse_time
from kaa.api.types.core_v1 import Container, Pod

from .pods import condition_of, is_ready

TOLERANCE = 0.1
#: How long after its start a pod's processor use may be that of starting.
CPU_INITIALIZATION_S = 300.0
INITIAL_READINESS_S = 30.0


class NoMetrics(Exception):
    """Why nothing can be said about replicas."""


@dataclass(frozen=True, slots=True)
class PodMetric:
    """A pod's usage over ``window_s`` seconds that ended at ``timestamp`` (seconds since 1970)."""

    value: int
    timestamp: float = 0.0
    window_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Tolerance:
    """By how much usage may be off its target without anything being done."""

    down: float = TOLERANCE
    up: float = TOLERANCE

    def covers(self, ratio: float) -> bool:
        return 1.0 - self.down <= ratio <= 1.0 + self.up


@dataclass(frozen=True, slots=True)
class Groups:
    """Pods by what their metric is worth."""

    ready: int
    unready: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    ignored: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Usage:
    """Replicas that a metric asks for; how much of what is requested is used, in percent; and how much a pod uses."""

    replicas: int
    percent: int
    average: int


def group_pods(pods: Iterable[Pod], metrics: Mapping[str, PodMetric], resource: str, now: float) -> Groups:
    ready, unready, missing, ignored = 0, set(), set(), set()
    for pod in pods:
        name = pod.metadata.name or ""
        if pod.metadata.deletion_timestamp is not None or pod.status.phase == "Failed":
            ignored.add(name)
        elif pod.status.phase == "Pending":
            unready.add(name)
        elif name not in metrics:
            missing.add(name)
        elif resource == "cpu" and _still_starts(pod, metrics[name], now):
            unready.add(name)
        else:
            ready += 1
    return Groups(ready, unready, missing, ignored)


def _still_starts(pod: Pod, metric: PodMetric, now: float) -> bool:
    """Whether a pod's processor use says nothing about its work yet."""
    condition = condition_of(pod, "Ready")
    if condition is None or not pod.status.start_time:
        return True
    started, down = parse_time(pod.status.start_time), condition.status == "False"
    changed = parse_time(condition.last_transition_time) if condition.last_transition_time else 0.0
    if started + CPU_INITIALIZATION_S > now:
        return down or metric.timestamp < changed + metric.window_s
    return down and started + INITIAL_READINESS_S > changed


def requests_of(pods: Iterable[Pod], resource: str, container: str = "") -> dict[str, int]:
    """{pod: what it requests}, of all containers or one. Raises NoMetrics when one of them requests nothing."""
    return {pod.metadata.name or "": _request(pod, resource, container) for pod in pods}


def _request(pod: Pod, resource: str, container: str) -> int:
    whole = pod.spec.resources.requests if pod.spec.resources is not None else {}
    if not container and resource in whole:
        return quantity.millis(whole[resource])
    sidecars = [each for each in pod.spec.init_containers if each.restart_policy == "Always"]
    total = 0
    for each in (*pod.spec.containers, *sidecars):
        if container in ("", each.name):
            total += _container_request(pod, each, resource)
    return total


def _container_request(pod: Pod, container: Container, resource: str) -> int:
    asked = container.resources.requests.get(resource)
    if asked is None:
        where = f"container {container.name} of Pod {pod.metadata.name}"
        raise NoMetrics(f"missing request for {resource} in {where}")
    return quantity.millis(asked)


def utilization(metrics: Mapping[str, PodMetric], requests: Mapping[str, int], target: int) -> tuple[float, int, int]:
    """(usage as a multiple of the target, in percent of requests, a pod's average). ``target``: percent of requests."""
    known = [name for name in metrics if name in requests]
    used, asked = sum(metrics[name].value for name in known), sum(requests[name] for name in known)
    if not asked:
        raise NoMetrics("no metrics returned matched known pods")
    percent = used * 100 // asked
    return percent / target, percent, used // len(known)


def by_utilization(
    current: int,
    target: int,
    pods: Sequence[Pod],
    metrics: Mapping[str, PodMetric],
    *,
    resource: str,
    now: float,
    container: str = "",
    tolerance: Tolerance = Tolerance(),
) -> Usage:
    """Replicas so that pods use ``target`` percent of what they request. Raises NoMetrics."""
    groups, found = _usable(pods, metrics, resource, now)
    requests = requests_of(pods, resource, container)
    ratio, percent, average = utilization(found, requests, target)
    full = {name: requests[name] * max(100, target) // 100 for name in groups.missing}

    def ratio_of(filled: Mapping[str, PodMetric]) -> float:
        return utilization(filled, requests, target)[0]

    fill = full if ratio < 1.0 else dict.fromkeys(full, 0) if ratio > 1.0 else {}
    replicas = _settle(current, ratio, groups, found, fill, ratio_of, tolerance)
    return Usage(replicas, percent, average)


def by_value(
    current: int,
    target: int,
    pods: Sequence[Pod],
    metrics: Mapping[str, PodMetric],
    *,
    now: float,
    resource: str = "",
    tolerance: Tolerance = Tolerance(),
) -> Usage:
    """Replicas so that pods use ``target`` on average. Raises NoMetrics."""
    groups, found = _usable(pods, metrics, resource, now)

    def average_of(filled: Mapping[str, PodMetric]) -> int:
        return sum(metric.value for metric in filled.values()) // len(filled)

    average = average_of(found)
    ratio = average / target
    fill = dict.fromkeys(groups.missing, target if ratio < 1.0 else 0)
    replicas = _settle(current, ratio, groups, found, fill, lambda filled: average_of(filled) / target, tolerance)
    return Usage(replicas, 0, average)


def _usable(
    pods: Sequence[Pod], metrics: Mapping[str, PodMetric], resource: str, now: float
) -> tuple[Groups, dict[str, PodMetric]]:
    if not pods:
        raise NoMetrics("no pods returned by selector while calculating replica count")
    groups = group_pods(pods, metrics, resource, now)
    out = groups.ignored | groups.unready
    found = {name: metric for name, metric in metrics.items() if name not in out}
    if not found:
        raise NoMetrics("did not receive metrics for targeted pods (pods might be unready)")
    return groups, found


def _settle(
    current: int,
    ratio: float,
    groups: Groups,
    metrics: Mapping[str, PodMetric],
    fill: Mapping[str, int],
    ratio_of: Callable[[Mapping[str, PodMetric]], float],
    tolerance: Tolerance,
) -> int:
    """The number that ``ratio`` leads to, once pods of unknown use have had their say. ``fill``: {missing pod: its use}."""
    unready = groups.unready if ratio > 1.0 else ()
    if not unready and not groups.missing:
        return current if tolerance.covers(ratio) else ceil(ratio * groups.ready)
    guessed = {name: PodMetric(value) for name, value in fill.items()}
    filled = {**metrics, **guessed, **{name: PodMetric(0) for name in unready}}
    new = ratio_of(filled)
    if tolerance.covers(new) or (ratio < 1.0 < new) or (new < 1.0 < ratio):
        return current
    wanted = ceil(new * len(filled))
    turned = (new < 1.0 and wanted > current) or (new > 1.0 and wanted < current)
    return current if turned else wanted


def by_ratio(current: int, ratio: float, pods: Collection[Pod], tolerance: Tolerance = Tolerance()) -> int:
    """Replicas by one number for all: usage over target. Raises NoMetrics when there are none to be scaled."""
    if not current:
        return ceil(ratio)
    if tolerance.covers(ratio):
        return current
    if not pods:
        raise NoMetrics("unable to calculate ready pods: no pods returned by selector while calculating replica count")
    ready = sum(pod.status.phase == "Running" and is_ready(pod) for pod in pods)
    return ceil(ratio * ready)


def by_share(standing: int, usage: int, target: int, tolerance: Tolerance = Tolerance()) -> Usage:
    """Replicas so that each has ``target`` of one usage for all. ``standing``: replicas that there are."""
    fits = bool(standing) and tolerance.covers(usage / (target * standing))
    replicas = standing if fits else ceil(usage / target)
    return Usage(replicas, 0, ceil(usage / standing) if standing else 0)
