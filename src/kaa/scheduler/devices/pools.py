"""ResourceSlices by pool, and what of them a node can use.

A driver publishes a pool in several slices, replacing them all with a new generation. Only the newest counts, and only once
all of its slices are there: until then a pool is *incomplete* and nothing is taken from it. A pool that contradicts itself
(a device's name twice, a counter that is nowhere) is *invalid*.

Source: API reference "ResourcePool"; structured/internal pools.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from kaa.api import quantity
from kaa.api.placement import selects
from kaa.api.types.core_v1 import Node
from kaa.api.types.resource_v1 import Device, ResourceSlice, ResourceSliceSpec

from .offers import Offer, PoolId

#: {(counter set, counter): an amount}
Counters = Mapping[tuple[str, str], Fraction]


@dataclass(slots=True)
class Pool:
    """What a node can use of a pool: ``offers``. ``others`` it cannot, but they draw on the same counters."""

    id: PoolId
    offers: tuple[Offer, ...] = ()
    others: tuple[Offer, ...] = ()
    counters: Counters = field(default_factory=dict)
    incomplete: bool = False
    invalid: bool = False


class Listing:
    """One slice."""

    __slots__ = ("of", "offers", "pool")

    def __init__(self, of: ResourceSlice) -> None:
        self.of = of
        self.pool = PoolId(of.spec.driver, of.spec.pool.name)
        self.offers = tuple(Offer(of, device) for device in of.spec.devices)

    @property
    def generation(self) -> int:
        return self.of.spec.pool.generation

    @property
    def name(self) -> str:
        return self.of.metadata.name or ""

    def usable(self, node: Node) -> list[Offer]:
        """The devices that a node can use."""
        spec = self.of.spec
        if not spec.per_device_node_selection:
            return list(self.offers) if reaches(spec, node) else []
        return [offer for offer in self.offers if reaches(offer.device, node)]


def reaches(where: ResourceSliceSpec | Device, node: Node) -> bool:
    """Whether a slice, or a device that says so itself, can be used from a node."""
    if where.node_name:
        return node.metadata.name == where.node_name
    if where.all_nodes:
        return True
    return where.node_selector is not None and selects(where.node_selector, node)


class Inventory:
    """All slices. Those for one node alone are kept by its name: a node looks at its own and the shared ones only."""

    def __init__(self) -> None:
        self._pools: dict[PoolId, dict[str, Listing]] = {}
        self._listings: dict[str, Listing] = {}
        self.local: dict[str, dict[str, Listing]] = {}  #: {node: {slice: listing}}
        self.shared: dict[str, Listing] = {}  #: {slice: listing} of those that are not for one node

    def put(self, of: ResourceSlice) -> PoolId:
        """A slice is new or changed. Returns its pool."""
        self.remove(of.metadata.name or "")
        listing = self._listings[of.metadata.name or ""] = Listing(of)
        self._pools.setdefault(listing.pool, {})[listing.name] = listing
        self._shelf(listing)[listing.name] = listing
        return listing.pool

    def remove(self, name: str) -> None:
        listing = self._listings.pop(name, None)
        if listing is None:
            return
        self._shelf(listing).pop(name, None)
        siblings = self._pools[listing.pool]
        del siblings[name]
        if not siblings:
            del self._pools[listing.pool]
        node = listing.of.spec.node_name
        if node and not self.local.get(node):
            self.local.pop(node, None)

    def _shelf(self, listing: Listing) -> dict[str, Listing]:
        node = listing.of.spec.node_name
        return self.local.setdefault(node, {}) if node else self.shared

    def nodes_of(self, pool: PoolId) -> set[str] | None:
        """The nodes that a pool is for; None when it is not for named ones only."""
        names = [listing.of.spec.node_name for listing in self._pools.get(pool, {}).values()]
        return {name for name in names if name} if all(names) else None

    # ------------------------------------------------------------------------------------------------- for a node

    def pools_on(self, node: Node) -> list[Pool]:
        """In the order in which devices are tried: by name, pools whose devices must be bound first at the end."""
        seen: dict[PoolId, list[tuple[Listing, list[Offer]]]] = {}
        name = node.metadata.name or ""
        for listing in (*self.local.get(name, {}).values(), *self.shared.values()):
            usable = listing.usable(node)
            if usable or listing.of.spec.shared_counters:
                seen.setdefault(listing.pool, []).append((listing, usable))
        pools = [pool for key in seen if (pool := self._pool(key, seen[key])) is not None]
        return sorted(pools, key=lambda pool: (_needs_binding(pool), pool.id))

    def _pool(self, key: PoolId, seen: Iterable[tuple[Listing, list[Offer]]]) -> Pool | None:
        """None: nothing that the node sees of it counts any more."""
        every = self._pools[key].values()
        newest = max(listing.generation for listing in every)
        current = sorted((each for each in every if each.generation == newest), key=lambda each: each.name)
        usable = {listing.name: offers for listing, offers in seen if listing.generation == newest}
        if not usable:
            return None
        if len(current) != current[0].of.spec.pool.resource_slice_count:
            return Pool(key, incomplete=True)
        offers = tuple(offer for listing in current for offer in usable.get(listing.name, ()))
        counters = counters_of(listing.of for listing in current)
        others: tuple[Offer, ...] = ()
        if counters:
            mine = set(offers)
            others = tuple(offer for listing in current for offer in listing.offers if offer not in mine)
        if counters is None or not _consistent(offers, others, counters):
            return Pool(key, invalid=True)
        return Pool(key, offers, others, counters)


def counters_of(slices: Iterable[ResourceSlice]) -> Counters | None:
    """What there is of every counter; None when a set is told of twice."""
    found: dict[tuple[str, str], Fraction] = {}
    seen: set[str] = set()
    for counters in (each for one in slices for each in one.spec.shared_counters):
        if counters.name in seen:
            return None
        seen.add(counters.name)
        for name, counter in counters.counters.items():
            found[counters.name, name] = quantity.parse(counter.value)
    return found


def _consistent(offers: Iterable[Offer], others: Iterable[Offer], counters: Counters) -> bool:
    """Whether a node's devices have names of their own, and all devices counters that there are."""
    names = [offer.id for offer in offers]
    drawn = (key for offer in (*offers, *others) for key in _drawn(offer))
    return len(set(names)) == len(names) and all(key in counters for key in drawn)


def _drawn(offer: Offer) -> Iterator[tuple[str, str]]:
    for each in offer.device.consumes_counters:
        for name in each.counters:
            yield each.counter_set, name


def _needs_binding(pool: Pool) -> bool:
    return any(offer.device.binding_conditions for offer in pool.offers)
