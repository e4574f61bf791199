"""The kubelet's own API on a real node: numbers of real containers, permissions by subresource, clients that just go."""

from __future__ import annotations

import json
import ssl
import time
from pathlib import Path
from typing import Any

from cluster_lab import E2E, Kubectl, inside, pod, until

pytestmark = E2E
BUSY = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; dd if=/dev/zero of=/scratch/big bs=1024 count=2000 2>/dev/null; sleep 3600"
MONITOR = """
apiVersion: v1
kind: ServiceAccount
metadata: {name: monitor}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: NAME}
rules: [{apiGroups: [""], resources: [nodes/metrics, nodes/healthz], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: NAME}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: NAME}
subjects: [{kind: ServiceAccount, name: monitor, namespace: NAME}]
"""


def node_of(kube: Kubectl) -> str:
    return str(kube.api.get("/api/v1/nodes")["items"][0]["metadata"]["name"])


def page(kube: Kubectl, path: str) -> bytes:
    answer = kube.api.ask("GET", f"/api/v1/nodes/{node_of(kube)}/proxy/{path}", accept="*/*")
    assert answer.status == 200, answer
    return answer.body


def samples(text: bytes) -> dict[str, float]:
    lines = (line for line in text.decode().splitlines() if line and not line.startswith("#"))
    return {f"{name}}}": float(rest.split()[0]) for name, _, rest in (line.partition("} ") for line in lines) if rest}


def mine(kube: Kubectl, name: str) -> Any:
    pods = json.loads(page(kube, "stats/summary"))["pods"]
    return next(
        (one for one in pods if one["podRef"]["namespace"] == kube.namespace and one["podRef"]["name"] == name), None
    )


def test_numbers_of_a_real_container(kube: Kubectl) -> None:
    volume = {"volumes": [{"name": "scratch", "emptyDir": {}}]}
    mount = {
        "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
        "resources": {"limits": {"memory": "64Mi"}},
    }
    kube.apply(pod("busy", BUSY, container=mount, **volume))
    kube.ready("busy")
    until(lambda: "big" in kube.sh("busy", "ls /scratch"), "the file is written", 30)

    def worked() -> Any:
        found = mine(kube, "busy")
        return found if found["containers"][0]["cpu"]["usageCoreNanoSeconds"] > 10_000_000 else None

    found = until(worked, "it has used the processor", 30)
    [container] = found["containers"]
    assert 0 < container["memory"]["workingSetBytes"] < 64 << 20
    assert container["memory"]["availableBytes"] < 64 << 20
    assert found["network"]["name"] == "eth0"
    assert found["process_stats"]["process_count"] >= 1
    scratch = next(one for one in found["volume"] if one["name"] == "scratch")
    assert 2_000_000 <= scratch["usedBytes"] < 3_000_000
    assert found["ephemeral-storage"]["usedBytes"] >= scratch["usedBytes"]
    labels = f'container="main",namespace="{kube.namespace}",pod="busy"'
    told = samples(page(kube, "metrics/resource"))
    assert told[f"container_cpu_usage_seconds_total{{{labels}}}"] > 0.01
    assert told[f"container_memory_working_set_bytes{{{labels}}}"] > 0
    told = samples(page(kube, "metrics/cadvisor"))
    of_container = [
        value for name, value in told.items() if name.startswith("container_processes{") and labels[:10] in name
    ]
    assert of_container
    sent = [
        name for name in told if name.startswith("container_network_transmit_bytes_total{") and 'pod="busy"' in name
    ]
    assert len(sent) == 1
    assert 'interface="eth0"' in sent[0]


def test_permissions_are_by_subresource(kube: Kubectl) -> None:
    """Whoever may read metrics may not read pods' environments, nor run anything: KEP-2862."""
    kube.apply(MONITOR.replace("NAME", kube.namespace))
    try:
        token = kube("create token monitor").strip()
        root = kube.lab.home / kube.lab.name
        config = json.loads((root / "config.json").read_bytes())

        def ask(path: str, *, bearer: str = token) -> int:
            return inside(kube.lab.netns, lambda: _status(root, config["kubelet_port"], path, bearer))

        until(lambda: ask("/metrics/resource") == 200, "the role is bound", 10)
        assert ask("/healthz") == 200
        for path in ("/pods", "/configz", "/logs/", "/stats/summary", "/runningpods/", "/containerLogs/a/b/c"):
            assert ask(path) == 403
        assert ask("/metrics", bearer="nonsense") == 401
        assert ask("/metrics", bearer="") == 401
    finally:
        kube(f"delete clusterrole,clusterrolebinding {kube.namespace}")


def _status(root: Path, port: int, path: str, bearer: str) -> int:
    """The status of a GET at the kubelet itself, asked from inside the lab."""
    import http.client

    context = ssl.create_default_context(cafile=str(root / "pki/ca.crt"))
    context.check_hostname = False
    connection = http.client.HTTPSConnection(_address(root), port, context=context, timeout=10)
    try:
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def _address(root: Path) -> str:
    node = json.loads((root / "config.json").read_bytes())
    return str(node.get("node_ip") or "192.168.77.2")


def test_clients_that_go_leave_no_process(kube: Kubectl) -> None:
    kube.apply(pod("web"))
    kube.ready("web")
    before = kube.sh("web", "ps -o args").splitlines()
    path = f"/api/v1/namespaces/{kube.namespace}/pods/web/exec?command=sleep&command=558&stdin=1&stdout=1&stderr=1"
    for n in range(24):
        with kube.api.connection() as connection:
            connection.connect()
            connection.sock.sendall(
                f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n".encode()
            )
            assert b" 101 " in connection.sock.recv(4096)
            connection.sock.sendall([b"", b"\x82\xff", b"\x81\x05hello"][n % 3])
            time.sleep(0.004 * n)

    def gone() -> bool:
        return len(kube.sh("web", "ps -o args").splitlines()) == len(before)

    until(gone, "every sleep is gone, and what was to become one", 10)


def test_the_node_tells_of_itself(kube: Kubectl) -> None:
    config = json.loads(page(kube, "configz"))["kubeletconfig"]
    assert config["containerLogMaxSize"] == "10Mi"
    assert b"kubelet.log" in page(kube, "logs/")
    assert page(kube, "healthz/syncloop") == b"ok"
    kube.apply(pod("seen"))
    kube.ready("seen")
    names = [one["metadata"]["name"] for one in json.loads(page(kube, "runningpods/"))["items"]]
    assert "seen" in names
    assert "kubelet_running_pods " in page(kube, "metrics").decode()
