"""What the kernel must do for Services, as nftables text. Pure: facts in, text out; ``proxy`` loads it.

The idea: verdict maps lead from (address, protocol, port) to a chain a service port, however many services there are. A
chain spreads connections over its endpoints with one random map. What one Service needs is its ``Part``; parts merge
into a ``Model`` of plain dictionaries; the difference of two models is the transaction.

    cluster-…   any ready endpoint                external-…  traffic from outside: masquerade, or local endpoints
    local-…     ready endpoints of this node      endpoint-…  one endpoint, of services with session affinity

Source: k8s:pkg/proxy/nftables (names of policies, masquerade mark 0x4000, reject and drop) and KEP-3866.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from kaa.api.types.core_v1 import Service, ServicePort
from kaa.api.types.discovery_v1 import Endpoint, EndpointSlice

MASQUERADE_MARK = 0x4000
AFFINITY_DEFAULT_S = 10800
SERVICE_NAME_LABEL = "kubernetes.io/service-name"
PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"

Family = Literal[4, 6]
Backend = tuple[str, int]  #: (address, port)
Element = tuple[str, str]  #: (map or set, key)


@dataclass(frozen=True, slots=True)
class Node:
    """Where the rules will stand. ``cluster_cidrs`` are the pod ranges: what comes from elsewhere is masqueraded."""

    name: str
    cluster_cidrs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Model:
    """Everything of the table that changes: comparable, and mergeable key by key."""

    #: {affinity set: its declaration}
    sets: dict[str, str] = field(default_factory=dict)
    #: {chain: its rules}
    chains: dict[str, tuple[str, ...]] = field(default_factory=dict)
    #: {(map, key): value}; of a set the value is empty
    elements: dict[Element, str] = field(default_factory=dict)
    #: {(address or "" for node ports, port): endpoint addresses} of UDP, whose old connections outlive the rules
    udp: dict[tuple[str, int], frozenset[str]] = field(default_factory=dict)


def merge(parts: Iterable[Model]) -> Model:
    """One model of many. Where two Services want the same address and port, the first keeps it."""
    whole = Model()
    for part in parts:
        whole.sets.update(part.sets)
        whole.chains.update(part.chains)
        for key, value in part.elements.items():
            whole.elements.setdefault(key, value)
        whole.udp.update(part.udp)
    return whole


def service_part(service: Service, slices: Sequence[EndpointSlice], node: Node) -> Model:
    """What one Service needs on ``node``. Headless, ExternalName and other proxies' Services need nothing."""
    spec, part = service.spec, Model()
    if spec is None or spec.type == "ExternalName" or spec.cluster_ip in (None, "", "None"):
        return part
    if PROXY_NAME_LABEL in service.metadata.labels:
        return part
    for address in spec.cluster_ips or (spec.cluster_ip,):
        assert address is not None
        family: Family = 6 if ":" in address else 4
        kind = f"IPv{family}"
        mine = [each for each in slices if each.address_type == kind]
        for port in spec.ports:
            _Port(service, port, family, address, node, part).write(mine)
    return part


def backends(slices: Iterable[EndpointSlice], port: ServicePort, node: str = "") -> list[Backend]:
    """Where connections to a service port go, in a fixed order; only to ``node`` if it is named.

    Ready endpoints; if there are none, those that still serve while they terminate.
    """
    ready: set[Backend] = set()
    ending: set[Backend] = set()
    for each in slices:
        for offered in each.ports:
            if (offered.name or "") != (port.name or "") or not offered.port:
                continue
            if (offered.protocol or "TCP") != (port.protocol or "TCP"):
                continue
            for endpoint in each.endpoints:
                if node and endpoint.node_name != node:
                    continue
                if is_ready(endpoint):
                    ready.add((endpoint.addresses[0], offered.port))
                elif endpoint.conditions.terminating and endpoint.conditions.serving:
                    ending.add((endpoint.addresses[0], offered.port))
    return sorted(ready or ending)


def is_ready(endpoint: Endpoint) -> bool:
    """Unknown counts as ready. Source: API reference EndpointConditions."""
    return endpoint.conditions.ready is not False


