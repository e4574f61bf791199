"""Where on the machine everything that a container asks for should come from: merges the hints of all providers. Pure.

    hints of each resource ── one of each, their nodes in common ──> the best such choice ── policy ──> admitted or not

The idea: upstream tries every choice of one hint a resource, which is a product over resources. What a choice comes to depends
only on its common nodes, on whether every hint was preferred, and on whether they were all equal: so choices are folded one
resource after the other into that little state, and the number of states is bounded by the machine, not by the pod.
Source: pkg/kubelet/cm/topologymanager (policy.go, policy_*.go, numa_info.go).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from .base import Hint

PolicyName = Literal["none", "best-effort", "restricted", "single-numa-node"]
Nodes = frozenset[int]
NOWHERE = Hint(None, False)


class Policy(msgspec.Struct, frozen=True):
    """``nodes``: the machine's NUMA nodes. ``distances`` {node: to each of them} decide between as many nodes, if given."""

    name: PolicyName
    nodes: Nodes
    distances: Mapping[int, Sequence[int]] | None = None

    def merge(self, given: Sequence[Mapping[str, Sequence[Hint] | None]]) -> tuple[Hint, bool]:
        """The hint that all providers should follow, and whether the pod may be let in with it."""
        if self.name == "none":
            return NOWHERE, True
        wanted = each_resource(given)
        if self.name != "single-numa-node":
            best = merged(wanted, self.nodes, self.distances)
            return best, best.preferred or self.name == "best-effort"
        best = merged([_on_one_node(hints) for hints in wanted], self.nodes)
        return (Hint(None, best.preferred) if best.nodes == self.nodes else best), best.preferred


def _on_one_node(hints: Sequence[Hint]) -> list[Hint]:
    return [hint for hint in hints if hint.preferred and (hint.nodes is None or len(hint.nodes) == 1)]


def each_resource(given: Iterable[Mapping[str, Sequence[Hint] | None]]) -> list[Sequence[Hint]]:
    """The hints of every resource: whoever has no preference takes anything, whoever can serve from nowhere says so."""
    made: list[Sequence[Hint]] = []
    for hints in given:
        for some in hints.values():
            made.append((Hint(),) if some is None else some or (NOWHERE,))
    return made


#: What some choice of hints comes to: (nodes in common, whether all are preferred, the nodes that all of them name if they name
#: the same), nodes as bits; -1 for no name yet, and where it no longer matters.
_Choice = tuple[int, bool, int]
_UNNAMED = -1


def merged(
    wanted: Sequence[Sequence[Hint]], nodes: Nodes, distances: Mapping[int, Sequence[int]] | None = None
) -> Hint:
    """The best choice of one hint a resource; all of the nodes, not preferred, where every choice comes to nothing."""
    choices: set[_Choice] = {(_bits(nodes), True, _UNNAMED)}
    for hints in wanted:
        of_one = {(_UNNAMED if hint.nodes is None else _bits(hint.nodes), hint.preferred) for hint in hints}
        choices = {_with(choice, *hint) for choice in choices for hint in of_one}
    count = _most_needed(wanted)
    found = {Hint(_from_bits(bits), preferred) for bits, preferred, _ in choices if bits}
    return min(found, key=lambda hint: rank(hint, count, distances), default=Hint(nodes, False))


def _with(choice: _Choice, bits: int, preferred: bool) -> _Choice:
    common, all_preferred, equal = choice
    if bits != _UNNAMED:
        common &= bits
        preferred = preferred and equal in (_UNNAMED, bits)
        equal = bits
    return (common, True, equal) if all_preferred and preferred else (common, False, _UNNAMED)


def _bits(nodes: Iterable[int]) -> int:
    return sum(1 << node for node in nodes)


def _from_bits(bits: int) -> Nodes:
    return frozenset(node for node in range(bits.bit_length()) if bits >> node & 1)


def _most_needed(wanted: Sequence[Sequence[Hint]]) -> int:
    """How many nodes the resource needs that needs most: choices that are not preferred should have so many."""
    fewest = ([len(hint.nodes) for hint in hints if hint.nodes is not None] for hints in wanted)
    return max((min(sizes) for sizes in fewest if sizes), default=0)


def rank(hint: Hint, count: int, distances: Mapping[int, Sequence[int]] | None = None) -> tuple[float, ...]:
    """Lower is better: preferred, few nodes, near each other, low numbers; without preference as near to ``count`` as can be."""
    nodes = hint.nodes or frozenset()
    size = len(nodes)
    fit: tuple[float, ...] = (0, size)
    if not hint.preferred:
        fit = (1, 0, 0) if size == count else (1, 1, -size) if size < count else (1, 2, size)
    return (*fit, _distance(nodes, distances), _bits(nodes))


def _distance(nodes: Nodes, distances: Mapping[int, Sequence[int]] | None) -> float:
    """The mean distance from each of the nodes to each."""
    if distances is None or not nodes:
        return 0.0
    place = {node: at for at, node in enumerate(sorted(distances))}
    return sum(distances[one][place[other]] for one in nodes for other in nodes) / len(nodes) ** 2


def on_few_nodes(nodes: Iterable[int]) -> list[Nodes]:
    """Every set of some of the nodes, small ones first: what a provider may look at for its hints."""
    order = sorted(nodes)
    sets = [frozenset(n for at, n in enumerate(order) if mask >> at & 1) for mask in range(1, 1 << len(order))]
    return sorted(sets, key=lambda one: (len(one), sorted(one)))
