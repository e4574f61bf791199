from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kaa.api import errors, scheme
from kaa.api.clock import VirtualClock
from kaa.api.scheme import resource_of
from kaa.api.types.core_v1 import Service
from kaa.apiserver.registry import ServiceRanges, build_strategies
from kaa.apiserver.registry.core.services import ServiceStrategy


class Shelf:
    """A View on a dict: {(kind, namespace, name): object}."""

    def __init__(self) -> None:
        self.objects: dict[tuple[type[Any], str, str], Any] = {}
        self.changes = 0
        self.clock = VirtualClock()

    def put(self, obj: Any) -> None:
        self.objects[type(obj), obj.metadata.namespace or "", obj.metadata.name] = obj
        self.changes += 1

    def get(self, kind: type[Any], name: str, namespace: str = "") -> Any:
        return self.objects.get((kind, namespace, name))

    def list(self, kind: type[Any], namespace: str = "") -> Iterable[Any]:
        return [obj for (of, _, _), obj in self.objects.items() if of is kind]

    def version(self, kind: type[Any]) -> int:
        return self.changes


def make_service(name: str = "web", **spec: Any) -> Service:
    return scheme.convert(Service, {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **spec}})


def create(strategy: ServiceStrategy, shelf: Shelf, service: Service) -> Service:
    made = strategy.allocate(strategy.prepare_create(strategy.default(service)), None, shelf)
    assert strategy.validate(made) == []
    shelf.put(made)
    return made


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def strategy() -> ServiceStrategy:
    return ServiceStrategy(ServiceRanges(("10.0.0.0/28",), (30000, 30003)))


def test_cluster_ip_is_allocated(strategy: ServiceStrategy, shelf: Shelf) -> None:
    spec = create(strategy, shelf, make_service()).spec
    assert spec.cluster_ips == (spec.cluster_ip,)
    assert (spec.ip_families, spec.ip_family_policy) == (("IPv4",), "SingleStack")


def test_range_is_used_to_its_last_address(strategy: ServiceStrategy, shelf: Shelf) -> None:
    made = {create(strategy, shelf, make_service(f"s{n}")).spec.cluster_ip for n in range(14)}
    assert len(made) == 14
    with pytest.raises(errors.InternalError, match="range is full"):
        create(strategy, shelf, make_service("one-more"))


def test_taken_address_is_refused(strategy: ServiceStrategy, shelf: Shelf) -> None:
    create(strategy, shelf, make_service(clusterIP="10.0.0.5"))
    with pytest.raises(errors.Invalid, match=r"failed to allocate IP 10\.0\.0\.5: provided IP is already allocated"):
        create(strategy, shelf, make_service("other", clusterIP="10.0.0.5"))


def test_address_on_its_way_to_the_store_is_not_given_again(strategy: ServiceStrategy, shelf: Shelf) -> None:
    services = [strategy.prepare_create(strategy.default(make_service(f"s{n}"))) for n in range(14)]
    made = [strategy.allocate(service, None, shelf).spec.cluster_ip for service in services]
    assert len(set(made)) == 14


def test_headless_gets_no_address(strategy: ServiceStrategy, shelf: Shelf) -> None:
    assert create(strategy, shelf, make_service(clusterIP="None", selector={"a": "b"})).spec.cluster_ips == ("None",)


def test_node_ports_run_out_with_a_word(strategy: ServiceStrategy, shelf: Shelf) -> None:
    for n in range(4):
        create(strategy, shelf, make_service(f"s{n}", type="NodePort"))
    with pytest.raises(errors.Invalid, match="failed to allocate a nodePort: range is full"):
        create(strategy, shelf, make_service("one-more", type="NodePort"))


def test_two_protocols_share_a_node_port(strategy: ServiceStrategy, shelf: Shelf) -> None:
    ports = [{"name": "t", "port": 53, "protocol": "TCP"}, {"name": "u", "port": 53, "protocol": "UDP"}]
    made = create(strategy, shelf, make_service(type="NodePort", ports=ports))
    assert len({port.node_port for port in made.spec.ports}) == 1


def test_update_keeps_what_was_allocated(strategy: ServiceStrategy, shelf: Shelf) -> None:
    old = create(strategy, shelf, make_service(type="NodePort"))
    new = strategy.prepare_update(strategy.default(make_service(type="NodePort", selector={"a": "b"})), old)
    made = strategy.allocate(new, old, shelf)
    assert made.spec.cluster_ip == old.spec.cluster_ip
    assert made.spec.ports == old.spec.ports


def test_node_port_goes_with_the_type(strategy: ServiceStrategy, shelf: Shelf) -> None:
    old = create(strategy, shelf, make_service(type="NodePort"))
    ports = [{"port": 80, "nodePort": old.spec.ports[0].node_port}]
    new = strategy.prepare_update(strategy.default(make_service(type="ClusterIP", ports=ports)), old)
    assert new.spec.ports[0].node_port is None
    assert strategy.validate_update(new, old) == []


def test_ranges_are_the_servers_own() -> None:
    built = build_strategies(ServiceRanges(("10.1.0.0/24",)))[resource_of(Service)]
    assert isinstance(built, ServiceStrategy)
    assert str(built.allocator.networks["IPv4"]) == "10.1.0.0/24"


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer"]), max_size=12))
def test_nothing_is_given_twice(types: list[str]) -> None:
    strategy, shelf = ServiceStrategy(ServiceRanges(("10.0.0.0/27",), (30000, 30050))), Shelf()
    made = [create(strategy, shelf, make_service(f"s{n}", type=kind)) for n, kind in enumerate(types)]
    ips = [ip for service in made for ip in service.spec.cluster_ips]
    ports = [port.node_port for service in made for port in service.spec.ports if port.node_port]
    assert len(set(ips)) == len(ips)
    assert len(set(ports)) == len(ports)


def test_an_address_of_a_balancer_is_its_own_unless_said_otherwise(strategy: ServiceStrategy) -> None:
    points = [{"ip": "192.0.2.1"}, {"ip": "192.0.2.2", "ipMode": "Proxy"}, {"hostname": "lb.example"}]
    status = {"loadBalancer": {"ingress": points}}
    made = scheme.convert(Service, {"metadata": {"name": "web"}, "spec": {"type": "LoadBalancer"}, "status": status})
    assert [point.ip_mode for point in strategy.default(made).status.load_balancer.ingress] == ["VIP", "Proxy", None]
    other = scheme.convert(Service, {"metadata": {"name": "web"}, "spec": {"type": "ClusterIP"}, "status": status})
    assert strategy.default(other).status == other.status


def test_a_service_of_another_type_has_no_balancer_any_more(strategy: ServiceStrategy) -> None:
    status = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}
    old = scheme.convert(Service, {"metadata": {"name": "web"}, "spec": {"type": "LoadBalancer"}, "status": status})
    assert strategy.prepare_update(old, old).status == old.status
    new = scheme.convert(Service, {"metadata": {"name": "web"}, "spec": {"type": "ClusterIP"}})
    assert strategy.prepare_update(new, old).status.load_balancer.ingress == ()
