"""What is counted of CPUs, memory and devices that containers have alone: of managers, plugins and of who asks about them.

Source: pkg/kubelet/metrics/metrics.go; pkg/kubelet/cm (topologymanager, cpumanager, memorymanager, devicemanager, dra);
pkg/kubelet/apis/podresources.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kaa.api.clock import Clock

from .exposition import Counter, Family, Histogram, exponential

if TYPE_CHECKING:
    from ..claims.manager import ClaimManager
    from ..topology.cpus import StaticCpus

_ALIGNED = ("scope", "boundary")
_VERSION = ("server_api_version",)
#: {verb of PodResourcesLister: how its requests and errors are named}
_VERBS = {"List": "list", "GetAllocatableResources": "get_allocatable", "Get": "get"}
_OPERATION_HELP = (
    "[ALPHA] Latency histogram in seconds for the duration of handling all ResourceClaims referenced by a pod when the pod"
    " starts or stops. Identified by the name of the operation (PrepareResources or UnprepareResources) and separated by the"
    " success of the operation. The number of failed operations is provided through the histogram's overall count."
)


class HardwareMetrics:
    """Names of attributes are those of the metrics, without ``kubelet_``."""

    def __init__(self, clock: Clock) -> None:
        self.topology_manager_admission_requests_total = Counter(
            "kubelet_topology_manager_admission_requests_total",
            "[ALPHA] The number of admission requests where resources have to be aligned.",
        )
        self.topology_manager_admission_errors_total = Counter(
            "kubelet_topology_manager_admission_errors_total",
            "[ALPHA] The number of admission request failures where resources could not be aligned.",
        )
        self.topology_manager_admission_duration_ms = Histogram(
            "kubelet_topology_manager_admission_duration_ms",
            "[ALPHA] Duration in milliseconds to serve a pod admission request.",
            buckets=exponential(0.05, 2.0, 15),
        )
        self.container_aligned_compute_resources_count = Counter(
            "kubelet_container_aligned_compute_resources_count",
            "[ALPHA] Cumulative number of aligned compute resources allocated to containers by alignment type.",
            _ALIGNED,
        )
        self.container_aligned_compute_resources_failure_count = Counter(
            "kubelet_container_aligned_compute_resources_failure_count",
            "[ALPHA] Cumulative number of failures to allocate aligned compute resources to containers by alignment type.",
            _ALIGNED,
        )
        self.cpu_manager_pinning_requests_total = Counter(
            "kubelet_cpu_manager_pinning_requests_total",
            "[ALPHA] The number of cpu core allocations which required pinning.",
        )
        self.cpu_manager_pinning_errors_total = Counter(
            "kubelet_cpu_manager_pinning_errors_total",
            "[ALPHA] The number of cpu core allocations which required pinning failed.",
        )
        self.memory_manager_pinning_requests_total = Counter(
            "kubelet_memory_manager_pinning_requests_total",
            "[ALPHA] The number of memory pages allocations which required pinning.",
        )
        self.memory_manager_pinning_errors_total = Counter(
            "kubelet_memory_manager_pinning_errors_total",
            "[ALPHA] The number of memory pages allocations which required pinning that failed.",
        )
        self.device_plugin_registration_total = Counter(
            "kubelet_device_plugin_registration_total",
            "[ALPHA] Cumulative number of device plugin registrations. Broken down by resource name.",
            ("resource_name",),
        )
        self.device_plugin_alloc_duration_seconds = Histogram(
            "kubelet_device_plugin_alloc_duration_seconds",
            "[ALPHA] Duration in seconds to serve a device plugin Allocation request. Broken down by resource name.",
            ("resource_name",),
        )
        self.dra_operations_duration_seconds = Histogram(
            "dra_operations_duration_seconds", _OPERATION_HELP, ("operation_name", "is_error")
        )
        self.pod_resources_endpoint_requests_total = Counter(
            "kubelet_pod_resources_endpoint_requests_total",
            "[ALPHA] Cumulative number of requests to the PodResource endpoint. Broken down by server api version.",
            _VERSION,
        )
        self._counted = [one for one in self.__dict__.values() if isinstance(one, Counter | Histogram)]
        self._asked = {verb: _of_endpoint(verb, "requests", "") for verb in _VERBS}
        self._refused = {verb: _of_endpoint(verb, "errors", " which returned error") for verb in _VERBS}
        self._clock = clock
        for one in (
            self.topology_manager_admission_requests_total,
            self.topology_manager_admission_errors_total,
            self.cpu_manager_pinning_requests_total,
            self.cpu_manager_pinning_errors_total,
            self.memory_manager_pinning_requests_total,
            self.memory_manager_pinning_errors_total,
        ):
            one.inc(by=0)  # they are 0 before there is anything to count

    def families(self) -> Iterator[Family]:
        return (one.family() for one in (*self._counted, *self._asked.values(), *self._refused.values()))

    @contextmanager
    def admission(self) -> Iterator[None]:
        """A pod is let in, or not."""
        self.topology_manager_admission_requests_total.inc()
        began = self._clock.monotonic()
        try:
            yield
        finally:
            self.topology_manager_admission_duration_ms.observe((self._clock.monotonic() - began) * 1000)

    @contextmanager
    def pinning_cpus(self) -> Iterator[None]:
        """A container gets CPUs of its own."""
        with _counted(self.cpu_manager_pinning_requests_total, self.cpu_manager_pinning_errors_total):
            yield

    @contextmanager
    def pinning_memory(self) -> Iterator[None]:
        """A container gets memory of its own."""
        with _counted(self.memory_manager_pinning_requests_total, self.memory_manager_pinning_errors_total):
            yield

    def misaligned(self, scope: str, *, guaranteed: bool) -> None:
        self.topology_manager_admission_errors_total.inc()
        if guaranteed:
            self.container_aligned_compute_resources_failure_count.inc(scope, "numa_node")

    def aligned(self, scope: str) -> None:
        self.container_aligned_compute_resources_count.inc(scope, "numa_node")

    @contextmanager
    def operation(self, name: str) -> Iterator[None]:
        """A pod's claims are prepared, or taken back."""
        began, failed = self._clock.monotonic(), True
        try:
            yield
            failed = False
        finally:
            took = self._clock.monotonic() - began
            self.dra_operations_duration_seconds.observe(took, name, "true" if failed else "false")

    @contextmanager
    def allocation(self, resource: str) -> Iterator[None]:
        """A device plugin is asked for devices."""
        began = self._clock.monotonic()
        try:
            yield
        finally:
            self.device_plugin_alloc_duration_seconds.observe(self._clock.monotonic() - began, resource)

    @contextmanager
    def asked(self, verb: str, version: str) -> Iterator[None]:
        """Somebody asks who has what."""
        self.pod_resources_endpoint_requests_total.inc(version)
        self._asked[verb].inc(version)
        try:
            yield
        except Exception:
            self._refused[verb].inc(version)
            raise


