"""Machines for tests of topology: values, and the ``/sys`` that a kernel would show of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kubelet_world import make_container, make_pod

from kaa.api.types.core_v1 import Container, Pod, ResourceRequirements
from kaa.kubelet.topology.base import Given, Hint, NotGiven
from kaa.kubelet.topology.cpu_lists import write_list
from kaa.kubelet.topology.machine import Cpu, Machine
from kaa.runtime.base import Device, Mount

GI = 1 << 30


def machine(
    sockets: int = 1,
    nodes: int = 1,
    cores: int = 2,
    threads: int = 1,
    *,
    caches: int = 1,
    memory: int = 16 * GI,
    pages: int = 0,
) -> Machine:
    """``nodes`` a socket, ``cores`` a node in ``caches`` caches; thread t of core c is CPU ``t * all cores + c``.

    ``memory`` bytes a node, ``pages`` hugepages of 2 MiB a node.
    """
    every = sockets * nodes * cores
    cpus = {}
    for number in range(every * threads):
        core = number % every
        node = core // cores
        cache = core // (cores // caches) * (cores // caches)
        cpus[number] = Cpu(number, core, node // nodes, node, cache)
    numbers = range(sockets * nodes)
    distances = {a: tuple(10 if a == b else 12 if a // nodes == b // nodes else 21 for b in numbers) for a in numbers}
    amounts = {"memory": memory, **({"hugepages-2Mi": pages << 21} if pages else {})}
    return Machine(dict(sorted(cpus.items())), dict.fromkeys(numbers, amounts), distances)


def interleaved() -> Machine:
    """Two sockets of three cores with two threads, even cores on the first: as many a machine numbers them."""
    cpus = {n: Cpu(n, n % 6, n % 2, n % 2, n % 2) for n in range(12)}
    return Machine(cpus, {0: {"memory": 16 * GI}, 1: {"memory": 16 * GI}})


def write_sys(root: Path, made: Machine, *, with_nodes: bool = True) -> None:
    """``root/sys`` as the kernel shows such a machine."""
    system = root / "sys/devices/system"
    _put(system / "cpu/online", write_list(made.all))
    for cpu in made.cpus.values():
        folder = system / f"cpu/cpu{cpu.id}"
        _put(folder / "topology/physical_package_id", str(cpu.socket))
        _put(folder / "topology/core_id", str(cpu.core % 2))  # the kernel's own ids repeat
        _put(folder / "topology/thread_siblings_list", write_list(made.siblings({cpu.id})))
        _put(folder / "cache/index0/level", "1")
        _put(folder / "cache/index3/level", "3")
        shared = [one.id for one in made.cpus.values() if one.uncore == cpu.uncore]
        _put(folder / "cache/index3/shared_cpu_list", write_list(shared))
    for node, amounts in made.memory.items() if with_nodes else ():
        folder = system / f"node/node{node}"
        _put(folder / "cpulist", write_list(made.in_nodes({node})))
        _put(
            folder / "meminfo", f"Node {node} MemTotal:       {amounts['memory'] // 1024} kB\nNode {node} MemFree: 1 kB"
        )
        _put(folder / "distance", " ".join(map(str, made.distances[node])))
        _put(folder / "hugepages/hugepages-2048kB/nr_hugepages", str(amounts.get("hugepages-2Mi", 0) >> 21))


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def asking(name: str = "main", cpu: str = "1", memory: str = "1Gi", **more: Any) -> Container:
    """A container whose limits are its requests."""
    amounts = {"cpu": cpu, "memory": memory, **more.pop("resources", {})}
    return make_container(name, resources=ResourceRequirements(limits=amounts, requests=amounts), **more)


def guaranteed(name: str = "db", *containers: Container, init: tuple[Container, ...] = (), **fields: Any) -> Pod:
    return make_pod(name, containers=containers or (asking(),), init_containers=init, **fields)


class Cards:
    """A provider of a card that there is one of, on node 1."""

    def __init__(self) -> None:
        self.holder = ""
        self.asked: list[str] = []

    def hints(self, pod: Pod, container: Container) -> Mapping[str, Sequence[Hint] | None]:
        return {"example.com/card": [Hint(frozenset({1})), Hint(frozenset({0, 1}), False)]}

    async def allocate(self, pod: Pod, container: Container, where: Hint) -> None:
        self.asked.append(f"{pod.metadata.name}/{container.name} {sorted(where.nodes or ())}")
        if self.holder not in ("", pod.metadata.uid):
            raise NotGiven("UnexpectedAdmissionError", "no card left")
        self.holder = pod.metadata.uid or ""

    def given(self, pod: Pod, container: Container) -> Given:
        if pod.metadata.uid != self.holder:
            return Given()
        return Given(
            env={"CARD": "0", "HOME": "/card"},
            mounts=(Mount("/dev/cards", "/cards"),),
            devices=(Device("/dev/null", "/dev/card0"),),
            annotations={"card": "0"},
            cdi_devices=("example.com/card=0",),
        )

    def release(self, pod_uid: str) -> None:
        if pod_uid == self.holder:
            self.holder = ""
