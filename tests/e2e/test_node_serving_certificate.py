"""``serverTLSBootstrap`` on the cluster's own node: asked for, approved by hand, shown, and kept over a restart."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Iterator
from typing import Any

import pytest
from cluster_lab import BOX, E2E, Kubectl, Lab, pod, until

from kaa.runtime.oci.build import busybox_archive

pytestmark = E2E
CONFIG = (
    "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nserverTLSBootstrap: true\nfailSwapOn: false\n"
    "evictionHard: {memory.available: 1Mi}\nimageGCHighThresholdPercent: 100\n"
)


@pytest.fixture
def kube() -> Iterator[Kubectl]:
    lab = Lab()
    try:
        file = lab.home / "kubelet.yaml"
        file.write_text(CONFIG)
        lab.kaa("up", "--kubelet-config", str(file))
        lab.kaa("image import", str(busybox_archive(lab.home / "box.tar", [BOX])))
        yield lab.kube()
    finally:
        lab.close()


def shown(lab: Lab) -> bytes:
    """The certificate that the node's server shows, DER."""
    context = ssl.create_default_context(cafile=str(lab.home / lab.name / "pki/ca.crt"))
    config = lab.config()
    plain = lab.connect(config["node_ip"], config["kubelet_port"])
    with context.wrap_socket(plain, server_hostname=config["node_ip"]) as secure:
        return secure.getpeercert(binary_form=True) or b""


def requests(kube: Kubectl) -> list[Any]:
    found = kube.api.get("/apis/certificates.k8s.io/v1/certificatesigningrequests")["items"]
    return [one for one in found if one["spec"]["signerName"] == "kubernetes.io/kubelet-serving"]


def test_a_serving_certificate_that_the_cluster_issues(kube: Kubectl) -> None:
    lab, node = kube.lab, kube.lab.config()["node_name"]
    kube.apply(pod("web", "echo said; sleep 3600"))
    kube.ready("web")
    (request,) = until(lambda: requests(kube), "it is asked for")
    assert request["spec"]["username"] == f"system:node:{node}"
    assert request["spec"]["usages"] == ["digital signature", "server auth"]
    own = shown(lab)
    assert kube("logs web") == "said\n", "meanwhile with what the node has"
    assert not requests(kube)[0]["status"].get("conditions"), "nobody approves it but people"

    kube(f"certificate approve {request['metadata']['name']}")
    signed = until(lambda: requests(kube)[0]["status"].get("certificate"), "it is signed")
    issued = ssl.PEM_cert_to_DER_cert(base64.b64decode(signed).decode())
    assert issued != own
    until(lambda: shown(lab) == issued, "it is shown")
    assert kube("logs web") == "said\n"

    lab.kill("agent")
    lab.kaa("up")
    until(lambda: kube.run("logs web").code == 0, "the agent answers")
    assert shown(lab) == issued
    assert len(requests(kube)) == 1
