"""Jobs: pods that run to their end, as often as the job says, each counted once.

``verdict`` says whether and how a job is over, ``plan`` which pods to add or drop while it is not; counting is in
``job_tally``, rules about failures in ``job_policy``. A job that is over first says so (``SuccessCriteriaMet`` or
``FailureTarget``), then waits for its pods to end, then is ``Complete`` or ``Failed``.

Source: kubernetes pkg/controller/job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from kaa.api import selectors
from kaa.api.clock import parse_time
from kaa.api.errors import NotFound
from kaa.api.types.batch_v1 import Job, JobCondition, JobStatus
from kaa.api.types.core_v1 import EnvVar, EnvVarSource, ObjectFieldSelector, Pod
from kaa.client.informer import key_of
from kaa.client.workqueue import Key

from . import job_policy
from .controller import Context, Controller, count
from .job_tally import (
    FAILURES,
    FINALIZER,
    IGNORED_FAILURES,
    INDEX,
    Tally,
    enlist,
    failures_of,
    finished_at,
    index_of,
    is_indexed,
    next_failures,
    parse_indexes,
    replaces_only_failed,
    settle,
    tally,
)
from .owners import BY_CONTROLLER, ORPHANS, add_owner_indexes, claim, controller_of, newest, plan_claims
from .podcontrol import PodControl
from .pods import deletion_order, from_template, is_active, is_ready, is_terminating

MANAGER = "kubernetes.io/job-controller"
BURST = 500
BACKOFF_S, BACKOFF_MAX_S = 10.0, 600.0
REACHED = "CompletionsReached", "Reached expected number of succeeded pods"


# ------------------------------------------------------------------------------------------------ deciding


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a job ends. ``type``: SuccessCriteriaMet or FailureTarget."""

    type: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Plan:
    """``create``: completion indexes of pods to add (-1: none has one); ``delete``: pods to drop. ``wait_s``: seconds
    after which more can be added, if time alone holds that back."""

    create: tuple[int, ...] = ()
    delete: tuple[Pod, ...] = ()
    wait_s: float | None = None


def condition_of(job: Job, type: str) -> JobCondition | None:
    return next((c for c in job.status.conditions if c.type == type and c.status == "True"), None)


def is_finished(job: Job) -> bool:
    return condition_of(job, "Complete") is not None or condition_of(job, "Failed") is not None


def verdict(job: Job, found: Tally, pods: Sequence[Pod], now: float) -> Verdict | None:
    """Whether a job is over, and why. One that said so once stays so."""
    for type in ("FailureTarget", "SuccessCriteriaMet"):
        standing = condition_of(job, type)
        if standing is not None:
            return Verdict(type, standing.reason or "", standing.message or "")
    return _failure(job, found, pods, now) or _success(job, found)


