"""VolumeZone: a volume with zone or region labels is used in that zone or region.

Source: kubernetes/kubernetes pkg/scheduler/framework/plugins/volumezone.
"""

from __future__ import annotations

import numpy as np

from kaa.api.types.core_v1 import PersistentVolume
from kaa.api.volume_match import class_of

from ..columns import Mask
from ..framework import ClusterEvent, Code, Filter, Status, StillFilter, Unscored
from ..snapshot import Snapshot
from ..template import Template
from ..volumes import Volumes
from .node_affinity import values_mask

REASON = "node(s) had no available volume zone"
#: {label: what nodes may call it as well}
LABELS = {
    "failure-domain.beta.kubernetes.io/zone": "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region": "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone": "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region": "topology.kubernetes.io/region",
}


class VolumeZone(Unscored):
    name = "VolumeZone"
    events = frozenset({ClusterEvent.NODE_ADD, ClusterEvent.NODE_LABEL, ClusterEvent.STORAGE})

    def __init__(self, volumes: Volumes) -> None:
        self._volumes = volumes

    def filter(self, template: Template, nodes: Snapshot) -> Filter | Status | None:
        found = []
        for name, _ in template.claims:
            volume = self._volume(template.namespace, name)
            if isinstance(volume, Status):
                return volume
            if volume is not None and LABELS.keys() & volume.metadata.labels.keys():
                found.append(volume)
        if not found:
            return None
        unzoned = np.logical_and.reduce([nodes.label(label).ids < 0 for label in LABELS])
        return StillFilter(unzoned | np.logical_and.reduce([zoned(volume, nodes) for volume in found]), REASON)

    def _volume(self, namespace: str, name: str) -> PersistentVolume | Status | None:
        """A claim's volume; None while it has none and its class waits for the pod."""
        claim = self._volumes.claim(namespace, name)
        if claim is None:
            return Status(Code.UNRESOLVABLE, f'persistentvolumeclaim "{name}" not found')
        if claim.spec.volume_name:
            volume = self._volumes.volume(claim.spec.volume_name)
            return volume or Status(Code.UNRESOLVABLE, f'persistentvolume "{claim.spec.volume_name}" not found')
        if not class_of(claim):
            return Status(Code.UNRESOLVABLE, "PersistentVolumeClaim had no pv name and storageClass name")
        return None if self._volumes.delays(claim) else Status(Code.UNRESOLVABLE, "PersistentVolume had no name")


def zoned(volume: PersistentVolume, nodes: Snapshot) -> Mask:
    """Rows in every zone and region that a volume names; ``a__b`` names two."""
    mask = np.ones(nodes.size, np.bool_)
    for label, newer in LABELS.items():
        if label in volume.metadata.labels:
            values = volume.metadata.labels[label].split("__")
            lacks = nodes.label(label).ids < 0
            mask &= values_mask(label, values, nodes) | (lacks & values_mask(newer, values, nodes))
    return mask
