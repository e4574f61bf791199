"""Whether a node has room for what a pod asks: when it arrives, and when its resources are changed in place. Pure.

    wanted by the API server ── fits ──> allocated to the pod ── runtime ──> what its containers have

Source: pkg/kubelet/allocation/allocation_manager.go, pkg/kubelet/lifecycle/predicate.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from kaa.api import quantity, scheme
from kaa.api.placement import attracts
from kaa.api.types.core_v1 import Container, Node, Pod, ResourceRequirements

from .cgroups import pod_amount

_FITTED = ("cpu", "memory", "ephemeral-storage")
_RESIZED = ("memory", "cpu")  # in the order in which upstream names a shortage


class Shortage(msgspec.Struct, frozen=True):
    """What a node lacks for a pod; cpu in thousandths."""

    resource: str
    requested: int
    used: int
    capacity: int

    @property
    def reason(self) -> str:
        return f"OutOf{self.resource}"

    def __str__(self) -> str:
        return (
            f"Node didn't have enough resource: {self.resource}, requested: {self.requested}, used: {self.used},"
            f" capacity: {self.capacity}"
        )


def requests_of(pod: Pod) -> dict[str, int]:
    """What a pod takes of a node: {resource: amount}, cpu in thousandths, and itself."""
    listed = [one.resources for one in (*pod.spec.init_containers, *pod.spec.containers)]
    if pod.spec.resources is not None:
        listed.append(pod.spec.resources)
    huge = {name for one in listed for name in (*one.requests, *one.limits) if name.startswith("hugepages-")}
    return {"pods": 1, **{name: pod_amount(pod, "requests", name) or 0 for name in (*_FITTED, *sorted(huge))}}


def shortage(asked: Mapping[str, int], used: Mapping[str, int], allocatable: Mapping[str, str]) -> Shortage | None:
    """The first thing that a node lacks for a pod that asks so much beside what others use."""
    for resource, requested in asked.items():
        if requested and resource in allocatable:
            taken, capacity = used.get(resource, 0), _amount(resource, allocatable[resource])
            if requested + taken > capacity:
                return Shortage(resource, requested, taken, capacity)
    return None


def _amount(resource: str, text: str) -> int:
    return quantity.millis(text) if resource == "cpu" else quantity.whole(text)


class Refusal(msgspec.Struct, frozen=True):
    """Why a pod must not begin on this node."""

    reason: str
    message: str


HostPort = tuple[str, str, int]  #: (address, protocol, port)
_EVERY_ADDRESS = ("", "0.0.0.0", "::")


def host_ports(pod: Pod) -> frozenset[HostPort]:
    """The node's ports that a pod takes for as long as it is here."""
    sidecars = [one for one in pod.spec.init_containers if one.restart_policy == "Always"]
    ports = (port for one in (*pod.spec.containers, *sidecars) for port in one.ports if port.host_port)
    return frozenset((port.host_ip or "", port.protocol or "TCP", port.host_port or 0) for port in ports)


def ports_clash(wanted: frozenset[HostPort], taken: frozenset[HostPort]) -> bool:
    """Whether two pods would listen on the same port of the same address."""
    return any(
        mine[1:] == its[1:] and (mine[0] == its[0] or mine[0] in _EVERY_ADDRESS or its[0] in _EVERY_ADDRESS)
        for mine in wanted
        for its in taken
    )


def is_choosy(pod: Pod) -> bool:
    """Whether a pod's spec says which nodes it may be on."""
    return bool(pod.spec.node_selector) or (
        pod.spec.affinity is not None and pod.spec.affinity.node_affinity is not None
    )


def misplaced(pod: Pod, node: Node) -> Refusal | None:
    """Why a pod that was bound to this node may not be on it."""
    return None if attracts(pod, node) else Refusal("NodeAffinity", "Predicate NodeAffinity failed")


_SYSTEM, _SYSTEM_LABEL = "linux", "kubernetes.io/os"


def for_another_system(pod: Pod) -> Refusal | None:
    """The refusal of a pod that says to be for another operating system than this node's."""
    if pod.metadata.labels.get(_SYSTEM_LABEL, _SYSTEM) != _SYSTEM:
        text = f"Failed to admit pod as the `{_SYSTEM_LABEL}` label doesn't match node label"
        return Refusal("PodOSSelectorNodeLabelDoesNotMatch", text)
    if pod.spec.os is not None and pod.spec.os.name != _SYSTEM:
        return Refusal("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS")
    return None


SAFE_SYSCTLS = frozenset(
    {"kernel.shm_rmid_forced"}
    | {
        f"net.ipv4.{name}"
        for name in (
            "ip_local_port_range",
            "ip_local_reserved_ports",
            "ip_unprivileged_port_start",
            "ping_group_range",
            "tcp_fin_timeout",
            "tcp_keepalive_intvl",
            "tcp_keepalive_probes",
            "tcp_keepalive_time",
            "tcp_rmem",
            "tcp_syncookies",
            "tcp_wmem",
        )
    }
)


