"""What the machine is made of: CPUs in cores, caches, NUMA nodes and sockets; memory and hugepages of each NUMA node.

Read from ``/sys`` below a given root; without ``/sys/devices/system/node`` everything is node 0. CPUs that are offline are not
there. A core is named by its lowest CPU, for the kernel's core ids repeat in every socket.
Source: cadvisor utils/sysinfo; pkg/kubelet/cm/cpumanager/topology/topology.go (Discover).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path

import msgspec

from .cpu_lists import Cpus, read_list

MEMORY = "memory"
_UNCORE_LEVEL = "3"


class Cpu(msgspec.Struct, frozen=True):
    """One logical CPU, and what it belongs to."""

    id: int
    core: int
    socket: int
    node: int
    uncore: int  #: its last-level cache, named by the cache's lowest CPU


class Machine(msgspec.Struct, frozen=True, dict=True):
    """CPUs by id; ``memory``: {NUMA node: {``memory`` or ``hugepages-2Mi``: bytes}}, ``distances``: {node: to each node, in order}."""

    cpus: Mapping[int, Cpu]
    memory: Mapping[int, Mapping[str, int]]
    distances: Mapping[int, tuple[int, ...]] = {}

    @cached_property
    def all(self) -> Cpus:
        return frozenset(self.cpus)

    @cached_property
    def nodes(self) -> tuple[int, ...]:
        """NUMA nodes, ascending: those with CPUs, and those with memory alone."""
        return tuple(sorted({cpu.node for cpu in self.cpus.values()} | self.memory.keys()))

    @cached_property
    def cpu_nodes(self) -> tuple[int, ...]:
        return tuple(sorted({cpu.node for cpu in self.cpus.values()}))

    @cached_property
    def sockets(self) -> frozenset[int]:
        return frozenset(cpu.socket for cpu in self.cpus.values())

    @cached_property
    def cpus_per_core(self) -> int:
        return len(self.cpus) // len({cpu.core for cpu in self.cpus.values()})

    @cached_property
    def cpus_per_uncore(self) -> int:
        return len(self.cpus) // len({cpu.uncore for cpu in self.cpus.values()})

    def grouped(self, of: Callable[[Cpu], int], cpus: Iterable[int]) -> dict[int, set[int]]:
        """{core, node or socket: those of ``cpus`` in it}."""
        made: dict[int, set[int]] = {}
        for one in cpus:
            made.setdefault(of(self.cpus[one]), set()).add(one)
        return made

    def in_nodes(self, nodes: Iterable[int]) -> Cpus:
        wanted = frozenset(nodes)
        return frozenset(cpu.id for cpu in self.cpus.values() if cpu.node in wanted)

    def sockets_of_nodes(self, nodes: Iterable[int]) -> frozenset[int]:
        return frozenset(self.cpus[one].socket for one in self.in_nodes(nodes))

    def in_sockets(self, sockets: frozenset[int]) -> Cpus:
        return frozenset(cpu.id for cpu in self.cpus.values() if cpu.socket in sockets)

    def siblings(self, cpus: Iterable[int]) -> Cpus:
        """All CPUs of the cores that these are of."""
        cores = {self.cpus[one].core for one in cpus}
        return frozenset(cpu.id for cpu in self.cpus.values() if cpu.core in cores)


def read_machine(root: Path = Path("/"), *, memory_bytes: int = 0) -> Machine:
    """The machine that ``root``'s ``sys`` shows. ``memory_bytes``: what there is where no node tells."""
    system = root / "sys/devices/system"
    online = read_list(_text(system / "cpu/online")) or frozenset({0})
    folders = _node_folders(system / "node")
    node_of = {cpu: node for node, folder in folders.items() for cpu in read_list(_text(folder / "cpulist"))}
    cpus = {one: _cpu(system / f"cpu/cpu{one}", one, online, node_of.get(one, 0)) for one in sorted(online)}
    if not folders:
        pages = _hugepages(root / "sys/kernel/mm/hugepages")
        return Machine(cpus, {0: {MEMORY: memory_bytes, **pages}}, {0: (10,)})
    memory = {
        node: {MEMORY: _memory_bytes(folder) or memory_bytes, **_hugepages(folder / "hugepages")}
        for node, folder in folders.items()
    }
    distances = {node: _distances(folder, node, len(folders)) for node, folder in folders.items()}
    return Machine(cpus, memory, distances)


def _node_folders(place: Path) -> dict[int, Path]:
    found = {path.name.removeprefix("node"): path for path in place.glob("node[0-9]*")}
    return {int(name): found[name] for name in sorted(found, key=int)}


def _cpu(folder: Path, cpu: int, online: Cpus, node: int) -> Cpu:
    together = read_list(_text(folder / "topology/thread_siblings_list")) & online or {cpu}
    socket = _text(folder / "topology/physical_package_id")
    uncore = _uncore(folder, online)
    package = int(socket) if socket.isdigit() else 0  # -1 where a virtual machine does not say
    return Cpu(cpu, min(together), package, node, package if uncore is None else uncore)


def _uncore(folder: Path, online: Cpus) -> int | None:
    for cache in sorted(folder.glob("cache/index[0-9]*")):
        if _text(cache / "level") == _UNCORE_LEVEL:
            shared = read_list(_text(cache / "shared_cpu_list")) & online
            return min(shared) if shared else None
    return None


def _memory_bytes(folder: Path) -> int:
    for line in _text(folder / "meminfo").splitlines():
        words = line.split()
        if "MemTotal:" in words:
            return int(words[words.index("MemTotal:") + 1]) * 1024
    return 0


def _hugepages(folder: Path) -> dict[str, int]:
    """{``hugepages-2Mi``: bytes of them that there are}."""
    made = {}
    for place in sorted(folder.glob("hugepages-*kB")):
        size = int(place.name.removeprefix("hugepages-").removesuffix("kB")) * 1024
        made[page_resource(size)] = size * int(_text(place / "nr_hugepages") or 0)
    return made


def page_resource(size_bytes: int) -> str:
    """``hugepages-1Gi`` of the bytes of a page."""
    for unit, shift in (("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)):
        if size_bytes >= 1 << shift and size_bytes % (1 << shift) == 0:
            return f"hugepages-{size_bytes >> shift}{unit}"
    return f"hugepages-{size_bytes}"


def _distances(folder: Path, node: int, count: int) -> tuple[int, ...]:
    words = _text(folder / "distance").split()
    return tuple(int(word) for word in words) if words else tuple(10 if one == node else 20 for one in range(count))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError):
        return ""
