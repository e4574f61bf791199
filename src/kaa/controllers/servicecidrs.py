"""ServiceCIDRs: ready while they stand; deleted, they wait for the addresses that only they cover.

Source: kubernetes pkg/controller/servicecidrs.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from msgspec.structs import replace

from kaa.api.clock import parse_time
from kaa.api.errors import NotFound
from kaa.api.types.meta_v1 import Condition
from kaa.api.types.networking_v1 import IPAddress, ServiceCIDR
from kaa.client.informer import key_of
from kaa.client.workqueue import Key

from .controller import Context, Controller

FINALIZER = "networking.k8s.io/service-cidr-finalizer"
#: Allocators may still use a range for this long after its deletion was asked for.
GRACE_S = 10.0
READY_TEXT = "Kubernetes Service CIDR is ready"
TERMINATING_TEXT = (
    "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR"
)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks_of(cidr: ServiceCIDR) -> list[Network]:
    return [ipaddress.ip_network(text) for text in cidr.spec.cidrs]


def covers(network: Network, other: Network) -> bool:
    return network.version == other.version and other.subnet_of(network)  # type: ignore[arg-type]  # of one version


def is_needed(cidr: ServiceCIDR, others: Iterable[ServiceCIDR], addresses: Iterable[IPAddress]) -> bool:
    """Whether some address lies in a range and in no other that stays."""
    staying = [
        network
        for other in others
        if other.metadata.name != cidr.metadata.name and other.metadata.deletion_timestamp is None
        for network in networks_of(other)
    ]
    mine = [network for network in networks_of(cidr) if not any(covers(other, network) for other in staying)]
    for address in addresses:
        ip = ipaddress.ip_address(address.metadata.name or "0.0.0.0")
        if any(ip in network for network in mine) and not any(ip in network for network in staying):
            return True
    return False


def with_ready(cidr: ServiceCIDR, status: str, reason: str, message: str, now: str) -> ServiceCIDR:
    old = next((c for c in cidr.status.conditions if c.type == "Ready"), None)
    if old is not None and (old.status, old.reason, old.message) == (status, reason, message):
        return cidr
    since = old.last_transition_time if old is not None and old.status == status else now
    new = Condition(type="Ready", status=status, reason=reason, message=message, last_transition_time=since)
    others = tuple(c for c in cidr.status.conditions if c.type != "Ready")
    return replace(cidr, status=replace(cidr.status, conditions=(*others, new)))


class ServiceCIDRs(Controller[Key]):
    """Keys are ranges."""

    name = "service-cidrs-controller"
    workers = 1

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.cidrs = self.informers.of(ServiceCIDR)
        self.addresses = self.watch(IPAddress, self._on_address)
        self.watch(ServiceCIDR, self._on_cidr)

    def _on_cidr(self, old: ServiceCIDR | None, new: ServiceCIDR | None) -> None:
        """A new range may cover what an ending one still has to."""
        self._look_at_ending()
        if new is not None:
            self.queue.add(key_of(new))

    def _on_address(self, old: IPAddress | None, new: IPAddress | None) -> None:
        if new is None:
            self._look_at_ending()

    def _look_at_ending(self) -> None:
        for cidr in self.cidrs:
            if cidr.metadata.deletion_timestamp is not None:
                self.queue.add(key_of(cidr))

    async def reconcile(self, key: Key) -> float | None:
        cidr = self.cidrs.by_key(key)
        if cidr is None:
            return None
        try:
            if cidr.metadata.deletion_timestamp is not None:
                return await self._end(cidr)
            if FINALIZER not in cidr.metadata.finalizers:
                cidr = await self._with_finalizers(cidr, (*cidr.metadata.finalizers, FINALIZER))
            await self._status(with_ready(cidr, "True", "", READY_TEXT, self.now()), cidr)
        except NotFound:
            return None
        return None

    async def _end(self, cidr: ServiceCIDR) -> float | None:
        if FINALIZER not in cidr.metadata.finalizers:
            return None
        if is_needed(cidr, self.cidrs, self.addresses):
            await self._status(with_ready(cidr, "False", "Terminating", TERMINATING_TEXT, self.now()), cidr)
            return None
        left = parse_time(cidr.metadata.deletion_timestamp or self.now()) + GRACE_S - self.clock.now()
        if left > 0:
            return left
        await self._with_finalizers(cidr, tuple(each for each in cidr.metadata.finalizers if each != FINALIZER))
        return None

    async def _with_finalizers(self, cidr: ServiceCIDR, finalizers: tuple[str, ...]) -> ServiceCIDR:
        return await self.client.update(replace(cidr, metadata=replace(cidr.metadata, finalizers=finalizers)))

    async def _status(self, wanted: ServiceCIDR, cidr: ServiceCIDR) -> None:
        if wanted is not cidr:
            written = await self.client.update_status(wanted)
            await self.cidrs.shows(written.metadata.resource_version)
