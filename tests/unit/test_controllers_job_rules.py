"""Jobs with rules: limits for each index, policies for failure and success, replacement, other managers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from job_world import JobWorld, conditions, in_world, make_job
from msgspec.structs import replace

from kaa.api.scheme import convert
from kaa.api.types.batch_v1 import Job, PodFailurePolicy, SuccessPolicy
from kaa.api.types.core_v1 import Pod
from kaa.controllers.job_tally import index_of

ENDLESS = 2**31 - 1


def indexed(**spec: Any) -> Job:
    whole = {"completions": 3, "parallelism": 3, "backoff_limit": ENDLESS, "backoff_limit_per_index": 1, **spec}
    return make_job(completion_mode="Indexed", **whole)


def failing(*indexes: int) -> Callable[[Pod], str]:
    return lambda pod: "Failed" if index_of(pod) in indexes else "Succeeded"


def the_job(world: JobWorld) -> Job:
    (job,) = world.api.all(Job)
    assert isinstance(job, Job)
    return job


async def pass_s(world: JobWorld, seconds: int) -> None:
    for _ in range(seconds):
        await world.settle(1.0, rounds=2)


def failure_policy(action: str, **rule: Any) -> PodFailurePolicy:
    return convert(PodFailurePolicy, {"rules": [{"action": action, **rule}]})


DISRUPTED = {"onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}


def test_each_index_has_a_limit_of_its_own() -> None:
    async def play(world: JobWorld) -> None:
        world.ends = failing(1)  # type: ignore[method-assign]
        await world.api.create(indexed())
        await world.settle()
        assert the_job(world).status.completed_indexes == "0,2"
        assert len(world.api.all(Pod)) == 3, "the second try waits ten seconds"
        await pass_s(world, 15)
        tries = sorted(
            pod.metadata.annotations["batch.kubernetes.io/job-index-failure-count"]
            for pod in world.api.all(Pod)
            if index_of(pod) == 1
        )
        assert tries == ["0", "1"]
        status = the_job(world).status
        assert (status.failed_indexes, status.completed_indexes) == ("1", "0,2")
        assert (status.failed, status.succeeded) == (2, 2)
        why = ("FailedIndexes", "Job has failed indexes")
        assert conditions(world) == [("FailureTarget", "True", *why), ("Failed", "True", *why)]
        assert all(pod.metadata.finalizers == () for pod in world.api.all(Pod))

    in_world(play)


def test_too_many_failed_indexes_end_a_job() -> None:
    async def play(world: JobWorld) -> None:
        world.ends = lambda pod: "Failed" if index_of(pod) < 2 else None  # type: ignore[method-assign]
        await world.api.create(indexed(max_failed_indexes=1, backoff_limit_per_index=0))
        await world.settle()
        text = "Job has exceeded the specified maximal number of failed indexes"
        assert conditions(world)[0][2:] == ("MaxFailedIndexesExceeded", text)
        assert world.pods() == [pod for pod in world.pods() if pod.status.phase == "Failed"], "what ran is stopped"
        assert the_job(world).status.failed_indexes == "0,1"

    in_world(play)


def test_an_index_that_comes_good() -> None:
    async def play(world: JobWorld) -> None:
        def ends(pod: Pod) -> str:
            first = pod.metadata.annotations["batch.kubernetes.io/job-index-failure-count"] == "0"
            return "Failed" if index_of(pod) == 1 and first else "Succeeded"

        world.ends = ends  # type: ignore[method-assign]
        await world.api.create(indexed())
        await pass_s(world, 15)
        status = the_job(world).status
        assert (status.succeeded, status.failed, status.completed_indexes) == (3, 1, "0-2")
        assert status.failed_indexes == ""
        assert conditions(world)[-1][0] == "Complete"

    in_world(play)


def exits(code: int) -> Callable[[Any], Any]:
    """Containers that ended with a code."""

    def told(pod: Pod) -> Pod:
        ended = {"name": "c", "image": "", "imageID": "", "ready": False, "restartCount": 0}
        state = {"terminated": {"exitCode": code, "finishedAt": "2027-01-15T08:00:00Z"}}
        status = convert(type(pod.status), {"containerStatuses": [{**ended, "state": state}]})
        return replace(pod, status=replace(pod.status, container_statuses=status.container_statuses))

    return told


class CodeWorld(JobWorld):
    """Pods end with ``code``; those of ``bad`` indexes fail."""

    code = 42
    bad: tuple[int, ...] = ()

    def kubelet(self) -> None:
        for pod in self.api.all(Pod):
            if pod.status.phase == "Running":
                phase = "Failed" if index_of(pod) in self.bad else "Succeeded"
                ended = exits(self.code)(pod)
                self.api.put(replace(ended, status=replace(ended.status, phase=phase, conditions=())))
        super().kubelet()


def in_code_world(play: Any, *bad: int) -> None:
    async def run() -> None:
        async with CodeWorld() as world:
            world.ends = lambda pod: None  # type: ignore[method-assign]
            world.bad = bad
            await play(world)

    asyncio.run(run())


EXIT_42 = {"onExitCodes": {"operator": "In", "values": [42]}}


def test_a_rule_fails_an_index_at_once() -> None:
    async def play(world: CodeWorld) -> None:
        await world.api.create(indexed(pod_failure_policy=failure_policy("FailIndex", **EXIT_42)))
        await world.settle(rounds=10)
        assert the_job(world).status.failed_indexes == "2"
        assert conditions(world)[-1][2] == "FailedIndexes"

    in_code_world(play, 2)


def test_a_rule_fails_the_job() -> None:
    async def play(world: CodeWorld) -> None:
        await world.api.create(
            make_job(completion_mode="Indexed", pod_failure_policy=failure_policy("FailJob", **EXIT_42))
        )
        await world.settle(rounds=10)
        (pod,) = world.api.all(Pod)
        text = (
            f"Container c for pod default/{pod.metadata.name} failed with exit code 42 matching FailJob rule at index 0"
        )
        assert conditions(world)[-1] == ("Failed", "True", "PodFailurePolicy", text)

    in_code_world(play, 0)


def test_a_rule_ignores_failures() -> None:
    async def play(world: JobWorld) -> None:
        broken = []

        def ends(pod: Pod) -> str:
            if len(broken) < 3 and pod.metadata.name not in broken:
                broken.append(pod.metadata.name)
                condition = convert(type(pod.status), {"conditions": [{"type": "DisruptionTarget", "status": "True"}]})
                world.api.put(replace(pod, status=replace(pod.status, phase="Failed", conditions=condition.conditions)))
            return "Failed" if pod.metadata.name in broken else "Succeeded"

        world.ends = lambda pod: None  # type: ignore[method-assign]
        await world.api.create(make_job(backoff_limit=0, pod_failure_policy=failure_policy("Ignore", **DISRUPTED)))
        await world.settle()
        for _ in range(3):
            running = [pod for pod in world.api.all(Pod) if pod.status.phase == "Running"]
            for pod in running:
                ends(pod)
            await pass_s(world, 15)
        world.ends = lambda pod: "Succeeded"  # type: ignore[method-assign]
        await pass_s(world, 30)
        assert len(broken) == 3
        assert conditions(world)[-1][0] == "Complete"
        assert the_job(world).status.failed is None

    in_world(play)


def test_a_leader_that_succeeds_is_enough() -> None:
    async def play(world: JobWorld) -> None:
        world.ends = lambda pod: "Succeeded" if index_of(pod) == 0 else None  # type: ignore[method-assign]
        rules = convert(SuccessPolicy, {"rules": [{"succeededIndexes": "0"}]})
        await world.api.create(make_job(completion_mode="Indexed", completions=3, parallelism=3, success_policy=rules))
        await world.settle()
        why = ("SuccessPolicy", "Matched rules at index 0")
        assert conditions(world) == [("SuccessCriteriaMet", "True", *why), ("Complete", "True", *why)]
        assert [pod.status.phase for pod in world.pods()] == ["Succeeded"], "the others are stopped"

    in_world(play)


def test_only_failed_pods_are_replaced() -> None:
    async def play(world: JobWorld) -> None:
        world.ends = lambda pod: None  # type: ignore[method-assign]
        await world.api.create(make_job(pod_replacement_policy="Failed", completion_mode="Indexed"))
        await world.settle()
        (pod,) = world.pods()
        kubelet, world.kubelet = world.kubelet, lambda: None  # type: ignore[method-assign]
        await world.api.delete(Pod, pod.metadata.name, "default")
        await pass_s(world, 15)
        assert the_job(world).status.terminating == 1
        assert len(world.api.all(Pod)) == 1, "it has not ended yet"
        world.kubelet = kubelet  # type: ignore[method-assign]
        leaving = world.api.all(Pod)[0]
        world.api.put(replace(leaving, status=replace(leaving.status, phase="Failed", conditions=())))
        await pass_s(world, 15)
        assert len(world.pods()) == 1

    in_world(play)


def test_jobs_of_another_manager_are_left_alone() -> None:
    async def play(world: JobWorld) -> None:
        await world.api.create(make_job(managed_by="example.com/queue"))
        await world.settle()
        assert world.api.all(Pod) == []
        assert the_job(world).status.start_time is None

    in_world(play)
