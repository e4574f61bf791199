"""A pod's status as users see it, from what the runtime shows: phase, conditions, container statuses. Pure.

Source: kubelet_pods.go (getPhase, convertToAPIContainerStatuses), pkg/kubelet/status/generate.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from kaa.api.clock import format_time
from kaa.api.scheme import to_builtins
from kaa.api.types.core_v1 import (
    ContainerState as StateStruct,
)
from kaa.api.types.core_v1 import (
    ContainerStateRunning,
    ContainerStateTerminated,
    ContainerStateWaiting,
    ContainerStatus,
    ContainerUser,
    HostIP,
    LinuxContainerUser,
    Pod,
    PodCondition,
    PodIP,
    PodStatus,
    ResourceRequirements,
    ResourceStatus,
    VolumeMount,
    VolumeMountStatus,
)
from kaa.runtime.base import Container, ContainerState

from .admission import Pending
from .cgroups import qos_class
from .pod_plan import (
    Ending,
    Health,
    PodView,
    Waiting,
    image_of,
    is_beginning_anew,
    is_sidecar,
    life_of,
    may_begin_anew,
    pod_life,
    resources_to_change,
    should_restart,
    should_retry_init,
)

ID_PREFIX = "kaa://"
_ENDED = ("Succeeded", "Failed")
#: Conditions that the kubelet owns, in the order it writes them.
RESIZES = ("PodResizePending", "PodResizeInProgress")  # there only while they are true
OWNED = (
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    *RESIZES,
    "AllContainersRestarting",
    "DisruptionTarget",
)


@dataclass(frozen=True, slots=True)
class Seen:
    """All that a status depends on beside the pod itself. ``messages`` {container id: its termination message}."""

    view: PodView
    now: float
    waiting: Mapping[str, Waiting] = field(default_factory=dict)
    health: Mapping[str, Health] = field(default_factory=dict)
    messages: Mapping[str, str] = field(default_factory=dict)
    host_ips: tuple[str, ...] = ()
    ending: Ending | None = None
    again: frozenset[str] = frozenset()  #: ids of containers that were stopped for another run
    gone: bool = False  #: nothing of the pod runs any more, nor will
    pending: Pending | None = None  #: why the pod does not get the resources that its spec wants
    resizing: bool = False  #: it was given other resources, which its containers do not have yet
    resize_error: str = ""
    devices: Mapping[str, tuple[ResourceStatus, ...]] = field(
        default_factory=dict
    )  #: those of a container, and their health
    recursive_read_only: bool = False  #: whether the runtime makes mounts inside of read-only ones read-only, too


def pod_status(pod: Pod, seen: Seen) -> PodStatus:
    """The status to publish; what others wrote into the old one is kept."""
    old = pod.status
    inits = _statuses(pod, pod.spec.init_containers, seen, init=True)
    mains = _statuses(pod, pod.spec.containers, seen)
    ephemerals = _statuses(pod, pod.spec.ephemeral_containers, seen, ephemeral=True)
    phase = _phase(pod, inits, mains, anew=is_beginning_anew(pod, seen.view))
    if old.phase in ("Succeeded", "Failed"):
        phase = old.phase
    elif seen.ending is not None and seen.ending.reason:
        phase = "Failed"
    elif seen.gone and phase not in ("Succeeded", "Failed"):
        clean = bool(mains) and all(s.state.terminated and s.state.terminated.exit_code == 0 for s in mains)
        phase = "Succeeded" if clean else "Failed"
    if phase in _ENDED and old.phase not in _ENDED and seen.view.running():
        phase = old.phase or "Pending"  # what runs still has what the pod was given
    ips = _pod_ips(pod, seen)
    status = replace(
        old,
        phase=phase,
        host_ip=seen.host_ips[0] if seen.host_ips else None,
        host_ips=tuple(HostIP(ip=ip) for ip in seen.host_ips),
        pod_ip=ips[0] if ips else None,
        pod_ips=tuple(PodIP(ip=ip) for ip in ips),
        start_time=old.start_time or format_time(seen.now),
        init_container_statuses=inits,
        container_statuses=mains,
        ephemeral_container_statuses=ephemerals,
        qos_class=old.qos_class or qos_class(pod),
        observed_generation=pod.metadata.generation,
        allocated_resources=dict(pod.spec.resources.requests) if pod.spec.resources is not None else {},
        resources=_pod_resources(pod, seen),
    )
    if seen.ending is not None and seen.ending.reason and phase in _ENDED:
        status = replace(status, reason=seen.ending.reason, message=seen.ending.message)
    return replace(status, conditions=_conditions(pod, status, seen))


def _pod_ips(pod: Pod, seen: Seen) -> tuple[str, ...]:
    if pod.spec.host_network:
        return seen.host_ips if seen.view.sandboxes else ()
    if seen.view.sandbox is not None:
        return seen.view.sandbox.ips
    return tuple(ip.ip for ip in pod.status.pod_ips)


# -------------------------------------------------------------------------------------------------------- containers


def _statuses(
    pod: Pod, specs: Iterable[Any], seen: Seen, *, init: bool = False, ephemeral: bool = False
) -> tuple[ContainerStatus, ...]:
    return tuple(_container(pod, spec, seen, init=init, ephemeral=ephemeral) for spec in specs)


def _has_run(pod: Pod, name: str) -> bool:
    """Whether the container was ever seen to run; one that its init containers held back never did, and goes on waiting."""
    known = _known(pod, name)
    return known is not None and (known.state.running is not None or known.last_state.terminated is not None)


def _container(pod: Pod, spec: Any, seen: Seen, *, init: bool, ephemeral: bool) -> ContainerStatus:
    current = seen.view.latest(spec.name)
    if current is not None and current.state is ContainerState.CREATED:
        current, created = seen.view.previous(spec.name), current
    else:
        created = current
    if current is None and (seen.gone or pod.status.phase in ("Succeeded", "Failed")):
        known = _known(pod, spec.name)
        if known is not None and known.state.terminated is not None:
            return known
    waiting = seen.waiting.get(spec.name)
    previous = seen.view.previous(spec.name)
    state = StateStruct()
    last = StateStruct()
    if current is None or (
        current.state is ContainerState.EXITED and (waiting is not None or _is_followed(pod, current, seen))
    ):
        state = StateStruct(waiting=_waiting(pod, waiting))
        last = _terminated(current, seen) if current is not None else last
    elif current.state is ContainerState.EXITED:
        state = _terminated(current, seen)
        last = _terminated(previous, seen) if previous is not None else last
    else:
        state = StateStruct(running=ContainerStateRunning(started_at=format_time(current.started_at)))
        last = _terminated(previous, seen) if previous is not None else last
    if current is None and seen.gone and waiting is None and _has_run(pod, spec.name):
        state = StateStruct(
            terminated=ContainerStateTerminated(
                exit_code=137,
                reason="ContainerStatusUnknown",
                message="The container could not be located when the pod was terminated",
            )
        )
    running = state.running is not None
    health = seen.health.get(current.id, Health()) if current is not None else Health()
    plain_init = init and not is_sidecar(spec)
    if plain_init:
        ready = state.terminated is not None and state.terminated.exit_code == 0
    else:
        ready = running and health.started and health.ready and not ephemeral
    shown = created or current
    counted = current or created  # a restart counts once it has started, so that nobody sees it counted and not ready
    return ContainerStatus(
        name=spec.name,
        image=(image_of(current) if current is not None else "") or spec.image or "",
        image_id=current.image_ref if current is not None else "",
        container_id=ID_PREFIX + shown.id if shown is not None else None,
        restart_count=counted.attempt if counted is not None else 0,
        ready=ready,
        started=running and health.started,
        state=state,
        last_state=last,
        resources=_resources(pod, spec, current) if running and not ephemeral else None,
        allocated_resources=dict(spec.resources.requests) if running and not ephemeral else {},
        allocated_resources_status=() if init or ephemeral else seen.devices.get(spec.name, ()),
        volume_mounts=_mounts(spec, seen),
        user=_user(current),
    )


def _is_followed(pod: Pod, run: Container, seen: Seen) -> bool:
    """Whether another run is to come, though none would by the policy: it was stopped for that, or its pod began anew.

    Such a run is not shown as the end, from which the API server lets no container come back.
    """
    followed = run.id in seen.again or life_of(run) < pod_life(pod, seen.view)
    return seen.ending is None and not seen.gone and followed


def _resources(pod: Pod, spec: Any, current: Container | None) -> ResourceRequirements:
    """What a container has: what it was allocated, or while it still has something else, what was said last."""
    known = _known(pod, spec.name)
    if current is not None and resources_to_change(pod, spec, current) and known is not None and known.resources:
        return known.resources
    given: ResourceRequirements = spec.resources
    return given


def _pod_resources(pod: Pod, seen: Seen) -> ResourceRequirements | None:
    """What a pod has as a whole, where its spec says so: what it was given, or during a change what it had before."""
    return pod.status.resources if seen.resizing and pod.status.resources is not None else pod.spec.resources


def _known(pod: Pod, name: str) -> ContainerStatus | None:
    """What the pod's status said of a container that the runtime no longer has."""
    status = pod.status
    every = (*status.init_container_statuses, *status.container_statuses, *status.ephemeral_container_statuses)
    return next((s for s in every if s.name == name), None)


