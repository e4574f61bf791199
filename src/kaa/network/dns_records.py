"""What a cluster's names mean. Pure: lookups in, records out; ``dns`` serves them.

Answers are those of CoreDNS' kubernetes plugin under kubeadm's Corefile (``pods insecure``, ``ttl 30``, reverse zones
fall through). Source: kubernetes/dns docs/specification.md 1.1.0; coredns/coredns:plugin/kubernetes.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from kaa.api.types.core_v1 import Service
from kaa.api.types.discovery_v1 import Endpoint, EndpointSlice

from .dns_wire import Answer, Code, Name, Record, Type, soa_data
from .ruleset import is_ready

TTL_S = 30
VERSION = "1.1.0"
VERSION_TTL_S = 28800
CHASE_LIMIT = 8


class Facts(Protocol):
    """The lookups that answers need."""

    def service(self, namespace: str, name: str) -> Service | None: ...

    def slices(self, namespace: str, name: str) -> Sequence[EndpointSlice]: ...

    def services_at(self, address: str) -> Sequence[Service]: ...

    def slices_at(self, address: str) -> Sequence[EndpointSlice]: ...

    def has_namespace(self, name: str) -> bool: ...

    def serial(self) -> int: ...


class Host(NamedTuple):
    """One thing a name leads to: an address or (``external``) another name, and a port, 0 for none."""

    address: str
    port: int
    name: Name
    external: Name | None = None


class Zone:
    """Answers for one cluster domain. ``server_ips`` are the name server's own addresses (``ns.dns.<zone>``)."""

    def __init__(self, facts: Facts, domain: str = "cluster.local", server_ips: tuple[str, ...] = ()) -> None:
        self.name: Name = split(domain)
        self._facts = facts
        self._server_ips = server_ips

    def holds(self, name: Name) -> bool:
        return name[-len(self.name) :] == self.name

    def answer(self, name: Name, kind: int) -> Answer | None:
        """The answer; None when the name is not ours to know: ask upstream."""
        if not self.holds(name):
            return self._reverse(name, kind)
        inner = name[: -len(self.name)]
        if not inner:
            return self._apex(kind)
        if inner == ("dns-version",) and kind == Type.TXT:
            text = VERSION.encode()
            return Answer(answers=(Record(name, kind, VERSION_TTL_S, bytes((len(text),)) + text),))
        if inner == ("ns", "dns"):
            return self._or_nothing(address_records(name, self._server_ips, kind))
        hosts = self._hosts(inner)
        if hosts is None:
            return Answer(Code.NXDOMAIN, authority=(self.soa(),))
        return self._records(name, kind, hosts)

    def soa(self) -> Record:
        return Record(self.name, Type.SOA, TTL_S, soa_data(self.name, self._facts.serial(), TTL_S))

    def _or_nothing(self, records: tuple[Record, ...]) -> Answer:
        return Answer(answers=records) if records else Answer(authority=(self.soa(),))

    def _apex(self, kind: int) -> Answer:
        if kind == Type.SOA:
            return Answer(answers=(self.soa(),))
        if kind == Type.NS:
            server = ("ns", "dns", *self.name)
            extra = address_records(server, self._server_ips, Type.A)
            extra += address_records(server, self._server_ips, Type.AAAA)
            return Answer(answers=(Record(self.name, Type.NS, TTL_S, b"", server),), additional=extra)
        return Answer(authority=(self.soa(),))

    def _hosts(self, inner: Name) -> list[Host] | None:
        """What a name below the zone leads to: [] when it only has names below, None when it does not exist."""
        *rest, group = inner
        if group not in ("svc", "pod"):
            return None
        if not rest:
            return []
        namespace = rest.pop()
        if not self._facts.has_namespace(namespace):
            return None
        if not rest:
            return []
        return self._pod(rest, namespace) if group == "pod" else self._service(rest, namespace)

    def _pod(self, rest: list[str], namespace: str) -> list[Host] | None:
        if len(rest) != 1:
            return None
        word = rest[0]
        text = word.replace("-", "." if word.count("-") == 3 and "--" not in word else ":")
        try:
            address = str(ipaddress.ip_address(text))
        except ValueError:
            return None
        return [Host(address, 0, (word, namespace, "pod", *self.name))]

    def _service(self, rest: list[str], namespace: str) -> list[Host] | None:
        name = rest.pop()
        service = self._facts.service(namespace, name)
        if service is None or service.spec is None or len(rest) > 2:
            return None
        full: Name = (name, namespace, "svc", *self.name)
        port, protocol = (rest[0].removeprefix("_"), rest[1].removeprefix("_")) if len(rest) == 2 else ("", "")
        hostname = rest[0] if len(rest) == 1 else ""
        if service.spec.type == "ExternalName":
            target = split(service.spec.external_name or "")
            return [Host("", 0, full, target)] if target and not hostname else None
        if hostname or service.spec.cluster_ip in (None, "", "None"):
            found = self._endpoints(namespace, name, full, hostname, port, protocol)
        else:
            found = [
                Host(address, each.port, full)
                for each in service.spec.ports
                if matches(port, each.name) and matches(protocol, each.protocol or "TCP")
                for address in service.spec.cluster_ips or (service.spec.cluster_ip or "",)
            ]
        return found or None

    def _endpoints(self, namespace: str, name: str, full: Name, hostname: str, port: str, protocol: str) -> list[Host]:
        found = []
        for each in self._facts.slices(namespace, name):
            ports = [
                offered.port or 0
                for offered in each.ports
                if matches(port, offered.name) and matches(protocol, offered.protocol or "TCP")
            ]
            if not each.ports and not port:
                ports = [0]
            for endpoint in each.endpoints:
                if not is_ready(endpoint):
                    continue
                for address in endpoint.addresses:
                    word = endpoint_word(endpoint, address)
                    if not hostname or hostname == word:
                        found += [Host(address, number, (word, *full)) for number in ports]
        return found

    def _records(self, name: Name, kind: int, hosts: list[Host]) -> Answer:
        if hosts and hosts[0].external is not None:
            return self._alias(name, kind, hosts[0].external)
        if kind in (Type.A, Type.AAAA):
            return self._or_nothing(address_records(name, (host.address for host in hosts), kind))
        if kind == Type.SRV:
            return self._srv(name, [host for host in hosts if host.port])
        return Answer(authority=(self.soa(),))

    def _srv(self, name: Name, hosts: list[Host]) -> Answer:
        if not hosts:
            return Answer(authority=(self.soa(),))
        weight = max(100 // len(hosts), 1)
        answers: dict[Record, None] = {}
        extra: dict[Record, None] = {}
        for host in hosts:
            answers[Record(name, Type.SRV, TTL_S, struct.pack("!HHH", 0, weight, host.port), host.name)] = None
            for kind in (Type.A, Type.AAAA):
                extra.update(dict.fromkeys(address_records(host.name, (host.address,), kind)))
        return Answer(answers=tuple(answers), additional=tuple(extra))

    def _alias(self, name: Name, kind: int, target: Name) -> Answer:
        """A CNAME and, for addresses, what it leads to as far as this zone knows."""
        if kind not in (Type.A, Type.AAAA, Type.CNAME):
            return Answer(authority=(self.soa(),))
        records = [Record(name, Type.CNAME, TTL_S, b"", target)]
        seen = {name}
        while kind != Type.CNAME and self.holds(target) and target not in seen and len(seen) < CHASE_LIMIT:
            seen.add(target)
            hosts = self._hosts(target[: -len(self.name)]) or []
            if not hosts or hosts[0].external is None:
                records += address_records(target, (host.address for host in hosts), kind)
                break
            records.append(Record(target, Type.CNAME, TTL_S, b"", hosts[0].external))
            target = hosts[0].external
        return Answer(answers=tuple(records))

    def _reverse(self, name: Name, kind: int) -> Answer | None:
        address = reverse_address(name)
        if address is None or kind not in (Type.PTR, Type.ANY):
            return None
        names = dict.fromkeys(self._names_at(address))
        if not names:
            return None
        return Answer(answers=tuple(Record(name, Type.PTR, TTL_S, b"", each) for each in names))

    def _names_at(self, address: str) -> Iterator[Name]:
        services = self._facts.services_at(address)
        for service in services:
            yield (service.metadata.name or "", service.metadata.namespace or "", "svc", *self.name)
        if services:
            return
        for each in self._facts.slices_at(address):
            owner = each.metadata.labels.get("kubernetes.io/service-name")
            if not owner:
                continue
            for endpoint in each.endpoints:
                if address in endpoint.addresses and is_ready(endpoint):
                    yield (endpoint_word(endpoint, address), owner, each.metadata.namespace or "", "svc", *self.name)


def split(domain: str) -> Name:
    return tuple(label for label in domain.lower().split(".") if label)


def matches(wanted: str, value: str | None) -> bool:
    return not wanted or wanted == (value or "").lower()


def endpoint_word(endpoint: Endpoint, address: str) -> str:
    """The label of one endpoint: its hostname, else its address with dashes."""
    return (endpoint.hostname or address.replace(".", "-").replace(":", "-")).lower()


def address_records(name: Name, addresses: Iterable[str], kind: int) -> tuple[Record, ...]:
    """A or AAAA records, each address once."""
    if kind not in (Type.A, Type.AAAA):
        return ()
    version = 4 if kind == Type.A else 6
    known = (ipaddress.ip_address(text) for text in dict.fromkeys(addresses) if text)
    return tuple(Record(name, kind, TTL_S, address.packed) for address in known if address.version == version)


def reverse_address(name: Name) -> str | None:
    """``4.3.2.1.in-addr.arpa`` as ``1.2.3.4``; None when it is no whole address."""
    try:
        if name[-2:] == ("in-addr", "arpa") and len(name) == 6:
            return str(ipaddress.IPv4Address(".".join(reversed(name[:4]))))
        if name[-2:] == ("ip6", "arpa") and len(name) == 34:
            digits = "".join(reversed(name[:32]))
            return str(ipaddress.IPv6Address(bytes.fromhex(digits)))
    except ValueError:
        return None
    return None
