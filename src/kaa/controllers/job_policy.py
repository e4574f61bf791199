"""What a Job's policies make of a pod: failure rules and success rules. No I/O.

Source: kubernetes pkg/controller/job (pod_failure_policy.go, success_policy.go).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kaa.api.types.batch_v1 import Job, PodFailurePolicyRule
from kaa.api.types.core_v1 import ContainerStatus, Pod


@dataclass(frozen=True, slots=True)
class Match:
    """The rule that a failed pod met. ``action``: FailJob, FailIndex, Ignore or Count."""

    action: str
    message: str


def judge(job: Job, pod: Pod) -> Match | None:
    """The first rule of the job's failure policy that a failed pod meets."""
    if job.spec.pod_failure_policy is None or pod.status.phase != "Failed":
        return None
    for number, rule in enumerate(job.spec.pod_failure_policy.rules):
        message = _by_exit_codes(rule, pod, number) or _by_conditions(rule, pod, number)
        if message:
            return Match(rule.action, message)
    return None


def is_ignored(job: Job, pod: Pod) -> bool:
    found = judge(job, pod)
    return found is not None and found.action == "Ignore"


def _by_exit_codes(rule: PodFailurePolicyRule, pod: Pod, number: int) -> str:
    wanted = rule.on_exit_codes
    if wanted is None:
        return ""
    for status in (*pod.status.init_container_statuses, *pod.status.container_statuses):
        if wanted.container_name not in (None, status.name):
            continue
        code = _exit_code(status)
        if code and (code in wanted.values) is (wanted.operator == "In"):
            where = f"Container {status.name} for pod {pod.metadata.namespace}/{pod.metadata.name}"
            return f"{where} failed with exit code {code} matching {rule.action} rule at index {number}"
    return ""


def _exit_code(status: ContainerStatus) -> int:
    return status.state.terminated.exit_code if status.state.terminated is not None else 0


def _by_conditions(rule: PodFailurePolicyRule, pod: Pod, number: int) -> str:
    for wanted in rule.on_pod_conditions:
        for condition in pod.status.conditions:
            if (condition.type, condition.status) == (wanted.type, wanted.status or "True"):
                where = f"Pod {pod.metadata.namespace}/{pod.metadata.name}"
                return f"{where} has condition {wanted.type} matching {rule.action} rule at index {number}"
    return ""


def success(job: Job, indexes: Iterable[int], parse: dict[str, set[int]]) -> str:
    """The message of the first success rule that the completed indexes meet; empty for none.

    ``parse``: {the text of ``succeededIndexes``: its numbers}.
    """
    done = set(indexes)
    for number, rule in enumerate(job.spec.success_policy.rules if job.spec.success_policy else ()):
        wanted = parse[rule.succeeded_indexes] if rule.succeeded_indexes else None
        met = done if wanted is None else done & wanted
        needed = rule.succeeded_count if rule.succeeded_count is not None else len(wanted or ())
        if needed and len(met) >= needed:
            return f"Matched rules at index {number}"
    return ""
