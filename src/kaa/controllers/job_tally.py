"""Counting a Job's pods exactly once. No I/O.

A pod carries the finalizer ``batch.kubernetes.io/job-tracking`` until it is counted: its uid goes into
``uncountedTerminatedPods``, then its finalizer goes, then the uid becomes a number. Whoever crashes between any two of
these finds the rest of the work in the objects.

Source: kubernetes pkg/controller/job (job_controller.go, indexed_job_utils.go, tracking_utils.go).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replace_fields

from msgspec.structs import replace

from kaa.api.clock import parse_time
from kaa.api.types.batch_v1 import Job, JobStatus, UncountedTerminatedPods
from kaa.api.types.core_v1 import Pod
from kaa.api.values import Time

from .controller import count
from .job_policy import is_ignored, judge
from .pods import is_active, is_ready, is_terminating

FINALIZER = "batch.kubernetes.io/job-tracking"
INDEX = "batch.kubernetes.io/job-completion-index"
#: How often pods of this index had failed before: those that count, and those that a failure policy ignores.
FAILURES = "batch.kubernetes.io/job-index-failure-count"
IGNORED_FAILURES = "batch.kubernetes.io/job-index-ignored-failure-count"
#: At most so many uids stand in a status at once: it must stay small.
MOST_UNCOUNTED = 500


def is_indexed(job: Job) -> bool:
    return job.spec.completion_mode == "Indexed"


def index_of(pod: Pod) -> int:
    """The completion index of a pod; -1 for none."""
    text = pod.metadata.annotations.get(INDEX, "")
    return int(text) if text.isdecimal() else -1


def failures_of(pod: Pod) -> tuple[int, int]:
    """(counted, ignored) failures of the pod's index before it."""
    texts = (pod.metadata.annotations.get(key, "") for key in (FAILURES, IGNORED_FAILURES))
    counted, ignored = (int(text) if text.isdecimal() else 0 for text in texts)
    return counted, ignored


def next_failures(job: Job, replaced: Pod | None) -> tuple[int, int]:
    """(counted, ignored) failures that the pod that takes over from ``replaced`` carries."""
    if replaced is None:
        return 0, 0
    counted, ignored = failures_of(replaced)
    return (counted, ignored + 1) if is_ignored(job, replaced) else (counted + 1, ignored)


def parse_indexes(text: str | None, completions: int) -> set[int]:
    """``1,3-5`` as numbers below ``completions``."""
    found: set[int] = set()
    for part in filter(None, (text or "").split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), min(int(last or first), completions - 1) + 1))
    return found


def format_indexes(indexes: Iterable[int]) -> str:
    """Numbers as ``1,3-5``; two in a row stay ``1,2``."""
    runs: list[list[int]] = []
    for each in sorted(indexes):
        if runs and runs[-1][-1] == each - 1:
            runs[-1].append(each)
        else:
            runs.append([each])
    return ",".join(f"{r[0]}-{r[-1]}" if len(r) > 2 else ",".join(map(str, r)) for r in runs)


@dataclass(frozen=True)
class Tally:
    """A job's pods as they count now. ``done``: pods to be counted; ``indexes``: completed ones, with theirs.

    Where each index has a limit of its own: ``failed_indexes`` have reached it, and ``delayed`` are the failed pods that
    carry the failures of an index until another pod does, by index. They are counted then.
    """

    active: tuple[Pod, ...]
    ready: int
    terminating: int
    succeeded: int
    failed: int
    new_succeeded: tuple[Pod, ...]
    new_failed: tuple[Pod, ...]
    indexes: frozenset[int]
    failed_indexes: frozenset[int] = frozenset()
    delayed: Mapping[int, Pod] = field(default_factory=dict)
    leaving: tuple[Pod, ...] = ()  #: being deleted, and not over yet

    def final(self, job: Job) -> Tally:
        """The same for a job that ends: nobody will replace anybody."""
        late = tuple(pod for pod in self.delayed.values() if not is_ignored(job, pod))
        return replace_fields(self, new_failed=(*self.new_failed, *late), delayed={})

    @property
    def done(self) -> tuple[Pod, ...]:
        return self.new_succeeded + self.new_failed


def replaces_only_failed(job: Job) -> bool:
    return job.spec.pod_replacement_policy == "Failed" or job.spec.pod_failure_policy is not None


def has_failed(pod: Pod, *, only_failed: bool) -> bool:
    """A pod that is being deleted will fail; it counts at once unless only failed pods are replaced."""
    if pod.status.phase == "Failed":
        return True
    return not only_failed and pod.metadata.deletion_timestamp is not None and pod.status.phase != "Succeeded"


def failed_indexes(job: Job, pods: Iterable[Pod]) -> frozenset[int]:
    """The indexes that have failed as often as ``backoffLimitPerIndex`` allows, or met a rule that says FailIndex."""
    limit = job.spec.backoff_limit_per_index
    if limit is None:
        return frozenset()
    completions = job.spec.completions or 0
    known = parse_indexes(job.status.failed_indexes, completions)
    if any(c.type in ("FailureTarget", "SuccessCriteriaMet") and c.status == "True" for c in job.status.conditions):
        return frozenset(known)  # what is stopped now has not failed
    only_failed = replaces_only_failed(job)
    counts = [p for p in pods if FINALIZER in p.metadata.finalizers and has_failed(p, only_failed=only_failed)]
    spent = {index_of(pod) for pod in counts if _spends_index(job, pod, limit)}
    return frozenset(known | spent & set(range(completions)))


