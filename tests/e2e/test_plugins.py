"""Device plugins and DRA drivers beside a whole cluster: what real containers get of them, over restarts of both sides."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import plugin_lab
import pytest
from cluster_lab import BOX, E2E, Kubectl, Lab, pod, until

from kaa.runtime.oci.build import busybox_archive
from kaa.runtime.oci.runtime import CDI_FOLDERS

pytestmark = E2E
NAME, DRIVER = "example.com/dev", "driver.kaa-test.example.com"
#: A device that containers do not have by themselves, and that may be opened without harm.
CONTROL = "/dev/loop-control"


@contextmanager
def plugin(lab: Lab, what: str, name: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A plugin of the lab's node, as a process of its own."""
    argv = [sys.executable, plugin_lab.__file__, what, str(root_of(lab)), name, *words]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=lab.environment())
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=20)


def root_of(lab: Lab) -> Path:
    return lab.home / lab.name / "kubelet"


@pytest.fixture
def standing(lab: Lab) -> Kubectl:
    lab.kaa("up")
    lab.kaa("image import", str(busybox_archive(lab.home / "box.tar", [BOX])))
    made = lab.kube()
    until(lambda: made.read("serviceaccounts/default"), "the namespace's service account")
    return made


def wants(count: int = 1) -> dict[str, Any]:
    return {"container": {"resources": {"limits": {NAME: str(count)}}}}


def amounts(kube: Kubectl) -> tuple[str | None, str | None]:
    (node,) = kube.api.get("/api/v1/nodes")["items"]
    return node["status"]["capacity"].get(NAME), node["status"]["allocatable"].get(NAME)


def devices(kube: Kubectl, name: str) -> Any:
    return kube.container(name).get("allocatedResourcesStatus")


def test_a_device_for_one_pod_at_a_time(lab: Lab, standing: Kubectl) -> None:
    kube = standing
    with plugin(lab, "device", NAME, CONTROL, "one") as vendor:
        until(lambda: amounts(kube) == ("1", "1"), "the node has the device", 5)
        kube.apply([pod("first", **wants())])
        kube.ready("first")
        assert kube.sh("first", "echo $DEVICES; : < /dev/one && echo opened") == "one\nopened\n"
        assert devices(kube, "first") == [{"name": NAME, "resources": [{"health": "Healthy", "resourceID": "one"}]}]

        kube.apply(pod("second", **wants()))
        kube.apply(pod("forced", **wants(), nodeName=kube.api.get("/api/v1/nodes")["items"][0]["metadata"]["name"]))
        forced = kube.phase("forced", "Failed")["status"]
        assert forced["reason"] == "UnexpectedAdmissionError"
        assert forced["message"] == (
            f"Pod was rejected: Allocate failed due to requested number of devices unavailable for {NAME}. Requested: 1,"
            " Available: 0, which is unexpected"
        )
        status = kube.phase("second", "Pending")["status"]
        until(lambda: kube.read("pods/second")["status"].get("conditions"), "the scheduler has looked")
        status = kube.read("pods/second")["status"]
        assert f"Insufficient {NAME}" in status["conditions"][0]["message"]

        container = kube.container("first")["containerID"]
        lab.kill("agent")
        lab.kaa("up")
        until(lambda: amounts(kube) == ("0", "0"), "until its plugin registers again the node has none", 10)
        assert kube.container("first")["containerID"] == container
        vendor.terminate()
        vendor.communicate(timeout=20)
        with plugin(lab, "device", NAME, CONTROL, "one") as again:
            until(lambda: amounts(kube) == ("1", "1"), "the plugin is back", 5)
            kube.run("exec first -- kill 1")  # which may take the one who asked along
            until(lambda: kube.container("first").get("restartCount") == 1, "it runs again")
            kube.ready("first")
            assert kube.sh("first", "echo $DEVICES; : < /dev/one && echo opened") == "one\nopened\n", "it is still its"
            assert kube.read("pods/second")["status"]["phase"] == "Pending"
            kube("delete pod first")
            kube.ready("second")
            assert kube.sh("second", "echo $DEVICES") == "one\n"
            os.kill(again.pid, signal.SIGKILL)
            until(lambda: amounts(kube) == ("1", "0"), "nobody serves it any more", 5)
            until(lambda: devices(kube, "second")[0]["resources"][0]["health"] == "Unhealthy", "its pod shows it", 5)


