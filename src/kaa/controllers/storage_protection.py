"""Claims, volumes and attributes classes in use outlive their deletion: finalizers that go when nobody uses them any more.

Source: kubernetes pkg/controller/volume/pvcprotection, pvprotection, vacprotection.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from kaa.api.errors import NotFound
from kaa.api.types.core_v1 import PersistentVolume, PersistentVolumeClaim, Pod
from kaa.api.types.storage_v1 import VolumeAttributesClass
from kaa.client.informer import key_of
from kaa.client.workqueue import Key

from .controller import Context, Controller
from .persistentvolume import BY_CLAIM, claims_of

CLAIM_FINALIZER = "kubernetes.io/pvc-protection"
VOLUME_FINALIZER = "kubernetes.io/pv-protection"
CLASS_FINALIZER = "kubernetes.io/vac-protection"
BY_CLASS = "volume-attributes-class"


def plan(obj: Any, finalizer: str, *, used: bool) -> Any:
    """The object with the finalizer it should have, or None when nothing is to be done."""
    held = finalizer in obj.metadata.finalizers
    if obj.metadata.deletion_timestamp is None and not held:
        finalizers = (*obj.metadata.finalizers, finalizer)
    elif obj.metadata.deletion_timestamp is not None and held and not used:
        finalizers = tuple(each for each in obj.metadata.finalizers if each != finalizer)
    else:
        return None
    return replace(obj, metadata=replace(obj.metadata, finalizers=finalizers))


def uses(pod: Pod, claim: str) -> bool:
    """Whether a pod holds a claim (``namespace/name``). One on no node cannot start once the claim is being deleted."""
    return bool(pod.spec.node_name) and claim in claims_of(pod)


class ClaimProtection(Controller[Key]):
    """Keys are claims."""

    name = "pvc-protection-controller"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.claims = self.watch(PersistentVolumeClaim, self._on_claim)
        self.pods = self.informers.of(Pod)
        self.pods.add_index(BY_CLAIM, claims_of)
        self.watch(Pod, self._on_pod)

    def _on_claim(self, old: PersistentVolumeClaim | None, new: PersistentVolumeClaim | None) -> None:
        if new is not None:
            self.queue.add(key_of(new))

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        """A pod that is gone, or replaced by another of its name, may have been a claim's last."""
        if old is None or (new is not None and new.metadata.uid == old.metadata.uid):
            return
        for word in claims_of(old):
            self.queue.add(Key(*word.split("/", 1)))

    async def reconcile(self, key: Key) -> None:
        claim = self.claims.by_key(key)
        if claim is None:
            return
        deleting = claim.metadata.deletion_timestamp is not None
        wanted = plan(claim, CLAIM_FINALIZER, used=deleting and await self._used(key))
        if wanted is not None:
            try:
                await self.client.update(wanted)
            except NotFound:
                return

    async def _used(self, key: Key) -> bool:
        """By the cache; if not, by the server: a pod may be newer than what the cache shows."""
        word = f"{key.namespace}/{key.name}"
        if any(uses(pod, word) for pod in self.pods.by_index(BY_CLAIM, word)):
            return True
        return any(uses(pod, word) for pod in (await self.client.list(Pod, key.namespace)).items)


class VolumeProtection(Controller[Key]):
    """Keys are volumes."""

    name = "pv-protection-controller"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.volumes = self.watch(PersistentVolume, self._on_volume)

    def _on_volume(self, old: PersistentVolume | None, new: PersistentVolume | None) -> None:
        if new is not None:
            self.queue.add(key_of(new))

    async def reconcile(self, key: Key) -> None:
        volume = self.volumes.by_key(key)
        if volume is None:
            return
        bound = volume.status is not None and volume.status.phase == "Bound"
        wanted = plan(volume, VOLUME_FINALIZER, used=bound)
        if wanted is not None:
            try:
                await self.client.update(wanted)
            except NotFound:
                return


def classes_of(obj: PersistentVolumeClaim | PersistentVolume) -> set[str]:
    """The names of the attributes classes that a claim or volume has, had until now, or is to get."""
    names = {obj.spec.volume_attributes_class_name}
    if isinstance(obj, PersistentVolumeClaim):
        names.add(obj.status.current_volume_attributes_class_name)
        if obj.status.modify_volume_status is not None:
            names.add(obj.status.modify_volume_status.target_volume_attributes_class_name)
    return {name for name in names if name}


class AttributesClassProtection(Controller[Key]):
    """Keys are attributes classes."""

    name = "volumeattributesclass-protection-controller"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.classes = self.watch(VolumeAttributesClass, self._on_class)
        self.claims = self.watch(PersistentVolumeClaim, self._on_user)
        self.volumes = self.watch(PersistentVolume, self._on_user)
        self.claims.add_index(BY_CLASS, classes_of)
        self.volumes.add_index(BY_CLASS, classes_of)

    def _on_class(self, old: VolumeAttributesClass | None, new: VolumeAttributesClass | None) -> None:
        if new is not None:
            self.queue.add(key_of(new))

    def _on_user(self, old: Any, new: Any) -> None:
        """What a claim or volume no longer names may be free."""
        for name in (classes_of(old) if old is not None else set()) - (classes_of(new) if new is not None else set()):
            self.queue.add(Key("", name))

    async def reconcile(self, key: Key) -> None:
        found = self.classes.by_key(key)
        if found is None:
            return
        users = (*self.claims.by_index(BY_CLASS, key.name), *self.volumes.by_index(BY_CLASS, key.name))
        wanted = plan(found, CLASS_FINALIZER, used=bool(users))
        if wanted is not None:
            try:
                await self.client.update(wanted)
            except NotFound:
                return
