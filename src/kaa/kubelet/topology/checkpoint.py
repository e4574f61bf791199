"""What was given to whom, on disk: ``cpu_manager_state`` and ``memory_manager_state`` in the kubelet's root, as upstream writes them.

Their checksum is FNV-1a over Go's dump of the value (``%#v`` of go-spew), which names Go's types: so each state here says its
own dump. A file whose checksum is wrong is refused, for nobody knows what it would give away twice.
Source: pkg/kubelet/checkpointmanager; pkg/kubelet/cm/{cpumanager,memorymanager}/state/checkpoint.go.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

log = structlog.get_logger(__name__)
S = TypeVar("S", bound="State")


class InvalidState(ValueError):
    """What the file says cannot be: the node must be drained and the file removed."""


class State(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A checkpoint; ``checksum`` is made when it is written."""

    policy_name: str
    checksum: int = 0

    def dump(self) -> str:
        """The value without its checksum, as Go's ``%#v`` of go-spew shows it."""
        raise NotImplementedError


class CpuState(State, frozen=True, kw_only=True, rename="camel"):
    """``entries``: {pod uid: {container: CPUs that are its alone}}; all others share ``default_cpu_set``."""

    default_cpu_set: str = ""
    entries: dict[str, dict[str, str]] = {}

    def dump(self) -> str:
        entries = _go_map({uid: _go_map(of) for uid, of in self.entries.items()})
        return (
            f"(*state.CPUManagerCheckpoint){{PolicyName:(string){self.policy_name}"
            f" DefaultCPUSet:(string){self.default_cpu_set}"
            f" Entries:(map[string]map[string]string){entries} Checksum:(checksum.Checksum)0}}"
        )


class MemoryTable(msgspec.Struct, frozen=True, rename="camel"):
    """One kind of memory of a NUMA node, in bytes."""

    total: int = 0
    system_reserved: int = 0
    allocatable: int = 0
    reserved: int = 0
    free: int = 0


class NodeState(msgspec.Struct, frozen=True, rename="camel"):
    """A NUMA node: ``cells`` is the group of nodes that it serves with, itself alone when it serves no larger one."""

    number_of_assignments: int = 0
    memory_map: dict[str, MemoryTable] = {}
    cells: tuple[int, ...] = ()


class Block(msgspec.Struct, frozen=True, rename="camel"):
    """Memory of one kind that a container was given, out of some NUMA nodes together."""

    numa_affinity: tuple[int, ...]
    type: str
    size: int


class MemoryState(State, frozen=True, kw_only=True, rename="camel"):
    """``entries``: {pod uid: {container: its blocks}}; ``machine_state``: {NUMA node: what is left of it}."""

    machine_state: dict[int, NodeState] = {}
    entries: dict[str, dict[str, tuple[Block, ...]]] = {}

    def dump(self) -> str:
        nodes = _go_map({node: _go_node(state) for node, state in self.machine_state.items()})
        blocks = {
            uid: _go_map({name: f"[{' '.join(map(_go_block, of))}]" for name, of in every.items()})
            for uid, every in self.entries.items()
        }
        return (
            f"(*state.MemoryManagerCheckpoint){{PolicyName:(string){self.policy_name}"
            f" MachineState:(state.NUMANodeMap){nodes}"
            f" Entries:(state.ContainerMemoryAssignments){_go_map(blocks)} Checksum:(checksum.Checksum)0}}"
        )


def _go_map(values: Mapping[str, str] | Mapping[int, str]) -> str:
    return f"map[{' '.join(f'{key}:{value}' for key, value in sorted(values.items()))}]"


def _go_numbers(numbers: tuple[int, ...]) -> str:
    return f"([]int)[{' '.join(map(str, numbers))}]"


def _go_table(of: MemoryTable) -> str:
    named = {
        "TotalMemSize": of.total,
        "SystemReserved": of.system_reserved,
        "Allocatable": of.allocatable,
        "Reserved": of.reserved,
        "Free": of.free,
    }
    return f"<*>{{{' '.join(f'{name}:(uint64){value}' for name, value in named.items())}}}"


def _go_node(of: NodeState) -> str:
    tables = _go_map({kind: _go_table(table) for kind, table in of.memory_map.items()})
    return (
        f"<*>{{NumberOfAssignments:(int){of.number_of_assignments}"
        f" MemoryMap:(map[v1.ResourceName]*state.MemoryTable){tables} Cells:{_go_numbers(of.cells)}}}"
    )


def _go_block(of: Block) -> str:
    return f"{{NUMAAffinity:{_go_numbers(of.numa_affinity)} Type:(v1.ResourceName){of.type} Size:(uint64){of.size}}}"


def checksum(state: State) -> int:
    """FNV-1a, 32 bits."""
    made = 0x811C9DC5
    for byte in state.dump().encode():
        made = (made ^ byte) * 0x01000193 & 0xFFFFFFFF
    return made


def load(path: Path, kind: type[S], policy: str) -> S | None:
    """What the file holds; None without one. Raises InvalidState: it is damaged, or another policy's."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        found = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        raise InvalidState(f"could not restore state from checkpoint: {err}, {_ADVICE.format(path)}") from err
    if checksum(found) != found.checksum:
        raise InvalidState(f"could not restore state from checkpoint: checkpoint is corrupted, {_ADVICE.format(path)}")
    if found.policy_name != policy:
        raise InvalidState(
            f'could not restore state from checkpoint: configured policy "{policy}" differs from state checkpoint policy'
            f' "{found.policy_name}", {_ADVICE.format(path)}'
        )
    return found


_ADVICE = 'please drain this node and delete the checkpoint file "{}" before restarting Kubelet'


def try_to_save(path: Path, state: State) -> None:
    """Write what was taken back. A file that says more than is held does no harm: who is gone is looked for."""
    try:
        save(path, state)
    except OSError as err:
        log.warning("state not saved", path=str(path), error=str(err))


def save(path: Path, state: State) -> None:
    """Write it so that a crash leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = msgspec.json.encode(msgspec.structs.replace(state, checksum=checksum(state)))
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
