"""CronJobs.

Source: pkg/registry/batch/cronjob/strategy.go; validateCronJobSpec.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields
from kaa.api.fields import FieldError
from kaa.api.types.batch_v1 import CronJob, CronJobSpec, CronJobStatus

from ...validation import cron, jobs
from ...validation.common import METADATA, SPEC, not_negative, one_of
from ..core import pod_defaults
from ..strategy import Strategy
from ..tables import NONE, age, containers_and_images, label_selector, shape, since

_NAME_LIMIT = 52  # the controller appends a dash and a moment


def _cells(obj: CronJob, now: float) -> Sequence[Any]:
    spec = obj.spec
    job = spec.job_template.spec
    return (
        obj.metadata.name,
        spec.schedule,
        spec.time_zone if spec.time_zone is not None else NONE,
        "True" if spec.suspend else "False",
        len(obj.status.active),
        since(obj.status.last_schedule_time, now) if obj.status.last_schedule_time else NONE,
        age(obj.metadata, now),
        *containers_and_images(job.template.spec.containers),
        label_selector(job.selector),
    )


class CronJobStrategy(Strategy[CronJob]):
    kind = CronJob
    counts_generation = True
    table = shape(
        "batch/cronjobs",
        "Schedule|Timezone|Suspend:boolean|Active:integer|Last Schedule|Age|Containers+|Images+|Selector+",
        _cells,
    )

    def default(self, obj: CronJob) -> CronJob:
        return replace(obj, spec=_default(obj.spec))

    def prepare_create(self, obj: CronJob) -> CronJob:
        return replace(obj, status=CronJobStatus())

    def prepare_update(self, new: CronJob, old: CronJob) -> CronJob:
        return replace(new, status=old.status)

    def validate(self, obj: CronJob) -> list[FieldError]:
        found = list(_faults(obj.spec, None))
        if len(obj.metadata.name or "") > _NAME_LIMIT:
            detail = f"must be no more than {_NAME_LIMIT} characters"
            found.append(fields.invalid(METADATA.child("name"), obj.metadata.name, detail))
        return found

    def validate_update(self, new: CronJob, old: CronJob) -> list[FieldError]:
        return list(_faults(new.spec, old.spec))


def _default(spec: CronJobSpec) -> CronJobSpec:
    changes: dict[str, Any] = {}
    if not spec.concurrency_policy:
        changes["concurrency_policy"] = "Allow"
    if spec.suspend is None:
        changes["suspend"] = False
    if spec.successful_jobs_history_limit is None:
        changes["successful_jobs_history_limit"] = 3
    if spec.failed_jobs_history_limit is None:
        changes["failed_jobs_history_limit"] = 1
    job = spec.job_template
    template = pod_defaults.template(job.spec.template)
    changes["job_template"] = replace(job, spec=replace(job.spec, template=template))
    return replace(spec, **changes)


def _faults(spec: CronJobSpec, old: CronJobSpec | None) -> Iterator[FieldError]:
    if not spec.schedule:
        yield fields.required(SPEC.child("schedule"))
    elif old is None or spec.schedule != old.schedule:
        why = cron.fault(spec.schedule)
        if why:
            yield fields.invalid(SPEC.child("schedule"), spec.schedule, why)
        if "TZ" in spec.schedule and spec.time_zone is not None:
            detail = "cannot use both timeZone field and TZ or CRON_TZ in schedule"
            yield fields.invalid(SPEC.child("timeZone"), spec.time_zone, detail)
        elif "TZ" in spec.schedule:
            detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
            yield fields.invalid(SPEC.child("schedule"), spec.schedule, detail)
    yield from not_negative(SPEC, "startingDeadlineSeconds", spec.starting_deadline_seconds)
    if spec.time_zone is not None and (old is None or spec.time_zone != old.time_zone):
        yield from _time_zone(spec.time_zone)
    choices = ("Allow", "Forbid", "Replace")
    if spec.concurrency_policy not in choices:
        yield from one_of(SPEC, "concurrencyPolicy", spec.concurrency_policy, choices, needed=True)
    yield from jobs.job_spec(spec.job_template.spec, SPEC.child("jobTemplate", "spec"))
    yield from not_negative(SPEC, "successfulJobsHistoryLimit", spec.successful_jobs_history_limit)
    yield from not_negative(SPEC, "failedJobsHistoryLimit", spec.failed_jobs_history_limit)
    if spec.job_template.spec.manual_selector:
        at = SPEC.child("jobTemplate", "spec", "manualSelector")
        yield fields.not_supported(at, True, ("nil", "false"))


def _time_zone(name: str) -> Iterator[FieldError]:
    at = SPEC.child("timeZone")
    if not name:
        yield fields.invalid(at, name, "must be nil or non-empty string")
        return
    if name.lower() == "local":
        detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
        yield fields.invalid(at, name, detail)
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        yield fields.invalid(at, name, f"unknown time zone {name}")


STRATEGY = CronJobStrategy()
