"""Which devices a node has, whose they are, and which a container gets next. Pure but for its memory.

    seen ── healthy, not held ──> available ── near each other, the plugin's liking ──> chosen ──> held by a container

Source: pkg/kubelet/cm/devicemanager (manager.go, pod_devices.go, topology_hints.go).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import msgspec

from ..topology.base import Hint
from ..topology.policy import on_few_nodes
from . import checkpoint
from .messages import HEALTHY, ContainerAllocation, Device

_NO_NODE = -1  #: where a checkpoint keeps devices that belong to no NUMA node


class Unavailable(Exception):
    """What is asked cannot be given; the text is for the pod's status."""


class Held(msgspec.Struct, frozen=True):
    """The devices of one resource that a container has. ``ids`` by NUMA node; one of two nodes stands twice."""

    ids: dict[int, tuple[str, ...]]
    answer: ContainerAllocation = ContainerAllocation()

    @property
    def all(self) -> frozenset[str]:
        return frozenset(one for ids in self.ids.values() for one in ids)


class Seen(msgspec.Struct):
    """The devices of one resource as their plugin last told them."""

    devices: dict[str, Device] = {}
    healthy: set[str] = set()

    @property
    def unhealthy(self) -> set[str]:
        return self.devices.keys() - self.healthy

    def nodes(self, device: str) -> frozenset[int]:
        """The NUMA nodes that a device is near; none when nothing was said."""
        known = self.devices.get(device)
        return frozenset(node.id for node in known.topology.nodes) if known and known.topology else frozenset()


Owner = tuple[str, str]  #: (pod uid, container)
#: (available, that must be among them) -> those that the plugin would like, most wanted first
Prefer = Callable[[frozenset[str], frozenset[str]], Sequence[str]]


