"""Pod specs, wherever they stand, and what an update of a pod may change.

Source: pkg/apis/core/validation/validation.go (ValidatePodSpec, ValidatePodUpdate).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields, names, quantity
from kaa.api.fields import FieldError, Path
from kaa.api.types.core_v1 import (
    Container,
    Pod,
    PodDNSConfig,
    PodSpec,
    PodTemplateSpec,
    ResourceRequirements,
    Toleration,
)

from ..memo import Memo
from . import containers, resources, security, selectors, volumes
from .common import NOT_NEGATIVE, SPEC, faults_of, ip_address
from .internal import diff
from .meta import annotation_faults, label_faults

RESTART_POLICIES = ("Always", "OnFailure", "Never")
_DNS_POLICIES = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")


def pod(obj: Pod) -> list[FieldError]:
    return list(_created(obj.spec))


@Memo
def _created(spec: PodSpec) -> tuple[FieldError, ...]:
    found = list(pod_spec(spec, SPEC))
    if spec.ephemeral_containers:
        found.append(fields.forbidden(SPEC.child("ephemeralContainers"), "cannot be set on create"))
    if spec.scheduling_gates and spec.node_name:
        detail = "cannot be set until all schedulingGates have been cleared"
        found.append(fields.forbidden(SPEC.child("nodeName"), detail))
    return tuple(found)


def pod_template(given: PodTemplateSpec, path: Path) -> Iterator[FieldError]:
    if given.metadata.labels:
        yield from label_faults(given.metadata.labels, path.child("labels"))
    if given.metadata.annotations:
        yield from annotation_faults(given.metadata.annotations, path.child("annotations"))
    yield from pod_spec(given.spec, path.child("spec"))
    if given.spec.ephemeral_containers:
        detail = "ephemeral containers not allowed in pod template"
        yield fields.forbidden(path.child("spec", "ephemeralContainers"), detail)


def pod_spec(spec: PodSpec, path: Path) -> Iterator[FieldError]:
    if spec.volumes:
        yield from volumes.volumes(spec.volumes, path.child("volumes"))
    facts = containers.PodFacts(
        volumes={volume.name: volume for volume in spec.volumes},
        claims=frozenset(claim.name for claim in spec.resource_claims),
        grace_period_s=30 if spec.termination_grace_period_seconds is None else spec.termination_grace_period_seconds,
        host_users=spec.host_users is not False,
    )
    if spec.resource_claims:
        yield from _resource_claims(spec, path.child("resourceClaims"))
    seen: set[str] = set()
    yield from containers.containers(spec.containers, facts, seen, path.child("containers"))
    if spec.init_containers:
        at = path.child("initContainers")
        yield from containers.init_containers(spec.init_containers, facts, frozenset(seen), seen, at)
    if spec.ephemeral_containers:
        regular = {one.name for one in spec.containers}
        at = path.child("ephemeralContainers")
        yield from containers.ephemeral_containers(spec.ephemeral_containers, facts, seen, regular, at)
    if spec.resources is not None:
        yield from pod_resources(spec, path.child("resources"))
    if spec.host_network:
        yield from _host_network_ports(spec.containers, path.child("containers"))
    yield from _policies(spec, path)
    if spec.node_selector:
        yield from label_faults(spec.node_selector, path.child("nodeSelector"))
    if spec.security_context is not None:
        yield from security.pod_context(spec, spec.security_context, path)
    if spec.host_users is False:
        yield from _host_users(spec, path)
    for n, secret in enumerate(spec.image_pull_secrets):
        if not secret.name:
            yield fields.required(path.child("imagePullSecrets").index(n).child("name"))
    if spec.affinity is not None:
        yield from selectors.affinity(spec.affinity, path.child("affinity"))
    if spec.dns_config is not None or spec.dns_policy == "None":
        yield from _dns_config(spec.dns_config, spec.dns_policy, path.child("dnsConfig"))
    for n, gate in enumerate(spec.readiness_gates):
        at = path.child("readinessGates").index(n).child("conditionType")
        yield from faults_of(at, gate.condition_type, names.qualified_name(gate.condition_type))
    yield from _scheduling_gates(spec, path)
    if spec.topology_spread_constraints:
        at = path.child("topologySpreadConstraints")
        yield from selectors.spread_constraints(spec.topology_spread_constraints, at)
    yield from _names_and_numbers(spec, path)
    if spec.tolerations:
        yield from selectors.tolerations(spec.tolerations, path.child("tolerations"))
    if spec.host_aliases:
        yield from _host_aliases(spec, path.child("hostAliases"))
    yield from _classes(spec, path)


def _policies(spec: PodSpec, path: Path) -> Iterator[FieldError]:
    if spec.restart_policy not in RESTART_POLICIES:
        at = path.child("restartPolicy")
        if spec.restart_policy:
            yield fields.not_supported(at, spec.restart_policy, RESTART_POLICIES)
        else:
            yield fields.required(at)
    if spec.dns_policy not in _DNS_POLICIES:
        at = path.child("dnsPolicy")
        if spec.dns_policy:
            yield fields.not_supported(at, spec.dns_policy, _DNS_POLICIES)
        else:
            yield fields.required(at)


def _names_and_numbers(spec: PodSpec, path: Path) -> Iterator[FieldError]:
    for wire, text, check in (
        ("serviceAccountName", spec.service_account_name, names.dns_subdomain),
        ("nodeName", spec.node_name, names.dns_subdomain),
    ):
        if text:
            faults = check(text)
            if faults:
                yield from faults_of(path.child(wire), text, faults)
    deadline = spec.active_deadline_seconds
    if deadline is not None and not 1 <= deadline <= 2**31 - 1:
        yield fields.invalid(
            path.child("activeDeadlineSeconds"), deadline, "must be between 1 and 2147483647, inclusive"
        )
    if spec.hostname:
        yield from faults_of(path.child("hostname"), spec.hostname, names.dns_label(spec.hostname))
    if spec.subdomain:
        yield from faults_of(path.child("subdomain"), spec.subdomain, names.dns_label(spec.subdomain))
    if spec.hostname_override is not None:
        at = path.child("hostnameOverride")
        yield from faults_of(at, spec.hostname_override, names.dns_subdomain(spec.hostname_override))
        if len(spec.hostname_override) > 64:
            yield fields.too_long(at, 64)
        if spec.set_hostname_as_fqdn:
            yield fields.forbidden(path.child("setHostnameAsFQDN"), "may not be set when `hostnameOverride` is set")
        if spec.host_network:
            yield fields.forbidden(path.child("hostNetwork"), "may not be set when `hostnameOverride` is set")


def _classes(spec: PodSpec, path: Path) -> Iterator[FieldError]:
    if spec.priority_class_name:
        yield from faults_of(
            path.child("priorityClassName"), spec.priority_class_name, names.dns_subdomain(spec.priority_class_name)
        )
    if spec.runtime_class_name is not None:
        at = path.child("runtimeClassName")
        yield from faults_of(at, spec.runtime_class_name, names.dns_subdomain(spec.runtime_class_name))
    if spec.preemption_policy not in (None, "PreemptLowerPriority", "Never"):
        choices = ("Never", "PreemptLowerPriority")
        yield fields.not_supported(path.child("preemptionPolicy"), spec.preemption_policy, choices)
    for name in sorted(spec.overhead):
        at = path.child("overhead")
        yield from resources.container_resource_name(at.key(name), name)
        if quantity.parse(spec.overhead[name]) < 0:
            yield fields.invalid(at.key(name), spec.overhead[name], NOT_NEGATIVE)
    if spec.os is not None:
        if not spec.os.name:
            yield fields.required(path.child("os", "name"), "cannot be empty")
        elif spec.os.name not in ("linux", "windows"):
            yield fields.not_supported(path.child("os", "name"), spec.os.name, ("linux", "windows"))


def _scheduling_gates(spec: PodSpec, path: Path) -> Iterator[FieldError]:
    seen: set[str] = set()
    for n, gate in enumerate(spec.scheduling_gates):
        at = path.child("schedulingGates").index(n)
        yield from faults_of(at, gate.name, names.qualified_name(gate.name))
        if gate.name in seen:
            yield fields.duplicate(at, gate.name)
        seen.add(gate.name)


def _host_users(spec: PodSpec, path: Path) -> Iterator[FieldError]:
    if spec.host_network:
        yield fields.forbidden(path.child("hostNetwork"), "when `hostUsers` is false")
    if spec.host_pid:
        yield fields.forbidden(path.child("HostPID"), "when `hostUsers` is false")
    if spec.host_ipc:
        yield fields.forbidden(path.child("HostIPC"), "when `hostUsers` is false")


def _host_network_ports(given: Sequence[Container], path: Path) -> Iterator[FieldError]:
    for n, one in enumerate(given):
        for m, port in enumerate(one.ports):
            if port.host_port and port.host_port != port.container_port:
                at = path.index(n).child("ports").index(m).child("hostPort")
                yield fields.invalid(at, port.host_port, "must match `containerPort` when `hostNetwork` is true")


def _resource_claims(spec: PodSpec, path: Path) -> Iterator[FieldError]:
    seen: set[str] = set()
    for n, claim in enumerate(spec.resource_claims):
        at = path.index(n)
        if not claim.name:
            yield fields.required(at.child("name"))
        elif claim.name in seen:
            yield fields.duplicate(at.child("name"), claim.name)
        else:
            yield from faults_of(at.child("name"), claim.name, names.dns_label(claim.name))
        seen.add(claim.name)
        if claim.resource_claim_name and claim.resource_claim_template_name:
            detail = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"
            yield fields.invalid(at, claim.name, detail)
        elif not claim.resource_claim_name and not claim.resource_claim_template_name:
            detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"
            yield fields.invalid(at, claim.name, detail)


def pod_resources(spec: PodSpec, path: Path) -> Iterator[FieldError]:
    assert spec.resources is not None
    if spec.resources.claims:
        yield fields.forbidden(path.child("claims"), "claims may not be set for Resources at pod-level")
    for wire, listed in (("limits", spec.resources.limits), ("requests", spec.resources.requests)):
        for name in sorted(listed):
            if name not in ("cpu", "memory") and not name.startswith("hugepages-"):
                choices = ("cpu", "hugepages-", "memory")
                yield fields.not_supported(path.child(wire), name, choices)
    yield from resources.requirements(spec.resources, path)
    yield from _within_the_pod(spec, spec.resources, path)


def _within_the_pod(spec: PodSpec, whole: ResourceRequirements, path: Path) -> Iterator[FieldError]:
    """What containers ask for must fit in what the pod asks for, and none may use more than the pod as a whole."""
    asked = resources.together(spec.containers, spec.init_containers)
    most = resources.together(spec.containers, spec.init_containers, "limits")
    huge = {name: amount for name, amount in most.items() if name.startswith("hugepages-")}
    for wire, mine, its in (("requests", whole.requests, asked), ("limits", whole.limits, huge)):
        for name, amount in its.items():
            if name in mine and quantity.parse(amount) > quantity.parse(mine[name]):
                detail = f"must be greater than or equal to aggregate container {wire} of {amount}"
                yield fields.invalid(path.child(wire).key(name), mine[name], detail)
    for n, one in enumerate(spec.containers):
        for name, amount in sorted(one.resources.limits.items()):
            if name in whole.limits and quantity.parse(amount) > quantity.parse(whole.limits[name]):
                at = path.child("containers").index(n).key(name).child("limits")  # upstream's path, odd as it is
                yield fields.invalid(at, amount, f"must be less than or equal to pod limits of {whole.limits[name]}")


def _dns_config(given: PodDNSConfig | None, policy: str | None, path: Path) -> Iterator[FieldError]:
    if policy == "None":
        if given is None:
            yield fields.required(path, "must provide `dnsConfig` when `dnsPolicy` is None")
        elif not given.nameservers:
            detail = "must provide at least one DNS nameserver when `dnsPolicy` is None"
            yield fields.required(path.child("nameservers"), detail)
    if given is None:
        return
    if len(given.nameservers) > 3:
        yield fields.invalid(
            path.child("nameservers"), list(given.nameservers), "must not have more than 3 nameservers"
        )
    for n, server in enumerate(given.nameservers):
        yield from ip_address(path.child("nameservers").index(n), server)
    if len(given.searches) > 32:
        yield fields.invalid(path.child("searches"), list(given.searches), "must not have more than 32 search paths")
    if sum(map(len, given.searches)) + max(len(given.searches) - 1, 0) > 2048:
        detail = "must not have more than 2048 characters (including spaces) in the search list"
        yield fields.invalid(path.child("searches"), list(given.searches), detail)
    for n, search in enumerate(given.searches):
        if search == ".":
            continue
        plain = search.removesuffix(".").replace("_", "-")
        yield from faults_of(path.child("searches").index(n), search, names.dns_subdomain(plain) if plain else ())
    for n, option in enumerate(given.options):
        if not option.name:
            yield fields.required(path.child("options").index(n), "must not be empty")


def _host_aliases(spec: PodSpec, path: Path) -> Iterator[FieldError]:
    for n, alias in enumerate(spec.host_aliases):
        yield from ip_address(path.index(n).child("ip"), alias.ip)
        for m, name in enumerate(alias.hostnames):
            yield from faults_of(path.index(n).child("hostnames").index(m), name, names.dns_subdomain(name))


# ------------------------------------------------------------------------------------------------ updates

_MAY_CHANGE = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def pod_update(new: Pod, old: Pod) -> list[FieldError]:
    """What an update of a pod may change: images, the deadline, more tolerations; gated pods a little more."""
    if new.spec is old.spec or new.spec == old.spec:
        return []
    found = list(_update_faults(new.spec, old.spec))
    if found:
        return found
    spec = _with_changeable_of_old(new.spec, old.spec)
    if spec != old.spec:
        found.append(fields.forbidden(SPEC, f"{_MAY_CHANGE}\n{diff(old.spec, spec)}"))
    return found


def _update_faults(new: PodSpec, old: PodSpec) -> Iterator[FieldError]:
    for wire, mine, its in (
        ("containers", new.containers, old.containers),
        ("initContainers", new.init_containers, old.init_containers),
    ):
        if len(mine) != len(its):
            yield fields.forbidden(SPEC.child(wire), "pod updates may not add or remove containers")
            return
        for n, one in enumerate(mine):
            if not one.image:
                yield fields.required(SPEC.child(wire).index(n).child("image"))
            elif one.image != one.image.strip():
                at = SPEC.child(wire).index(n).child("image")
                yield fields.invalid(at, one.image, "must not have leading or trailing whitespace")
    if new.active_deadline_seconds != old.active_deadline_seconds:
        at = SPEC.child("activeDeadlineSeconds")
        if new.active_deadline_seconds is None:
            yield fields.invalid(at, None, "must not update from a positive integer to nil value")
        elif not 0 <= new.active_deadline_seconds <= 2**31 - 1:
            yield fields.invalid(at, new.active_deadline_seconds, "must be between 0 and 2147483647, inclusive")
        elif old.active_deadline_seconds is not None and new.active_deadline_seconds > old.active_deadline_seconds:
            detail = "must be less than or equal to previous value"
            yield fields.invalid(at, new.active_deadline_seconds, detail)
    if new.tolerations != old.tolerations:
        yield from _only_added(new.tolerations, old.tolerations)
    if not {gate.name for gate in new.scheduling_gates} <= {gate.name for gate in old.scheduling_gates}:
        for n, gate in enumerate(new.scheduling_gates):
            if gate not in old.scheduling_gates:
                detail = "only deletion is allowed, but found new scheduling gate '" + gate.name + "'"
                yield fields.forbidden(SPEC.child("schedulingGates").index(n), detail)


def _only_added(new: Sequence[Toleration], old: Sequence[Toleration]) -> Iterator[FieldError]:
    """Old tolerations stay, but for their seconds."""
    kept = [replace(one, toleration_seconds=None) for one in new]
    if any(replace(one, toleration_seconds=None) not in kept for one in old):
        detail = "existing toleration can not be modified except its tolerationSeconds"
        yield fields.forbidden(SPEC.child("tolerations"), detail)
    yield from selectors.tolerations(new, SPEC.child("tolerations"))


def _with_changeable_of_old(new: PodSpec, old: PodSpec) -> PodSpec:
    """``new`` with the old values of what may change: whatever still differs may not."""
    changes: dict[str, Any] = {
        "containers": _images_of(new.containers, old.containers),
        "init_containers": _images_of(new.init_containers, old.init_containers),
        "active_deadline_seconds": old.active_deadline_seconds,
        "tolerations": old.tolerations,
        "scheduling_gates": old.scheduling_gates,
    }
    if (old.termination_grace_period_seconds or 0) < 0 and new.termination_grace_period_seconds == 1:
        changes["termination_grace_period_seconds"] = old.termination_grace_period_seconds
    if old.scheduling_gates and _narrows(new, old):
        changes["node_selector"], changes["affinity"] = old.node_selector, old.affinity
    return replace(new, **changes)


def _images_of(new: Sequence[Container], old: Sequence[Container]) -> tuple[Container, ...]:
    return tuple(replace(a, image=b.image) for a, b in zip(new, old, strict=True))


def _narrows(new: PodSpec, old: PodSpec) -> bool:
    """A pod held back by gates may get more node selectors and, where it had none, node affinity."""
    if not old.node_selector.items() <= new.node_selector.items():
        return False
    if new.affinity == old.affinity:
        return True
    mine, its = new.affinity, old.affinity
    if mine is None:
        return False
    return its is None or (its.node_affinity is None and replace(mine, node_affinity=None) == its)
