"""What a KubeSchedulerConfiguration says that kaa heeds, with upstream's defaults.

Source: API reference kubescheduler.config.k8s.io/v1; kubernetes/kubernetes pkg/scheduler/apis/config/v1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .framework import Plugin, Reserver
from .plugins.dynamic_resources import DynamicResources
from .plugins.image_locality import ImageLocality
from .plugins.inter_pod_affinity import InterPodAffinity
from .plugins.node_affinity import NodeAffinity
from .plugins.node_name import NodeName
from .plugins.node_ports import NodePorts
from .plugins.node_resources_balanced_allocation import NodeResourcesBalancedAllocation
from .plugins.node_resources_fit import NodeResourcesFit, Strategy
from .plugins.node_unschedulable import NodeUnschedulable
from .plugins.node_volume_limits import NodeVolumeLimits
from .plugins.pod_topology_spread import PodTopologySpread, WorkloadSelector
from .plugins.taint_toleration import TaintToleration
from .plugins.volume_binding import VolumeBinding
from .plugins.volume_restrictions import VolumeRestrictions
from .plugins.volume_zone import VolumeZone
from .volumes import Volumes

#: {plugin: weight of its score}
DEFAULT_WEIGHTS = {
    "TaintToleration": 3,
    "NodeAffinity": 2,
    "PodTopologySpread": 2,
    "InterPodAffinity": 2,
    "DynamicResources": 2,
    "NodeResourcesFit": 1,
    "NodeResourcesBalancedAllocation": 1,
    "ImageLocality": 1,
}


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """One profile. ``disabled`` names plugins that are left out, ``extra`` adds some after the built-in ones."""

    scheduler_name: str = "default-scheduler"
    weights: dict[str, int] = field(default_factory=lambda: dict(DEFAULT_WEIGHTS))
    disabled: frozenset[str] = frozenset()
    extra: Sequence[Plugin] = ()
    reservers: Sequence[Reserver] = ()
    scoring_strategy: Strategy = "LeastAllocated"
    hard_pod_affinity_weight: int = 1
    default_spreading: bool = True
    initial_backoff_s: float = 1.0
    max_backoff_s: float = 10.0
    unschedulable_flush_s: float = 300.0
    binders: int = 16  #: bindings on their way at once
    binding_queue: int = 512  #: pods assumed and waiting for a binder, at most
    min_candidate_nodes_percentage: int = 10
    min_candidate_nodes: int = 100


def plugins(
    config: SchedulerConfig,
    workload: WorkloadSelector | None = None,
    volumes: Volumes | None = None,
    devices: DynamicResources | None = None,
) -> list[Plugin]:
    """The plugins in upstream's order: a node is refused by the first that refuses it. Those of storage need ``volumes``."""
    every: list[Plugin] = [
        NodeUnschedulable(),
        NodeName(),
        TaintToleration(),
        NodeAffinity(),
        NodePorts(),
        NodeResourcesFit(config.scoring_strategy, devices.backs if devices is not None else None),
        *([VolumeRestrictions(volumes), NodeVolumeLimits(volumes)] if volumes is not None else ()),
        *([VolumeBinding(volumes), VolumeZone(volumes)] if volumes is not None else ()),
        PodTopologySpread(workload if config.default_spreading else None),
        InterPodAffinity(config.hard_pod_affinity_weight),
        *([devices] if devices is not None else ()),
        NodeResourcesBalancedAllocation(),
        ImageLocality(),
        *config.extra,
    ]
    return [plugin for plugin in every if plugin.name not in config.disabled]
