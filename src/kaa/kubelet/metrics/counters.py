"""What the kubelet counts of itself, under upstream's names: ``/metrics`` and ``/metrics/probes``.

Whoever does a thing counts it here as it is done; what merely is, is looked at when somebody scrapes.
Source: pkg/kubelet/metrics/metrics.go, pkg/kubelet/prober, pkg/kubelet/server/metrics, component-base metrics/version.
"""

from __future__ import annotations

from collections.abc import Iterator

from kaa.api.clock import Clock
from kaa.api.types.core_v1 import Pod

from .exposition import Counter, Family, Gauge, Histogram, exponential
from .hardware import HardwareMetrics
from .images import ImageMetrics

#: Why a pod is not let in for want of something that Kubernetes itself knows; other ``OutOf…`` are counted as one.
_REJECTIONS = frozenset({"OutOfcpu", "OutOfmemory", "OutOfephemeral-storage", "OutOfpods"})
_POD_START_BUCKETS = (
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0,
    600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0,
)  # fmt: skip
_SYNC_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0)
_PROBE = ("probe_type", "result", "container", "pod", "namespace", "pod_uid")
_HTTP = ("method", "path", "server_type", "long_running")


class KubeletMetrics:
    """The counters. Names of attributes are those of the metrics, without ``kubelet_``."""

    def __init__(self, clock: Clock) -> None:
        operation = ("operation_type",)
        self.runtime_operations_total = Counter(
            "kubelet_runtime_operations_total",
            "[ALPHA] Cumulative number of runtime operations by operation type.",
            operation,
        )
        self.runtime_operations_errors_total = Counter(
            "kubelet_runtime_operations_errors_total",
            "[ALPHA] Cumulative number of runtime operation errors by operation type.",
            operation,
        )
        self.runtime_operations_duration_seconds = Histogram(
            "kubelet_runtime_operations_duration_seconds",
            "[ALPHA] Duration in seconds of runtime operations. Broken down by operation type.",
            operation,
            exponential(0.005, 2.5, 14),
        )
        self.pod_start_duration_seconds = Histogram(
            "kubelet_pod_start_duration_seconds",
            "[ALPHA] Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run",
            buckets=_POD_START_BUCKETS,
        )
        self.pod_start_total_duration_seconds = Histogram(
            "kubelet_pod_start_total_duration_seconds",
            "[ALPHA] Duration in seconds to start a pod since creation, including time to pull images and run init"
            " containers, measured from pod creation timestamp to when all its containers are reported as started and"
            " observed via watch",
            buckets=_POD_START_BUCKETS,
        )
        self.pod_start_sli_duration_seconds = Histogram(
            "kubelet_pod_start_sli_duration_seconds",
            "[ALPHA] Duration in seconds to start a pod, excluding time to pull images and run init containers, measured"
            " from pod creation timestamp to when all its containers are reported as started and observed via watch",
            buckets=_POD_START_BUCKETS,
        )
        self.first_network_pod_start_sli_duration_seconds = Gauge(
            "kubelet_first_network_pod_start_sli_duration_seconds",
            "[INTERNAL] Duration in seconds to start the first network pod, excluding time to pull images and run init"
            " containers, measured from pod creation timestamp to when all its containers are reported as started and"
            " observed via watch",
        )
        self.pod_worker_duration_seconds = Histogram(
            "kubelet_pod_worker_duration_seconds",
            "[ALPHA] Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync",
            operation,
        )
        self.admission_rejections_total = Counter(
            "kubelet_admission_rejections_total",
            "[ALPHA] Cumulative number pod admission rejections by the Kubelet.",
            ("reason",),
        )
        self.pod_status_sync_duration_seconds = Histogram(
            "kubelet_pod_status_sync_duration_seconds",
            "[ALPHA] Duration in seconds to sync a pod status update. Measures time from detection of a change to pod"
            " status until the API is successfully updated for that pod, even if multiple intevening changes to pod status"
            " occur.",
            buckets=_SYNC_BUCKETS,
        )
        self.run_podsandbox_duration_seconds = Histogram(
            "kubelet_run_podsandbox_duration_seconds",
            "[ALPHA] Duration in seconds of the run_podsandbox operations. Broken down by RuntimeClass.Handler.",
            ("runtime_handler",),
        )
        self.run_podsandbox_errors_total = Counter(
            "kubelet_run_podsandbox_errors_total",
            "[ALPHA] Cumulative number of the run_podsandbox operation errors by RuntimeClass.Handler.",
            ("runtime_handler",),
        )
        self.started_pods_total = Counter("kubelet_started_pods_total", "[ALPHA] Cumulative number of pods started")
        self.started_pods_errors_total = Counter(
            "kubelet_started_pods_errors_total", "[ALPHA] Cumulative number of errors when starting pods"
        )
        self.started_user_namespaced_pods_total = Counter(
            "kubelet_started_user_namespaced_pods_total",
            "[ALPHA] Cumulative number of pods with user namespaces started. This metric will only be collected on Linux.",
        )
        self.started_user_namespaced_pods_errors_total = Counter(
            "kubelet_started_user_namespaced_pods_errors_total",
            "[ALPHA] Cumulative number of errors when starting pods with user namespaces. This metric will only be"
            " collected on Linux.",
        )
        self.started_containers_total = Counter(
            "kubelet_started_containers_total",
            "[ALPHA] Cumulative number of containers started",
            ("container_type",),
        )
        self.started_containers_errors_total = Counter(
            "kubelet_started_containers_errors_total",
            "[ALPHA] Cumulative number of errors when starting containers",
            ("container_type", "code"),
        )
        self.containers_per_pod_count = Histogram(
            "kubelet_containers_per_pod_count",
            "[ALPHA] The number of containers per pod.",
            buckets=exponential(1.0, 2.0, 5),
        )
        self.evictions = Counter(
            "kubelet_evictions", "[ALPHA] Cumulative number of pod evictions by eviction signal", ("eviction_signal",)
        )
        self.eviction_stats_age_seconds = Histogram(
            "kubelet_eviction_stats_age_seconds",
            "[ALPHA] Time between when stats are collected, and when pod is evicted based on those stats by eviction"
            " signal",
            ("eviction_signal",),
        )
        self.orphan_pod_cleaned_volumes = Gauge(
            "kubelet_orphan_pod_cleaned_volumes",
            "[ALPHA] The total number of orphaned Pods whose volumes were cleaned in the last periodic sweep.",
        )
        self.orphaned_runtime_pods_total = Counter(
            "kubelet_orphaned_runtime_pods_total",
            "[ALPHA] Number of pods that have been detected in the container runtime without being already known to the"
            " pod worker. This typically indicates the kubelet was restarted while a pod was force deleted in the API or in"
            " the local configuration, which is unusual.",
        )
        self.graceful_shutdown_start_time_seconds = Gauge(
            "kubelet_graceful_shutdown_start_time_seconds",
            "[ALPHA] Last graceful shutdown start time since unix epoch in seconds",
        )
        self.graceful_shutdown_end_time_seconds = Gauge(
            "kubelet_graceful_shutdown_end_time_seconds",
            "[ALPHA] Last graceful shutdown start time since unix epoch in seconds",
        )
        self.http_requests_total = Counter(
            "kubelet_http_requests_total",
            "[ALPHA] Number of the http requests received since the server started",
            _HTTP,
        )
        self.http_inflight_requests = Gauge(
            "kubelet_http_inflight_requests", "[ALPHA] Number of the inflight http requests", _HTTP
        )
        self.http_requests_duration_seconds = Histogram(
            "kubelet_http_requests_duration_seconds", "[ALPHA] Duration in seconds to serve http requests", _HTTP
        )
        self._counted = tuple(self.__dict__.values())
        self.hardware, self.images = HardwareMetrics(clock), ImageMetrics(clock)
        self.prober_probe_total = Counter(
            "prober_probe_total",
            "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.",
            _PROBE,
        )
        self._probes: dict[str, set[tuple[str, ...]]] = {}  #: {pod uid: labels under which its probes are counted}
        self.prober_probe_duration_seconds = Histogram(
            "prober_probe_duration_seconds",
            "[ALPHA] Duration in seconds for a probe response.",
            ("probe_type", "container", "pod", "namespace"),
        )

    def families(self) -> Iterator[Family]:
        """What was counted, but probes."""
        yield from (one.family() for one in self._counted)
        yield from self.hardware.families()
        yield from self.images.families()

    def probes(self) -> Iterator[Family]:
        yield self.prober_probe_total.family()
        yield self.prober_probe_duration_seconds.family()

    def probed(self, kind: str, container: str, pod: Pod, good: bool, seconds: float) -> None:
        """One probe's verdict, and how long it took."""
        type_, result = kind.capitalize(), "successful" if good else "failed"
        meta = pod.metadata
        where = (meta.name or "", meta.namespace or "")
        uid = meta.uid or ""
        self.prober_probe_total.inc(type_, result, container, *where, uid)
        self._probes.setdefault(uid, set()).add((type_, result, container, *where, uid))
        self.prober_probe_duration_seconds.observe(seconds, type_, container, *where)

    def pod_made(self, handler: str, seconds: float, *, failed: bool, users: bool) -> None:
        """A sandbox was made, or not; ``users``: with a user namespace of its own."""
        self.started_pods_total.inc()
        if users:
            self.started_user_namespaced_pods_total.inc()
            self.started_user_namespaced_pods_errors_total.inc(by=failed)
        self.run_podsandbox_duration_seconds.observe(seconds, handler)
        if failed:
            self.started_pods_errors_total.inc()
            self.run_podsandbox_errors_total.inc(handler)

    def container_started(self, pod: Pod, container: str) -> None:
        self.started_containers_total.inc(container_type(pod, container))

    def container_failed(self, pod: Pod, container: str, code: str) -> None:
        kind = container_type(pod, container)
        self.started_containers_total.inc(kind)
        self.started_containers_errors_total.inc(kind, code)

    def rejected(self, reason: str) -> None:
        """A pod was not let in."""
        extended = reason.startswith("OutOf") and reason not in _REJECTIONS
        self.admission_rejections_total.inc("OutOfExtendedResources" if extended else reason)

    def forget_pod(self, uid: str) -> None:
        """A pod is gone: nobody asks for its probes any more."""
        for labels in self._probes.pop(uid, ()):
            del self.prober_probe_total.values[labels]


def container_type(pod: Pod, name: str) -> str:
    """``container``, ``init_container`` or ``ephemeral_container``."""
    if any(one.name == name for one in pod.spec.init_containers):
        return "init_container"
    return "container" if any(one.name == name for one in pod.spec.containers) else "ephemeral_container"
