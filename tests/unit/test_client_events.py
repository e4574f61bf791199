"""Events: said once, counted after, never in the way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from fake_api import FakeApi
from world import make_pod

from kaa.api.clock import VirtualClock
from kaa.api.types.core_v1 import Event
from kaa.client.events import EventRecorder

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


def test_late_events_come_once() -> None:
    async def main() -> None:
        clock = VirtualClock()
        api = FakeApi(clock)
        recorder = EventRecorder(api, clock, "kubelet", late_s=1.0)
        writing = asyncio.create_task(recorder.run())
        for _ in range(2):
            recorder.event(make_pod("a"), "Warning", "BackOff", "Back-off")
            await clock.advance(0.4)
        assert api.all(Event) == []
        await clock.advance(0.3)
        (event,) = api.all(Event)
        assert event.count == 2
        writing.cancel()

    asyncio.run(main())