class _Port:
    """Writes one service port of one family into a part."""

    def __init__(
        self, service: Service, port: ServicePort, family: Family, address: str, node: Node, part: Model
    ) -> None:
        assert service.spec is not None
        self.service, self.spec, self.port, self.part = service, service.spec, port, part
        self.family, self.address, self.node = family, address, node
        self.ip = "ip" if family == 4 else "ip6"
        self.protocol = (port.protocol or "TCP").lower()
        words = f"{service.metadata.namespace}/{service.metadata.name}/{self.protocol}/{port.name or port.port}"
        self.hash = hashlib.sha256(f"{words}/{family}".encode()).hexdigest()[:8].upper()
        self.words = words[:80]

    def name(self, kind: str) -> str:
        return f"{kind}-{self.hash}-{self.words}"

    def write(self, slices: list[EndpointSlice]) -> None:
        everywhere = backends(slices, self.port)
        here = backends(slices, self.port, self.node.name)
        self._spread("cluster", everywhere)
        local_inside = self.spec.internal_traffic_policy == "Local"
        local_outside = self.spec.external_traffic_policy == "Local"
        if (local_inside or local_outside) and here:
            self._spread("local", here)
        self._inside(everywhere, here, local_inside)
        self._outside(everywhere, here, local_outside)
        for ip, _ in here:
            self.part.elements[f"hairpin{self.family}", f"{ip} . {ip}"] = ""

    def _inside(self, everywhere: list[Backend], here: list[Backend], local: bool) -> None:
        key = f"{self.address} . {self.protocol} . {self.port.port}"
        chosen = here if local else everywhere
        if chosen:
            rules = [*self._foreign_masquerade(), f"goto {self.name('local' if local else 'cluster')}"]
            self.part.chains[self.name("service")] = tuple(rules)
            self.part.elements[f"services{self.family}", key] = f"goto {self.name('service')}"
        else:
            self._refuse("refused", key, everywhere, "drop")
        self._note_udp(self.address, self.port.port, chosen)

    def _foreign_masquerade(self) -> list[str]:
        ranges = [text for text in self.node.cluster_cidrs if (":" in text) == (self.family == 6)]
        if not ranges:
            return []
        return [f"{self.ip} saddr != {{ {', '.join(ranges)} }} jump mark-for-masquerade"]

    def _outside(self, everywhere: list[Backend], here: list[Backend], local: bool) -> None:
        keys = self._outside_keys()
        if not keys:
            return
        chosen = here if local else everywhere
        if everywhere:
            self.part.chains[self.name("external")] = tuple(self._external_rules(here, local))
        for name, address, number in keys:
            key = f"{address} . {self.protocol} . {number}" if address else f"{self.protocol} . {number}"
            if everywhere:
                self.part.elements[f"{name}{self.family}", key] = f"goto {self.name('external')}"
            if not chosen:
                self._refuse("refused" if address else "refused-nodeports", key, everywhere, "goto drop-foreign")
            self._note_udp(address, number, chosen)
        self._firewall()

    def _outside_keys(self) -> list[tuple[str, str, int]]:
        """(map, address or "" for a node port, port) of each way in from outside."""
        addresses = [ip for ip in self.spec.external_ips if (":" in ip) == (self.family == 6)]
        addresses += self._balancer_ips()
        keys = [("services", ip, self.port.port) for ip in dict.fromkeys(addresses)]
        if self.port.node_port:
            keys.append(("nodeports", "", self.port.node_port))
        return keys

    def _balancer_ips(self) -> list[str]:
        if self.spec.type != "LoadBalancer":
            return []
        given = self.service.status.load_balancer.ingress
        return [
            each.ip for each in given if each.ip and each.ip_mode != "Proxy" and (":" in each.ip) == (self.family == 6)
        ]

    def _external_rules(self, here: list[Backend], local: bool) -> list[str]:
        cluster = self.name("cluster")
        if not local:
            return ["jump mark-for-masquerade", f"goto {cluster}"]
        rules = []
        ranges = [text for text in self.node.cluster_cidrs if (":" in text) == (self.family == 6)]
        if ranges:
            rules.append(f"{self.ip} saddr {{ {', '.join(ranges)} }} goto {cluster}")
        rules.append("fib saddr type local jump mark-for-masquerade")
        rules.append(f"fib saddr type local goto {cluster}")
        if here:
            rules.append(f"goto {self.name('local')}")
        return rules

    def _firewall(self) -> None:
        ranges = [text.strip() for text in self.spec.load_balancer_source_ranges]
        ranges = [text for text in ranges if (":" in text) == (self.family == 6)]
        if not ranges:
            return
        for ip in self._balancer_ips():
            self.part.chains[self.name("firewall")] = (f"{self.ip} saddr != {{ {', '.join(ranges)} }} drop",)
            key = f"{ip} . {self.protocol} . {self.port.port}"
            self.part.elements[f"firewall{self.family}", key] = f"goto {self.name('firewall')}"

    def _refuse(self, name: str, key: str, everywhere: list[Backend], drop: str) -> None:
        """Reject what has no endpoint at all; ``drop`` what has some, but none that the traffic policy allows."""
        self.part.elements[f"{name}{self.family}", key] = drop if everywhere else "goto reject-it"

    def _note_udp(self, address: str, number: int, chosen: list[Backend]) -> None:
        if self.protocol == "udp":
            self.part.udp[address, number] = frozenset(ip for ip, _ in chosen)

    def _spread(self, kind: str, to: list[Backend]) -> None:
        """The chain that hands a connection to one of ``to``."""
        if not to:
            return
        match = f"meta l4proto {self.protocol}"
        if self.spec.session_affinity == "ClientIP":
            self.part.chains[self.name(kind)] = tuple(self._sticky(to))
        elif len(to) == 1:
            self.part.chains[self.name(kind)] = (f"{match} dnat {self.ip} to {_target(to[0])}",)
        else:
            choices = ", ".join(f"{n} : {ip} . {port}" for n, (ip, port) in enumerate(to))
            rule = f"{match} dnat {self.ip} to numgen random mod {len(to)} map {{ {choices} }}"
            self.part.chains[self.name(kind)] = (rule,)

    def _sticky(self, to: list[Backend]) -> list[str]:
        """A client's last endpoint first, while it is remembered; each endpoint has a set of the clients it had."""
        config = self.spec.session_affinity_config
        seconds = (config.client_ip.timeout_seconds if config and config.client_ip else None) or AFFINITY_DEFAULT_S
        known, choices = [], []
        for number, backend in enumerate(to):
            tail = f"{self.hash}-{hashlib.sha256(_target(backend).encode()).hexdigest()[:8].upper()}"
            members, chain = f"affinity-{tail}", f"endpoint-{tail}"
            kind = f"ipv{self.family}_addr"
            self.part.sets[members] = f"type {kind}; size 65535; flags dynamic,timeout; timeout {seconds}s;"
            self.part.chains[chain] = (
                f"update @{members} {{ {self.ip} saddr }}",
                f"meta l4proto {self.protocol} dnat {self.ip} to {_target(backend)}",
            )
            known.append(f"{self.ip} saddr @{members} goto {chain}")
            choices.append(f"{number} : goto {chain}")
        return [*known, f"numgen random mod {len(to)} vmap {{ {', '.join(choices)} }}"]


