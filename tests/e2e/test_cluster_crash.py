"""``kill -9`` of the server, of the agent, of both: what was acknowledged is there again, and what ran still runs."""

from __future__ import annotations

import http.client
import json
import threading

import pytest
from cluster_lab import BOX, E2E, Kubectl, Lab, pod, until

from kaa.runtime.oci.build import busybox_archive

pytestmark = E2E
WRITERS = 3
ENOUGH = 60  # acknowledged writes before the blow


class Writers:
    """Threads that create ConfigMaps one after another, and note each that the server acknowledged."""

    def __init__(self, kube: Kubectl) -> None:
        self.kube = kube
        self.acknowledged: list[str] = []
        self.threads = [threading.Thread(target=self._write, args=(n,)) for n in range(WRITERS)]
        for thread in self.threads:
            thread.start()

    def _write(self, writer: int) -> None:
        with self.kube.api.connection() as connection:
            for count in range(100_000):
                name = f"note-{writer}-{count}"
                body = json.dumps({"metadata": {"name": name}, "data": {"text": name * 20}})
                try:
                    path = f"/api/v1/namespaces/{self.kube.namespace}/configmaps"
                    connection.request("POST", path, body=body, headers={"Content-Type": "application/json"})
                    answer = connection.getresponse()
                    answer.read()
                except (OSError, http.client.HTTPException):
                    return
                assert answer.status == 201
                self.acknowledged.append(name)

    def end(self) -> list[str]:
        for thread in self.threads:
            thread.join(timeout=20)
            assert not thread.is_alive()
        return self.acknowledged


def standing(lab: Lab) -> Kubectl:
    """A cluster with a running pod that counts its lives."""
    lab.kaa("up")
    lab.kaa("image import", str(busybox_archive(lab.home / "box.tar", [BOX])))
    kube = lab.kube()
    life = "echo begun >> /state/lives; trap 'exit 0' TERM; sleep 3600 & wait"
    state = {"volumes": [{"name": "state", "emptyDir": {}}]}
    mounts = [{"name": "state", "mountPath": "/state"}]
    kube.apply(pod("web", life, container={"volumeMounts": mounts}, **state))
    kube.ready("web")
    return kube


def pid_of(kube: Kubectl, pod: str) -> int:
    """The host's process id of a pod's container: the shell that holds the cgroup of the container."""
    number = kube.container(pod)["containerID"].rpartition("/")[2]
    found = [pid for pid, line in kube.lab.processes().items() if "sleep 3600 & wait" in line and "conmon" not in line]
    assert len(found) == 1, (number, found)
    return found[0]


@pytest.mark.parametrize("parts", [("server",), ("agent",), ("server", "agent")], ids="+".join)
def test_up_after_kill_finds_everything_again(lab: Lab, parts: tuple[str, ...]) -> None:
    kube = standing(lab)
    container, process = kube.container("web"), pid_of(kube, "web")
    writers = Writers(kube)
    until(lambda: len(writers.acknowledged) >= ENOUGH, f"{ENOUGH} acknowledged writes")
    lab.kill(*parts)
    if "server" not in parts:
        lab.kill("server")  # the writers end with their server; the agent went first
    acknowledged = writers.end()

    said = lab.kaa("up")

    assert "already" not in said
    there = {item["metadata"]["name"]: item["data"].get("text") for item in kube.items("configmaps")}
    assert [name for name in acknowledged if there.get(name) != name * 20] == []
    kube.ready("web")
    now = kube.container("web")
    assert (now["containerID"], now["restartCount"]) == (container["containerID"], 0)
    assert now["state"] == container["state"]
    assert pid_of(kube, "web") == process
    assert kube.sh("web", "cat /state/lives") == "begun\n"
    kube.apply(pod("next"))
    kube.ready("next")
    kube("delete pod web next --wait")
    assert kube.items("pods") == []


def test_the_agent_alone_is_brought_back(lab: Lab) -> None:
    """The server that still runs is left alone, and a container that died meanwhile is restarted by the new agent."""
    kube = standing(lab)
    server = lab.pid("server")
    before = kube.container("web")
    lab.kill("agent")
    process = pid_of(kube, "web")
    lab.run("kill", "-9", str(process))

    lab.kaa("up")

    assert lab.pid("server") == server
    until(lambda: kube.container("web").get("restartCount") == 1, "the dead container was restarted")
    kube.ready("web")
    assert kube.container("web")["containerID"] != before["containerID"]
    assert kube.container("web")["lastState"]["terminated"]["exitCode"] == 137
