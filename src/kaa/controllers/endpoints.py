"""Endpoints of Services, the older form of EndpointSlices: one object a service, packed into subsets.

Source: kubernetes pkg/controller/endpoint, pkg/api/v1/endpoints (RepackSubsets).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable

from msgspec.structs import replace

from kaa.api import scheme
from kaa.api.errors import ApiError, Forbidden, NotFound
from kaa.api.types.core_v1 import EndpointAddress, EndpointPort, Endpoints, EndpointSubset, Pod, Service
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.client.informer import key_of
from kaa.client.workqueue import Key

from . import service_pods
from .controller import Context, Controller, refused_since_it_ends
from .endpointslice import families_of
from .pods import is_finished, is_ready

MANAGED_BY = "endpoints.kubernetes.io/managed-by"
MANAGER = "endpoint-controller"
OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"
MOST_ADDRESSES = 1000


def address_of(pod: Pod, service: Service) -> EndpointAddress | None:
    """The pod's address in the service's first family."""
    ip = service_pods.address_of(pod, families_of(service)[0])
    if ip is None:
        return None
    return EndpointAddress(
        ip=ip,
        hostname=service_pods.hostname_of(pod, service),
        node_name=pod.spec.node_name or None,
        target_ref=service_pods.reference_to(pod),
    )


def ports_of(service: Service, pod: Pod) -> list[EndpointPort | None]:
    """The pod's ports behind the service's; one None for a headless service that names none."""
    if not service.spec.ports:
        return [None] if service_pods.is_headless(service) else []
    found = ((port, service_pods.target_port(port, pod)) for port in service.spec.ports)
    return [
        EndpointPort(
            name=port.name or None, port=number, protocol=port.protocol or "TCP", app_protocol=port.app_protocol
        )
        for port, number in found
        if number is not None
    ]


def subsets_of(service: Service, pods: Iterable[Pod]) -> tuple[EndpointSubset, ...]:
    """Addresses with the same ports share a subset. Pods that end are left out, unless unready ones are published."""
    publishes_all = bool(service.spec.publish_not_ready_addresses)
    ports: dict[EndpointAddress, dict[EndpointPort | None, bool]] = {}
    order: dict[str, EndpointAddress] = {}
    for pod in pods:
        address = address_of(pod, service)
        leaves = pod.metadata.deletion_timestamp is not None and not publishes_all
        if address is None or is_finished(pod) or leaves:
            continue
        address = order.setdefault(pod.metadata.uid or address.ip, address)
        ready = is_ready(pod) or publishes_all
        for port in ports_of(service, pod):
            ports.setdefault(address, {})[port] = ready
    return _packed(ports)


def _packed(ports: dict[EndpointAddress, dict[EndpointPort | None, bool]]) -> tuple[EndpointSubset, ...]:
    groups: dict[frozenset[EndpointPort | None], list[tuple[EndpointAddress, bool]]] = defaultdict(list)
    for address, found in ports.items():
        groups[frozenset(found)].append((address, next(iter(found.values()))))
    subsets = [
        EndpointSubset(
            addresses=_sorted(address for address, ready in members if ready),
            not_ready_addresses=_sorted(address for address, ready in members if not ready),
            ports=tuple(sorted((p for p in group if p is not None), key=_digest)),
        )
        for group, members in groups.items()
    ]
    return tuple(sorted(subsets, key=_digest))


def _sorted(addresses: Iterable[EndpointAddress]) -> tuple[EndpointAddress, ...]:
    return tuple(sorted(addresses, key=lambda a: (a.ip, (a.target_ref.uid or "") if a.target_ref else "")))


def _digest(value: object) -> bytes:
    """An order that only has to be the same every time."""
    return hashlib.blake2b(scheme.encode_inner(value), digest_size=16).digest()


def plan(service: Service, pods: Iterable[Pod], standing: Endpoints | None) -> Endpoints | None:
    """The Endpoints to write, or None when they stand so already."""
    subsets, over = _limited(subsets_of(service, pods))
    labels = {**service.metadata.labels, MANAGED_BY: MANAGER}
    labels.pop(service_pods.HEADLESS_LABEL, None)
    if service_pods.is_headless(service):
        labels[service_pods.HEADLESS_LABEL] = ""
    old = standing or Endpoints(metadata=ObjectMeta(name=service.metadata.name, namespace=service.metadata.namespace))
    annotations = {key: value for key, value in old.metadata.annotations.items() if key != OVER_CAPACITY}
    if over:
        annotations[OVER_CAPACITY] = "truncated"
    wanted = replace(old, subsets=subsets, metadata=replace(old.metadata, labels=labels, annotations=annotations))
    return None if wanted == standing else wanted


def _limited(subsets: tuple[EndpointSubset, ...]) -> tuple[tuple[EndpointSubset, ...], bool]:
    """At most a thousand addresses, ready ones first."""
    left = MOST_ADDRESSES
    made = []
    for subset in subsets:
        made.append(replace(subset, addresses=subset.addresses[:left]))
        left -= len(made[-1].addresses)
    for n, subset in enumerate(made):
        made[n] = replace(subset, not_ready_addresses=subset.not_ready_addresses[:left])
        left -= len(made[n].not_ready_addresses)
    limited = tuple(subset for subset in made if subset.addresses or subset.not_ready_addresses)
    return limited, limited != subsets


class EndpointsController(Controller[Key]):
    """Keys are services."""

    name = "endpoint-controller"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.pods = context.informers.of(Pod)
        self.pods.add_index(service_pods.BY_LABEL, service_pods.label_words)
        services = context.informers.of(Service)
        services.add_index(service_pods.BY_SELECTOR, service_pods.selector_words)
        self.services = self.watch(Service, self._on_service)
        self.endpoints = self.watch(Endpoints, self._on_endpoints)
        self.watch(Pod, self._on_pod)

    def _on_service(self, old: Service | None, new: Service | None) -> None:
        found = new or old
        assert found is not None
        self.queue.add(key_of(found))

    def _on_endpoints(self, old: Endpoints | None, new: Endpoints | None) -> None:
        found = new or old
        assert found is not None
        self._look_soon(key_of(found))

    def _look_soon(self, key: Key) -> None:
        self.look_soon(key, service_pods.count_of(self.services.by_key(key), self.pods))

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        if old is not None and new is not None and not service_pods.matters(old, new):
            return
        concerned = {key_of(s): s for pod in (old, new) if pod for s in service_pods.services_of(pod, self.services)}
        for key in concerned:
            self._look_soon(key)

    async def reconcile(self, key: Key) -> None:
        service, standing = self.services.by_key(key), self.endpoints.by_key(key)
        if service is None:
            await self._delete(key, standing)
            return
        if not service_pods.is_served(service) or service.metadata.deletion_timestamp is not None:
            return
        wanted = plan(service, service_pods.pods_of(service, self.pods), standing)
        if wanted is not None:
            await self._write(service, wanted, standing)

    async def _delete(self, key: Key, standing: Endpoints | None) -> None:
        """Endpoints are named like their service and have no owner: they go with it here, if they are ours."""
        if standing is None or standing.metadata.labels.get(MANAGED_BY) != MANAGER:
            return
        try:
            await self.client.delete(Endpoints, key.name, key.namespace)
        except NotFound:
            return

    async def _write(self, service: Service, wanted: Endpoints, standing: Endpoints | None) -> None:
        try:
            made = await (self.client.create(wanted) if standing is None else self.client.update(wanted))
        except Forbidden as err:
            if refused_since_it_ends(err):
                return
            self._complain(service, standing, err)
            raise
        except ApiError as err:
            self._complain(service, standing, err)
            raise
        await self.endpoints.shows(made.metadata.resource_version)

    def _complain(self, service: Service, standing: Endpoints | None, error: ApiError) -> None:
        verb, name = ("create", "Create") if standing is None else ("update", "Update")
        key = f"{service.metadata.namespace}/{service.metadata.name}"
        about = service if standing is None else standing
        text = f"Failed to {verb} endpoint for service {key}: {error}" if standing is None else ""
        text = text or f"Failed to update endpoint {key}: {error}"
        self.events.event(about, "Warning", f"FailedTo{name}Endpoint", text)