def _target(backend: Backend) -> str:
    ip, port = backend
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def base(table: str) -> str:
    """The table's frame: maps, hooks, and the few chains that every Service shares. Replaces what stands."""
    maps = ""
    for family in (4, 6):
        address = f"ipv{family}_addr"
        for name in ("services", "refused", "firewall"):
            maps += f"  map {name}{family} {{ type {address} . inet_proto . inet_service : verdict; }}\n"
        for name in ("nodeports", "refused-nodeports"):
            maps += f"  map {name}{family} {{ type inet_proto . inet_service : verdict; }}\n"
        maps += f"  set hairpin{family} {{ type {address} . {address}; }}\n"
    return f"""add table inet {table}
delete table inet {table}
table inet {table} {{
{maps}  chain mark-for-masquerade {{ meta mark set meta mark | {MASQUERADE_MARK:#x}; }}
  chain reject-it {{ reject; }}
  chain drop-foreign {{
    fib saddr type local return
    drop
  }}
  chain services {{
    ip daddr . meta l4proto . th dport vmap @services4
    ip6 daddr . meta l4proto . th dport vmap @services6
    ip daddr != 127.0.0.0/8 fib daddr type local meta l4proto . th dport vmap @nodeports4
    ip6 daddr != ::1 fib daddr type local meta l4proto . th dport vmap @nodeports6
  }}
  chain refusals {{
    ip daddr . meta l4proto . th dport vmap @refused4
    ip6 daddr . meta l4proto . th dport vmap @refused6
    ip daddr != 127.0.0.0/8 fib daddr type local meta l4proto . th dport vmap @refused-nodeports4
    ip6 daddr != ::1 fib daddr type local meta l4proto . th dport vmap @refused-nodeports6
  }}
  chain filter-prerouting {{
    type filter hook prerouting priority -110; policy accept;
    ct state new ip daddr . meta l4proto . th dport vmap @firewall4
    ct state new ip6 daddr . meta l4proto . th dport vmap @firewall6
  }}
  chain filter-input {{
    type filter hook input priority -110; policy accept;
    ct state new jump refusals
  }}
  chain filter-forward {{
    type filter hook forward priority -110; policy accept;
    ct state new jump refusals
  }}
  chain filter-output {{
    type filter hook output priority -110; policy accept;
    ct state new jump refusals
  }}
  chain nat-prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    jump services
  }}
  chain nat-output {{
    type nat hook output priority -100; policy accept;
    jump services
  }}
  chain nat-postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ct status dnat ip saddr . ip daddr @hairpin4 masquerade fully-random
    ct status dnat ip6 saddr . ip6 daddr @hairpin6 masquerade fully-random
    meta mark & {MASQUERADE_MARK:#x} == 0 return
    meta mark set meta mark ^ {MASQUERADE_MARK:#x}
    masquerade fully-random
  }}
}}
"""


