"""A node whose agent, runc, conmon, API server or machine is killed: pods go on, run once, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import node_lab
import pytest
from cluster_lab import BOX, E2E, STAY, Kubectl, Lab, inside, pod, until

pytestmark = E2E
RUNTIME, CONTAINERS = "kaa.runtime.oci.runtime:OciRuntime", "kaa.runtime.oci.containers:Containers"
NETWORK, VOLUMES = "kaa.network.pods:BridgePodNetwork", "kaa.kubelet.volumes.manager:Volumes"
STATE = [{"name": "state", "emptyDir": {}}]
MOUNTS = [{"name": "state", "mountPath": "/state"}]
LIFE = f"echo begun >> /state/lives; {STAY}"


@pytest.fixture(scope="module")
def node() -> Iterator[node_lab.Node]:
    """A machine of this module's own, with a cluster."""
    lab = Lab()
    try:
        yield node_lab.Node(lab)
    finally:
        lab.close()


@pytest.fixture
def kube(node: node_lab.Node) -> Iterator[Kubectl]:
    """kubectl; of the test's pods nothing may be left on the node."""
    node.up()
    before = node_lab.census(node.lab)
    kube = node.lab.kube()
    yield kube
    for fault in ("hang", "die", "die-after"):
        (node.bin / fault).unlink(missing_ok=True)
    node.up()
    names = " ".join(f"pod/{found['metadata']['name']}" for found in kube.items("pods"))
    if names:
        kube(f"delete {names} --grace-period=1 --wait")
    node_lab.settled(node.lab, before)


def living(name: str = "web", script: str = LIFE, **more: Any) -> Any:
    """A pod that writes down each of its lives."""
    container = {"volumeMounts": MOUNTS, **more.pop("container", {})}
    return pod(name, script, volumes=STATE, container=container, **more)


def begun(node: node_lab.Node, kube: Kubectl, name: str = "web") -> int:
    """How often the pod's container has begun."""
    file = node.volume(kube.read(f"pods/{name}")["metadata"]["uid"]) / "lives"
    return len(file.read_text().splitlines()) if file.exists() else 0


def dead(agent: Any) -> None:
    assert agent.wait(30) == -signal.SIGKILL


# ------------------------------------------------------------------------------------------------- kill -9 of the agent


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(f"{RUNTIME}.run_sandbox:before", id="before the sandbox"),
        pytest.param(f"{NETWORK}._connect:after", id="while the sandbox is connected"),
        pytest.param(f"{RUNTIME}.run_sandbox:after", id="after the sandbox"),
        pytest.param(f"{RUNTIME}.create_container:after", id="between create and start"),
        pytest.param("kaa.runtime.oci.conmon:launch:after", id="between runc's create and start"),
        pytest.param("kaa.runtime.oci.conmon:start:after", id="before the start is written down"),
        pytest.param(f"{RUNTIME}.start_container:after", id="after the start"),
    ],
)
def test_an_agent_killed_while_a_pod_starts(node: node_lab.Node, kube: Kubectl, moment: str) -> None:
    agent = node.arm(moment)
    kube.apply(living())
    dead(agent)
    node.up()
    kube.ready("web")
    assert kube.container("web")["restartCount"] == 0
    until(lambda: begun(node, kube), "its command runs")
    assert begun(node, kube) == 1
    alive = [record for record in node.records() if record["state"] == "running"]
    assert len(alive) == len(kube.items("pods")) == 1


def test_an_agent_killed_while_post_start_runs(node: node_lab.Node, kube: Kubectl) -> None:
    """As upstream, the hook is not run again: the container has started."""
    agent = node.arm(f"{RUNTIME}.exec_sync:after")
    hook = {"postStart": {"exec": {"command": ["sh", "-c", "echo hook >> /state/hooks"]}}}
    kube.apply(living(container={"lifecycle": hook}))
    dead(agent)
    node.up()
    kube.ready("web")
    assert (kube.sh("web", "cat /state/lives"), kube.sh("web", "cat /state/hooks")) == ("begun\n", "hook\n")