def claim(kube: Kubectl, name: str, user: Any = None) -> None:
    """A claim, allocated to the driver; reserved for a pod."""
    path = f"/apis/resource.k8s.io/v1/namespaces/{kube.namespace}/resourceclaims"
    exactly = {"deviceClassName": "test", "allocationMode": "ExactCount", "count": 1}
    spec = {"devices": {"requests": [{"name": "one", "exactly": exactly}]}}
    body = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": name}, "spec": spec}
    made = kube.api.get(f"{path}/{name}") or kube.api.post(path, body)
    result = {"device": "dev", "driver": DRIVER, "pool": "pool", "request": "one"}
    made["status"] = {"allocation": {"devices": {"results": [result]}}}
    if user is not None:
        about = {"resource": "pods", "name": user["metadata"]["name"], "uid": user["metadata"]["uid"]}
        made["status"]["reservedFor"] = [about]
    answer = kube.api.ask("PUT", f"{path}/{name}/status", made)
    assert answer.status == 200, answer


@pytest.fixture
def cdi() -> Iterator[Path]:
    """The node's folder of CDI specs; what the test's driver leaves in it goes."""
    folder, was_there = Path(CDI_FOLDERS[-1]), Path(CDI_FOLDERS[-1]).exists()
    folder.mkdir(exist_ok=True)
    yield folder
    for path in folder.glob(f"{DRIVER}*"):
        path.unlink()
    if not was_there:
        folder.rmdir()


def test_a_claimed_device(lab: Lab, standing: Kubectl, cdi: Path) -> None:
    kube = standing
    (node,) = kube.api.get("/api/v1/nodes")["items"]
    spec = {"nodeName": node["metadata"]["name"], "resourceClaims": [{"name": "dev", "resourceClaimName": "gpu"}]}
    container = {"container": {"resources": {"claims": [{"name": "dev"}]}}}
    kube.apply(pod("user", **container, **spec))

    def says(text: str) -> None:
        until(lambda: any(text in message for _, message in kube.events("user")), f"an event: {text}", 20)

    says("Failed to prepare dynamic resources: prepare dynamic resources: fetch ResourceClaim gpu")
    claim(kube, "gpu")
    says("is not allowed to use ResourceClaim gpu")
    claim(kube, "gpu", kube.read("pods/user"))
    says(f"DRA driver {DRIVER} is not registered")
    with plugin(lab, "driver", DRIVER, str(cdi)):
        kube.ready("user")
        assert kube.sh("user", "echo $CLAIM") == "gpu\n"
        (file,) = cdi.glob(f"{DRIVER}*")
        lab.kill("agent")
        lab.kaa("up")
        until(lambda: kube.run("exec user -- true").code == 0, "the kubelet answers")
        kube.run("exec user -- kill 1")  # which may take the one who asked along
        until(lambda: kube.container("user").get("restartCount") == 1, "it runs again")
        kube.ready("user")
        assert kube.sh("user", "echo $CLAIM") == "gpu\n", "from the checkpoint"
        kube("delete pod user")
        assert not file.exists(), "taken back before the pod was gone"


