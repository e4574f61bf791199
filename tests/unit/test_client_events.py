"""Events: said once, counted after, never in the way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import pytest
from fake_api import FakeApi
from world import make_pod

from kaa.api.clock import VirtualClock
from kaa.api.types.core_v1 import Event
from kaa.client.events import AT_ONCE, LATE_S, QUIET_S, EventRecorder

Play = Callable[[FakeApi, VirtualClock, EventRecorder], Awaitable[None]]


def recorded(play: Play) -> None:
    async def run() -> None:
        clock = VirtualClock()
        api = FakeApi(clock)
        await play(api, clock, EventRecorder(api, clock, "kubelet", host="n1"))

    asyncio.run(run())


def test_an_event_says_who_what_and_when() -> None:
    async def play(api: FakeApi, clock: VirtualClock, recorder: EventRecorder) -> None:
        recorder.event(make_pod("web-0"), "Normal", "Started", "Started container c")
        await recorder.flush()
        (event,) = api.all(Event)
        about = event.involved_object
        assert (about.kind, about.api_version, about.namespace, about.name, about.uid) == (
            "Pod",
            "v1",
            "default",
            "web-0",
            "uid-web-0",
        )
        assert (event.type, event.reason, event.message) == ("Normal", "Started", "Started container c")
        assert (event.source.component, event.source.host) == ("kubelet", "n1")
        assert (event.reporting_component, event.reporting_instance) == ("kubelet", "n1")
        assert event.count == 1
        assert event.first_timestamp == event.last_timestamp
        assert event.metadata.namespace == "default"
        assert event.metadata.name.startswith("web-0.")

    recorded(play)


def test_the_same_again_is_counted() -> None:
    async def play(api: FakeApi, clock: VirtualClock, recorder: EventRecorder) -> None:
        for _ in range(3):
            recorder.event(make_pod("a"), "Warning", "BackOff", "Back-off")
            await recorder.flush()
            await clock.advance(10)
        (event,) = api.all(Event)
        assert event.count == 3
        assert event.first_timestamp != event.last_timestamp
        api.remove(event)
        recorder.event(make_pod("a"), "Warning", "BackOff", "Back-off")
        await recorder.flush()
        (event,) = api.all(Event)
        assert event.count == 1

    recorded(play)


def test_many_of_a_kind_are_combined_and_a_flood_is_dropped() -> None:
    async def play(api: FakeApi, clock: VirtualClock, recorder: EventRecorder) -> None:
        for n in range(40):
            recorder.event(make_pod("a"), "Normal", "SuccessfulCreate", f"Created pod: p{n}")
        await recorder.flush()
        events = api.all(Event)
        combined = [event for event in events if event.message.startswith("(combined from similar events): ")]
        assert len(events) == 10
        assert [event.count for event in combined] == [16]
        assert recorder.dropped == 15

    recorded(play)


def test_in_a_burst_events_wait_until_it_is_quiet_and_come_once() -> None:
    async def main() -> None:
        clock = VirtualClock()
        api = FakeApi(clock)
        recorder = EventRecorder(api, clock, "kubelet", late_s=LATE_S)
        writing = asyncio.create_task(recorder.run())
        for n in range(3 * AT_ONCE):
            recorder.event(make_pod(f"p{n}"), "Normal", "Started", "Container started")
        await clock.advance(QUIET_S - 0.01)
        assert len(api.all(Event)) == AT_ONCE
        recorder.event(make_pod(f"p{AT_ONCE}"), "Normal", "Started", "Container started")
        await clock.advance(QUIET_S - 0.01)
        assert len(api.all(Event)) == AT_ONCE, "it was not quiet"
        await clock.advance(0.02)
        assert [event.count for event in api.all(Event)] == [1] * AT_ONCE + [2] + [1] * (2 * AT_ONCE - 1)
        recorder.event(make_pod("last"), "Normal", "Started", "Container started")
        await clock.advance(0.01)
        assert len(api.all(Event)) == 3 * AT_ONCE + 1, "the burst is over"
        writing.cancel()

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(20))
def test_no_event_is_later_than_it_may_be(seed: int) -> None:
    async def main() -> None:
        random = Random(seed)
        clock = VirtualClock()
        api = FakeApi(clock)
        recorder = EventRecorder(api, clock, "kubelet", late_s=LATE_S)
        writing = asyncio.create_task(recorder.run())
        said: dict[str, float] = {}
        for n in range(150):
            said[f"p{n}"] = clock.monotonic()
            recorder.event(make_pod(f"p{n}"), "Normal", "Started", "Container started")
            await clock.advance(random.choice((0.0, 0.01, 0.1, 0.3)))
            there = {event.involved_object.name for event in api.all(Event)}
            assert {name for name, at in said.items() if at + LATE_S < clock.monotonic()} <= there
        await clock.advance(QUIET_S)
        assert len(api.all(Event)) == 150
        writing.cancel()

    asyncio.run(main())
