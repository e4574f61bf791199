"""Which CPUs to take of those that are free: whole sockets and NUMA nodes, whole caches, whole cores, then threads. Pure.

    free CPUs ── best fit, level by level ──> as many as were asked for

The idea: at every level take what is wholly free and not more than what is still needed, first where least is free, so that
what is broken already is filled up before anything whole is broken. Upstream's order, CPU for CPU.
Source: pkg/kubelet/cm/cpumanager/cpu_assignment.go; KEP-2902 (across NUMA nodes), KEP-4176 (across cores), KEP-4800 (uncore).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from math import sqrt

import msgspec

from .cpu_lists import Cpus
from .machine import Cpu, Machine


class NotEnough(Exception):
    """The message is upstream's."""


class Manner(msgspec.Struct, frozen=True):
    """How CPUs are chosen: the options of the static policy that bear on it."""

    spread: bool = False  #: threads of different cores rather than whole cores
    uncore: bool = False  #: within as few last-level caches as can be
    group: int = 0  #: above 0: evenly over NUMA nodes, in groups of so many


PACKED = Manner()


def take(machine: Machine, free: Cpus, count: int, manner: Manner = PACKED) -> Cpus:
    """``count`` of the free CPUs. Raises NotEnough."""
    if manner.group and count % manner.group == 0:
        return _distributed(machine, free, count, manner)
    return _packed(machine, free, count, manner)


def _packed(machine: Machine, free: Iterable[int], count: int, manner: Manner) -> Cpus:
    taking = _Taking(machine, free, count)
    for level in taking.levels(manner):
        if taking.needed <= 0:
            break
        level()
    if taking.needed > 0:  # not reached: single threads always suffice
        raise NotEnough("failed to allocate cpus")
    return frozenset(taking.taken)


def _core(cpu: Cpu) -> int:
    return cpu.core


def _node(cpu: Cpu) -> int:
    return cpu.node


def _socket(cpu: Cpu) -> int:
    return cpu.socket


def _cache(cpu: Cpu) -> int:
    return cpu.uncore


