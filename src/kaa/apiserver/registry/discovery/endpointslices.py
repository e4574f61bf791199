"""EndpointSlices.

Source: pkg/registry/discovery/endpointslice/strategy.go; ValidateEndpointSlice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields, names
from kaa.api.fields import FieldError, Path
from kaa.api.types.discovery_v1 import Endpoint, EndpointPort, EndpointSlice
from kaa.api.types.meta_v1 import ObjectMeta

from ...validation.common import endpoint_ip, faults_of, immutable, one_of
from ...validation.containers import PROTOCOLS
from ..fill import each
from ..strategy import Strategy
from ..tables import UNSET, age, first_few, shape

_MOST_ENDPOINTS = 1000
_MOST_ADDRESSES = 100
_MOST_PORTS = 20000
_TYPES = ("FQDN", "IPv4", "IPv6")


def _cells(obj: EndpointSlice, now: float) -> Sequence[Any]:
    ports = first_few("*" if port.port is None else str(port.port) for port in obj.ports)
    addresses = first_few(address for endpoint in obj.endpoints for address in endpoint.addresses)
    return obj.metadata.name, obj.address_type, ports or UNSET, addresses or UNSET, age(obj.metadata, now)


class EndpointSliceStrategy(Strategy[EndpointSlice]):
    kind = EndpointSlice
    counts_generation = True
    table = shape("discovery/endpointslices", "AddressType|Ports|Endpoints|Age", _cells)

    def default(self, obj: EndpointSlice) -> EndpointSlice:
        ports = each(obj.ports, _port)
        return obj if ports is obj.ports else replace(obj, ports=ports)

    def spec_changed(self, new: EndpointSlice, old: EndpointSlice) -> bool:
        plain = ObjectMeta()
        if new.metadata.labels != old.metadata.labels:
            return True
        return replace(new, metadata=plain) != replace(old, metadata=plain)

    def validate(self, obj: EndpointSlice) -> list[FieldError]:
        return list(_faults(obj))

    def validate_update(self, new: EndpointSlice, old: EndpointSlice) -> list[FieldError]:
        changed = immutable(Path("addressType"), new.address_type, old.address_type)
        return [*_faults(new), *changed]


def _port(port: EndpointPort) -> EndpointPort:
    changes: dict[str, Any] = {}
    if port.name is None:
        changes["name"] = ""
    if port.protocol is None:
        changes["protocol"] = "TCP"
    return replace(port, **changes) if changes else port


def _faults(obj: EndpointSlice) -> Iterator[FieldError]:
    if obj.address_type not in _TYPES:
        yield from one_of(Path(), "addressType", obj.address_type, _TYPES, needed=True)
    if len(obj.endpoints) > _MOST_ENDPOINTS:
        yield fields.too_many(Path("endpoints"), len(obj.endpoints), _MOST_ENDPOINTS)
    else:
        for n, endpoint in enumerate(obj.endpoints):
            yield from _endpoint(endpoint, obj.address_type, n)
    if len(obj.ports) > _MOST_PORTS:
        yield fields.too_many(Path("ports"), len(obj.ports), _MOST_PORTS)
        return
    seen: set[str] = set()
    for n, port in enumerate(obj.ports):
        at = Path("ports").index(n)
        if port.name:
            yield from faults_of(at.child("name"), port.name, names.dns_label(port.name))
        if port.name in seen:
            yield fields.duplicate(at.child("name"), port.name or "")
        seen.add(port.name or "")
        if port.port is not None:
            yield from faults_of(at.child("port"), port.port, names.port_number(port.port))
        if port.protocol not in PROTOCOLS:
            yield from one_of(at, "protocol", port.protocol, PROTOCOLS, needed=True)
        if port.app_protocol is not None:
            yield from faults_of(at.child("appProtocol"), port.app_protocol, names.qualified_name(port.app_protocol))


def _endpoint(endpoint: Endpoint, kind: str, n: int) -> Iterator[FieldError]:
    path = Path(f"endpoints[{n}]")
    at = path.child("addresses")
    if not endpoint.addresses:
        yield fields.required(at, "must contain at least 1 address")
    elif len(endpoint.addresses) > _MOST_ADDRESSES:
        yield fields.too_many(at, len(endpoint.addresses), _MOST_ADDRESSES)
    for m, address in enumerate(endpoint.addresses):
        if kind == "FQDN":
            yield from faults_of(at, address, names.dns_subdomain(address))
        elif kind in ("IPv4", "IPv6"):
            if names.ip_version(address) != int(kind[-1]):
                yield fields.invalid(at, address, f"must be an {kind} address")
            yield from endpoint_ip(at.index(m), address)
    if endpoint.node_name is not None:
        yield from faults_of(path.child("nodeName"), endpoint.node_name, names.dns_subdomain(endpoint.node_name))
    for key, value in sorted(endpoint.deprecated_topology.items()):
        yield from faults_of(path.child("deprecatedTopology"), key, names.qualified_name(key))
        yield from faults_of(path.child("deprecatedTopology").key(key), value, names.label_value(value))
    if endpoint.hostname is not None:
        yield from faults_of(path.child("hostname"), endpoint.hostname, names.dns_label(endpoint.hostname))
    if endpoint.hints is not None:
        if len(endpoint.hints.for_zones) > 8:
            yield fields.too_many(path.child("hints", "forZones"), len(endpoint.hints.for_zones), 8)
        for m, zone in enumerate(endpoint.hints.for_zones):
            where = path.child("hints", "forZones").index(m).child("name")
            yield from faults_of(where, zone.name, names.label_value(zone.name))


STRATEGY = EndpointSliceStrategy()