def test_an_agent_killed_while_an_image_comes(node: node_lab.Node, kube: Kubectl) -> None:
    """The registry takes the connection and never answers."""
    with inside(node.lab.netns, lambda: socket.create_server(("127.0.0.1", 0))) as registry:
        registry.settimeout(20)
        kube.apply(pod("web", container={"image": f"127.0.0.1:{registry.getsockname()[1]}/slow:1"}))
        first, _ = registry.accept()
        node.lab.kill("agent")
        first.close()
        node.up()
        second, _ = registry.accept()
        kube.waiting("web", "ContainerCreating")
        kube("delete pod web --grace-period=1 --wait")
        second.close()


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(f"{RUNTIME}.stop_container:before", id="before the stop"),
        pytest.param(f"{CONTAINERS}._exits_within:before", id="after the signal"),
        pytest.param(f"{RUNTIME}.stop_container:after", id="after the stop"),
        pytest.param(f"{NETWORK}._disconnect:after", id="while the sandbox is disconnected"),
        pytest.param(f"{VOLUMES}._remove:after", id="after the volumes"),
        pytest.param(f"{CONTAINERS}.reap:after", id="while cgroups go"),
        pytest.param(f"{RUNTIME}.remove_sandbox:after", id="before the pod is deleted"),
    ],
)
def test_an_agent_killed_while_a_pod_ends(node: node_lab.Node, kube: Kubectl, moment: str) -> None:
    kube.apply(living())
    kube.ready("web")
    agent = node.arm(moment)
    kube("delete pod web --grace-period=5 --wait=false")
    dead(agent)
    node.up()
    kube.gone("pods/web")


def test_a_healthy_pod_stays_ready_while_its_agent_is_killed(node: node_lab.Node, kube: Kubectl) -> None:
    probe = {"exec": {"command": ["true"]}, "periodSeconds": 1}
    checks = {"startupProbe": probe, "readinessProbe": {**probe, "initialDelaySeconds": 3}, "livenessProbe": probe}
    kube.apply(living(container=checks))
    kube.ready("web")
    watch = node.lab.start(
        *kube.argv("get pod web --watch -o", 'jsonpath={.status.conditions[?(@.type=="Ready")]}{"\\n"}')
    )
    for _ in range(2):
        node.lab.kill("agent")
        node.up()
        beat = kube.read("pods/web")["metadata"]["resourceVersion"]
        kube(f"label pod web seen=v{beat} --overwrite")
        until(lambda: kube.run("exec web -- true").code == 0, "the new agent answers")
    watch.terminate()
    said, _ = watch.communicate(timeout=10)
    assert said.count('"status":"True"') >= 3
    assert '"status":"False"' not in said
    assert (begun(node, kube), kube.container("web")["restartCount"]) == (1, 0)


# -------------------------------------------------------------------------------------------------- conmon, runc, the server


def test_a_pod_whose_conmon_is_killed_is_restarted(node: node_lab.Node, kube: Kubectl) -> None:
    kube.apply([living("always", f"echo first words; {LIFE}"), living("never", restartPolicy="Never")])
    kube.ready("always", "never")
    until(lambda: "first words" in kube("logs always"), "the log is written")
    for record in node.records():
        os.kill(record["conmon"]["pid"], signal.SIGKILL)
    until(lambda: kube.container("always").get("restartCount") == 1, "it is restarted")
    kube.ready("always")
    last = kube.container("always")["lastState"]["terminated"]
    assert (last["exitCode"], last["reason"]) == (137, "Error")
    assert kube("logs always --previous") == "first words\n"
    kube.phase("never", "Failed")
    assert (begun(node, kube, "always"), kube.container("never")["state"]["terminated"]["exitCode"]) == (2, 137)


@pytest.mark.parametrize("how", ["hang", "die-after"])
def test_an_oci_runtime_killed_while_it_creates(node: node_lab.Node, kube: Kubectl, how: str) -> None:
    (node.bin / "create").unlink(missing_ok=True)
    (node.bin / how).touch()
    kube.apply(living())
    until((node.bin / "create").exists, "it was asked")
    if how == "hang":
        (engine,) = [
            pid
            for pid, line in node.lab.processes().items()
            if f"{node.bin}/crun" in line and " create " in line and "--cid" not in line
        ]
        (node.bin / how).unlink()  # before the next attempt, which follows at once
        os.kill(engine, signal.SIGKILL)
    until(
        lambda: (
            kube.container("web").get("lastState", {}).get("terminated")
            or kube.container("web").get("state", {}).get("terminated")
        ),
        "the start failed",
    )
    (node.bin / how).unlink(missing_ok=True)
    kube.ready("web", timeout_s=40)
    assert kube.container("web")["lastState"]["terminated"]["reason"] == "StartError"
    assert begun(node, kube) == 1


