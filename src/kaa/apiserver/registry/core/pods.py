"""Pods.

Source: pkg/registry/core/pod/strategy.go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields, names
from kaa.api.fields import FieldError, Path
from kaa.api.types.core_v1 import (
    Affinity,
    Pod,
    PodAffinityTerm,
    PodCondition,
    PodIP,
    PodSpec,
    PodStatus,
    TopologySpreadConstraint,
)
from kaa.api.types.meta_v1 import LabelSelector, LabelSelectorRequirement

from ...memo import Memo
from ...validation import containers as container_rules
from ...validation import pods as rules
from ..strategy import Strategy
from . import pod_defaults, pod_resize, pod_table
from .pod_qos import qos_class

_GATED = PodCondition(
    type="PodScheduled",
    status="False",
    reason="SchedulingGated",
    message="Scheduling is blocked due to non-empty scheduling gates",
)
_PENDING = {qos: PodStatus(phase="Pending", qos_class=qos) for qos in ("BestEffort", "Burstable", "Guaranteed")}


class PodStrategy(Strategy[Pod]):
    kind = Pod
    counts_generation = True
    table = pod_table.TABLE
    field_names = frozenset(
        [
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ]
    )

    def grace_s(self, obj: Pod, asked: int | None) -> int:
        """A pod that no node holds, or that has ended, has nothing to end gracefully."""
        if not obj.spec.node_name or obj.status.phase in ("Succeeded", "Failed"):
            return 0
        wanted = obj.spec.termination_grace_period_seconds if asked is None else asked
        return 1 if wanted is not None and wanted < 0 else wanted or 0

    def default(self, obj: Pod) -> Pod:
        made, status = pod_defaults.pod(obj), obj.status
        if status.pod_ip or status.pod_ips:
            addresses = _addresses(status)
            if addresses is not status:
                made = replace(made, status=addresses)
        return made

    def prepare_create(self, obj: Pod) -> Pod:
        status = _PENDING[qos_class(obj.spec)]
        if obj.spec.scheduling_gates:
            status = replace(status, conditions=(_GATED,))
        spec = _with_match_keys(obj)
        if spec is obj.spec:
            return replace(obj, status=status)
        return replace(obj, status=status, spec=spec)

    def prepare_update(self, new: Pod, old: Pod) -> Pod:
        return replace(new, status=old.status)

    def prepare_status_update(self, new: Pod, old: Pod) -> Pod:
        metadata = replace(
            new.metadata,
            deletion_timestamp=old.metadata.deletion_timestamp,
            deletion_grace_period_seconds=old.metadata.deletion_grace_period_seconds,
            owner_references=old.metadata.owner_references,
        )
        return replace(old, metadata=metadata, status=_normal_status(new.status, old.status))

    def validate(self, obj: Pod) -> list[FieldError]:
        return rules.pod(obj)

    def validate_update(self, new: Pod, old: Pod) -> list[FieldError]:
        return rules.pod_update(new, old)

    def validate_status_update(self, new: Pod, old: Pod) -> list[FieldError]:
        return list(_status_faults(new, old))

    def warnings(self, obj: Pod, old: Pod | None) -> Sequence[str]:
        return _warnings(obj.spec)

    def fields(self, obj: Pod) -> Mapping[str, str]:
        spec, status = obj.spec, obj.status
        return {
            "spec.nodeName": spec.node_name or "",
            "spec.restartPolicy": spec.restart_policy or "",
            "spec.schedulerName": spec.scheduler_name or "",
            "spec.serviceAccountName": spec.service_account_name or "",
            "spec.hostNetwork": "true" if spec.host_network else "false",
            "status.phase": status.phase or "",
            "status.podIP": status.pod_ip or "",
            "status.podIPs": status.pod_ip or "",
            "status.nominatedNodeName": status.nominated_node_name or "",
        }

    def subresource_update(self, subresource: str, new: Pod, old: Pod) -> Pod | None:
        if subresource == "ephemeralcontainers":
            spec = replace(old.spec, ephemeral_containers=pod_defaults.spec(new.spec).ephemeral_containers)
            return replace(old, metadata=new.metadata, spec=spec)
        if subresource == "resize":
            return pod_resize.resized(new, old)
        return None

    def validate_subresource_update(self, subresource: str, new: Pod, old: Pod) -> list[FieldError]:
        """The faults of what ``subresource_update`` made."""
        if subresource == "ephemeralcontainers":
            return list(_ephemeral_faults(new, old))
        if subresource == "resize":
            return list(pod_resize.faults(new, old))
        return []


# ------------------------------------------------------------------------------------------------ creating


def _with_match_keys(obj: Pod) -> PodSpec:
    """The spec with ``matchLabelKeys`` turned into requirements of the pod's own label values."""
    spec, labels = obj.spec, obj.metadata.labels
    changes: dict[str, Any] = {}
    if spec.affinity is not None and (spec.affinity.pod_affinity or spec.affinity.pod_anti_affinity):
        changes["affinity"] = _affinity_with_keys(spec.affinity, labels)
    if any(constraint.match_label_keys for constraint in spec.topology_spread_constraints):
        changes["topology_spread_constraints"] = tuple(
            _spread_with_keys(constraint, labels) for constraint in spec.topology_spread_constraints
        )
    return replace(spec, **changes) if changes else spec


