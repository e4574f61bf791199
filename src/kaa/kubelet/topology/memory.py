"""Memory and hugepages of their own for Guaranteed pods, out of as few NUMA nodes as can be. The memory manager's ``Static`` policy.

    what a NUMA node has ── less what is reserved ──> free ── blocks of containers ──> reserved

The idea: a node serves either containers that fit on it alone, or one group of nodes together, never both: so what a group was
promised cannot be eaten by one that came for a single node. What init containers that have ended were given is their pod's
other containers' to take; their blocks shrink by what was taken, so that all blocks always add up to what is reserved.
Source: pkg/kubelet/cm/memorymanager (policy_static.go, memory_manager.go).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from msgspec.structs import replace

from kaa.api import quantity
from kaa.api.types.core_v1 import Container, Pod

from .asked import WHOLE_POD, containers, may_own, plain_inits, requested
from .base import Given, Hint
from .checkpoint import Block, InvalidState, MemoryState, MemoryTable, NodeState, load, save, try_to_save
from .cpu_lists import write_list
from .cpus import unexpected
from .machine import MEMORY, Machine
from .policy import on_few_nodes
from .settings import SettingsError

STATE_FILE, POLICY = "memory_manager_state", "Static"
Nodes = frozenset[int]
Blocks = tuple[Block, ...]
State = dict[int, NodeState]


class StaticMemory:
    """The provider of memory. Raises SettingsError for reservations that do not add up, InvalidState as its file says."""

    def __init__(
        self,
        machine: Machine,
        file: Path,
        reserved: Mapping[int, Mapping[str, int]],
        *,
        kept: Mapping[str, int],
        pinning: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """``reserved``: {NUMA node: {kind: bytes}}; ``kept``: {kind: bytes} that the node keeps from pods in all. Each
        allocation is chosen in a ``pinning()``."""
        self._pinning = pinning
        check_reserved(machine, reserved, kept)
        self._file = file
        self._untouched = _untouched(machine, reserved)
        self._nodes: State = dict(self._untouched)
        self._blocks: dict[str, dict[str, Blocks]] = {}  #: {pod uid: {container: what it was given}}
        self._restore()

    def _restore(self) -> None:
        found = load(self._file, MemoryState, POLICY)
        if found is not None and not found.machine_state and found.entries:
            raise InvalidState("[memorymanager] machine state can not be empty when it has memory assignments")
        if found is not None and found.machine_state:
            self._blocks = {uid: dict(of) for uid, of in found.entries.items()}
            expected = self._replayed()
            if not same_states(dict(found.machine_state), expected):
                raise InvalidState("[memorymanager] the expected machine state is different from the real one")
            self._nodes = dict(found.machine_state)
        save(self._file, self._state())

    def _replayed(self) -> State:
        """What would be left of the machine, were every block given out again."""
        nodes = dict(self._untouched)
        for uid, of in self._blocks.items():
            for name, blocks in of.items():
                for block in blocks:
                    if not nodes.keys() >= set(block.numa_affinity):
                        raise InvalidState(
                            f"[memorymanager] (pod: {uid}, container: {name}) the memory assignment uses the NUMA that"
                            " does not exist"
                        )
                    if any(block.type not in nodes[node].memory_map for node in block.numa_affinity):
                        raise InvalidState(
                            f"[memorymanager] (pod: {uid}, container: {name}) the memory assignment uses memory"
                            " resource that does not exist"
                        )
                    nodes = reserve(nodes, block, block.size)
        return nodes

    def _state(self) -> MemoryState:
        return MemoryState(policy_name=POLICY, machine_state=self._nodes, entries=self._blocks)

    # ------------------------------------------------------------------------------------------------ what there is

    def blocks(self, uid: str, container: str) -> Blocks:
        return self._blocks.get(uid, {}).get(container, ())

    @property
    def assignable(self) -> Blocks:
        """What each NUMA node has for pods."""
        return tuple(
            Block((node,), kind, table.allocatable)
            for node, state in self._untouched.items()
            for kind, table in state.memory_map.items()
        )

    def holders(self) -> Iterable[str]:
        return list(self._blocks)

    def _reusable(self, pod: Pod, nodes: Nodes, kind: str) -> int:
        """What the pod's init containers that end were given of these very nodes, and nobody took yet."""
        held = self._blocks.get(pod.metadata.uid or "", {})
        return sum(
            block.size
            for name, blocks in held.items()
            if name in plain_inits(pod)
            for block in blocks
            if block.type == kind and frozenset(block.numa_affinity) == nodes
        )

    # ------------------------------------------------------------------------------------------------ hints

    def hints(self, pod: Pod, container: Container) -> Mapping[str, Sequence[Hint] | None]:
        if not may_own(pod):
            return {}
        asked = asked_memory(container)
        uid = pod.metadata.uid or ""
        names = [one.name for one in containers(pod)] if container.name == WHOLE_POD else [container.name]
        for name in names:
            if self.blocks(uid, name):
                return _again(self.blocks(uid, name), asked)
        hints = self._hints(pod, asked)
        return dict.fromkeys(asked, hints) if hints else {}

    def _hints(self, pod: Pod, asked: Mapping[str, int]) -> list[Hint]:
        """Sets of NUMA nodes that could serve all kinds. Preferred: no fewer nodes of this machine would, were they free."""
        found, least = list[Nodes](), len(self._nodes)
        for nodes in on_few_nodes(self._nodes):
            if any(self._sum(nodes, kind, "allocatable") < size for kind, size in asked.items()):
                continue
            least = min(least, len(nodes))
            if self._is_open(nodes) and all(
                self._sum(nodes, kind, "free") + self._reusable(pod, nodes, kind) >= size
                for kind, size in asked.items()
            ):
                found.append(nodes)
        return [Hint(nodes, len(nodes) == least) for nodes in found]

    def _sum(self, nodes: Iterable[int], kind: str, what: str) -> int:
        tables = (self._nodes[node].memory_map.get(kind) for node in nodes)
        return sum(getattr(table, what) for table in tables if table is not None)

    def _is_open(self, nodes: Nodes) -> bool:
        """Whether nobody uses any of the nodes in another group: a single node's users among themselves are fine."""
        if len(nodes) == 1:
            return all(len(self._nodes[node].cells) <= 1 for node in nodes)
        return all(
            not self._nodes[node].number_of_assignments or frozenset(self._nodes[node].cells) == nodes for node in nodes
        )

    # ------------------------------------------------------------------------------------------------ giving

    async def allocate(self, pod: Pod, container: Container, where: Hint) -> None:
        uid = pod.metadata.uid or ""
        if not may_own(pod) or self.blocks(uid, container.name):
            return
        asked = asked_memory(container)
        if not asked:
            return
        with self._pinning():
            nodes = self._where(pod, asked, where)
        affinity, nodes_left = tuple(sorted(nodes)), self._nodes
        for kind, size in asked.items():
            fresh = max(size - self._reusable(pod, nodes, kind), 0)
            nodes_left = reserve(nodes_left, Block(affinity, kind, size), fresh)
        blocks = tuple(Block(affinity, kind, size) for kind, size in asked.items())
        self._take_from_init(pod, container.name, blocks)
        self._nodes = nodes_left
        self._blocks.setdefault(uid, {})[container.name] = blocks
        save(self._file, self._state())

    def _where(self, pod: Pod, asked: Mapping[str, int], where: Hint) -> Nodes:
        """The nodes of the hint, or more where those are too small. Raises NotGiven."""
        best = where
        if best.nodes is None:
            found = self._hints(pod, asked)
            if not found:
                raise unexpected(
                    "[memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is"
                    " available"
                )
            best = self._best(found, where, "default")
        nodes = best.nodes or frozenset()
        if any(self._sum(nodes, kind, "free") < size for kind, size in asked.items()):
            found = [hint for hint in self._hints(pod, asked) if hint.nodes is not None and hint.nodes >= nodes]
            if not found:
                raise unexpected("[memorymanager] failed to find NUMA nodes to extend the current topology hint")
            nodes = self._best(found, best, "extended").nodes or frozenset()
        if len(nodes) > 1 and not self._is_open(nodes):
            raise unexpected("[memorymanager] preferred hint violates NUMA node allocation")
        return nodes

    def _best(self, found: Sequence[Hint], wanted: Hint, what: str) -> Hint:
        best = min(found, key=lambda hint: (not hint.preferred, len(hint.nodes or ()), sorted(hint.nodes or ())))
        if wanted.preferred and not best.preferred:
            raise unexpected(f"[memorymanager] failed to find the {what} preferred hint")
        return best

    def _take_from_init(self, pod: Pod, container: str, blocks: Blocks) -> None:
        """Shrink the blocks of init containers before this one by what it takes over from them."""
        held = self._blocks.get(pod.metadata.uid or "", {})
        for block in blocks:
            left = block.size
            for one in pod.spec.init_containers:
                if one.name == container or not left:
                    break
                if one.restart_policy != "Always" and one.name in held:
                    held[one.name], left = _shrunk(held[one.name], block, left)

    def given(self, pod: Pod, container: Container) -> Given:
        blocks = self.blocks(pod.metadata.uid or "", container.name)
        return Given(memory_nodes=write_list({node for block in blocks for node in block.numa_affinity}))

    def release(self, pod_uid: str) -> None:
        had = self._blocks.pop(pod_uid, None)
        if had is None:
            return
        for blocks in had.values():
            for block in blocks:
                self._nodes = free(self._nodes, block)
        try_to_save(self._file, self._state())