class Pool:
    """All devices of a node."""

    def __init__(self) -> None:
        self.seen: dict[str, Seen] = {}  #: {resource: its devices}
        self.held: dict[Owner, dict[str, Held]] = {}  #: {owner: {resource: what it has}}

    # ------------------------------------------------------------------------------------------------ devices

    def tell(self, resource: str, devices: Iterable[Device]) -> frozenset[str]:
        """These are the devices of a resource now. Returns the uids of pods for whose devices that changes something."""
        old = self.seen.get(resource, Seen())
        found = {one.id: one for one in devices}
        self.seen[resource] = Seen(found, {key for key, one in found.items() if one.health == HEALTHY})
        return self._owners_of(resource, {key for key in old.devices | found if old.devices.get(key) != found.get(key)})

    def lost(self, resource: str) -> frozenset[str]:
        """The plugin is gone: none of its devices may be given. Returns pods that have some."""
        seen = self.seen.get(resource)
        if seen is None:
            return frozenset()
        changed, seen.healthy = seen.healthy, set()
        return self._owners_of(resource, changed)

    def forget(self, resource: str) -> None:
        self.seen.pop(resource, None)

    def _owners_of(self, resource: str, devices: Collection[str]) -> frozenset[str]:
        wanted = frozenset(devices)
        return frozenset(
            uid for (uid, _), every in self.held.items() if resource in every and every[resource].all & wanted
        )

    def health(self, resource: str, device: str) -> str:
        """``Healthy``, ``Unhealthy``, or ``Unknown`` for one that no plugin speaks of."""
        seen = self.seen.get(resource)
        if seen is None or device not in seen.devices:
            return "Unknown"
        return "Healthy" if device in seen.healthy else "Unhealthy"

    # ------------------------------------------------------------------------------------------------ owners

    def in_use(self, resource: str) -> set[str]:
        return {one for every in self.held.values() if resource in every for one in every[resource].all}

    def knows(self, resource: str) -> bool:
        """Whether devices of it were ever told of, or are held: then it is a plugin's."""
        return resource in self.seen or any(resource in every for every in self.held.values())

    def of(self, owner: Owner, resource: str) -> Held | None:
        return self.held.get(owner, {}).get(resource)

    def hold(self, owner: Owner, resource: str, ids: Collection[str], answer: ContainerAllocation) -> None:
        seen = self.seen.get(resource, Seen())
        placed: dict[int, list[str]] = {}
        for one in sorted(ids):
            for node in seen.nodes(one) or (_NO_NODE,):
                placed.setdefault(node, []).append(one)
        held = Held({node: tuple(every) for node, every in placed.items()}, answer)
        self.held.setdefault(owner, {})[resource] = held

    def release(self, uid: str) -> bool:
        """Take a pod's devices back; whether it had any."""
        mine = [owner for owner in self.held if owner[0] == uid]
        for owner in mine:
            del self.held[owner]
        return bool(mine)

    def reusable(self, uid: str, resource: str, inits: Collection[str]) -> frozenset[str]:
        """Devices of a pod's init containers, which end before others begin, that no other container of it has."""
        mine = {
            name: every[resource].all for (pod, name), every in self.held.items() if pod == uid and resource in every
        }
        spent = (ids for name, ids in mine.items() if name in inits)
        kept = (ids for name, ids in mine.items() if name not in inits)
        return frozenset[str]().union(*spent) - frozenset[str]().union(*kept)

    # ------------------------------------------------------------------------------------------------ choosing

    def check(self, owner: Owner, resource: str, wanted: int) -> bool:
        """Whether there is something to choose: not for a container that has its devices. Raises Unavailable."""
        held = self.of(owner, resource)
        if held is not None and len(held.all) != wanted:
            raise Unavailable(
                f'pod "{owner[0]}" container "{owner[1]}" changed request for resource "{resource}" from {len(held.all)}'
                f" to {wanted}"
            )
        if held is not None:
            return False
        if resource not in self.seen:
            raise Unavailable(f"cannot allocate unregistered device {resource}")
        if not self.seen[resource].healthy:
            raise Unavailable(f"no healthy devices present; cannot allocate unhealthy devices {resource}")
        return True

    def available(self, resource: str) -> set[str]:
        seen = self.seen.get(resource)
        return seen.healthy - self.in_use(resource) if seen is not None else set()

    def choice(self, resource: str, wanted: int, reusable: Collection[str], where: Hint) -> Choice:
        """What there is to choose from for a container. Raises Unavailable when it is too little."""
        seen = self.seen[resource]
        again = sorted(set(reusable) & seen.healthy)[:wanted]
        available = self.available(resource)
        needed = wanted - len(again)
        if len(available) < needed:
            raise Unavailable(
                f"requested number of devices unavailable for {resource}. Requested: {needed}, Available: {len(available)}"
            )
        near = {one for one in available if where.nodes and seen.nodes(one) & where.nodes}
        far = {one for one in available - near if where.nodes and seen.nodes(one)}
        return Choice(wanted, again, sorted(near), sorted(far), sorted(available - near - far))

    # ------------------------------------------------------------------------------------------------ hints

    def hints(
        self, owner: Owner, resource: str, wanted: int, reusable: Collection[str], machine: Sequence[int]
    ) -> tuple[Hint, ...] | None:
        """Where a container's devices could come from; None when they are of no place. ``machine``: its NUMA nodes."""
        seen = self.seen.get(resource, Seen())
        if not any(seen.nodes(one) for one in seen.devices):
            return None
        held = self.of(owner, resource)
        if held is not None:
            if len(held.all) != wanted:
                return ()
            return self._hints(seen, held.all, frozenset(), wanted, machine)
        available = self.available(resource)
        if len(available | set(reusable)) < wanted:
            return ()
        return self._hints(seen, available, reusable, wanted, machine)

    def _hints(
        self, seen: Seen, available: Collection[str], reusable: Collection[str], wanted: int, machine: Sequence[int]
    ) -> tuple[Hint, ...]:
        """Every set of nodes that could serve; preferred are those as small as any that all devices would need."""
        least, found = len(machine), []
        places = {one: seen.nodes(one) for one in {*seen.devices, *available, *reusable}}
        fixed = [one for one in reusable if places[one]]
        for nodes in on_few_nodes(machine):
            if sum(1 for one in seen.devices if places[one] & nodes) >= wanted:
                least = min(least, len(nodes))
            if any(not places[one] & nodes for one in fixed):
                continue
            if len(fixed) + sum(1 for one in available if places[one] & nodes and one not in fixed) >= wanted:
                found.append(nodes)
        return tuple(Hint(nodes, len(nodes) == least) for nodes in found)

    # ------------------------------------------------------------------------------------------------ on disk

    def written(self) -> checkpoint.Data:
        """What must outlive the kubelet."""
        entries = [
            checkpoint.Entry(
                pod_uid=uid,
                container_name=name,
                resource_name=resource,
                device_ids=dict(held.ids),
                alloc_resp=base64.b64encode(held.answer.encode()).decode(),
            )
            for (uid, name), every in sorted(self.held.items())
            for resource, held in sorted(every.items())
        ]
        registered = {resource: tuple(sorted(seen.healthy)) for resource, seen in self.seen.items()}
        return checkpoint.Data(tuple(entries) or None, registered)

    def restore(self, data: checkpoint.Data) -> None:
        """Take up what was written. Of devices there are none until their plugins come again. Raises ValueError."""
        for entry in data.pod_device_entries or ():
            answer = ContainerAllocation.decode(base64.b64decode(entry.alloc_resp or ""))
            ids = {node: ids or () for node, ids in (entry.device_ids or {}).items()}
            owner = entry.pod_uid, entry.container_name
            self.held.setdefault(owner, {})[entry.resource_name] = Held(ids, answer)
        for resource in data.registered_devices or ():
            self.seen[resource] = Seen({}, set())


class Choice(msgspec.Struct, frozen=True):
    """Devices that a container may get: those it uses ``again`` it gets at once, of the others some."""

    wanted: int
    again: Sequence[str]
    near: Sequence[str]
    far: Sequence[str]
    placeless: Sequence[str]

    @property
    def needed(self) -> int:
        return self.wanted - len(self.again)

    @property
    def asks(self) -> tuple[frozenset[str], frozenset[str]] | None:
        """What to ask the plugin's liking for: (of which, those that are chosen already); None when all is clear."""
        if not self.needed:
            return None
        chosen = frozenset(self.again)
        if self.needed < len(self.near):
            return frozenset(self.near) | chosen, chosen
        chosen |= frozenset(self.near)
        if len(chosen) == self.wanted:
            return None
        return frozenset((*self.near, *self.far, *self.placeless)) | chosen, chosen

    def settle(self, liked: Sequence[str] = ()) -> frozenset[str]:
        """The devices: near ones before others, and among equals those that the plugin likes."""
        order = [*self.again]
        others = (*self.near, *self.far, *self.placeless)
        if self.needed < len(self.near):
            order += [*(one for one in liked if one in self.near), *self.near]
        else:
            order += [*self.near, *(one for one in liked if one in others), *self.far, *self.placeless]
        return frozenset(list(dict.fromkeys(order))[: self.wanted])


def requested(limits: Mapping[str, str]) -> dict[str, int]:
    """{resource: how many} of what could be a plugin's among a container's limits."""
    from kaa.api import quantity

    return {name: number for name, text in limits.items() if "/" in name and (number := quantity.whole(text)) > 0}