def known_health(pod: Pod | None, container_id: str) -> Health | None:
    """What a pod's status says of a running container's probes: the verdict of whoever wrote it last; None when nothing.

    Readiness counts only while the pod is ready too: the node controller takes that away from a node that is silent.
    Source: pkg/kubelet/prober/prober_manager.go (isContainerStarted, setReadyStateOnKubeletRestart).
    """
    if pod is None:
        return None
    status = pod.status
    for one in (*status.init_container_statuses, *status.container_statuses):
        if one.container_id == ID_PREFIX + container_id and one.state.running is not None:
            ready = any(c.type == "Ready" and c.status == "True" for c in status.conditions)
            return Health(started=bool(one.started), ready=one.ready and ready)
    return None


def _user(container: Container | None) -> ContainerUser | None:
    if container is None or container.user is None:
        return None
    found = container.user
    return ContainerUser(linux=LinuxContainerUser(uid=found.uid, gid=found.gid, supplemental_groups=found.groups))


def _mounts(spec: Any, seen: Seen) -> tuple[VolumeMountStatus, ...]:
    return tuple(
        VolumeMountStatus(
            name=m.name,
            mount_path=m.mount_path,
            read_only=m.read_only or None,
            recursive_read_only=_depth(m, seen) if m.read_only else None,
        )
        for m in spec.volume_mounts
    )