@contextmanager
def _counted(requests: Counter, errors: Counter) -> Iterator[None]:
    requests.inc()
    try:
        yield
    except Exception:
        errors.inc()
        raise


def now_of(cpus: StaticCpus | None, claims: ClaimManager | None) -> Iterator[Family]:
    """Which CPUs and claims are in use, looked at when somebody scrapes."""
    if cpus is not None:
        yield from _cpus(cpus)
    if claims is not None:
        used = Family(
            "dra_resource_claims_in_use",
            "gauge",
            "[ALPHA] The number of ResourceClaims that are currently in use on the node, by driver name (driver_name label"
            " value) and across all drivers (special value <any> for driver_name). Note that the sum of all by-driver counts"
            " is not the total number of in-use ResourceClaims because the same ResourceClaim might use devices from"
            " different drivers. Instead, use the count for the <any> driver_name.",
            ("driver_name",),
        )
        used.add(len(claims.claims), "<any>")
        for name, count in sorted(Tally(name for one in claims.claims.values() for name in one.driver_state).items()):
            used.add(count, name)
        yield used


def _cpus(cpus: StaticCpus) -> Iterator[Family]:
    pool = Family(
        "kubelet_cpu_manager_shared_pool_size_millicores",
        "gauge",
        "[ALPHA] The size of the shared CPU pool for non-guaranteed QoS pods, in millicores.",
    )
    pool.add(len(cpus.shared - cpus.reserved) * 1000)
    held = Family(
        "kubelet_cpu_manager_exclusive_cpu_allocation_count",
        "gauge",
        "[ALPHA] The total number of CPUs exclusively allocated to containers running on this node",
    )
    held.add(len(cpus.held))
    nodes = Family(
        "kubelet_cpu_manager_allocation_per_numa",
        "gauge",
        "[ALPHA] Number of CPUs allocated per NUMA node",
        ("numa_node",),
    )
    for node, count in cpus.per_node().items():
        nodes.add(count, str(node))
    yield from (pool, held, nodes)


def _of_endpoint(verb: str, what: str, which: str) -> Counter:
    text = f"[ALPHA] Number of requests to the PodResource {verb} endpoint{which}. Broken down by server api version."
    return Counter(f"kubelet_pod_resources_endpoint_{what}_{_VERBS[verb]}", text, _VERSION)
