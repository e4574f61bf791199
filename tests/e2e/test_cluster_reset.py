"""``kaa reset`` removes all that is kaa's, and nothing that is a user's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from cluster_lab import BOX, E2E, Kubectl, Lab, pod

from kaa.runtime.oci.build import busybox_archive

pytestmark = E2E


def standing(lab: Lab) -> Kubectl:
    lab.kaa("up")
    lab.kaa("image import", str(busybox_archive(lab.home / "box.tar", [BOX])))
    return lab.kube()


def test_reset_of_a_busy_cluster_leaves_nothing(lab: Lab) -> None:
    kube = standing(lab)
    for n in range(3):
        kube.apply(pod(f"web-{n}", labels={"app": "web"}))
    kube("expose pod web-0 --port=80 --type=NodePort")
    kube.ready("web-0", "web-1", "web-2")
    held = lab.leftovers()
    assert {"processes", "mounts", "links", "tables", "cgroups", "files"} <= set(held)

    lab.kaa("reset")

    assert lab.leftovers() == {}


def test_reset_after_kill_leaves_nothing(lab: Lab) -> None:
    """Nobody is there to help: both processes died without a word."""
    kube = standing(lab)
    kube.apply(pod("stubborn", "trap '' TERM; while true; do sleep 3600; done"))
    kube.ready("stubborn")
    lab.kill("agent", "server")

    lab.kaa("reset")

    assert lab.leftovers() == {}


def test_a_users_data_survives_reset(lab: Lab) -> None:
    """Data behind a hostPath, behind links that a pod made, and behind a mount made inside a pod's own folder."""
    kube = standing(lab)
    data = lab.home / "data"
    for folder in ("direct", "linked", "mounted"):
        (data / folder / "deep").mkdir(parents=True)
        (data / folder / "deep/precious").write_text(folder)
    script = (
        f"echo written > /host/from-pod; ln -s {data}/linked /scratch/out; ln -s {data}/linked/deep/precious /scratch/f;"
        " mkdir /scratch/mountpoint; ln -s / /scratch/root; echo done > /scratch/done; trap 'exit 0' TERM; sleep 3600 & wait"
    )
    mounts = [{"name": "host", "mountPath": "/host"}, {"name": "scratch", "mountPath": "/scratch"}]
    volumes = [{"name": "host", "hostPath": {"path": f"{data}/direct"}}, {"name": "scratch", "emptyDir": {}}]
    kube.apply(pod("web", script, container={"volumeMounts": mounts}, volumes=volumes))
    kube.ready("web")
    uid = kube.read("pods/web")["metadata"]["uid"]
    scratch = next(Path(lab.home / lab.name).glob(f"kubelet/pods/{uid}/volumes/*/scratch"))
    _mount(data / "mounted", scratch / "mountpoint")
    assert (scratch / "mountpoint/deep/precious").read_text() == "mounted"

    lab.kaa("reset")

    assert lab.leftovers() == {}
    for folder in ("direct", "linked", "mounted"):
        assert (data / folder / "deep/precious").read_text() == folder
    assert (data / "direct/from-pod").read_text() == "written\n"


def test_a_data_folder_reached_by_a_link_is_emptied_and_no_other(lab: Lab) -> None:
    """A link in kaa's folder to somebody's folder is removed as a link."""
    standing(lab)
    outside = lab.home / "outside"
    outside.mkdir()
    (outside / "precious").write_text("kept")
    os.symlink(outside, lab.home / lab.name / "logs/elsewhere")
    pods = lab.home / lab.name / "kubelet/pods"
    pods.mkdir(parents=True, exist_ok=True)
    os.symlink(outside, pods / "elsewhere")

    lab.kaa("reset")

    assert lab.leftovers() == {}
    assert (outside / "precious").read_text() == "kept"


def _mount(source: Path, target: Path) -> None:
    subprocess.run(["mount", "--bind", str(source), str(target)], check=True)
