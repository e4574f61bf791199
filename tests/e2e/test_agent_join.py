"""An agent joins an API server of which it knows an address, an authority and a bootstrap token, and nothing else.

Two machines beside the server's, each a network namespace on the same wire: TLS bootstrap, a serving certificate by request,
pods with addresses of the range that the node object names, kubectl logs and exec through the API server, traffic between the
nodes, and a leave that leaves nothing behind. Nothing that the nodes ask for is forbidden to them.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from cluster_lab import ADDRESS, BOX, E2E, STAY, Kubectl, Lab, _sh, pod, running, serve, until

from kaa.runtime.oci.build import busybox_archive

pytestmark = E2E
TOKEN = ("abcdef", "0123456789abcdef")
BOUND = {
    "node-bootstrap": ("system:node-bootstrapper", "system:bootstrappers"),
    "node-approve": ("system:certificates.k8s.io:certificatesigningrequests:nodeclient", "system:bootstrappers"),
    "node-renew": ("system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", "system:nodes"),
}


def machine(lab: Lab, number: int) -> str:
    """Another machine on the lab's wire, at 192.168.77.1<number>."""
    name = f"{lab.name}n{number}"
    _sh(f"ip netns add {name} && ip -n {name} link set lo up")
    _sh(f"ip -n {lab.name} link add v{number} type veth peer name eth0 netns {name}")
    _sh(f"ip -n {lab.name} link set v{number} master eth0 up && ip -n {name} link set eth0 up")
    _sh(f"ip -n {name} addr add 192.168.77.1{number}/24 dev eth0 && ip -n {name} route add default via {ADDRESS}")
    return name


@contextmanager
def server(lab: Lab, *, fresh: bool = True) -> Iterator[Kubectl]:
    """``kaa server`` alone, with what kubeadm makes for those who join: a token, and who may ask for what."""
    if fresh:
        lab.kaa("up", "--runtime", "simulated")
        lab.kaa("down")
    with running(lab.start(sys.executable, "-m", "kaa", "server", "--name", lab.name)):
        kube = lab.kube()
        until(lambda: kube.run("get --raw /readyz").code == 0, "the server is ready")
        if not fresh:
            yield kube
            return
        old = kube("get nodes -o name").split()
        kube("delete", *old)
        token = {"token-id": TOKEN[0], "token-secret": TOKEN[1], "usage-bootstrap-authentication": "true"}
        made = [
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "type": "bootstrap.kubernetes.io/token",
                "metadata": {"name": f"bootstrap-token-{TOKEN[0]}", "namespace": "kube-system"},
                "stringData": token,
            }
        ]
        for name, (role, group) in BOUND.items():
            made.append(
                {
                    "apiVersion": "rbac.authorization.k8s.io/v1",
                    "kind": "ClusterRoleBinding",
                    "metadata": {"name": name},
                    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                    "subjects": [{"kind": "Group", "name": group, "apiGroup": "rbac.authorization.k8s.io"}],
                }
            )
        lab.kube("kube-system").apply(made, "create")
        yield kube


