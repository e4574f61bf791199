"""Which sandbox holds which addresses: one small file each, so that a restart knows.

The idea: files decide, memory is a copy. A file appears whole (written aside, then renamed) before its addresses are
used, and goes after they are free. Addresses are handed out in a circle, so a freed one rests as long as it can.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from kaa.runtime.base import PortMapping, RuntimeFailure

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,200}")


class Lease(msgspec.Struct, frozen=True):
    """What one sandbox holds. ``ips`` has one address a pod range, in their order."""

    ips: tuple[str, ...]
    ports: tuple[PortMapping, ...] = ()


_decoder = msgspec.json.Decoder(Lease)


class Leases:
    """The leases of one node, below ``directory``; ``networks`` are the node's pod ranges, primary first."""

    def __init__(self, directory: Path, networks: tuple[Network, ...]) -> None:
        self._directory = directory
        self._networks = networks
        self._held: dict[str, Lease] = {}  #: {sandbox id: lease}
        self._used: set[str] = set()
        self._next = [2] * len(networks)  #: offset in the range where the next search begins; 1 is the gateway

    def open(self) -> None:
        """Read what an earlier life left. A file that cannot be read, or lies outside the ranges, is dropped."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self._held.clear()
        self._used.clear()
        for path in self._directory.iterdir():
            lease = self._read(path)
            if lease is None:
                path.unlink(missing_ok=True)
                continue
            self._held[path.name] = lease
            self._used.update(lease.ips)
        for number, network in enumerate(self._networks):
            offsets = [int(ipaddress.ip_address(lease.ips[number])) - int(network[0]) for lease in self._held.values()]
            self._next[number] = max(offsets, default=1) + 1

    def _read(self, path: Path) -> Lease | None:
        if not _ID.fullmatch(path.name) or path.suffix == ".new":
            return None
        try:
            lease = _decoder.decode(path.read_bytes())
            fits = len(lease.ips) == len(self._networks) and all(
                ipaddress.ip_address(ip) in network for ip, network in zip(lease.ips, self._networks, strict=True)
            )
        except (msgspec.DecodeError, ValueError):
            return None
        return lease if fits else None

    def __iter__(self) -> Iterator[tuple[str, Lease]]:
        return iter(list(self._held.items()))

    def get(self, sandbox_id: str) -> Lease | None:
        return self._held.get(sandbox_id)

    def take(self, sandbox_id: str, ports: tuple[PortMapping, ...]) -> Lease:
        """The sandbox's lease, made if it has none. Raises RuntimeFailure when a range is used up."""
        if not _ID.fullmatch(sandbox_id) or sandbox_id.endswith(".new"):
            raise RuntimeFailure(f"sandbox id {sandbox_id!r} cannot name a lease")
        held = self._held.get(sandbox_id)
        if held is not None and held.ports == ports:
            return held
        lease = Lease(held.ips if held else tuple(self._pick(n) for n in range(len(self._networks))), ports)
        aside = self._directory / f"{sandbox_id}.new"
        aside.write_bytes(msgspec.json.encode(lease))
        aside.rename(self._directory / sandbox_id)
        self._held[sandbox_id] = lease
        self._used.update(lease.ips)
        return lease

    def free(self, sandbox_id: str) -> None:
        (self._directory / sandbox_id).unlink(missing_ok=True)
        lease = self._held.pop(sandbox_id, None)
        if lease is not None:
            self._used.difference_update(lease.ips)

    def _pick(self, number: int) -> str:
        """The next free address of a range: not its first (the network), second (the gateway), nor an IPv4 broadcast."""
        network = self._networks[number]
        end = network.num_addresses - (1 if network.version == 4 else 0)
        size = end - 2
        start = self._next[number]
        for step in range(min(size, len(self._used) + 1)):
            offset = 2 + (start - 2 + step) % size
            ip = str(network[offset])
            if ip not in self._used:
                self._next[number] = offset + 1
                return ip
        raise RuntimeFailure(f"no IP addresses available in range set: {network[2]}-{network[end - 1]}")
