"""Services: types, ports, addresses, traffic policies.

Source: pkg/apis/core/validation/validation.go (ValidateService, ValidateServiceUpdate).
"""

from __future__ import annotations

from collections.abc import Iterator

from kaa.api import fields, names
from kaa.api.fields import FieldError, Path
from kaa.api.types.core_v1 import Service, ServicePort, ServiceSpec

from .common import SPEC, cidr, endpoint_ip, faults_of, immutable, one_of
from .containers import PROTOCOLS
from .meta import label_faults

TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_DAY_SECONDS = 86400
_NO_IP = "None"


def service(obj: Service) -> list[FieldError]:
    return list(_faults(obj.spec))


def service_update(new: Service, old: Service) -> list[FieldError]:
    return [*early_faults(new, old), *_faults(new.spec)]


def early_faults(new: Service, old: Service | None) -> Iterator[FieldError]:
    """What an update may not do to addresses; it keeps allocation from acting on it."""
    for n, ip in enumerate(new.spec.cluster_ips):
        if old is None and ip != _NO_IP and names.ip_address(ip):
            yield fields.invalid(SPEC.child("clusterIPs").index(n), ip, names.ip_address(ip)[0])
            return
    if old is None:
        if new.spec.cluster_ip and new.spec.cluster_ip != _NO_IP and not new.spec.cluster_ips:
            yield from faults_of(
                SPEC.child("clusterIPs").index(0), new.spec.cluster_ip, names.ip_address(new.spec.cluster_ip)
            )
        return
    before, now = old.spec, new.spec
    if before.type == "ExternalName" or now.type == "ExternalName":
        return
    if before.cluster_ips and before.cluster_ips[:1] != now.cluster_ips[:1]:
        yield fields.invalid(SPEC.child("clusterIPs").index(0), list(now.cluster_ips), "may not change once set")
    elif len(before.cluster_ips) == 2 == len(now.cluster_ips) and before.cluster_ips != now.cluster_ips:
        yield fields.invalid(SPEC.child("clusterIPs").index(1), list(now.cluster_ips), "may not change once set")
    if before.ip_families and now.ip_families and before.ip_families[0] != now.ip_families[0]:
        yield fields.invalid(SPEC.child("ipFamilies").index(0), list(now.ip_families), "may not change once set")
    if before.type == now.type == "LoadBalancer":
        at = SPEC.child("loadBalancerClass")
        yield from immutable(at, now.load_balancer_class, before.load_balancer_class)


def _faults(spec: ServiceSpec) -> Iterator[FieldError]:
    headless = spec.cluster_ip == _NO_IP
    if not spec.ports and not headless and spec.type != "ExternalName":
        yield fields.required(SPEC.child("ports"))
    if spec.type == "LoadBalancer":
        for n, port in enumerate(spec.ports):
            if port.port == 10250:
                detail = "may not expose port 10250 externally since it is used by kubelet"
                yield fields.invalid(SPEC.child("ports").index(n), port.port, detail)
        if headless:
            detail = "may not be set to 'None' for LoadBalancer services"
            yield fields.invalid(SPEC.child("clusterIPs").index(0), spec.cluster_ip, detail)
    if spec.type == "NodePort" and headless:
        detail = "may not be set to 'None' for NodePort services"
        yield fields.invalid(SPEC.child("clusterIPs").index(0), spec.cluster_ip, detail)
    if spec.type == "ExternalName":
        yield from _external_name(spec)
    seen: set[str] = set()
    for n, port in enumerate(spec.ports):
        yield from _port(port, len(spec.ports) > 1, headless, seen, SPEC.child("ports").index(n))
    if spec.selector:
        yield from label_faults(spec.selector, SPEC.child("selector"))
    if spec.session_affinity not in ("ClientIP", "None"):
        yield from one_of(SPEC, "sessionAffinity", spec.session_affinity, ("ClientIP", "None"), needed=True)
    yield from _affinity_config(spec)
    yield from _ip_families(spec)
    for n, ip in enumerate(spec.external_ips):
        yield from endpoint_ip(SPEC.child("externalIPs").index(n), ip)
    if spec.type not in TYPES:
        yield from one_of(SPEC, "type", spec.type, TYPES, needed=True)
    yield from _port_conflicts(spec)
    yield from _source_ranges(spec)
    yield from _traffic(spec)


