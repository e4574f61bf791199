"""TaintToleration: keep pods off nodes whose taints they do not tolerate; avoid those that would rather not have them.

Source: API reference "Toleration"; kubernetes/kubernetes pkg/scheduler/framework/plugins/tainttoleration.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kaa.api.placement import tolerates
from kaa.api.types.core_v1 import Taint, Toleration

from ..framework import ClusterEvent, Filter, Score, StillFilter, StillScore
from ..snapshot import Snapshot
from ..template import Template

REASON = "node(s) had untolerated taint(s)"


class TaintToleration:
    name = "TaintToleration"
    events = frozenset({ClusterEvent.NODE_ADD, ClusterEvent.NODE_TAINT})

    def filter(self, template: Template, nodes: Snapshot) -> Filter:
        tolerations = template.pod.spec.tolerations
        fine = np.array([not _hard(taints, tolerations) for taints in nodes.taint_sets], np.bool_)
        return StillFilter(fine[nodes.taints], REASON)

    def score(self, template: Template, nodes: Snapshot) -> Score | None:
        soft = [t for t in template.pod.spec.tolerations if (t.effect or "PreferNoSchedule") == "PreferNoSchedule"]
        counts = np.array([_soft(taints, soft) for taints in nodes.taint_sets], np.int64)
        return StillScore(counts[nodes.taints], reverse=True) if counts.any() else None


def tolerated(taint: Taint, tolerations: Sequence[Toleration]) -> bool:
    return any(tolerates(toleration, taint) for toleration in tolerations)


def _hard(taints: Sequence[Taint], tolerations: Sequence[Toleration]) -> bool:
    return any(t.effect in ("NoSchedule", "NoExecute") and not tolerated(t, tolerations) for t in taints)


def _soft(taints: Sequence[Taint], tolerations: Sequence[Toleration]) -> int:
    return sum(t.effect == "PreferNoSchedule" and not tolerated(t, tolerations) for t in taints)