def stranger(lab: Lab, folder: Path) -> Path:
    """A bootstrap kubeconfig: an address, an authority, a token."""
    ca = base64.b64encode((lab.home / lab.name / "pki/ca.crt").read_bytes()).decode()
    url = f"https://{ADDRESS}:{lab.config()['api_port']}"
    path = folder / "bootstrap.conf"
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": url, "certificate-authority-data": ca}}],
                "users": [{"name": "u", "user": {"token": ".".join(TOKEN)}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    return path


class Agent:
    """``kaa agent`` on a machine of its own, without anything of the server's."""

    def __init__(self, lab: Lab, number: int, folder: Path, *flags: str) -> None:
        self.lab, self.name = lab, machine(lab, number)
        self.home = folder / self.name
        self.home.mkdir()
        self.data = lab.home / "nodes" / self.name
        lab.names.add(self.name)
        config = self.home / "kubelet.yaml"
        config.write_text(
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nserverTLSBootstrap: true\n"
            "nodeStatusUpdateFrequency: 1s\nnodeStatusReportFrequency: 5m\nevictionHard: {memory.available: 1Mi}\nimageGCHighThresholdPercent: 100\n"
        )
        self.argv = [
            *(sys.executable, "-m", "kaa", "agent", "--bootstrap-kubeconfig", str(stranger(lab, self.home))),
            *("--node-name", self.name, "--config", str(config), *flags),
        ]
        self.log = self.home / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def sh(self, command: str) -> str:
        return _sh(f"nsenter --net=/run/netns/{self.name} {command}")

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{self.name}", *self.argv],
                stdout=log,
                stderr=log,
                env=self.lab.environment(),
            )

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            assert self.process.wait(20) == 0, self.log.read_text()
            self.process = None

    def image(self) -> None:
        until(lambda: (self.data / "node.json").exists(), f"{self.name} stands\n{self.said()}")
        done = self.lab.run(
            *(
                sys.executable,
                "-m",
                "kaa",
                "image",
                "import",
                str(busybox_archive(self.home / "box.tar", [BOX])),
                "--data-dir",
                str(self.data),
            )
        )
        assert BOX in done.out, str(done)

    def said(self) -> str:
        return self.log.read_text()

    def leave(self) -> None:
        self.stop()
        leave = [sys.executable, "-m", "kaa", "agent", "--leave", "--node-name", self.name]
        self.sh(f"env KAA_HOME={self.lab.home} PYTHONPATH={self.lab.environment()['PYTHONPATH']} {shlex.join(leave)}")

    def gone(self) -> None:
        """Nothing of the node is left on its machine, and then neither is the machine."""
        left = json.loads(self.sh("ip -json link"))
        assert sorted(row["ifname"] for row in left) == ["eth0", "lo"]
        assert self.sh("nft list tables") == ""
        assert not self.data.exists()
        self.scrap()

    def scrap(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(20)
        if Path(f"/run/netns/{self.name}").exists():
            _sh(f"ip netns del {self.name}")


@pytest.fixture
def bare_lab() -> Iterator[Lab]:
    made = Lab()
    try:
        yield made
    finally:
        made.close()


def test_two_nodes_join_a_server_they_know_nothing_of(bare_lab: Lab, tmp_path: Path) -> None:
    lab = bare_lab
    with server(lab) as kube:
        nodes = [Agent(lab, number, tmp_path, "--cluster-cidr", "10.244.0.0/16") for number in (1, 2)]
        try:
            _two_nodes(lab, kube, nodes)
        finally:
            print(*(node.said() for node in nodes), sep="\n----\n")
            for node in nodes:
                node.scrap()


def test_static_pods_run_before_the_server_is_there(bare_lab: Lab, tmp_path: Path) -> None:
    """As a control plane's node does: the API server that the kubeconfig names may be a static pod of its own."""
    lab = bare_lab
    with server(lab):
        node = Agent(lab, 1, tmp_path)
        try:
            node.start()
            node.image()
        except BaseException:
            node.scrap()
            raise
    try:
        node.stop()  # and the server is gone too
        folder = node.home / "manifests"
        folder.mkdir()
        static = pod("alone", f"echo here; {STAY}", hostNetwork=True)
        static["apiVersion"] = "v1"
        (folder / "alone.yaml").write_text(json.dumps(static))
        config = node.home / "kubelet.yaml"
        config.write_text(config.read_text() + f"staticPodPath: {folder}\n")
        node.start()
        until(lambda: list((node.data / "pod-logs").glob("default_alone-*/main/0.log")), "it runs", 30)
        with server(lab, fresh=False) as kube:
            until(lambda: kube.read(f"pods/alone-{node.name}"), "its mirror is there", 30)
            kube.phase(f"alone-{node.name}", "Running")
        node.leave()
        node.gone()
    finally:
        print(node.said())
        node.scrap()


def _two_nodes(lab: Lab, kube: Kubectl, nodes: list[Agent]) -> None:
    for node in nodes:
        node.start()
    ranges = []
    for node in nodes:
        until(lambda node=node: ready(kube, node.name), f"{node.name} is Ready", 20)  # type: ignore[misc]
        node.image()
        ranges.append(kube.api.get(f"/api/v1/nodes/{node.name}")["spec"]["podCIDR"])
    assert ranges[0] != ranges[1]
    for number, other in ((1, 2), (2, 1)):
        nodes[number - 1].sh(f"ip route add {ranges[other - 1]} via 192.168.77.1{other}")
        _sh(f"ip -n {lab.name} route add {ranges[number - 1]} via 192.168.77.1{number}")

    for number, node in enumerate(nodes, 1):
        kube.apply(pod(f"p{number}", serve(f"page {number}"), nodeName=node.name))
    kube.ready("p1", "p2")
    addresses = [kube.read(f"pods/p{number}")["status"]["podIP"] for number in (1, 2)]
    for address, cidr in zip(addresses, ranges, strict=True):
        assert ip_address(address) in ip_network(cidr)

    for csr in kube("get csr -o name").split():
        kube(f"certificate approve {csr.partition('/')[2]}")
    until(lambda: kube.run("exec p1 -- true").code == 0, "the serving certificates are there", 20)
    assert kube(f"exec p1 -- wget -qO- http://{addresses[1]}/") == "page 2\n"
    assert kube(f"exec p2 -- wget -qO- http://{addresses[0]}/") == "page 1\n"
    kube.apply(pod("talk", f"echo said; {STAY}", nodeName=nodes[0].name))
    kube.ready("talk")
    assert kube("logs talk") == "said\n"

    for node in nodes:
        told = kube.api.get(f"/api/v1/nodes/{node.name}")["status"]
        (limit,) = Path("/sys/fs/cgroup").glob(f"**/kaa-{node.name}/kubepods/memory.[lm][im][mx]*")
        assert int(limit.read_text()) // 4096 * 4 <= int(told["capacity"]["memory"].removesuffix("Ki")), "enforced"
    nodes[1].stop()  # its pods stay, and its next life needs no token
    kube(f"delete secret bootstrap-token-{TOKEN[0]} -n kube-system")
    nodes[1].start()
    until(lambda: kube.run("exec p2 -- true").code == 0, "the agent is back", 20)
    assert kube.read("pods/p2")["status"]["containerStatuses"][0]["restartCount"] == 0

    before = written(kube, nodes[0].name)
    time.sleep(2.5)  # the status was looked at twice more
    assert written(kube, nodes[0].name) == before, "and nothing was new"

    kube("delete pod --all --wait=true --grace-period=1")
    for node in nodes:
        kube(f"delete node {node.name}")
        node.leave()
        assert kube.run(f"get node {node.name}").code != 0, "it did not come back"
        said = node.said()
        assert "forbidden" not in said.lower(), said
        assert not re.search(r"\b403\b", said), said  # a stamp's microseconds may hold these digits
        node.gone()


def written(kube: Kubectl, name: str) -> str:
    return kube.api.get(f"/api/v1/nodes/{name}")["metadata"]["resourceVersion"]  # type: ignore[no-any-return]


def ready(kube: Kubectl, name: str) -> bool:
    path = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
    return kube.run("get", "node", name, "-o", path).out == "True"