def _external_name(spec: ServiceSpec) -> Iterator[FieldError]:
    if spec.cluster_ips or (spec.cluster_ip or "") not in ("",):
        yield fields.forbidden(SPEC.child("clusterIPs"), "may not be set for ExternalName services")
    if spec.ip_families:
        yield fields.forbidden(SPEC.child("ipFamilies"), "may not be set for ExternalName services")
    if spec.ip_family_policy:
        yield fields.forbidden(SPEC.child("ipFamilyPolicy"), "may not be set for ExternalName services")
    name = (spec.external_name or "").removesuffix(".")
    if name:
        yield from faults_of(SPEC.child("externalName"), name, names.dns_subdomain(name))
    else:
        yield fields.required(SPEC.child("externalName"))


def _port(port: ServicePort, named: bool, headless: bool, seen: set[str], path: Path) -> Iterator[FieldError]:
    if not port.name:
        if named:
            yield fields.required(path.child("name"))
    else:
        yield from faults_of(path.child("name"), port.name, names.dns_label(port.name))
        if port.name in seen:
            yield fields.duplicate(path.child("name"), port.name)
        seen.add(port.name)
    yield from faults_of(path.child("port"), port.port, names.port_number(port.port))
    if port.protocol not in PROTOCOLS:
        yield from one_of(path, "protocol", port.protocol, PROTOCOLS, needed=True)
    target = port.target_port
    if isinstance(target, str):
        yield from faults_of(path.child("targetPort"), target, _target_faults(target))
    elif target:
        yield from faults_of(path.child("targetPort"), target, names.port_number(target))
    if port.app_protocol is not None:
        yield from faults_of(path.child("appProtocol"), port.app_protocol, names.qualified_name(port.app_protocol))


def _target_faults(name: str) -> list[str]:
    return names.port_name(name)


def _affinity_config(spec: ServiceSpec) -> Iterator[FieldError]:
    at = SPEC.child("sessionAffinityConfig")
    config = spec.session_affinity_config
    if spec.session_affinity == "ClientIP":
        if config is None or config.client_ip is None or config.client_ip.timeout_seconds is None:
            yield fields.required(at.child("clientIP"), "when session affinity type is ClientIP")
        elif not 0 < config.client_ip.timeout_seconds <= _DAY_SECONDS:
            value = config.client_ip.timeout_seconds
            detail = f"must be greater than 0 and less than {_DAY_SECONDS}"
            yield fields.invalid(at.child("clientIP", "timeoutSeconds"), value, detail)
    elif spec.session_affinity == "None" and config is not None:
        yield fields.forbidden(at, "must not be set when session affinity is None")


def _ip_families(spec: ServiceSpec) -> Iterator[FieldError]:
    if spec.type == "ExternalName":
        return
    at = SPEC.child("clusterIPs")
    ips = spec.cluster_ips
    if spec.cluster_ip and ips and spec.cluster_ip != ips[0]:
        yield fields.invalid(at, list(ips), "first value must match `clusterIP`")
    if spec.ip_family_policy not in (None, "SingleStack", "PreferDualStack", "RequireDualStack"):
        choices = ("PreferDualStack", "RequireDualStack", "SingleStack")
        yield fields.not_supported(SPEC.child("ipFamilyPolicy"), spec.ip_family_policy, choices)
    seen: set[str] = set()
    for n, family in enumerate(spec.ip_families):
        here = SPEC.child("ipFamilies").index(n)
        if family not in ("IPv4", "IPv6"):
            yield fields.not_supported(here, family, ("IPv4", "IPv6"))
        if family in seen:
            yield fields.duplicate(here, family)
        seen.add(family)
    if len(ips) > 2:
        yield fields.invalid(at, list(ips), "may only hold up to 2 values")
    for n, ip in enumerate(ips):
        if ip == _NO_IP:
            if n == 0 and len(ips) > 1:
                yield fields.invalid(at, list(ips), "'None' must be the first and only value")
            continue
        yield from faults_of(at.index(n), ip, names.ip_address(ip))


