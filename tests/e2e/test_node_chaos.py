"""A minute of faults on a real node, drawn from a seed: no container runs twice, none is lost, nothing is left behind.

Every container writes down when it began and when its work was done, and a witness looks all the time at what runs by the kernel's
word: two containers of one name in one pod would be seen. ``KAA_FAULT_SEED=7 pytest tests/e2e/test_node_chaos.py`` plays another.
"""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import node_lab
import pytest
from cluster_lab import BOX, E2E, Kubectl, Lab

pytestmark = E2E
SEED = int(os.environ.get("KAA_FAULT_SEED", "1"))
SECONDS = float(os.environ.get("KAA_FAULT_SECONDS", "45"))


@pytest.fixture
def node() -> Iterator[node_lab.Node]:
    lab = Lab()
    try:
        yield node_lab.Node(lab)
    finally:
        lab.close()


def script(name: str, work: str) -> str:
    """A container's: begin, work, done. The folder of its pod outlives the pod."""
    return f"""
        mkdir -p /notes/$POD; cd /notes/$POD
        echo begun >> {name}.begun
        trap 'exit 0' TERM
        {work}
        echo done >> {name}.done
        """


def container(lab: str, name: str, work: str = "sleep 3600 & wait", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "image": BOX,
        "command": ["sh", "-c", script(name, work)],
        "env": [
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "NAME", "value": name},
            {"name": "LAB", "value": f"/notes/{lab}"},
        ],
        "volumeMounts": [{"name": "notes", "mountPath": "/notes"}],
        **more,
    }


def spec(notes: Path, *containers: Any, **more: Any) -> dict[str, Any]:
    volume = {"name": "notes", "hostPath": {"path": str(notes), "type": "DirectoryOrCreate"}}
    return {"terminationGracePeriodSeconds": 2, "containers": list(containers), "volumes": [volume], **more}


def manifests(lab: str, notes: Path) -> list[Any]:
    """Some fifteen pods of every kind."""

    def pod(name: str, *containers: Any, **more: Any) -> Any:
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec(notes, *containers, **more)}

    def template(*containers: Any, **more: Any) -> Any:
        return {"metadata": {"labels": {"app": "many"}}, "spec": spec(notes, *containers, **more)}

    one, nap = partial(container, lab), "sleep 2"
    inits = [one("init-a", nap), one("init-b", nap)]
    sidecar = one("side", restartPolicy="Always")
    return [
        *(pod(f"always-{n}", one("main")) for n in range(3)),
        *(pod(f"inits-{n}", one("main"), initContainers=inits) for n in range(2)),
        *(pod(f"once-{n}", one("main", "sleep 8"), restartPolicy="Never") for n in range(2)),
        pod("retried", one("main", "sleep 8"), restartPolicy="OnFailure"),
        pod("sidecar", one("main"), initContainers=[sidecar]),
        pod("two", one("main"), one("other"), shareProcessNamespace=True),
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "many"},
            "spec": {
                "replicas": 3,
                "selector": {"matchLabels": {"app": "many"}},
                "template": template(one("main")),
            },
        },
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "work"},
            "spec": {
                "completions": 3,
                "parallelism": 2,
                "backoffLimit": 50,
                "template": template(one("main", "sleep 4"), restartPolicy="Never"),
            },
        },
    ]


class Witness:
    """Looks at the processes of a lab again and again; ``twice`` names containers that were there twice at three looks in a row."""

    def __init__(self, lab: Lab) -> None:
        self.twice: set[tuple[str, str]] = set()
        self.looks = 0
        self._mark, self._end = f"/notes/{lab.name}".encode(), threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Witness:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        before: list[set[tuple[str, str]]] = [set(), set()]
        while not self._end.wait(0.1):
            seen = self._look()
            self.twice |= seen & before[0] & before[1]
            before = [before[1], seen]
            self.looks += 1

    def _look(self) -> set[tuple[str, str]]:
        """(pod, container) of which more than one container has processes."""
        found: dict[tuple[str, str], set[str]] = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                variables = dict(v.partition(b"=")[::2] for v in (entry / "environ").read_bytes().split(b"\0"))
                if variables.get(b"LAB") != self._mark or b"POD" not in variables:
                    continue
                key = variables[b"POD"].decode(), variables[b"NAME"].decode()
                container = re.search("/([0-9a-f]{64})", (entry / "cgroup").read_text())
                if container is not None:  # a process of runc on its way in has the environment, but not yet the cgroup
                    found.setdefault(key, set()).add(container[1])
        return {key for key, containers in found.items() if len(containers) > 1}


