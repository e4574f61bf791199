"""EndpointSlices for Endpoints that someone else than Kubernetes keeps: a Service without a selector is served by those.

What proxies read is slices alone; so addresses that a user writes by hand into Endpoints are mirrored. Not mirrored are
Endpoints labelled to be skipped, those that the endpoint controller made, and those of a Service with a selector.

Source: kubernetes pkg/controller/endpointslicemirroring.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from kaa.api.errors import ApiError
from kaa.api.types.core_v1 import EndpointAddress, Endpoints, EndpointSubset, Service
from kaa.api.types.discovery_v1 import Endpoint, EndpointConditions, EndpointPort, EndpointSlice
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.client.informer import key_of
from kaa.client.workqueue import Key

from . import endpoints as made_by_us
from .controller import Context, Controller, refused_since_it_ends
from .endpointslice import MANAGED_BY, SERVICE_NAME, Plan, Ports, apply, fit, of_manager
from .pods import controller_reference

MANAGER = "endpointslicemirroring-controller.k8s.io"
SKIP = "endpointslice.kubernetes.io/skip-mirror"
LEADER = "control-plane.alpha.kubernetes.io/leader"
LAST_CHANGE = "endpoints.kubernetes.io/last-change-trigger-time"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
MOST_ADDRESSES = 1000  #: of a subset
BY_MIRRORED = "mirrored service"


def is_mirrored(endpoints: Endpoints) -> bool:
    """Whether Endpoints are someone's own, and not marked to be left alone."""
    labels = endpoints.metadata.labels
    if labels.get(SKIP, "").lower() == "true" or LEADER in endpoints.metadata.annotations:
        return False
    return labels.get(made_by_us.MANAGED_BY) != made_by_us.MANAGER


@dataclass(frozen=True, slots=True)
class Mirror:
    """Endpoints as slices hold them: {(address type, ports): endpoints}; and the addresses that were left out."""

    wanted: dict[tuple[str, Ports], list[Endpoint]]
    invalid: int = 0
    skipped: int = 0


def mirror(endpoints: Endpoints) -> Mirror:
    """Sort the addresses of all subsets by family and ports."""
    wanted: dict[tuple[str, Ports], list[Endpoint]] = defaultdict(list)
    invalid = skipped = 0
    for subset in endpoints.subsets:
        ports = _ports(subset)
        every = [*((a, True) for a in subset.addresses), *((a, False) for a in subset.not_ready_addresses)]
        added = 0
        for address, ready in every:
            family = _family(address.ip)
            if added >= MOST_ADDRESSES:
                skipped += 1
            elif not family:
                invalid += 1
            else:
                wanted[family, ports].append(_endpoint(address, ready))
                added += 1
    return Mirror(wanted, invalid, skipped)


def _ports(subset: EndpointSubset) -> Ports:
    return tuple(
        EndpointPort(name=p.name or "", port=p.port, protocol=p.protocol or "TCP", app_protocol=p.app_protocol)
        for p in subset.ports
    )


def _family(text: str) -> str:
    """``IPv4`` or ``IPv6``; empty for what is no address."""
    try:
        return f"IPv{ipaddress.ip_address(text).version}"
    except ValueError:
        return ""


def _endpoint(address: EndpointAddress, ready: bool) -> Endpoint:
    return Endpoint(
        addresses=(address.ip,),
        conditions=EndpointConditions(ready=ready),
        hostname=address.hostname or None,
        node_name=address.node_name,
        target_ref=address.target_ref,
    )


def metadata_of(endpoints: Endpoints) -> ObjectMeta:
    """What a new slice says of itself: what the Endpoints say, and whose they are."""
    meta = endpoints.metadata
    notes = {key: word for key, word in meta.annotations.items() if key not in (LAST_CHANGE, LAST_APPLIED)}
    return ObjectMeta(
        generate_name=f"{(meta.name or '')[:57]}-",
        namespace=meta.namespace,
        labels={**meta.labels, SERVICE_NAME: meta.name or "", MANAGED_BY: MANAGER},
        annotations=notes,
        owner_references=(controller_reference(endpoints),),
    )


