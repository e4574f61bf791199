"""A node that has no disk, no address, no inotify left: it says so, goes on with what it has, and mends once there is room."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import node_lab
import pytest
from cluster_lab import BOX, E2E, Kubectl, Lab, pod, running, until

from kaa.runtime.oci.build import busybox_archive
from kaa.runtime.oci.linux import mount, start_time

pytestmark = E2E


@contextmanager
def cluster(lab: Lab) -> Iterator[Kubectl]:
    """The lab's cluster with the test's image, running; all of it is gone in the end."""
    try:
        lab.kaa("up")
        lab.kaa("image import", str(busybox_archive(lab.home / "box.tar", [BOX])))
        yield lab.kube()
    finally:
        lab.close()


# ------------------------------------------------------------------------------------------------------------- the disk

#: Of the disk under the whole cluster: what it needs to begin, and some MB.
DISK = "size=48m"


@pytest.fixture
def small_disk() -> Iterator[Kubectl]:
    """A cluster whose folder is a small disk of its own."""
    lab = Lab()
    root = lab.home / lab.name
    root.mkdir()
    mount("small", str(root), "tmpfs", data=DISK)
    with cluster(lab) as kube:
        yield kube


def fill(folder: Path) -> Path:
    """Use up all room that there is; removing the file gives it back."""
    file = folder / "filler"
    with suppress(OSError), file.open("ab", buffering=0) as stream:
        for size in (1 << 20, 1 << 12):
            with suppress(OSError):
                while stream.write(bytes(size)):
                    pass
    return file


FULL = "the store takes nothing now: database or disk is full"


def _big(n: int) -> Any:
    return {"metadata": {"name": f"big-{n}"}, "data": {"text": "x" * 100_000}}


def _write_until_refused(kube: Kubectl, first: int = 0) -> tuple[list[str], Any]:
    """(names that were taken, what the first refused one was answered); ``first`` is the first one's number."""
    taken = []
    for n in range(first, first + 500):
        answer = kube.api.ask("POST", "/api/v1/namespaces/default/configmaps", _big(n))
        if answer.status != 201:
            return taken, answer
        taken.append(answer.value["metadata"]["name"])
    raise AssertionError("the disk is never full")


def test_a_full_disk_under_the_whole_cluster(small_disk: Kubectl) -> None:
    kube, lab = small_disk, small_disk.lab
    root = lab.home / lab.name
    parts = {part: lab.pid(part) for part in ("server", "agent")}
    kube.apply([pod("web"), pod("other")])
    kube.ready("web", "other")
    with (root / "filler").open("wb") as some:  # a part, so that the store itself uses up the rest
        some.write(bytes(_room(root) - (4 << 20)))
    taken, answer = _write_until_refused(kube)
    assert taken
    assert (answer.status, answer.value["message"]) == (500, FULL)
    fill(root)
    more, _ = _write_until_refused(kube, len(taken))  # in what the store holds already there was room
    until(lambda: FULL in kube.run(f"label pod web seen=n{time.monotonic_ns()} --overwrite").err, "small ones, too")
    assert kube.sh("web", "echo here") == "here\n"
    kube.api.alive()
    assert {part: lab.pid(part) for part in parts} == parts
    assert all(start_time(pid) for pid in parts.values())

    lab.kill("server", "agent")
    lab.try_kaa("up")  # it may not find the room to begin
    (root / "filler").unlink()
    lab.kaa("up")
    kube.ready("web", "other")
    assert {found["metadata"]["name"] for found in kube.items("configmaps")} == {*taken, *more, "kube-root-ca.crt"}
    assert {kube.container(name)["restartCount"] for name in ("web", "other")} == {0}
    kube("delete pod other --wait")
    kube.apply(pod("after"))
    kube.ready("after")


def _room(folder: Path) -> int:
    told = os.statvfs(folder)
    return told.f_bavail * told.f_frsize


# -------------------------------------------------------------------------------------------------------- pod addresses


def test_a_pod_waits_for_an_address() -> None:
    """A node of five pod addresses: the sixth pod says why it waits, and begins once one is free."""
    lab = Lab()
    with cluster(lab) as kube:
        lab.kaa("down")
        file = lab.home / lab.name / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "node_mask": 29}))
        lab.kaa("up")
        names = [f"web-{n}" for n in range(5)]
        kube.apply([pod(name) for name in names])
        kube.ready(*names)
        kube.apply(pod("late"))

        def said() -> str:
            return next((text for reason, text in kube.events("late") if reason == "FailedCreatePodSandBox"), "")

        text = until(said, "it says why it waits")
        assert text.startswith("Failed to create pod sandbox: ")
        assert "no IP addresses available in range set: 10.244.0.2-10.244.0.6" in text
        kube.waiting("late", "ContainerCreating")
        conditions = {c["type"]: c["status"] for c in kube.read("pods/late")["status"]["conditions"]}
        assert conditions["PodReadyToStartContainers"] == "False"
        freed = kube.read("pods/web-0")["status"]["podIP"]
        kube("delete pod web-0 --wait")
        kube.ready("late")
        assert kube.read("pods/late")["status"]["podIP"] == freed


# -------------------------------------------------------------------------------------------------------------- inotify


@pytest.mark.parametrize("error", ["EMFILE", "ENOSPC"])
def test_an_agent_without_inotify(error: str) -> None:
    """Static pods are looked for, and logs followed, all the same; what to raise is in the log."""
    lab = Lab()
    try:
        node = node_lab.Node(lab)
        kube = lab.kube()
        (node.root / "kubelet.yaml").write_text(
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nfailSwapOn: false\n"
            f"staticPodPath: {node.root}/manifests\nfileCheckFrequency: 1s\n"
        )
        manifest = node.root / "manifests/static.json"
        name = f"static-{lab.config()['node_name']}"
        with running(node.arm(f"inotify:{error}")) as agent:
            manifest.write_text(
                json.dumps(pod("static", "mkfifo /go; echo first; read x < /go; echo second; sleep 3600"))
            )
            until(lambda: "first" in kube.run(f"logs {name}").out, "the static pod runs")
            with running(kube.start(f"logs -f {name}")) as following:
                assert following.stdout is not None
                assert following.stdout.readline() == "first\n"
                kube.sh(name, "echo > /go")
                assert following.stdout.readline() == "second\n"
            manifest.unlink()
            kube.gone(f"pods/{name}")
            assert agent.poll() is None
            assert "fs.inotify.max_user_" in (node.root / "logs/kubelet.log").read_text()
    finally:
        lab.close()
