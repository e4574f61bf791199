"""Hardware in the life of pods: given as they are let in, kept over a restart, moved at once, taken back at their end."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from kubelet_world import World, make_pod
from machines import GI, Cards, asking, guaranteed, machine, write_sys
from msgspec.structs import replace

import kaa
from kaa.api.types.core_v1 import Pod, ResourceRequirements
from kaa.kubelet.cgroups import CgroupManager
from kaa.kubelet.config import KubeletConfig
from kaa.kubelet.config_file import ConfigFileError, configured
from kaa.kubelet.topology.machine import Machine
from kaa.kubelet.topology.settings import CpuOptions, Settings
from kaa.runtime.base import Device, Mount, Resources, RuntimeFailure

Play = Callable[..., None]
STATIC = Settings(cpus="static")
FOUR = machine(2, 1, 2)  # CPUs 0 and 1 on node 0, 2 and 3 on node 1
CAPACITY = {"cpu": "4", "memory": "32Gi"}


@pytest.fixture
def play(tmp_path: Path) -> Play:
    def run(
        story: Callable[[World], Awaitable[None]], settings: Settings = STATIC, made: Machine = FOUR, **config: Any
    ) -> None:
        write_sys(tmp_path / "machine", made)

        async def go() -> None:
            config.setdefault("reserved", {"cpu": "500m"})
            told = {"capacity": CAPACITY, "topology": settings, "machine_root": tmp_path / "machine", **config}
            async with World(tmp_path, eviction=None, **told) as world:
                await story(world)

        asyncio.run(go())

    return run


async def has(world: World, pod: str) -> dict[str, Resources]:
    """{container: what it has} of what runs of a pod."""
    sandboxes = await world.runtime.list_sandboxes(uid=f"uid-{pod}")
    every = [one for box in sandboxes for one in await world.runtime.list_containers(sandbox_id=box.id)]
    return {one.name: one.resources for one in every if one.resources is not None}


async def cpus(world: World, pod: str) -> str:
    return (await has(world, pod))["main"].cpuset_cpus


async def start(world: World, *pods: Pod) -> None:
    for pod in pods:
        world.client.put(pod)
        await world.rest()


def test_a_pod_gets_its_cpus_and_all_others_move_at_once(play: Play) -> None:
    async def story(world: World) -> None:
        await start(world, make_pod("web"))
        assert await cpus(world, "web") == "0-3"
        await start(world, guaranteed("db", asking(cpu="2")))
        assert (await cpus(world, "db"), await cpus(world, "web")) == ("2-3", "0-1")
        world.client.ask_delete("db", world.clock.now(), 0)
        await world.until(lambda: not world.exists("db"))
        assert await cpus(world, "web") == "0-3"

    play(story)


def test_who_has_cpus_of_their_own_is_not_throttled(play: Play) -> None:
    async def story(world: World) -> None:
        await start(world, guaranteed("db", asking(cpu="1")), guaranteed("half", asking(cpu="500m")))
        assert (await has(world, "db"))["main"].cpu_quota_us == -1
        assert (await has(world, "half"))["main"].cpu_quota_us == 50_000
        await world.advance(20)
        assert world.condition("PodResizeInProgress", "db") is None
        assert not [reason for reason in world.events.reasons("db") if reason.startswith("Resize")]

    play(story)


def test_a_restart_keeps_everything(play: Play) -> None:
    async def story(world: World) -> None:
        await start(world, make_pod("web"), guaranteed("db", asking(cpu="2")))
        await world.restart()
        assert (await cpus(world, "db"), await cpus(world, "web")) == ("2-3", "0-1")
        await start(world, guaranteed("next", asking(cpu="1")))
        assert (await cpus(world, "next"), await cpus(world, "web")) == ("1", "0")

    play(story)


def test_what_a_pod_had_that_went_unseen_is_given_to_the_next(play: Play) -> None:
    async def story(world: World) -> None:
        await start(world, guaranteed("db", asking(cpu="3")))
        await world.stop()
        await world.client.delete(Pod, "db", "default")
        world.kubelet = world.make()
        await world.start()
        assert list(world.kubelet.hardware.cpus.holders()) == []  # type: ignore[union-attr]
        await start(world, guaranteed("next", asking(cpu="3")))
        assert await cpus(world, "next") == "1-3"

    play(story)


def test_a_container_that_cannot_be_moved_is_tried_again(play: Play) -> None:
    async def story(world: World) -> None:
        await start(world, make_pod("web"))
        update = world.runtime.update_resources

        async def refuse(container_id: str, resources: Resources) -> None:
            raise RuntimeFailure("not now")

        world.runtime.update_resources = refuse  # type: ignore[method-assign]
        await start(world, guaranteed("db", asking(cpu="2")))
        world.runtime.update_resources = update  # type: ignore[method-assign]
        assert await cpus(world, "web") == "0-3"
        await world.advance(11)
        assert await cpus(world, "web") == "0-1"

    play(story)


def test_no_cpus_left_fails_the_pod(play: Play) -> None:
    async def story(world: World) -> None:
        await start(world, guaranteed("big", asking(cpu="3")), guaranteed("late", asking(cpu="1")))
        status = world.pod("late").status
        assert (status.phase, status.reason) == ("Failed", "UnexpectedAdmissionError")
        assert status.message == (
            "Pod was rejected: Allocate failed due to not enough cpus available to satisfy request: requested=1,"
            " available=0, which is unexpected"
        )
        assert (await has(world, "late")) == {}
        assert "UnexpectedAdmissionError" in world.events.reasons("late")

    play(story, reserved={}, settings=replace(STATIC, reserved_cpus="0"))


@pytest.mark.parametrize(("policy", "phase"), [("restricted", "Failed"), ("best-effort", "Running")])
def test_what_is_not_together_is_refused_where_it_must_be(play: Play, policy: Any, phase: str) -> None:
    async def story(world: World) -> None:
        await start(world, guaranteed("wide", asking(cpu="3")))  # a node has three, of which one is reserved
        status = world.pod("wide").status
        assert status.phase == phase
        if phase == "Failed":
            assert status.reason == "TopologyAffinityError"
            assert status.message == "Pod was rejected: Resources cannot be allocated with Topology locality"
            said = [text for _, reason, text in world.events.said if reason == "TopologyAffinityError"]
            assert said == ["Resources cannot be allocated with Topology locality"]

    settings = replace(STATIC, topology=policy, reserved_cpus="0,3")
    play(story, settings, machine(2, 1, 3), capacity={**CAPACITY, "cpu": "6"}, reserved={"cpu": "2"})


def test_a_pod_as_a_whole_on_one_node(play: Play) -> None:
    async def story(world: World) -> None:
        await start(world, guaranteed("pair", asking("a", cpu="1"), asking("b", cpu="1")))
        found = {name: one.cpuset_cpus for name, one in (await has(world, "pair")).items()}
        assert found == {"a": "2", "b": "3"}
        await start(world, guaranteed("late", asking("a", cpu="1"), asking("b", cpu="1")))
        assert world.pod("late").status.reason == "TopologyAffinityError"

    settings = Settings(cpus="static", topology="single-numa-node", scope="pod")
    play(story, settings, machine(2, 1, 2), capacity={**CAPACITY, "cpu": "5"})


def test_memory_of_one_node(play: Play) -> None:
    async def story(world: World) -> None:
        await start(world, guaranteed("db", asking(cpu="1", memory="10Gi")), make_pod("web"))
        assert (await has(world, "db"))["main"].cpuset_mems == "0"
        assert (await has(world, "web"))["main"].cpuset_mems == ""
        await world.restart()
        await start(world, guaranteed("next", asking(cpu="1", memory="10Gi")))
        assert (await has(world, "next"))["main"].cpuset_mems == "1"

    settings = Settings(memory="Static", reserved_memory={0: {"memory": GI}})
    play(story, settings, reserved={"memory": "1Gi"})


@pytest.mark.parametrize(
    ("settings", "amounts", "words"),
    [
        (STATIC, {"cpu": "3", "memory": "1Gi"}, 'CPU Manager policy "static"'),
        (
            Settings(memory="Static", reserved_memory={0: {"memory": GI}}),
            {"cpu": "2", "memory": "2Gi"},
            'Memory Manager policy "Static"',
        ),
    ],
)
def test_what_is_a_pods_own_is_not_resized(play: Play, settings: Settings, amounts: dict[str, str], words: str) -> None:
    async def story(world: World) -> None:
        await start(world, guaranteed("db", asking(cpu="2")))
        pod = world.pod("db")
        wanted = replace(pod.spec.containers[0], resources=ResourceRequirements(limits=amounts, requests=amounts))
        world.client.put(replace(pod, spec=replace(pod.spec, containers=(wanted,))))
        await world.rest()
        condition = world.condition("PodResizePending", "db")
        assert (condition.reason, condition.message) == (
            "Infeasible",
            f"Resize is infeasible for Guaranteed Pods alongside {words}",
        )

    play(story, settings, reserved={"cpu": "500m", "memory": "1Gi"})


def test_a_pod_that_failed_before_asks_for_nothing(play: Play) -> None:
    async def story(world: World) -> None:
        await start(world, guaranteed("big", asking(cpu="3")), guaranteed("late", asking(cpu="1")))
        before = world.pod("late").status
        await world.restart()
        assert world.pod("late").status == before
        assert list(world.kubelet.hardware.cpus.holders()) == ["uid-big"]  # type: ignore[union-attr]

    play(story, replace(STATIC, reserved_cpus="0"), reserved={})


def test_a_disk_that_is_full_holds_up_who_comes_and_nobody_who_goes(play: Play, tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await start(world, guaranteed("db", asking(cpu="2")))
        obstacle = tmp_path / "kubelet/.cpu_manager_state.new"
        obstacle.mkdir()
        world.client.ask_delete("db", world.clock.now(), 0)
        await world.until(lambda: not world.exists("db"))
        await start(world, guaranteed("next", asking(cpu="2")))
        assert world.pod("next").status.phase in (None, "Pending")
        obstacle.rmdir()
        await world.advance(10)
        assert await cpus(world, "next") == "2-3"

    play(story)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_cgroup_of_a_pod_with_cpus_of_its_own_has_no_quota(tmp_path: Path, version: str) -> None:
    if version == "v2":
        (tmp_path / "cgroup.controllers").write_text("cpu memory pids cpuset")
    for controller in ("cpu", "memory", "pids"):
        (tmp_path / controller).mkdir()
    pod, cgroups = guaranteed("db", asking(cpu="2")), CgroupManager(tmp_path)
    place, name = (tmp_path, "cpu.max") if version == "v2" else (tmp_path / "cpu", "cpu.cfs_quota_us")
    told = {}
    for throttled in (True, False):
        path = cgroups.ensure_pod(pod, throttled=throttled)
        told[throttled] = (place / path[1:] / name).read_text()
    expected = ("200000 100000", "max 100000") if version == "v2" else ("200000", "-1")
    assert (told[True], told[False]) == expected


def test_every_provider_gives_its_part(play: Play) -> None:
    async def story(world: World) -> None:
        cards = Cards()
        world.kubelet.hardware.add(cards)
        from kaa.api.types.core_v1 import EnvVar

        await start(world, guaranteed("db", asking(cpu="1", env=(EnvVar(name="HOME", value="/own"),))))
        made = next(iter(await world.runtime.list_containers()))
        config = world.runtime.config(made.id)
        env = dict(config.env)
        assert (env["CARD"], env["HOME"]) == ("0", "/own")
        assert config.mounts[0] == Mount("/dev/cards", "/cards")
        assert config.devices == (Device("/dev/null", "/dev/card0"),)
        assert config.cdi_devices == ("example.com/card=0",)
        assert config.annotations["card"] == "0"
        assert cards.asked == ["db/main [1]"]
        assert config.resources.cpuset_cpus == "2"
        await start(world, guaranteed("late", asking(cpu="1")))
        assert world.pod("late").status.message == "Pod was rejected: no card left"
        assert list(world.kubelet.hardware.cpus.holders()) == ["uid-db"]  # type: ignore[union-attr]
        world.client.ask_delete("db", world.clock.now(), 0)
        await world.until(lambda: not world.exists("db"))
        assert cards.holder == ""

    play(story, replace(STATIC, topology="restricted"))


def test_a_plain_node_imports_nothing_of_it() -> None:
    script = (
        "import sys; import kaa.kubelet.kubelet, kaa.kubelet.config_file;"
        "print(*(m for m in sys.modules if m.startswith('kaa.kubelet.topology.')))"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(kaa.__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.split() == ["kaa.kubelet.topology.base", "kaa.kubelet.topology.hardware"]


# ------------------------------------------------------------------------------------------------------------ settings

HEAD = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"


def test_a_file_says_how_hardware_is_given() -> None:
    made, without_effect = configured(
        KubeletConfig("n1"),
        HEAD
        + """