def _port_conflicts(spec: ServiceSpec) -> Iterator[FieldError]:
    pairs: set[tuple[str | None, int]] = set()
    node_ports: set[tuple[str | None, int]] = set()
    for n, port in enumerate(spec.ports):
        at = SPEC.child("ports").index(n)
        if spec.type == "ClusterIP" and port.node_port:
            yield fields.forbidden(at.child("nodePort"), "may not be used when `type` is 'ClusterIP'")
        key = (port.protocol, port.port)
        if key in pairs:
            yield fields.duplicate(at, {"protocol": port.protocol or "", "port": port.port, "targetPort": 0})
        pairs.add(key)
        if port.node_port:
            key = (port.protocol, port.node_port)
            if key in node_ports:
                yield fields.duplicate(at.child("nodePort"), port.node_port)
            node_ports.add(key)


def _source_ranges(spec: ServiceSpec) -> Iterator[FieldError]:
    if not spec.load_balancer_source_ranges:
        return
    at = SPEC.child("LoadBalancerSourceRanges")
    if spec.type != "LoadBalancer":
        yield fields.forbidden(at, "may only be used when `type` is 'LoadBalancer'")
    for n, text in enumerate(spec.load_balancer_source_ranges):
        yield from cidr(at.index(n), text.strip())


def _traffic(spec: ServiceSpec) -> Iterator[FieldError]:
    at = SPEC.child("externalTrafficPolicy")
    external = spec.type in ("NodePort", "LoadBalancer") or (spec.type == "ClusterIP" and bool(spec.external_ips))
    if external:
        if not spec.external_traffic_policy:
            yield fields.required(at)
        yield from one_of(SPEC, "externalTrafficPolicy", spec.external_traffic_policy, ("Cluster", "Local"))
    elif spec.external_traffic_policy:
        detail = "may only be set for externally-accessible services"
        yield fields.invalid(at, spec.external_traffic_policy, detail)
    yield from one_of(SPEC, "internalTrafficPolicy", spec.internal_traffic_policy, ("Cluster", "Local"))
    if spec.type != "ExternalName" and spec.internal_traffic_policy is None:
        yield fields.required(SPEC.child("internalTrafficPolicy"))
    if spec.health_check_node_port and not (spec.type == "LoadBalancer" and spec.external_traffic_policy == "Local"):
        detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        yield fields.invalid(SPEC.child("healthCheckNodePort"), spec.health_check_node_port, detail)
    if spec.type != "LoadBalancer":
        if spec.allocate_load_balancer_node_ports is not None:
            detail = "may only be used when `type` is 'LoadBalancer'"
            yield fields.forbidden(SPEC.child("allocateLoadBalancerNodePorts"), detail)
        if spec.load_balancer_class is not None:
            detail = "may only be used when `type` is 'LoadBalancer'"
            yield fields.forbidden(SPEC.child("loadBalancerClass"), detail)
    elif spec.load_balancer_class is not None:
        at = SPEC.child("loadBalancerClass")
        yield from faults_of(at, spec.load_balancer_class, names.qualified_name(spec.load_balancer_class))
    distribution = spec.traffic_distribution
    if distribution is not None and distribution not in ("PreferClose", "PreferSameZone", "PreferSameNode"):
        choices = ("PreferClose", "PreferSameNode", "PreferSameZone")
        yield fields.not_supported(SPEC.child("trafficDistribution"), distribution, choices)


def load_balancer_status(obj: Service) -> list[FieldError]:
    found: list[FieldError] = []
    at = Path("status").child("loadBalancer", "ingress")
    if obj.status.load_balancer.ingress and obj.spec.type != "LoadBalancer":
        found.append(fields.forbidden(at, 'may only be used when `spec.type` is "LoadBalancer"'))
    for n, point in enumerate(obj.status.load_balancer.ingress):
        if point.ip:
            found += faults_of(at.index(n).child("ip"), point.ip, names.ip_address(point.ip))
            if point.ip_mode not in (None, "VIP", "Proxy"):
                found.append(fields.not_supported(at.index(n).child("ipMode"), point.ip_mode, ("Proxy", "VIP")))
        if point.hostname:
            found += faults_of(at.index(n).child("hostname"), point.hostname, names.dns_subdomain(point.hostname))
            if not names.ip_address(point.hostname):
                detail = "must be a DNS name, not an IP address"
                found.append(fields.invalid(at.index(n).child("hostname"), point.hostname, detail))
    return found