# ------------------------------------------------------------------------------------------------------------ pure parts


def asked_memory(container: Container) -> dict[str, int]:
    """{``memory`` or ``hugepages-2Mi``: bytes} that a container asks for."""
    return {
        name: quantity.whole(text)
        for name, text in sorted(requested(container).items())
        if name == MEMORY or name.startswith("hugepages-")
    }


def _again(blocks: Blocks, asked: Mapping[str, int]) -> Mapping[str, Sequence[Hint] | None]:
    """The hints of what was given already; none when it is no longer what is asked."""
    if {block.type: block.size for block in blocks} != dict(asked):
        return {}
    return {block.type: (Hint(frozenset(block.numa_affinity)),) for block in blocks}


def _shrunk(blocks: Blocks, taken: Block, left: int) -> tuple[Blocks, int]:
    made = []
    for block in blocks:
        if block.type == taken.type and block.numa_affinity == taken.numa_affinity:
            part = min(block.size, left)
            block, left = replace(block, size=block.size - part), left - part
        made.append(block)
    return tuple(made), left


def _untouched(machine: Machine, reserved: Mapping[int, Mapping[str, int]]) -> State:
    made: State = {}
    for node, kinds in sorted(machine.memory.items()):
        kept = reserved.get(node, {})
        pages = sum(size for kind, size in kinds.items() if kind != MEMORY)
        tables = {}
        for kind, total in sorted(kinds.items()):
            system = kept.get(kind, 0)
            allocatable = total - system - (pages if kind == MEMORY else 0)
            tables[kind] = MemoryTable(total, system, allocatable, 0, allocatable)
        made[node] = NodeState(0, tables, (node,))
    return made


