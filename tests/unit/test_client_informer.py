"""The informer: a cache that is always a state the server was in, and handlers that miss nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fake_api import FakeApi
from world import make_pod

from kaa.api.clock import VirtualClock
from kaa.api.errors import Expired, ServiceUnavailable
from kaa.api.types.core_v1 import Pod
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.client.client import WatchEvent
from kaa.client.informer import Informer


class Flaky(FakeApi):
    """Watches end with what ``ends`` holds, one after another; ``deaf`` of them show nothing before that."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock)
        self.ends: list[Exception | None] = []
        self.broken = asyncio.Event()

    async def watch(self, kind: Any, namespace: str | None = None, **options: Any) -> AsyncIterator[WatchEvent[Any]]:  # type: ignore[override]  # a narrower spelling
        if not self.ends:
            async for event in super().watch(kind, namespace, **options):
                yield event
        else:
            await self.broken.wait()
            end = self.ends.pop(0)
            if end is not None:
                raise end


async def started(api: FakeApi, clock: VirtualClock, seen: list[str], **options: Any) -> tuple[Informer[Pod], Any]:
    informer: Informer[Pod] = Informer(api, Pod, clock, **options)

    def handler(old: Pod | None, new: Pod | None) -> None:
        name = (new or old).metadata.name  # type: ignore[union-attr]  # one of them is there
        seen.append(f"{'+' if old is None else '-' if new is None else '~'}{name}")

    informer.add_handler(handler)
    task = asyncio.create_task(informer.run())
    await clock.settle()
    return informer, task


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def test_events_reach_handlers_indexes_and_late_comers() -> None:
    async def play() -> None:
        clock, seen = VirtualClock(), list[str]()
        api = FakeApi(clock)
        api.put(make_pod("a"))
        informer, task = await started(api, clock, seen, indexers={"node": lambda pod: [pod.spec.node_name or ""]})
        pod = api.put(make_pod("b"))
        await clock.settle()
        api.put(make_pod("b", node="n1"))
        await clock.settle()
        assert [p.metadata.name for p in informer.by_index("node", "n1")] == ["b"]
        assert [p.metadata.name for p in informer.by_index("node", "")] == ["a"]
        api.remove(pod)
        await clock.settle()
        assert seen == ["+a", "+b", "~b", "-b"]
        assert informer.count("node", "n1") == 0
        late: list[Any] = []
        informer.add_handler(lambda old, new: late.append((old, new)))
        assert len(late) == 1
        await stop(task)

    asyncio.run(play())


@pytest.mark.parametrize(
    "end", [None, Expired("too old"), ServiceUnavailable("away"), OSError("reset")], ids=["quiet", "410", "503", "gap"]
)
def test_a_broken_watch_loses_nothing(end: Exception | None) -> None:
    async def play() -> None:
        clock, seen = VirtualClock(), list[str]()
        api = Flaky(clock)
        api.ends = [end]
        gone = api.put(make_pod("gone"))
        api.put(make_pod("stays"))
        informer, task = await started(api, clock, seen)
        api.remove(gone)
        api.put(make_pod("new"))
        api.broken.set()
        await clock.advance(5)
        assert sorted(seen) == ["+gone", "+new", "+stays", "-gone"]
        assert {pod.metadata.name for pod in informer} == {"stays", "new"}
        await stop(task)

    asyncio.run(play())


def test_a_name_taken_anew_is_a_loss_and_an_arrival() -> None:
    async def play() -> None:
        clock, seen = VirtualClock(), list[str]()
        api = Flaky(clock)
        api.ends = [Expired("too old")]
        old = api.put(make_pod("a"))
        _, task = await started(api, clock, seen)
        api.remove(old)
        await api.create(Pod(metadata=ObjectMeta(name="a", namespace="default", uid="another"), spec=old.spec))
        api.broken.set()
        await clock.advance(5)
        assert seen == ["+a", "-a", "+a"]
        await stop(task)

    asyncio.run(play())


def test_waiting_for_ones_own_writes() -> None:
    async def play() -> None:
        clock = VirtualClock()
        api = FakeApi(clock)
        informer, task = await started(api, clock, [])
        pod = await api.create(make_pod("a", node="n1"))
        await informer.shows(pod.metadata.resource_version)
        assert informer.get("a", "default") is not None
        await api.delete(Pod, "a", "default")
        await informer.gone([pod])
        shown = informer.get("a", "default")
        assert shown is not None
        assert shown.metadata.deletion_timestamp is not None
        with pytest.raises(TimeoutError):
            await informer.shows("999", timeout_s=0.01)
        await stop(task)

    asyncio.run(play())