def harm(node: node_lab.Node, dice: random.Random) -> None:
    """Something happens to the node."""
    processes = node.lab.processes()
    conmons = [pid for pid, line in processes.items() if "--cid" in line]
    mains = [record["process"]["pid"] for record in node.records() if record["state"] == "running"]
    what = dice.choice(("agent", "agent", "server", "conmon", "main", "runc", "runc dies", "up", "up"))
    with suppress(ProcessLookupError, FileNotFoundError):
        match what:
            case "agent" | "server" if node.alive(what):
                node.lab.kill(what)
            case "conmon" if conmons:
                os.kill(dice.choice(sorted(conmons)), signal.SIGKILL)
            case "main" if mains:
                os.kill(dice.choice(sorted(mains)), signal.SIGKILL)
            case "runc":
                creating = [pid for pid, line in processes.items() if "/runc " in line and " create " in line]
                os.kill(dice.choice([*creating, *conmons]), signal.SIGKILL)
            case "runc dies":
                fault = node.bin / dice.choice(("die", "die-after"))
                fault.touch()
                time.sleep(dice.uniform(0.2, 1))
                fault.unlink()
            case _:
                node.up()


def test_a_minute_of_faults(node: node_lab.Node) -> None:
    dice, notes = random.Random(SEED), node.lab.home / "notes"
    kube = node.lab.kube()
    before = node_lab.census(node.lab)
    kube.apply(manifests(node.lab.name, notes))
    with Witness(node.lab) as witness:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            time.sleep(dice.uniform(0.1, 1.5))
            harm(node, dice)
        node.up()
        watch(kube)
    assert (witness.twice, witness.looks > SECONDS) == (set(), True)
    check(notes)
    kube("delete deployment/many job/work --wait")
    kube("delete pods --all --grace-period=1 --wait", timeout_s=60)
    node_lab.settled(node.lab, before)


def watch(kube: Kubectl) -> None:
    """Wait until each pod has come to what it is meant to."""

    def late() -> list[str]:
        found = {item["metadata"]["name"]: item["status"] for item in kube.items("pods")}
        status = kube.read("jobs/work")["status"]
        left = ["job"] if status.get("succeeded") != 3 else []
        left += ["many"] if kube.read("deployments/many")["status"].get("readyReplicas") != 3 else []
        for name, one in found.items():
            ready = any(c["type"] == "Ready" and c["status"] == "True" for c in one.get("conditions", ()))
            ended = one.get("phase") in ("Succeeded", "Failed")
            finite = name.startswith(("once", "retried", "work"))
            if not (ended if finite else ready):
                left.append(name)
        return left

    deadline = time.monotonic() + 150
    while left := late():
        assert time.monotonic() < deadline, f"not yet: {left}\n{kube.state()}"
        time.sleep(0.5)


def check(notes: Path) -> None:
    """What the containers wrote down."""
    for folder in notes.iterdir():
        said = {file.name: file.read_text().splitlines() for file in folder.iterdir()}
        if folder.name.startswith(("once", "work")):
            assert len(said["main.begun"]) == 1, (folder.name, said)
        if folder.name.startswith(("once", "work", "retried", "inits")):
            finite = [name for name in ("main", "init-a", "init-b") if not (name == "main" and "inits" in folder.name)]
            assert all(len(said.get(f"{name}.done", ())) <= 1 for name in finite), (folder.name, said)
    work = [folder for folder in notes.iterdir() if folder.name.startswith("work") and (folder / "main.done").exists()]
    assert len(work) == 3, [folder.name for folder in notes.iterdir()]
    assert (notes / "retried/main.done").read_text() == "done\n"
