"""The API server chooses who leads: the oldest version, and another when it is lost. Virtual time throughout."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from kaa.api.clock import VirtualClock, format_micro_time
from kaa.api.errors import NotFound, ServiceUnavailable
from kaa.api.types.coordination_v1 import Lease, LeaseSpec
from kaa.api.types.coordination_v1beta1 import LeaseCandidate
from kaa.apiserver.election import CANDIDATE_S, Elections, NoElection, best, plan, strategy_of
from kaa.apiserver.options import ApiServerOptions
from kaa.client.candidates import is_asked
from kaa.client.leases import LEASE_S
from kaa.client.workqueue import Key
from kaa.cluster import components
from kaa.cluster.components import MANAGER, stood_for
from tests.api_lab import Lab, run
from tests.unit.test_runtime_config import candidate

LEASE = "kube-controller-manager"
OPTIONS = ApiServerOptions(runtime_config="coordination.k8s.io/v1beta1=true")


class Cut:
    """A client whose every call fails while ``off``."""

    def __init__(self, client: Any) -> None:
        self._client, self.off = client, False

    def __getattr__(self, name: str) -> Any:
        if self.off:
            raise ServiceUnavailable("cut off")
        return getattr(self._client, name)


class Member:
    """A controller manager that stands for its lease."""

    def __init__(self, lab: Lab, name: str, version: str) -> None:
        self.name, self.leads = name, False
        self.client = Cut(lab.plane.client(MANAGER, name))
        work = stood_for(self.client, lab.clock, LEASE, name, self.lead, version=version)  # type: ignore[arg-type]
        self.task = asyncio.create_task(work, name=name)

    async def lead(self) -> None:
        self.leads = True
        try:
            await asyncio.Event().wait()
        finally:
            self.leads = False

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def die(self) -> None:
        """Be gone without a word."""
        self.client.off = True
        await self.stop()


@asynccontextmanager
async def election(lab: Lab) -> Any:
    """Elections, and members that ``join``."""
    holding = asyncio.create_task(Elections(lab.plane.api.cacher, lab.client, lab.clock).run())
    async with AsyncExitStack() as stack:

        async def join(name: str, version: str) -> Member:
            member = Member(lab, name, version)
            stack.push_async_callback(member.stop)
            return member

        yield join
    holding.cancel()
    await asyncio.gather(holding, return_exceptions=True)


def play(story: Callable[[Lab, VirtualClock], Awaitable[None]]) -> None:
    clock = VirtualClock()

    async def use(lab: Lab) -> None:
        await story(lab, clock)

    run(use, clock=clock, bootstrapped=True, options=OPTIONS)


async def holder(lab: Lab) -> str | None:
    return (await lab.client.get(Lease, LEASE, "kube-system")).spec.holder_identity


def test_the_older_version_leads_and_a_lost_leader_is_replaced_when_its_lease_runs_out() -> None:
    async def story(lab: Lab, clock: VirtualClock) -> None:
        async with election(lab) as join:
            new, old = await join("new", "1.36.0"), await join("old", "1.35.0")
            await clock.advance(10)
            assert (new.leads, old.leads) == (False, True)
            lease = await lab.client.get(Lease, LEASE, "kube-system")
            assert (lease.spec.holder_identity, lease.spec.strategy) == (f"old.{LEASE}", "OldestEmulationVersion")
            await clock.advance(60)
            assert (new.leads, old.leads) == (False, True)
            await old.die()
            await clock.advance(LEASE_S - 3)
            assert not new.leads
            await clock.advance(6)
            assert new.leads
            assert await holder(lab) == f"new.{LEASE}"

    play(story)


def test_a_leader_makes_way_for_an_older_version_and_takes_over_again() -> None:
    async def story(lab: Lab, clock: VirtualClock) -> None:
        async with election(lab) as join:
            new = await join("new", "1.36.0")
            await clock.advance(10)
            assert new.leads
            old = await join("old", "1.35.0")
            for _ in range(30):
                await clock.advance(1)
                assert not (new.leads and old.leads)
            assert (new.leads, old.leads) == (False, True)
            assert (await lab.client.get(Lease, LEASE, "kube-system")).spec.preferred_holder is None
            await old.stop()
            await clock.advance(10)
            assert new.leads

    play(story)


def test_a_leader_that_is_cut_off_stops_before_another_begins() -> None:
    async def story(lab: Lab, clock: VirtualClock) -> None:
        async with election(lab) as join:
            first, second = await join("a", "1.36.0"), await join("b", "1.36.0")
            await clock.advance(10)
            assert first.leads != second.leads
            leader, other = (first, second) if first.leads else (second, first)
            leader.client.off = True
            for _ in range(40):
                await clock.advance(1)
                assert not (first.leads and second.leads)
            assert (leader.leads, other.leads) == (False, True)
            leader.client.off = False
            await clock.advance(20)
            assert leader.leads != other.leads

    play(story)


def test_candidates_of_whom_nobody_has_heard_are_collected() -> None:
    async def story(lab: Lab, clock: VirtualClock) -> None:
        for name, ago_s in (("gone", CANDIDATE_S + 1), ("here", CANDIDATE_S - 1)):
            await lab.client.create(candidate(name, renew_time=format_micro_time(clock.now() - ago_s)))
        async with election(lab):
            await clock.settle()
            with pytest.raises(NotFound):
                await lab.client.get(LeaseCandidate, "gone", "default")
            await lab.client.get(LeaseCandidate, "here", "default")

    play(story)


def test_idle_elections_write_nothing_but_renewals() -> None:
    async def story(lab: Lab, clock: VirtualClock) -> None:
        async with election(lab) as join:
            await join("a", "1.36.0")
            await join("b", "1.36.0")
            await clock.advance(30)
            before = [(await lab.client.list(LeaseCandidate, "kube-system")).items]
            await clock.advance(60)
            assert [(await lab.client.list(LeaseCandidate, "kube-system")).items] == before

    play(story)


# ------------------------------------------------------------------------------------------------ deciding

NOW = 1_800_000_000.0
KEY = Key("kube-system", "l")


def standing(name: str, emulated: str = "1.35.0", *, binary: str = "1.36.0", strategy: str = "", **ago: float) -> Any:
    """``renewed`` and ``pinged`` seconds ago."""
    made = candidate(name, emulation_version=emulated, binary_version=binary)
    times = {"renew_time": ago.get("renewed", 0.0), "ping_time": ago.get("pinged")}
    stamps = {key: format_micro_time(NOW - seconds) for key, seconds in times.items() if seconds is not None}
    spec = replace(made.spec, strategy=strategy or made.spec.strategy, **stamps)
    return replace(made, metadata=replace(made.metadata, creation_timestamp="2026-01-01T00:00:00Z"), spec=spec)


def test_who_is_best() -> None:
    older = replace(standing("z"), metadata=replace(standing("z").metadata, creation_timestamp="2025-01-01T00:00:00Z"))
    assert best([standing("a", "1.36.0"), standing("b", "1.35.1"), standing("c", "1.35.0")]).metadata.name == "c"
    assert best([standing("a", binary="1.37.0"), standing("b", binary="1.36.1")]).metadata.name == "b"
    assert best([standing("a"), older]).metadata.name == "z"
    assert best([standing("a", "1.9.0"), standing("b", "1.10.0")]).metadata.name == "a"
    assert best([standing("a", "")]) is None


def test_the_newest_program_says_the_strategy() -> None:
    mine, theirs = standing("a"), standing("b", binary="1.37.0", strategy="x.io/y")
    assert strategy_of([mine, theirs]) == "x.io/y"
    with pytest.raises(
        NoElection, match='candidates "a", "c" at same binary version but received differing strategies'
    ):
        strategy_of([mine, standing("c", strategy="x.io/y")])
    given = plan(KEY, None, [theirs], NOW).lease
    assert given is not None
    assert (given.spec.strategy, given.spec.holder_identity) == ("x.io/y", None)


def test_who_is_silent_is_asked_and_waited_for() -> None:
    silent, fresh = standing("a", renewed=60), standing("b")
    assert [one.metadata.name for one in plan(KEY, None, [silent, fresh], NOW).ping] == ["a"]
    waited = plan(KEY, None, [standing("a", renewed=60, pinged=2), fresh], NOW)
    assert (waited.ping, waited.lease, waited.again_s) == ((), None, 3.0)
    done = plan(KEY, None, [standing("a", renewed=60, pinged=6), standing("b", "1.36.0")], NOW).lease
    assert done is not None
    assert done.spec.holder_identity == "b"
    with pytest.raises(NoElection, match="no available candidates"):
        plan(KEY, None, [standing("a", renewed=60, pinged=6)], NOW)
    assert plan(KEY, None, [standing("a", renewed=CANDIDATE_S + 1)], NOW).again_s is None


def test_what_is_no_time_is_long_ago() -> None:
    odd = candidate("odd", renew_time="yesterday", ping_time="soon")
    assert plan(KEY, None, [odd], NOW).again_s is None
    lease = Lease(metadata=odd.metadata, spec=LeaseSpec(holder_identity="x", renew_time="?", lease_duration_seconds=5))
    given = plan(KEY, lease, [standing("a")], NOW).lease
    assert given is not None
    assert given.spec.holder_identity == "a"
    assert not is_asked(odd)


def test_components_know_which_version_they_are() -> None:
    assert components.EMULATED == "1.36.0"
