"""What is looked at when somebody scrapes ``/metrics``: what runs now, what volumes hold, the process itself.

Source: pkg/kubelet/server/metrics, pkg/kubelet/metrics/collectors, component-base metrics/version.
"""

from __future__ import annotations

import platform
import resource
from collections import Counter as Tally
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kaa.runtime.base import ContainerState

from . import hardware
from .exposition import Family

if TYPE_CHECKING:
    from ..kubelet import Kubelet
    from ..memory_qos import Classes
    from ..pod_worker import PodWorker
    from .summary import Snapshot, VolumeSample


def now_of(kubelet: Kubelet) -> Iterator[Family]:
    """What merely is: pods and containers of the node, its name, the log disk's use."""
    yield from _pods(kubelet)
    named = Family("kubelet_node_name", "gauge", "[ALPHA] The node's name. The count is always 1.", ("node",))
    named.add(1, kubelet.config.node_name)
    yield named
    cgroups = kubelet.config.cgroups
    if kubelet.config.memory_qos is not None and cgroups is not None:
        yield from _kept(cgroups.kept)
    yield from hardware.now_of(kubelet.hardware.cpus, kubelet.plugins.claims)


def _kept(classes: Classes) -> Iterator[Family]:
    """Memory that is not reclaimed from pods, with memory QoS."""
    for word, amount, what in (("min", classes.all, "hard"), ("low", classes.burstable, "soft")):
        made = Family(
            f"kubelet_memory_qos_node_memory_{word}_bytes",
            "gauge",
            f"[ALPHA] Total memory.{word} ({what} protection) in bytes set by the kubelet for pods on the node.",
        )
        made.add(amount)
        yield made


def _pods(kubelet: Kubelet) -> Iterator[Family]:
    workers = list(kubelet.workers.values())
    running = Family("kubelet_running_pods", "gauge", "[BETA] Number of pods that have a running pod sandbox")
    running.add(sum(one.view.sandbox is not None for one in workers))
    states: Tally[str] = Tally(one.state.value for worker in workers for one in worker.view.containers)
    containers = Family(
        "kubelet_running_containers", "gauge", "[BETA] Number of containers currently running", ("container_state",)
    )
    for state in ContainerState:
        if states[state.value]:
            containers.add(states[state.value], state.value)
    static = ("static",)
    desired = Family(
        "kubelet_desired_pods",
        "gauge",
        "[ALPHA] The number of pods the kubelet is being instructed to run. static is true if the pod is not from the"
        " apiserver.",
        static,
    )
    active = Family(
        "kubelet_active_pods",
        "gauge",
        "[ALPHA] The number of pods the kubelet considers active and which are being considered when admitting new pods."
        " static is true if the pod is not from the apiserver.",
        static,
    )
    for value in (False, True):
        mine = [one for one in workers if one.static is value]
        shown = "true" if value else ""
        desired.add(sum(not one.removed for one in mine), shown)
        active.add(sum(one.active for one in mine), shown)
    mirrors = Family(
        "kubelet_mirror_pods",
        "gauge",
        "[ALPHA] The number of mirror pods the kubelet will try to create (one per admitted static pod)",
    )
    mirrors.add(sum(one.static for one in workers))
    debugging = Family(
        "kubelet_managed_ephemeral_containers",
        "gauge",
        "[ALPHA] Current number of ephemeral containers in pods managed by this kubelet.",
    )
    debugging.add(sum(len(one.pod.spec.ephemeral_containers) for one in workers))
    yield from (running, containers, desired, active, mirrors, debugging, _working(workers), *_resizes(workers))


def _working(workers: list[PodWorker]) -> Family:
    made = Family(
        "kubelet_working_pods",
        "gauge",
        "[ALPHA] Number of pods the kubelet is actually running, broken down by lifecycle phase, whether the pod is desired,"
        " orphaned, or runtime only (also orphaned), and whether the pod is static. An orphaned pod has been removed from"
        " local configuration or force deleted in the API and consumes resources that are not otherwise visible.",
        ("lifecycle", "config", "static"),
    )
    held = Tally((one.lifecycle, "orphan" if one.removed else "desired", one.static) for one in workers)
    for lifecycle in ("sync", "terminating", "terminated"):
        for config in ("desired", "orphan"):
            for static in (False, True):
                made.add(held[lifecycle, config, static], lifecycle, config, "true" if static else "")
        made.add(0, lifecycle, "runtime_only", "unknown")  # a sandbox without a pod is removed as it is found
    return made


