"""What a node keeps from its pods, and what its pods keep from each other: on cgroup trees made of folders."""

from __future__ import annotations

import asyncio
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from kubelet_world import World, make_container, make_pod

from kaa.api.types.core_v1 import Pod, ResourceRequirements
from kaa.api.values import Quantity
from kaa.kubelet.cgroups import CgroupManager, PodLimits, container_resources
from kaa.kubelet.config import KubeletConfig
from kaa.kubelet.config_file import ConfigFileError, configured
from kaa.kubelet.machine import Machine
from kaa.kubelet.memory_qos import MemoryQos
from kaa.kubelet.memory_rules import Rules
from kaa.kubelet.reservations import EnforcementError, Reservation, check_capacity, enforce
from kaa.runtime.oci.bundle import resources_spec

HEAD = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"
MI, GI = 1 << 20, 1 << 30
OPTION = "enforceNodeAllocatable (--enforce-node-allocatable)"
CONTROLLERS = ("cpu", "memory", "pids")


def tree(root: Path, *, v2: bool, slices: tuple[str, ...] = ()) -> CgroupManager:
    """A machine's cgroups, with some that its administrator made."""
    tops = [root] if v2 else [root / controller for controller in CONTROLLERS]
    for folder in [top / path for top in tops for path in ("", *slices)]:
        folder.mkdir(parents=True, exist_ok=True)
        if v2:
            (folder / "cgroup.controllers").write_text("cpu memory pids\n")
    return CgroupManager(root)


def pod(requests: str = "", limits: str = "", name: str = "web", cpu: str = "") -> Pod:
    both = [
        {key: Quantity(amount) for key, amount in (("memory", memory), ("cpu", cpu)) if amount}
        for memory in (requests, limits)
    ]
    container = make_container(resources=ResourceRequirements(requests=both[0], limits=both[1]))
    return make_pod(name, containers=(container,))


# ------------------------------------------------------------------------------------------------ reservations


def test_what_is_reserved_and_whose_it_is() -> None:
    made, without_effect = configured(
        KubeletConfig("n1"),
        HEAD
        + "systemReserved: {cpu: 500m, memory: 1Gi, pid: '100'}\nkubeReserved: {memory: 512Mi}\n"
        + "systemReservedCgroup: /system.slice\nkubeReservedCgroup: /podruntime.slice\n"
        + "enforceNodeAllocatable: [pods, system-reserved, kube-reserved-compressible]\n",
    )
    assert made.enforced == ("pods", "system-reserved", "kube-reserved-compressible")
    assert made.reservations == (
        Reservation("system", {"cpu": "500m", "memory": "1Gi", "pid": "100"}, "/system.slice", enforced=True),
        Reservation("kube", {"memory": "512Mi"}, "/podruntime.slice", enforced=True, compressible=True),
    )
    assert without_effect == []


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("enforceNodeAllocatable: [pods, pods]", f'duplicated enforcements "pods" in {OPTION}'),
        (
            "enforceNodeAllocatable: [system-reserved]",
            "systemReservedCgroup (--system-reserved-cgroup) must be specified when "
            f'"system-reserved" or "system-reserved-compressible" included in {OPTION}',
        ),
        (
            "enforceNodeAllocatable: [kube-reserved-compressible]",
            "kubeReservedCgroup (--kube-reserved-cgroup) must be specified when "
            f'"kube-reserved" or "kube-reserved-compressible" included in {OPTION}',
        ),
        (
            "kubeReservedCgroup: /a\nenforceNodeAllocatable: [kube-reserved, kube-reserved-compressible]",
            f'both "kube-reserved" and "kube-reserved-compressible" cannot be specified together in {OPTION}',
        ),
        (
            "enforceNodeAllocatable: [all]",
            f'option "all" specified for {OPTION}. Valid options are "pods", "system-reserved", '
            '"system-reserved-compressible", "kube-reserved", "kube-reserved-compressible" or "none"',
        ),
        (
            "cgroupsPerQOS: false",
            f'cgroupsPerQOS (--cgroups-per-qos) must be set to true when "pods" contained in {OPTION}',
        ),
        (
            "featureGates: {MemoryQoS: true}\nmemoryThrottlingFactor: 1.5",
            "memoryThrottlingFactor 1.5 must be greater than 0 and less than or equal to 1.0",
        ),
        (
            "memoryReservationPolicy: TieredReservation",
            'memoryReservationPolicy "TieredReservation" requires MemoryQoS feature gate to be enabled',
        ),
        (
            "memoryReservationPolicy: Some",
            'option "Some" specified for memoryReservationPolicy. Valid options are "None" or "TieredReservation"',
        ),
    ],
)
def test_a_configuration_is_refused(lines: str, message: str) -> None:
    with pytest.raises(ConfigFileError) as caught:
        configured(KubeletConfig("n1"), HEAD + lines)
    assert str(caught.value) == f"invalid configuration: {message}"


