"""Job specs, of jobs and of cron jobs' templates.

Source: pkg/apis/batch/validation/validation.go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kaa.api import fields, selectors
from kaa.api.fields import FieldError, Path
from kaa.api.types.batch_v1 import JobSpec, PodFailurePolicyRule
from kaa.api.types.core_v1 import PodTemplateSpec
from kaa.api.types.meta_v1 import LabelSelector

from .common import IMMUTABLE, NOT_NEGATIVE, is_domain_prefixed, one_of
from .internal import raw
from .pods import pod_template
from .selectors import label_selector

_MOST_COMPLETIONS_PER_INDEX = 100_000
_MOST_PARALLELISM_INDEXED = 100_000
_ACTIONS = ("Count", "FailIndex", "FailJob", "Ignore")


def job_spec(spec: JobSpec, path: Path) -> Iterator[FieldError]:
    """What holds for jobs and for templates of jobs."""
    for wire, value in (
        ("parallelism", spec.parallelism),
        ("completions", spec.completions),
        ("activeDeadlineSeconds", spec.active_deadline_seconds),
        ("backoffLimit", spec.backoff_limit),
        ("ttlSecondsAfterFinished", spec.ttl_seconds_after_finished),
        ("backoffLimitPerIndex", spec.backoff_limit_per_index),
        ("maxFailedIndexes", spec.max_failed_indexes),
    ):
        if value is not None and value < 0:
            yield fields.invalid(path.child(wire), value, NOT_NEGATIVE)
    if spec.managed_by is not None:
        yield from is_domain_prefixed(path.child("managedBy"), spec.managed_by)
        if len(spec.managed_by) > 63:
            yield fields.too_long(path.child("managedBy"), 63)
    yield from _completion_mode(spec, path)
    if spec.pod_failure_policy is not None:
        yield from _failure_policy(spec, path.child("podFailurePolicy"))
    if spec.success_policy is not None:
        yield from _success_policy(spec, path.child("successPolicy"))
    replacement = spec.pod_replacement_policy
    if replacement is not None:
        choices = ("Failed", "TerminatingOrFailed")
        if spec.pod_failure_policy is not None and replacement != "Failed":
            yield fields.not_supported(path.child("podReplacementPolicy"), replacement, ("Failed",))
        elif replacement not in choices:
            yield fields.not_supported(path.child("podReplacementPolicy"), replacement, choices)
    yield from pod_template(spec.template, path.child("template"))
    yield from _restart_policy(spec, path.child("template", "spec", "restartPolicy"))


def _restart_policy(spec: JobSpec, path: Path) -> Iterator[FieldError]:
    policy = spec.template.spec.restart_policy
    if policy in (None, "", "Always"):
        yield fields.required(path, 'valid values: "OnFailure", "Never"')
    elif policy not in ("OnFailure", "Never"):
        yield fields.not_supported(path, policy, ("OnFailure", "Never"))
    elif spec.pod_failure_policy is not None and policy != "Never":
        detail = 'only "Never" is supported when podFailurePolicy is specified'
        yield fields.invalid(path, policy, detail)


def _completion_mode(spec: JobSpec, path: Path) -> Iterator[FieldError]:
    mode = spec.completion_mode
    if mode is not None and mode not in ("Indexed", "NonIndexed"):
        yield fields.not_supported(path.child("completionMode"), mode, ("Indexed", "NonIndexed"))
    if mode == "Indexed":
        if spec.completions is None:
            yield fields.required(path.child("completions"), "when completion mode is Indexed")
        if (spec.parallelism or 0) > _MOST_PARALLELISM_INDEXED:
            detail = f"must be less than or equal to {_MOST_PARALLELISM_INDEXED} when completion mode is Indexed"
            yield fields.invalid(path.child("parallelism"), spec.parallelism, detail)
        if spec.max_failed_indexes is not None and spec.completions is not None:
            if spec.max_failed_indexes > spec.completions:
                detail = "must be less than or equal to completions"
                yield fields.invalid(path.child("maxFailedIndexes"), spec.max_failed_indexes, detail)
            if spec.max_failed_indexes > _MOST_COMPLETIONS_PER_INDEX:
                detail = f"must be less than or equal to {_MOST_COMPLETIONS_PER_INDEX}"
                yield fields.invalid(path.child("maxFailedIndexes"), spec.max_failed_indexes, detail)
        return
    for wire, value in (
        ("backoffLimitPerIndex", spec.backoff_limit_per_index),
        ("maxFailedIndexes", spec.max_failed_indexes),
    ):
        if value is not None:
            yield fields.invalid(path.child(wire), value, "requires indexed completion mode")


def _failure_policy(spec: JobSpec, path: Path) -> Iterator[FieldError]:
    assert spec.pod_failure_policy is not None
    if len(spec.pod_failure_policy.rules) > 20:
        yield fields.too_many(path.child("rules"), len(spec.pod_failure_policy.rules), 20)
    names = {one.name for one in (*spec.template.spec.containers, *spec.template.spec.init_containers)}
    for n, rule in enumerate(spec.pod_failure_policy.rules):
        yield from _failure_rule(rule, spec, names, path.child("rules").index(n))


def _failure_rule(rule: PodFailurePolicyRule, spec: JobSpec, names: set[str], path: Path) -> Iterator[FieldError]:
    yield from one_of(path, "action", rule.action, _ACTIONS, needed=True)
    if rule.action == "FailIndex" and spec.backoff_limit_per_index is None:
        yield fields.invalid(path.child("action"), rule.action, "requires the backoffLimitPerIndex to be set")
    codes = rule.on_exit_codes
    if codes is not None:
        at = path.child("onExitCodes")
        yield from one_of(at, "operator", codes.operator, ("In", "NotIn"), needed=True)
        if codes.container_name is not None and codes.container_name not in names:
            detail = "must be one of the container or initContainer names in the pod template"
            yield fields.invalid(at.child("containerName"), codes.container_name, detail)
        if not codes.values:
            yield fields.invalid(at.child("values"), [], "at least one value is required")
        elif len(codes.values) > 255:
            yield fields.too_many(at.child("values"), len(codes.values), 255)
        if list(codes.values) != sorted(codes.values):
            yield fields.invalid(at.child("values"), list(codes.values), "must be ordered")
        for m, value in enumerate(codes.values):
            if codes.operator == "In" and value == 0:
                yield fields.invalid(at.child("values").index(m), value, "must not be 0 for the In operator")
            if value in codes.values[:m]:
                yield fields.duplicate(at.child("values").index(m), value)
    for m, pattern in enumerate(rule.on_pod_conditions):
        at = path.child("onPodConditions").index(m)
        if pattern.status not in (None, "True", "False", "Unknown"):
            yield fields.not_supported(at.child("status"), pattern.status, ("False", "True", "Unknown"))
    if codes is not None and rule.on_pod_conditions:
        yield fields.invalid(path, raw(rule), "specifying both OnExitCodes and OnPodConditions is not supported")
    elif codes is None and not rule.on_pod_conditions:
        yield fields.invalid(path, raw(rule), "specifying one of OnExitCodes and OnPodConditions is required")


def _success_policy(spec: JobSpec, path: Path) -> Iterator[FieldError]:
    assert spec.success_policy is not None
    if spec.completion_mode != "Indexed":
        yield fields.invalid(path, raw(spec.success_policy), "requires indexed completion mode")
        return
    if not spec.success_policy.rules:
        yield fields.required(
            path.child("rules"), "at least one rules must be specified when the successPolicy is specified"
        )
    if len(spec.success_policy.rules) > 20:
        yield fields.too_many(path.child("rules"), len(spec.success_policy.rules), 20)
    for n, rule in enumerate(spec.success_policy.rules):
        at = path.child("rules").index(n)
        if rule.succeeded_count is None and rule.succeeded_indexes is None:
            yield fields.required(at, "at least one of succeededCount or succeededIndexes must be specified")
        if rule.succeeded_count is not None and rule.succeeded_count <= 0:
            yield fields.invalid(at.child("succeededCount"), rule.succeeded_count, "must be greater than 0")


# ------------------------------------------------------------------------------------------------ jobs themselves


def job(name: str, uid: str, spec: JobSpec, path: Path) -> Iterator[FieldError]:
    """A job's spec with the selector that belongs to it."""
    yield from _own_labels(name, uid, spec, path)
    yield from job_spec(spec, path)
    if spec.selector is None:
        yield fields.required(path.child("selector"))
        return
    yield from label_selector(spec.selector, path.child("selector"))
    labels = spec.template.metadata.labels
    if not _selects(spec.selector, labels):
        detail = "`selector` does not match template `labels`"
        yield fields.invalid(path.child("template", "metadata", "labels"), dict(labels) or None, detail)