def test_a_device_from_the_slice_to_the_container(lab: Lab, standing: Kubectl, cdi: Path) -> None:
    """A driver tells of one device; pods ask for it by a template, and have it one after the other."""
    kube = standing
    (node,) = kube.api.get("/api/v1/nodes")["items"]
    name = node["metadata"]["name"]
    head = {"apiVersion": "resource.k8s.io/v1"}
    pool = {"name": name, "generation": 1, "resourceSliceCount": 1}
    offered = [
        {"name": "dev", "attributes": {"size": {"int": 2}}},
        {"name": "small", "attributes": {"size": {"int": 1}}},
    ]
    chooses = f"device.driver == '{DRIVER}' && device.attributes['{DRIVER}'].size > 1"
    asked = {"devices": {"requests": [{"name": "one", "exactly": {"deviceClassName": "test"}}]}}
    path = "/apis/resource.k8s.io/v1"
    for where, kind, made, spec in (
        (
            "resourceslices",
            "ResourceSlice",
            "s1",
            {"driver": DRIVER, "nodeName": name, "pool": pool, "devices": offered},
        ),
        ("deviceclasses", "DeviceClass", "test", {"selectors": [{"cel": {"expression": chooses}}]}),
        (f"namespaces/{kube.namespace}/resourceclaimtemplates", "ResourceClaimTemplate", "t", {"spec": asked}),
    ):
        kube.api.post(f"{path}/{where}", {**head, "kind": kind, "metadata": {"name": made}, "spec": spec})
    container = {"container": {"resources": {"claims": [{"name": "dev"}]}}}
    wish = {"resourceClaims": [{"name": "dev", "resourceClaimTemplateName": "t"}]}

    def claims() -> dict[str, Any]:
        found = kube.api.get(f"{path}/namespaces/{kube.namespace}/resourceclaims")["items"]
        return {each["metadata"]["annotations"]["resource.kubernetes.io/pod-claim-name"]: each for each in found}

    with plugin(lab, "driver", DRIVER, str(cdi)):
        kube.apply(pod("first", **container, **wish))
        kube.ready("first")
        mine = claims()["dev"]
        assert kube.sh("first", "echo $CLAIM") == f"{mine['metadata']['name']}\n"
        (result,) = mine["status"]["allocation"]["devices"]["results"]
        assert result == {"request": "one", "driver": DRIVER, "pool": name, "device": "dev"}
        assert [user["name"] for user in mine["status"]["reservedFor"]] == ["first"]
        assert "resource.kubernetes.io/delete-protection" in mine["metadata"]["finalizers"]

        kube.apply(pod("second", **container, **wish))
        until(
            lambda: any("cannot allocate all claims" in text for _, text in kube.events("second")),
            "no device is left",
            20,
        )
        kube("delete pod first")
        kube.ready("second", timeout_s=40)
        other = claims()["dev"]
        assert other["metadata"]["uid"] != mine["metadata"]["uid"]
        assert kube.sh("second", "echo $CLAIM") == f"{other['metadata']['name']}\n"

        found = kube.api.get(f"{path}/resourceslices/s1")
        found["spec"]["devices"][0]["taints"] = [{"key": "broken", "effect": "NoExecute"}]
        answer = kube.api.ask("PUT", f"{path}/resourceslices/s1", found)
        assert answer.status == 200, answer
        until(lambda: not kube.read("pods/second"), "it left the device that is broken", 60)
        until(lambda: not claims(), "its claim went with it", 20)

        found = kube.api.get(f"{path}/resourceslices/s1")
        del found["spec"]["devices"][0]["taints"]
        answer = kube.api.ask("PUT", f"{path}/resourceslices/s1", found)
        assert answer.status == 200, answer
        limits = {"deviceclass.resource.kubernetes.io/test": "1"}
        kube.apply(pod("third", container={"resources": {"limits": limits}}))
        kube.ready("third")
        assert kube.sh("third", "echo $CLAIM").startswith("third-extended-resources-")
        kube("delete pod third")
        until(
            lambda: not kube.api.get(f"{path}/namespaces/{kube.namespace}/resourceclaims")["items"], "its claim too", 20
        )
        assert not list(cdi.glob(f"{DRIVER}*"))
