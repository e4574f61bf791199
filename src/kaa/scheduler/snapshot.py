"""The cluster as the scheduler sees it: columns over nodes, each event changing one row.

The idea: a node is a row number. What it has and what its pods ask for are entries of NumPy arrays, labels are small
integers (an id per value, a column per key that anyone asked about), so one comparison answers for every node. Passes
that remember masks and scores follow two things: the ``journal`` of pods that came and went, which they correct
themselves by, and the ``epoch``, which changes when nodes themselves changed and passes must start over.

    rows        0        1        2
    alloc[cpu]  4000     8000     4000
    used[cpu]   1500        0     4000       -> fits 1 cpu: True, True, False
    zone ids    0        1        -1         {"a": 0, "b": 1}, -1: has no such label
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kaa.api.types.core_v1 import Node, Pod, Taint

from .columns import Mask, Move
from .template import HostPort, Template, Templates, amounts_of, normal_image

#: The fixed rows of ``alloc`` and ``used``; extended resources follow as they are met.
CPU, MEMORY, STORAGE = 0, 1, 2
_FIXED = {"cpu": CPU, "memory": MEMORY, "ephemeral-storage": STORAGE}
#: Moves kept for passes to catch up with; one further behind starts over.
JOURNAL_MAX = 4096

Ids = NDArray[np.int32]
K = TypeVar("K")


@dataclass(slots=True)
class Placed:
    """A pod on a node, bound or assumed. ``row`` is -1 while its node is unknown."""

    pod: Pod
    template: Template
    node: str
    row: int


@dataclass(slots=True)
class Column:
    """A label's value on every row, as an id; -1 without the label."""

    ids: Ids
    values: dict[str, int]


