"""What one pod more costs: what a node's pods were given is a sum, and a worker wakes only for news."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kubelet_world import World, make_pod
from msgspec.structs import replace

from kaa.api.types.core_v1 import PodCondition
from kaa.kubelet.room import Room


def test_what_others_use_is_the_sum_without_ones_own() -> None:
    room = Room(lambda uid: None)
    room.give("a", {"pods": 1, "cpu": 100})
    room.give("b", {"pods": 1, "cpu": 50, "hugepages-2Mi": 4})
    assert room.used_beside("a") == {"pods": 1, "cpu": 50, "hugepages-2Mi": 4}
    assert room.used_beside("new")["cpu"] == 150
    room.give("a", {"pods": 1, "cpu": 300})
    assert room.used_beside("b")["cpu"] == 300
    room.forget("a")
    assert room.used_beside("new") == {"pods": 1, "cpu": 50, "hugepages-2Mi": 4}


def test_only_those_that_wait_are_woken() -> None:
    woken: list[str] = []
    room = Room(woken.append)
    for uid in ("a", "b", "c"):
        room.give(uid, {"pods": 1})
    room.waits("b", True)
    room.waits("c", True)
    room.forget("a")
    assert sorted(woken) == ["b", "c"]
    room.waits("b", False)
    room.freed()
    assert sorted(woken) == ["b", "c", "c"]
    room.forget("c")
    assert sorted(woken) == ["b", "c", "c"]


def test_its_own_status_wakes_no_worker(tmp_path: Path) -> None:
    """What others write into a pod's status does: a readiness gate is a condition of theirs."""

    async def story() -> None:
        async with World(tmp_path) as world:
            looks = world.kubelet.metrics.runtime_operations_total
            world.client.put(make_pod())
            await world.rest()
            pod = world.pod("web")
            assert pod.status.phase == "Running"
            label, before = ("list_podsandbox",), looks.values["list_podsandbox",]
            assert before <= 5
            worker = world.kubelet.workers["uid-web"]
            worker.update(pod)
            await world.rest()
            assert looks.values[label] == before
            foreign = PodCondition(type="example.com/gate", status="True")
            gated = replace(pod, status=replace(pod.status, conditions=(*pod.status.conditions, foreign)))
            world.client.put(gated)
            await world.rest()
            assert looks.values[label] > before

    asyncio.run(story())
