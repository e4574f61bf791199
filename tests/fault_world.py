"""A world where everything goes wrong that may: conflicts, lost answers, cut and late watches, controllers that die, clocks
that jump.

All of it is drawn from one seed, so that what failed once fails again. ``calm`` ends the faults; what is declared must then
come true.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from random import Random
from types import TracebackType
from typing import Any

from fake_api import FakeApi
from msgspec.structs import replace
from world import World

from kaa.api.clock import VirtualClock, format_time
from kaa.api.errors import Conflict, Expired, InternalError
from kaa.api.types.core_v1 import Pod, PodCondition
from kaa.api.types.meta_v1 import DeleteOptions
from kaa.client.client import WatchEvent
from kaa.client.informer import Informers
from kaa.controllers.controller import Context, Controller
from kaa.controllers.deployment import Deployments
from kaa.controllers.garbagecollector import GarbageCollector
from kaa.controllers.job import Jobs
from kaa.controllers.replicaset import ReplicaSets
from kaa.controllers.served import Served
from kaa.controllers.statefulset import StatefulSets

#: How long a watch may hold an event back, and how far the time of day may jump, either way.
LATE_S, JUMP_S = 3.0, 120.0


class JumpyClock(VirtualClock):
    """A virtual clock whose time of day may be set: what was measured goes on as before."""

    offset = 0.0
    highest = 0.0  #: offset of any time before

    def now(self) -> float:
        return super().now() + self.offset

    def jump(self, seconds: float) -> None:
        self.offset += seconds
        self.highest = max(self.highest, self.offset)


class FaultyApi(FakeApi):
    """The fake API behind a bad line."""

    def __init__(self, clock: VirtualClock, random: Random) -> None:
        super().__init__(clock)
        self.random = random
        self.faults = True

    def _happens(self, chance: float) -> bool:
        return self.faults and self.random.random() < chance

    async def _write(self, act: Callable[[], Any], *, conflicts: bool = True) -> Any:
        """A write that may be refused, fail before it is done, or be done without anyone hearing of it."""
        await self.clock.sleep(self.random.random() * 0.05 if self.faults else 0)
        if conflicts and self._happens(0.1):
            raise Conflict("the object has been modified; please apply your changes to the latest version")
        if self._happens(0.05):
            raise InternalError("etcdserver: request timed out")
        answer = await act()
        if self._happens(0.05):
            raise OSError("connection reset by peer")
        return answer

    async def create(self, obj: Any, **more: Any) -> Any:
        return await self._write(lambda: super(FaultyApi, self).create(obj, **more), conflicts=False)

    async def update(self, obj: Any, **more: Any) -> Any:
        return await self._write(lambda: super(FaultyApi, self).update(obj, **more))

    async def patch(self, *given: Any, **more: Any) -> Any:
        return await self._write(lambda: super(FaultyApi, self).patch(*given, **more))

    async def delete(self, *given: Any, **more: Any) -> None:
        await self._write(lambda: super(FaultyApi, self).delete(*given, **more))

    async def watch(self, *given: Any, **more: Any) -> AsyncIterator[WatchEvent[Any]]:
        if self._happens(0.02):
            raise Expired("too old resource version")
        async for event in super().watch(*given, **more):
            if self._happens(0.1):
                await self.clock.sleep(self.random.random() * LATE_S)
            if self._happens(0.02):
                return
            if self._happens(0.02):
                raise OSError("connection reset by peer")
            yield event


def workloads(context: Context) -> list[Controller[Any]]:
    return [
        ReplicaSets(context),
        Deployments(context),
        StatefulSets(context),
        Jobs(context),
        GarbageCollector(context, Served(context.client_for(""), context.informers)),
    ]


class FaultWorld:
    """Controllers on a faulty API, and a kubelet of which pods end as ``ends`` says. ``controllers`` makes them for a life."""

    def __init__(self, seed: int, controllers: Callable[[Context], list[Controller[Any]]] = workloads) -> None:
        self.controllers = controllers
        self.random = Random(seed)
        self.clock = JumpyClock(seed=seed)
        self.api = FaultyApi(self.clock, self.random)
        self.ends: Callable[[Pod], str | None] = lambda pod: None
        self.lives = 0  #: of the controllers
        self.watcher: Callable[[], None] = lambda: None  #: called whenever something may have changed
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> FaultWorld:
        self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._kill()

    def _start(self) -> None:
        self.lives += 1
        self._task = asyncio.create_task(self._run(), name=f"controllers/{self.lives}")

    async def _run(self) -> None:
        informers = Informers(self.api, self.clock)
        controllers = self.controllers(Context(lambda name: self.api, informers, self.clock))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(informers.run())
            for controller in controllers:
                tasks.create_task(controller.run())

    async def _kill(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def pass_s(self, seconds: float, *, step_s: float = 0.5) -> None:
        """Let time pass, a kubelet at work, and now and then the controllers' process dying or the clock being set."""
        for _ in range(int(seconds / step_s)):
            await self.clock.advance(step_s)
            if self._task is not None and self._task.done():
                self._task.result()
            if self.api.faults and self.random.random() < 0.03:
                await self._kill()
                self._start()
            if self.api.faults and self.random.random() < 0.03:
                self.clock.jump(self.random.uniform(-JUMP_S, JUMP_S))
            self.kubelet()
            self.watcher()

    async def calm(self, seconds: float = 1500) -> None:
        """No more faults; wait as long as the longest backoff may take, or until nothing has changed for longer than one does.

        What was stamped before the clock was set back is waited for from there, as upstream does.
        """
        self.api.faults = False
        quiet_s = 100 + self.clock.highest - self.clock.offset
        still = 0.0
        for _ in range(int(seconds / 5)):
            before = self.api.version
            await self.pass_s(5, step_s=2.5)
            still = still + 5 if self.api.version == before else 0.0
            if still >= quiet_s:
                return

    def kubelet(self) -> None:
        """Take up, make ready, end and remove pods, in an order that is drawn."""
        pods = self.api.all(Pod)
        self.random.shuffle(pods)
        for pod in pods:
            if self.api.faults and self.random.random() < 0.3:
                continue  # later
            if pod.metadata.deletion_timestamp is not None:
                if not pod.metadata.finalizers:
                    self.api._delete(self.api._resource(pod), pod, DeleteOptions(grace_period_seconds=0))
                elif pod.status.phase == "Running":
                    self._end(pod, "Failed")
            elif not pod.spec.node_name:
                World.run_pod(self, pod)  # type: ignore[arg-type]  # it needs the api and the clock alone
            elif pod.status.phase == "Running" and (phase := self.ends(pod)) is not None:
                self._end(pod, phase)

    ready = True

    def _end(self, pod: Pod, phase: str) -> None:
        stamp = format_time(self.clock.now())
        unready = PodCondition(type="Ready", status="False", last_transition_time=stamp)
        self.api.put(replace(pod, status=replace(pod.status, phase=phase, conditions=(unready,))))
