"""Two controller managers on one API: one acts, and when it dies the other does."""

from __future__ import annotations

import asyncio
import contextlib

from fake_api import FakeApi
from world import make_replica_set

from kaa.api.clock import VirtualClock
from kaa.api.types.apps_v1 import ReplicaSet
from kaa.api.types.coordination_v1 import Lease
from kaa.api.types.core_v1 import Pod
from kaa.cluster.components import elected
from kaa.controllers.manager import ControllerManager


def test_of_two_managers_one_acts_and_the_other_follows() -> None:
    async def play() -> None:
        clock = VirtualClock()
        api = FakeApi(clock)
        acting: list[str] = []

        def candidate(name: str) -> asyncio.Task[None]:
            async def lead() -> None:
                acting.append(name)
                try:
                    await ControllerManager(lambda _: api, clock, root_ca=b"PEM").run()
                finally:
                    acting.remove(name)

            return asyncio.create_task(elected(api, clock, "kube-controller-manager", name, lead))

        first, second = candidate("a"), candidate("b")
        await clock.advance(1)
        api.put(make_replica_set(replicas=3))
        await clock.advance(10)
        assert len(acting) == 1
        assert len(api.all(Pod)) == 3
        (lease,) = api.all(Lease)
        assert lease.spec.holder_identity == acting[0]
        leader, other = (first, second) if acting == ["a"] else (second, first)
        before = acting[0]
        leader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await leader
        found = api.all(ReplicaSet)[0]
        api.put(make_replica_set(replicas=5))
        assert found.spec.replicas == 3
        await clock.advance(20)
        assert len(acting) == 1
        assert acting[0] != before
        assert len(api.all(Pod)) == 5
        other.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await other
        assert acting == []

    asyncio.run(play())


def test_a_lost_lease_ends_the_work_and_begins_it_anew() -> None:
    async def play() -> None:
        clock = VirtualClock()
        api = FakeApi(clock)
        lives: list[str] = []

        async def lead() -> None:
            lives.append("begun")
            try:
                await asyncio.Event().wait()
            finally:
                lives.append("ended")

        task = asyncio.create_task(elected(api, clock, "kube-scheduler", "a", lead))
        await clock.advance(1)

        def refuse(verb: str, obj: object) -> None:
            if isinstance(obj, Lease):
                raise OSError("no route to host")

        api.refuse = refuse
        await clock.advance(15)
        assert lives == ["begun", "ended"]
        api.refuse = lambda verb, obj: None
        await clock.advance(30)
        assert lives == ["begun", "ended", "begun"]
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(play())