def render(table: str, model: Model) -> str:
    """The whole table."""
    return base(table) + diff(table, Model(), model)


def diff(table: str, old: Model, new: Model) -> str:
    """The transaction that turns a table of ``old`` into one of ``new``; empty when they are alike.

    Order matters to the kernel: what is named must exist, what is deleted must be named by nobody any more.
    """
    lines = []
    gone_sets = [name for name, text in old.sets.items() if new.sets.get(name) != text]
    reset = {name for name in gone_sets if name in new.sets}
    gone = {name for name in old.chains if name not in new.chains}
    changed = {name for name, rules in new.chains.items() if old.chains.get(name) != rules}
    if reset:  # a set of another shape: every chain that names it is written anew
        changed |= {name for name, rules in new.chains.items() if any(_names(rule, reset) for rule in rules)}
    lines += [f"add chain inet {table} {name}" for name in changed if name not in old.chains]
    lines += _element_lines(table, "delete", _lost(old.elements, new.elements))
    lines += [f"flush chain inet {table} {name}" for name in (*changed, *gone) if name in old.chains]
    lines += [f"delete set inet {table} {name}" for name in gone_sets]
    lines += [
        f"add set inet {table} {name} {{ {text} }}" for name, text in new.sets.items() if old.sets.get(name) != text
    ]
    lines += [f"add rule inet {table} {name} {rule}" for name in changed for rule in new.chains[name]]
    lines += _element_lines(table, "add", _lost(new.elements, old.elements))
    lines += [f"delete chain inet {table} {name}" for name in gone]
    return "\n".join(lines) + "\n" if lines else ""


def _names(rule: str, sets: set[str]) -> bool:
    return any(word[1:] in sets for word in rule.split() if word.startswith("@"))


def _lost(old: Mapping[Element, str], new: Mapping[Element, str]) -> dict[Element, str]:
    return dict(sorted(old.items() - new.items()))


def _element_lines(table: str, verb: str, elements: Mapping[Element, str]) -> list[str]:
    grouped: dict[str, list[str]] = {}
    for (name, key), value in elements.items():
        grouped.setdefault(name, []).append(f"{key} : {value}" if value else key)
    return [f"{verb} element inet {table} {name} {{ {', '.join(items)} }}" for name, items in grouped.items()]


def stale_udp(old: Model, new: Model) -> list[tuple[str, int, str]]:
    """(address or "", port, endpoint or "" for any) of UDP connections that must be forgotten.

    Those to an endpoint that left; and all of a port that had none before, for they were never translated.
    """
    found = []
    for (address, port), now in new.udp.items():
        before = old.udp.get((address, port), frozenset())
        if now and not before:
            found.append((address, port, ""))
        found += [(address, port, endpoint) for endpoint in sorted(before - now)]
    for (address, port), before in old.udp.items():
        if (address, port) not in new.udp:
            found += [(address, port, endpoint) for endpoint in sorted(before)]
    return found
