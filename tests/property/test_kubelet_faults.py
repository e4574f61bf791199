"""Whatever goes wrong on a node, every seed ends well: no container runs twice, none is lost, nothing is left behind.

The kubelet is killed and begun again, the API server is away, the runtime refuses or does what it is told without a word, containers
and sandboxes die, pods come and go. ``KAA_FAULT_SEEDS=1000 pytest tests/property/test_kubelet_faults.py`` searches further.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from kubelet_world import FakeClient, World, make_container, make_pod

from kaa.api.clock import Clock
from kaa.api.types.core_v1 import Pod
from kaa.runtime.base import ContainerConfig, ContainerState, RuntimeFailure, SandboxConfig
from kaa.runtime.simulated import SimulatedRuntime

SEEDS = int(os.environ.get("KAA_FAULT_SEEDS", "48"))
BATCHES = 6
SIM = "simulated.kaa.dev/"


class Faults:
    """What may go wrong, drawn from one seed; nothing does once it is ``calm``."""

    def __init__(self, seed: int) -> None:
        self.random, self.calm, self.away = Random(seed), False, False

    def happens(self, chance: float) -> bool:
        return not self.calm and self.random.random() < chance


class FaultyApi(FakeClient):
    faults: Faults

    async def _asked(self) -> None:
        await asyncio.sleep(0)
        if self.faults.away or self.faults.happens(0.02):
            raise OSError("connection refused")

    async def get(self, *given: Any, **more: Any) -> Any:
        await self._asked()
        return await super().get(*given, **more)

    async def patch(self, *given: Any, **more: Any) -> Any:
        await self._asked()
        return await super().patch(*given, **more)

    async def delete(self, *given: Any, **more: Any) -> None:
        await self._asked()
        await super().delete(*given, **more)


class FaultyRuntime(SimulatedRuntime):
    """Takes its time, says no, or does it and says no; keeps watch over what must never be."""

    def __init__(self, clock: Clock, faults: Faults) -> None:
        super().__init__(clock)
        self.clock, self.faults = clock, faults
        self.done: set[tuple[str, str]] = set()  #: (pod uid, container) that has ended for good by its policy
        self.broken: list[str] = []  #: what must never be, and was

    async def _unsure(self, what: Callable[[], Awaitable[Any]]) -> Any:
        await self.clock.sleep(self.faults.random.random() * 0.3 if not self.faults.calm else 0)
        if self.faults.happens(0.08):
            raise RuntimeFailure("the runtime is busy")
        answer = await what()
        if self.faults.happens(0.05):
            raise RuntimeFailure("context deadline exceeded")
        return answer

    async def run_sandbox(self, config: SandboxConfig) -> str:
        return str(await self._unsure(lambda: super(FaultyRuntime, self).run_sandbox(config)))

    async def create_container(self, sandbox_id: str, config: ContainerConfig) -> str:
        return str(await self._unsure(lambda: super(FaultyRuntime, self).create_container(sandbox_id, config)))

    async def start_container(self, container_id: str) -> None:
        await self._unsure(lambda: self._begin(container_id))

    async def stop_sandbox(self, sandbox_id: str, *, leaving: bool = False) -> None:
        await self._unsure(lambda: super(FaultyRuntime, self).stop_sandbox(sandbox_id, leaving=leaving))

    async def remove_container(self, container_id: str) -> None:
        await self._unsure(lambda: super(FaultyRuntime, self).remove_container(container_id))

    async def _begin(self, container_id: str) -> None:
        found = await self.container(container_id)
        if found.state is not ContainerState.CREATED:
            return
        uid = self._sandboxes[found.sandbox_id].uid
        mine = [c for c in self._containers.values() if self._sandboxes[c.sandbox_id].uid == uid]
        running = [c for c in mine if c.state is ContainerState.RUNNING]
        if found.name in {c.name for c in running}:
            self.broken.append(f"{found.name} of {uid} runs twice")
        if (uid, found.name) in self.done:
            self.broken.append(f"{found.name} of {uid} runs again though it was done")
        if not found.name.startswith(("init", "side")):
            inits = {c.name: c for c in mine if c.sandbox_id == found.sandbox_id and c.name.startswith("init")}
            if any(c.state is not ContainerState.EXITED for c in inits.values()):
                self.broken.append(f"{found.name} of {uid} begins before its init containers have ended")
        await super().start_container(container_id)

    def _end(self, container_id: str, code: int, *, reason: str = "") -> None:
        found = self._containers.get(container_id)
        if found is not None and found.state is ContainerState.RUNNING:
            key = (self._sandboxes[found.sandbox_id].uid, found.name)
            if found.name == "never" or (found.name == "onfailure" and code == 0):
                self.done.add(key)
        super()._end(container_id, code, reason=reason)


#: {kind: (the main container's name, the pod's fields)}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "always": ("always", {}),
    "crash": ("always", {"annotations": {SIM + "exit-after": "5s", SIM + "exit-code": "1"}}),
    "never": ("never", {"restart_policy": "Never", "annotations": {SIM + "exit-after": "4s"}}),
    "onfailure": ("onfailure", {"restart_policy": "OnFailure", "annotations": {SIM + "exit-after": "3s"}}),
    "inits": (
        "always",
        {
            "init_containers": (make_container("init-a"), make_container("init-b")),
            "annotations": {SIM + "exit-after.init-a": "1s", SIM + "exit-after.init-b": "1s"},
        },
    ),
    "sidecar": (
        "never",
        {
            "restart_policy": "Never",
            "init_containers": (make_container("side", restart_policy="Always"),),
            "annotations": {SIM + "exit-after.never": "6s"},
        },
    ),
}


def new_pod(number: int, kind: str) -> Pod:
    main, fields = KINDS[kind]
    return make_pod(f"{kind}-{number}", containers=(make_container(main),), **fields)


async def trouble(world: World, faults: Faults, number: int) -> None:
    """Something happens to the node."""
    runtime, pods = world.runtime, [o for k, o in world.client.objects.items() if k[0] is Pod]
    running = [c for c in await runtime.list_containers() if c.state is ContainerState.RUNNING]
    match faults.random.choice(
        ("kill", "away", "back", "exit", "exit", "sandbox", "delete", "create", "create", "idle")
    ):
        case "kill":
            await world.restart()
        case "away":
            faults.away = True
        case "back":
            faults.away = False
        case "exit" if running:
            runtime.exit(faults.random.choice(running).id, 137)
        case "sandbox" if runtime._sandboxes:
            await SimulatedRuntime.stop_sandbox(runtime, faults.random.choice(list(runtime._sandboxes)))
        case "delete" if pods:
            world.client.ask_delete(faults.random.choice(pods).metadata.name or "", world.clock.now(), grace_s=3)
        case "create":
            world.client.put(new_pod(number, faults.random.choice(list(KINDS))))
        case _:
            pass


async def play(seed: int, folder: Path) -> None:
    world, faults = World(folder, housekeeping_s=20.0), Faults(seed)
    world.client = FaultyApi()
    world.client.faults = faults
    world.runtime = FaultyRuntime(world.clock, faults)
    world.kubelet = world.make()
    world.clock.SETTLE_TURNS = 12
    await world.start()
    for number, kind in enumerate(KINDS):
        world.client.put(new_pod(number, kind))
    for number in range(12):
        await world.clock.advance(faults.random.uniform(0.1, 3))
        await trouble(world, faults, 100 + number)
    faults.calm, faults.away = True, False
    for _ in range(18):
        await world.clock.advance(20)
    check(world)
    assert world.runtime.broken == []
    for key, pod in list(world.client.objects.items()):
        if key[0] is Pod:
            world.client.ask_delete(pod.metadata.name, world.clock.now(), grace_s=1)
    for _ in range(8):
        await world.clock.advance(20)
    assert [key for key in world.client.objects if key[0] is Pod] == []
    assert (world.runtime._sandboxes, world.runtime._containers, world.runtime._used_ips) == ({}, {}, set())
    assert list((folder / "kubelet/pods").glob("*")) == []
    assert world.task is not None
    assert not world.task.done()
    await world.stop()


def check(world: World) -> None:
    """Each pod is what its kind comes to."""
    for key, pod in world.client.objects.items():
        if key[0] is not Pod:
            continue
        assert not pod.metadata.deletion_timestamp, f"{pod.metadata.name} is not gone"
        kind = pod.metadata.name.rsplit("-", 1)[0]
        status = pod.status
        if kind in ("always", "inits"):
            assert (status.phase, status.container_statuses[0].ready) == ("Running", True), pod.metadata.name
        elif kind == "crash":
            assert status.phase == "Running"
        elif kind == "onfailure":
            assert status.phase == "Succeeded", pod.metadata.name
        else:
            assert status.phase in ("Succeeded", "Failed"), pod.metadata.name


@pytest.mark.parametrize("batch", range(BATCHES))
def test_every_seed_ends_well(tmp_path: Path, batch: int) -> None:
    for seed in range(batch, SEEDS, BATCHES):
        try:
            asyncio.run(play(seed, tmp_path / str(seed)))
        except BaseException as err:
            err.add_note(f"seed {seed}")
            raise
