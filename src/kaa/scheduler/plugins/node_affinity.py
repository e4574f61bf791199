"""NodeAffinity: nodeSelector and node affinity, required and preferred.

Source: API reference "NodeSelectorTerm"; kubernetes/kubernetes component-helpers scheduling/corev1/nodeaffinity.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from kaa.api.types.core_v1 import NodeAffinity as Affinity
from kaa.api.types.core_v1 import NodeSelectorRequirement, NodeSelectorTerm

from ..columns import Mask, Move, Rows
from ..framework import ClusterEvent, Filter, Rejection, Score, StillScore
from ..snapshot import Snapshot
from ..template import Template

REASON = "node(s) didn't match Pod's node affinity/selector"


class NodeAffinity:
    name = "NodeAffinity"
    events = frozenset({ClusterEvent.NODE_ADD, ClusterEvent.NODE_LABEL})

    def filter(self, template: Template, nodes: Snapshot) -> Filter | None:
        if not template.pod.spec.node_selector and _required(template) is None:
            return None
        return Matching(matching(template, nodes), named(template, nodes))

    def score(self, template: Template, nodes: Snapshot) -> Score | None:
        affinity = _affinity(template)
        preferred = affinity.preferred_during_scheduling_ignored_during_execution if affinity else ()
        if not preferred:
            return None
        raw = np.zeros(nodes.size, np.int64)
        for choice in preferred:
            raw += choice.weight * term_mask(choice.preference, nodes)
        return StillScore(raw)


class Matching:
    """Nodes that match; and of the others those that were never asked, as the pod names nodes (a daemon's does)."""

    def __init__(self, mask: Mask, named: Mask | None) -> None:
        self.mask, self._named = mask, named

    def correct(self, rows: Rows, moves: Sequence[Move]) -> None:
        return

    def rejections(self) -> Iterator[Rejection]:
        if self._named is not None and self._named.any():
            yield Rejection(~self._named, "node(s) didn't satisfy plugin(s) [NodeAffinity]", resolvable=False)
        yield Rejection(~self.mask, REASON, resolvable=False)


def matching(template: Template, nodes: Snapshot) -> Mask:
    """Rows whose nodes match the pod's nodeSelector and its required node affinity."""
    mask = nodes.alive.copy()
    for key, value in template.pod.spec.node_selector.items():
        mask &= values_mask(key, (value,), nodes)
    terms = _required(template)
    if terms is not None:
        some = np.zeros(nodes.size, np.bool_)
        for term in terms:
            some |= term_mask(term, nodes)
        mask &= some
    return mask


def named(template: Template, nodes: Snapshot) -> Mask | None:
    """The rows that the pod names by ``metadata.name``, when every term of its affinity does so."""
    terms = _required(template)
    if not terms:
        return None
    rows = np.zeros(nodes.size, np.bool_)
    for term in terms:
        exact = [r for r in term.match_fields if r.key == "metadata.name" and r.operator == "In"]
        if not exact:
            return None
        rows |= np.logical_and.reduce([_field_mask(r, nodes) for r in exact])
    return rows


def term_mask(term: NodeSelectorTerm, nodes: Snapshot) -> Mask:
    """All of a term's demands. A term without any matches no node."""
    if not term.match_expressions and not term.match_fields:
        return np.zeros(nodes.size, np.bool_)
    mask = np.ones(nodes.size, np.bool_)
    for requirement in term.match_expressions:
        mask &= _label_mask(requirement, nodes)
    for requirement in term.match_fields:
        mask &= _field_mask(requirement, nodes)
    return mask


def values_mask(key: str, values: Sequence[str], nodes: Snapshot) -> Mask:
    """Rows whose label has one of the values."""
    return _label_mask(NodeSelectorRequirement(key=key, operator="In", values=tuple(values)), nodes)


def _label_mask(requirement: NodeSelectorRequirement, nodes: Snapshot) -> Mask:
    """Decide once per value of the label (and once for its absence, the last entry), then look up by id."""
    column = nodes.label(requirement.key)
    table = np.zeros(len(column.values) + 1, np.bool_)
    match requirement.operator:
        case "In" | "NotIn":
            for value in requirement.values:
                if value in column.values:
                    table[column.values[value]] = True
            if requirement.operator == "NotIn":
                table = ~table
        case "Exists":
            table[:-1] = True
        case "DoesNotExist":
            table[-1] = True
        case operator:
            _compare(operator, requirement.values, column.values, table)
    found: Mask = table[column.ids]
    return found


def _compare(operator: str, bounds: Sequence[str], values: Mapping[str, int], table: Mask) -> None:
    try:
        (bound,) = (int(text) for text in bounds)
    except ValueError:
        return
    for value, index in values.items():
        try:
            number = int(value)
        except ValueError:
            continue
        table[index] = number > bound if operator == "Gt" else operator == "Lt" and number < bound


def _field_mask(requirement: NodeSelectorRequirement, nodes: Snapshot) -> Mask:
    """``metadata.name`` is the one field there is."""
    mask = np.zeros(nodes.size, np.bool_)
    if requirement.key != "metadata.name":
        return mask
    for value in requirement.values:
        if value in nodes.rows:
            mask[nodes.rows[value]] = True
    return mask if requirement.operator == "In" else ~mask


def _affinity(template: Template) -> Affinity | None:
    affinity = template.pod.spec.affinity
    return affinity.node_affinity if affinity else None


def _required(template: Template) -> Sequence[NodeSelectorTerm] | None:
    affinity = _affinity(template)
    required = affinity.required_during_scheduling_ignored_during_execution if affinity else None
    return required.node_selector_terms if required else None