def test_nothing_is_enforced_if_nothing_is_listed() -> None:
    made, _ = configured(KubeletConfig("n1"), HEAD + "enforceNodeAllocatable: []\ncgroupsPerQOS: false\n")
    assert made.enforced == ()


@pytest.mark.parametrize("v2", [False, True], ids=["v1", "v2"])
def test_a_reservation_bounds_its_cgroup(tmp_path: Path, v2: bool) -> None:
    cgroups = tree(tmp_path, v2=v2, slices=("system.slice",))
    one = Reservation("system", {"cpu": "500m", "memory": "1Gi", "pid": "100"}, "/system.slice", enforced=True)
    assert enforce(cgroups, one) == "Updated limits on system reserved cgroup /system.slice"

    def read(controller: str, name: str) -> str:
        return (tmp_path / ("" if v2 else controller) / "system.slice" / name).read_text()

    assert read("cpu", "cpu.weight" if v2 else "cpu.shares") == ("20" if v2 else "512")
    assert read("memory", "memory.max" if v2 else "memory.limit_in_bytes") == str(GI)
    assert read("pids", "pids.max") == "100"
    assert not list(tmp_path.rglob("memory.min"))


def test_what_is_compressible_alone(tmp_path: Path) -> None:
    cgroups = tree(tmp_path, v2=True, slices=("kube",))
    enforce(cgroups, Reservation("kube", {"cpu": "1", "memory": "1Gi"}, "/kube", enforced=True, compressible=True))
    assert sorted(file.name for file in (tmp_path / "kube").iterdir()) == ["cgroup.controllers", "cpu.weight"]


def test_memory_that_is_reserved_is_not_taken_with_memory_qos(tmp_path: Path) -> None:
    cgroups = tree(tmp_path, v2=True, slices=("kube",))
    enforce(cgroups, Reservation("kube", {"memory": "1Gi"}, "/kube", enforced=True), protect=True)
    assert (tmp_path / "kube/memory.min").read_text() == str(GI)


@pytest.mark.parametrize("v2", [False, True], ids=["v1", "v2"])
def test_a_cgroup_that_is_not_there_is_not_made(tmp_path: Path, v2: bool) -> None:
    cgroups = tree(tmp_path, v2=v2)
    with pytest.raises(EnforcementError) as caught:
        enforce(cgroups, Reservation("system", {"cpu": "1"}, "/a/b", enforced=True))
    why = (
        f"""could not read controllers for cgroup ["a" "b"]: [Errno 2] No such file or directory: '{tmp_path}/a/b/cgroup.controllers'"""
        if v2
        else f'cgroup ["a" "b"] has some missing paths: {", ".join(f"{tmp_path}/{one}/a/b" for one in CONTROLLERS)}'
    )
    assert str(caught.value) == f'Failed to enforce System Reserved Cgroup Limits on "/a/b": {why}'
    assert not (tmp_path / "a").exists()


def test_a_cgroup_without_a_controller(tmp_path: Path) -> None:
    cgroups = tree(tmp_path, v2=True, slices=("kube",))
    (tmp_path / "kube/cgroup.controllers").write_text("cpu\n")
    with pytest.raises(EnforcementError, match=r'cgroup \["kube"\] has some missing controllers: memory, pids$'):
        enforce(cgroups, Reservation("kube", {"cpu": "1"}, "/kube", enforced=True))


def test_no_more_is_reserved_than_there_is() -> None:
    check_capacity({"cpu": "2", "memory": "4Gi"}, {"cpu": Fraction(2), "memory": Fraction(GI)})
    with pytest.raises(EnforcementError) as caught:
        check_capacity({"cpu": "2"}, {"cpu": Fraction(3)})
    text = 'invalid Node Allocatable configuration. Resource "cpu" has an allocatable of 3, capacity of -1'
    assert str(caught.value) == text


