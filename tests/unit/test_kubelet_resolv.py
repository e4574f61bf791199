"""dnsPolicy, dnsConfig and the node's resolv.conf make a pod's."""

from __future__ import annotations

import pytest

from kaa.api.types.core_v1 import Container, Pod, PodDNSConfig, PodDNSConfigOption, PodSpec
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.kubelet.resolv import LOCAL, parse_resolv_conf, pod_dns
from kaa.runtime.base import DNS

HOST = DNS(("192.0.2.53",), ("example.com",), ("timeout:1",))
CLUSTER = DNS(
    ("10.96.0.10",),
    ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.com"),
    ("ndots:5",),
)


def make_pod(policy: str | None, *, host_network: bool = False, config: PodDNSConfig | None = None) -> Pod:
    spec = PodSpec(
        containers=(Container(name="c"),), dns_policy=policy, host_network=host_network or None, dns_config=config
    )
    return Pod(metadata=ObjectMeta(name="p", namespace="shop"), spec=spec)


@pytest.mark.parametrize(
    ("policy", "host_network", "wanted"),
    [
        pytest.param("ClusterFirst", False, CLUSTER, id="cluster first"),
        pytest.param(None, False, CLUSTER, id="by default"),
        pytest.param("ClusterFirst", True, HOST, id="on the host network it is the host's"),
        pytest.param("ClusterFirstWithHostNet", True, CLUSTER, id="unless asked for"),
        pytest.param("Default", False, HOST, id="the host's"),
        pytest.param("None", False, DNS(), id="none"),
    ],
)
def test_policies(policy: str | None, host_network: bool, wanted: DNS) -> None:
    pod = make_pod(policy, host_network=host_network)
    got = pod_dns(pod, HOST, cluster_dns=("10.96.0.10",), cluster_domain="cluster.local")
    assert (got.dns, got.warnings) == (wanted, ())


def test_without_cluster_dns_it_falls_back_and_says_so() -> None:
    got = pod_dns(make_pod("ClusterFirst"), None, cluster_dns=(), cluster_domain="cluster.local")
    assert got.dns == LOCAL
    assert [reason for reason, _ in got.warnings] == ["MissingClusterDNS"]


def test_config_is_appended_and_limits_hold() -> None:
    config = PodDNSConfig(
        nameservers=("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"),
        searches=tuple(f"s{n}.example" for n in range(40)),
        options=(PodDNSConfigOption(name="ndots", value="2"), PodDNSConfigOption(name="edns0")),
    )
    got = pod_dns(
        make_pod("ClusterFirst", config=config), HOST, cluster_dns=("10.96.0.10",), cluster_domain="cluster.local"
    )
    assert got.dns.servers == ("10.96.0.10", "192.0.2.1", "192.0.2.2")
    assert len(got.dns.searches) == 32
    assert got.dns.options == ("ndots:2", "edns0")
    assert [reason for reason, _ in got.warnings] == ["DNSConfigForming", "DNSConfigForming"]


def test_resolv_conf() -> None:
    text = "# x\nnameserver 1.1.1.1\nsearch a b.\nsearch c. .\noptions ndots:1 rotate\noptions ndots:2\n"
    assert parse_resolv_conf(text) == DNS(("1.1.1.1",), ("c", "."), ("ndots:2", "rotate"))
    with pytest.raises(ValueError, match="empty"):
        parse_resolv_conf("nameserver\n")