def forbidden_sysctl(pod: Pod, allowed: Iterable[str] = ()) -> Refusal | None:
    """The refusal of a sysctl that other pods or the node would feel. ``allowed``: names and ``prefix*`` of unsafe ones."""
    of_pod = pod.spec.security_context
    for sysctl in of_pod.sysctls if of_pod is not None else ():
        name = sysctl.name.replace("/", ".")
        why = ""
        if name not in SAFE_SYSCTLS and not any(fnmatchcase(name, pattern) for pattern in allowed):
            why = "not allowlisted"
        elif name.startswith("net.") and pod.spec.host_network:
            why = "not allowed with host net enabled"
        elif name.startswith("kernel.") and pod.spec.host_ipc:
            why = "not allowed with host ipc enabled"
        if why:
            return Refusal("SysctlForbidden", f'forbidden sysctl: "{sysctl.name}" {why}')
    return None


_APPARMOR = Path("/sys/module/apparmor/parameters/enabled")


def lacking_apparmor(pod: Pod, enabled: Path = _APPARMOR) -> Refusal | None:
    """The refusal of a pod that a machine without AppArmor cannot confine. Source: pkg/security/apparmor/validate.go."""
    contexts: list[Any] = [pod.spec.security_context]
    contexts += [one.security_context for one in (*pod.spec.init_containers, *pod.spec.containers)]
    profiles = (context.app_armor_profile for context in contexts if context is not None)
    if all(profile is None or profile.type == "Unconfined" for profile in profiles):
        return None
    if enabled.exists() and enabled.read_text().startswith("Y"):
        return None
    return Refusal("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host")


def wants_strict_groups(pod: Pod) -> bool:
    context = pod.spec.security_context
    return context is not None and context.supplemental_groups_policy == "Strict"


NO_STRICT_GROUPS = Refusal(
    "SupplementalGroupsPolicyNotSupported", "SupplementalGroupsPolicy=Strict is not supported in this node"
)


# -------------------------------------------------------------------------------------------------------- resizing


class Pending(msgspec.Struct, frozen=True):
    """Why a wanted size is not given: ``Infeasible`` here at all, or ``Deferred`` until there is room."""

    reason: str
    message: str


def pending(
    pod: Pod, used: Mapping[str, int], allocatable: Mapping[str, str], *, static: bool = False
) -> Pending | None:
    """None when a pod may have the resources that its spec now wants, beside what other pods use."""
    if static:
        return Pending("Infeasible", "In-place resize of static-pods is not supported")
    asked = requests_of(pod)
    for resource in _RESIZED:
        short = shortage({resource: asked[resource]}, {}, allocatable)
        if short is not None:
            text = f"{resource}, requested: {short.requested}, capacity: {short.capacity}"
            return Pending("Infeasible", f"Node didn't have enough capacity: {text}")
    lacking = shortage(asked, used, allocatable)
    return Pending("Deferred", str(lacking)) if lacking is not None else None


def with_resources(pod: Pod, held: Pod) -> Pod:
    """``pod`` with the resources that ``held``, the same pod before, has been given."""
    spec = pod.spec
    given = replace(
        spec,
        containers=_given(spec.containers, held.spec.containers),
        init_containers=_given(spec.init_containers, held.spec.init_containers),
        resources=held.spec.resources,
    )
    return pod if given == spec else replace(pod, spec=given)


def _given(wanted: tuple[Container, ...], held: tuple[Container, ...]) -> tuple[Container, ...]:
    before = {one.name: one.resources for one in held}
    return tuple(replace(one, resources=before.get(one.name, one.resources)) for one in wanted)


def given_before(pod: Pod) -> Pod:
    """A pod of the kubelet's last life with the resources that its status says it was given."""
    known = {one.name: one for one in (*pod.status.container_statuses, *pod.status.init_container_statuses)}

    def restored(containers: tuple[Container, ...]) -> tuple[Container, ...]:
        return tuple(replace(one, resources=_restored(one)) for one in containers)

    def _restored(one: Container) -> ResourceRequirements:
        status = known.get(one.name)
        if status is None or status.resources is None:
            return one.resources
        requests = {**status.resources.requests, **status.allocated_resources}
        return replace(one.resources, requests=requests, limits=status.resources.limits)

    spec = pod.spec
    given = replace(
        spec,
        containers=restored(spec.containers),
        init_containers=restored(spec.init_containers),
        resources=_as_given(spec.resources, pod.status.allocated_resources, pod.status.resources),
    )
    return pod if given == spec else replace(pod, spec=given)


def _as_given(
    wanted: ResourceRequirements | None, requests: Mapping[str, str], had: ResourceRequirements | None
) -> ResourceRequirements | None:
    """A pod's resources as a whole, as its status says it was given them."""
    if wanted is None or had is None:
        return wanted
    return replace(wanted, requests={**had.requests, **requests}, limits=had.limits)


class _Summary(msgspec.Struct, omit_defaults=True):
    init_containers: list[dict[str, object]] = msgspec.field(default_factory=list, name="initContainers")
    containers: list[dict[str, object]] = msgspec.field(default_factory=list)
    generation: int = 0
    error: str = ""


def resize_text(what: str, pod: Pod, error: str = "") -> str:
    """An event's text about a resize: ``what`` happened, to which resources, of which generation of the pod."""

    def of(containers: tuple[Container, ...]) -> list[dict[str, object]]:
        return [{"name": one.name, "resources": scheme.to_builtins(one.resources)} for one in containers]

    summary = _Summary(of(pod.spec.init_containers), of(pod.spec.containers), pod.metadata.generation or 0, error)
    return f"Pod resize {what}: {msgspec.json.encode(summary).decode()}"
