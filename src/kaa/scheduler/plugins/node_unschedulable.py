"""NodeUnschedulable: keep pods off cordoned nodes, unless they tolerate the cordon's taint."""

from __future__ import annotations

from kaa.api.types.core_v1 import Taint

from ..framework import ClusterEvent, Filter, StillFilter, Unscored
from ..snapshot import Snapshot
from ..template import Template
from .taint_toleration import tolerated

CORDON = Taint(key="node.kubernetes.io/unschedulable", effect="NoSchedule")


class NodeUnschedulable(Unscored):
    name = "NodeUnschedulable"
    events = frozenset({ClusterEvent.NODE_ADD, ClusterEvent.NODE_TAINT})

    def filter(self, template: Template, nodes: Snapshot) -> Filter | None:
        if tolerated(CORDON, template.pod.spec.tolerations):
            return None
        return StillFilter(~nodes.cordoned, "node(s) were unschedulable")
