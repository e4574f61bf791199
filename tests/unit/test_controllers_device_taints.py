"""Who uses a device that is tainted NoExecute leaves, when its claim's tolerations say so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import Any

import pytest
from device_lab import DRIVER, device, make_claim, make_slice, request
from msgspec.structs import replace
from world import World, make_pod

from kaa.api.clock import format_time
from kaa.api.scheme import convert
from kaa.api.types.core_v1 import Event, Pod, PodResourceClaim
from kaa.api.types.resource_v1 import DeviceTaint, DeviceToleration, ResourceClaim, ResourceClaimStatus
from kaa.controllers.devicetainteviction import newest_taints, tolerated_s


def toleration(**more: Any) -> DeviceToleration:
    return convert(DeviceToleration, {"key": "ill", "operator": "Exists", **more})


@pytest.mark.parametrize(
    ("tolerations", "seconds"),
    [
        pytest.param((), 0, id="none"),
        pytest.param((toleration(effect="NoExecute"),), inf, id="for ever"),
        pytest.param((toleration(effect="NoExecute", tolerationSeconds=30),), 30, id="for a while"),
        pytest.param((toleration(effect="NoExecute", tolerationSeconds=-1),), 0, id="not at all"),
        pytest.param(
            (
                toleration(effect="NoExecute", tolerationSeconds=30),
                toleration(effect="NoExecute", tolerationSeconds=10),
            ),
            10,
            id="the shortest",
        ),
        pytest.param(
            (toleration(effect="NoExecute", tolerationSeconds=30), toleration(effect="NoExecute")),
            inf,
            id="one for ever",
        ),
        pytest.param((toleration(effect="NoSchedule"),), 0, id="of another effect"),
        pytest.param((toleration(),), inf, id="of every effect"),
        pytest.param((toleration(tolerationSeconds=5),), inf, id="seconds count with NoExecute alone"),
        pytest.param((toleration(effect="NoExecute", operator="Equal", value="a"),), 0, id="of another value"),
        pytest.param((toleration(effect="NoExecute", key="other"),), 0, id="of another key"),
        pytest.param((toleration(effect="NoExecute", key=None),), inf, id="of every key"),
    ],
)
def test_how_long_a_taint_is_tolerated(tolerations: Sequence[DeviceToleration], seconds: float) -> None:
    assert tolerated_s(tolerations, DeviceTaint(key="ill", value="b", effect="NoExecute")) == seconds


def test_the_newest_generation_says_how_a_device_is() -> None:
    old = make_slice("old", device("a", taint="NoExecute"), generation=1)
    new = make_slice("new", device("a"), generation=2)
    assert newest_taints([old], "a")
    assert not newest_taints([old, new], "a")
    assert not newest_taints([old, new], "b")


def in_world(play: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        async with World() as world:
            await play(world)

    asyncio.run(run())


def a_user(name: str, claim: str) -> Pod:
    pod = make_pod(name, node="n1")
    entry = PodResourceClaim(name="gpu", resource_claim_name=claim)
    return replace(pod, spec=replace(pod.spec, resource_claims=(entry,)))


def given_to(claim: str, *pods: Pod, tolerations: Sequence[dict[str, Any]] = ()) -> ResourceClaim:
    """A claim that has device ``a``, reserved for pods."""
    result = {"request": "r", "driver": DRIVER, "pool": "pool", "device": "a", "tolerations": list(tolerations)}
    users = [{"resource": "pods", "name": p.metadata.name, "uid": p.metadata.uid} for p in pods]
    made = make_claim(claim, request("r"))
    status = {"allocation": {"devices": {"results": [result]}}, "reservedFor": users}
    made = replace(made, status=convert(ResourceClaimStatus, status))
    return replace(made, metadata=replace(made.metadata, namespace="default"))


def tainted(world: World) -> Any:
    added = format_time(world.clock.now())
    return make_slice("s", {"name": "a", "taints": [{"key": "ill", "effect": "NoExecute", "timeAdded": added}]})


def told(world: World) -> list[str]:
    return [e.message or "" for e in world.api.all(Event) if e.reason == "DeviceTaintManagerEviction"]


def alive(world: World) -> list[str]:
    return sorted(p.metadata.name or "" for p in world.api.all(Pod) if p.metadata.deletion_timestamp is None)


def test_users_of_a_tainted_device_are_evicted_and_others_stay() -> None:
    async def play(world: World) -> None:
        seen: list[Any] = []
        world.api.refuse = lambda verb, obj: seen.append((verb, obj)) if verb in ("patch", "delete") else None
        user, other = world.api.put(a_user("user", "gpu")), world.api.put(a_user("other", "gpu"))
        world.api.put(make_slice("s", device("a")))
        world.api.put(given_to("gpu", user))
        await world.settle()
        assert alive(world) == ["other", "user"]
        world.api.put(tainted(world))
        await world.clock.settle()
        (gone,) = (p for p in world.api.all(Pod) if p.metadata.name == "user")
        assert gone.metadata.deletion_timestamp is not None
        (condition,) = (c for c in gone.status.conditions if c.type == "DisruptionTarget")
        assert (condition.status, condition.reason, condition.message) == (
            "True",
            "DeletionByDeviceTaintManager",
            "Device Taint manager: deleting due to NoExecute taint",
        )
        await world.settle()
        assert alive(world) == [other.metadata.name]
        assert told(world) == ["Marking for deletion"]

    in_world(play)


def test_a_toleration_that_runs_out() -> None:
    async def play(world: World) -> None:
        limit = {"key": "ill", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 20}
        user = world.api.put(a_user("user", "gpu"))
        world.api.put(given_to("gpu", user, tolerations=[limit]))
        world.api.put(tainted(world))
        await world.clock.advance(15)
        assert alive(world) == ["user"]
        await world.clock.advance(10)
        assert alive(world) == []

    in_world(play)


def test_a_taint_that_goes_in_time() -> None:
    async def play(world: World) -> None:
        limit = {"key": "ill", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 20}
        user = world.api.put(a_user("user", "gpu"))
        world.api.put(given_to("gpu", user, tolerations=[limit]))
        world.api.put(tainted(world))
        await world.clock.advance(10)
        world.api.put(make_slice("s", device("a")))
        await world.clock.advance(20)
        assert alive(world) == ["user"]
        assert told(world) == ["Cancelling deletion"]

    in_world(play)


def test_a_pod_that_comes_to_a_tainted_device() -> None:
    """A claim that was allocated before: its new user leaves at once."""

    async def play(world: World) -> None:
        world.api.put(tainted(world))
        user = world.api.put(a_user("user", "gpu"))
        world.api.put(given_to("gpu", user))
        await world.settle()
        assert alive(world) == []

    in_world(play)
