"""Claims and volumes as the scheduler takes them to be: what the API server shows, and over it what was decided and is
not shown yet (*assumed*).

The idea: plugins ask here and nowhere else. When anything changes, ``changed`` is called with the question which templates
that may concern, so that only their passes are built anew and only their pods are woken.

Source: kubernetes/kubernetes pkg/scheduler/util/assumecache, plugins/volumebinding.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from kaa.api.types.core_v1 import PersistentVolume, PersistentVolumeClaim, VolumeNodeAffinity
from kaa.api.types.storage_v1 import CSIDriver, CSINode, CSIStorageCapacity, StorageClass
from kaa.api.volume_match import BIND_COMPLETED, SELECTED_NODE, class_of
from kaa.client.informer import Informer, Informers, key_of
from kaa.client.workqueue import Key

from .columns import Mask
from .plugins.node_affinity import term_mask
from .snapshot import Snapshot
from .template import Template

#: Told which templates a change may concern.
Changed = Callable[[Callable[[Template], bool]], None]


class Volumes:
    """Lookups of storage objects. ``moved`` is set, and replaced, whenever a claim or a volume changes."""

    def __init__(self, informers: Informers, changed: Changed) -> None:
        self._claims = informers.of(PersistentVolumeClaim)
        self._volumes = informers.of(PersistentVolume)
        self.classes = informers.of(StorageClass)
        self.nodes = informers.of(CSINode)
        self.drivers = informers.of(CSIDriver)
        self.capacities = informers.of(CSIStorageCapacity)
        self._changed = changed
        self._assumed: dict[tuple[str, Key], Any] = {}
        self._reaches: tuple[int, dict[VolumeNodeAffinity, Mask]] = (-1, {})
        self.moved = asyncio.Event()
        self._claims.add_handler(self._on_claim)
        self._volumes.add_handler(self._on_volume)
        for informer in (self.classes, self.nodes, self.drivers, self.capacities):
            informer.add_handler(self._on_other)

    async def synced(self) -> None:
        informers: Iterable[Informer[Any]] = (
            self._claims,
            self._volumes,
            self.classes,
            self.nodes,
            self.drivers,
            self.capacities,
        )
        for informer in informers:
            await informer.synced.wait()

    # ------------------------------------------------------------------------------------------------- looking

    def claim(self, namespace: str, name: str) -> PersistentVolumeClaim | None:
        key = Key(namespace, name)
        return self._assumed.get((PersistentVolumeClaim.KIND, key)) or self._claims.by_key(key)

    def volume(self, name: str) -> PersistentVolume | None:
        key = Key("", name)
        return self._assumed.get((PersistentVolume.KIND, key)) or self._volumes.by_key(key)

    def shown_claim(self, namespace: str, name: str) -> PersistentVolumeClaim | None:
        """The claim as the API server shows it."""
        return self._claims.get(name, namespace)

    def shown_volume(self, name: str) -> PersistentVolume | None:
        return self._volumes.get(name)

    def of_class(self, storage_class: str) -> list[PersistentVolume]:
        """Every volume of a storage class."""
        found = [self._assumed.get((PersistentVolume.KIND, key_of(volume)), volume) for volume in self._volumes]
        return [volume for volume in found if class_of(volume) == storage_class]

    def delays(self, claim: PersistentVolumeClaim) -> bool:
        """Whether binding a claim waits for its first consumer."""
        found = self.classes.get(class_of(claim))
        return found is not None and found.volume_binding_mode == "WaitForFirstConsumer"

    def reach(self, volume: PersistentVolume, nodes: Snapshot) -> Mask:
        """The rows that a volume can be used on. Remembered until nodes change: many volumes say the same."""
        affinity = volume.spec.node_affinity
        if affinity is None or affinity.required is None:
            return np.ones(nodes.size, np.bool_)
        if self._reaches[0] != nodes.epoch:
            self._reaches = (nodes.epoch, {})
        known = self._reaches[1].get(affinity)
        if known is None:
            known = np.zeros(nodes.size, np.bool_)
            for term in affinity.required.node_selector_terms:
                known |= term_mask(term, nodes)
            self._reaches[1][affinity] = known
        return known

    # ------------------------------------------------------------------------------------------------- assuming

    def assume(self, obj: Any) -> None:
        """Take an object to be so, until the API server shows any newer one."""
        self._assumed[obj.KIND, key_of(obj)] = obj
        self._tell(obj)

    def restore(self, obj: Any) -> None:
        """Give an assumption up, if it still stands."""
        key = (obj.KIND, key_of(obj))
        if key in self._assumed and self._assumed[key] is obj:
            del self._assumed[key]
            self._tell(obj)

    # ------------------------------------------------------------------------------------------------- watching

    def _on_claim(self, old: PersistentVolumeClaim | None, new: PersistentVolumeClaim | None) -> None:
        claim = new or old
        assert claim is not None
        self._assumed.pop((claim.KIND, key_of(claim)), None)
        if old is None or new is None or _telling(old) != _telling(new):
            self._move()
            self._tell(claim)

    def _on_volume(self, old: PersistentVolume | None, new: PersistentVolume | None) -> None:
        volume = new or old
        assert volume is not None
        self._assumed.pop((volume.KIND, key_of(volume)), None)
        if old is None or new is None or old.spec != new.spec or old.status != new.status:
            self._move()
            self._tell(volume)

    def _on_other(self, old: Any, new: Any) -> None:
        self._changed(uses_storage)

    def _move(self) -> None:
        self.moved.set()
        self.moved = asyncio.Event()

    def _tell(self, obj: Any) -> None:
        if isinstance(obj, PersistentVolumeClaim):
            namespace, name = key_of(obj)
            self._changed(lambda template: template.namespace == namespace and name in dict(template.claims))
        else:
            self._changed(uses_storage)


def uses_storage(template: Template) -> bool:
    return bool(template.claims) or any(volume.csi is not None for volume in template.pod.spec.volumes)


def _telling(claim: PersistentVolumeClaim) -> tuple[object, ...]:
    """What of a claim the scheduler heeds."""
    notes = claim.metadata.annotations
    return (
        claim.spec,
        claim.status.phase,
        claim.metadata.deletion_timestamp,
        notes.get(BIND_COMPLETED),
        notes.get(SELECTED_NODE),
    )
