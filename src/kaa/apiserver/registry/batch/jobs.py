"""Jobs.

Source: pkg/registry/batch/job/strategy.go; pkg/apis/batch/v1/defaults.go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields, names
from kaa.api.clock import format_duration, parse_time
from kaa.api.fields import FieldError
from kaa.api.types.batch_v1 import Job, JobSpec, JobStatus
from kaa.api.types.meta_v1 import LabelSelector

from ...validation import jobs as rules
from ...validation.common import METADATA, SPEC, STATUS
from ..apps.workload import counts_not_negative
from ..core import pod_defaults
from ..strategy import Strategy
from ..tables import age, containers_and_images, label_selector, shape

_UID = "batch.kubernetes.io/controller-uid"
_NAME = "batch.kubernetes.io/job-name"
_OLD_UID, _OLD_NAME = "controller-uid", "job-name"
_ENDLESS = 2**31 - 1


def _cells(obj: Job, now: float) -> Sequence[Any]:
    status, spec = obj.status, obj.spec
    done = status.succeeded or 0
    if spec.completions is not None:
        completions = f"{done}/{spec.completions}"
    else:
        parallel = spec.parallelism or 0
        completions = f"{done}/1 of {parallel}" if parallel > 1 else f"{done}/1"
    duration = ""
    if status.start_time:
        end = parse_time(status.completion_time) if status.completion_time else now
        duration = format_duration(end - parse_time(status.start_time))
    return (
        obj.metadata.name,
        _state(obj),
        completions,
        duration,
        age(obj.metadata, now),
        *containers_and_images(spec.template.spec.containers),
        label_selector(spec.selector),
    )


def _state(obj: Job) -> str:
    true = {condition.type for condition in obj.status.conditions if condition.status == "True"}
    for kind in ("Complete", "Failed"):
        if kind in true:
            return kind
    if obj.metadata.deletion_timestamp is not None:
        return "Terminating"
    for kind in ("Suspended", "FailureTarget", "SuccessCriteriaMet"):
        if kind in true:
            return kind
    return "Running"


class JobStrategy(Strategy[Job]):
    kind = Job
    counts_generation = True
    field_names = frozenset(("status.successful",))
    table = shape("batch/jobs", "Status|Completions|Duration|Age|Containers+|Images+|Selector+", _cells)

    def default(self, obj: Job) -> Job:
        made = replace(obj, spec=default_spec(obj.spec))
        labels = made.spec.template.metadata.labels
        if labels and not made.metadata.labels:
            made = replace(made, metadata=replace(made.metadata, labels=labels))
        return made

    def prepare_create(self, obj: Job) -> Job:
        made = replace(obj, status=JobStatus(), spec=_with_selector(obj))
        labels = made.spec.template.metadata.labels
        if labels and not made.metadata.labels:
            made = replace(made, metadata=replace(made.metadata, labels=labels))
        return made

    def prepare_update(self, new: Job, old: Job) -> Job:
        return replace(new, status=old.status)

    def validate(self, obj: Job) -> list[FieldError]:
        found = list(rules.job(obj.metadata.name or "", obj.metadata.uid or "", obj.spec, SPEC))
        if obj.spec.completion_mode == "Indexed" and (obj.spec.completions or 0) > 0:
            last = f"{obj.metadata.name}-{(obj.spec.completions or 1) - 1}"
            for fault in names.dns_label(last):
                detail = "will not able to create pod with invalid DNS label: " + fault
                found.append(fields.invalid(METADATA.child("name"), last, detail))
        return found

    def validate_update(self, new: Job, old: Job) -> list[FieldError]:
        suspended = bool(old.spec.suspend) and old.status.start_time is None
        found = list(rules.job(new.metadata.name or "", new.metadata.uid or "", new.spec, SPEC))
        return found + list(rules.job_update(new.spec, old.spec, suspended=suspended, path=SPEC))

    def validate_status_update(self, new: Job, old: Job) -> list[FieldError]:
        status = new.status
        found = list(
            counts_not_negative(
                STATUS,
                active=status.active,
                succeeded=status.succeeded,
                failed=status.failed,
                ready=status.ready,
                terminating=status.terminating,
            )
        )
        true = {condition.type for condition in status.conditions if condition.status == "True"}
        if status.completion_time is not None and "Complete" not in true:
            detail = "cannot set completionTime when there is no Complete=True condition"
            found.append(fields.invalid(STATUS.child("completionTime"), status.completion_time, detail))
        if {"Complete", "Failed"} <= true:
            found.append(
                fields.invalid(STATUS.child("conditions"), None, "cannot set Complete=True and Failed=true conditions")
            )
        return found

    def fields(self, obj: Job) -> Mapping[str, str]:
        return {"status.successful": str(obj.status.succeeded or 0)}


def default_spec(spec: JobSpec) -> JobSpec:
    changes: dict[str, Any] = {"template": pod_defaults.template(spec.template)}
    if spec.completions is None and spec.parallelism is None:
        changes["completions"] = changes["parallelism"] = 1
    elif spec.parallelism is None:
        changes["parallelism"] = 1
    if spec.backoff_limit is None:
        changes["backoff_limit"] = 6 if spec.backoff_limit_per_index is None else _ENDLESS
    if spec.completion_mode is None:
        changes["completion_mode"] = "NonIndexed"
    if spec.suspend is None:
        changes["suspend"] = False
    if spec.pod_replacement_policy is None:
        changes["pod_replacement_policy"] = "TerminatingOrFailed" if spec.pod_failure_policy is None else "Failed"
    if spec.manual_selector is None:
        changes["manual_selector"] = False
    return replace(spec, **changes)


def _with_selector(obj: Job) -> JobSpec:
    """A job selects its pods by its own uid, unless its author takes care of that."""
    spec = obj.spec
    if spec.manual_selector:
        return spec
    uid, name = obj.metadata.uid or "", obj.metadata.name or ""
    template = spec.template
    own = {_UID: uid, _NAME: name, _OLD_UID: uid, _OLD_NAME: name}
    labels = own | template.metadata.labels
    selector = spec.selector or LabelSelector()
    selector = replace(selector, match_labels={_UID: uid} | selector.match_labels)
    template = replace(template, metadata=replace(template.metadata, labels=labels))
    return replace(spec, selector=selector, template=template)


STRATEGY = JobStrategy()
