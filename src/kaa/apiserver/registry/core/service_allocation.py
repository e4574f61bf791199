"""Which cluster addresses and node ports are free, and how a service gets its own.

What is taken is what services hold: a set derived from them once, then kept up with each allocation for as long as the
view's version says that nothing else changed.

Source: pkg/registry/core/service/storage/alloc.go, ipallocator, portallocator.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import TypeVar

from msgspec.structs import replace

from kaa.api import errors, fields
from kaa.api.fields import FieldError, Path
from kaa.api.types.core_v1 import Service, ServicePort, ServiceSpec
from kaa.api.types.networking_v1 import IPAddress

from ...view import View

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

DEFAULT_CIDRS = ("10.96.0.0/16",)
DEFAULT_NODE_PORTS = (30000, 32767)
NO_IP = "None"
_TRIES = 64
_PROMISE_S = 10.0
P = TypeVar("P", str, int)


@dataclass(frozen=True)
class ServiceRanges:
    """The networks of cluster addresses, the first one's family preferred, and the first and last node port."""

    cluster_cidrs: tuple[str, ...] = DEFAULT_CIDRS
    node_ports: tuple[int, int] = DEFAULT_NODE_PORTS

    @property
    def networks(self) -> dict[str, Network]:
        """{IP family: network}, in order of preference."""
        found = [ipaddress.ip_network(cidr) for cidr in self.cluster_cidrs]
        return {f"IPv{network.version}": network for network in found}


@dataclass
class Taken:
    """The addresses and ports in use as of ``version``."""

    version: tuple[int, int]
    ips: set[str]
    ports: set[int]


def taken_by(services: Iterable[Service], addresses: Iterable[IPAddress], version: tuple[int, int]) -> Taken:
    ips: set[str] = {address.metadata.name or "" for address in addresses}
    ports: set[int] = set()
    for service in services:
        ips.update(service.spec.cluster_ips)
        ports.update(port.node_port for port in service.spec.ports if port.node_port)
        if service.spec.health_check_node_port:
            ports.add(service.spec.health_check_node_port)
    ips.discard(NO_IP)
    return Taken(version, ips, ports)


