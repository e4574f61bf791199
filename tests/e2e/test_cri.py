"""A cluster whose containers are containerd's: made, used and taken away as a person would."""

from __future__ import annotations

from collections.abc import Iterator

import containerd_lab
import pytest
from cluster_lab import BOX, E2E, Lab, pod, serve, until

from kaa.runtime.oci.build import busybox_archive

pytestmark = [
    *E2E,
    pytest.mark.skipif(bool(containerd_lab.missing()), reason=f"containerd needs {containerd_lab.missing()}"),
]


@pytest.fixture
def machine() -> Iterator[tuple[Lab, containerd_lab.Containerd]]:
    lab = Lab()
    try:
        daemon = containerd_lab.Containerd(lab.netns, "10.244.0.0/24")
        try:
            daemon.load(busybox_archive(lab.home / "box.tar", (BOX,)))
            yield lab, daemon
        finally:
            try:
                if (lab.home / lab.name).exists():
                    lab.kaa("reset")
            finally:
                daemon.close()
    finally:
        lab.run("ip", "link", "del", "cni0")  # CNI keeps its bridge for the next pod
        lab.close()


def test_a_cluster_on_containerd(machine: tuple[Lab, containerd_lab.Containerd]) -> None:
    lab, daemon = machine
    refused = lab.try_kaa("up", "--container-runtime-endpoint", "unix:///no/such.sock")
    assert refused.code == 1
    assert "no container runtime listens at unix:///no/such.sock" in refused.err
    lab.kaa("up", "--container-runtime-endpoint", daemon.endpoint)
    kube = lab.kube()
    (node,) = lab.kube().api.get("/api/v1/nodes")["items"]
    assert node["status"]["nodeInfo"]["containerRuntimeVersion"].startswith("containerd://1.")
    assert daemon.endpoint in lab.kaa("status")

    kube.apply(pod("web", f"echo begun; {serve('hello', 8080)}", labels={"app": "web"}))
    kube.ready("web")
    assert kube("logs web") == "begun\n"
    done = kube.run("exec -i web --", "sh", "-c", "cat; exit 3", stdin="through\n")
    assert (done.code, done.out) == (3, "through\n")
    status = kube.read("pods/web")["status"]
    assert status["podIP"].startswith("10.244.0.")
    assert status["containerStatuses"][0]["imageID"].startswith("docker.io/kaa/box@sha256:")
    assert lab.fetch(status["podIP"], 8080).strip() == "hello"
    kube("expose pod web --port=80 --target-port=8080")
    script = "until wget -qO- http://web.default.svc.cluster.local; do sleep 0.2; done"
    kube.apply(pod("client", script, restartPolicy="Never"))
    kube.phase("client", "Succeeded")
    assert kube("logs client") == "hello\n"

    assert "runtime takes no archives" in lab.try_kaa("image import", str(lab.home / "box.tar")).err
    kube("delete pod web client")
    assert kube.read("pods/web") is None
    kube.apply(pod("left"))
    kube.ready("left")
    before = kube.container("left")
    lab.kill("agent")
    daemon.restart()  # both at once, as the kernel kills them when memory runs out
    lab.kaa("up")
    until(lambda: kube.run("exec left -- true").code == 0, "the agent has found it again")
    assert (kube.container("left")["containerID"], kube.container("left")["restartCount"]) == (before["containerID"], 0)
    daemon.restart()  # and alone
    kube("exec left --", "sh", "-c", "kill -9 -1; kill 1")
    until(lambda: kube.container("left").get("restartCount") == 1, "it is restarted by its policy", 40)
    kube.ready("left")
    lab.kaa("down")
    lab.kaa("up")
    until(
        lambda: kube.container("left").get("restartCount", 0) >= 0 and kube.run("exec left -- true").code == 0,
        "left is back",
    )
    lab.kaa("reset")
    assert daemon.tasks() == []


def test_the_runtime_of_a_cluster_stays(machine: tuple[Lab, containerd_lab.Containerd]) -> None:
    lab, daemon = machine
    both = lab.try_kaa("up", "--runtime", "oci", "--container-runtime-endpoint", daemon.endpoint)
    assert both.code == 1
    assert "leave --runtime out" in both.err
    lab.kaa("up", "--runtime", "simulated")
    other = lab.try_kaa("up", "--container-runtime-endpoint", daemon.endpoint)
    assert other.code == 1
    assert "stands with runtime simulated" in other.err
    agent = lab.try_kaa("agent", "--container-runtime-endpoint", daemon.endpoint)
    assert agent.code == 1
    assert "stands with runtime simulated" in agent.err