class Snapshot:
    """Rows ``0 .. size-1`` are nodes or (not ``alive``) rows of removed nodes waiting for reuse."""

    def __init__(self, templates: Templates | None = None) -> None:
        self.templates = templates or Templates()
        self.rows: dict[str, int] = {}  #: {node name: row}
        self.names: list[str] = []
        self.nodes: list[Node | None] = []
        self.pods: dict[str, Placed] = {}  #: {pod uid: where it is}
        self.on_row: list[dict[str, Placed]] = []
        self.placed: dict[str, dict[Template, dict[int, int]]] = {}  #: {namespace: {template: {row: pods}}}
        self.affine: dict[Template, dict[int, int]] = {}  #: of those, templates with pod affinity terms
        self.ports: list[dict[HostPort, int]] = []
        self.images: dict[str, dict[int, int]] = {}  #: {image: {row: size in bytes}}
        self.namespaces: dict[str, Mapping[str, str]] = {}  #: {namespace: its labels}
        self.resources = dict(_FIXED)  #: {resource: its row in ``alloc`` and ``used``}
        self.taint_sets: list[tuple[Taint, ...]] = [()]
        self.epoch = 0
        self.journal: list[Move] = []
        self.journal_base = 0  #: moves dropped from its front
        self._taint_ids: dict[tuple[tuple[str, str, str], ...], int] = {(): 0}
        self._columns: dict[str, Column] = {}
        self._free: list[int] = []
        self._homeless: dict[str, dict[str, Placed]] = {}  #: {unknown node: {uid: pod}}
        self._allocate(64)

    def _allocate(self, capacity: int) -> None:
        self._capacity = capacity
        self._alloc = np.zeros((8, capacity), np.int64)
        self._used = np.zeros((8, capacity), np.int64)
        self._scored = np.zeros((2, capacity), np.int64)
        self._alloc_pods = np.zeros(capacity, np.int64)
        self._used_pods = np.zeros(capacity, np.int64)
        self._alive = np.zeros(capacity, np.bool_)
        self._cordoned = np.zeros(capacity, np.bool_)
        self._taints = np.zeros(capacity, np.int32)

    # ------------------------------------------------------------------------------------------------- columns

    @property
    def size(self) -> int:
        return len(self.names)

    @property
    def count(self) -> int:
        """Nodes there are."""
        return len(self.rows)

    @property
    def journal_end(self) -> int:
        return self.journal_base + len(self.journal)

    @property
    def alloc(self) -> NDArray[np.int64]:
        """[resource, row]: allocatable cpu millis, bytes, or units."""
        return self._alloc[:, : self.size]

    @property
    def used(self) -> NDArray[np.int64]:
        """[resource, row]: the sum of requests."""
        return self._used[:, : self.size]

    @property
    def scored(self) -> NDArray[np.int64]:
        """[cpu or memory, row]: the same with an assumed amount for containers that request none."""
        return self._scored[:, : self.size]

    @property
    def alloc_pods(self) -> NDArray[np.int64]:
        return self._alloc_pods[: self.size]

    @property
    def used_pods(self) -> NDArray[np.int64]:
        return self._used_pods[: self.size]

    @property
    def alive(self) -> Mask:
        return self._alive[: self.size]

    @property
    def cordoned(self) -> Mask:
        return self._cordoned[: self.size]

    @property
    def taints(self) -> Ids:
        """[row]: index into ``taint_sets``."""
        return self._taints[: self.size]

    def label(self, key: str) -> Column:
        """The column of a label, made when it is first asked for."""
        column = self._columns.get(key)
        if column is None:
            column = self._columns[key] = Column(np.full(self._capacity, -1, np.int32), {})
            for row, node in enumerate(self.nodes):
                if node is not None:
                    _fill(column, row, node.metadata.labels.get(key))
        return Column(column.ids[: self.size], column.values)

    # --------------------------------------------------------------------------------------------------- nodes

    def set_node(self, node: Node) -> None:
        """Add a node, or take over its changes."""
        name = node.metadata.name or ""
        row = self.rows.get(name)
        if row is None:
            row = self._new_row(name)
        elif same_for_scheduling(self.nodes[row], node):
            self.nodes[row] = node
            return
        self._drop_images(row)
        self.nodes[row] = node
        self._write(row, node)
        self.epoch += 1
        for placed in self._homeless.pop(name, {}).values():
            self._settle(placed, row)

    def remove_node(self, name: str) -> None:
        """Its pods stay known, without a row, until they go too or it comes back."""
        row = self.rows.pop(name, None)
        if row is None:
            return
        for uid, placed in list(self.on_row[row].items()):
            self._count(placed, -1)
            placed.row = -1
            self._homeless.setdefault(name, {})[uid] = placed
        self._drop_images(row)
        self.nodes[row] = None
        self._alive[row] = False
        self._alloc[:, row] = 0
        self._alloc_pods[row] = 0
        for column in self._columns.values():
            column.ids[row] = -1
        self._free.append(row)
        self.epoch += 1

    def _new_row(self, name: str) -> int:
        if self._free:
            row = self._free.pop()
            self.names[row] = name
        else:
            row = self.size
            if row == self._capacity:
                self._grow()
            self.names.append(name)
            self.nodes.append(None)
            self.on_row.append({})
            self.ports.append({})
        self.rows[name] = row
        return row

    def _grow(self) -> None:
        more = self._capacity
        wide = ((0, 0), (0, more))
        self._alloc, self._used, self._scored = (np.pad(a, wide) for a in (self._alloc, self._used, self._scored))
        self._alloc_pods, self._used_pods = np.pad(self._alloc_pods, (0, more)), np.pad(self._used_pods, (0, more))
        self._alive, self._cordoned = np.pad(self._alive, (0, more)), np.pad(self._cordoned, (0, more))
        self._taints = np.pad(self._taints, (0, more))
        for column in self._columns.values():
            column.ids = np.pad(column.ids, (0, more), constant_values=-1)
        self._capacity += more

    def _write(self, row: int, node: Node) -> None:
        status = node.status
        self._alive[row] = True
        self._cordoned[row] = bool(node.spec.unschedulable)
        self._taints[row] = self._taint_set(node.spec.taints)
        self._alloc[:, row] = 0
        has = amounts_of(status.allocatable) if status else {}
        self._alloc_pods[row] = has.pop("pods", 0)
        for resource, amount in has.items():
            index = self.resource(resource)
            self._alloc[index, row] = amount
        for key, column in self._columns.items():
            _fill(column, row, node.metadata.labels.get(key))
        for image in status.images if status else ():
            for name in image.names:
                self.images.setdefault(normal_image(name), {})[row] = image.size_bytes or 0

    def _drop_images(self, row: int) -> None:
        node = self.nodes[row]
        for image in node.status.images if node and node.status else ():
            for name in image.names:
                self.images.get(normal_image(name), {}).pop(row, None)

    def resource(self, name: str) -> int:
        """The row of a resource in ``alloc`` and ``used``."""
        index = self.resources.get(name)
        if index is None:
            index = self.resources[name] = len(self.resources)
            if index == len(self._alloc):
                deep = ((0, index), (0, 0))
                self._alloc, self._used = np.pad(self._alloc, deep), np.pad(self._used, deep)
        return index

    def _taint_set(self, taints: Iterable[Taint]) -> int:
        taints = tuple(taints)
        key = tuple((t.key, t.value or "", t.effect) for t in taints)
        found = self._taint_ids.get(key)
        if found is None:
            found = self._taint_ids[key] = len(self.taint_sets)
            self.taint_sets.append(taints)
        return found

    # ---------------------------------------------------------------------------------------------------- pods

    def add_pod(self, pod: Pod, node: str, template: Template | None = None) -> Placed:
        """Put a pod on a node. A pod that is there already changes to what is given."""
        uid = pod.metadata.uid or f"{pod.metadata.namespace}/{pod.metadata.name}"
        template = template or self.templates.of(pod)
        known = self.pods.get(uid)
        if known is not None:
            if known.node == node and known.template is template:
                known.pod = pod
                return known
            self.remove_pod(uid)
        placed = self.pods[uid] = Placed(pod, template, node, -1)
        row = self.rows.get(node, -1)
        if row < 0:
            self._homeless.setdefault(node, {})[uid] = placed
        else:
            self._settle(placed, row)
        return placed

    def remove_pod(self, uid: str) -> Placed | None:
        placed = self.pods.pop(uid, None)
        if placed is None:
            return None
        if placed.row >= 0:
            self._count(placed, -1)
            return placed
        waiting = self._homeless.get(placed.node, {})
        waiting.pop(uid, None)
        if not waiting:
            self._homeless.pop(placed.node, None)
        return placed

    def _settle(self, placed: Placed, row: int) -> None:
        placed.row = row
        self._count(placed, 1)

    def _count(self, placed: Placed, sign: int) -> None:
        """Add a pod to (or take it from) every column of its row, and tell the journal."""
        row, template = placed.row, placed.template
        uid = placed.pod.metadata.uid or f"{placed.pod.metadata.namespace}/{placed.pod.metadata.name}"
        if sign > 0:
            self.on_row[row][uid] = placed
        else:
            self.on_row[row].pop(uid, None)
        for resource, amount in template.requests.items():
            index = self.resources.get(resource)
            if index is None:
                index = self.resource(resource)
            self._used[index, row] += sign * amount
        self._scored[CPU, row] += sign * template.scored_cpu_millis
        self._scored[MEMORY, row] += sign * template.scored_memory_bytes
        self._used_pods[row] += sign
        for port in template.host_ports:
            _bump(self.ports[row], port, sign)
        self._file(template, row, sign)
        self.journal.append(Move(row, template, sign))
        if len(self.journal) > 2 * JOURNAL_MAX:
            del self.journal[:JOURNAL_MAX]
            self.journal_base += JOURNAL_MAX

    def _file(self, template: Template, row: int, sign: int) -> None:
        here = self.placed.setdefault(template.namespace, {})
        counts = here.setdefault(template, {})
        _bump(counts, row, sign)
        if template.affine and template not in self.affine:
            self.affine[template] = counts
            self.epoch += 1  # passes that found no affinity to heed must ask again
        if not counts:
            del here[template]
            self.affine.pop(template, None)

    def set_namespace(self, name: str, labels: Mapping[str, str] | None) -> None:
        """A namespace's labels, or None when it is gone."""
        if self.namespaces.get(name) == labels:
            return
        if labels is None:
            self.namespaces.pop(name, None)
        else:
            self.namespaces[name] = labels
        self.epoch += 1


def _bump(counts: dict[K, int], key: K, sign: int) -> None:
    left = counts.get(key, 0) + sign
    if left:
        counts[key] = left
    else:
        counts.pop(key, None)


def _fill(column: Column, row: int, value: str | None) -> None:
    column.ids[row] = -1 if value is None else column.values.setdefault(value, len(column.values))


def same_for_scheduling(old: Node | None, new: Node) -> bool:
    """Whether nothing that the columns hold differs: heartbeats and conditions do not count."""
    if old is None or old.status is None or new.status is None:
        return False
    return (
        old.metadata.labels == new.metadata.labels
        and old.spec.taints == new.spec.taints
        and bool(old.spec.unschedulable) == bool(new.spec.unschedulable)
        and old.status.allocatable == new.status.allocatable
        and old.status.images == new.status.images
    )
