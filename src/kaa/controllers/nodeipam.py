"""A range of pod addresses for each node, out of those of the cluster.

The idea: what is taken is counted from what nodes say; what was promised to a node counts until the node says it. A node that
came with ranges of its own keeps them.

Source: kubernetes pkg/controller/nodeipam/ipam (range_allocator.go, cidrset/cidr_set.go).
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable
from typing import TypeAlias

from kaa.api.errors import NotFound
from kaa.api.types.core_v1 import Node
from kaa.client.informer import key_of
from kaa.client.workqueue import Key

from .controller import Context, Controller

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
RETRY_S = 30.0


class Ranges:
    """The equal parts of a cluster's range, ``mask`` bits long each, and which of them are taken."""

    def __init__(self, cluster: str, mask: int) -> None:
        self.whole = ipaddress.ip_network(cluster)
        self._shift = self.whole.max_prefixlen - mask
        self.size = 1 << (mask - self.whole.prefixlen)
        self._mask = mask
        self._taken: Counter[int] = Counter()
        self._next = 0

    def take(self) -> str | None:
        """The next free part in turn, so that addresses of a node that left rest for a while; None when all are taken."""
        for step in range(self.size):
            number = (self._next + step) % self.size
            if not self._taken[number]:
                self._next = number + 1
                self._taken[number] += 1
                first = int(self.whole.network_address) + (number << self._shift)
                return f"{type(self.whole.network_address)(first)}/{self._mask}"
        return None

    def occupy(self, text: str) -> None:
        """Count a range as taken, whoever gave it and however large it is."""
        self._taken.update(self._parts(text))

    def release(self, text: str) -> None:
        for number in self._parts(text):
            if self._taken[number] > 1:
                self._taken[number] -= 1
            else:
                del self._taken[number]

    def _parts(self, text: str) -> range:
        try:
            given = ipaddress.ip_network(text)
        except ValueError:
            return range(0)
        if given.version != self.whole.version or not given.overlaps(self.whole):
            return range(0)
        base = int(self.whole.network_address)
        first = max(int(given.network_address) - base, 0) >> self._shift
        last = min(int(given.broadcast_address) - base, (self.size << self._shift) - 1) >> self._shift
        return range(first, last + 1)


class NodeIPAM(Controller[Key]):
    """Keys are nodes. ``ranges`` {a cluster's range: the bits that a node's part of it keeps}, the primary one first."""

    name = "node-ipam-controller"
    identity = "node-controller"
    component = "cidrAllocator"
    workers = 1

    def __init__(self, context: Context, ranges: Iterable[tuple[str, int]]) -> None:
        super().__init__(context)
        self.ranges = [Ranges(cluster, mask) for cluster, mask in ranges]
        self._promised: dict[Key, tuple[str, ...]] = {}
        self.nodes = self.watch(Node, self._on_node)

    def _on_node(self, old: Node | None, new: Node | None) -> None:
        before, now = _of(old), _of(new)
        if before != now:
            self._count(now, before)
        if new is None:
            assert old is not None
            self._take_back(key_of(old))
            for node in self.nodes:
                if not _of(node):
                    self.queue.add(key_of(node))
        elif now:
            self._take_back(key_of(new))
        elif old is None:
            self.queue.add(key_of(new))

    def _count(self, more: Iterable[str], less: Iterable[str]) -> None:
        for one in self.ranges:
            for text in more:
                one.occupy(text)
            for text in less:
                one.release(text)

    def _take_back(self, key: Key) -> None:
        self._count((), self._promised.pop(key, ()))

    async def reconcile(self, key: Key) -> float | None:
        node = self.nodes.by_key(key)
        if node is None or _of(node):
            return None
        given = self._promised.get(key) or self._promise(key)
        if given is None:
            text = f"Node {key.name} status is now: CIDRNotAvailable"
            self.events.event(node, "Normal", "CIDRNotAvailable", text)
            return RETRY_S
        try:
            await self.client.patch(Node, key.name, {"spec": {"podCIDR": given[0], "podCIDRs": list(given)}})
        except NotFound:
            self._take_back(key)
        return None  # after any other failure the promise stands, for the write may have been done

    def _promise(self, key: Key) -> tuple[str, ...] | None:
        """A part of each range for a node; None, and nothing taken, when one of them is exhausted."""
        found = [one.take() for one in self.ranges]
        given = tuple(text for text in found if text is not None)
        if len(given) < len(found):
            self._count((), given)
            return None
        self._promised[key] = given
        return given


def _of(node: Node | None) -> tuple[str, ...]:
    return node.spec.pod_cidrs if node is not None else ()
