"""NodeName: a pod that names its node goes there or nowhere."""

from __future__ import annotations

import numpy as np

from ..framework import ClusterEvent, Filter, StillFilter, Unscored
from ..snapshot import Snapshot
from ..template import Template


class NodeName(Unscored):
    name = "NodeName"
    events = frozenset({ClusterEvent.NODE_ADD})

    def filter(self, template: Template, nodes: Snapshot) -> Filter | None:
        wanted = template.asked_node
        if not wanted:
            return None
        mask = np.zeros(nodes.size, np.bool_)
        if wanted in nodes.rows:
            mask[nodes.rows[wanted]] = True
        return StillFilter(mask, "node(s) didn't match the requested node name")