def _depth(mount: VolumeMount, seen: Seen) -> str:
    """Whether the mounts inside of a read-only one are as well."""
    asked = mount.recursive_read_only or "Disabled"
    return "Enabled" if asked != "Disabled" and seen.recursive_read_only else "Disabled"


def _waiting(pod: Pod, waiting: Waiting | None) -> ContainerStateWaiting:
    if waiting is not None:
        return ContainerStateWaiting(reason=waiting.reason, message=waiting.message or None)
    return ContainerStateWaiting(reason="PodInitializing" if pod.spec.init_containers else "ContainerCreating")


def _terminated(container: Container, seen: Seen) -> StateStruct:
    return StateStruct(
        terminated=ContainerStateTerminated(
            exit_code=container.exit_code,
            signal=None,
            reason=container.reason or ("Completed" if container.exit_code == 0 else "Error"),
            message=seen.messages.get(container.id) or container.message or None,
            started_at=format_time(container.started_at),
            finished_at=format_time(container.finished_at),
            container_id=ID_PREFIX + container.id,
        )
    )


def _ended(status: ContainerStatus) -> ContainerStateTerminated | None:
    """How the last run ended, if none runs now."""
    if status.state.terminated is not None:
        return status.state.terminated
    return status.last_state.terminated if status.state.waiting is not None else None