def reserve(nodes: State, block: Block, size: int) -> State:
    """With ``size`` bytes taken of the block's nodes, one after the other, and all of them in its group."""
    made, left = dict(nodes), size
    for node in block.numa_affinity:
        state = made[node]
        tables = dict(state.memory_map)
        if block.type in tables:
            table = tables[block.type]
            part = min(max(table.free, 0), left)
            tables[block.type] = replace(table, reserved=table.reserved + part, free=table.free - part)
            left -= part
        made[node] = NodeState(state.number_of_assignments + 1, tables, block.numa_affinity)
    return made


def free(nodes: State, block: Block) -> State:
    """With a block given back; a node that nobody uses any more is in no group."""
    made, left = dict(nodes), block.size
    for node in block.numa_affinity:
        state = made[node]
        count = state.number_of_assignments - 1
        tables = dict(state.memory_map)
        if block.type in tables:
            table = tables[block.type]
            part = min(table.reserved, left)
            tables[block.type] = replace(table, reserved=table.reserved - part, free=table.free + part)
            left -= part
        made[node] = NodeState(count, tables, state.cells if count else (node,))
    return made


def same_states(one: State, other: State) -> bool:
    """Whether two say the same; within a group of nodes, only its sums count. Source: areMachineStatesEqual."""
    if one.keys() != other.keys():
        return False
    for node, state in one.items():
        twin = other[node]
        if state.number_of_assignments != twin.number_of_assignments or set(state.cells) != set(twin.cells):
            return False
        if state.memory_map.keys() != twin.memory_map.keys():
            return False
        for kind, table in state.memory_map.items():
            its = twin.memory_map[kind]
            fixed = (table.total, table.system_reserved, table.allocatable)
            if fixed != (its.total, its.system_reserved, its.allocatable):
                return False
            sums = [
                (
                    sum(of[n].memory_map[kind].free for n in state.cells),
                    sum(of[n].memory_map[kind].reserved for n in state.cells),
                )
                for of in (one, other)
            ]
            if sums[0] != sums[1]:
                return False
    return True


def check_reserved(machine: Machine, reserved: Mapping[int, Mapping[str, int]], kept: Mapping[str, int]) -> None:
    """Whether reservations of NUMA nodes add up to what the node keeps from pods. Raises SettingsError in upstream's words."""
    total: dict[str, int] = {}
    for node, kinds in reserved.items():
        for kind, size in kinds.items():
            if node not in machine.memory:
                raise SettingsError(
                    f"the reserved memory configuration references a NUMA node {node} that does not exist on this"
                    " machine"
                )
            total[kind] = total.get(kind, 0) + size
    for kind in sorted({*total, *(one for one in kept if one == MEMORY or one.startswith("hugepages-"))}):
        if total.get(kind, 0) != kept.get(kind, 0):
            shown = [quantity.format_bytes(of.get(kind, 0)) for of in (total, kept)]
            raise SettingsError(
                f'the total amount "{shown[0]}" of type "{kind}" is not equal to the value "{shown[1]}" determined by'
                " Node Allocatable feature"
            )
    if not total.get(MEMORY):
        raise SettingsError("[memorymanager] you should specify the system reserved memory")
