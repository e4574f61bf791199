"""One leader at a time, under virtual time."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from fake_api import FakeApi

from kaa.api.clock import VirtualClock
from kaa.api.errors import ServiceUnavailable
from kaa.api.types.coordination_v1 import Lease
from kaa.client.leases import LeaderElector, LostLease


class Candidate:
    def __init__(self, api: FakeApi, clock: VirtualClock, name: str) -> None:
        self.elector = LeaderElector(api, clock, None, "job", identity=name)
        self.leads = False
        self.task = asyncio.create_task(self.elector.run(self.lead), name=name)

    async def lead(self) -> None:
        self.leads = True
        try:
            await asyncio.Event().wait()
        finally:
            self.leads = False

    async def stop(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError, LostLease):
            await self.task


def test_one_leads_and_hands_over_when_it_stops() -> None:
    async def play() -> None:
        clock = VirtualClock()
        api = FakeApi(clock)
        first, second = Candidate(api, clock, "a"), Candidate(api, clock, "b")
        await clock.advance(60)
        assert sorted((first.leads, second.leads)) == [False, True]
        leader, other = (first, second) if first.leads else (second, first)
        await leader.stop()
        await clock.advance(4)
        assert other.leads
        (lease,) = api.all(Lease)
        assert lease.spec.lease_transitions == 1
        await other.stop()

    asyncio.run(play())


def test_a_leader_that_cannot_renew_stops_before_another_begins() -> None:
    async def play() -> None:
        clock = VirtualClock()
        api = FakeApi(clock)
        first = Candidate(api, clock, "a")
        await clock.advance(1)
        second = Candidate(api, clock, "b")
        await clock.advance(5)
        assert (first.leads, second.leads) == (True, False)

        def refuse(verb: str, obj: Any) -> None:
            if isinstance(obj, Lease) and obj.spec.holder_identity in ("a", ""):
                raise ServiceUnavailable("cut off")

        api.refuse = refuse
        for _ in range(40):
            await clock.advance(1)
            assert not (first.leads and second.leads)
        assert (first.leads, second.leads) == (False, True)
        with pytest.raises(LostLease):
            await first.task
        await second.stop()

    asyncio.run(play())