class Allocator:
    """Addresses and ports for services, out of ``ranges``."""

    def __init__(self, ranges: ServiceRanges) -> None:
        self.ranges = ranges
        self.networks = ranges.networks
        self._taken: Taken | None = None
        #: {address or port picked for an object on its way to the store: until when it is not picked again}
        self._promised: dict[str | int, float] = {}

    def taken(self, view: View) -> Taken:
        version = (view.version(Service), view.version(IPAddress))
        if self._taken is None or self._taken.version != version:
            self._taken = taken_by(view.list(Service), view.list(IPAddress), version)
        return self._taken

    def allocate(self, new: Service, old: Service | None, view: View) -> Service:
        """``new`` with its families, addresses and ports. Raises Invalid where what it asks for is not to be had."""
        spec = with_families(new.spec, old.spec if old is not None else None, self.networks)
        kept_ips = set(old.spec.cluster_ips) if old is not None else set()
        kept_ports = _ports_of(old.spec) if old is not None else set()
        source = view.clock.random
        spec = self._with_ips(new, spec, kept_ips, view, source)
        spec = self._with_ports(new, spec, kept_ports, view)
        return new if spec is new.spec else replace(new, spec=spec)

    def _promise(self, picked: P, view: View) -> P:
        self._promised[picked] = view.clock.monotonic() + _PROMISE_S
        return picked

    def _avoided(self, taken: set[P], view: View) -> Set[P]:
        """What is taken, and what was picked moments ago: its object may be in the store and not yet in the view."""
        now = view.clock.monotonic()
        self._promised = {picked: until for picked, until in self._promised.items() if until > now}
        return taken | self._promised.keys() if self._promised else taken  # type: ignore[return-value]  # keys of both sorts

    # -------------------------------------------------------------------------------------------- addresses

    def _with_ips(
        self, obj: Service, spec: ServiceSpec, kept: set[str], view: View, source: random.Random
    ) -> ServiceSpec:
        if spec.type == "ExternalName" or NO_IP in (spec.cluster_ip, *spec.cluster_ips[:1]):
            return spec
        wanted = list(spec.cluster_ips) or ([spec.cluster_ip] if spec.cluster_ip else [])
        if wanted and len(wanted) >= len(spec.ip_families) and set(wanted) <= kept:
            return spec
        made: list[str] = []
        for n, family in enumerate(spec.ip_families):
            network = self.networks.get(family)
            if network is None:
                continue
            if n < len(wanted):
                if wanted[n] not in kept:
                    self._claim_ip(obj, wanted, wanted[n], network, view)
                made.append(wanted[n])
            else:
                avoided = self._avoided(self.taken(view).ips, view)
                made.append(self._promise(self._free_ip(obj, network, avoided, source), view))
        return replace(spec, cluster_ip=made[0] if made else spec.cluster_ip, cluster_ips=tuple(made))

    def _claim_ip(self, obj: Service, wanted: list[str], ip: str, network: Network, view: View) -> None:
        why = ""
        address = ipaddress.ip_address(ip)
        if address not in network or address == network.network_address or address == network.broadcast_address:
            why = "the provided network does not match the current range"
        elif ip in self.taken(view).ips:
            why = "provided IP is already allocated"
        if why:
            raise _invalid(obj, fields.invalid(_SPEC.child("clusterIPs"), wanted, f"failed to allocate IP {ip}: {why}"))

    @staticmethod
    def _free_ip(obj: Service, network: Network, taken: Set[str], source: random.Random) -> str:
        """A random free address of the upper part of the range: the lower one is left to those who ask by name."""
        size = network.num_addresses
        first = min(max(16, size // 16), 256) if size > 32 else 1
        last = size - 2 if network.version == 4 else size - 1
        for low, high in ((first, last), (1, last)):
            for _ in range(_TRIES):
                ip = str(network[source.randint(low, high)]) if low <= high else ""
                if ip and ip not in taken:
                    return ip
            found = next(
                (str(network[n]) for n in range(low, min(high, 2**20) + 1) if str(network[n]) not in taken), ""
            )
            if found:
                return found
        message = "failed to allocate IP: range is full"
        raise errors.InternalError(f"Internal error occurred: {message}", name=obj.metadata.name or "", kind="services")

    # -------------------------------------------------------------------------------------------- ports

    def _with_ports(self, obj: Service, spec: ServiceSpec, kept: set[int], view: View) -> ServiceSpec:
        if not _wants_ports(spec):
            return spec
        taken: set[int] | None = None
        mine: dict[int, set[str]] = {}
        made: list[ServicePort] = []
        for n, port in enumerate(spec.ports):
            number = port.node_port or _shared_port(made, port)
            if number is None or (number not in kept and number not in mine):
                taken = self.taken(view).ports if taken is None else taken
                number = self._port(
                    obj, _SPEC.child("ports").index(n).child("nodePort"), number, taken | mine.keys(), view
                )
            mine.setdefault(number, set()).add(port.protocol or "TCP")
            made.append(port if port.node_port == number else replace(port, node_port=number))
        if tuple(made) != spec.ports:
            spec = replace(spec, ports=tuple(made))
        if needs_health_check(spec):
            wanted = spec.health_check_node_port or None
            if wanted is None or wanted not in kept:
                used = self.taken(view).ports | mine.keys()
                number = self._port(obj, _SPEC.child("healthCheckNodePort"), wanted, used, view)
                spec = replace(spec, health_check_node_port=number)
        return spec

    def _port(self, obj: Service, path: Path, wanted: int | None, taken: set[int], view: View) -> int:
        first, last = self.ranges.node_ports
        source = view.clock.random
        if wanted is None:
            return self._promise(self._free_port(obj, path, self._avoided(taken, view), source), view)
        if not first <= wanted <= last:
            detail = f"provided port is not in the valid range. The range of valid ports is {first}-{last}"
            raise _invalid(obj, fields.invalid(path, wanted, detail))
        if wanted in taken:
            raise _invalid(obj, fields.invalid(path, wanted, "provided port is already allocated"))
        return wanted

    def _free_port(self, obj: Service, path: Path, taken: Set[int], source: random.Random) -> int:
        first, last = self.ranges.node_ports
        low = first + min(max(16, (last - first + 1) // 32), 128) if last - first > 32 else first
        for start in (low, first):
            for _ in range(_TRIES):
                port = source.randint(start, last)
                if port not in taken:
                    return port
        port = next((port for port in range(first, last + 1) if port not in taken), 0)
        if port:
            return port
        raise _invalid(obj, fields.invalid(path, 0, "failed to allocate a nodePort: range is full"))


_SPEC = Path("spec")


def _invalid(obj: Service, fault: FieldError) -> errors.ApiError:
    return errors.Invalid.of("", "Service", obj.metadata.name or "", [fault])


def _wants_ports(spec: ServiceSpec) -> bool:
    if spec.type == "NodePort":
        return True
    return spec.type == "LoadBalancer" and (
        spec.allocate_load_balancer_node_ports is not False or any(port.node_port for port in spec.ports)
    )


def needs_health_check(spec: ServiceSpec) -> bool:
    return spec.type == "LoadBalancer" and spec.external_traffic_policy == "Local"


def _shared_port(made: list[ServicePort], port: ServicePort) -> int | None:
    """One port number for one ``port`` under several protocols (DNS over TCP and UDP)."""
    for other in made:
        if other.port == port.port and other.protocol != port.protocol:
            return other.node_port
    return None


def _ports_of(spec: ServiceSpec) -> set[int]:
    found = {port.node_port for port in spec.ports if port.node_port}
    return found | {spec.health_check_node_port} if spec.health_check_node_port else found


# ------------------------------------------------------------------------------------------------ families


def with_families(spec: ServiceSpec, old: ServiceSpec | None, networks: dict[str, Network]) -> ServiceSpec:
    """The spec with its family policy, families and the pair clusterIP/clusterIPs agreeing."""
    if spec.type == "ExternalName":
        return spec
    ips = spec.cluster_ips
    if spec.cluster_ip and not ips:
        ips = (spec.cluster_ip,)
    headless = ips[:1] == (NO_IP,)
    families = list(spec.ip_families)
    for ip in ips:
        family = "" if ip == NO_IP else _family(ip)
        if family and family not in families:
            families.append(family)
    policy = spec.ip_family_policy
    if not policy:
        policy = "RequireDualStack" if len(families) == 2 else "SingleStack"
        if headless and not spec.selector and not spec.ip_families:
            policy = "RequireDualStack"
    if not families:
        families.append(next(iter(networks)))
    if (policy == "RequireDualStack" and len(families) == 1 and headless and not spec.selector) or (
        policy in ("PreferDualStack", "RequireDualStack") and len(networks) == 2 and len(families) == 1
    ):
        families.append("IPv6" if families[0] == "IPv4" else "IPv4")
    if policy == "SingleStack":
        families = families[:1]
        ips = ips[:1] if old is not None and len(old.cluster_ips) == 2 else ips
    changes = {"cluster_ips": ips, "ip_families": tuple(families), "ip_family_policy": policy}
    if all(getattr(spec, name) == value for name, value in changes.items()):
        return spec
    return replace(spec, **changes)


def _family(ip: str) -> str:
    try:
        return f"IPv{ipaddress.ip_address(ip).version}"
    except ValueError:
        return ""
