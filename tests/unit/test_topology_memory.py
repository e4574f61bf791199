"""Memory of their own: from which NUMA nodes, in which groups, what is refused, and what is remembered."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from kubelet_world import make_pod
from machines import GI, asking, guaranteed, machine

from kaa.api.types.core_v1 import Pod
from kaa.kubelet.topology.asked import as_one
from kaa.kubelet.topology.base import Hint, NotGiven
from kaa.kubelet.topology.checkpoint import (
    Block,
    InvalidState,
    MemoryState,
    MemoryTable,
    NodeState,
    checksum,
    load,
    save,
)
from kaa.kubelet.topology.memory import StaticMemory
from kaa.kubelet.topology.settings import SettingsError

ANYWHERE = Hint(None, False)
TWO = machine(2, 1, 4, memory=8 * GI, pages=512)  # 8 Gi a node, of which 1 Gi in hugepages
RESERVED = {0: {"memory": GI}, 1: {"memory": GI}}
FREE = 6  # Gi that pods may have of each node


class Node:
    def __init__(self, tmp_path: Path) -> None:
        self.file = tmp_path / "memory_manager_state"
        self.memory = self.start()

    def start(self) -> StaticMemory:
        self.memory = StaticMemory(TWO, self.file, RESERVED, kept={"memory": 2 * GI})
        return self.memory

    def give(self, pod: Pod, where: Hint = ANYWHERE) -> list[str]:
        every = (*pod.spec.init_containers, *pod.spec.containers)

        async def run() -> None:
            for one in every:
                await self.memory.allocate(pod, one, where)

        asyncio.run(run())
        return [self.memory.given(pod, one).memory_nodes for one in every]

    def state(self) -> MemoryState:
        found = load(self.file, MemoryState, "Static")
        assert found is not None
        return found

    def reserved(self) -> list[int]:
        """Gi of each node."""
        return [of.memory_map["memory"].reserved // GI for of in self.state().machine_state.values()]


def pod_of(gi: int, name: str = "db", **more: str) -> Pod:
    return guaranteed(name, asking(memory=f"{gi}Gi", resources=more))


def test_the_fewest_nodes_that_have_enough(tmp_path: Path) -> None:
    node = Node(tmp_path)
    assert node.give(pod_of(4, "a")) == ["0"]
    assert node.give(pod_of(4, "b")) == ["1"]
    assert node.reserved() == [4, 4]


def test_a_group_of_nodes_for_what_fits_on_none(tmp_path: Path) -> None:
    node = Node(tmp_path)
    assert node.give(pod_of(8)) == ["0-1"]
    assert node.reserved() == [FREE, 2]
    assert [of.cells for of in node.state().machine_state.values()] == [(0, 1), (0, 1)]


def test_a_node_serves_alone_or_in_a_group_never_both(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.give(pod_of(8, "wide"))
    narrow = pod_of(2, "narrow")
    assert node.memory.hints(narrow, narrow.spec.containers[0]) == {"memory": [Hint(frozenset({0, 1}), False)]}
    node.memory.release("uid-wide")
    node.give(narrow)
    wide = pod_of(8, "wide2")
    assert node.memory.hints(wide, wide.spec.containers[0]) == {}
    with pytest.raises(NotGiven) as refused:
        node.give(wide)
    assert refused.value.reason == "UnexpectedAdmissionError"
    assert refused.value.message == (
        "Allocate failed due to [memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough"
        " memory is available, which is unexpected"
    )


def test_a_hint_that_is_too_small_is_extended(tmp_path: Path) -> None:
    node = Node(tmp_path)
    assert node.give(pod_of(8), Hint(frozenset({1}), False)) == ["0-1"]


def test_a_group_across_nodes_in_use_is_refused(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.give(pod_of(1, "one"))
    with pytest.raises(NotGiven, match="preferred hint violates NUMA node allocation"):
        node.give(pod_of(2, "two"), Hint(frozenset({0, 1})))


def test_hugepages_come_from_where_the_memory_does(tmp_path: Path) -> None:
    node = Node(tmp_path)
    amounts = {"hugepages-2Mi": "1Gi"}
    assert node.give(pod_of(1, "a", **amounts)) == ["0"]
    assert node.give(pod_of(1, "b", **amounts)) == ["1"]
    third = pod_of(1, "c", **amounts)
    assert node.memory.hints(third, third.spec.containers[0]) == {}


def test_only_guaranteed_pods_get_some(tmp_path: Path) -> None:
    node = Node(tmp_path)
    assert node.give(make_pod("any")) == [""]
    assert node.memory.hints(make_pod("any"), make_pod("any").spec.containers[0]) == {}


def test_init_containers_leave_their_memory_to_the_pod(tmp_path: Path) -> None:
    node = Node(tmp_path)
    init = (asking("prepare", memory="5Gi"), asking("proxy", memory="1Gi", restart_policy="Always"))
    node.give(guaranteed("db", asking("one", memory="2Gi"), asking("two", memory="3Gi"), init=init))
    assert node.reserved() == [6, 0]
    sizes = {name: sum(block.size for block in of) // GI for name, of in node.state().entries["uid-db"].items()}
    assert sizes == {"prepare": 0, "proxy": 1, "one": 2, "two": 3}
    node.memory.release("uid-db")
    assert node.reserved() == [0, 0]
    assert [of.number_of_assignments for of in node.state().machine_state.values()] == [0, 0]


def test_hints_of_what_was_given_are_given_again(tmp_path: Path) -> None:
    node = Node(tmp_path)
    pod = pod_of(4)
    node.give(pod, Hint(frozenset({1})))
    assert node.memory.hints(pod, pod.spec.containers[0]) == {"memory": (Hint(frozenset({1})),)}
    assert node.memory.hints(pod, as_one(pod)) == {"memory": (Hint(frozenset({1})),)}


def test_a_restart_keeps_what_was_given(tmp_path: Path) -> None:
    node = Node(tmp_path)
    pod = pod_of(8)
    node.give(pod)
    node.start()
    assert node.give(pod) == ["0-1"]
    assert node.reserved() == [FREE, 2]
    node.memory.release("uid-db")
    node.start()
    assert node.reserved() == [0, 0]


def test_the_checksum_is_that_of_upstreams_own_file() -> None:
    table = MemoryTable(2048, 512, 1536, 512, 1024)
    state = MemoryState(
        policy_name="static",
        machine_state={0: NodeState(0, {"memory": table}, ())},
        entries={"pod": {"container1": (Block((0,), "memory", 512),)}},
    )
    assert checksum(state) == 4215593881


def test_a_state_that_does_not_add_up_is_refused(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.give(pod_of(4))
    state = node.state()
    save(node.file, MemoryState(policy_name="Static", machine_state=state.machine_state))
    with pytest.raises(InvalidState, match="the expected machine state is different from the real one"):
        node.start()
    lost = {"uid": {"main": (Block((7,), "memory", 1),)}}
    save(node.file, MemoryState(policy_name="Static", machine_state=state.machine_state, entries=lost))
    with pytest.raises(InvalidState, match="uses the NUMA that does not exist"):
        node.start()


@pytest.mark.parametrize(
    ("reserved", "kept", "message"),
    [
        (
            {0: {"memory": GI}},
            {"memory": 2 * GI},
            'total amount "1Gi" of type "memory" is not equal to the value "2Gi"',
        ),
        ({5: {"memory": GI}}, {"memory": GI}, "references a NUMA node 5 that does not exist on this machine"),
        ({}, {}, "you should specify the system reserved memory"),
        ({0: {"memory": GI}}, {"memory": GI, "hugepages-2Mi": GI}, 'of type "hugepages-2Mi" is not equal'),
    ],
)
def test_reservations_must_add_up(
    tmp_path: Path, reserved: dict[int, dict[str, int]], kept: dict[str, int], message: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        StaticMemory(TWO, tmp_path / "state", reserved, kept=kept)
    assert message in str(refused.value)
