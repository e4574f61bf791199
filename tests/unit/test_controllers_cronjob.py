"""CronJobs under virtual time, and the schedules they follow."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace
from world import World, make_template

from kaa.api.types.batch_v1 import CronJob, CronJobSpec, Job, JobCondition, JobSpec, JobTemplateSpec
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.controllers import cron
from kaa.controllers.cronjob import CronJobs, due
from kaa.controllers.job import is_finished


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("schedule", "zone", "after", "expected"),
    [
        ("* * * * *", None, "2026-01-01T00:00:30", "2026-01-01T00:01:00"),
        ("*/15 * * * *", None, "2026-01-01T00:46:00", "2026-01-01T01:00:00"),
        ("0 9-17/4 * * mon-fri", None, "2026-01-02T17:00:00", "2026-01-05T09:00:00"),
        ("0 0 13 * fri", None, "2026-03-01T00:00:00", "2026-03-06T00:00:00"),
        ("0 0 29 2 *", None, "2026-01-01T00:00:00", "2028-02-29T00:00:00"),
        ("0 0 */2 * mon", None, "2026-01-01T00:00:00", "2026-01-03T00:00:00"),
        ("@weekly", None, "2026-01-01T00:00:00", "2026-01-04T00:00:00"),
        ("@every 90m", None, "2026-01-01T00:00:00", "2026-01-01T01:30:00"),
        ("0 12 * * *", "Europe/Berlin", "2026-07-01T00:00:00", "2026-07-01T10:00:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00", "2026-03-30T00:30:00"),
        ("TZ=Asia/Tokyo 0 9 * * *", None, "2026-01-01T01:00:00", "2026-01-02T00:00:00"),
        ("59 23 31 12 ?", None, "2026-01-01T00:00:00", "2026-12-31T23:59:00"),
    ],
)
def test_the_next_time(schedule: str, zone: str | None, after: str, expected: str) -> None:
    assert cron.parse(schedule, zone).after(at(after)) == at(expected)


@pytest.mark.parametrize(
    "text",
    ["", "* * * *", "60 * * * *", "* * 0 * *", "*/0 * * * *", "5-1 * * * *", "@sometimes", "@every x", "a * * * *"],
)
def test_what_is_no_schedule(text: str) -> None:
    with pytest.raises(cron.InvalidSchedule):
        cron.parse(text)


def test_a_day_that_never_comes() -> None:
    assert cron.parse("0 0 30 2 *").after(0) is None


def make_cron(schedule: str = "* * * * *", **spec: Any) -> CronJob:
    job = JobTemplateSpec(spec=JobSpec(template=make_template(), suspend=True))
    meta = ObjectMeta(name="tick", namespace="default", creation_timestamp="2026-01-01T00:00:00Z")
    return CronJob(metadata=meta, spec=CronJobSpec(schedule=schedule, job_template=job, **spec))


def test_missed_times_collapse_into_the_last() -> None:
    schedule = cron.parse("*/10 * * * *")
    assert due(make_cron(), schedule, at("2026-01-01T00:35:00")).at == at("2026-01-01T00:30:00")
    found = due(make_cron(), schedule, at("2026-02-01T00:05:00"))
    assert (found.at, found.missed) == (at("2026-02-01T00:00:00"), 101)
    late = make_cron(starting_deadline_seconds=60)
    assert due(late, schedule, at("2026-01-01T00:35:00")).at is None
    assert due(late, schedule, at("2026-01-01T00:35:00")).next == at("2026-01-01T00:40:00")


def in_world(play: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        async with World() as world:
            await play(world)

    asyncio.run(run())


async def begin(world: World, **spec: Any) -> None:
    made = make_cron(**spec)
    await world.api.create(replace(made, metadata=replace(made.metadata, creation_timestamp=None)))
    await world.settle()


def finish(world: World, job: Job, type: str = "Complete") -> None:
    condition = JobCondition(type=type, status="True")
    stamp = job.metadata.creation_timestamp
    status = replace(job.status, conditions=(condition,), completion_time=stamp, start_time=stamp)
    world.api.put(replace(job, status=status))


def running(world: World) -> list[Job]:
    return [job for job in world.api.all(Job) if not is_finished(job)]


async def minutes(world: World, count: int) -> None:
    for _ in range(count):
        await world.clock.advance(60)


def test_a_job_every_minute_and_a_short_history() -> None:
    async def play(world: World) -> None:
        await begin(world)
        for _ in range(6):
            await minutes(world, 1)
            for job in running(world):
                finish(world, job)
        await world.clock.advance(5)
        jobs = world.api.all(Job)
        assert len(jobs) == 3
        assert all((job.metadata.name or "").startswith("tick-3") for job in jobs)
        cron_job = await world.api.get(CronJob, "tick", "default")
        assert cron_job.status.active == ()
        assert cron_job.status.last_successful_time
        assert cron_job.status.last_schedule_time.endswith(":00Z")

    in_world(play)


@pytest.mark.parametrize(("policy", "expected"), [("Allow", 3), ("Forbid", 1), ("Replace", 1)])
def test_concurrency(policy: str, expected: int) -> None:
    async def play(world: World) -> None:
        await begin(world, concurrency_policy=policy)
        await minutes(world, 3)
        await world.settle()
        assert len(running(world)) == expected
        cron_job = await world.api.get(CronJob, "tick", "default")
        assert len(cron_job.status.active) == expected

    in_world(play)


def test_a_job_that_the_cache_does_not_show_is_not_taken_for_gone() -> None:
    """Or Forbid would let a second one run beside it."""

    async def play(world: World) -> None:
        await begin(world, concurrency_policy="Forbid")
        await minutes(world, 1)
        (controller,) = (each for each in world.manager.controllers if isinstance(each, CronJobs))
        controller.jobs.by_index = lambda index, word: []  # type: ignore[method-assign]  # a cache that lags
        await minutes(world, 2)
        assert len(running(world)) == 1
        assert not any(text.startswith("MissingJob") for text in world.events())
        world.api.remove(running(world)[0])
        await minutes(world, 1)
        assert any(text.startswith("MissingJob Active job went missing: tick-") for text in world.events())
        assert len(running(world)) == 1

    in_world(play)


def test_a_suspended_one_starts_nothing() -> None:
    async def play(world: World) -> None:
        await begin(world, suspend=True)
        await minutes(world, 3)
        assert world.api.all(Job) == []

    in_world(play)


@pytest.mark.parametrize(
    ("schedule", "zone", "told"),
    [
        (
            "* * * * *",
            "Nowhere/Land",
            'UnknownTimeZone invalid timeZone: "Nowhere/Land": unknown time zone Nowhere/Land',
        ),
        (
            "TZ=Nowhere/Land * * * * *",
            None,
            "UnparseableSchedule unparseable schedule: TZ=Nowhere/Land * * * * * : "
            "provided bad location Nowhere/Land: unknown time zone Nowhere/Land",
        ),
        (
            "TZ=Asia/Tokyo * * * * *",
            None,
            'UnsupportedSchedule CRON_TZ or TZ used in schedule "TZ=Asia/Tokyo * * * * *" is not officially supported, see '
            "https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details",
        ),
    ],
    ids=["timeZone", "a zone in the schedule", "which nobody should use"],
)
def test_nonsense_is_told(schedule: str, zone: str | None, told: str) -> None:
    async def play(world: World) -> None:
        await begin(world, schedule=schedule, time_zone=zone)
        assert told in world.events()

    in_world(play)


def test_a_schedule_that_never_comes_is_told() -> None:
    async def play(world: World) -> None:
        await begin(world, schedule="59 23 31 2 *")
        told = "invalid schedule: 59 23 31 2 * : time difference between two schedules is less than 1 second"
        assert f"InvalidSchedule {told}" in world.events()
        assert world.api.all(Job) == []

    in_world(play)