def _failure(job: Job, found: Tally, pods: Sequence[Pod], now: float) -> Verdict | None:
    for pod in pods:
        match = job_policy.judge(job, pod)
        if match is not None and match.action == "FailJob":
            return Verdict("FailureTarget", "PodFailurePolicy", match.message)
    limit = 6 if job.spec.backoff_limit is None else job.spec.backoff_limit
    if found.failed > limit or _restarted_too_often(job, found.active, limit):
        return Verdict("FailureTarget", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
    left = deadline_in(job, now)
    if left is not None and left <= 0:
        return Verdict("FailureTarget", "DeadlineExceeded", "Job was active longer than specified deadline")
    return _failed_by_indexes(job, found)


def _failed_by_indexes(job: Job, found: Tally) -> Verdict | None:
    """Too many indexes have failed; or some have, and the others are complete."""
    spent, most = len(found.failed_indexes), job.spec.max_failed_indexes
    if job.spec.backoff_limit_per_index is None or not spent:
        return None
    if most is not None and spent > most:
        text = "Job has exceeded the specified maximal number of failed indexes"
        return Verdict("FailureTarget", "MaxFailedIndexesExceeded", text)
    if spent + len(found.indexes) >= (job.spec.completions or 0):
        return Verdict("FailureTarget", "FailedIndexes", "Job has failed indexes")
    return None


def _success(job: Job, found: Tally) -> Verdict | None:
    if job.spec.success_policy is not None:
        texts = {rule.succeeded_indexes or "" for rule in job.spec.success_policy.rules}
        parsed = {text: parse_indexes(text, job.spec.completions or 0) for text in texts}
        message = job_policy.success(job, found.indexes, parsed)
        if message:
            return Verdict("SuccessCriteriaMet", "SuccessPolicy", message)
    if job.spec.suspend:
        return None
    if job.spec.completions is None:
        reached = found.succeeded > 0 and not found.active
    else:
        reached = found.succeeded >= job.spec.completions
    return Verdict("SuccessCriteriaMet", *REACHED) if reached else None


def _restarted_too_often(job: Job, active: Sequence[Pod], limit: int) -> bool:
    """Containers that restart in place count as failures too."""
    if job.spec.template.spec.restart_policy != "OnFailure":
        return False
    statuses = (s for pod in active for s in (*pod.status.init_container_statuses, *pod.status.container_statuses))
    restarts = sum(status.restart_count for status in statuses)
    return restarts > 0 if limit == 0 else restarts >= limit


def deadline_in(job: Job, now: float) -> float | None:
    """Seconds until ``activeDeadlineSeconds`` have passed; None when they do not run."""
    if job.spec.active_deadline_seconds is None or job.spec.suspend or job.status.start_time is None:
        return None
    return parse_time(job.status.start_time) + job.spec.active_deadline_seconds - now


def plan(job: Job, found: Tally, now: float) -> Plan:
    """Decide which pods of a job that goes on to add or drop."""
    parallelism = 1 if job.spec.parallelism is None else job.spec.parallelism
    active = found.active
    if job.spec.completions is None:
        wanted = len(active) if found.succeeded > 0 else parallelism
    else:
        wanted = min(parallelism, max(0, job.spec.completions - found.succeeded))
    surplus = len(active) - wanted
    if surplus > 0:
        return Plan(delete=tuple(deletion_order(active, {}, now)[: min(surplus, BURST)]))
    waits = found.terminating if job.spec.pod_replacement_policy == "Failed" else 0
    missing = min(max(0, wanted - waits - len(active)), BURST)
    if not is_indexed(job):
        return Plan(create=(-1,) * missing)
    indexes = _missing_indexes(job, found, missing)
    waits_s = {index: _pause_of(found.delayed.get(index), now) for index in indexes}
    later = [wait for wait in waits_s.values() if wait > 0]
    return Plan(create=tuple(i for i in indexes if waits_s[i] <= 0), wait_s=min(later, default=None))


def _missing_indexes(job: Job, found: Tally, limit: int) -> tuple[int, ...]:
    taken = found.indexes | found.failed_indexes | {index_of(pod) for pod in found.active}
    if replaces_only_failed(job):
        taken |= {index_of(pod) for pod in found.leaving}
    free = (index for index in range(job.spec.completions or 0) if index not in taken)
    return tuple(index for index, _ in zip(free, range(limit), strict=False))


def _pause_of(failed: Pod | None, now: float) -> float:
    """Seconds until an index whose last pod failed may be tried again."""
    if failed is None:
        return 0.0
    return Backoff(sum(failures_of(failed)) + 1, finished_at(failed)).wait(now)


def pod_of(job: Job, index: int, replaced: Pod | None = None) -> Pod:
    """A new pod of a job; ``index`` -1 for a job that is not indexed. ``replaced``: the failed pod that it follows."""
    name = job.metadata.name or ""
    pod = from_template(job.spec.template, job, generate_name=f"{name}-" if index < 0 else f"{name}-{index}-")
    meta = replace(pod.metadata, finalizers=(*pod.metadata.finalizers, FINALIZER))
    if index < 0:
        return replace(pod, metadata=meta)
    word = {INDEX: str(index)}
    notes = {**meta.annotations, **word, **_failure_notes(job, replaced)}
    meta = replace(meta, annotations=notes, labels={**meta.labels, **word})
    source = EnvVarSource(field_ref=ObjectFieldSelector(field_path=f"metadata.labels['{INDEX}']"))
    variable = EnvVar(name="JOB_COMPLETION_INDEX", value_from=source)
    spec = replace(
        pod.spec,
        hostname=f"{name}-{index}",
        containers=tuple(_with_variable(each, variable) for each in pod.spec.containers),
        init_containers=tuple(_with_variable(each, variable) for each in pod.spec.init_containers),
    )
    return replace(pod, metadata=meta, spec=spec)


def _failure_notes(job: Job, replaced: Pod | None) -> dict[str, str]:
    """What a pod says of the failures before it, where each index has a limit of its own."""
    if job.spec.backoff_limit_per_index is None:
        return {}
    counted, ignored = next_failures(job, replaced)
    return {FAILURES: str(counted), **({IGNORED_FAILURES: str(ignored)} if ignored else {})}


def _with_variable(container: Any, variable: EnvVar) -> Any:
    if any(each.name == variable.name for each in container.env):
        return container
    return replace(container, env=(*container.env, variable))


def with_condition(status: JobStatus, type: str, value: str, reason: str, message: str, now: str) -> JobStatus:
    """Set a condition of a job; one of that status stays as it is."""
    old = next((c for c in status.conditions if c.type == type), None)
    if old is not None and old.status == value:
        return status
    made = JobCondition(
        type=type, status=value, reason=reason, message=message, last_probe_time=now, last_transition_time=now
    )
    conditions = tuple(made if c is old else c for c in status.conditions)
    return replace(status, conditions=conditions if old is not None else (*conditions, made))


@dataclass(frozen=True, slots=True)
class Backoff:
    """Failures in a row, and when the last was."""

    failures: int = 0
    last: float = 0.0

    def after(self, found: Tally) -> Backoff:
        """What it is once these pods are counted."""
        ends = [(finished_at(pod), False) for pod in found.new_failed]
        ends += [(finished_at(pod), True) for pod in found.new_succeeded]
        made = self
        for moment, well in sorted(ends):
            made = Backoff() if well else Backoff(made.failures + 1, moment)
        return made

    def wait(self, now: float) -> float:
        """Seconds until the next pod may be made."""
        if not self.failures:
            return 0.0
        pause: float = min(BACKOFF_S * 2 ** min(self.failures - 1, 10), BACKOFF_MAX_S)
        return max(0.0, self.last + pause - now)


# ------------------------------------------------------------------------------------------------ doing


class Jobs(Controller[Key]):
    name = "job-controller"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.pods = context.informers.of(Pod)
        add_owner_indexes(self.pods)
        self.jobs = self.watch(Job, self._on_job)
        self.watch(Pod, self._on_pod)
        self.control = PodControl(self.client, self.events, self.pods)
        self._backoffs: dict[str, Backoff] = {}  #: {uid of a job: its failures}

    def _on_job(self, old: Job | None, new: Job | None) -> None:
        found = new or old
        assert found is not None
        if new is None:
            self._backoffs.pop(found.metadata.uid or "", None)
            for pod in self.pods.by_index(BY_CONTROLLER, found.metadata.uid or ""):
                self._free_later(pod)
        self.queue.add(key_of(found))

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        pod = new or old
        assert pod is not None
        owner = controller_of(pod)
        if owner is not None and owner.kind == "Job":
            self.look_soon(Key(pod.metadata.namespace or "", owner.name), self.pods.count(BY_CONTROLLER, owner.uid))
            if new is not None and self.jobs.get(owner.name, pod.metadata.namespace) is None:
                self._free_later(pod)
        elif new is not None and FINALIZER in pod.metadata.finalizers:
            self._free_later(pod)
        elif new is not None and (old is None or old.metadata != new.metadata):
            for job in self.jobs.in_namespace(pod.metadata.namespace or ""):
                if selectors.from_label_selector(job.spec.selector).matches(pod.metadata.labels):
                    self.queue.add(key_of(job))

    def _free_later(self, pod: Pod) -> None:
        """A pod whose job is gone must not wait for it: its key is the pod's, marked."""
        if FINALIZER in pod.metadata.finalizers:
            self.queue.add(Key(f"{pod.metadata.namespace}/pods", pod.metadata.name or ""))

    async def reconcile(self, key: Key) -> float | None:
        namespace, _, pods = key.namespace.partition("/")
        if pods:
            await self._free(self.pods.get(key.name, namespace))
            return None
        job = self.jobs.by_key(key)
        if job is None or job.spec.managed_by not in (None, MANAGER):
            return None
        if is_finished(job):
            await self._free_all(self.pods.by_index(BY_CONTROLLER, job.metadata.uid or ""))
            return None
        return await self._step(job)

    async def _free(self, pod: Pod | None) -> None:
        if pod is None:
            return
        owner = controller_of(pod)
        job = self.jobs.get(owner.name, pod.metadata.namespace) if owner is not None and owner.kind == "Job" else None
        if job is None or (owner is not None and job.metadata.uid != owner.uid):
            await self._free_all([pod])

    async def _free_all(self, pods: Sequence[Pod]) -> None:
        tracked = [pod for pod in pods if FINALIZER in pod.metadata.finalizers]
        error = await self.control.drop_finalizer(tracked, FINALIZER)
        if error is not None:
            raise error

    async def _step(self, job: Job) -> float | None:
        """One look at a job: count, decide, act, and write what came of it."""
        now = self.clock.now()
        pods = await self._claim(job)
        if job.status.start_time is None and not job.spec.suspend:
            job = replace(job, status=replace(job.status, start_time=self.now()))
        found = tally(job, pods)
        uid = job.metadata.uid or ""
        backoff = self._backoffs.get(uid, Backoff()).after(found)
        ends = verdict(job, found, pods, now)
        if ends is not None or job.metadata.deletion_timestamp is not None:
            found = found.final(job)
        status, error, wait = await self._act(job, found, ends, backoff)
        pods = self.pods.by_index(BY_CONTROLLER, uid)
        status = _counted(status, pods)
        job = await self._write(job, enlist(replace(job, status=status), found))
        self._backoffs[uid] = backoff
        await self._account(job, found, ends)
        if error is not None:
            raise error
        if ends is not None:  # from here on pods' ends are what it waits for
            return None
        waits = [each for each in (wait, deadline_in(job, now)) if each is not None]
        return max(0.0, min(waits)) if waits else None

    async def _claim(self, job: Job) -> list[Pod]:
        controlled = self.pods.by_index(BY_CONTROLLER, job.metadata.uid or "")
        orphans = self.pods.by_index(ORPHANS, job.metadata.namespace or "")
        claims = plan_claims(job, selectors.from_label_selector(job.spec.selector), controlled, orphans)
        if not claims.adopt and not claims.release:
            return list(claims.mine)
        pods = await claim(self.client, Pod, job, claims, finalizer=FINALIZER)
        await self.pods.shows(newest([pod.metadata.resource_version for pod in pods]))
        return pods

    async def _act(
        self, job: Job, found: Tally, ends: Verdict | None, backoff: Backoff
    ) -> tuple[JobStatus, Exception | None, float | None]:
        """Add and drop pods. Returns the status so far, a failure, and the seconds to wait before more can be done."""
        if ends is not None:
            error = await self.control.delete(job, found.active)
            return with_condition(job.status, ends.type, "True", ends.reason, ends.message, self.now()), error, None
        if job.metadata.deletion_timestamp is not None:
            return job.status, None, None
        if job.spec.suspend:
            return await self._suspend(job, found)
        status = self._resume(job)
        wanted = plan(job, found, self.clock.now())
        if wanted.delete:
            return status, await self._drop(job, wanted.delete), None
        alone = job.spec.backoff_limit_per_index is not None
        wait = 0.0 if alone else backoff.wait(self.clock.now())
        if wanted.create and wait > 0:
            return status, None, wait
        made = [pod_of(job, index, found.delayed.get(index)) for index in wanted.create]
        _, error = await self.control.create(job, made)
        if made and found.delayed:
            self.queue.add(key_of(job))  # others carry the failures now: those that did can be counted
        return status, error, wanted.wait_s

    async def _suspend(self, job: Job, found: Tally) -> tuple[JobStatus, Exception | None, float | None]:
        error = await self._drop(job, found.active)
        status = with_condition(job.status, "Suspended", "True", "JobSuspended", "Job suspended", self.now())
        if status != job.status:
            self.events.event(job, "Normal", "Suspended", "Job suspended")
        return status, error, None

    def _resume(self, job: Job) -> JobStatus:
        if condition_of(job, "Suspended") is None:
            return job.status
        self.events.event(job, "Normal", "Resumed", "Job resumed")
        status = with_condition(job.status, "Suspended", "False", "JobResumed", "Job resumed", self.now())
        return replace(status, start_time=self.now())

    async def _drop(self, job: Job, doomed: Sequence[Pod]) -> Exception | None:
        """Delete pods that are not to count as failures: they are let go of first."""
        error = await self.control.drop_finalizer(doomed, FINALIZER)
        return error or await self.control.delete(job, doomed)

    async def _account(self, job: Job, found: Tally, ends: Verdict | None) -> None:
        """Let counted pods go, turn their uids into numbers, and end the job when nothing of it is left."""
        uncounted = job.status.uncounted_terminated_pods
        listed = {*uncounted.succeeded, *uncounted.failed} if uncounted else set()
        pods = self.pods.by_index(BY_CONTROLLER, job.metadata.uid or "")
        indexed = {pod.metadata.uid for pod in found.new_succeeded} if is_indexed(job) else set()
        held = {pod.metadata.uid for pod in found.delayed.values()}
        counted = [p for p in pods if p.metadata.uid in listed | indexed or job_policy.is_ignored(job, p)]
        counted = [pod for pod in counted if pod.metadata.uid not in held]
        await self._free_all(counted)
        pods = self.pods.by_index(BY_CONTROLLER, job.metadata.uid or "")
        tracked = {pod.metadata.uid or "" for pod in pods if FINALIZER in pod.metadata.finalizers}
        status = settle(_counted(job.status, pods), tracked)
        uncounted_left = any(pod.metadata.uid in tracked for pod in found.done)
        if ends is not None and not (status.active or status.terminating or uncounted_left):
            status = self._end(job, status, ends)
        await self._write(job, status)

    def _end(self, job: Job, status: JobStatus, ends: Verdict) -> JobStatus:
        if ends.type == "FailureTarget":
            self.events.event(job, "Warning", ends.reason, ends.message)
            return with_condition(status, "Failed", "True", ends.reason, ends.message, self.now())
        self.events.event(job, "Normal", "Completed", "Job completed")
        status = with_condition(status, "Complete", "True", ends.reason, ends.message, self.now())
        return replace(status, completion_time=self.now())

    async def _write(self, job: Job, status: JobStatus) -> Job:
        cached = self.jobs.by_key(key_of(job))
        if cached is not None and status == cached.status:
            return replace(job, status=status)
        try:
            written = await self.client.update_status(replace(job, status=status))
        except NotFound:
            return replace(job, status=status)
        await self.jobs.shows(written.metadata.resource_version)
        return written


def _counted(status: JobStatus, pods: Sequence[Pod]) -> JobStatus:
    active = [pod for pod in pods if is_active(pod)]
    return replace(
        status,
        active=count(len(active)),
        ready=sum(map(is_ready, active)),
        terminating=sum(map(is_terminating, pods)),
    )
