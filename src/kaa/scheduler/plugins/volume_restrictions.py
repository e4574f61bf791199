"""VolumeRestrictions: a claim for one pod alone is used by one; a disk that cannot be shared is used once a node.

Source: API concepts "Persistent Volumes" (ReadWriteOncePod); kubernetes/kubernetes plugins/volumerestrictions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from ..columns import Mask, Move, Rows, Vector
from ..domains import Matcher, placed
from ..framework import ClusterEvent, Code, Filter, Rejection, Status, Unscored
from ..snapshot import Snapshot
from ..template import Disk, Template
from ..volumes import Volumes

IN_USE = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"
NO_DISK = "node(s) had no available disk"
ONE_POD = "ReadWriteOncePod"


class VolumeRestrictions(Unscored):
    name = "VolumeRestrictions"
    events = frozenset({ClusterEvent.NODE_ADD, ClusterEvent.POD_DELETE, ClusterEvent.STORAGE})

    def __init__(self, volumes: Volumes) -> None:
        self._volumes = volumes

    def filter(self, template: Template, nodes: Snapshot) -> Filter | Status | None:
        alone: set[str] = set()
        for name, own in template.claims:
            claim = None if own else self._volumes.claim(template.namespace, name)
            if claim is None and not own:
                return Status(Code.UNRESOLVABLE, f'persistentvolumeclaim "{name}" not found')
            if claim is not None and ONE_POD in claim.spec.access_modes:
                alone.add(name)
        return Unshared(template, alone, nodes) if alone or template.disks else None


class Unshared:
    """Counts of the pods in the way: on each row by disks, anywhere by claims."""

    def __init__(self, template: Template, alone: Collection[str], nodes: Snapshot) -> None:
        self._by_disk = Matcher(lambda other: share_no(template.disks, other.disks))
        self._by_claim = Matcher(lambda other: _uses(other, template.namespace, alone))
        self._disks: Vector = np.zeros(nodes.size, np.int64)
        self._users = 0
        for other, rows in placed(nodes):
            self._count(other, rows)
        self._judge()

    def _count(self, other: Template, rows: dict[int, int]) -> None:
        if self._by_claim(other):
            self._users += sum(rows.values())
        if self._by_disk(other):
            for row, number in rows.items():
                self._disks[row] += number

    def correct(self, rows: Rows, moves: Sequence[Move]) -> None:
        for row, other, sign in moves:
            self._count(other, {row: sign})
        self._judge()

    def _judge(self) -> None:
        self.mask: Mask = (self._disks == 0) & (self._users == 0)

    def rejections(self) -> Iterator[Rejection]:
        yield Rejection(self._disks > 0, NO_DISK)
        yield Rejection(~self.mask, IN_USE)


def share_no(mine: Sequence[Disk], others: Sequence[Disk]) -> bool:
    """Whether two pods on one node would meet on a disk that one of them may write."""
    return any((a.kind, a.name) == (b.kind, b.name) and not (a.read_only and b.read_only) for a in mine for b in others)


def _uses(other: Template, namespace: str, alone: Collection[str]) -> bool:
    return other.namespace == namespace and any(name in alone for name, _ in other.claims)