def plan(endpoints: Endpoints, mirrored: Mirror, slices: Sequence[EndpointSlice]) -> Plan:
    """Decide which slices to write so that they say what the Endpoints say."""
    meta = metadata_of(endpoints)
    made = fit(meta, mirrored.wanted, slices, MOST_ADDRESSES)
    updates = {each.metadata.name: each for each in made.update}
    update = []
    for old in (each for each in slices if each not in made.delete):
        new = updates.get(old.metadata.name, old)
        new = replace(new, metadata=replace(new.metadata, annotations=meta.annotations))
        if new != old:
            update.append(new)
    return Plan(made.create, tuple(update), made.delete)


class EndpointSliceMirroring(Controller[Key]):
    """Keys are services and their Endpoints, which share a name."""

    name = "endpointslicemirroring-controller"
    component = "endpoint-slice-mirroring-controller"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.slices = context.informers.of(EndpointSlice)
        self.slices.add_index(BY_MIRRORED, of_manager(MANAGER))
        self.services = self.watch(Service, self._on_service)
        self.endpoints = self.watch(Endpoints, self._on_endpoints)
        self.watch(EndpointSlice, self._on_slice)

    def _on_service(self, old: Service | None, new: Service | None) -> None:
        if old is None or new is None or bool(old.spec.selector) != bool(new.spec.selector):
            self.queue.add(key_of(new or old))

    def _on_endpoints(self, old: Endpoints | None, new: Endpoints | None) -> None:
        if any(each is not None and is_mirrored(each) for each in (old, new)):
            self.queue.add(key_of(new or old))

    def _on_slice(self, old: EndpointSlice | None, new: EndpointSlice | None) -> None:
        for each in (old, new):
            if each is not None and each.metadata.labels.get(MANAGED_BY) == MANAGER:
                self.queue.add(Key(each.metadata.namespace or "", each.metadata.labels.get(SERVICE_NAME, "")))

    async def reconcile(self, key: Key) -> None:
        standing = [e for e in self.slices.by_index(BY_MIRRORED, str(key)) if e.metadata.deletion_timestamp is None]
        standing.sort(key=lambda each: each.metadata.name or "")
        endpoints = self.endpoints.by_key(key)
        if endpoints is None or not self._concerned(key, endpoints):
            await apply(self.client, self.slices, Plan(delete=tuple(standing)))
            return
        mirrored = mirror(endpoints)
        wanted = plan(endpoints, mirrored, standing)
        if wanted == Plan():
            return
        self._tell(endpoints, mirrored)
        try:
            await apply(self.client, self.slices, wanted)
        except ApiError as err:
            if not refused_since_it_ends(err):
                text = f"Error updating Endpoint Slices for Endpoints {key}: {err}"
                self.events.event(endpoints, "Warning", "FailedToUpdateEndpointSlices", text)
            raise

    def _concerned(self, key: Key, endpoints: Endpoints) -> bool:
        service = self.services.by_key(key)
        ends = endpoints.metadata.deletion_timestamp is not None
        return service is not None and not service.spec.selector and not ends and is_mirrored(endpoints)

    def _tell(self, endpoints: Endpoints, mirrored: Mirror) -> None:
        if mirrored.invalid:
            text = f"Skipped {mirrored.invalid} invalid IP addresses when mirroring to EndpointSlices"
            self.events.event(endpoints, "Warning", "InvalidIPAddress", text)
        if mirrored.skipped:
            text = (
                f"A max of {MOST_ADDRESSES} addresses can be mirrored to EndpointSlices per Endpoints subset. "
                f"{mirrored.skipped} addresses were skipped"
            )
            self.events.event(endpoints, "Warning", "TooManyAddressesToMirror", text)
