"""kube-system shows the cluster itself: its components are mirror pods, and their logs are there to read."""

from __future__ import annotations

import pytest
from cluster_lab import E2E, Kubectl, until

pytestmark = E2E

COMPONENTS = {
    "kube-apiserver": "kube-apiserver",
    "kube-controller-manager": "kube-controller-manager",
    "kube-scheduler": "kube-scheduler",
    "etcd": "etcd",
    "kube-proxy": "kube-proxy",
    "coredns": "kube-dns",
}


@pytest.fixture
def system(shared: object, kube: Kubectl) -> Kubectl:
    return kube.lab.kube("kube-system")


def test_the_components_are_mirror_pods(system: Kubectl) -> None:
    node = system.lab.config()["node_name"]
    pods = {item["metadata"]["name"]: item for item in system.items("pods")}
    for name in COMPONENTS:
        pod = pods[f"{name}-{node}"]
        assert pod["metadata"]["annotations"]["kubernetes.io/config.mirror"], name
        assert pod["metadata"]["labels"]["kaa.dev/runs-as"] == "host-process", name
        assert pod["metadata"]["ownerReferences"][0]["kind"] == "Node", name
        assert pod["status"]["phase"] == "Running", name
        assert pod["spec"]["nodeName"] == node, name
    table = system("get pods")
    assert all(f"{name}-{node}" in table for name in COMPONENTS)
    assert "1/1" in table
    assert (
        system("get pods -l tier=control-plane,component=kube-apiserver -o name").strip()
        == f"pod/kube-apiserver-{node}"
    )


def test_their_logs_are_read_by_kubectl(system: Kubectl) -> None:
    node = system.lab.config()["node_name"]
    assert "serving" in system(f"logs kube-apiserver-{node}")
    assert len(system(f"logs kube-apiserver-{node} --tail=1").splitlines()) == 1
    for name in COMPONENTS:
        system(f"logs {name}-{node}")


def test_a_mirror_pod_that_is_deleted_comes_back(system: Kubectl) -> None:
    name = f"kube-scheduler-{system.lab.config()['node_name']}"
    before = system.read(f"pods/{name}")["metadata"]
    server = system.lab.pid("server")
    system(f"delete pod {name} --wait=false")

    def back() -> bool:
        found = system.read(f"pods/{name}")
        return (
            bool(found)
            and found["metadata"]["creationTimestamp"] >= before["creationTimestamp"]
            and (
                found["metadata"]["resourceVersion"] != before["resourceVersion"]
                and not found["metadata"].get("deletionTimestamp")
            )
        )

    until(back, "the mirror pod is there again")
    assert system.lab.pid("server") == server


def test_kaa_logs_shows_each_component(system: Kubectl) -> None:
    lab = system.lab
    listed = lab.kaa("logs").split()
    assert {"kube-apiserver", "kubelet"} <= set(listed)
    assert "serving" in lab.kaa("logs kube-apiserver")
    done = lab.try_kaa("logs", "nobody")
    assert done.code == 1
    assert "no component 'nobody'" in done.err


def test_what_kubectl_asks_of_a_cluster(system: Kubectl) -> None:
    assert "v1.36" in system("version")
    assert "is running at" in system("cluster-info")
    assert "deployments" in system("api-resources")
    assert "apps/v1" in system("api-versions")
    assert "containers" in system("explain pod.spec")
    assert "yes" in system("auth can-i create pods")
    assert "no" in system.run("auth can-i create pods --as=jane").out
    assert "Ready" in system("describe node")