def _selects(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    try:
        return selectors.from_label_selector(selector).matches(labels)
    except selectors.SelectorError:
        return True


def _own_labels(name: str, uid: str, spec: JobSpec, path: Path) -> Iterator[FieldError]:
    if spec.manual_selector:
        return
    labels = spec.template.metadata.labels
    at = path.child("template", "metadata", "labels")
    for key in ("batch.kubernetes.io/controller-uid",):
        if labels.get(key) != uid:
            yield fields.invalid(at, dict(labels), f"must be '{uid}'")
    if labels.get("batch.kubernetes.io/job-name") != name:
        yield fields.invalid(at, dict(labels), f"must be '{name}'")


def job_update(new: JobSpec, old: JobSpec, *, suspended: bool, path: Path) -> Iterator[FieldError]:
    """What a job may not change. ``suspended``: it has not begun, so its pods' placing may still be set."""
    indexed = new.completion_mode == "Indexed" == old.completion_mode
    if new.completions != old.completions and not (indexed and new.completions == new.parallelism):
        detail = "can only be modified in tandem with parallelism" if indexed else IMMUTABLE
        yield fields.invalid(path.child("completions"), new.completions, detail)
    pairs: tuple[tuple[str, Any, Any], ...] = (
        ("selector", new.selector, old.selector),
        ("template", _comparable(new.template, old.template, suspended), old.template),
        ("completionMode", new.completion_mode, old.completion_mode),
        ("podFailurePolicy", new.pod_failure_policy, old.pod_failure_policy),
        ("backoffLimitPerIndex", new.backoff_limit_per_index, old.backoff_limit_per_index),
        ("managedBy", new.managed_by, old.managed_by),
        ("successPolicy", new.success_policy, old.success_policy),
    )
    for wire, mine, its in pairs:
        if mine != its:
            yield fields.invalid(path.child(wire), raw(getattr(new, _attribute(wire))), IMMUTABLE)


def _attribute(wire: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in wire)


def _comparable(new: PodTemplateSpec, old: PodTemplateSpec, suspended: bool) -> PodTemplateSpec:
    """``new`` with the old values of what a job that has not begun may change."""
    from msgspec.structs import replace

    if not suspended or len(new.spec.containers) != len(old.spec.containers):
        return new
    spec = replace(
        new.spec,
        node_selector=old.spec.node_selector,
        affinity=old.spec.affinity,
        tolerations=old.spec.tolerations,
        scheduling_gates=old.spec.scheduling_gates,
        containers=tuple(
            replace(a, resources=b.resources) for a, b in zip(new.spec.containers, old.spec.containers, strict=True)
        ),
    )
    metadata = replace(new.metadata, annotations=old.metadata.annotations, labels=old.metadata.labels)
    return replace(new, spec=spec, metadata=metadata)