# -------------------------------------------------------------------------------------------------------- phase


def _phase(
    pod: Pod,
    inits: tuple[ContainerStatus, ...],
    mains: tuple[ContainerStatus, ...],
    *,
    anew: bool,
) -> str:
    begun = any(s.state.running or _ended(s) for s in mains)
    if begun and anew:
        return "Running"
    for spec, status in zip(pod.spec.init_containers, inits, strict=True):
        ended = _ended(status)
        if is_sidecar(spec):
            if not begun and not status.started:
                return "Pending"
        elif ended is None:
            if not begun:
                return "Pending"
        elif ended.exit_code != 0 and not begun:
            return "Pending" if should_retry_init(pod, spec, ended.exit_code) else "Failed"
    if any(s.state.running for s in mains) and all(s.state.running or _ended(s) for s in mains):
        return "Running"
    if not all(_ended(s) for s in mains):
        return "Pending"
    ends = [e for e in map(_ended, mains) if e is not None]
    specs = zip(pod.spec.containers, ends, strict=True)
    if any(should_restart(pod, spec, end.exit_code) for spec, end in specs):
        return "Running"
    if any(s.state.waiting for s in mains):  # for a run that no policy asks for: it was stopped for that
        return "Running"
    if any(s.state.running for spec, s in zip(pod.spec.init_containers, inits, strict=True) if is_sidecar(spec)):
        return "Running"
    return "Succeeded" if all(end.exit_code == 0 for end in ends) else "Failed"


# -------------------------------------------------------------------------------------------------------- conditions


@dataclass(frozen=True, slots=True)
class _Verdict:
    true: bool
    reason: str = ""
    message: str = ""


def _conditions(pod: Pod, status: PodStatus, seen: Seen) -> tuple[PodCondition, ...]:
    containers_ready = _containers_ready(pod, status)
    verdicts = {
        "PodReadyToStartContainers": _Verdict(_network_ready(pod, seen)),
        "Initialized": _initialized(pod, status),
        "Ready": _ready(pod, status, containers_ready),
        "ContainersReady": containers_ready,
        "PodScheduled": _Verdict(True),
    }
    if may_begin_anew(pod):
        verdicts["AllContainersRestarting"] = _restarting(pod, status, seen)
    if seen.pending is not None:
        verdicts["PodResizePending"] = _Verdict(True, seen.pending.reason, seen.pending.message)
    if seen.resizing:
        verdicts["PodResizeInProgress"] = _Verdict(True, "Error" if seen.resize_error else "", seen.resize_error)
    if seen.ending is not None and seen.ending.disrupted and status.phase in _ENDED:
        verdicts["DisruptionTarget"] = _Verdict(True, "TerminationByKubelet", seen.ending.message)
    old = {c.type: c for c in pod.status.conditions}
    made = [_condition(name, verdict, old.get(name), pod, seen.now) for name, verdict in verdicts.items()]
    return (*made, *(c for c in pod.status.conditions if c.type not in verdicts and c.type not in RESIZES))


def _condition(name: str, verdict: _Verdict, old: PodCondition | None, pod: Pod, now: float) -> PodCondition:
    word = "True" if verdict.true else "False"
    same = old is not None and old.status == word
    return PodCondition(
        type=name,
        status=word,
        reason=verdict.reason or None,
        message=verdict.message or None,
        last_transition_time=old.last_transition_time if same and old is not None else format_time(now),
        observed_generation=pod.metadata.generation,
    )


def _network_ready(pod: Pod, seen: Seen) -> bool:
    sandbox = seen.view.sandbox
    return not seen.gone and sandbox is not None and (bool(pod.spec.host_network) or bool(sandbox.ips))


