"""Label selectors, node selectors, tolerations, affinity and spreading.

Source: apimachinery pkg/apis/meta/v1/validation; pkg/apis/core/validation/validation.go.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kaa.api import fields, names
from kaa.api.fields import FieldError, Path
from kaa.api.types.core_v1 import (
    Affinity,
    NodeSelector,
    NodeSelectorRequirement,
    NodeSelectorTerm,
    PodAffinityTerm,
    Toleration,
    TopologySpreadConstraint,
    WeightedPodAffinityTerm,
)
from kaa.api.types.meta_v1 import LabelSelector, LabelSelectorRequirement

from .common import faults_of
from .meta import label_faults

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def is_empty(selector: LabelSelector | None) -> bool:
    return selector is None or not (selector.match_labels or selector.match_expressions)


def label_selector(selector: LabelSelector | None, path: Path) -> Iterator[FieldError]:
    if selector is None:
        return
    if selector.match_labels:
        yield from label_faults(selector.match_labels, path.child("matchLabels"))
    for n, requirement in enumerate(selector.match_expressions):
        yield from _label_requirement(requirement, path.child("matchExpressions").index(n))


def _label_requirement(given: LabelSelectorRequirement, path: Path) -> Iterator[FieldError]:
    match given.operator:
        case "In" | "NotIn":
            if not given.values:
                yield fields.required(path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'")
        case "Exists" | "DoesNotExist":
            if given.values:
                detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                yield fields.forbidden(path.child("values"), detail)
        case _:
            yield fields.invalid(path.child("operator"), given.operator, "not a valid selector operator")
    yield from faults_of(path.child("key"), given.key, names.qualified_name(given.key))
    for n, value in enumerate(given.values):
        yield from faults_of(path.child("values").index(n), value, names.label_value(value))


# ------------------------------------------------------------------------------------------------ nodes


def node_selector(given: NodeSelector, path: Path) -> Iterator[FieldError]:
    at = path.child("nodeSelectorTerms")
    if not given.node_selector_terms:
        yield fields.required(at, "must have at least one node selector term")
    for n, term in enumerate(given.node_selector_terms):
        yield from _node_term(term, at.index(n))


def _node_term(term: NodeSelectorTerm, path: Path) -> Iterator[FieldError]:
    for n, requirement in enumerate(term.match_expressions):
        at = path.child("matchExpressions").index(n)
        yield from _node_requirement(requirement, at)
        yield from faults_of(at.child("key"), requirement.key, names.qualified_name(requirement.key))
    for n, requirement in enumerate(term.match_fields):
        yield from _node_field(requirement, path.child("matchFields").index(n))


def _node_requirement(given: NodeSelectorRequirement, path: Path) -> Iterator[FieldError]:
    at = path.child("values")
    match given.operator:
        case "In" | "NotIn":
            if not given.values:
                yield fields.required(at, "must be specified when `operator` is 'In' or 'NotIn'")
        case "Exists" | "DoesNotExist":
            if given.values:
                yield fields.forbidden(at, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
        case "Gt" | "Lt":
            if len(given.values) != 1:
                yield fields.required(at, "must be specified single value when `operator` is 'Lt' or 'Gt'")
        case _:
            yield fields.invalid(path.child("operator"), given.operator, "not a valid selector operator")
    if given.operator in ("In", "NotIn"):
        for n, value in enumerate(given.values):
            yield from faults_of(at.index(n), value, names.label_value(value))


def _node_field(given: NodeSelectorRequirement, path: Path) -> Iterator[FieldError]:
    if given.operator in ("In", "NotIn"):
        if len(given.values) != 1:
            detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"
            yield fields.required(path.child("values"), detail)
    else:
        yield fields.invalid(path.child("operator"), given.operator, "not a valid selector operator")
    if given.key != "metadata.name":
        yield fields.invalid(path.child("key"), given.key, "not a valid field selector key")
        return
    for n, value in enumerate(given.values):
        yield from faults_of(path.child("values").index(n), value, names.dns_subdomain(value))


# ------------------------------------------------------------------------------------------------ affinity


def affinity(given: Affinity, path: Path) -> Iterator[FieldError]:
    node = given.node_affinity
    if node is not None:
        at = path.child("nodeAffinity")
        if node.required_during_scheduling_ignored_during_execution is not None:
            yield from node_selector(node.required_during_scheduling_ignored_during_execution, at.child(_REQUIRED))
        for n, term in enumerate(node.preferred_during_scheduling_ignored_during_execution):
            here = at.child(_PREFERRED).index(n)
            yield from _weight(term.weight, here)
            yield from _node_term(term.preference, here.child("preference"))
    for name, both in (("podAffinity", given.pod_affinity), ("podAntiAffinity", given.pod_anti_affinity)):
        if both is not None:
            at = path.child(name)
            yield from _pod_terms(both.required_during_scheduling_ignored_during_execution, at.child(_REQUIRED))
            yield from _weighted(both.preferred_during_scheduling_ignored_during_execution, at.child(_PREFERRED))


def _weight(weight: int, path: Path) -> Iterator[FieldError]:
    if not 1 <= weight <= 100:
        yield fields.invalid(path.child("weight"), weight, "must be in the range 1-100")


def _weighted(terms: Sequence[WeightedPodAffinityTerm], path: Path) -> Iterator[FieldError]:
    for n, term in enumerate(terms):
        yield from _weight(term.weight, path.index(n))
        yield from _pod_term(term.pod_affinity_term, path.index(n).child("podAffinityTerm"))


def _pod_terms(terms: Sequence[PodAffinityTerm], path: Path) -> Iterator[FieldError]:
    for n, term in enumerate(terms):
        yield from _pod_term(term, path.index(n))


def _pod_term(term: PodAffinityTerm, path: Path) -> Iterator[FieldError]:
    yield from label_selector(term.label_selector, path.child("labelSelector"))
    yield from label_selector(term.namespace_selector, path.child("namespaceSelector"))
    for name in term.namespaces:
        yield from faults_of(path.child("namespace"), name, names.dns_label(name))
    if term.match_label_keys or term.mismatch_label_keys:
        yield from _match_keys(term.match_label_keys, path.child("matchLabelKeys"), term.label_selector)
        yield from _match_keys(term.mismatch_label_keys, path.child("mismatchLabelKeys"), term.label_selector)
        for n, key in enumerate(term.match_label_keys):
            if key in term.mismatch_label_keys:
                detail = "exists in both matchLabelKeys and mismatchLabelKeys"
                yield fields.invalid(path.child("matchLabelKeys").index(n), key, detail)
    if not term.topology_key:
        yield fields.required(path.child("topologyKey"), "can not be empty")
    yield from faults_of(path.child("topologyKey"), term.topology_key, names.qualified_name(term.topology_key))


def _match_keys(keys: Sequence[str], path: Path, selector: LabelSelector | None) -> Iterator[FieldError]:
    if keys and selector is None:
        yield fields.forbidden(path, "must not be specified when labelSelector is not set")
        return
    for n, key in enumerate(keys):
        yield from faults_of(path.index(n), key, names.qualified_name(key))


# ------------------------------------------------------------------------------------------------ tolerations, spread

_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def tolerations(given: Sequence[Toleration], path: Path) -> Iterator[FieldError]:
    for n, toleration in enumerate(given):
        if _is_plain(toleration):
            continue
        yield from _toleration(toleration, path.index(n))


_PLAIN_KEYS = frozenset(("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"))


def _is_plain(t: Toleration) -> bool:
    """The two tolerations that nearly every pod carries are known to be well."""
    return t.key in _PLAIN_KEYS and t.operator == "Exists" and t.effect == "NoExecute" and not t.value


def _toleration(given: Toleration, path: Path) -> Iterator[FieldError]:
    if given.key:
        yield from faults_of(path.child("key"), given.key, names.qualified_name(given.key))
    elif given.operator != "Exists":
        detail = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
        yield fields.invalid(path.child("operator"), given.operator or "", detail)
    if given.toleration_seconds is not None and given.effect != "NoExecute":
        detail = "effect must be 'NoExecute' when `tolerationSeconds` is set"
        yield fields.invalid(path.child("effect"), given.effect or "", detail)
    match given.operator or "":
        case "Equal" | "":
            faults = names.label_value(given.value or "")
            if faults:
                yield fields.invalid(path.child("operator"), given.value, ";".join(faults))
        case "Exists":
            if given.value:
                yield fields.invalid(
                    path.child("operator"), given.value, "value must be empty when `operator` is 'Exists'"
                )
        case other:
            yield fields.not_supported(path.child("operator"), other, ("Equal", "Exists"))
    if given.effect and given.effect not in _EFFECTS:
        yield fields.not_supported(path.child("effect"), given.effect, _EFFECTS)


def spread_constraints(given: Sequence[TopologySpreadConstraint], path: Path) -> Iterator[FieldError]:
    seen: set[tuple[str, str]] = set()
    for n, constraint in enumerate(given):
        at = path.index(n)
        if constraint.max_skew <= 0:
            yield fields.invalid(at.child("maxSkew"), constraint.max_skew, "must be greater than zero")
        if not constraint.topology_key:
            yield fields.required(at.child("topologyKey"), "can not be empty")
        else:
            key = constraint.topology_key
            yield from faults_of(at.child("topologyKey"), key, names.qualified_name(key))
        if constraint.when_unsatisfiable not in ("DoNotSchedule", "ScheduleAnyway"):
            choices = ("DoNotSchedule", "ScheduleAnyway")
            yield fields.not_supported(at.child("whenUnsatisfiable"), constraint.when_unsatisfiable, choices)
        pair = (constraint.topology_key, constraint.when_unsatisfiable)
        if pair in seen:
            yield fields.duplicate(at.child("{topologyKey, whenUnsatisfiable}"), f"{{{pair[0]}, {pair[1]}}}")
        seen.add(pair)
        if constraint.min_domains is not None:
            if constraint.min_domains <= 0:
                yield fields.invalid(at.child("minDomains"), constraint.min_domains, "must be greater than zero")
            if constraint.when_unsatisfiable != "DoNotSchedule":
                detail = (
                    f"can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {constraint.when_unsatisfiable}"
                )
                yield fields.invalid(at.child("minDomains"), constraint.min_domains, detail)
        for name, policy in (
            ("nodeAffinityPolicy", constraint.node_affinity_policy),
            ("nodeTaintsPolicy", constraint.node_taints_policy),
        ):
            if policy is not None and policy not in ("Honor", "Ignore"):
                yield fields.not_supported(at.child(name), policy, ("Honor", "Ignore"))
        yield from _match_keys(constraint.match_label_keys, at.child("matchLabelKeys"), constraint.label_selector)
        yield from label_selector(constraint.label_selector, at.child("labelSelector"))
