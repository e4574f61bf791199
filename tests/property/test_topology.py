"""Properties of topology: no CPU is two containers' own, nothing is lost, and merging is what trying everything comes to."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from itertools import combinations, product
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from machines import GI, asking, guaranteed, machine

from kaa.api.types.core_v1 import Pod
from kaa.kubelet.topology.base import Hint, NotGiven
from kaa.kubelet.topology.checkpoint import MemoryState, load
from kaa.kubelet.topology.cpus import StaticCpus
from kaa.kubelet.topology.machine import Machine
from kaa.kubelet.topology.memory import StaticMemory
from kaa.kubelet.topology.policy import Policy, each_resource, merged
from kaa.kubelet.topology.settings import CpuOptions
from kaa.kubelet.topology.take import Manner, take

MACHINES = (
    machine(2, 2, 4, 2),
    machine(2, 1, 3, 2),
    machine(1, 1, 16, 2, caches=4),
    machine(1, 1, 4),
    machine(1, 4, 2, 1),
)
MANNERS = (Manner(), Manner(spread=True), Manner(uncore=True), Manner(group=1), Manner(group=2))


@given(data=st.data(), made=st.sampled_from(MACHINES), manner=st.sampled_from(MANNERS))
def test_as_many_are_taken_as_are_asked_for_and_only_free_ones(
    data: st.DataObject, made: Machine, manner: Manner
) -> None:
    free = frozenset(data.draw(st.sets(st.sampled_from(sorted(made.all)))))
    count = data.draw(st.integers(0, len(free)))
    found = take(made, free, count, manner)
    assert len(found) == count
    assert found <= free


# -------------------------------------------------------------------------------------------------- pods come and go

amounts = st.tuples(st.integers(0, 5), st.sampled_from(("plain", "init", "sidecar")))
steps = st.lists(
    st.tuples(st.sampled_from("abcd"), st.lists(amounts, min_size=1, max_size=4), st.booleans()), max_size=12
)
options = st.sampled_from(
    (
        CpuOptions(),
        CpuOptions(full_pcpus_only=True),
        CpuOptions(distribute_cpus_across_numa=True),
        CpuOptions(strict_cpu_reservation=True, align_by_socket=True),
        CpuOptions(prefer_align_cpus_by_uncorecache=True),
    )
)


def _pod(name: str, wanted: Sequence[tuple[int, str]]) -> Pod:
    made = [
        (kind, asking(f"c{at}", cpu=str(count) if count else "500m", memory=f"{count + 1}Gi"))
        for at, (count, kind) in enumerate(wanted)
    ]
    from msgspec.structs import replace

    init = tuple(
        replace(one, restart_policy="Always") if kind == "sidecar" else one for kind, one in made if kind != "plain"
    )
    return guaranteed(name, *(one for kind, one in made if kind == "plain"), init=init)


@settings(deadline=None, max_examples=40)
@given(made=st.sampled_from(MACHINES), option=options, history=steps, where=st.integers(0, 3))
def test_no_cpu_has_two_owners_and_all_come_back(
    made: Machine, option: CpuOptions, history: list[tuple[str, list[tuple[int, str]], bool]], where: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "state"
        reserved = frozenset({0})
        cpus = StaticCpus(made, file, option, reserved=reserved)
        whole, pods = cpus.shared, dict[str, Pod]()
        for name, wanted, leaves in history:
            if name in pods or leaves:
                pods.pop(name, None)
                cpus.release(f"uid-{name}")
            else:
                pod = _pod(name, wanted)
                with contextlib.suppress(NotGiven):
                    asyncio.run(_give(cpus, pod, Hint(frozenset({where}) & frozenset(made.cpu_nodes) or None, False)))
                    pods[name] = pod
                if name not in pods:
                    cpus.release(f"uid-{name}")
            _check_cpus(cpus, pods, whole, reserved, option)
            again = StaticCpus(made, file, option, reserved=reserved)
            assert (again.shared, again._own) == (cpus.shared, cpus._own)
        for name in "abcd":
            cpus.release(f"uid-{name}")
        assert cpus.shared == whole


async def _give(provider: StaticCpus | StaticMemory, pod: Pod, where: Hint) -> None:
    for one in (*pod.spec.init_containers, *pod.spec.containers):
        await provider.allocate(pod, one, where)


def _check_cpus(
    cpus: StaticCpus, pods: Mapping[str, Pod], whole: frozenset[int], reserved: frozenset[int], option: CpuOptions
) -> None:
    assert option.strict_cpu_reservation or reserved <= cpus.shared
    owned: dict[str, frozenset[int]] = {}
    for name, pod in pods.items():
        lasting = [one for one in pod.spec.init_containers if one.restart_policy == "Always"]
        at_once = frozenset[int]()
        for one in (*lasting, *pod.spec.containers):  # these run together
            own = cpus.own(f"uid-{name}", one.name)
            assert not own & at_once
            assert not own & (cpus.shared | reserved)
            at_once |= own
        every = (cpus.own(f"uid-{name}", one.name) for one in (*pod.spec.init_containers, *pod.spec.containers))
        owned[name] = frozenset().union(*every)
    for one, other in combinations(owned.values(), 2):
        assert not one & other
    assert cpus.shared.union(*owned.values()) == whole


@settings(deadline=None, max_examples=40)
@given(history=steps)
def test_memory_that_is_reserved_is_what_blocks_add_up_to(
    history: list[tuple[str, list[tuple[int, str]], bool]],
) -> None:
    made = machine(2, 2, 2, memory=8 * GI)
    kept = {0: {"memory": GI}}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "state"
        memory = StaticMemory(made, file, kept, kept={"memory": GI})
        empty = load(file, MemoryState, "Static")
        there: set[str] = set()
        for name, wanted, leaves in history:
            if name in there or leaves:
                there.discard(name)
                memory.release(f"uid-{name}")
            else:
                try:
                    asyncio.run(_give(memory, _pod(name, wanted), Hint(None, False)))
                    there.add(name)
                except NotGiven:
                    memory.release(f"uid-{name}")
            state = load(file, MemoryState, "Static")
            assert state is not None
            blocks = [block for of in state.entries.values() for every in of.values() for block in every]
            tables = [of.memory_map["memory"] for of in state.machine_state.values()]
            assert sum(block.size for block in blocks) == sum(table.reserved for table in tables)
            assert all(table.reserved + table.free == table.allocatable and table.free >= 0 for table in tables)
            StaticMemory(made, file, kept, kept={"memory": GI})
        for name in "abcd":
            memory.release(f"uid-{name}")
        assert load(file, MemoryState, "Static") == empty


# ------------------------------------------------------------------------------------------------------------ merging


def _mask(nodes: frozenset[int] | None) -> int:
    return sum(1 << node for node in nodes or ())


def _closer(one: Hint, other: Hint, distances: Mapping[int, Sequence[int]] | None) -> Hint:
    """Which of two upstream's HintMerger takes (CompareNUMAAffinityMasks), the first on a tie."""
    a, b = one.nodes or frozenset(), other.nodes or frozenset()
    if a == b:
        return one
    if len(a) != len(b):
        return one if len(a) < len(b) else other
    if distances is not None:
        far = [sum(distances[x][y] for x in of for y in of) / len(of) ** 2 for of in (a, b)]
        if far[0] != far[1]:
            return one if far[0] < far[1] else other
    return one if _mask(a) < _mask(b) else other


