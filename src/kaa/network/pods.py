"""Gives each sandbox its place in the network: a veth pair to the node's bridge, addresses, routes, host ports.

The idea: a pod's address is a /32 (a /128), and everything it sends goes to the bridge's own address. So the node routes
each packet, also between two pods on one bridge: connection tracking and policy see both directions, and nothing
depends on bridge-netfilter. Addresses are leases on disk (``leases``); masquerade and host ports are one nftables table.

    network = BridgePodNetwork("kaa0", ("10.244.0.0/24",), Path("/var/lib/kaa/network"), cluster_cidrs=("10.244.0.0/16",))
    await network.setup()
    (ip,) = await network.attach(sandbox_id, "/run/netns/x", ())
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import structlog

from kaa.runtime.base import PortMapping, RuntimeFailure

from . import nft
from .leases import Lease, Leases, Network
from .netlink import Netlink

log = structlog.get_logger(__name__)

#: Marks a connection that a pod makes to a host port: its source must become the node's, or a pod could not reach itself.
HAIRPIN_MARK = 0x2000
POD_LINK = "eth0"
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,14}")


async def hold_address(link: str, address: str) -> None:
    """Make ``address`` one of this node's own, on a bridge of no ports: for the name server of a node whose pods another
    network connects. ``BridgePodNetwork.teardown`` removes it. Fine to repeat; raises RuntimeFailure."""

    def hold() -> None:
        with Netlink() as kernel:
            if kernel.link(link) is None:
                kernel.add_bridge(link, kernel.default_mtu(), b"\x02" + hashlib.sha256(os.urandom(16)).digest()[:5])
            found = kernel.link(link)
            assert found is not None
            kernel.add_address(found.index, ipaddress.ip_interface(address))

    try:
        await asyncio.to_thread(hold)
    except OSError as err:
        raise RuntimeFailure(f"give {address} to {link}: {err}") from err


class BridgePodNetwork:
    """The ``PodNetwork`` of one node. Call ``setup`` first; ``teardown`` leaves nothing behind.

    Args:
        name: the bridge's name, and the stem of the table's: unique on the machine, at most 15 characters.
        cidrs: the node's pod ranges, primary first, at most one a family.
        directory: where leases are kept.
        cluster_cidrs: ranges that pods reach under their own address; by default the node's own.
        mtu: of the pods' links; by default that of the link to the world.
    """

    missing = ""  #: it is handed out once it stands

    def __init__(
        self,
        name: str,
        cidrs: tuple[str, ...],
        directory: Path,
        *,
        cluster_cidrs: tuple[str, ...] = (),
        mtu: int | None = None,
        load: nft.Loader = nft.load,
    ) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot name a bridge")
        self.name = name
        self.table = f"{name}-pods"
        self.networks: tuple[Network, ...] = tuple(ipaddress.ip_network(cidr) for cidr in cidrs)
        self.gateways = tuple(network[1] for network in self.networks)
        self._cluster = tuple(ipaddress.ip_network(cidr) for cidr in cluster_cidrs) or self.networks
        self._directory = directory
        self._leases = Leases(directory / "leases", self.networks)
        self._load = load
        self._mtu = mtu
        self._bridge = 0  #: its link index
        #: One change at a time: the kernel holds one lock for all links anyway.
        self._changing = asyncio.Lock()
        self._leaving: set[str] = set()  #: sandboxes that wait to be disconnected

    @property
    def mtu(self) -> int:
        """The MTU of the pods' links. Raises RuntimeFailure before ``setup``."""
        if self._mtu is None:
            raise RuntimeFailure("the pod network is not set up")
        return self._mtu

    async def setup(self) -> None:
        """Make the bridge and the table, or take up those of an earlier life with the leases that still stand."""
        try:
            await asyncio.to_thread(self._make_bridge)
        except OSError as err:
            raise RuntimeFailure(f"set up bridge {self.name}: {err}") from err
        await self._load(render(self.table, self.name, self.networks, self._cluster, [x for _, x in self._leases]))

    def _make_bridge(self) -> None:
        self._leases.open()
        for network in self.networks:
            _write_sysctl(
                f"net/ipv{network.version}/" + ("ip_forward" if network.version == 4 else "conf/all/forwarding")
            )
        with Netlink() as kernel:
            if self._mtu is None:
                self._mtu = kernel.default_mtu()
            bridge = kernel.link(self.name)
            if bridge is None:
                # A MAC of its own: else the bridge takes its smallest port's, and pods' neighbour entries go stale.
                mac = b"\x02" + hashlib.sha256(os.urandom(16)).digest()[:5]
                kernel.add_bridge(self.name, self._mtu, mac)
                bridge = kernel.link(self.name)
                assert bridge is not None
            self._bridge = bridge.index
            if any(network.version == 4 for network in self.networks):
                _write_sysctl(f"net/ipv4/conf/{self.name}/route_localnet")  # 127.0.0.1 reaches host ports; see render
            for network, gateway in zip(self.networks, self.gateways, strict=True):
                kernel.add_address(bridge.index, ipaddress.ip_interface(f"{gateway}/{network.prefixlen}"))

    async def teardown(self) -> None:
        """Remove every link, route, rule, table and lease of this network. Fine to repeat."""
        await nft.delete_table(self.table)
        await asyncio.to_thread(self._remove_links)

    def _remove_links(self) -> None:
        with Netlink() as kernel:
            bridge = kernel.link(self.name)
            if bridge is not None:
                for link in kernel.links():
                    if link.master == bridge.index:
                        kernel.delete_link(link.name)
                kernel.delete_link(self.name)
        self._bridge = 0
        shutil.rmtree(self._directory / "leases", ignore_errors=True)

    async def attach(self, sandbox_id: str, netns_path: str, ports: tuple[PortMapping, ...]) -> tuple[str, ...]:
        """Connect a network namespace; returns its addresses, primary first. Raises RuntimeFailure, nothing kept."""
        if not self._bridge:
            raise RuntimeFailure("the pod network is not set up")
        wanted = tuple(port for port in ports if port.host_port)
        async with self._changing:
            known = self._leases.get(sandbox_id)
            lease = self._leases.take(sandbox_id, wanted)
            try:
                await asyncio.to_thread(self._connect, sandbox_id, netns_path, lease)
                if wanted or (known is not None and known.ports):
                    await self._load_host_ports()
            except BaseException as err:
                if known is None:
                    await asyncio.shield(self._release({sandbox_id}))
                if isinstance(err, OSError):
                    raise RuntimeFailure(f"connect sandbox {sandbox_id} to {self.name}: {err}") from err
                raise
            return lease.ips

    def _connect(self, sandbox_id: str, netns_path: str, lease: Lease) -> None:
        port = self._port_name(sandbox_id)
        with Netlink() as here, Netlink(netns_path) as there:
            if here.link(port) is not None:
                if _is_connected(there, lease):
                    return
                here.delete_link(port)
            netns = os.open(netns_path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                here.add_veth(port, self._bridge, self.mtu, POD_LINK, netns)
            finally:
                os.close(netns)
            made = here.link(port)
            assert made is not None
            here.set_hairpin(made.index)
            there.set_up()
            link = there.link(POD_LINK)
            assert link is not None
            there.set_up(link.index)
            for ip, gateway in zip(lease.ips, self.gateways, strict=True):
                there.add_address(link.index, ipaddress.ip_interface(ip))
                there.add_default_route(link.index, gateway)

    async def detach(self, sandbox_id: str) -> None:
        """Take back links, addresses and host ports; unknown sandboxes are fine. Whoever else waits is taken along."""
        self._leaving.add(sandbox_id)
        async with self._changing:
            if sandbox_id in self._leaving:
                await self._release(set(self._leaving))

    async def _release(self, sandbox_ids: set[str]) -> None:
        try:
            await asyncio.to_thread(self._disconnect, sandbox_ids)
        except OSError as err:
            raise RuntimeFailure(f"disconnect {', '.join(sorted(sandbox_ids))}: {err}") from err
        leases = [lease for name in sandbox_ids if (lease := self._leases.get(name)) is not None]
        for name in sandbox_ids:
            self._leases.free(name)
        self._leaving -= sandbox_ids
        if any(lease.ports for lease in leases):
            await self._load_host_ports()

    def _disconnect(self, sandbox_ids: set[str]) -> None:
        with Netlink() as kernel:
            kernel.delete_links(self._port_name(name) for name in sandbox_ids)

    async def keep_only(self, sandbox_ids: frozenset[str]) -> None:
        """Detach every sandbox that is not named, and remove bridge ports that belong to nobody."""
        for sandbox_id, _ in self._leases:
            if sandbox_id not in sandbox_ids:
                log.info("freeing the network of a sandbox that is gone", sandbox=sandbox_id)
                await self.detach(sandbox_id)
        await asyncio.to_thread(self._remove_stray_ports, sandbox_ids)

    def _remove_stray_ports(self, sandbox_ids: frozenset[str]) -> None:
        with Netlink() as kernel:
            ports = [link.name for link in kernel.links() if link.master and link.master == self._bridge]
            # Read after the links: a port made meanwhile has its lease already.
            kept = {self._port_name(name) for name in (*sandbox_ids, *(held for held, _ in self._leases))}
            for port in ports:
                if port not in kept:
                    kernel.delete_link(port)

    async def _load_host_ports(self) -> None:
        await self._load(render_host_ports(self.table, [lease for _, lease in self._leases]))

    def _port_name(self, sandbox_id: str) -> str:
        """The node's end of a sandbox's pair: the same in every life, and no other cluster's."""
        return "kp" + hashlib.sha256(f"{self.name}/{sandbox_id}".encode()).hexdigest()[:13]


def _is_connected(there: Netlink, lease: Lease) -> bool:
    link = there.link(POD_LINK)
    return link is not None and set(lease.ips) <= {str(address.ip) for address in there.addresses(link.index)}


def _write_sysctl(name: str, value: str = "1") -> None:
    path = Path("/proc/sys") / name
    if path.read_text().strip() != value:
        path.write_text(value)


def render(
    table: str, bridge: str, networks: Iterable[Network], cluster: Iterable[Network], leases: Iterable[Lease]
) -> str:
    """The whole table: masquerade of what leaves the pod ranges, host ports, and no redirects towards pods.

    The node reaches host ports at 127.0.0.1 too, as with CNI's portmap. For that the bridge may carry such addresses
    (``route_localnet``), so pods that would reach the node's own loopback by it are stopped first (CVE-2020-8558).

    A pod's neighbours are one hop away through the node though they share its link; the kernel would tell them to talk
    directly (ICMP redirect), around connection tracking.
    """
    masquerade = []
    for network in networks:
        family = "ip" if network.version == 4 else "ip6"
        beyond = [str(other) for other in cluster if other.version == network.version]
        beyond.append("224.0.0.0/4" if network.version == 4 else "ff00::/8")
        masquerade.append(
            f'    {family} saddr {network} {family} daddr != {{ {", ".join(sorted(set(beyond)))} }} oifname != "{bridge}" masquerade fully-random'
        )
    hairpins = "\n".join(
        f"    {'ip' if network.version == 4 else 'ip6'} saddr {network} meta mark set meta mark | {HAIRPIN_MARK:#x}"
        for network in networks
    )
    return f"""add table inet {table}
delete table inet {table}
table inet {table} {{
  map hostports4 {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
  map hostports6 {{ type inet_proto . inet_service : ipv6_addr . inet_service; }}
  map hostports_at4 {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
  map hostports_at6 {{ type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }}
  chain hostports {{
{hairpins}
    dnat ip to ip daddr . meta l4proto . th dport map @hostports_at4
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @hostports_at6
    meta nfproto ipv4 dnat ip to meta l4proto . th dport map @hostports4
    meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @hostports6
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat - 5; policy accept;
    fib daddr type local meta l4proto {{ tcp, udp, sctp }} jump hostports
  }}
  chain output {{
    type nat hook output priority -105; policy accept;
    meta nfproto ipv4 fib daddr type local meta l4proto {{ tcp, udp, sctp }} jump hostports
    ip6 daddr != ::1 fib daddr type local meta l4proto {{ tcp, udp, sctp }} jump hostports
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat + 5; policy accept;
    meta mark & {HAIRPIN_MARK:#x} == {HAIRPIN_MARK:#x} masquerade fully-random
    ip saddr 127.0.0.0/8 oifname "{bridge}" masquerade fully-random
{chr(10).join(masquerade)}
  }}
  chain loopback {{
    type filter hook prerouting priority raw; policy accept;
    iifname "{bridge}" ip daddr 127.0.0.0/8 drop
    iifname "{bridge}" ip saddr 127.0.0.0/8 drop
  }}
  chain redirects {{
    type filter hook output priority filter; policy accept;
    oifname "{bridge}" icmp type redirect drop
    oifname "{bridge}" icmpv6 type nd-redirect drop
  }}
}}
{render_host_ports(table, leases)}"""


def render_host_ports(table: str, leases: Iterable[Lease]) -> str:
    """A transaction that makes the host port maps what the leases say."""
    elements: dict[str, list[str]] = {"hostports4": [], "hostports6": [], "hostports_at4": [], "hostports_at6": []}
    for lease in leases:
        for ip in map(ipaddress.ip_address, lease.ips):
            for port in lease.ports:
                at = ipaddress.ip_address(port.host_ip) if port.host_ip else None
                if at is not None and not at.is_unspecified and at.version != ip.version:
                    continue
                anywhere = at is None or at.is_unspecified
                key = (
                    f"{port.protocol.lower()} . {port.host_port}"
                    if anywhere
                    else f"{at} . {port.protocol.lower()} . {port.host_port}"
                )
                name = f"hostports{'' if anywhere else '_at'}{ip.version}"
                elements[name].append(f"{key} : {ip} . {port.container_port}")
    lines = []
    for name, items in elements.items():
        lines.append(f"flush map inet {table} {name}")
        if items:
            lines.append(f"add element inet {table} {name} {{ {', '.join(items)} }}")
    return "\n".join(lines) + "\n"
