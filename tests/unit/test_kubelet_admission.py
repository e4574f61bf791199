"""Room on a node: pods that do not fit are refused, and resources are changed in place as far as there is room."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubelet_world import World, make_container, make_pod
from msgspec.structs import replace

from kaa.api.types.core_v1 import (
    ContainerPort,
    ContainerResizePolicy,
    Pod,
    PodOS,
    PodSecurityContext,
    ResourceRequirements,
    Sysctl,
)
from kaa.kubelet import admission
from kaa.runtime.base import ContainerUsage

Play = Callable[..., None]
GIB = 1 << 30


@pytest.fixture
def play(tmp_path: Path) -> Play:
    def run(story: Callable[[World], Awaitable[None]], **config: Any) -> None:
        async def go() -> None:
            async with World(tmp_path, **config) as world:
                world.kubelet._host.allocatable = {"cpu": "4", "memory": "8Gi", "pods": "5"}
                await story(world)

        asyncio.run(go())

    return run


def resources(cpu: str, memory: str = "1Gi") -> ResourceRequirements:
    return ResourceRequirements(requests={"cpu": cpu, "memory": memory}, limits={"cpu": cpu, "memory": memory})


def sized(name: str, cpu: str, memory: str = "1Gi", **fields: Any) -> Pod:
    return make_pod(name, containers=(make_container(resources=resources(cpu, memory), **fields),))


def resize(world: World, cpu: str, memory: str = "1Gi", name: str = "web") -> None:
    pod = world.pod(name)
    container = replace(pod.spec.containers[0], resources=resources(cpu, memory))
    meta = replace(pod.metadata, generation=(pod.metadata.generation or 0) + 1)
    world.client.put(replace(pod, metadata=meta, spec=replace(pod.spec, containers=(container,))))


def shown(world: World, name: str = "web") -> tuple[str, str, int]:
    """(cpu that it has, cpu that it was given, restarts)"""
    (status,) = world.pod(name).status.container_statuses
    assert status.resources is not None
    return status.resources.limits["cpu"], status.allocated_resources["cpu"], status.restart_count


async def enforced(world: World, name: str = "web") -> tuple[int | None, int | None]:
    """(cpu quota, memory limit) of the newest container."""
    found = [one for one in await world.runtime.list_containers() if one.labels["io.kubernetes.pod.name"] == name]
    newest = max(found, key=lambda one: one.attempt)
    assert newest.resources is not None
    return newest.resources.cpu_quota_us, newest.resources.memory_limit_bytes


def test_a_pod_that_does_not_fit_is_refused(play: Play) -> None:
    async def story(world: World) -> None:
        world.client.put(sized("first", "3"))
        await world.rest()
        world.client.put(sized("second", "2"))
        await world.rest()
        refused = world.pod("second").status
        assert (refused.phase, refused.reason) == ("Failed", "OutOfcpu")
        text = "Node didn't have enough resource: cpu, requested: 2000, used: 3000, capacity: 4000"
        assert refused.message == f"Pod was rejected: {text}"
        assert ("second", "OutOfcpu", text) in world.events.said
        assert world.pod("first").status.phase == "Running"
        world.client.ask_delete("first", world.clock.now(), grace_s=1)
        await world.advance(3)
        world.client.put(sized("third", "4"))
        await world.rest()
        assert world.pod("third").status.phase == "Running"

    play(story)


def test_pods_of_the_last_life_stay_however_many(play: Play) -> None:
    async def story(world: World) -> None:
        world.client.put(sized("web", "3"))
        await world.rest()
        await world.stop()
        world.kubelet = world.make()
        world.kubelet._host.allocatable = {"cpu": "1", "memory": "8Gi"}
        await world.start()
        assert world.pod().status.phase == "Running"

    play(story)


def test_a_resize_is_done_in_place(play: Play) -> None:
    async def story(world: World) -> None:
        world.client.put(sized("web", "1"))
        await world.rest()
        resize(world, "2", "2Gi")
        await world.rest()
        assert shown(world) == ("2", "2", 0)
        assert await enforced(world) == (200_000, 2 * GIB)
        assert world.condition("PodResizePending") is None
        assert world.condition("PodResizeInProgress") is None
        reasons = [reason for reason in world.events.reasons("web") if reason.startswith("Resize")]
        assert reasons == ["ResizeStarted", "ResizeCompleted"]
        text = next(text for _, reason, text in world.events.said if reason == "ResizeCompleted")
        said = json.loads(text.removeprefix("Pod resize completed: "))
        assert said == {"containers": [{"name": "main", "resources": {"limits": {"cpu": "2", "memory": "2Gi"},
                        "requests": {"cpu": "2", "memory": "2Gi"}}}], "generation": 2}  # fmt: skip

    play(story)


def test_a_container_restarts_where_its_policy_says_so(play: Play) -> None:
    async def story(world: World) -> None:
        policies = (ContainerResizePolicy(resource_name="memory", restart_policy="RestartContainer"),)
        world.client.put(sized("web", "1", resize_policy=policies))
        await world.rest()
        resize(world, "2")
        await world.rest()
        assert shown(world) == ("2", "2", 0)
        resize(world, "2", "2Gi")
        await world.advance(3)
        assert shown(world) == ("2", "2", 1)
        assert await enforced(world) == (200_000, 2 * GIB)
        assert ("web", "Killing", "Container main resize requires restart") in world.events.said

    play(story)


def test_what_the_node_never_has_is_infeasible(play: Play) -> None:
    async def story(world: World) -> None:
        world.client.put(sized("web", "1"))
        await world.rest()
        resize(world, "5")
        await world.rest()
        pending = world.condition("PodResizePending")
        assert (pending.status, pending.reason, pending.observed_generation) == ("True", "Infeasible", 2)
        assert pending.message == "Node didn't have enough capacity: cpu, requested: 5000, capacity: 4000"
        assert shown(world) == ("1", "1", 0)
        assert await enforced(world) == (100_000, GIB)
        resize(world, "1")
        await world.rest()
        assert world.condition("PodResizePending") is None

    play(story)


def test_a_resize_waits_for_room(play: Play) -> None:
    async def story(world: World) -> None:
        world.client.put(sized("web", "1"))
        world.client.put(sized("other", "2"))
        await world.rest()
        resize(world, "3")
        await world.rest()
        assert world.condition("PodResizePending").reason == "Deferred"
        assert shown(world) == ("1", "1", 0)
        world.client.ask_delete("other", world.clock.now(), grace_s=1)
        await world.advance(3)
        assert world.condition("PodResizePending") is None
        assert shown(world) == ("3", "3", 0)

    play(story)


def test_a_deferred_resize_is_still_one_after_a_restart_of_the_kubelet(play: Play) -> None:
    async def story(world: World) -> None:
        world.client.put(sized("web", "1"))
        await world.rest()
        resize(world, "5")
        await world.rest()
        await world.restart()
        world.kubelet._host.allocatable = {"cpu": "4", "memory": "8Gi", "pods": "5"}
        world.kubelet._wake_all()
        await world.rest()
        assert world.condition("PodResizePending") is not None
        assert shown(world) == ("1", "1", 0)

    play(
        story,
    )


def test_memory_in_use_is_not_taken_away(play: Play) -> None:
    async def story(world: World) -> None:
        world.client.put(sized("web", "1", "2Gi"))
        await world.rest()
        (container,) = await world.runtime.list_containers()
        used = ContainerUsage(container.id, world.clock.now(), memory_bytes=3 * GIB // 2)

        async def usage() -> list[ContainerUsage]:
            return [used]

        world.runtime.usage = usage  # type: ignore[method-assign]
        resize(world, "1", "1Gi")
        await world.rest()
        progress = world.condition("PodResizeInProgress")
        text = f"attempting to set container memory limit ({GIB}) below current usage ({3 * GIB // 2})"
        assert (progress.reason, progress.message) == ("Error", text)
        assert await enforced(world) == (100_000, 2 * GIB)
        used = ContainerUsage(container.id, world.clock.now(), memory_bytes=GIB // 2)
        await world.advance(15)
        assert world.condition("PodResizeInProgress") is None
        assert await enforced(world) == (100_000, GIB)

    play(story)


def test_static_pods_are_not_resized() -> None:
    refused = admission.pending(sized("web", "1"), {}, {}, static=True)
    assert refused == admission.Pending("Infeasible", "In-place resize of static-pods is not supported")


amounts = st.integers(1, 5000)


@given(st.lists(st.tuples(amounts, amounts), max_size=12), amounts, amounts)
def test_what_is_let_in_one_after_another_fits(pods: list[tuple[int, int]], cpu: int, memory: int) -> None:
    """Never more than the node has, and nothing is refused that would fit."""
    allocatable = {"cpu": f"{cpu}m", "memory": str(memory), "pods": "5"}
    used = {"pods": 0, "cpu": 0, "memory": 0}
    for millis, size in pods:
        asked = admission.requests_of(sized("any", f"{millis}m", str(size)))
        fits = used["pods"] < 5 and used["cpu"] + millis <= cpu and used["memory"] + size <= memory
        assert (admission.shortage(asked, used, allocatable) is None) == fits
        if fits:
            used = {name: used[name] + asked[name] for name in used}


# -------------------------------------------------------------------------------------------------------- other refusals


def with_port(name: str, port: int, **fields: Any) -> Pod:
    ports = (ContainerPort(container_port=80, host_port=port, **fields),)
    return make_pod(name, containers=(make_container(ports=ports),))


def test_a_host_port_is_had_once(play: Play) -> None:
    async def story(world: World) -> None:
        world.client.put(with_port("first", 8080, host_ip="127.0.0.1"))
        await world.rest()
        world.client.put(with_port("other-address", 8080, host_ip="127.0.0.2"))
        world.client.put(with_port("other-protocol", 8080, protocol="UDP"))
        world.client.put(with_port("every-address", 8080))
        await world.rest()
        phases = {name: world.pod(name).status.phase for name in ("first", "other-address", "other-protocol")}
        assert set(phases.values()) == {"Running"}
        status = world.pod("every-address").status
        assert (status.phase, status.reason) == ("Failed", "NodePorts")
        assert status.message == "Pod was rejected: Predicate NodePorts failed"
        for name in ("first", "other-address"):
            world.client.ask_delete(name, world.clock.now(), grace_s=1)
        await world.advance(3)
        world.client.put(with_port("later", 8080))
        await world.rest()
        assert world.pod("later").status.phase == "Running"

    play(story)


@pytest.mark.parametrize(
    ("labels", "phase"), [({"disk": "ssd"}, "Failed"), ({"kubernetes.io/hostname": "n1"}, "Running")]
)
def test_a_pod_that_was_bound_to_the_wrong_node(play: Play, labels: dict[str, str], phase: str) -> None:
    async def story(world: World) -> None:
        world.client.put(make_pod(node_selector=labels))
        await world.rest()
        status = world.pod().status
        assert status.phase == phase
        if phase == "Failed":
            assert (status.reason, status.message) == (
                "NodeAffinity",
                "Pod was rejected: Predicate NodeAffinity failed",
            )

    play(story)


@pytest.mark.parametrize(
    ("name", "spec", "allowed", "words"),
    [
        ("kernel.shm_rmid_forced", {}, (), ""),
        ("net/ipv4/tcp_syncookies", {}, (), ""),
        ("kernel.msgmax", {}, (), 'forbidden sysctl: "kernel.msgmax" not allowlisted'),
        ("kernel.msgmax", {}, ("kernel.msg*",), ""),
        ("net.ipv4.tcp_syncookies", {"host_network": True}, (), 'forbidden sysctl: "net.ipv4.tcp_syncookies" not allowed with host net enabled'),
        ("kernel.shm_rmid_forced", {"host_ipc": True}, (), 'forbidden sysctl: "kernel.shm_rmid_forced" not allowed with host ipc enabled'),
    ],
)  # fmt: skip
def test_sysctls(name: str, spec: dict[str, Any], allowed: tuple[str, ...], words: str) -> None:
    context = PodSecurityContext(sysctls=(Sysctl(name=name, value="1"),))
    found = admission.forbidden_sysctl(make_pod(security_context=context, **spec), allowed)
    assert found == (admission.Refusal("SysctlForbidden", words) if words else None)


def test_a_pod_for_another_system_is_refused(play: Play) -> None:
    async def story(world: World) -> None:
        world.client.put(make_pod("foreign", os=PodOS(name="windows")))
        world.client.put(make_pod("labelled", labels={"kubernetes.io/os": "windows"}))
        world.client.put(make_pod("own", labels={"kubernetes.io/os": "linux"}, os=PodOS(name="linux")))
        await world.rest()
        foreign, labelled = world.pod("foreign").status, world.pod("labelled").status
        assert (foreign.phase, foreign.reason) == ("Failed", "PodOSNotSupported")
        assert foreign.message == "Pod was rejected: Failed to admit pod as the OS field doesn't match node OS"
        assert (labelled.phase, labelled.reason) == ("Failed", "PodOSSelectorNodeLabelDoesNotMatch")
        assert world.pod("own").status.phase == "Running"

    play(story)


def test_a_pod_is_resized_as_a_whole(play: Play) -> None:
    """Its status says what it was given and what it has; a restarted kubelet goes by that."""

    def sized_whole(cpu: str) -> ResourceRequirements:
        return ResourceRequirements(requests={"cpu": cpu}, limits={"cpu": cpu})

    async def story(world: World) -> None:
        world.client.put(make_pod(resources=sized_whole("1")))
        await world.until(lambda: world.pod().status.phase == "Running")
        assert world.pod().status.allocated_resources == {"cpu": "1"}
        assert world.pod().status.resources == sized_whole("1")
        pod = world.pod()
        world.client.put(replace(pod, spec=replace(pod.spec, resources=sized_whole("2"))))
        await world.until(lambda: world.pod().status.resources == sized_whole("2"))
        assert world.pod().status.allocated_resources == {"cpu": "2"}
        assert world.pod().status.container_statuses[0].restart_count == 0
        [running] = await world.runtime.list_containers()
        assert running.resources is not None
        assert running.resources.cpu_quota_us == 200_000, "what a container inherits is its pod's"
        pod = world.pod()
        world.client.put(replace(pod, spec=replace(pod.spec, resources=sized_whole("99"))))
        await world.until(lambda: world.condition("PodResizePending") is not None)
        await world.restart()
        await world.rest()
        assert world.pod().status.allocated_resources == {"cpu": "2"}
        assert world.pod().status.resources == sized_whole("2")

    play(story)
