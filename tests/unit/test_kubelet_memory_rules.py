"""Swap, huge pages and the kernel's killing: on machines made up of folders."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from kubelet_world import World, make_container, make_pod

from kaa.api.types.core_v1 import Node, Pod, ResourceRequirements
from kaa.api.values import Quantity
from kaa.kubelet import admission, cgroups
from kaa.kubelet.config import KubeletConfig
from kaa.kubelet.config_file import ConfigFileError, configured
from kaa.kubelet.machine import Machine, SwapError, check_swap, look
from kaa.kubelet.memory_rules import Rules
from kaa.kubelet.node import allocatable, system_info
from kaa.runtime.base import Resources
from kaa.runtime.oci.bundle import resources_spec
from kaa.runtime.oci.detect import has_hugetlb

HEAD = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"
GI = 2**30
SWAPS = "Filename Type Size Used Priority\n/dev/dm-1 partition 2097152 0 -2\n"


def with_resources(requests: dict[str, str] | None = None, limits: dict[str, str] | None = None, **spec: Any) -> Pod:
    needs = ResourceRequirements(
        requests={k: Quantity(v) for k, v in (requests or {}).items()},
        limits={k: Quantity(v) for k, v in (limits or {}).items()},
    )
    return make_pod(containers=(make_container(resources=needs),), **spec)


def a_machine(folder: Path) -> Machine:
    for size, count in ((2048, 512), (1048576, 0)):
        (folder / f"sys/kernel/mm/hugepages/hugepages-{size}kB").mkdir(parents=True)
        (folder / f"sys/kernel/mm/hugepages/hugepages-{size}kB/nr_hugepages").write_text(f"{count}\n")
    (folder / "proc").mkdir()
    (folder / "proc/swaps").write_text(SWAPS)
    return look(cgroup_v2=True, proc=folder / "proc", sys=folder / "sys")


def test_looking_at_a_machine(tmp_path: Path) -> None:
    assert a_machine(tmp_path) == Machine(2 * GI, {"2Mi": GI, "1Gi": 0}, True)
    assert look(cgroup_v2=False, proc=tmp_path / "none", sys=tmp_path / "none") == Machine()


def test_swap_is_not_supported_unless_allowed(tmp_path: Path) -> None:
    (tmp_path / "swaps").write_text(SWAPS.splitlines()[0] + "\n")
    check_swap(tmp_path)
    (tmp_path / "swaps").write_text(SWAPS)
    with pytest.raises(SwapError) as caught:
        check_swap(tmp_path)
    assert str(caught.value) == (
        "running with swap on is not supported, please disable swap or set --fail-swap-on flag to false."
        f" /proc/swaps contained: [{' '.join(SWAPS.splitlines())}]"
    )


@pytest.mark.parametrize(
    ("pod", "behavior", "swap"),
    [
        (with_resources({"memory": "1Gi"}), "LimitedSwap", GI // 2),
        (with_resources({"memory": "1Gi"}, {"memory": "2Gi"}), "LimitedSwap", GI // 2),
        (with_resources({"memory": "1Gi"}), "NoSwap", 0),
        (with_resources({"memory": "1Gi"}), "", 0),
        (with_resources(), "LimitedSwap", 0),
        (with_resources({"cpu": "1"}), "LimitedSwap", 0),
        (with_resources({"cpu": "1", "memory": "1Gi"}, {"cpu": "2", "memory": "1Gi"}), "LimitedSwap", 0),
        (with_resources({"memory": "1Gi"}, priority=2_000_001_000), "LimitedSwap", 0),
        (with_resources({"memory": "8Gi"}), "LimitedSwap", 0),
    ],
    ids=[
        "its part",
        "a limit does not matter",
        "forbidden",
        "by default",
        "best effort",
        "no memory named",
        "all of it requested",
        "critical",
        "more than there is",
    ],
)
def test_swap_of_a_container(pod: Pod, behavior: str, swap: int) -> None:
    rules = Rules(behavior, None, Machine(2 * GI, {}, True), 4 * GI)
    given = rules.apply(pod, pod.spec.containers[0], Resources(memory_limit_bytes=GI, memory_swap_limit_bytes=GI))
    assert given.unified == {"memory.swap.max": str(swap), "memory.oom.group": "1"}
    assert (given.memory_limit_bytes, given.memory_swap_limit_bytes) == (GI, None)


def test_rules_of_older_cgroups() -> None:
    pod = with_resources({"memory": "1Gi"})
    rules = Rules("LimitedSwap", None, Machine(2 * GI, {}, False), 4 * GI)
    given = Resources(memory_limit_bytes=GI, memory_swap_limit_bytes=GI)
    assert rules.apply(pod, pod.spec.containers[0], given) == given


def test_one_process_at_a_time_is_killed_if_so_configured() -> None:
    pod = with_resources()
    rules = Rules("", True, Machine(0, {}, True), 4 * GI)
    assert rules.apply(pod, pod.spec.containers[0], Resources()).unified == {}


def test_huge_pages_of_a_container() -> None:
    pod = with_resources(limits={"hugepages-2Mi": "64Mi"})
    rules = Rules("", True, Machine(0, {"2Mi": GI, "1Gi": 0}, True), 4 * GI)
    own = cgroups.container_resources(pod, pod.spec.containers[0], memory_capacity_bytes=4 * GI)
    given = rules.apply(pod, pod.spec.containers[0], own)
    assert given.hugepage_limits == {"2Mi": 2**26, "1Gi": 0}
    spec = resources_spec(given, v2=True)
    assert spec["hugepageLimits"] == [{"pageSize": "1GB", "limit": 0}, {"pageSize": "2MB", "limit": 2**26}]
    assert "hugepageLimits" not in resources_spec(given, v2=True, hugetlb=False)


def test_huge_pages_of_a_pods_cgroup(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids hugetlb")
    manager = cgroups.CgroupManager(tmp_path)
    folder = tmp_path / "kubepods/besteffort/poduid-web"
    folder.mkdir(parents=True)
    for name in ("hugetlb.2MB.max", "hugetlb.1GB.max", "hugetlb.1GB.rsvd.max"):
        (folder / name).write_text("max")
    manager.ensure_pod(with_resources(limits={"hugepages-2Mi": "64Mi"}))
    assert (folder / "hugetlb.2MB.max").read_text() == str(2**26)
    assert (folder / "hugetlb.1GB.max").read_text() == "0"
    assert has_hugetlb(tmp_path)
    old = tmp_path / "v1"
    for controller in ("cpu", "memory", "hugetlb"):
        (old / controller).mkdir(parents=True)
    cgroups.CgroupManager(old).ensure_pod(with_resources(limits={"hugepages-2Mi": "64Mi"}))
    assert (old / "hugetlb/kubepods/besteffort/poduid-web/hugetlb.2MB.limit_in_bytes").read_text() == str(2**26)


def test_huge_pages_are_no_memory_for_others() -> None:
    left = allocatable({"memory": "4Gi", "hugepages-2Mi": "1Gi"}, {"memory": "1Gi"})
    assert left == {"memory": "2Gi", "hugepages-2Mi": "1Gi"}


def test_pods_take_huge_pages_of_the_node() -> None:
    pod = with_resources(limits={"hugepages-2Mi": "64Mi"})
    asked = admission.requests_of(pod)
    assert asked["hugepages-2Mi"] == 2**26
    short = admission.shortage(asked, {"hugepages-2Mi": GI}, {"hugepages-2Mi": "1Gi"})
    assert short is not None
    assert short.reason == "OutOfhugepages-2Mi"


def test_the_node_shows_its_swap_and_pages(tmp_path: Path) -> None:
    async def go() -> None:
        async with World(tmp_path, machine=a_machine(tmp_path)) as world:
            status = (await world.client.get(Node, "n1")).status
            assert (status.capacity["hugepages-2Mi"], status.allocatable["hugepages-2Mi"]) == ("1Gi", "1Gi")
            assert status.node_info.swap.capacity == 2 * GI

    asyncio.run(go())
    assert system_info("a://1", "v1").swap is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("failSwapOn: false\nmemorySwap: {swapBehavior: LimitedSwap}\n", (False, "LimitedSwap", None)),
        ("singleProcessOOMKill: true\n", (True, "", True)),
    ],
)
def test_swap_of_the_configuration(text: str, expected: tuple[bool, str, bool | None]) -> None:
    made, without_effect = configured(KubeletConfig("n"), HEAD + text)
    assert (made.fail_swap_on, made.swap_behavior, made.single_process_oom_kill) == expected
    assert without_effect == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "memorySwap: {swapBehavior: UnlimitedSwap}\n",
            'memorySwap.swapBehavior "UnlimitedSwap" must be one of: "", "LimitedSwap" or "NoSwap"',
        ),
        (
            "singleProcessOOMKill: false\n",
            "singleProcessOOMKill must not be explicitly set to false when using cgroup v1",
        ),
    ],
)
def test_swap_that_cannot_be_configured(tmp_path: Path, text: str, fault: str) -> None:
    config = KubeletConfig("n", cgroups=cgroups.CgroupManager(tmp_path))
    with pytest.raises(ConfigFileError) as caught:
        configured(config, HEAD + text)
    assert str(caught.value) == f"invalid configuration: {fault}"
