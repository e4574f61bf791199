"""How long a pod's start takes: all of it, and without what the node cannot help, which is what upstream promises.

    created ─ seen here ─ images pulled ─ init containers run ─ all containers run
    │<──────────────────────── total ──────────────────────────────>│   the SLI is that less pulls and init containers

Source: pkg/kubelet/util/pod_startup_latency_tracker.go; sig-scalability "Pod startup latency SLI".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from kaa.api.clock import Clock, parse_time
from kaa.api.types.core_v1 import Pod
from kaa.runtime.base import Container, ContainerState

if TYPE_CHECKING:
    from .counters import KubeletMetrics

_STATELESS = ("secret", "config_map", "downward_api", "empty_dir", "projected")


class PodStart:
    """One pod's, from when it is first seen. A pod that ran before is no start."""

    def __init__(self, metrics: KubeletMetrics, pod: Pod, clock: Clock) -> None:
        self._metrics, self._pod, self._clock = metrics, pod, clock
        self._seen_at = clock.now()
        self._waiting = not pod.status.container_statuses
        self._pulls: list[tuple[float, float]] = []
        self._pulling: list[float] = []  #: when the pulls began that go on
        if self._waiting:
            metrics.containers_per_pod_count.observe(len(pod.spec.containers))

    def image(self, reason: str) -> None:
        """What an event says of an image: pulls have two."""
        if not self._waiting:
            return
        if reason == "Pulling":
            self._pulling.append(self._clock.now())
        elif self._pulling and reason in ("Pulled", "Failed"):
            self._pulls.append((self._pulling.pop(0), self._clock.now()))

    def phase_is(self, phase: str, containers: Iterable[Container]) -> None:
        if not self._waiting or phase == "Pending":
            return
        self._waiting = False
        if phase == "Running":
            self._ran(containers)

    def _ran(self, containers: Iterable[Container]) -> None:
        meta, now, metrics = self._pod.metadata, self._clock.now(), self._metrics
        created = parse_time(meta.creation_timestamp) if meta.creation_timestamp else self._seen_at
        total = max(now - created, 0.0)
        metrics.pod_start_duration_seconds.observe(max(now - self._seen_at, 0.0))
        metrics.pod_start_total_duration_seconds.observe(total)
        if not stateless(self._pod):
            return
        sli = max(total - covered(self._pulls) - self._of_inits(containers), 0.0)
        metrics.pod_start_sli_duration_seconds.observe(sli)
        first = metrics.first_network_pod_start_sli_duration_seconds
        if not self._pod.spec.host_network and not first.values:
            first.set(sli)

    def _of_inits(self, containers: Iterable[Container]) -> float:
        """How long init containers that end have run."""
        names = {one.name for one in self._pod.spec.init_containers if one.restart_policy != "Always"}
        ended = [one for one in containers if one.name in names and one.state is ContainerState.EXITED]
        return sum(max(one.finished_at - one.started_at, 0.0) for one in ended if one.started_at)


def stateless(pod: Pod) -> bool:
    """Whether nothing but what Kubernetes itself makes is mounted."""
    return all(any(getattr(volume, kind) is not None for kind in _STATELESS) for volume in pod.spec.volumes)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The seconds that are in any of the spans."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(end - max(begin, reached), 0.0)
        reached = max(reached, end)
    return total
