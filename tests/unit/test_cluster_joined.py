"""A node that joins: what its flags mean and refuse, which credentials it lives by, whom its server believes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kaa.api.clock import SystemClock
from kaa.api.types.core_v1 import Taint
from kaa.client.access import Session
from kaa.client.kubeconfig import KubeconfigError, load
from kaa.cluster.config import ConfigError
from kaa.cluster.joined import client_authority, kubelet_config, serving_context, with_file
from kaa.cluster.joined_config import JoinConfig, read_config, write_config
from kaa.cluster.joined_credentials import lives_by, write_kubeconfig
from kaa.cluster.joined_flags import asked, node_labels, node_taints
from kaa.kubelet.bootstrap import Pair, self_signed
from kaa.kubelet.config import KubeletConfig

FLAGS: dict[str, Any] = {
    "port": 10250,
    "container_runtime_endpoint": "",
    "runtime": "oci",
    "kubeconfig": "",
    "bootstrap_kubeconfig": "",
    "kubelet_config": "",
    "pod_cidr": "",
    "cluster_cidr": "",
    "cgroup_root": "",
    "node_labels": "",
    "register_with_taints": "",
    "register_node": True,
    "provider_id": "",
    "cloud_provider": "",
    "proxy": False,
    "proxy_kubeconfig": "",
    "node_ip": "192.0.2.7,2001:db8::7",
    "image_credential_provider_config": "",
    "image_credential_provider_bin_dir": "",
}


def kubeconfig(path: Path, *, user: dict[str, Any] | None = None, **cluster: Any) -> Path:
    document = {
        "clusters": [{"name": "c", "cluster": {"server": "https://192.0.2.1:6443", **cluster}}],
        "users": [{"name": "u", "user": user or {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(json.dumps(document))
    return path


def test_flags_make_a_node(tmp_path: Path) -> None:
    flags = {
        **FLAGS,
        "kubeconfig": str(kubeconfig(tmp_path / "conf")),
        "node_labels": "zone=a,node.kubernetes.io/x=y",
        "register_with_taints": "a=b:NoSchedule,c:NoExecute",
        "pod_cidr": "10.1.0.0/24,fd00:1::/64",
    }
    made = asked("n1", tmp_path / "data", flags)
    assert made.server_url == "https://192.0.2.1:6443"
    assert made.node_ips == ("192.0.2.7", "2001:db8::7")
    assert made.pod_cidrs == ("10.1.0.0/24", "fd00:1::/64")
    assert made.labels == {"zone": "a", "node.kubernetes.io/x": "y"}
    assert made.taints == (
        Taint(key="a", value="b", effect="NoSchedule"),
        Taint(key="c", effect="NoExecute"),
    )
    assert (made.cgroup_root, len(made.bridge)) == ("/kaa-n1", 12)
    write_config(made)
    assert read_config(tmp_path / "data") == made
    told = kubelet_config(made)
    assert (told.node_ips, told.taints, dict(told.labels)) == (made.node_ips, made.taints, made.labels)
    assert not told.certificates.rotate


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("N_1", {}, "cannot name a node"),
        ("n1", {"node_labels": "kubernetes.io/role=x"}, "unknown 'kubernetes.io' or 'k8s.io' labels specified"),
        ("n1", {"node_labels": "a"}, "no KEY=VALUE"),
        ("n1", {"register_with_taints": "a=b"}, "invalid taint spec: a=b"),
        ("n1", {"pod_cidr": "10.0.0.1/24"}, "--pod-cidr: 10.0.0.1/24 has host bits set"),
        ("n1", {"node_ip": "nowhere"}, "--node-ip"),
        ("n1", {"proxy": True}, "--proxy needs --proxy-kubeconfig FILE"),
        ("n1", {"kubeconfig": "/nowhere/conf"}, "give one that exists, or --bootstrap-kubeconfig FILE"),
        ("n1", {"container_runtime_endpoint": "tcp://x"}, "is no endpoint"),
    ],
)
def test_flags_are_refused_with_what_to_do(tmp_path: Path, name: str, flags: dict[str, Any], message: str) -> None:
    given = {**FLAGS, "kubeconfig": str(kubeconfig(tmp_path / "conf")), **flags}
    with pytest.raises(ConfigError, match=message):
        asked(name, tmp_path, given)


def test_labels_and_taints_of_nothing() -> None:
    assert (node_labels(""), node_taints("")) == ({}, ())


def test_a_kubelet_configuration_speaks_for_the_node(tmp_path: Path) -> None:
    file = tmp_path / "kubelet.yaml"
    file.write_text(
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"
        "podCIDR: 10.5.0.0/24\nport: 10350\naddress: 127.0.0.1\ncgroupRoot: /here\n"
        "authentication: {x509: {clientCAFile: /etc/ca.crt}}\nrotateCertificates: true\nserverTLSBootstrap: true\n"
    )
    base = JoinConfig(
        name="n", data_dir=str(tmp_path), node_name="n1", kubelet_config=str(file), node_ips=("192.0.2.7",)
    )
    made = with_file(base)
    assert made.pod_cidrs == ("10.5.0.0/24",)
    assert made.cgroup_root == "/here"
    told = kubelet_config(made)
    assert (told.serving.client_ca_file, told.serving.address) == ("/etc/ca.crt", "127.0.0.1")
    assert (told.certificates.rotate, told.certificates.server_bootstrap, told.port) == (True, True, 10350)
    with pytest.raises(ConfigError, match="cannot use its files"):
        serving_context(told, tmp_path / "pki", b"", SystemClock())


def test_the_authority_of_the_kubeconfig_is_believed_if_it_signed_the_node() -> None:
    now = SystemClock().now()
    ca, _ = self_signed("ca", (), now)
    other, _ = self_signed("other", (), now)
    assert client_authority(ca, ca) == ca
    assert client_authority(ca, other) == b""
    assert client_authority(ca, b"") == b"", "a token says nothing of who signs certificates"


def test_a_server_certificate_of_its_own_is_kept(tmp_path: Path) -> None:
    config, clock = KubeletConfig("n1", node_ips=("192.0.2.7",)), SystemClock()
    serving_context(config, tmp_path, b"", clock)
    first = (tmp_path / "kubelet.crt").read_bytes()
    assert Pair.read(first, b"").hosts == ("n1", "192.0.2.7")
    serving_context(config, tmp_path, b"", clock)
    assert (tmp_path / "kubelet.crt").read_bytes() == first
    serving_context(KubeletConfig("n1", node_ips=("192.0.2.8",)), tmp_path, b"", clock)
    assert (tmp_path / "kubelet.crt").read_bytes() != first, "it has another address now"


def test_a_bootstrapped_kubeconfig_names_the_file_that_rotates(tmp_path: Path) -> None:
    now = SystemClock().now()
    certificate, key = self_signed("n1", (), now)
    current, bad = tmp_path / "current.pem", tmp_path / "conf"
    current.write_bytes(certificate + key)
    given = load([kubeconfig(tmp_path / "bootstrap")])
    write_kubeconfig(bad, given, current)
    config = JoinConfig(name="n", data_dir=str(tmp_path), kubeconfig=str(bad), bootstrap_kubeconfig="x")
    access = lives_by(config)
    assert access is not None
    assert access.server == given.server
    assert access.credentials.certificate == certificate + key
    session = Session(access, SystemClock(), "kubelet")
    session.reload(certificate, key)
    assert session.certificate == certificate

    ended, ended_key = self_signed("n1", (), now - 400 * 24 * 3600)
    current.write_bytes(ended + ended_key)
    assert lives_by(config) is None, "it is asked for anew"


def test_what_a_kubeconfig_may_not_ask(tmp_path: Path) -> None:
    access = load([kubeconfig(tmp_path / "conf", **{"proxy-url": "http://192.0.2.9"})])
    with pytest.raises(KubeconfigError, match="proxy-url is not supported"):
        Session(access, SystemClock(), "kubelet")
    access = load([kubeconfig(tmp_path / "conf", user={"client-certificate-data": "eA==", "client-key-data": "eA=="})])
    with pytest.raises(KubeconfigError, match="cannot be used"):
        Session(access, SystemClock(), "kubelet")