def _resizes(workers: list[PodWorker]) -> Iterator[Family]:
    """Pods that wait for other resources, or are being given them."""
    pending = Family("kubelet_pod_pending_resizes", "gauge", "[ALPHA] Number of pending resizes for pods.", ("reason",))
    waiting = [one.allocation.pending.reason.lower() for one in workers if one.allocation.pending is not None]
    for reason, count in sorted(Tally(waiting).items()):
        pending.add(count, reason)
    going = Family("kubelet_pod_in_progress_resizes", "gauge", "[ALPHA] Number of in-progress resizes for pods.")
    going.add(sum(one.allocation.resizing for one in workers))
    yield from (pending, going)


def volumes(snapshot: Snapshot) -> Iterator[Family]:
    """What claims' volumes hold, and what containers' logs do."""
    fields = (
        ("capacity_bytes", "Capacity in bytes of the volume", "capacity_bytes"),
        ("available_bytes", "Number of available bytes in the volume", "available_bytes"),
        ("used_bytes", "Number of used bytes in the volume", "used_bytes"),
        ("inodes", "Maximum number of inodes in the volume", "inodes"),
        ("inodes_free", "Number of free inodes in the volume", "inodes_free"),
        ("inodes_used", "Number of used inodes in the volume", "inodes_used"),
    )
    claims = {(pod.namespace, one.claim): one for pod in snapshot.pods for one in pod.volumes if one.claim}
    for name, help, field in fields:
        yield _of_claims(Family(f"kubelet_volume_stats_{name}", "gauge", f"[ALPHA] {help}", _CLAIM), claims, field)
    logs = Family(
        "kubelet_container_log_filesystem_used_bytes",
        "gauge",
        "[ALPHA] Bytes used by the container's logs on the filesystem.",
        ("uid", "namespace", "pod", "container"),
    )
    for pod in snapshot.pods:
        for one in pod.containers:
            if one.logs is not None and one.logs.used_bytes is not None:
                logs.add(one.logs.used_bytes, pod.uid, pod.namespace, pod.name, one.name)
    yield logs


_CLAIM = ("namespace", "persistentvolumeclaim")


def _of_claims(family: Family, claims: dict[tuple[str, str], VolumeSample], field: str) -> Family:
    for (namespace, claim), one in claims.items():
        value = getattr(one.space, field)
        if value is not None:
            family.add(value, namespace, claim)
    return family


def process(version: str, now: float) -> Iterable[Family]:
    """What every component tells of its process and its build."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    memory = Path("/proc/self/statm").read_text().split()
    page = resource.getpagesize()
    started = now - _age_s()
    figures: tuple[tuple[str, str, float], ...] = (
        ("cpu_seconds_total", "Total user and system CPU time spent in seconds.", usage.ru_utime + usage.ru_stime),
        ("max_fds", "Maximum number of open file descriptors.", resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        ("open_fds", "Number of open file descriptors.", len(list(Path("/proc/self/fd").iterdir()))),
        ("resident_memory_bytes", "Resident memory size in bytes.", int(memory[1]) * page),
        ("start_time_seconds", "Start time of the process since unix epoch in seconds.", round(started, 2)),
        ("virtual_memory_bytes", "Virtual memory size in bytes.", int(memory[0]) * page),
    )
    for name, help, value in figures:
        family = Family(f"process_{name}", "counter" if name.endswith("_total") else "gauge", help)
        family.add(value)
        yield family
    yield _build(version)


def _age_s() -> float:
    """How long this process runs: the machine's uptime less the uptime at which it began."""
    began = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return uptime - began / 100.0


def _build(version: str) -> Family:
    labels = (
        "build_date", "compiler", "git_commit", "git_tree_state", "git_version", "go_version", "major", "minor", "platform",
    )  # fmt: skip
    family = Family(
        "kubernetes_build_info",
        "gauge",
        "[ALPHA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build"
        " date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.",
        labels,
    )
    major, minor, *_ = [*version.lstrip("v").split("."), "", ""]
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    compiler = platform.python_implementation().lower()
    family.add(1, "", compiler, "", "", version, "", major, minor, f"linux/{machine}")
    return family
