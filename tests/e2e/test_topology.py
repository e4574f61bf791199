"""CPUs and memory of their own with real containers: what the kernel lets each use, over pods that come and go and a restart."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from cluster_lab import BOX, E2E, Kubectl, Lab, pod, until

from kaa.kubelet.pod_resources.messages import Empty, ListPodResourcesResponse
from kaa.kubelet.topology.cpu_lists import read_list
from kaa.kubelet.topology.machine import read_machine
from kaa.runtime.oci.build import busybox_archive

pytestmark = [
    *E2E,
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one CPU cannot be parted"),
    pytest.mark.skipif(len(read_machine().nodes) != 1, reason="the reservations are for a machine of one NUMA node"),
]
CONFIG = """
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cpuManagerPolicy: static
memoryManagerPolicy: Static
systemReserved: {memory: 156Mi}
reservedMemory: [{numaNode: 0, limits: {memory: 256Mi}}]
topologyManagerPolicy: single-numa-node
evictionHard: {memory.available: 100Mi}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
"""
ALL = frozenset(range(os.cpu_count() or 1))


def standing(lab: Lab, reserved: str) -> Kubectl:
    (lab.home / "kubelet.yaml").write_text(CONFIG + reserved)
    lab.kaa("up", "--kubelet-config", str(lab.home / "kubelet.yaml"))
    lab.kaa("image import", str(busybox_archive(lab.home / "box.tar", [BOX])))
    made = lab.kube()
    until(lambda: made.read("serviceaccounts/default"), "the namespace's service account")
    return made


def amounts(cpu: str) -> dict[str, Any]:
    each = {"cpu": cpu, "memory": "32Mi"}
    return {"container": {"resources": {"limits": each, "requests": each}}}


def allowed(kube: Kubectl, name: str, what: str = "Cpus") -> frozenset[int]:
    """What the kernel lets the first process of a pod use."""
    text = kube.sh(name, f"grep {what}_allowed_list /proc/1/status")
    return read_list(text.split()[1])


def told(lab: Lab) -> dict[str, tuple[int, ...]]:
    """{pod: its own CPUs}, as the node tells monitors."""
    import grpc

    socket = lab.home / lab.name / "kubelet/pod-resources/kubelet.sock"
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        ask = channel.unary_unary(
            "/v1.PodResourcesLister/List",
            request_serializer=Empty.encode,
            response_deserializer=ListPodResourcesResponse.decode,
        )
        return {pod.name: pod.containers[0].cpu_ids for pod in ask(Empty(), timeout=10).pod_resources}


def test_a_cpu_of_its_own(lab: Lab) -> None:
    kube = standing(lab, "kubeReserved: {cpu: 500m}\n")
    kube.apply([pod("web"), pod("half", **amounts("100m"))])
    kube.ready("web", "half")
    assert allowed(kube, "web") == ALL

    kube.apply(pod("db", **amounts("1")))
    kube.ready("db")
    own = allowed(kube, "db")
    assert len(own) == 1
    assert own <= ALL - {0}
    assert allowed(kube, "db", "Mems") == {0}
    quota = "cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || true"
    assert kube.sh("db", quota).split()[0] in ("max", "-1")
    assert kube.sh("half", quota).split()[0] == "10000"
    until(lambda: allowed(kube, "web") == allowed(kube, "half") == ALL - own, "the others have the rest")
    kube.apply(pod("late"))
    kube.ready("late")
    assert allowed(kube, "late") == ALL - own

    started = kube.container("db")["containerID"]
    lab.kill("agent")
    lab.kaa("up")
    kube.apply(pod("after"))
    kube.ready("after")
    assert kube.container("db")["containerID"] == started
    assert allowed(kube, "db") == own
    for name in ("web", "half", "late", "after"):
        assert allowed(kube, name) == ALL - own
    state = json.loads((lab.home / lab.name / "kubelet/cpu_manager_state").read_text())
    assert [list(of.values()) for of in state["entries"].values()] == [[str(*own)]]
    assert told(lab) == {"db": tuple(own), "web": (), "half": (), "late": (), "after": ()}

    kube("delete pod db --now")
    until(lambda: allowed(kube, "web") == allowed(kube, "after") == ALL, "the others have all again")


def test_reserved_cpus_are_not_for_pods(lab: Lab) -> None:
    kube = standing(lab, 'reservedSystemCPUs: "0"\n')
    for name in range(len(ALL) - 1):
        kube.apply(pod(f"db{name}", **amounts("1")))
        kube.ready(f"db{name}")
    (node,) = kube.api.get("/api/v1/nodes")["items"]
    assert node["status"]["allocatable"]["cpu"] == str(len(ALL) - 1)
    kube.apply(pod("late", **amounts("1"), nodeName=node["metadata"]["name"]))
    found = kube.phase("late", "Failed")["status"]
    assert found["reason"] == "OutOfcpu"
