"""Services and EndpointSlices in, nftables text out."""

from __future__ import annotations

import itertools
import subprocess

import pytest
from msgspec.structs import replace

from kaa.api.types.core_v1 import (
    ClientIPConfig,
    LoadBalancerIngress,
    LoadBalancerStatus,
    Service,
    ServicePort,
    ServiceSpec,
    ServiceStatus,
    SessionAffinityConfig,
)
from kaa.api.types.discovery_v1 import Endpoint, EndpointConditions, EndpointPort, EndpointSlice
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.network import ruleset
from kaa.network.ruleset import Model, Node, service_part

NODE = Node("n1", ("10.244.0.0/16", "fd00::/56"))


def make_service(name: str = "web", ip: str = "10.96.0.10", **spec: object) -> Service:
    fields: dict[str, object] = {
        "type": "ClusterIP",
        "cluster_ip": ip,
        "cluster_ips": (ip,),
        "ports": (ServicePort(name="http", port=80, protocol="TCP"),),
    }
    return Service(metadata=ObjectMeta(name=name, namespace="default"), spec=ServiceSpec(**(fields | spec)))  # type: ignore[arg-type]


def make_slice(
    *addresses: str, node: str = "n1", port: int = 8080, service: str = "web", **ready: bool
) -> EndpointSlice:
    return EndpointSlice(
        metadata=ObjectMeta(name=f"{service}-x", namespace="default", labels={"kubernetes.io/service-name": service}),
        address_type="IPv6" if addresses and ":" in addresses[0] else "IPv4",
        endpoints=tuple(
            Endpoint(addresses=(address,), node_name=node, conditions=EndpointConditions(**ready))
            for address in addresses
        ),
        ports=(EndpointPort(name="http", port=port, protocol="TCP"),),
    )


def targets(part: Model, kind: str = "cluster") -> str:
    return " ".join(rule for name, rules in part.chains.items() if name.startswith(kind) for rule in rules)


@pytest.mark.parametrize(
    "service",
    [
        pytest.param(make_service(ip="None"), id="headless"),
        pytest.param(make_service(type="ExternalName", cluster_ip=None, cluster_ips=()), id="external name"),
    ],
)
def test_services_without_an_address_need_nothing(service: Service) -> None:
    assert service_part(service, [make_slice("10.244.0.2")], NODE) == Model()


def test_connections_spread_over_ready_endpoints() -> None:
    part = service_part(
        make_service(), [make_slice("10.244.0.2", "10.244.0.3"), make_slice("10.244.0.9", ready=False)], NODE
    )
    assert "numgen random mod 2 map { 0 : 10.244.0.2 . 8080, 1 : 10.244.0.3 . 8080 }" in targets(part)
    assert [key for key in part.elements if key[0] == "services4"] == [("services4", "10.96.0.10 . tcp . 80")]


def test_terminating_endpoints_serve_when_no_other_does() -> None:
    ending = make_slice("10.244.0.9", ready=False, serving=True, terminating=True)
    assert "10.244.0.9:8080" in targets(service_part(make_service(), [ending], NODE))
    assert "10.244.0.9" not in targets(service_part(make_service(), [ending, make_slice("10.244.0.2")], NODE))


def test_no_endpoints_reject() -> None:
    part = service_part(make_service(type="NodePort", ports=(ServicePort(port=80, node_port=30080),)), [], NODE)
    assert part.elements == {
        ("refused4", "10.96.0.10 . tcp . 80"): "goto reject-it",
        ("refused-nodeports4", "tcp . 30080"): "goto reject-it",
    }
    assert not part.chains


def test_local_policies_keep_to_the_node() -> None:
    service = make_service(type="NodePort", internal_traffic_policy="Local", external_traffic_policy="Local")
    service = replace(service, spec=replace(service.spec, ports=(ServicePort(name="http", port=80, node_port=30080),)))
    far = make_slice("10.244.1.2", node="n2")
    part = service_part(service, [far], NODE)
    assert part.elements["refused4", "10.96.0.10 . tcp . 80"] == "drop"
    assert part.elements["refused-nodeports4", "tcp . 30080"] == "goto drop-foreign"
    part = service_part(service, [far, make_slice("10.244.0.2")], NODE)
    assert "10.244.1.2" not in targets(part, "local")
    assert not any(name.startswith("refused") for name, _ in part.elements)


def test_one_changed_endpoint_is_a_few_lines() -> None:
    before = service_part(make_service(), [make_slice("10.244.0.2", "10.244.0.3", node="n2")], NODE)
    after = service_part(make_service(), [make_slice("10.244.0.2", "10.244.0.4", node="n2")], NODE)
    text = ruleset.diff("t", before, after)
    assert len(text.splitlines()) == 2
    assert ruleset.diff("t", after, after) == ""


def everything(*addresses: str, timeout_s: int = 60) -> Model:
    balanced = make_service(
        "lb",
        "10.96.0.11",
        type="LoadBalancer",
        external_ips=("203.0.113.5",),
        load_balancer_source_ranges=("192.0.2.0/24",),
        session_affinity="ClientIP",
        session_affinity_config=SessionAffinityConfig(client_ip=ClientIPConfig(timeout_seconds=timeout_s)),
        external_traffic_policy="Local",
        ports=(ServicePort(name="http", port=80, node_port=30080, protocol="TCP"),),
    )
    status = ServiceStatus(load_balancer=LoadBalancerStatus(ingress=(LoadBalancerIngress(ip="203.0.113.9"),)))
    balanced = replace(balanced, status=status)
    six = make_service("six", "fd00:96::1")
    parts = [
        service_part(balanced, [make_slice(*addresses)], NODE),
        service_part(six, [make_slice("fd00::2", "fd00::3")], NODE),
        service_part(make_service(), [make_slice(*addresses)], NODE),
    ]
    return ruleset.merge(parts)


@pytest.mark.root
def test_the_kernel_takes_it() -> None:
    """Every step in one throw-away namespace: the whole, differences between any two, back to nothing."""
    models = [
        everything("10.244.0.2", "10.244.0.3"),
        everything("10.244.0.2"),
        everything("10.244.0.2", "10.244.0.3", timeout_s=90),
        everything(),
        Model(),
    ]
    steps = [ruleset.render("t", models[0])]
    steps += [ruleset.diff("t", old, new) for old, new in itertools.pairwise(models)]
    script = "\n".join(f"nft -f - <<'EOF' || exit 1\n{step}EOF" for step in steps)
    done = subprocess.run(
        [
            "unshare",
            "-n",
            "sh",
            "-c",
            f"PATH=$PATH:/usr/sbin\n{script}\nnft list table inet t > /tmp/x$$; cat /tmp/x$$; rm /tmp/x$$",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "10.244" not in done.stdout
    assert "endpoint-" not in done.stdout


def test_two_services_on_one_port_do_not_quarrel() -> None:
    first = Model(elements={("nodeports4", "tcp . 1"): "goto a"})
    second = Model(elements={("nodeports4", "tcp . 1"): "goto b"})
    assert ruleset.merge([first, second]).elements == {("nodeports4", "tcp . 1"): "goto a"}


def test_stale_udp() -> None:
    old = Model(udp={("10.96.0.10", 53): frozenset({"a", "b"}), ("", 1): frozenset()})
    new = Model(udp={("10.96.0.10", 53): frozenset({"b"}), ("", 1): frozenset({"c"})})
    assert ruleset.stale_udp(old, new) == [("10.96.0.10", 53, "a"), ("", 1, "")]