def test_a_kubelet_says_what_it_enforced(tmp_path: Path) -> None:
    cgroups = tree(tmp_path / "cgroup", v2=True, slices=("system.slice",))
    reservations = (Reservation("system", {"cpu": "1"}, "/system.slice", enforced=True),)

    async def go() -> None:
        async with World(tmp_path, cgroups=cgroups, reservations=reservations) as world:
            said = {message for _, reason, message in world.events.said if reason == "NodeAllocatableEnforced"}
            assert said == {
                "Updated limits on system reserved cgroup /system.slice",
                "Updated Node Allocatable limit across pods",
            }

    asyncio.run(go())


# ------------------------------------------------------------------------------------------------ memory QoS

TIERED = MemoryQos(tiered=True)


def test_the_gate_and_the_factor() -> None:
    gate = HEAD + "featureGates: {MemoryQoS: true}\n"
    assert configured(KubeletConfig("n1"), HEAD + "memoryThrottlingFactor: 0.5\n")[0].memory_qos is None
    assert configured(KubeletConfig("n1"), gate)[0].memory_qos == MemoryQos(Fraction(9, 10))
    more = "memoryThrottlingFactor: 0.5\nmemoryReservationPolicy: TieredReservation\n"
    assert configured(KubeletConfig("n1"), gate + more)[0].memory_qos == MemoryQos(Fraction(1, 2), tiered=True)


@pytest.mark.parametrize(
    ("asks", "qos", "wanted"),
    [
        pytest.param(pod("256Mi", "512Mi"), MemoryQos(), {"memory.high": 510025728}, id="burstable"),
        pytest.param(
            pod("256Mi", "512Mi"), MemoryQos(Fraction(1)), {"memory.high": 512 * MI}, id="slowed only at its limit"
        ),
        pytest.param(pod("128Mi"), MemoryQos(), {"memory.high": 979787776}, id="no limit: as the node has to give"),
        pytest.param(pod("1Gi", "1Gi", cpu="1"), MemoryQos(), {}, id="guaranteed"),
        pytest.param(pod(), TIERED, {}, id="best effort"),
        pytest.param(
            pod("256Mi", "512Mi"), TIERED, {"memory.low": 256 * MI, "memory.high": 510025728}, id="burstable, kept"
        ),
        pytest.param(pod("1Gi", "1Gi", cpu="1"), TIERED, {"memory.min": GI}, id="guaranteed, kept"),
    ],
)
def test_what_a_container_keeps(asks: Pod, qos: MemoryQos, wanted: dict[str, int]) -> None:
    rules = Rules("", True, Machine(0, {}, True), 4 * GI, qos, GI)
    own = container_resources(asks, asks.spec.containers[0], memory_capacity_bytes=4 * GI)
    given = rules.apply(asks, asks.spec.containers[0], own)
    assert given.unified == {name: str(amount) for name, amount in wanted.items()}
    assert resources_spec(given, v2=True).get("unified", {}) == given.unified
    old = Rules("", True, Machine(0, {}, False), 4 * GI, qos, GI)
    assert old.apply(asks, asks.spec.containers[0], own).unified == {}


def test_pods_and_the_classes_above_them(tmp_path: Path) -> None:
    cgroups = tree(tmp_path, v2=True)
    cgroups.bound_pods(PodLimits(), TIERED)

    def read() -> list[Any]:
        return [
            int((tmp_path / "kubepods" / name).read_text()) // MI for name in ("memory.min", "burstable/memory.low")
        ]

    assert read() == [0, 0]
    first = cgroups.ensure_pod(pod("256Mi", "512Mi", "a"), memory_qos=TIERED)
    second = cgroups.ensure_pod(pod("1Gi", "1Gi", "b", cpu="1"), memory_qos=TIERED)
    cgroups.ensure_pod(pod(name="c"), memory_qos=TIERED)
    assert [(tmp_path / path[1:] / name).read_text() for path, name in ((first, "memory.low"), (second, "memory.min"))]
    assert read() == [1280, 256]

    again = CgroupManager(tmp_path)  # the agent's next life
    again.bound_pods(PodLimits(), TIERED)
    assert read() == [1280, 256]
    for left in (tmp_path / first[1:]).iterdir():
        left.unlink()
    again.remove_pod(first)
    assert read() == [1024, 0]

    CgroupManager(tmp_path).bound_pods(PodLimits(), MemoryQos())  # another policy
    assert read() == [0, 0]