cpuManagerPolicy: static
cpuManagerPolicyOptions: {full-pcpus-only: "true", align-by-socket: "true"}
cpuManagerReconcilePeriod: 5s
featureGates: {CPUManagerPolicyAlphaOptions: true}
reservedSystemCPUs: "0"
systemReserved: {cpu: 500m, memory: 1Gi}
memoryManagerPolicy: Static
reservedMemory: [{numaNode: 0, limits: {memory: 1100Mi}}]
topologyManagerPolicy: restricted
topologyManagerPolicyOptions: {prefer-closest-numa-nodes: "true", max-allowable-numa-nodes: "12"}
topologyManagerScope: pod
""",
    )
    assert made.topology is not None
    assert made.topology.cpu_options == CpuOptions(full_pcpus_only=True, align_by_socket=True)
    assert (made.topology.cpus, made.topology.memory, made.topology.topology) == ("static", "Static", "restricted")
    assert (made.topology.scope, made.topology.retry_s, made.topology.reserved_cpus) == ("pod", 5.0, "0")
    assert made.topology.topology_options.max_allowable_numa_nodes == 12
    assert made.topology.reserved_memory == {0: {"memory": 1100 << 20}}
    assert made.reserved["cpu"] == "1"
    assert without_effect == ["featureGates"]


def test_reserved_cpus_count_without_any_policy() -> None:
    made, _ = configured(KubeletConfig("n1"), HEAD + 'reservedSystemCPUs: "0"\nkubeReserved: {cpu: 100m}\n')
    assert made.topology is None
    assert made.reserved == {"cpu": "1"}


def test_cpus_that_are_not_there_are_not_reserved() -> None:
    made, _ = configured(KubeletConfig("n1"), HEAD + 'reservedSystemCPUs: "5000"\nkubeReserved: {cpu: 100m}\n')
    assert made.reserved == {"cpu": "100m"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cpuManagerPolicy: dynamic", 'unknown policy: "dynamic"'),
        ("memoryManagerPolicy: static", 'unknown policy: "static"'),
        (
            "topologyManagerPolicy: all",
            'invalid configuration: topologyManagerPolicy (--topology-manager-policy) "all" must be one of:'
            ' ["none" "best-effort" "restricted" "single-numa-node"]',
        ),
        (
            "topologyManagerScope: node",
            'invalid configuration: topologyManagerScope (--topology-manager-scope) "node" must be one of:'
            ' "container", or "pod"',
        ),
        ("cpuManagerPolicyOptions: {a: b}", "None policy: received unsupported options=map[a:b]"),
        (
            'cpuManagerPolicy: static\ncpuManagerPolicyOptions: {a: "true"}',
            'unknown CPU Manager Policy option: "a"',
        ),
        (
            'cpuManagerPolicy: static\ncpuManagerPolicyOptions: {align-by-socket: "true"}',
            'CPU Manager Policy Alpha-level Options not enabled, but option "align-by-socket" provided',
        ),
        (
            'cpuManagerPolicy: static\ncpuManagerPolicyOptions: {full-pcpus-only: "yes"}',
            'bad value for option "full-pcpus-only": strconv.ParseBool: parsing "yes": invalid syntax',
        ),
        (
            "cpuManagerPolicy: static\nfeatureGates: {CPUManagerPolicyAlphaOptions: true}\n"
            'cpuManagerPolicyOptions: {full-pcpus-only: "true", distribute-cpus-across-cores: "true"}',
            "static policy options full-pcpus-only and distribute-cpus-across-cores can not be used at the same time",
        ),
        (
            "topologyManagerPolicyOptions: {max-allowable-numa-nodes: '4'}",
            'the minimum value of "max-allowable-numa-nodes" should not be less than 8',
        ),
        ("topologyManagerPolicyOptions: {a: b}", 'unknown Topology Manager Policy option: "a"'),
        (
            "reservedSystemCPUs: '0'\nsystemReservedCgroup: /system",
            "can't use reservedSystemCPUs (--reserved-cpus) with systemReservedCgroup (--system-reserved-cgroup) or"
            " kubeReservedCgroup (--kube-reserved-cgroup)",
        ),
        ("reservedSystemCPUs: x", "unable to parse reservedSystemCPUs (--reserved-cpus) x, error:"),
        (
            "reservedMemory: [{numaNode: 0, limits: {cpu: 1}}]",
            'the limit type "cpu" for NUMA node 0 is not supported, only [memory hugepages-<HugePageSize>] is accepted',
        ),
        (
            "reservedMemory: [{numaNode: 0, limits: {memory: 0}}]",
            'reserved memory may not be zero for NUMA node 0 and resource "memory"',
        ),
        (
            "reservedMemory: [{numaNode: 0, limits: {memory: 1Gi}}, {numaNode: 0, limits: {memory: 1Gi}}]",
            'the reserved memory has a duplicate value for NUMA node 0 and resource "memory"',
        ),
    ],
)
def test_settings_that_cannot_be(text: str, words: str) -> None:
    with pytest.raises(ConfigFileError) as refused:
        configured(KubeletConfig("n1"), HEAD + text + "\n")
    assert words in str(refused.value)
