"""The scheduler's loop against a small API server of its own: binding, refusing, waking, evicting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from msgspec.structs import replace

from kaa.api.clock import VirtualClock
from kaa.api.errors import InternalError
from kaa.api.scheme import convert
from kaa.api.types.core_v1 import Node, Pod
from kaa.client.client import Listing, WatchEvent, WatchType
from kaa.client.informer import Informers
from kaa.scheduler.framework import ClusterEvent
from kaa.scheduler.plugins.node_resources_fit import NodeResourcesFit
from kaa.scheduler.queue import Place, SchedulingQueue
from kaa.scheduler.scheduler import Scheduler
from kaa.scheduler.template import Templates

INFO = dict.fromkeys(
    [
        "architecture",
        "bootID",
        "containerRuntimeVersion",
        "kernelVersion",
        "kubeProxyVersion",
        "kubeletVersion",
        "machineID",
        "operatingSystem",
        "osImage",
        "systemUUID",
    ],
    "",
)


def make_node(name: str, cpu: str = "1") -> Node:
    has = {"cpu": cpu, "memory": "4Gi", "pods": "10"}
    status = {"allocatable": has, "daemonEndpoints": {}, "nodeInfo": INFO}
    return convert(Node, {"metadata": {"name": name}, "status": status})


def make_pod(name: str, cpu: str = "1", **spec: Any) -> Pod:
    container = {"name": "c", "resources": {"requests": {"cpu": cpu}}}
    meta = {"name": name, "namespace": "d", "uid": name}
    return convert(Pod, {"metadata": meta, "spec": {"containers": [container], **spec}})


class FakeServer:
    """Objects by kind, watches on them, and the three writes that a scheduler makes."""

    def __init__(self) -> None:
        self.objects: dict[tuple[type, str], Any] = {}
        self.watches: list[tuple[type, asyncio.Queue[Any]]] = []
        self.revision = 0
        self.refuse_bindings = 0

    def put(self, obj: Any) -> None:
        self.revision += 1
        obj = replace(obj, metadata=replace(obj.metadata, resource_version=str(self.revision)))
        self.objects[type(obj), obj.metadata.name] = obj
        self._tell(WatchType.MODIFIED, obj)

    def _tell(self, type_: WatchType, obj: Any) -> None:
        for kind, queue in self.watches:
            if kind is type(obj):
                queue.put_nowait(WatchEvent(type_, obj, str(self.revision)))

    def pod(self, name: str) -> Pod:
        found: Pod = self.objects[Pod, name]
        return found

    async def list(self, kind: Any, namespace: str | None = None, **more: Any) -> Listing[Any]:
        return Listing([o for (k, _), o in self.objects.items() if k is kind], str(self.revision))

    async def watch(self, kind: Any, namespace: str | None = None, **more: Any) -> AsyncIterator[WatchEvent[Any]]:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        self.watches.append((kind, queue))
        while True:
            yield await queue.get()

    async def create(self, obj: Any, *, namespace: str | None = None, subresource: str = "", name: str = "") -> Any:
        assert (subresource, obj.target.kind) == ("binding", "Node")
        if self.refuse_bindings:
            self.refuse_bindings -= 1
            raise InternalError("no")
        pod = self.pod(name)
        self.put(replace(pod, spec=replace(pod.spec, node_name=obj.target.name)))
        return obj

    async def patch(self, kind: Any, name: str, patch: Any, namespace: str | None = None, **more: Any) -> Any:
        assert more["subresource"] == "status"
        pod = self.pod(name)
        self.put(replace(pod, status=convert(type(pod.status), patch["status"])))
        return self.pod(name)

    async def delete(self, kind: Any, name: str, namespace: str | None = None, **more: Any) -> None:
        self._tell(WatchType.DELETED, self.objects.pop((kind, name)))


class Events(list[tuple[str, str, str]]):
    def event(self, obj: Any, type: str, reason: str, message: str) -> None:
        self.append((obj.metadata.name, reason, message))


class Bench:
    def __init__(self) -> None:
        self.server: Any = FakeServer()
        self.clock, self.events = VirtualClock(), Events()
        informers = Informers(self.server, self.clock)
        self.scheduler = Scheduler(self.server, self.clock, self.events, informers=informers)
        self.informers = informers

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(self.informers.run()), tasks.create_task(self.scheduler.run())]
            await self.clock.settle()
            yield
            for task in running:
                task.cancel()


def play(story: Callable[[Bench], Awaitable[None]]) -> None:
    async def body() -> None:
        bench = Bench()
        async with bench.running():
            await story(bench)

    asyncio.run(body())


def test_a_pod_is_bound_and_the_event_says_where() -> None:
    async def story(bench: Bench) -> None:
        bench.server.put(make_node("n"))
        bench.server.put(make_pod("p"))
        await bench.clock.settle()
        assert bench.server.pod("p").spec.node_name == "n"
        assert bench.events == [("p", "Scheduled", "Successfully assigned d/p to n")]

    play(story)


def test_what_does_not_fit_is_told_and_waits_for_room() -> None:
    async def story(bench: Bench) -> None:
        bench.server.put(make_node("n"))
        bench.server.put(make_pod("p"))
        await bench.clock.settle()
        bench.server.put(make_pod("q"))
        await bench.clock.settle()
        text = (
            "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, "
            "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
        )
        (condition,) = bench.server.pod("q").status.conditions
        assert (condition.status, condition.reason, condition.message) == ("False", "Unschedulable", text)
        assert bench.events[-1] == ("q", "FailedScheduling", text)
        await bench.server.delete(Pod, "p")
        await bench.clock.advance(0.5)
        assert not bench.server.pod("q").spec.node_name, "its backoff is a second"
        await bench.clock.advance(1)
        assert bench.server.pod("q").spec.node_name == "n"

    play(story)


def test_without_nodes_pods_wait_for_one() -> None:
    async def story(bench: Bench) -> None:
        bench.server.put(make_pod("p"))
        await bench.clock.settle()
        assert bench.events[-1][2] == "no nodes available to schedule pods"
        bench.server.put(make_node("n"))
        await bench.clock.advance(2)
        assert bench.server.pod("p").spec.node_name == "n"

    play(story)


def test_a_refused_binding_gives_the_room_back_and_tries_again() -> None:
    async def story(bench: Bench) -> None:
        bench.server.refuse_bindings = 1
        bench.server.put(make_node("n"))
        bench.server.put(make_pod("p"))
        await bench.clock.settle()
        assert not bench.server.pod("p").spec.node_name
        assert not bench.scheduler.nodes.pods
        await bench.clock.advance(2)
        assert bench.server.pod("p").spec.node_name == "n"

    play(story)


def test_gated_pods_wait_for_their_gates() -> None:
    async def story(bench: Bench) -> None:
        bench.server.put(make_node("n"))
        gated = make_pod("p", schedulingGates=[{"name": "g"}])
        bench.server.put(gated)
        await bench.clock.advance(400)
        assert not bench.server.pod("p").spec.node_name
        bench.server.put(replace(gated, spec=replace(gated.spec, scheduling_gates=())))
        await bench.clock.settle()
        assert bench.server.pod("p").spec.node_name == "n"

    play(story)


def test_pods_of_other_schedulers_are_left_alone() -> None:
    async def story(bench: Bench) -> None:
        bench.server.put(make_node("n"))
        bench.server.put(make_pod("p", schedulerName="mine"))
        await bench.clock.advance(400)
        assert not bench.server.pod("p").spec.node_name

    play(story)


def test_the_more_important_pod_takes_the_place_of_the_lesser() -> None:
    async def story(bench: Bench) -> None:
        bench.server.put(make_node("n"))
        bench.server.put(make_pod("low"))
        await bench.clock.settle()
        bench.server.put(make_pod("high", priority=100))
        await bench.clock.advance(3)
        assert (Pod, "low") not in bench.server.objects
        assert bench.server.pod("high").spec.node_name == "n"
        assert ("low", "Preempted", "Preempted by pod high on node n") in bench.events

    play(story)


def test_a_replay_under_virtual_time_is_the_same() -> None:
    placements: list[dict[str, str | None]] = []

    async def story(bench: Bench) -> None:
        for number in range(5):
            bench.server.put(make_node(f"n{number}", "4"))
        for number in range(25):
            bench.server.put(make_pod(f"p{number}"))
        await bench.clock.advance(30)
        pods = [obj for (kind, _), obj in bench.server.objects.items() if kind is Pod]
        placements.append({pod.metadata.name: pod.spec.node_name for pod in pods})

    play(story)
    play(story)
    assert placements[0] == placements[1]
    assert sum(node is not None for node in placements[0].values()) == 20


# ------------------------------------------------------------------------------------------------------- queue


def make_queue() -> tuple[SchedulingQueue, VirtualClock, Callable[..., None]]:
    async def build() -> tuple[SchedulingQueue, VirtualClock]:
        clock = VirtualClock()
        return SchedulingQueue(clock), clock

    queue, clock = asyncio.run(build())
    templates = Templates()

    def add(name: str, **spec: Any) -> None:
        pod = make_pod(name, **spec)
        queue.add(pod, templates.of(pod))

    return queue, clock, add


def pass_time(clock: VirtualClock, seconds: float) -> None:
    asyncio.run(clock.advance(seconds))


def test_priority_goes_first_then_the_longest_waiting() -> None:
    queue, clock, add = make_queue()
    add("first")
    pass_time(clock, 1)
    add("second")
    add("urgent", priority=10)
    order = [entry.key.name for entry in iter(queue.pop, None)]
    assert order == ["urgent", "first", "second"]


def test_backoff_doubles_up_to_ten_seconds() -> None:
    queue, _, _ = make_queue()
    assert [queue.backoff_s(n) for n in range(1, 7)] == [1, 2, 4, 8, 10, 10]


def test_only_events_that_may_help_wake_a_pod() -> None:
    queue, clock, add = make_queue()
    add("p")
    entry = queue.pop()
    assert entry is not None
    queue.reject(entry, [NodeResourcesFit()])
    pass_time(clock, 20)
    queue.wake(ClusterEvent.NODE_TAINT)
    assert queue.pop() is None
    queue.wake(ClusterEvent.POD_DELETE)
    assert queue.pop() is entry


def test_an_event_during_the_try_is_not_missed() -> None:
    queue, clock, add = make_queue()
    add("p")
    entry = queue.pop()
    assert entry is not None
    queue.wake(ClusterEvent.POD_DELETE)
    queue.reject(entry, [NodeResourcesFit()])
    assert queue.place_of(entry.key) is Place.BACKOFF
    pass_time(clock, 1)
    assert queue.pop() is entry


def test_what_nothing_wakes_is_tried_after_five_minutes() -> None:
    queue, clock, add = make_queue()
    add("p")
    entry = queue.pop()
    assert entry is not None
    queue.reject(entry, [NodeResourcesFit()])
    pass_time(clock, 299)
    assert queue.pop() is None
    pass_time(clock, 1)
    assert queue.pop() is entry