class _Taking:
    """What is free, what was taken, how many are still needed."""

    def __init__(self, machine: Machine, free: Iterable[int], count: int) -> None:
        self._machine = machine
        self._free = set(free)
        self.taken: set[int] = set()
        self.needed = count
        if count > len(self._free):
            raise NotEnough(
                f"not enough cpus available to satisfy request: requested={count}, available={len(self._free)}"
            )
        self._nodes_first = len(machine.sockets) >= len(machine.cpu_nodes)

    def levels(self, manner: Manner) -> list[Callable[[], None]]:
        whole = [self._whole_nodes, self._whole_sockets]
        made: list[Callable[[], None]] = whole if self._nodes_first else whole[::-1]
        if manner.uncore:
            made.append(self._caches)
        if not manner.spread:
            made.append(self._whole_cores)
        return [*made, self._threads_spread if manner.spread else self._threads]

    def take(self, cpus: Iterable[int]) -> None:
        found = set(cpus)
        self.taken |= found
        self._free -= found
        self.needed -= len(found)

    # ---- in which order parts of the machine are looked at: least free first

    def in_order(
        self, of: Callable[[Cpu], int], within: Callable[[Cpu], int] | None = None, part: int = 0
    ) -> list[int]:
        """The parts that have something free, those with least first; only those ``within`` another part."""
        free = self._free if within is None else {one for one in self._free if within(self._machine.cpus[one]) == part}
        grouped = self._machine.grouped(of, free)
        return sorted(grouped, key=lambda name: (len(grouped[name]), name))

    def nodes(self) -> list[int]:
        if self._nodes_first:
            return self.in_order(_node)
        return [node for socket in self.sockets() for node in self.in_order(_node, _socket, socket)]

    def sockets(self) -> list[int]:
        if self._nodes_first:
            return [socket for node in self.nodes() for socket in self.in_order(_socket, _node, node)]
        return self.in_order(_socket)

    def cores(self) -> list[int]:
        if self._nodes_first:
            return [core for socket in self.sockets() for core in self.in_order(_core, _socket, socket)]
        return [core for node in self.nodes() for core in self.in_order(_core, _node, node)]

    def caches(self) -> list[int]:
        return [cache for node in self.nodes() for cache in self.in_order(_cache, _node, node)]

    def _of(self, part: Callable[[Cpu], int], name: int) -> list[int]:
        return sorted(one for one in self._free if part(self._machine.cpus[one]) == name)

    # ---- levels

    def _whole(self, order: Sequence[int], part: Callable[[Cpu], int]) -> None:
        sizes = self._machine.grouped(part, self._machine.cpus)
        for name in order:
            free = self._of(part, name)
            if free and len(free) == len(sizes[name]) <= self.needed:
                self.take(free)

    def _whole_nodes(self) -> None:
        self._whole(self.nodes(), _node)

    def _whole_sockets(self) -> None:
        self._whole(self.sockets(), _socket)

    def _whole_cores(self) -> None:
        self._whole(self.cores(), _core)

    def _caches(self) -> None:
        for cache in self.caches():
            if self.needed >= self._machine.cpus_per_uncore:
                self._whole(self.caches(), _cache)
            if self.needed > 0:
                self._part_of_cache(cache)
            if self.needed <= 0:
                return

    def _part_of_cache(self, cache: int) -> None:
        """All that is still needed out of one cache, by its lowest cores; or nothing."""
        threads = self._machine.cpus_per_core
        cores = sorted({self._machine.cpus[one].core for one in self._of(_cache, cache)})
        wanted = frozenset(cores[: -(-self.needed // threads)])
        found = sorted(one for one in self._free if self._machine.cpus[one].core in wanted)
        if self.needed % 2 and threads > 1 and len(found) > self.needed:
            found.pop()
        if len(found) == self.needed:
            self.take(found)

    def _threads(self) -> None:
        self.take([one for core in self.cores() for one in self._of(_core, core)][: self.needed])

    def _threads_spread(self) -> None:
        self.take([one for socket in self.sockets() for one in self._of(_socket, socket)][: self.needed])

    def free_in(self, node: int) -> list[int]:
        return self._of(_node, node)


# ------------------------------------------------------------------------------------------- evenly over NUMA nodes


def _distributed(machine: Machine, free: Cpus, count: int, manner: Manner) -> Cpus:
    """As many from each of as few NUMA nodes as can be; packed where that cannot be."""
    group, taking = manner.group, _Taking(machine, free, count)
    if not count:
        return frozenset()
    order = taking.nodes()
    have = {node: len(taking.free_in(node)) for node in order}
    least, most = _how_many_nodes(machine, count, group, len(order))
    for size in range(least, most + 1):
        found = _best(order, have, size, count, group)
        if found is not None:
            return _spread(taking, machine, *found, count, manner)
    return _packed(machine, free, count, msgspec.structs.replace(manner, uncore=False))


def _how_many_nodes(machine: Machine, count: int, group: int, available: int) -> tuple[int, int]:
    groups = -(-len(machine.cpus) // group)
    needed = -(-count // group)
    each = -(-groups // len(machine.cpu_nodes))
    return -(-needed // each), min(needed, available)


def _best(
    order: Sequence[int], have: dict[int, int], size: int, count: int, group: int
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The nodes to take from, and those that give a group more, such that what is left is most even."""
    best: tuple[float, tuple[int, ...], tuple[int, ...]] | None = None
    for nodes in combinations(order, size):
        even = count // size // group * group
        if sum(have[node] // group * group for node in nodes) < count or any(have[node] < even for node in nodes):
            continue
        left = {node: have[node] - (even if node in nodes else 0) for node in order}
        found = _remainder(left, nodes, count - even * size, group)
        if found is not None and (best is None or found[0] < best[0]):
            best = found[0], nodes, found[1]
        if best is not None and best[0] == 0:
            break
    return best[1:] if best is not None else None


def _remainder(
    left: dict[int, int], nodes: Sequence[int], rest: int, group: int
) -> tuple[float, tuple[int, ...]] | None:
    """(how uneven it is, who gives the rest) of the best choice; many givers go before few where it is even."""
    if not rest:
        return _deviation(left.values()), ()
    givers = [node for node in nodes if left[node] >= group]
    best: tuple[float, tuple[int, ...]] | None = None
    for size in range(len(givers), 0, -1):
        for some in combinations(givers, size):
            if sum(left[node] for node in some) >= rest:
                uneven = _deviation(_after(left, some, rest, group).values())
                if best is None or uneven < best[0]:
                    best = uneven, some
    return best


def _after(left: dict[int, int], givers: Sequence[int], rest: int, group: int) -> dict[int, int]:
    made = dict(left)
    while rest > 0 and any(made[node] >= group for node in givers):
        for node in givers:
            if rest > 0 and made[node] >= group:
                made[node] -= group
                rest -= group
    return made


def _deviation(values: Iterable[int]) -> float:
    """The standard deviation, to three places."""
    all_of_them = list(values)
    mean = sum(all_of_them) / len(all_of_them)
    return round(sqrt(sum((one - mean) ** 2 for one in all_of_them) / len(all_of_them)), 3)


def _spread(
    taking: _Taking, machine: Machine, nodes: Sequence[int], givers: Sequence[int], count: int, manner: Manner
) -> Cpus:
    plain, group = msgspec.structs.replace(manner, group=0, uncore=False), manner.group
    even = count // len(nodes) // group * group
    for node in nodes:
        taking.take(_packed(machine, taking.free_in(node), even, plain))
    while taking.needed > 0:
        before = taking.needed
        for node in givers:
            free = taking.free_in(node)
            if taking.needed > 0 and len(free) >= group:
                taking.take(_packed(machine, free, group, plain))
        if taking.needed == before:
            raise NotEnough(f"accounting error, not enough CPUs allocated, remaining: {before}")
    return frozenset(taking.taken)
