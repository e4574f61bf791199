"""CPUs of their own: which are taken on which machine, who gets some, and what is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from kubelet_world import make_container, make_pod
from machines import asking, guaranteed, interleaved, machine, write_sys

from kaa.api.types.core_v1 import Container, Pod, ResourceRequirements
from kaa.kubelet.topology.base import Hint, NotGiven
from kaa.kubelet.topology.checkpoint import CpuState, InvalidState, checksum, load
from kaa.kubelet.topology.cpu_lists import read_list, write_list
from kaa.kubelet.topology.cpus import StaticCpus
from kaa.kubelet.topology.machine import Machine, page_resource, read_machine
from kaa.kubelet.topology.settings import CpuOptions, SettingsError
from kaa.kubelet.topology.take import Manner, NotEnough, take

ANYWHERE = Hint(None, False)


# ------------------------------------------------------------------------------------------------------------ machines


@pytest.mark.parametrize("text", ["", "0", "0-3", "0,2,4", "0-3,8,10-11"])
def test_lists_are_written_as_read(text: str) -> None:
    assert write_list(read_list(text)) == text


@pytest.mark.parametrize("text", ["a", "3-1", "1-", "-1", "1,,2"])
def test_what_is_no_list(text: str) -> None:
    with pytest.raises(ValueError):
        read_list(text)


@pytest.mark.parametrize(
    "made",
    [machine(2, 2, 4, 2, pages=8), machine(1, 1, 8, 2, caches=4), machine(1, 1, 2)],
    ids=["numa", "amd", "small"],
)
def test_a_machine_is_read_from_sys(tmp_path: Path, made: Machine) -> None:
    write_sys(tmp_path, made)
    found = read_machine(tmp_path)
    assert found.cpus == made.cpus
    assert found.distances == made.distances
    assert {node: {k: v for k, v in of.items() if v} for node, of in found.memory.items()} == dict(made.memory)


def test_without_nodes_all_is_node_0(tmp_path: Path) -> None:
    write_sys(tmp_path, machine(2, 1, 2), with_nodes=False)
    found = read_machine(tmp_path, memory_bytes=1 << 30)
    assert found.nodes == (0,)
    assert found.memory[0]["memory"] == 1 << 30
    assert found.sockets == {0, 1}


def test_this_machine_can_be_read() -> None:
    found = read_machine()
    assert found.all
    assert found.memory[found.nodes[0]]["memory"] > 0


@pytest.mark.parametrize(("size", "name"), [(2 << 20, "2Mi"), (1 << 30, "1Gi"), (64 << 10, "64Ki")])
def test_names_of_pages(size: int, name: str) -> None:
    assert page_resource(size) == f"hugepages-{name}"


# ------------------------------------------------------------------------------------------------------------ the order

NUMA = machine(2, 2, 4, 2)  # cores 0-3, 4-7 | 8-11, 12-15; their second threads 16 higher
AMD = machine(1, 1, 16, 2, caches=4)  # caches of cores 0-3, 4-7, 8-11, 12-15; their second threads 16 higher
FLAT = machine(1, 1, 4, 2)  # second threads 4 higher


@pytest.mark.parametrize(
    ("made", "free", "count", "taken"),
    [
        pytest.param(FLAT, "0-7", 1, "0", id="one of a whole core, where none is broken"),
        pytest.param(FLAT, "1-7", 1, "4", id="one of a core that is broken already"),
        pytest.param(FLAT, "0-7", 2, "0,4", id="a core"),
        pytest.param(FLAT, "0-7", 3, "0-1,4", id="a core and a thread"),
        pytest.param(FLAT, "0-7", 8, "0-7", id="everything"),
        pytest.param(FLAT, "0-3", 3, "0-2", id="threads alone, where no core is whole"),
        pytest.param(interleaved(), "0-11", 6, "0,2,4,6,8,10", id="a socket"),
        pytest.param(interleaved(), "0-11", 8, "0-2,4,6-8,10", id="a socket and a core of the other"),
        pytest.param(interleaved(), "1-11", 6, "1,3,5,7,9,11", id="the socket that is whole"),
        pytest.param(interleaved(), "1-5,7-11", 1, "2", id="of the socket with less"),
        pytest.param(NUMA, "0-31", 8, "0-3,16-19", id="a NUMA node"),
        pytest.param(NUMA, "0-31", 16, "0-7,16-23", id="a socket of two nodes"),
        pytest.param(NUMA, "0-31", 20, "0-9,16-25", id="a socket and two cores"),
        pytest.param(NUMA, "1-31", 8, "4-7,20-23", id="a node of the socket with least free"),
        pytest.param(NUMA, "1-31", 2, "1,17", id="a core of the node with least free"),
    ],
)
def test_packed(made: Machine, free: str, count: int, taken: str) -> None:
    assert write_list(take(made, read_list(free), count)) == taken


@pytest.mark.parametrize(
    ("free", "count", "taken"),
    [
        pytest.param("0-31", 8, "0-3,16-19", id="a whole cache"),
        pytest.param("0-31", 4, "0-1,16-17", id="a part of one cache"),
        pytest.param("1-31", 8, "4-7,20-23", id="the first cache that is whole"),
        pytest.param("2-15,18-31", 4, "2-3,18-19", id="the cache that has least, if it has enough"),
        pytest.param("3-15,19-31", 4, "4-5,20-21", id="the next, if it has not"),
        pytest.param("0-31", 12, "0-5,16-21", id="a cache and a part of another"),
        pytest.param("0-31", 3, "0-1,16", id="an odd number"),
    ],
)
def test_by_caches(free: str, count: int, taken: str) -> None:
    assert write_list(take(AMD, read_list(free), count, Manner(uncore=True))) == taken


def test_across_cores_threads_of_different_cores_are_taken() -> None:
    assert take(FLAT, FLAT.all, 4, Manner(spread=True)) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("count", "group", "nodes"),
    [
        pytest.param(8, 1, [8, 0, 0, 0], id="one node suffices"),
        pytest.param(10, 1, [5, 5, 0, 0], id="two nodes, evenly"),
        pytest.param(12, 2, [6, 6, 0, 0], id="two nodes, in whole cores"),
        pytest.param(18, 1, [6, 6, 6, 0], id="three nodes"),
        pytest.param(11, 1, [6, 5, 0, 0], id="one more from one of them"),
        pytest.param(9, 2, [8, 1, 0, 0], id="packed, where it does not come in groups"),
        pytest.param(32, 2, [8, 8, 8, 8], id="everything"),
    ],
)
def test_across_numa_nodes(count: int, group: int, nodes: list[int]) -> None:
    found = take(NUMA, NUMA.all, count, Manner(group=group))
    assert len(found) == count
    assert sorted((len(found & NUMA.in_nodes({node})) for node in range(4)), reverse=True) == nodes


def test_too_few() -> None:
    with pytest.raises(NotEnough, match="not enough cpus available to satisfy request: requested=3, available=2"):
        take(FLAT, frozenset({0, 1}), 3)


# ------------------------------------------------------------------------------------------------------------ the policy


class Node:
    """A provider of CPUs with a state file, that can be made anew from it."""

    def __init__(self, tmp_path: Path, made: Machine, *, reserved: Any = 1, **options: bool) -> None:
        self.machine, self.file, self.reserved = made, tmp_path / "cpu_manager_state", reserved
        self.options, self.changes = CpuOptions(**options), 0
        self.cpus = self.start()

    def start(self) -> StaticCpus:
        def changed() -> None:
            self.changes += 1

        self.cpus = StaticCpus(self.machine, self.file, self.options, reserved=self.reserved, changed=changed)
        return self.cpus

    def give(self, pod: Pod, where: Hint = ANYWHERE) -> dict[str, str]:
        async def every() -> None:
            for one in (*pod.spec.init_containers, *pod.spec.containers):
                await self.cpus.allocate(pod, one, where)

        asyncio.run(every())
        return {one.name: self.cpus.given(pod, one).cpus for one in (*pod.spec.init_containers, *pod.spec.containers)}

    def saved(self) -> CpuState:
        found = load(self.file, CpuState, "static")
        assert found is not None
        return found


def test_whole_cpus_of_guaranteed_pods_are_their_own(tmp_path: Path) -> None:
    node = Node(tmp_path, FLAT)
    assert node.give(guaranteed("db", asking(cpu="2"))) == {"main": "1,5"}
    assert write_list(node.cpus.shared) == "0,2-4,6-7"
    assert node.changes == 1


@pytest.mark.parametrize(
    "pod",
    [
        pytest.param(guaranteed("a", asking(cpu="1500m")), id="no whole number"),
        pytest.param(make_pod("b"), id="best effort"),
        pytest.param(
            make_pod("c", containers=(make_container(resources=ResourceRequirements(requests={"cpu": "2"})),)),
            id="burstable",
        ),
        pytest.param(
            guaranteed("d", resources=ResourceRequirements(limits={"cpu": "2"}, requests={"cpu": "2"})),
            id="resources of the pod as a whole",
        ),
    ],
)
def test_all_others_share(tmp_path: Path, pod: Pod) -> None:
    node = Node(tmp_path, FLAT)
    assert node.give(pod) == {"main": "0-7"}
    assert node.cpus.hints(pod, pod.spec.containers[0]) == {}
    assert node.changes == 0


def test_what_a_pod_had_is_shared_again_when_it_is_over(tmp_path: Path) -> None:
    node = Node(tmp_path, FLAT)
    pod = guaranteed("db", asking(cpu="4"))
    node.give(pod)
    node.cpus.release(pod.metadata.uid or "")
    node.cpus.release("unknown")
    assert node.cpus.shared == FLAT.all
    assert node.saved().entries == {}
    assert node.changes == 2


def test_init_containers_leave_their_cpus_to_the_pod_and_sidecars_do_not(tmp_path: Path) -> None:
    node = Node(tmp_path, FLAT)
    init = (asking("prepare", cpu="4"), asking("proxy", cpu="1", restart_policy="Always"), asking("again", cpu="2"))
    given = node.give(guaranteed("db", asking("one", cpu="2"), asking("two", cpu="2"), init=init))
    own = {name: read_list(text) for name, text in given.items()}
    assert own["one"] | own["two"] <= own["prepare"] | own["again"] | {1, 2, 3, 5, 6, 7}
    assert not own["proxy"] & (own["one"] | own["two"] | own["again"])
    assert not own["one"] & own["two"]
    assert len(node.cpus.shared) == 8 - len(frozenset().union(*own.values())) >= 2


def test_giving_twice_gives_the_same(tmp_path: Path) -> None:
    node = Node(tmp_path, FLAT)
    pod = guaranteed("db", asking(cpu="2"))
    assert node.give(pod) == node.give(pod)
    assert node.changes == 1


def test_cpus_of_the_hint_go_first(tmp_path: Path) -> None:
    node = Node(tmp_path, NUMA)
    assert node.give(guaranteed("db", asking(cpu="4")), Hint(frozenset({2}))) == {"main": "8-9,24-25"}
    large = read_list(node.give(guaranteed("large", asking(cpu="10")), Hint(frozenset({3})))["main"])
    assert large >= NUMA.in_nodes({3})


def test_too_many_are_refused_in_upstreams_words(tmp_path: Path) -> None:
    node = Node(tmp_path, machine())
    with pytest.raises(NotGiven) as refused:
        node.give(guaranteed("db", asking(cpu="2")))
    assert refused.value.reason == "UnexpectedAdmissionError"
    assert refused.value.message == (
        "Allocate failed due to not enough cpus available to satisfy request: requested=2, available=1,"
        " which is unexpected"
    )


@pytest.mark.parametrize(
    ("cpu", "message"),
    [
        ("3", "SMT Alignment Error: requested 3 cpus not multiple cpus per core = 2"),
        (
            "8",
            "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = 6, requested CPUs = 8,"
            " CPUs per core = 2",
        ),
    ],
)
def test_half_cores_are_refused_where_only_whole_ones_are_given(tmp_path: Path, cpu: str, message: str) -> None:
    node = Node(tmp_path, FLAT, full_pcpus_only=True)
    with pytest.raises(NotGiven) as refused:
        node.give(guaranteed("db", asking(cpu=cpu)))
    assert (refused.value.reason, refused.value.message) == ("SMTAlignmentError", message)


def test_hints_name_the_fewest_nodes_as_preferred(tmp_path: Path) -> None:
    node = Node(tmp_path, machine(2, 1, 2, 2))
    pod = guaranteed("db", asking(cpu="3"))
    assert node.cpus.hints(pod, pod.spec.containers[0]) == {
        "cpu": [Hint(frozenset({0}), True), Hint(frozenset({1}), True), Hint(frozenset({0, 1}), False)]
    }
    node.give(pod, Hint(frozenset({1})))
    again = guaranteed("next", asking(cpu="4"))
    assert node.cpus.hints(again, again.spec.containers[0]) == {"cpu": [Hint(frozenset({0, 1}), False)]}
    assert node.cpus.hints(pod, pod.spec.containers[0]) == {
        "cpu": [Hint(frozenset({1}), True), Hint(frozenset({0, 1}), False)]
    }


def test_by_sockets_all_nodes_of_a_socket_are_preferred(tmp_path: Path) -> None:
    node = Node(tmp_path, NUMA, align_by_socket=True)
    pod = guaranteed("db", asking(cpu="6"))
    preferred = [hint.nodes for hint in node.cpus.hints(pod, pod.spec.containers[0])["cpu"] or () if hint.preferred]
    assert frozenset({2, 3}) in preferred
    assert frozenset({1, 2}) not in preferred
    assert read_list(node.give(guaranteed("big", asking(cpu="12")), Hint(frozenset({2})))["main"]) <= NUMA.in_sockets(
        frozenset({1})
    )


def test_by_sockets_needs_no_more_sockets_than_nodes(tmp_path: Path) -> None:
    write_sys(tmp_path, machine(2, 1, 2), with_nodes=False)
    with pytest.raises(SettingsError, match="Align by socket is not compatible"):
        Node(tmp_path, read_machine(tmp_path), align_by_socket=True)


def test_strictly_reserved_cpus_are_nobodys(tmp_path: Path) -> None:
    node = Node(tmp_path, FLAT, reserved=frozenset({0, 4}), strict_cpu_reservation=True)
    assert node.give(make_pod("any")) == {"main": "1-3,5-7"}
    node.start()
    assert write_list(node.cpus.shared) == "1-3,5-7"


def test_the_static_policy_wants_a_reservation(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"requires systemreserved.cpu \+ kubereserved.cpu to be greater than zero"):
        Node(tmp_path, FLAT, reserved=0)


# ------------------------------------------------------------------------------------------------------------ on disk


@pytest.mark.parametrize(
    ("state", "number"),
    [
        (CpuState(policy_name="none", default_cpu_set="4-6"), 354655845),
        (
            CpuState(
                policy_name="none",
                default_cpu_set="1-3",
                entries={"pod": {"container1": "4-6", "container2": "1-3"}},
            ),
            3610638499,
        ),
    ],
)
def test_checksums_are_those_of_upstreams_own_files(state: CpuState, number: int) -> None:
    assert checksum(state) == number


def test_a_restart_keeps_what_was_given(tmp_path: Path) -> None:
    node = Node(tmp_path, FLAT)
    pod = guaranteed("db", asking(cpu="2"))
    before = node.give(pod)
    node.start()
    assert node.give(pod) == before
    assert node.saved().entries == {"uid-db": {"main": "1,5"}}


@pytest.mark.parametrize(
    ("shared", "entries", "message"),
    [
        ("", {"uid": {"main": "1"}}, "default cpuset cannot be empty"),
        ("1-7", {}, 'not all reserved cpus: "0" are present in defaultCpuSet: "1-7"'),
        ("0-7", {"uid": {"main": "1"}}, 'pod: uid, container: main cpuset: "1" overlaps with default cpuset "0-7"'),
        ("0-6", {}, 'current set of available CPUs "0-7" doesn\'t match with CPUs in state "0-6"'),
        ("0-x", {}, "could not parse"),
    ],
)
def test_a_state_that_cannot_be_is_refused(
    tmp_path: Path, shared: str, entries: dict[str, dict[str, str]], message: str
) -> None:
    from kaa.kubelet.topology.checkpoint import save

    node = Node(tmp_path, FLAT)
    save(node.file, CpuState(policy_name="static", default_cpu_set=shared, entries=entries))
    with pytest.raises(InvalidState) as refused:
        node.start()
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "could not restore state from checkpoint"),
        ('{"policyName":"static","defaultCpuSet":"0-7","entries":{},"checksum":1}', "checkpoint is corrupted"),
        (
            '{"policyName":"none","defaultCpuSet":"4-6","entries":{},"checksum":354655845}',
            'configured policy "static" differs from state checkpoint policy "none"',
        ),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    node = Node(tmp_path, FLAT)
    node.file.write_text(text)
    with pytest.raises(InvalidState, match=message):
        node.start()


def test_an_ephemeral_container_shares(tmp_path: Path) -> None:
    node = Node(tmp_path, FLAT)
    pod = guaranteed("db", asking(cpu="2"))
    node.give(pod)
    assert node.cpus.given(pod, Container(name="debug")).cpus == "0,2-4,6-7"