def _restarting(pod: Pod, status: PodStatus, seen: Seen) -> _Verdict:
    """True from the exit that restarts all containers until none of them runs any more."""
    if status.phase in ("Succeeded", "Failed"):
        return _Verdict(False, "PodCompleted" if status.phase == "Succeeded" else "PodFailed")
    life = pod_life(pod, seen.view)
    if any(life_of(run) < life for run in seen.view.running()):
        return _Verdict(True, "RestartAllContainersStarted", "container exited with restart policy rule")
    return _Verdict(False)


def _initialized(pod: Pod, status: PodStatus) -> _Verdict:
    if status.phase == "Succeeded":
        return _Verdict(True, "PodCompleted")
    begun = any(s.state.running or _ended(s) for s in status.container_statuses)
    pending = []
    for spec, shown in zip(pod.spec.init_containers, status.init_container_statuses, strict=True):
        if begun:
            break
        if not (shown.started if is_sidecar(spec) else shown.ready):
            pending.append(shown.name)
    if not pending:
        return _Verdict(True)
    return _Verdict(False, "ContainersNotInitialized", f"containers with incomplete status: [{' '.join(pending)}]")


def _containers_ready(pod: Pod, status: PodStatus) -> _Verdict:
    if status.phase == "Succeeded":
        return _Verdict(False, "PodCompleted")
    if status.phase == "Failed":
        return _Verdict(False, "PodFailed")
    sidecars = [
        shown
        for spec, shown in zip(pod.spec.init_containers, status.init_container_statuses, strict=True)
        if is_sidecar(spec)
    ]
    unready = [s.name for s in (*sidecars, *status.container_statuses) if not s.ready]
    if not unready:
        return _Verdict(True)
    return _Verdict(False, "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]")


def _ready(pod: Pod, status: PodStatus, containers_ready: _Verdict) -> _Verdict:
    if not containers_ready.true:
        return containers_ready
    held = {c.type: c.status for c in pod.status.conditions}
    faults = []
    for gate in pod.spec.readiness_gates:
        name = gate.condition_type
        if name not in held:
            faults.append(f'corresponding condition of pod readiness gate "{name}" does not exist.')
        elif held[name] != "True":
            faults.append(f'the status of pod readiness gate "{name}" is not "True", but {held[name]}')
    return _Verdict(False, "ReadinessGatesNotReady", ", ".join(faults)) if faults else _Verdict(True)


# -------------------------------------------------------------------------------------------------------- patches


def status_patch(pod: Pod, old: PodStatus, new: PodStatus) -> dict[str, Any] | None:
    """The strategic merge patch that turns one status into another; None when nothing differs.

    Conditions merge by type, so those of others are left alone. The uid guards against a namesake.
    """
    if old == new:
        return None
    before, after = to_builtins(old), to_builtins(new)
    changes: dict[str, Any] = {}
    for name in sorted(set(before) | set(after)):
        if before.get(name) == after.get(name):
            continue
        if name == "conditions":
            held = {c["type"]: c for c in before.get(name, ())}
            ours = [c for c in after.get(name, ()) if c["type"] in OWNED and held.get(c["type"]) != c]
            changed = [_with_nulls(held.get(c["type"], {}), c) for c in ours]
            kept = {c["type"] for c in after.get(name, ())}
            changed += [{"$patch": "delete", "type": each} for each in RESIZES if each in held and each not in kept]
            if changed:
                changes["$setElementOrder/conditions"] = [{"type": c["type"]} for c in after[name]]
                changes[name] = changed
        elif name in ("podIPs", "hostIPs"):
            changes[name] = [*after.get(name, ()), {"$patch": "replace"}]
        else:
            changes[name] = after.get(name)
    if not changes:
        return None
    return {"metadata": {"uid": pod.metadata.uid}, "status": changes}


def _with_nulls(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    return {**{key: None for key in before if key not in after}, **after}