def test_pods_go_on_without_the_api_server(node: node_lab.Node, kube: Kubectl) -> None:
    """What ends is restarted by its policy, told of later; and the agent may be killed meanwhile as well."""
    kube.apply([living(), living("once", restartPolicy="Never")])
    kube.ready("web", "once")
    uid = kube.read("pods/web")["metadata"]["uid"]
    pids = {record["config"]["labels"]["io.kubernetes.pod.name"]: record["process"]["pid"] for record in node.records()}
    node.lab.kill("server")
    os.kill(pids["web"], signal.SIGKILL)
    lives = node.volume(uid) / "lives"
    until(lambda: lives.read_text() == "begun\nbegun\n", "it is restarted without a server")
    os.kill(pids["once"], signal.SIGTERM)
    until(
        lambda: [r for r in node.records() if r["process"]["pid"] == pids["once"] and r["state"] == "exited"],
        "it ended",
    )
    node.lab.kill("agent")
    node.up()
    until(lambda: kube.container("web").get("restartCount") == 1, "the restart is told", 20)
    kube.ready("web")
    kube.phase("once", "Succeeded")
    assert (begun(node, kube), kube.container("once")["restartCount"]) == (2, 0)


# ----------------------------------------------------------------------------------------------------------------- reboot


def test_a_restart_of_the_machine(node: node_lab.Node, kube: Kubectl) -> None:
    """Pods come back on their own disk, in new memory, at new addresses; what was to run once has failed."""
    memory = [*STATE, {"name": "memory", "emptyDir": {"medium": "Memory"}}]
    mounts = [*MOUNTS, {"name": "memory", "mountPath": "/memory"}]
    script = f"echo begun >> /memory/lives; {LIFE}"
    init = {"name": "setup", "image": BOX, "command": ["sh", "-c", "echo init >> /state/inits"], "volumeMounts": MOUNTS}
    pods = [
        pod(f"web-{n}", script, volumes=memory, container={"volumeMounts": mounts}, initContainers=[init])
        for n in range(3)
    ]
    kube.apply([*pods, living("once", restartPolicy="Never"), living("shared", shareProcessNamespace=True)])
    names = ["web-0", "web-1", "web-2", "shared"]
    kube.ready(*names, "once")
    node.reboot()
    node.up()
    for name in names:
        until(lambda name=name: kube.container(name).get("restartCount") == 1, f"{name} is back")  # type: ignore[misc]
    kube.ready(*names)
    last = kube.container("web-0")["lastState"]["terminated"]
    assert (last["exitCode"], last["reason"]) == (255, "Unknown")
    said = kube.sh("web-0", "cat /state/lives /state/inits; echo; cat /memory/lives")
    assert said == "begun\nbegun\ninit\ninit\n\nbegun\n"
    once = kube.phase("once", "Failed")["status"]["containerStatuses"][0]
    assert (once["state"]["terminated"]["exitCode"], once["restartCount"]) == (255, 0)
    ips = [kube.read(f"pods/{name}")["status"]["podIP"] for name in names]
    assert len(set(ips)) == len(names)
    assert {f"{ip}\n" for ip in ips} == {kube.sh(name, "hostname -i") for name in names}


# ------------------------------------------------------------------------------------------------------------- exhaustion


def test_memory_forks_and_stubbornness(node: node_lab.Node, kube: Kubectl) -> None:
    limits = {"resources": {"limits": {"memory": "16Mi"}}}
    hog = "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done"
    forks = "n=0; while [ $n -lt 20 ]; do while :; do sleep 0.001; done & n=$((n+1)); done; wait"
    deaf = "trap '' TERM; echo deaf; while :; do sleep 1; done"
    kube.apply(
        [
            pod("hog", hog, restartPolicy="Never", container=limits),
            pod("forks", forks, shareProcessNamespace=True),
            pod("deaf", deaf),
        ]
    )
    ended = kube.phase("hog", "Failed")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled")
    kube.ready("forks", "deaf")
    until(lambda: kube("logs deaf"), "it is deaf by now")
    kube("delete pod forks deaf --grace-period=1 --wait")
    assert Path(node.root / "kubelet/pods").is_dir()
