"""NodeVolumeLimits: no more volumes of a CSI driver on a node than its CSINode says it can hold.

Source: API concepts "Node-specific Volume Limits"; kubernetes/kubernetes plugins/nodevolumelimits/csi.go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from kaa.api.volume_match import class_of

from ..columns import Mask, Move, Rows
from ..framework import ClusterEvent, Filter, Rejection, Unscored
from ..snapshot import Snapshot
from ..template import Template
from ..volumes import Volumes

REASON = "node(s) exceed max volume count"
#: (driver, what tells its volumes apart)
Attached = tuple[str, str]


class NodeVolumeLimits(Unscored):
    name = "NodeVolumeLimits"
    events = frozenset({ClusterEvent.NODE_ADD, ClusterEvent.POD_DELETE, ClusterEvent.STORAGE})

    def __init__(self, volumes: Volumes) -> None:
        self._volumes = volumes

    def filter(self, template: Template, nodes: Snapshot) -> Filter | None:
        wanted = attached(template, self._volumes)
        limits = limits_of({driver for driver, _ in wanted}, self._volumes, nodes) if wanted else {}
        return Limited(template, limits, self._volumes, nodes) if limits else None


def attached(template: Template, volumes: Volumes) -> frozenset[Attached]:
    """The CSI volumes that a pod attaches: those of its claims, and those in its own spec."""
    found = set()
    for volume in template.pod.spec.volumes:
        if volume.csi is not None:
            found.add((volume.csi.driver, f"{template.pod.metadata.uid}/{volume.name}"))
    for name, _ in template.claims:
        one = _of_claim(template.namespace, name, volumes)
        if one is not None:
            found.add(one)
    return frozenset(found)


def _of_claim(namespace: str, name: str, volumes: Volumes) -> Attached | None:
    """The volume behind a claim; while there is none, that which its class's driver will make."""
    claim = volumes.claim(namespace, name)
    if claim is None:
        return None
    volume = volumes.volume(claim.spec.volume_name) if claim.spec.volume_name else None
    if volume is not None:
        csi = volume.spec.csi
        return (csi.driver, csi.volume_handle) if csi is not None else None
    storage_class = volumes.classes.get(class_of(claim))
    return (storage_class.provisioner, f"{namespace}/{name}") if storage_class is not None else None


def limits_of(drivers: set[str], volumes: Volumes, nodes: Snapshot) -> dict[int, dict[str, int]]:
    """{row: {driver: most volumes}} where a node sets a limit for one of the drivers."""
    found: dict[int, dict[str, int]] = {}
    for node in volumes.nodes:
        row = nodes.rows.get(node.metadata.name or "", -1)
        told = {d.name: d.allocatable.count for d in node.spec.drivers if d.name in drivers and d.allocatable}
        limits = {driver: count for driver, count in told.items() if count is not None}
        if row >= 0 and limits:
            found[row] = limits
    return found


class Limited:
    """Rows where what is attached and what the pod adds stay within the limits."""

    def __init__(
        self, template: Template, limits: Mapping[int, Mapping[str, int]], volumes: Volumes, nodes: Snapshot
    ) -> None:
        self._wanted, self._limits = attached(template, volumes), limits
        self._volumes, self._nodes = volumes, nodes
        self.mask: Mask = np.ones(nodes.size, np.bool_)
        for row in limits:
            self.mask[row] = self._fits(row)

    def _fits(self, row: int) -> bool:
        here: set[Attached] = set()
        for template in {placed.template for placed in self._nodes.on_row[row].values()}:
            here |= attached(template, self._volumes)
        added = self._wanted - here
        for driver, most in self._limits[row].items():
            more = sum(driver == each for each, _ in added)
            if more and more + sum(driver == each for each, _ in here) > most:
                return False
        return True

    def correct(self, rows: Rows, moves: Sequence[Move]) -> None:
        for row in {move.row for move in moves} & self._limits.keys():
            self.mask[row] = self._fits(row)

    def rejections(self) -> Iterator[Rejection]:
        yield Rejection(~self.mask, REASON)
