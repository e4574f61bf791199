"""Where an APIService's server is, and what its Service and endpoints say of its being there.

Plain functions on what the watch cache holds. Requests go to endpoints, not to the cluster IP, so that an API server
reaches them whether or not a proxy runs beside it (upstream's ``--enable-aggregator-routing``).
Source: apiserver pkg/util/proxy; kube-aggregator pkg/controllers/status/remote.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from kaa.api.types.apiregistration_v1 import APIService, APIServiceCondition, ServiceReference
from kaa.api.types.core_v1 import Service
from kaa.api.types.discovery_v1 import EndpointSlice

from ..view import View

AVAILABLE = "Available"
SERVICE_NAME = "kubernetes.io/service-name"
DEFAULT_PORT = 443


class Unresolved(Exception):
    """The service has no place to send a request to; the message says why."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why a server cannot be available, as its condition tells it."""

    reason: str
    message: str
    status: str = "False"


def is_available(service: APIService) -> bool:
    return any(c.type == AVAILABLE and c.status == "True" for c in service.status.conditions)


def with_condition(service: APIService, doubt: Doubt, now: str) -> tuple[APIServiceCondition, ...]:
    """The conditions with Available as ``doubt`` has it; the transition time moves only with the status."""
    kept = tuple(c for c in service.status.conditions if c.type != AVAILABLE)
    before = next((c for c in service.status.conditions if c.type == AVAILABLE), None)
    moved = before is None or before.status != doubt.status
    made = APIServiceCondition(
        type=AVAILABLE,
        status=doubt.status,
        reason=doubt.reason,
        message=doubt.message,
        last_transition_time=now if moved else before.last_transition_time,  # type: ignore[union-attr]  # not moved
    )
    return (*kept, made)


def slices_of(view: View, reference: ServiceReference) -> list[EndpointSlice]:
    found = view.list(EndpointSlice, reference.namespace or "")
    return [piece for piece in found if piece.metadata.labels.get(SERVICE_NAME) == reference.name]


def doubt_of(service: Service | None, slices: Sequence[EndpointSlice], reference: ServiceReference) -> Doubt | None:
    """What is wrong with the service that an APIService names, before anybody asks the server; None when nothing is."""
    name, where = reference.name, f'"{reference.namespace}"'
    if service is None:
        return Doubt("ServiceNotFound", f"service/{name} in {where} is not present")
    if service.spec.type != "ClusterIP":
        return None
    port = reference.port or DEFAULT_PORT
    found = next((p for p in service.spec.ports if p.port == port), None)
    if found is None:
        return Doubt("ServicePortError", f"service/{name} in {where} is not listening on port {port}")
    if not slices:
        return Doubt("EndpointsNotFound", f"cannot find endpointslices for service/{name} in {where}")
    port_name = found.name or ""
    if not any(_serves(piece, port_name) for piece in slices):
        text = f'endpointslices for service/{name} in {where} have no addresses with port name "{port_name}"'
        return Doubt("MissingEndpoints", text)
    return None


def _serves(piece: EndpointSlice, port_name: str) -> bool:
    return bool(_ready(piece)) and _port(piece, port_name) is not None


def _ready(piece: EndpointSlice) -> list[str]:
    """The addresses that may be asked, one an endpoint."""
    ready = (e for e in piece.endpoints if e.conditions is None or e.conditions.ready is not False)
    return [endpoint.addresses[0] for endpoint in ready if endpoint.addresses]


def _port(piece: EndpointSlice, name: str) -> int | None:
    return next((p.port for p in piece.ports if (p.name or "") == name and p.port), None)


def address_of(
    service: Service | None, slices: Iterable[EndpointSlice], reference: ServiceReference, random: Random
) -> tuple[str, int]:
    """Host and port of one of the servers, chosen at random. Raises Unresolved."""
    if service is None:
        raise Unresolved(f'service "{reference.name}" not found')
    port = reference.port or DEFAULT_PORT
    if service.spec.type == "ExternalName":
        return service.spec.external_name or "", port
    wanted = next((p for p in service.spec.ports if p.port == port), None)
    if wanted is None:
        raise Unresolved(f'no service port {port} found for service "{reference.name}"')
    places = [
        (address, number)
        for piece in slices
        if (number := _port(piece, wanted.name or "")) is not None
        for address in _ready(piece)
    ]
    if not places:
        raise Unresolved(f'no endpoints available for service "{reference.name}"')
    return random.choice(places)
