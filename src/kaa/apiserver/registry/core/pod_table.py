"""The table of pods: how many containers are ready, what state they are in together, how often they restarted.

Source: pkg/printers/internalversion/printers.go (printPod).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kaa.api.types.core_v1 import Container, ContainerStatus, Pod

from ..tables import NONE, age, shape, since

_LOST = "NodeLost"


def _cells(pod: Pod, now: float) -> Sequence[Any]:
    reason, ready, restarts, last = _summary(pod)
    total = len(pod.spec.containers) + sum(_is_sidecar(one) for one in pod.spec.init_containers)
    shown = str(restarts)
    if restarts and last:
        shown = f"{restarts} ({since(last, now)} ago)"
    ip = pod.status.pod_ips[0].ip if pod.status.pod_ips else ""
    return (
        pod.metadata.name or "",
        f"{ready}/{total}",
        reason,
        shown,
        age(pod.metadata, now),
        ip or NONE,
        pod.spec.node_name or NONE,
        pod.status.nominated_node_name or NONE,
        _gates(pod),
    )


TABLE = shape("core/pods", "Ready|Status|Restarts|Age|IP+|Node+|Nominated Node+|Readiness Gates+", _cells)


def _is_sidecar(one: Container) -> bool:
    return one.restart_policy == "Always"


def _gates(pod: Pod) -> str:
    if not pod.spec.readiness_gates:
        return NONE
    true = {condition.type for condition in pod.status.conditions if condition.status == "True"}
    met = sum(gate.condition_type in true for gate in pod.spec.readiness_gates)
    return f"{met}/{len(pod.spec.readiness_gates)}"


def _summary(pod: Pod) -> tuple[str, int, int, str]:
    """(status, ready containers, restarts, when the last restarted container ended)."""
    status = pod.status
    reason = status.reason or status.phase or ""
    if any(c.type == "PodScheduled" and c.reason == "SchedulingGated" for c in status.conditions):
        reason = "SchedulingGated"
    ready, restarts, last = 0, 0, ""
    inits = {one.name: one for one in pod.spec.init_containers}
    sidecar_restarts, sidecar_last = 0, ""
    initializing = False
    for n, one in enumerate(status.init_container_statuses):
        restarts += one.restart_count
        last = _later(last, one)
        sidecar = one.name in inits and _is_sidecar(inits[one.name])
        if sidecar:
            sidecar_restarts += one.restart_count
            sidecar_last = _later(sidecar_last, one)
        if one.state.terminated is not None and one.state.terminated.exit_code == 0:
            continue
        if sidecar and one.started:
            ready += one.ready
            continue
        reason, initializing = _init_reason(one, n, len(pod.spec.init_containers)), True
        break
    if not initializing or _initialized(pod):
        restarts, last = sidecar_restarts, sidecar_last
        running = False
        for one in reversed(status.container_statuses):
            restarts += one.restart_count
            last = _later(last, one)
            found = _container_reason(one)
            if found:
                reason = found
            elif one.ready and one.state.running is not None:
                running = True
                ready += 1
        if reason == "Completed" and running:
            reason = "Running" if _is_ready(pod) else "NotReady"
    if pod.metadata.deletion_timestamp is not None:
        if status.reason == _LOST:
            reason = "Unknown"
        elif status.phase not in ("Failed", "Succeeded"):
            reason = "Terminating"
    return reason, ready, restarts, last


def _later(last: str, one: ContainerStatus) -> str:
    ended = one.last_state.terminated
    return max(last, ended.finished_at or "") if ended is not None else last


def _init_reason(one: ContainerStatus, n: int, total: int) -> str:
    ended, waiting = one.state.terminated, one.state.waiting
    if ended is not None:
        if ended.reason:
            return f"Init:{ended.reason}"
        return f"Init:Signal:{ended.signal}" if ended.signal else f"Init:ExitCode:{ended.exit_code}"
    if waiting is not None and waiting.reason and waiting.reason != "PodInitializing":
        return f"Init:{waiting.reason}"
    return f"Init:{n}/{total}"


def _container_reason(one: ContainerStatus) -> str:
    ended, waiting = one.state.terminated, one.state.waiting
    if waiting is not None and waiting.reason:
        return waiting.reason
    if ended is None:
        return ""
    if ended.reason:
        return ended.reason
    return f"Signal:{ended.signal}" if ended.signal else f"ExitCode:{ended.exit_code}"


def _initialized(pod: Pod) -> bool:
    return any(c.type == "Initialized" and c.status == "True" for c in pod.status.conditions)


def _is_ready(pod: Pod) -> bool:
    return any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions)
