"""Services.

Source: pkg/registry/core/service/strategy.go; pkg/apis/core/v1/defaults.go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import names
from kaa.api.fields import FieldError
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

from ...validation import services as rules
from ...view import View
from ..fill import each
from ..strategy import Strategy
from ..tables import NONE, age, labels, shape
from .service_allocation import Allocator, ServiceRanges, needs_health_check

_AFFINITY_SECONDS = 10800


def _cells(obj: Service, now: float) -> Sequence[Any]:
    spec = obj.spec
    internal = spec.cluster_ips[0] if spec.cluster_ips else NONE
    return (
        obj.metadata.name,
        spec.type or "",
        internal,
        _external(obj),
        ",".join(_port_text(port) for port in spec.ports) or NONE,
        age(obj.metadata, now),
        labels(spec.selector),
    )


def _external(obj: Service) -> str:
    spec = obj.spec
    if spec.type == "ExternalName":
        return spec.external_name or ""
    if spec.type == "LoadBalancer":
        points = [point.ip or point.hostname or "" for point in obj.status.load_balancer.ingress]
        listed = [*dict.fromkeys(filter(None, points)), *spec.external_ips]
        return ",".join(listed) if listed else "<pending>"
    return ",".join(spec.external_ips) or NONE


def _port_text(port: ServicePort) -> str:
    return f"{port.port}:{port.node_port}/{port.protocol}" if port.node_port else f"{port.port}/{port.protocol}"


class ServiceStrategy(Strategy[Service]):
    kind = Service
    allows_create_on_update = True
    name_faults = staticmethod(names.dns_1035_label)
    table = shape("core/services", "Type|Cluster-IP|External-IP|Port(s)|Age|Selector+", _cells)
    field_names = frozenset(("spec.clusterIP", "spec.type"))

    def __init__(self, ranges: ServiceRanges | None = None) -> None:
        self.allocator = Allocator(ranges or ServiceRanges())

    def default(self, obj: Service) -> Service:
        changes = _defaults(obj.spec)
        if changes:
            obj = replace(obj, spec=replace(obj.spec, **changes))
        points = obj.status.load_balancer.ingress
        if obj.spec.type != "LoadBalancer" or all(point.ip_mode or not point.ip for point in points):
            return obj
        balancer = replace(obj.status.load_balancer, ingress=each(points, _ingress))
        return replace(obj, status=replace(obj.status, load_balancer=balancer))

    def prepare_create(self, obj: Service) -> Service:
        return replace(obj, status=ServiceStatus(), spec=_without_unneeded(obj.spec, None))

    def prepare_update(self, new: Service, old: Service) -> Service:
        status = old.status
        if new.spec.type != "LoadBalancer" and status.load_balancer.ingress:
            status = replace(status, load_balancer=LoadBalancerStatus())
        return replace(new, status=status, spec=_without_unneeded(_patched(new.spec, old.spec), old.spec))

    def allocate(self, new: Service, old: Service | None, view: View) -> Service:
        if list(rules.early_faults(new, old)):
            return new  # validation will say so
        return self.allocator.allocate(new, old, view)

    def validate(self, obj: Service) -> list[FieldError]:
        return rules.service(obj)

    def validate_update(self, new: Service, old: Service) -> list[FieldError]:
        return rules.service_update(new, old)

    def validate_status_update(self, new: Service, old: Service) -> list[FieldError]:
        return rules.load_balancer_status(new)

    def fields(self, obj: Service) -> Mapping[str, str]:
        return {"spec.clusterIP": obj.spec.cluster_ip or "", "spec.type": obj.spec.type or ""}


def _defaults(spec: ServiceSpec) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    kind = spec.type or "ClusterIP"
    if not spec.type:
        changes["type"] = kind
    if not spec.session_affinity:
        changes["session_affinity"] = "None"
    if spec.session_affinity == "ClientIP":
        config = spec.session_affinity_config
        if config is None or config.client_ip is None or config.client_ip.timeout_seconds is None:
            filled = SessionAffinityConfig(client_ip=ClientIPConfig(timeout_seconds=_AFFINITY_SECONDS))
            changes["session_affinity_config"] = filled
    elif spec.session_affinity_config is not None and spec.session_affinity in (None, "None"):
        changes["session_affinity_config"] = None
    ports = each(spec.ports, _port)
    if ports is not spec.ports:
        changes["ports"] = ports
    external = kind in ("NodePort", "LoadBalancer") or (kind == "ClusterIP" and bool(spec.external_ips))
    if external and not spec.external_traffic_policy:
        changes["external_traffic_policy"] = "Cluster"
    if kind != "ExternalName" and spec.internal_traffic_policy is None:
        changes["internal_traffic_policy"] = "Cluster"
    if kind == "LoadBalancer" and spec.allocate_load_balancer_node_ports is None:
        changes["allocate_load_balancer_node_ports"] = True
    return changes


def _port(port: ServicePort) -> ServicePort:
    changes: dict[str, Any] = {}
    if not port.protocol:
        changes["protocol"] = "TCP"
    if port.target_port is None or port.target_port in (0, ""):
        changes["target_port"] = port.port
    return replace(port, **changes) if changes else port


def _ingress(point: LoadBalancerIngress) -> LoadBalancerIngress:
    return replace(point, ip_mode="VIP") if point.ip and point.ip_mode is None else point


def _patched(new: ServiceSpec, old: ServiceSpec) -> ServiceSpec:
    """An update that leaves out what the server had allocated keeps it."""
    changes: dict[str, Any] = {}
    needs_ip = new.type != "ExternalName" and old.type != "ExternalName"
    if needs_ip and not new.cluster_ip and not new.cluster_ips:
        changes["cluster_ip"], changes["cluster_ips"] = old.cluster_ip, old.cluster_ips
    elif new.cluster_ip != old.cluster_ip and new.cluster_ips == old.cluster_ips and old.cluster_ips:
        # a client that knows clusterIP alone has changed it
        if new.cluster_ip:
            changes["cluster_ips"] = (new.cluster_ip, *old.cluster_ips[1:])
        else:
            changes["cluster_ip"], changes["cluster_ips"] = None, ()
    elif needs_ip and not new.cluster_ips and new.cluster_ip == old.cluster_ip:
        changes["cluster_ips"] = old.cluster_ips
    if not new.ip_families and needs_ip:
        changes["ip_families"] = old.ip_families
    if not new.ip_family_policy and needs_ip:
        changes["ip_family_policy"] = old.ip_family_policy
    if _has_ports(new) and _has_ports(old):
        known = {(port.port, port.protocol): port.node_port for port in old.ports}
        used = {port.node_port for port in new.ports if port.node_port}

        def kept(port: ServicePort) -> ServicePort:
            number = known.get((port.port, port.protocol))
            return port if port.node_port or not number or number in used else replace(port, node_port=number)

        changes["ports"] = each(new.ports, kept)
    if needs_health_check(new) and needs_health_check(old) and not new.health_check_node_port:
        changes["health_check_node_port"] = old.health_check_node_port
    return replace(new, **changes) if changes else new


def _has_ports(spec: ServiceSpec) -> bool:
    return spec.type in ("NodePort", "LoadBalancer")


def _without_unneeded(new: ServiceSpec, old: ServiceSpec | None) -> ServiceSpec:
    """Drop what the service's type has no use for, unless its author has just changed it.

    Source: dropTypeDependentFields.
    """
    if old is None:
        return new
    changes: dict[str, Any] = {}
    if new.type == "ExternalName" and old.type != "ExternalName":
        if (new.cluster_ip, new.cluster_ips) == (old.cluster_ip, old.cluster_ips):
            changes |= {"cluster_ip": None, "cluster_ips": ()}
        if new.ip_families == old.ip_families:
            changes["ip_families"] = ()
        if new.ip_family_policy == old.ip_family_policy:
            changes["ip_family_policy"] = None
    if _has_ports(old) and not _has_ports(new):
        before = {port.node_port for port in old.ports}
        drop = lambda port: replace(port, node_port=None) if port.node_port in before and port.node_port else port  # noqa: E731
        changes["ports"] = each(new.ports, drop)
    if (
        needs_health_check(old)
        and not needs_health_check(new)
        and new.health_check_node_port == old.health_check_node_port
    ):
        changes["health_check_node_port"] = None
    if old.type == "LoadBalancer" and new.type != "LoadBalancer":
        if new.allocate_load_balancer_node_ports == old.allocate_load_balancer_node_ports:
            changes["allocate_load_balancer_node_ports"] = None
        if new.load_balancer_class == old.load_balancer_class:
            changes["load_balancer_class"] = None
    if (
        _has_ports(old)
        and not _has_ports(new)
        and not new.external_ips
        and new.external_traffic_policy == old.external_traffic_policy
    ):
        changes["external_traffic_policy"] = None
    return replace(new, **changes) if changes else new


STRATEGY = ServiceStrategy()
