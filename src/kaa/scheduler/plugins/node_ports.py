"""NodePorts: no two pods of a node on one host port.

Source: kubernetes/kubernetes pkg/scheduler/framework HostPortInfo.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..columns import Mask, Move, Rows
from ..framework import ClusterEvent, Filter, Rejection, Unscored
from ..snapshot import Snapshot
from ..template import HostPort, Template

ANY = "0.0.0.0"


class NodePorts(Unscored):
    name = "NodePorts"
    events = frozenset({ClusterEvent.NODE_ADD, ClusterEvent.POD_DELETE})

    def filter(self, template: Template, nodes: Snapshot) -> Filter | None:
        return FreePorts(template.host_ports, nodes) if template.host_ports else None


class FreePorts:
    def __init__(self, wanted: Sequence[HostPort], nodes: Snapshot) -> None:
        self._wanted, self._nodes = wanted, nodes
        self.mask: Mask = np.array([self._free(row) for row in range(nodes.size)], np.bool_)

    def _free(self, row: int) -> bool:
        held = self._nodes.ports[row]
        return not any(conflict(a, b) for a in self._wanted for b in held)

    def correct(self, rows: Rows, moves: Sequence[Move]) -> None:
        for row in {move.row for move in moves}:
            self.mask[row] = self._free(row)

    def rejections(self) -> Iterator[Rejection]:
        yield Rejection(~self.mask, "node(s) didn't have free ports for the requested pod ports")


def conflict(a: HostPort, b: HostPort) -> bool:
    """The wildcard address meets every other."""
    return a.port == b.port and a.protocol == b.protocol and (a.ip == b.ip or ANY in (a.ip, b.ip))
