"""Jobs: run to completion, counted once, in upstream's words."""

from __future__ import annotations

import pytest
from job_world import JobWorld, conditions, in_world, make_job
from msgspec.structs import replace

from kaa.api.types.batch_v1 import Job
from kaa.api.types.core_v1 import Pod
from kaa.controllers.job_tally import format_indexes, parse_indexes

REACHED = "CompletionsReached", "Reached expected number of succeeded pods"
EXCEEDED = "BackoffLimitExceeded", "Job has reached the specified backoff limit"


def test_a_job_completes() -> None:
    async def play(world: JobWorld) -> None:
        await world.api.create(make_job(completions=5, parallelism=2))
        await world.settle()
        (job,) = world.api.all(Job)
        assert conditions(world) == [("SuccessCriteriaMet", "True", *REACHED), ("Complete", "True", *REACHED)]
        status = job.status
        counts = (status.succeeded, status.failed, status.active, status.ready, status.terminating)
        assert counts == (5, None, None, 0, 0)
        assert status.start_time is not None
        assert status.completion_time is not None
        assert len(world.api.all(Pod)) == 5
        assert all(pod.metadata.finalizers == () for pod in world.api.all(Pod))
        assert world.events().count("Completed Job completed") == 1

    in_world(play)


def test_an_indexed_job_gives_every_pod_its_number() -> None:
    async def play(world: JobWorld) -> None:
        await world.api.create(make_job(completions=4, parallelism=4, completion_mode="Indexed"))
        await world.settle()
        (job,) = world.api.all(Job)
        assert (job.status.succeeded, job.status.completed_indexes) == (4, "0-3")
        pods = sorted(world.api.all(Pod), key=lambda pod: pod.spec.hostname)
        assert [pod.spec.hostname for pod in pods] == ["job-0", "job-1", "job-2", "job-3"]
        assert pods[2].metadata.annotations["batch.kubernetes.io/job-completion-index"] == "2"
        assert [env.name for env in pods[0].spec.containers[0].env] == ["JOB_COMPLETION_INDEX"]

    in_world(play)


def test_failures_back_off_and_then_the_job_fails() -> None:
    async def play(world: JobWorld) -> None:
        world.ends = lambda pod: "Failed"  # type: ignore[method-assign]
        await world.api.create(make_job(backoff_limit=2))
        await world.settle(1.0, rounds=5)
        assert len(world.api.all(Pod)) == 1
        for _ in range(45):
            await world.settle(1.0, rounds=1)
        assert len(world.api.all(Pod)) == 3
        assert conditions(world) == [("FailureTarget", "True", *EXCEEDED), ("Failed", "True", *EXCEEDED)]
        (job,) = world.api.all(Job)
        assert (job.status.failed, job.status.succeeded) == (3, None)
        assert "BackoffLimitExceeded Job has reached the specified backoff limit" in world.events()

    in_world(play)


def test_a_deadline_ends_a_job() -> None:
    async def play(world: JobWorld) -> None:
        world.ends = lambda pod: None  # type: ignore[method-assign]
        await world.api.create(make_job(active_deadline_seconds=10))
        await world.settle()
        assert len(world.pods()) == 1
        await world.clock.advance(11)
        await world.settle()
        assert conditions(world)[-1][2:] == ("DeadlineExceeded", "Job was active longer than specified deadline")
        assert world.pods() == []

    in_world(play)


def test_suspension_stops_and_resumes() -> None:
    async def play(world: JobWorld) -> None:
        world.ends = lambda pod: None  # type: ignore[method-assign]
        await world.api.create(make_job(parallelism=2, completions=2))
        await world.settle()
        (job,) = world.api.all(Job)
        await world.api.update(replace(job, spec=replace(job.spec, suspend=True)))
        await world.settle()
        assert world.api.all(Pod) == []
        (job,) = world.api.all(Job)
        assert job.status.failed is None
        assert conditions(world) == [("Suspended", "True", "JobSuspended", "Job suspended")]
        world.ends = lambda pod: "Succeeded"  # type: ignore[method-assign]
        await world.api.update(replace(job, spec=replace(job.spec, suspend=False)))
        await world.settle()
        assert conditions(world)[0] == ("Suspended", "False", "JobResumed", "Job resumed")
        assert conditions(world)[-1][0] == "Complete"

    in_world(play)


def test_a_finished_job_lives_as_long_as_it_says() -> None:
    async def play(world: JobWorld) -> None:
        await world.api.create(make_job(ttl_seconds_after_finished=30))
        await world.settle()
        assert len(world.api.all(Job)) == 1
        await world.clock.advance(31)
        await world.settle()
        assert world.api.all(Job) == world.api.all(Pod) == []

    in_world(play)


@pytest.mark.parametrize(
    ("numbers", "text"), [((), ""), ((3,), "3"), ((1, 2), "1,2"), ((0, 1, 2, 5, 7, 8, 9), "0-2,5,7-9")], ids=str
)
def test_indexes_are_written_in_runs(numbers: tuple[int, ...], text: str) -> None:
    assert format_indexes(numbers) == text
    assert parse_indexes(text, 100) == set(numbers)
