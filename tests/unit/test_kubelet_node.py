"""The node object: what it may give, how often it is told, whose word on it stands; and the cgroups above its pods."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from kubelet_world import World, make_container, make_pod
from msgspec.structs import replace

from kaa.api.types.coordination_v1 import Lease
from kaa.api.types.core_v1 import Node, NodeSpec, ResourceRequirements, Taint
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.kubelet import machine
from kaa.kubelet.cgroups import CgroupManager, PodLimits, shares
from kaa.kubelet.config import KubeletConfig
from kaa.kubelet.config_file import ConfigFileError, configured
from kaa.kubelet.node import allocatable, image_list, machine_capacity
from kaa.runtime.base import Image

HEAD = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"


def play(tmp_path: Path, story: Callable[[World], Awaitable[None]], **config: Any) -> None:
    async def go() -> None:
        async with World(tmp_path, **config) as world:
            await story(world)

    asyncio.run(go())


def node(world: World) -> Node:
    found: Node = world.client.objects[Node, "", "n1"]
    return found


def written(world: World) -> int:
    """How often the node was patched."""
    return [name for name, patch in world.client.patches if "status" in patch].count("n1")


def test_pods_have_what_is_not_reserved_and_not_evicted_for() -> None:
    capacity = {"cpu": "4", "memory": "8145328Ki", "ephemeral-storage": "61255492Ki", "pods": "110"}
    found = allocatable(
        capacity,
        {"cpu": "500m", "memory": "1Gi", "pid": "100"},
        {"memory.available": "100Mi", "nodefs.available": "10%"},
    )
    assert found == {"cpu": "3500m", "memory": "6994352Ki", "ephemeral-storage": "56453061428", "pods": "110"}
    assert allocatable({"memory": "1Gi"}, {"memory": "2Gi"})["memory"] == "0"


def test_pods_per_core_bounds_the_pods() -> None:
    assert machine_capacity(KubeletConfig("n1", pods_per_core=1000))["pods"] == "110"
    assert int(machine_capacity(KubeletConfig("n1", pods_per_core=1))["pods"]) < 110


def test_the_largest_images_are_shown() -> None:
    images = [Image(id=f"sha256:{n}", repo_tags=(f"image:{n}",), repo_digests=(), size_bytes=n) for n in range(60)]
    assert [one.size_bytes for one in image_list(images)][:2] == [59, 58]
    assert [len(image_list(images, most)) for most in (50, 3, 0, -1)] == [50, 3, 0, 60]


def test_a_status_is_written_when_it_changes_and_every_five_minutes(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        assert written(world) == 1
        await world.advance(280, 20)
        assert written(world) == 1, "nothing has changed"
        await world.advance(60, 20)
        assert written(world) == 2
        world.runtime.add_image("busybox:1.36")
        await world.advance(20, 5)
        assert written(world) == 3
        assert node(world).status is not None

    play(tmp_path, story)


def test_what_others_write_into_the_status_is_put_right(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        found = node(world)
        assert found.status is not None
        world.client.put(replace(found, status=replace(found.status, addresses=())))
        await world.advance(15, 5)
        changed = node(world).status
        assert changed is not None
        assert [(a.type, a.address) for a in changed.addresses] == [("InternalIP", "192.0.2.1"), ("Hostname", "n1")]

    play(tmp_path, story)


def test_a_deleted_node_stays_away_until_the_kubelet_starts_again(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.client.delete(Node, "n1")
        await world.client.delete(Lease, "n1", "kube-node-lease")
        await world.advance(400, 20)
        assert (Node, "", "n1") not in world.client.objects
        assert (Lease, "kube-node-lease", "n1") not in world.client.objects, "it would belong to nobody"
        await world.restart()
        await world.advance(1)
        lease = world.client.objects[Lease, "kube-node-lease", "n1"]
        assert [owner.uid for owner in lease.metadata.owner_references] == [node(world).metadata.uid]

    play(tmp_path, story)


def test_a_node_that_is_there_keeps_its_labels(tmp_path: Path) -> None:
    labels = {"tier": "gold", "topology.kubernetes.io/zone": "a"}

    async def story(world: World) -> None:
        assert node(world).metadata.labels["tier"] == "gold"
        found = node(world)
        kept = {
            **found.metadata.labels,
            "tier": "iron",
            "topology.kubernetes.io/zone": "b",
            "kubernetes.io/os": "other",
        }
        world.client.put(replace(found, metadata=replace(found.metadata, labels=kept)))
        await world.restart()
        shown = node(world).metadata.labels
        assert (shown["tier"], shown["topology.kubernetes.io/zone"], shown["kubernetes.io/os"]) == (
            "iron",
            "a",
            "linux",
        )

    play(tmp_path, story, labels=labels)


def test_a_cloud_finishes_its_node(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        found = node(world)
        assert found.spec.taints == (
            Taint(key="a", effect="NoSchedule"),
            Taint(key="node.cloudprovider.kubernetes.io/uninitialized", value="true", effect="NoSchedule"),
        )
        assert found.metadata.annotations["alpha.kubernetes.io/provided-node-ip"] == "192.0.2.1"
        assert found.status is not None
        given = (replace(found.status.addresses[0], address="198.51.100.1"),)
        world.client.put(replace(found, status=replace(found.status, addresses=given)))
        await world.advance(400, 20)
        now = node(world).status
        assert now is not None
        assert [address.address for address in now.addresses] == ["198.51.100.1"], "the cloud's word stands"

    play(tmp_path, story, external_cloud=True, taints=(Taint(key="a", effect="NoSchedule"),))


def test_cordons_and_reboots_are_told(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        for unschedulable, reason in ((True, "NodeNotSchedulable"), (None, "NodeSchedulable")):
            world.client.put(replace(node(world), spec=NodeSpec(unschedulable=unschedulable)))
            await world.rest()
            assert world.events.said[-1] == ("n1", reason, f"Node n1 status is now: {reason}")
        found = node(world)
        assert found.status is not None
        info = replace(found.status.node_info, boot_id="another")
        world.client.put(replace(found, status=replace(found.status, node_info=info)))
        await world.advance(20, 5)
        now = node(world).status
        assert now is not None
        text = f"Node n1 has been rebooted, boot id: {now.node_info.boot_id}"
        assert ("n1", "NodeRebooted", text) in world.events.said

    play(tmp_path, story)


def test_a_node_that_does_not_register_waits_for_its_object(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.advance(30, 10)
        assert (Node, "", "n1") not in world.client.objects
        made = Node(metadata=ObjectMeta(name="n1", labels={"mine": "yes"}))
        world.client.put(replace(made, status=None))
        await world.advance(20, 5)
        assert node(world).metadata.labels == {"mine": "yes"}
        assert node(world).status is not None

    play(tmp_path, story, register=False)


# ------------------------------------------------------------------------------------------------ cgroups


def tree(tmp_path: Path, *, v2: bool) -> CgroupManager:
    if v2:
        (tmp_path / "cgroup.controllers").write_text("cpu memory pids")
    else:
        for controller in CgroupManager.V1:
            (tmp_path / controller).mkdir()
    return CgroupManager(tmp_path, "/kaa")


def pod(name: str, cpu: str = "") -> Any:
    resources = ResourceRequirements(requests={"cpu": cpu} if cpu else {})
    return make_pod(name, containers=(make_container(resources=resources),))


@pytest.mark.parametrize("v2", [False, True], ids=["v1", "v2"])
def test_all_pods_are_bounded_together(tmp_path: Path, v2: bool) -> None:
    manager = tree(tmp_path, v2=v2)
    manager.bound_pods(PodLimits(shares(3500), None, 1 << 30, 1000))

    def read(controller: str, path: str) -> str:
        return (tmp_path / ("" if v2 else controller) / "kaa/kubepods" / path).read_text()

    weight, memory = ("cpu.weight", "memory.max") if v2 else ("cpu.shares", "memory.limit_in_bytes")
    assert read("cpu", weight) == ("137" if v2 else "3584")
    assert read("memory", memory) == str(1 << 30)
    assert read("pids", "pids.max") == "1000"
    assert [read("cpu", f"{name}/{weight}") for name in ("besteffort", "burstable")] == ["1" if v2 else "2"] * 2


@pytest.mark.parametrize("v2", [False, True], ids=["v1", "v2"])
def test_the_burstable_class_has_what_its_pods_ask(tmp_path: Path, v2: bool) -> None:
    manager = tree(tmp_path, v2=v2)
    manager.bound_pods(PodLimits())
    file = tmp_path / ("kaa/kubepods/burstable/cpu.weight" if v2 else "cpu/kaa/kubepods/burstable/cpu.shares")

    def has() -> int:
        return int(file.read_text())

    none, one, both = (1, 39, 59) if v2 else (2, 1024, 1536)
    assert has() == none
    first = manager.ensure_pod(pod("a", "1"))
    assert has() == one
    manager.ensure_pod(pod("b", "500m"))
    manager.ensure_pod(pod("c"))  # best-effort: not of this class
    assert has() == both
    again = CgroupManager(tmp_path, "/kaa")  # the agent's next life
    again.bound_pods(PodLimits())
    assert abs(has() - both) <= 1
    stamp = file.stat().st_mtime_ns
    again.ensure_pod(pod("d"))
    assert file.stat().st_mtime_ns == stamp, "not written for pods of another class"
    for controller in ("",) if v2 else CgroupManager.V1:
        for left in (tmp_path / controller / first[1:]).glob("*"):
            left.unlink()
    again.remove_pod(first)
    assert has() < both


# ------------------------------------------------------------------------------------------------ the file


def test_a_configuration_says_how_the_node_is_shown() -> None:
    made, _ = configured(
        KubeletConfig("n1"),
        HEAD
        + "nodeStatusUpdateFrequency: 20s\nnodeStatusMaxImages: -1\npodsPerCore: 5\nenforceNodeAllocatable: [none]\n",
    )
    assert (made.status_check_s, made.status_period_s) == (20.0, 20.0), "told the one, not the other"
    assert (made.max_images, made.pods_per_core, made.enforced) == (-1, 5, ("none",))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("podsPerCore: -1", r"podsPerCore \(--pods-per-core\) -1 must not be a negative number"),
        ("enforceNodeAllocatable: [pods, none]", 'may not contain additional enforcements when "none" is specified'),
        ("enforceNodeAllocatable: [all]", 'option "all" specified for enforceNodeAllocatable'),
    ],
)
def test_a_configuration_is_refused(line: str, message: str) -> None:
    with pytest.raises(ConfigFileError, match=f"invalid configuration: .*{message}"):
        configured(KubeletConfig("n1"), HEAD + line)


def test_the_machine_says_how_many_processes_it_takes() -> None:
    assert machine.process_limit() > 0
