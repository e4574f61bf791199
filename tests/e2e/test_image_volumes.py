"""Images as volumes: mounted read only, in whole or in part, whether their layers delete or not, and what goes wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cluster_lab import E2E, STAY, Kubectl, Lab, pod, until

from kaa.runtime.oci.build import image_archive

pytestmark = E2E

DATA = "docker.io/kaa/data:1"
NOWHERE = "127.0.0.1:1/none:1"


@pytest.fixture(autouse=True)
def data(shared: Lab, tmp_path: Path) -> None:
    archive = image_archive(
        tmp_path / "data.tar",
        [DATA],
        files={"a/b": (b"inside", 0o644), "run.sh": (b"#!/bin/sh\necho ran\n", 0o755), "etc/os": (b"data", 0o600)},
        links={"out": "/etc", "up": "../../../../etc/os"},
    )
    shared.kaa("image import", str(archive))


def with_image(name: str, script: str = STAY, *, reference: str = DATA, policy: str = "", **mount: Any) -> Any:
    source = {"reference": reference, **({"pullPolicy": policy} if policy else {})}
    mounts = [{"name": "data", "mountPath": "/data", **mount}]
    return pod(name, script, volumes=[{"name": "data", "image": source}], container={"volumeMounts": mounts})


def test_an_image_is_read_but_not_written_nor_run(kube: Kubectl) -> None:
    kube.apply(with_image("whole"))
    kube.ready("whole")
    assert kube.sh("whole", "cat /data/a/b /data/etc/os") == "insidedata"
    assert kube.sh("whole", "touch /data/x 2>&1 || true").strip().endswith("Read-only file system")
    assert kube.sh("whole", "mount -o remount,rw /data 2>&1 || echo refused").strip().endswith("refused")
    assert "Permission denied" in kube.sh("whole", "/data/run.sh 2>&1 || true")
    assert "noexec" in kube.sh("whole", "grep ' /data ' /proc/mounts")

    def pulled() -> list[str]:
        return [text for reason, text in kube.events("whole") if reason == "Pulled" and DATA in text]

    until(pulled, "an event of its image")
    assert pulled() == [f'Container image "{DATA}" already present on machine and can be accessed by the pod']


@pytest.mark.parametrize(
    ("inner", "path", "expected"),
    [("a", "/data/b", "inside"), ("a/b", "/data", "inside"), ("out", "/data/os", "data"), ("up", "/data", "data")],
)
def test_a_part_of_an_image(kube: Kubectl, inner: str, path: str, expected: str) -> None:
    """Links are followed as they lead inside the image."""
    kube.apply(with_image("part", subPath=inner))
    kube.ready("part")
    assert kube.sh("part", f"cat {path}") == expected


def test_a_part_that_an_expression_names(kube: Kubectl) -> None:
    wanted = with_image("expr", subPathExpr="$(WHERE)")
    wanted["spec"]["containers"][0]["env"] = [{"name": "WHERE", "value": "a"}]
    kube.apply(wanted)
    kube.ready("expr")
    assert kube.sh("expr", "cat /data/b") == "inside"


def test_a_part_that_is_not_there(kube: Kubectl) -> None:
    kube.apply(with_image("none", subPath="not/there"))
    waiting = kube.waiting("none", "CreateContainerError")
    assert waiting["message"] == ("ImageVolumeMountFailed: sub path 'not/there' does not exist in the image volume")
    until(lambda: ("Failed", f"Error: {waiting['message']}") in kube.events("none"), "a Failed event")


def test_an_image_that_does_not_come(kube: Kubectl) -> None:
    kube.apply(with_image("nowhere", reference=NOWHERE))
    waiting = kube.waiting("nowhere", "ErrImagePull")
    assert waiting["message"].startswith(
        f'failed to pull and unpack image "{NOWHERE}": failed to resolve reference "{NOWHERE}"'
    )
    backed_off = kube.waiting("nowhere", "ImagePullBackOff")
    assert backed_off["message"] == f'Back-off pulling image "{NOWHERE}": ErrImagePull: {waiting["message"]}'
    wanted = {"Error: ErrImagePull", f'Failed to pull image "{NOWHERE}": {waiting["message"]}'}
    until(lambda: wanted <= {text for reason, text in kube.events("nowhere") if reason == "Failed"}, "both events")
    assert kube.container("nowhere")["imageID"] == ""


def test_an_image_that_must_be_there(kube: Kubectl) -> None:
    kube.apply(with_image("never", reference="docker.io/kaa/absent:1", policy="Never"))
    waiting = kube.waiting("never", "ErrImageNeverPull")
    assert waiting["message"] == 'Container image "docker.io/kaa/absent:1" is not present with pull policy of Never'


def test_an_image_that_nobody_mounts_holds_nobody_back(kube: Kubectl) -> None:
    volumes = [{"name": "data", "image": {"reference": NOWHERE}}]
    kube.apply(pod("unused", volumes=volumes))
    kube.ready("unused")


def test_two_containers_share_an_image_that_is_not_removed_under_them(kube: Kubectl, shared: Lab) -> None:
    wanted = with_image("two")
    first = wanted["spec"]["containers"][0]
    other = {**first, "name": "other", "volumeMounts": [{"name": "data", "mountPath": "/other", "subPath": "a"}]}
    wanted["spec"]["containers"] = [first, other]
    kube.apply(wanted)
    kube.ready("two")
    shared.kaa("image rm", DATA)
    assert kube.sh("two", "cat /data/a/b", "main") == kube.sh("two", "cat /other/b", "other") == "inside"
    kube("delete pod two --grace-period=1")