def _affinity_with_keys(given: Affinity, labels: Mapping[str, str]) -> Affinity:
    changes = {}
    for name in ("pod_affinity", "pod_anti_affinity"):
        both = getattr(given, name)
        if both is not None:
            changes[name] = replace(
                both,
                required_during_scheduling_ignored_during_execution=tuple(
                    _term_with_keys(term, labels) for term in both.required_during_scheduling_ignored_during_execution
                ),
                preferred_during_scheduling_ignored_during_execution=tuple(
                    replace(term, pod_affinity_term=_term_with_keys(term.pod_affinity_term, labels))
                    for term in both.preferred_during_scheduling_ignored_during_execution
                ),
            )
    return replace(given, **changes)


def _term_with_keys(term: PodAffinityTerm, labels: Mapping[str, str]) -> PodAffinityTerm:
    if term.label_selector is None or not (term.match_label_keys or term.mismatch_label_keys):
        return term
    made = _selector_with_keys(term.label_selector, term.match_label_keys, "In", labels)
    return replace(term, label_selector=_selector_with_keys(made, term.mismatch_label_keys, "NotIn", labels))


def _spread_with_keys(given: TopologySpreadConstraint, labels: Mapping[str, str]) -> TopologySpreadConstraint:
    if given.label_selector is None:
        return given
    return replace(
        given, label_selector=_selector_with_keys(given.label_selector, given.match_label_keys, "In", labels)
    )


def _selector_with_keys(
    given: LabelSelector, keys: Sequence[str], operator: str, labels: Mapping[str, str]
) -> LabelSelector:
    added = tuple(
        LabelSelectorRequirement(key=key, operator=operator, values=(labels[key],)) for key in keys if key in labels
    )
    return replace(given, match_expressions=given.match_expressions + added) if added else given


# ------------------------------------------------------------------------------------------------ status


def _normal_status(new: PodStatus, old: PodStatus) -> PodStatus:
    """The class of service stays."""
    new = _addresses(new)
    return new if new.qos_class else replace(new, qos_class=old.qos_class)


def _addresses(status: PodStatus) -> PodStatus:
    """``podIP`` and the first of ``podIPs`` are one."""
    first = status.pod_ips[0].ip if status.pod_ips else None
    if status.pod_ip and first != status.pod_ip:
        return replace(status, pod_ips=(PodIP(ip=status.pod_ip),))
    if first and not status.pod_ip:
        return replace(status, pod_ip=first)
    return status


def _status_faults(new: Pod, old: Pod) -> Any:
    at = Path("status")
    if new.status.qos_class != old.status.qos_class:
        yield fields.invalid(at.child("qosClass"), new.status.qos_class or "", "field is immutable")
    if new.status.nominated_node_name:
        faults = names.dns_subdomain(new.status.nominated_node_name)
        for fault in faults:
            yield fields.invalid(at.child("nominatedNodeName"), new.status.nominated_node_name, fault)
    for n, ip in enumerate(new.status.pod_ips):
        for fault in names.ip_address(ip.ip):
            yield fields.invalid(at.child("podIPs").index(n), ip.ip, fault)
    yield from _no_resurrection(new, old)


def _no_resurrection(new: Pod, old: Pod) -> Any:
    """A container that ended for good may not be reported as running again."""
    if old.spec.restart_policy == "Always":
        return
    now = {status.name: status for status in new.status.container_statuses}
    for n, status in enumerate(old.status.container_statuses):
        ended = status.state.terminated
        if ended is None or (ended.exit_code != 0 and old.spec.restart_policy == "OnFailure"):
            continue
        current = now.get(status.name)
        if current is not None and current.state.terminated is None:
            yield fields.forbidden(
                Path("status").child("containerStatuses").index(n).child("state"),
                "may not be transitioned to non-terminated state",
            )


# ------------------------------------------------------------------------------------------------ subresources


def _ephemeral_faults(new: Pod, old: Pod) -> Any:
    at = Path("spec").child("ephemeralContainers")
    facts = container_rules.PodFacts(volumes={volume.name: volume for volume in new.spec.volumes})
    taken = {one.name for one in (*new.spec.containers, *new.spec.init_containers)}
    regular = {one.name for one in new.spec.containers}
    yield from container_rules.ephemeral_containers(new.spec.ephemeral_containers, facts, taken, regular, at)
    given = {one.name: (n, one) for n, one in enumerate(new.spec.ephemeral_containers)}
    for one in old.spec.ephemeral_containers:
        if one.name not in given:
            yield fields.forbidden(at, f"existing ephemeral containers {fields.shown(one.name)} may not be removed\n")
        elif given[one.name][1] != one:
            where = at.index(given[one.name][0])
            yield fields.forbidden(
                where, f"existing ephemeral containers {fields.shown(one.name)} may not be changed\n"
            )


# ------------------------------------------------------------------------------------------------ warnings


@Memo
def _warnings(spec: PodSpec) -> Sequence[str]:
    """Names used twice, where the second hides the first.

    Source: pkg/api/pod/warnings.go.
    """
    found: list[str] = []
    for wire, listed in (("initContainers", spec.init_containers), ("containers", spec.containers)):
        for n, one in enumerate(listed):
            seen: set[str] = set()
            for m, var in enumerate(one.env):
                if var.name in seen:
                    found.append(
                        f'spec.{wire}[{n}].env[{m}]: hides previous definition of "{var.name}", which may be dropped when using apply'
                    )
                seen.add(var.name)
    return found


STRATEGY = PodStrategy()