def _spends_index(job: Job, pod: Pod, limit: int) -> bool:
    match = judge(job, pod)
    if match is not None and match.action in ("FailIndex", "Ignore"):
        return match.action == "FailIndex"
    return failures_of(pod)[0] >= limit


def delayed_pods(job: Job, failed: Iterable[Pod], active: Iterable[Pod], over: Collection[int]) -> dict[int, Pod]:
    """{index: its last failed pod}, of indexes that go on and have no pod now. ``over``: indexes that do not go on."""
    if job.spec.backoff_limit_per_index is None:
        return {}
    taken = {index_of(pod) for pod in active}
    found: dict[int, Pod] = {}
    for pod in failed:
        index = index_of(pod)
        if index < 0 or index in taken or index in over:
            continue
        last = found.get(index)
        if last is None or _failure_rank(pod) >= _failure_rank(last):
            found[index] = pod
    return found


def _failure_rank(pod: Pod) -> tuple[int, float]:
    return sum(failures_of(pod)), finished_at(pod)


def tally(job: Job, pods: Sequence[Pod]) -> Tally:
    """Count a job's pods."""
    uncounted = job.status.uncounted_terminated_pods or UncountedTerminatedPods()
    known = {*uncounted.succeeded, *uncounted.failed}
    only_failed = replaces_only_failed(job)
    fresh = [p for p in pods if FINALIZER in p.metadata.finalizers and p.metadata.uid not in known]
    new_succeeded = [pod for pod in fresh if pod.status.phase == "Succeeded"]
    new_failed = [pod for pod in fresh if has_failed(pod, only_failed=only_failed) and not is_ignored(job, pod)]
    active = tuple(pod for pod in pods if is_active(pod))
    completions = job.spec.completions or 0
    indexes: frozenset[int] = frozenset()
    succeeded = (job.status.succeeded or 0) + len(uncounted.succeeded) + len(new_succeeded)
    if is_indexed(job):
        before = parse_indexes(job.status.completed_indexes, completions)
        indexes = frozenset(before | {i for i in map(index_of, new_succeeded) if 0 <= i < completions})
        succeeded = len(indexes)
    spent = failed_indexes(job, pods) - indexes
    ended = [pod for pod in fresh if has_failed(pod, only_failed=only_failed)]
    delayed = delayed_pods(job, ended, active, spent | indexes)
    held = {pod.metadata.uid for pod in delayed.values()}
    return Tally(
        active,
        sum(map(is_ready, active)),
        sum(map(is_terminating, pods)),
        succeeded,
        (job.status.failed or 0) + len(uncounted.failed) + len(new_failed),
        tuple(new_succeeded),
        tuple(pod for pod in new_failed if pod.metadata.uid not in held),
        indexes,
        spent,
        delayed,
        tuple(pod for pod in pods if is_terminating(pod)),
    )


def enlist(job: Job, found: Tally) -> JobStatus:
    """The status with the uids of pods that are about to lose their finalizer."""
    old = job.status.uncounted_terminated_pods or UncountedTerminatedPods()
    room = max(0, MOST_UNCOUNTED - len(old.succeeded) - len(old.failed))
    succeeded = [pod.metadata.uid or "" for pod in found.new_succeeded][:room]
    failed = [pod.metadata.uid or "" for pod in found.new_failed][: room - len(succeeded)]
    indexed = is_indexed(job)
    uncounted = UncountedTerminatedPods(
        succeeded=old.succeeded if indexed else (*old.succeeded, *succeeded), failed=(*old.failed, *failed)
    )
    listed = format_indexes(found.indexes) or None if indexed else job.status.completed_indexes
    status = replace(job.status, uncounted_terminated_pods=uncounted, completed_indexes=listed)
    if job.spec.backoff_limit_per_index is not None:
        status = replace(status, failed_indexes=format_indexes(found.failed_indexes))
    return replace(status, succeeded=count(len(found.indexes))) if indexed else status


def settle(status: JobStatus, tracked: Collection[str]) -> JobStatus:
    """Turn uids into numbers. ``tracked``: uids of pods that still have the finalizer, and so stay uids."""
    old = status.uncounted_terminated_pods or UncountedTerminatedPods()
    succeeded = tuple(uid for uid in old.succeeded if uid in tracked)
    failed = tuple(uid for uid in old.failed if uid in tracked)
    return replace(
        status,
        uncounted_terminated_pods=UncountedTerminatedPods(succeeded=succeeded, failed=failed),
        succeeded=count((status.succeeded or 0) + len(old.succeeded) - len(succeeded)),
        failed=count((status.failed or 0) + len(old.failed) - len(failed)),
    )


def finished_at(pod: Pod) -> float:
    """When a pod ended: its last container's end, else when it ceased to be ready, was deleted, or was made."""
    ends = [s.state.terminated.finished_at for s in pod.status.container_statuses if s.state.terminated is not None]
    known = [parse_time(end) for end in ends if end]
    if known:
        return max(known)
    unready = (c.last_transition_time for c in pod.status.conditions if c.type == "Ready" and c.status == "False")
    meta = pod.metadata
    deleted = parse_time(meta.deletion_timestamp) if meta.deletion_timestamp else None
    if deleted is not None:
        deleted -= meta.deletion_grace_period_seconds or 0
    ready = next(unready, None)
    if ready:
        return parse_time(ready)
    return deleted if deleted is not None else parse_time(meta.creation_timestamp or Time("1970-01-01T00:00:00Z"))