def _better(now: Hint | None, new: Hint, best: int, distances: Mapping[int, Sequence[int]] | None) -> Hint | None:
    """Upstream's HintMerger.compare, case by case."""
    if not new.nodes:
        return now
    if now is None:
        return new
    if now.preferred != new.preferred:
        return now if now.preferred else new
    if now.preferred:
        return _closer(now, new, distances)
    has, size = len(now.nodes or ()), len(new.nodes)
    if has > best:
        return _closer(now, new, distances)
    if has == best:
        return _closer(now, new, distances) if size == best else now
    if size > best:
        return now
    if size == best or size > has:
        return new
    return now if size < has else _closer(now, new, distances)


def brute(
    wanted: Sequence[Sequence[Hint]], nodes: frozenset[int], distances: Mapping[int, Sequence[int]] | None
) -> Hint:
    """Every choice of one hint a resource, one after the other, as upstream does."""
    best = 0
    for hints in wanted:
        named = [hint.nodes for hint in hints if hint.nodes is not None]
        best = max(best, min((len(one) for one in named), default=0))
    now: Hint | None = None
    for choice in product(*wanted):
        named = [hint.nodes for hint in choice if hint.nodes is not None]
        preferred = all(hint.preferred for hint in choice) and len(set(named)) < 2
        now = _better(now, Hint(nodes.intersection(*named), preferred), best, distances)
    return now or Hint(nodes, False)


NODES = frozenset(range(4))
one_hint = st.builds(
    Hint, st.none() | st.sets(st.sampled_from(sorted(NODES)), min_size=1).map(frozenset), st.booleans()
)
resources = st.dictionaries(st.sampled_from("xyz"), st.none() | st.lists(one_hint, max_size=4), max_size=2)
DISTANCES = {0: (10, 30, 20, 20), 1: (30, 10, 20, 20), 2: (20, 20, 10, 11), 3: (20, 20, 11, 10)}


@given(asked=st.lists(resources, max_size=3), distances=st.sampled_from((None, DISTANCES)))
def test_merging_is_what_trying_everything_comes_to(
    asked: list[dict[str, list[Hint] | None]], distances: Mapping[int, Sequence[int]] | None
) -> None:
    wanted = each_resource(asked)
    expected = brute(wanted, NODES, distances)
    assert merged(wanted, NODES, distances) == expected
    assert Policy("best-effort", NODES, distances).merge(asked) == (expected, True)
    assert Policy("restricted", NODES, distances).merge(asked) == (expected, expected.preferred)


@given(asked=st.lists(resources, max_size=3))
def test_on_a_single_node_or_not_at_all(asked: list[dict[str, list[Hint] | None]]) -> None:
    alone = [
        [hint for hint in hints if hint.preferred and (hint.nodes is None or len(hint.nodes) == 1)]
        for hints in each_resource(asked)
    ]
    expected = brute(alone, NODES, None)
    best, fits = Policy("single-numa-node", NODES).merge(asked)
    assert fits == best.preferred == expected.preferred
    assert best.nodes == (None if expected.nodes == NODES else expected.nodes)
    assert not fits or best.nodes is None or len(best.nodes) == 1


def test_many_resources_are_merged_at_once() -> None:
    every = [Hint(frozenset(one), len(one) == 1) for size in range(1, 9) for one in combinations(range(8), size)]
    best = merged([every] * 6, frozenset(range(8)))  # trying everything would be 255 ** 6
    assert best == Hint(frozenset({0}), True)
