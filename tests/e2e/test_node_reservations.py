"""Cgroups of the machine's own processes, bounded by what the node reserves for them; and a cgroup that is not there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_lab import E2E, Lab, until

from kaa.runtime.oci.linux import start_time

pytestmark = E2E
CGROUPS = Path("/sys/fs/cgroup")
V2 = (CGROUPS / "cgroup.controllers").exists()
CONTROLLERS = ("",) if V2 else ("cpu", "cpuacct", "cpuset", "memory", "pids", "systemd")


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Beside the lab a cgroup ``NAME-system`` in every hierarchy, as an administrator makes one."""
    lab = Lab()
    tops = {(CGROUPS / one).resolve() for one in CONTROLLERS if (CGROUPS / one).is_dir()}
    made = [top / f"{lab.name}-system" for top in tops]
    for folder in made:
        folder.mkdir()
    try:
        yield lab
    finally:
        lab.close()
        for folder in made:
            folder.rmdir()


def config(lab: Lab, cgroup: str) -> str:
    file = lab.home / "kubelet.yaml"
    file.write_text(
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nfailSwapOn: false\n"
        "evictionHard: {memory.available: 1Mi}\nimageGCHighThresholdPercent: 100\n"
        f"systemReserved: {{cpu: 500m, memory: 64Mi}}\nsystemReservedCgroup: {cgroup}\n"
        "enforceNodeAllocatable: [pods, system-reserved]\n"
    )
    return str(file)


def test_a_reservation_is_kept_or_the_node_does_not_run(lab: Lab) -> None:
    cgroup = f"/{lab.name}-system"
    lab.kaa("up", "--kubelet-config", config(lab, cgroup))
    node, kube = lab.config()["node_name"], lab.kube()
    weight, memory = ("cpu.weight", "memory.max") if V2 else ("cpu.shares", "memory.limit_in_bytes")
    cpu, ram = ("", "") if V2 else ("cpu", "memory")
    assert (CGROUPS / cpu / cgroup[1:] / weight).read_text() == ("20\n" if V2 else "512\n")
    assert (CGROUPS / ram / cgroup[1:] / memory).read_text() == f"{64 << 20}\n"
    said = ("NodeAllocatableEnforced", f"Updated limits on system reserved cgroup {cgroup}")
    until(lambda: said in kube.events(node), "it is told")
    status = kube.api.get(f"/api/v1/nodes/{node}")["status"]
    assert status["allocatable"]["cpu"] == f"{int(status['capacity']['cpu']) * 1000 - 500}m"

    lab.kaa("down")
    lab.try_kaa("up", "--kubelet-config", config(lab, "/nowhere"))
    said_last = lab.home / lab.name / "logs/agent.out"
    until(lambda: start_time(lab.pid("agent")) == 0, "the agent has ended")
    assert 'Failed to enforce System Reserved Cgroup Limits on "/nowhere": ' in said_last.read_text()
