"""A world where pods of Jobs end as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec.structs import replace
from world import World, make_template

from kaa.api.types.batch_v1 import Job, JobSpec
from kaa.api.types.core_v1 import Pod
from kaa.api.types.meta_v1 import LabelSelector, ObjectMeta


def make_job(**spec: Any) -> Job:
    template = make_template(**{"batch.kubernetes.io/controller-uid": "u"})
    spec = {"parallelism": 1, "completions": 1, "backoff_limit": 6, "completion_mode": "NonIndexed", **spec}
    return Job(
        metadata=ObjectMeta(name="job", namespace="default"),
        spec=JobSpec(
            selector=LabelSelector(match_labels={"batch.kubernetes.io/controller-uid": "u"}), template=template, **spec
        ),
    )


class JobWorld(World):
    """Pods end at once with the phase that ``ends`` says; None lets them run."""

    ends: Callable[[Pod], str | None] = staticmethod(lambda pod: "Succeeded")

    def kubelet(self) -> None:
        super().kubelet()
        for pod in self.api.all(Pod):
            phase = self.ends(pod)
            running = pod.status.phase == "Running" and pod.metadata.deletion_timestamp is None
            if phase is not None and running:
                status = replace(pod.status, phase=phase, conditions=())
                self.api.put(replace(pod, status=status))


def in_world(play: Callable[[JobWorld], Awaitable[None]]) -> None:
    async def run() -> None:
        async with JobWorld() as world:
            await play(world)

    asyncio.run(run())


def conditions(world: World) -> list[tuple[str, str, str | None, str | None]]:
    (job,) = world.api.all(Job)
    return [(c.type, c.status, c.reason, c.message) for c in job.status.conditions]
