"""CronJobs: a Job made whenever a schedule says so.

``due`` finds the time to act on, ``plan`` says what to do about it; the shell makes and deletes Jobs and writes status. A time is acted
on once: the Job's name is made of it, so a second attempt meets the first.

Source: kubernetes pkg/controller/cronjob.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from msgspec.structs import replace

from kaa.api.clock import format_time, parse_time
from kaa.api.errors import AlreadyExists, ApiError, NotFound
from kaa.api.types.batch_v1 import CronJob, CronJobStatus, Job
from kaa.api.types.core_v1 import ObjectReference
from kaa.api.types.meta_v1 import DeleteOptions, ObjectMeta, Preconditions
from kaa.client.informer import key_of
from kaa.client.workqueue import Key

from . import cron
from .controller import Context, Controller, refused_since_it_ends
from .job import condition_of, is_finished
from .owners import BY_CONTROLLER, add_owner_indexes, controller_of
from .pods import controller_reference

SCHEDULED = "batch.kubernetes.io/cronjob-scheduled-timestamp"
#: More missed times than these are told to the user.
MANY = 100
#: What upstream finds of a schedule whose times are all the same: none.
NEVER = "time difference between two schedules is less than 1 second"
ZONE_IN_SCHEDULE = (
    'CRON_TZ or TZ used in schedule "{}" is not officially supported, see '
    "https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
)
#: So that a look comes after the time, not at its edge.
MARGIN_S = 0.1


# ------------------------------------------------------------------------------------------------ deciding


@dataclass(frozen=True, slots=True)
class Due:
    """``at``: the last time that has passed and was not acted on; ``missed``: how many there were (``MANY`` + 1 at most
    are counted); ``next``: when the next one comes."""

    at: float | None
    missed: int
    next: float | None


def due(owner: CronJob, schedule: cron.Schedule, now: float) -> Due:
    """Find the time to act on, if any. With ``startingDeadlineSeconds``, times before it do not count.

    Raises cron.InvalidSchedule, in upstream's words, when no time ever comes: the 31st of February.
    """
    since = parse_time(owner.status.last_schedule_time or owner.metadata.creation_timestamp or format_time(now))
    if owner.spec.starting_deadline_seconds is not None:
        since = max(since, now - owner.spec.starting_deadline_seconds)
    upcoming = schedule.after(now)
    first = schedule.after(since)
    if first is None:
        raise cron.InvalidSchedule(NEVER)
    if first > now:
        return Due(None, 0, upcoming)
    second = schedule.after(first)
    if second is None:
        raise cron.InvalidSchedule(NEVER)
    if second > now:
        return Due(first, 1, upcoming)
    gap = second - first
    at, missed = second, 2
    if (now - second) / gap > MANY:  # far behind: jump, then walk
        jumped = schedule.after(now - 2 * gap)
        at = jumped if jumped is not None and at < jumped <= now else at
        missed = MANY + 1
    while (following := schedule.after(at)) is not None and following <= now:
        at, missed = following, min(missed + 1, MANY + 1)
    return Due(at, missed, upcoming)


def job_name(owner: CronJob, at: float) -> str:
    """``tick-29012345``: the minutes since 1970 at its end make it unique."""
    return f"{owner.metadata.name}-{int(at) // 60}"


def new_job(owner: CronJob, at: float) -> Job:
    """The Job of one time."""
    template = owner.spec.job_template
    zone = cron.zone_of(owner.spec.time_zone) if owner.spec.time_zone else UTC
    stamp = datetime.fromtimestamp(int(at), zone).isoformat().replace("+00:00", "Z")
    meta = ObjectMeta(
        name=job_name(owner, at),
        namespace=owner.metadata.namespace,
        labels=template.metadata.labels,
        annotations={**template.metadata.annotations, SCHEDULED: stamp},
        owner_references=(controller_reference(owner),),
        creation_timestamp=None,
    )
    return Job(metadata=meta, spec=template.spec)


def outdated(owner: CronJob, jobs: Sequence[Job]) -> list[Job]:
    """Finished jobs beyond the history limits, oldest first."""
    spec = owner.spec
    found: list[Job] = []
    for type, limit, default in (
        ("Complete", spec.successful_jobs_history_limit, 3),
        ("Failed", spec.failed_jobs_history_limit, 1),
    ):
        ended = sorted((job for job in jobs if condition_of(job, type) is not None), key=_age)
        found += ended[: max(0, len(ended) - (default if limit is None else limit))]
    return found


def _age(job: Job) -> tuple[str, str]:
    return job.status.start_time or "9", job.metadata.name or ""


# ------------------------------------------------------------------------------------------------ doing


class CronJobs(Controller[Key]):
    """Keys are cron jobs."""

    name = "cronjob-controller"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.jobs = self.informers.of(Job)
        add_owner_indexes(self.jobs)
        self.crons = self.watch(CronJob, self._on_cron)
        self.watch(Job, self._on_job)

    def _on_cron(self, old: CronJob | None, new: CronJob | None) -> None:
        if new is not None:
            self.queue.add(key_of(new))

    def _on_job(self, old: Job | None, new: Job | None) -> None:
        job = new or old
        assert job is not None
        owner = controller_of(job)
        if owner is not None and owner.kind == "CronJob":
            self.queue.add(Key(job.metadata.namespace or "", owner.name))

    async def reconcile(self, key: Key) -> float | None:
        owner = self.crons.by_key(key)
        if owner is None:
            return None
        jobs = self.jobs.by_index(BY_CONTROLLER, owner.metadata.uid or "")
        await self._clean(owner, jobs)
        status = await self._follow(owner, jobs)
        status, wait = await self._start(owner, status)
        await self._write(owner, status)
        return wait

    # -- what became of jobs

    async def _clean(self, owner: CronJob, jobs: Sequence[Job]) -> None:
        for job in outdated(owner, jobs):
            await self._delete(owner, job)

    async def _delete(self, owner: CronJob, job: Job) -> None:
        name = job.metadata.name or ""
        options = DeleteOptions(propagation_policy="Background", preconditions=Preconditions(uid=job.metadata.uid))
        try:
            await self.client.delete(Job, name, job.metadata.namespace, options=options)
        except NotFound:
            return
        except ApiError as err:
            self.events.event(owner, "Warning", "FailedDelete", f"Deleted job: {err}")
            raise
        self.events.event(owner, "Normal", "SuccessfulDelete", f"Deleted job {name}")

    async def _follow(self, owner: CronJob, jobs: Sequence[Job]) -> CronJobStatus:
        """The status with the jobs that run now; who ended or vanished is told of."""
        status = owner.status
        listed = {ref.uid: ref for ref in status.active}
        for job in jobs:
            known = job.metadata.uid in listed
            if not known and not is_finished(job):
                fresh = await self._fresh(owner)
                if fresh is not None and all(ref.uid != job.metadata.uid for ref in fresh.status.active):
                    text = f"Saw a job that the controller did not create or forgot: {job.metadata.name}"
                    self.events.event(owner, "Warning", "UnexpectedJob", text)
            elif known and is_finished(job):
                del listed[job.metadata.uid]
                word = "Complete" if condition_of(job, "Complete") else "Failed"
                text = f"Saw completed job: {job.metadata.name}, condition: {word}"
                self.events.event(owner, "Normal", "SawCompletedJob", text)
            if condition_of(job, "Complete") is not None:
                ended = job.status.completion_time or ""
                if ended > (status.last_successful_time or ""):
                    status = replace(status, last_successful_time=ended)
        uids = {job.metadata.uid for job in jobs}
        for uid, ref in list(listed.items()):
            if uid not in uids and not await self._exists(ref):
                text = f"Active job went missing: {ref.name}"
                self.events.event(owner, "Normal", "MissingJob", text)
                del listed[uid]
        return replace(status, active=tuple(listed.values()))

    async def _exists(self, ref: ObjectReference) -> bool:
        """The server is asked before anyone believes that a job is gone, and starts the next beside it."""
        try:
            found = await self.client.get(Job, ref.name or "", ref.namespace)
        except NotFound:
            return False
        return found.metadata.uid == ref.uid

    async def _fresh(self, owner: CronJob) -> CronJob | None:
        try:
            return await self.client.get(CronJob, owner.metadata.name or "", owner.metadata.namespace)
        except NotFound:
            return None

    # -- what is to be started

    async def _start(self, owner: CronJob, status: CronJobStatus) -> tuple[CronJobStatus, float | None]:
        """Start what is due. Returns the status, and the seconds until something is due again."""
        if owner.metadata.deletion_timestamp is not None:
            return status, None
        schedule = self._schedule(owner)
        if schedule is None:
            return status, None
        now = self.clock.now()
        try:
            found = due(owner, schedule, now)
        except cron.InvalidSchedule as err:
            text = f"invalid schedule: {owner.spec.schedule} : {err}"
            self.events.event(owner, "Warning", "InvalidSchedule", text)
            return status, None
        wait = found.next - now + MARGIN_S if found.next is not None else None
        if found.missed > MANY:
            text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew"
            self.events.event(owner, "Warning", "TooManyMissedTimes", text)
        if found.at is None:
            return status, wait
        return await self._run(owner, status, found.at), wait

    def _schedule(self, owner: CronJob) -> cron.Schedule | None:
        """What to follow; None while it is suspended, or when an event says why it cannot be followed."""
        text, zone = owner.spec.schedule, owner.spec.time_zone
        try:
            cron.zone_of(zone)
        except cron.InvalidSchedule as err:
            self.events.event(owner, "Warning", "UnknownTimeZone", f'invalid timeZone: "{zone}": {err}')
            return None
        if owner.spec.suspend:
            return None
        if "TZ" in text:
            self.events.event(owner, "Warning", "UnsupportedSchedule", ZONE_IN_SCHEDULE.format(text))
        try:
            return cron.parse(text, zone)
        except cron.InvalidSchedule as err:
            self.events.event(owner, "Warning", "UnparseableSchedule", f"unparseable schedule: {text} : {err}")
            return None

    async def _run(self, owner: CronJob, status: CronJobStatus, at: float) -> CronJobStatus:
        limit = owner.spec.starting_deadline_seconds
        if limit is not None and at + limit < self.clock.now():
            text = f"Missed scheduled time to start a job: {_spelt(at)}"
            self.events.event(owner, "Warning", "MissSchedule", text)
            return status
        stamp = format_time(at)
        if stamp == status.last_schedule_time or any(ref.name == job_name(owner, at) for ref in status.active):
            return status
        if status.active and owner.spec.concurrency_policy == "Forbid":
            text = "Not starting job because prior execution is running and concurrency policy is Forbid"
            self.events.event(owner, "Normal", "JobAlreadyActive", text)
            return status
        if owner.spec.concurrency_policy == "Replace":
            status = await self._replace(owner, status)
        made = await self._create(owner, new_job(owner, at))
        active = status.active
        if made is not None:
            reference = ObjectReference(
                kind="Job",
                api_version="batch/v1",
                name=made.metadata.name,
                namespace=made.metadata.namespace,
                uid=made.metadata.uid,
                resource_version=made.metadata.resource_version,
            )
            active = (*active, reference)
        return replace(status, active=active, last_schedule_time=stamp)

    async def _replace(self, owner: CronJob, status: CronJobStatus) -> CronJobStatus:
        for ref in status.active:
            job = self.jobs.get(ref.name or "", ref.namespace)
            if job is not None:
                await self._delete(owner, job)
        return replace(status, active=())

    async def _create(self, owner: CronJob, job: Job) -> Job | None:
        """Make a job; None when it stands already and is over, or the namespace ends."""
        try:
            made = await self.client.create(job)
        except AlreadyExists:
            made = await self.client.get(Job, job.metadata.name or "", job.metadata.namespace)
            above = controller_of(made)
            return made if above is not None and above.uid == owner.metadata.uid and not is_finished(made) else None
        except ApiError as err:
            if not refused_since_it_ends(err):
                self.events.event(owner, "Warning", "FailedCreate", f"Error creating job: {err}")
            raise
        self.events.event(owner, "Normal", "SuccessfulCreate", f"Created job {made.metadata.name}")
        await self.jobs.shows(made.metadata.resource_version)
        return made

    async def _write(self, owner: CronJob, status: CronJobStatus) -> None:
        if status == owner.status:
            return
        try:
            written = await self.client.update_status(replace(owner, status=status))
        except NotFound:
            return
        await self.crons.shows(written.metadata.resource_version)


def _spelt(at: float) -> str:
    """A time as Go's RFC1123Z has it."""
    return datetime.fromtimestamp(at, UTC).strftime("%a, %d %b %Y %H:%M:%S +0000")
