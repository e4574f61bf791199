"""Endpoints.

Source: pkg/registry/core/endpoint/strategy.go; ValidateEndpoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields, names
from kaa.api.fields import FieldError, Path
from kaa.api.types.core_v1 import EndpointAddress, EndpointPort, Endpoints, EndpointSubset

from ...validation.common import endpoint_ip, faults_of, one_of
from ...validation.containers import PROTOCOLS
from ..fill import each
from ..strategy import Strategy
from ..tables import NONE, age, first_few, shape


def _cells(obj: Endpoints, now: float) -> Sequence[Any]:
    return obj.metadata.name, _points(obj), age(obj.metadata, now)


def _points(obj: Endpoints) -> str:
    """``10.0.0.1:80,10.0.0.2:80 + 1 more...``"""
    if not obj.subsets:
        return NONE
    found: list[str] = []
    for subset in obj.subsets:
        if not subset.ports:
            found += (address.ip for address in subset.addresses)
        for port in subset.ports:
            for address in subset.addresses:
                host = f"[{address.ip}]" if ":" in address.ip else address.ip
                found.append(f"{host}:{port.port}")
    return first_few(found) or NONE


class EndpointsStrategy(Strategy[Endpoints]):
    kind = Endpoints
    allows_create_on_update = True
    table = shape("core/endpoints", "Endpoints|Age", _cells)

    def default(self, obj: Endpoints) -> Endpoints:
        subsets = each(obj.subsets, _subset)
        return obj if subsets is obj.subsets else replace(obj, subsets=subsets)

    def validate(self, obj: Endpoints) -> list[FieldError]:
        return [fault for n, subset in enumerate(obj.subsets) for fault in _faults(subset, Path("subsets").index(n))]

    def warnings(self, obj: Endpoints, old: Endpoints | None) -> Sequence[str]:
        return ()


def _subset(given: EndpointSubset) -> EndpointSubset:
    ports = each(given.ports, lambda port: port if port.protocol else replace(port, protocol="TCP"))
    return given if ports is given.ports else replace(given, ports=ports)


def _faults(subset: EndpointSubset, path: Path) -> Iterator[FieldError]:
    if not subset.addresses and not subset.not_ready_addresses:
        yield fields.required(path, "must specify `addresses` or `notReadyAddresses`")
    for wire, addresses in (("addresses", subset.addresses), ("notReadyAddresses", subset.not_ready_addresses)):
        for n, address in enumerate(addresses):
            yield from _address(address, path.child(wire).index(n))
    for n, port in enumerate(subset.ports):
        yield from _port(port, len(subset.ports) > 1, path.child("ports").index(n))


def _address(address: EndpointAddress, path: Path) -> Iterator[FieldError]:
    if address.hostname:
        yield from faults_of(path.child("hostname"), address.hostname, names.dns_label(address.hostname))
    if address.node_name is not None:
        yield from faults_of(path.child("nodeName"), address.node_name, names.dns_subdomain(address.node_name))
    yield from endpoint_ip(path.child("ip"), address.ip)


def _port(port: EndpointPort, named: bool, path: Path) -> Iterator[FieldError]:
    if port.name:
        yield from faults_of(path.child("name"), port.name, names.dns_label(port.name))
    elif named:
        yield fields.required(path.child("name"))
    yield from faults_of(path.child("port"), port.port, names.port_number(port.port))
    if port.protocol not in PROTOCOLS:
        yield from one_of(path, "protocol", port.protocol, PROTOCOLS, needed=True)


STRATEGY = EndpointsStrategy()
