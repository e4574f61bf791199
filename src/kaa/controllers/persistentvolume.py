"""Claims and volumes, bound to each other. Who fits whom is decided in ``volume_match``.

A binding is written on both ends, the volume first; whatever half of it stands after a crash, the next look completes it. One
worker alone works, so no two claims choose one volume; should another binder exist, the API server's versions decide.
Making and removing what is behind a volume is its provisioner's affair.

Source: kubernetes pkg/controller/volume/persistentvolume/pv_controller.go.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from kaa.api.errors import NotFound
from kaa.api.types.core_v1 import (
    PersistentVolume,
    PersistentVolumeClaim,
    PersistentVolumeStatus,
    Pod,
)
from kaa.api.types.storage_v1 import StorageClass
from kaa.api.volume_match import (
    BETA_PROVISIONER,
    BIND_COMPLETED,
    BOUND_BY_CONTROLLER,
    PROVISIONED_BY,
    PROVISIONER,
    SELECTED_NODE,
    annotated,
    best,
    bound_claim,
    bound_volume,
    claim_names,
    class_of,
    default_class,
    is_for,
    mismatch,
    unbound_volume,
)
from kaa.client.informer import Informer, key_of
from kaa.client.workqueue import Key

from .controller import Context, Controller
from .pods import is_finished

RESYNC_S = 15.0
BY_CLAIM = "namespace and claim"
PENDING, BOUND, LOST = "Pending", "Bound", "Lost"
AVAILABLE, RELEASED, FAILED = "Available", "Released", "Failed"


def claims_of(pod: Pod) -> tuple[str, ...]:
    """``namespace/name`` of each claim a pod uses, those made for it alone included."""
    return tuple(f"{pod.metadata.namespace}/{name}" for name, _ in claim_names(pod))


class PersistentVolumes(Controller[Key]):
    """Keys with a namespace are claims, those without volumes."""

    name = "persistent-volume-binder"
    component = "persistentvolume-controller"
    workers = 1

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.volumes = self.watch(PersistentVolume, self._on_volume)
        self.claims = self.watch(PersistentVolumeClaim, self._on_claim)
        self.classes = self.watch(StorageClass, self._on_class)
        self.pods = self.watch(Pod)
        self.pods.add_index(BY_CLAIM, claims_of)

    def _on_volume(self, old: PersistentVolume | None, new: PersistentVolume | None) -> None:
        volume = new or old
        assert volume is not None
        self.queue.add(key_of(volume))
        ref = volume.spec.claim_ref
        if ref is not None:
            self.queue.add(Key(ref.namespace or "", ref.name or ""))
        else:
            self._look_at_pending(class_of(volume))

    def _on_claim(self, old: PersistentVolumeClaim | None, new: PersistentVolumeClaim | None) -> None:
        claim = new or old
        assert claim is not None
        self.queue.add(key_of(claim))
        if claim.spec.volume_name:
            self.queue.add(Key("", claim.spec.volume_name))

    def _on_class(self, old: StorageClass | None, new: StorageClass | None) -> None:
        if new is not None:
            self._look_at_pending(None)

    def _look_at_pending(self, storage_class: str | None) -> None:
        for claim in self.claims:
            if claim.status.phase != BOUND and storage_class in (None, class_of(claim)):
                self.queue.add(key_of(claim))

    async def reconcile(self, key: Key) -> float | None:
        try:
            if key.namespace:
                claim = self.claims.by_key(key)
                return await self._claim(claim) if claim is not None else None
            volume = self.volumes.by_key(key)
            if volume is not None:
                await self._volume(volume)
        except NotFound:  # the one or the other has just gone: its informer is about to say so
            return None
        return None

    # ------------------------------------------------------------------------------------------ claims

    async def _claim(self, claim: PersistentVolumeClaim) -> float | None:
        if BIND_COMPLETED in claim.metadata.annotations:
            await self._bound_claim(claim)
            return None
        if claim.spec.volume_name:
            await self._claim_of_named(claim)
        else:
            await self._free_claim(claim)
        found = self.claims.by_key(key_of(claim))
        return RESYNC_S if found is not None and found.status.phase != BOUND else None

    async def _free_claim(self, claim: PersistentVolumeClaim) -> None:
        """A claim that names no volume: find one, or say why there is none."""
        delayed = self._is_delayed(claim)
        volume = best(claim, self.volumes, delayed=delayed)
        if volume is not None:
            await self._bind(volume, claim)
            return
        if await self._gets_default_class(claim):
            return
        if delayed and SELECTED_NODE not in claim.metadata.annotations:
            self._tell_waiting(claim)
        elif class_of(claim):
            claim = await self._provision(claim)
        else:
            text = "no persistent volumes available for this claim and no storage class is set"
            self.events.event(claim, "Normal", "FailedBinding", text)
        await self._phase_of_claim(claim, PENDING)

    def _is_delayed(self, claim: PersistentVolumeClaim) -> bool:
        found = self.classes.get(class_of(claim))
        return found is not None and found.volume_binding_mode == "WaitForFirstConsumer"

    async def _gets_default_class(self, claim: PersistentVolumeClaim) -> bool:
        """A claim older than the default class gets it, unless it asks for none."""
        if claim.spec.storage_class_name is not None or class_of(claim):
            return False
        found = default_class(self.classes)
        if found is None:
            return False
        await self._write(self.claims, replace(claim, spec=replace(claim.spec, storage_class_name=found.metadata.name)))
        return True

    def _tell_waiting(self, claim: PersistentVolumeClaim) -> None:
        pods = self.pods.by_index(BY_CLAIM, f"{claim.metadata.namespace}/{claim.metadata.name}")
        names = sorted(pod.metadata.name or "" for pod in pods if not is_finished(pod) and not pod.spec.node_name)
        if names:
            text = f"waiting for pod{'s' if len(names) > 1 else ''} {','.join(names)} to be scheduled"
            self.events.event(claim, "Normal", "WaitForPodScheduled", text)
        else:
            text = "waiting for first consumer to be created before binding"
            self.events.event(claim, "Normal", "WaitForFirstConsumer", text)

    async def _provision(self, claim: PersistentVolumeClaim) -> PersistentVolumeClaim:
        """Ask the class's provisioner for a volume, by annotations on the claim."""
        name = class_of(claim)
        found = self.classes.get(name)
        if found is None:
            text = f'storageclass.storage.k8s.io "{name}" not found'
            self.events.event(claim, "Warning", "ProvisioningFailed", text)
            return claim
        provisioner = found.provisioner
        if provisioner.startswith("kubernetes.io/"):
            text = f"no volume plugin matched name: {provisioner}"
            self.events.event(claim, "Warning", "ProvisioningFailed", text)
            return claim
        if claim.metadata.annotations.get(PROVISIONER) != provisioner:
            asked = annotated(claim, **{BETA_PROVISIONER: provisioner, PROVISIONER: provisioner})
            claim = await self._write(self.claims, asked)
        text = (
            f"Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the"
            " system administrator. If volume creation is delayed, please verify that the provisioner is running and"
            " correctly registered."
        )
        self.events.event(claim, "Normal", "ExternalProvisioning", text)
        return claim

    async def _claim_of_named(self, claim: PersistentVolumeClaim) -> None:
        """A claim that names its volume."""
        name = claim.spec.volume_name or ""
        volume = self.volumes.get(name)
        if volume is None:
            await self._phase_of_claim(claim, PENDING)
        elif volume.spec.claim_ref is None:
            reason = mismatch(volume, claim)
            if not reason:
                await self._bind(volume, claim)
                return
            self.events.event(claim, "Warning", "VolumeMismatch", f'Cannot bind to requested volume "{name}": {reason}')
            await self._phase_of_claim(claim, PENDING)
        elif is_for(volume, claim):
            await self._bind(volume, claim)
        else:
            if BOUND_BY_CONTROLLER not in claim.metadata.annotations:
                text = f'volume "{name}" already bound to a different claim.'
                self.events.event(claim, "Warning", "FailedBinding", text)
            await self._phase_of_claim(claim, PENDING)

    async def _bound_claim(self, claim: PersistentVolumeClaim) -> None:
        """A claim that has been bound: see that it still is."""
        name = claim.spec.volume_name
        volume = self.volumes.get(name) if name else None
        if not name:
            text = "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!"
            await self._lose(claim, "ClaimLost", text)
        elif volume is None:
            await self._lose(
                claim, "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!"
            )
        elif volume.spec.claim_ref is None or volume.spec.claim_ref.uid == claim.metadata.uid:
            await self._bind(volume, claim)
        else:
            text = "Two claims are bound to the same volume, this one is bound incorrectly"
            await self._lose(claim, "ClaimMisbound", text)

    async def _lose(self, claim: PersistentVolumeClaim, reason: str, text: str) -> None:
        if claim.status.phase != LOST:
            self.events.event(claim, "Warning", reason, text)
        await self._phase_of_claim(claim, LOST)

    async def _bind(self, volume: PersistentVolume, claim: PersistentVolumeClaim) -> None:
        """Write a binding on both ends, or what of it is missing."""
        volume = await self._write(self.volumes, bound_volume(volume, claim))
        volume = await self._phase_of_volume(volume, BOUND)
        claim = await self._write(self.claims, bound_claim(claim, volume))
        await self._phase_of_claim(claim, BOUND, volume)

    async def _phase_of_claim(
        self, claim: PersistentVolumeClaim, phase: str, volume: PersistentVolume | None = None
    ) -> None:
        status = replace(claim.status, phase=phase)
        if volume is None:
            status = replace(status, access_modes=(), capacity={})
        else:
            status = replace(
                status,
                access_modes=volume.spec.access_modes,
                current_volume_attributes_class_name=volume.spec.volume_attributes_class_name,
            )
            if claim.status.phase != BOUND:  # later, whoever resizes it knows better
                status = replace(status, capacity=volume.spec.capacity)
        if status != claim.status:
            written = await self.client.update_status(replace(claim, status=status))
            await self.claims.shows(written.metadata.resource_version)

    # ------------------------------------------------------------------------------------------ volumes

    async def _volume(self, volume: PersistentVolume) -> None:
        ref = volume.spec.claim_ref
        if ref is None or not ref.uid:
            await self._phase_of_volume(volume, AVAILABLE)
            return
        claim = await self._claim_named(ref)
        if claim is None:
            if _phase(volume) not in (RELEASED, FAILED):
                volume = await self._phase_of_volume(volume, RELEASED)
            await self._reclaim(volume)
        elif not claim.spec.volume_name:
            self.queue.add(key_of(claim))
        elif claim.spec.volume_name == volume.metadata.name:
            await self._phase_of_volume(volume, BOUND)
        elif PROVISIONED_BY in volume.metadata.annotations and _policy(volume) == "Delete":
            volume = await self._phase_of_volume(volume, RELEASED)
        else:
            await self._write(self.volumes, unbound_volume(volume))

    async def _claim_named(self, ref: Any) -> PersistentVolumeClaim | None:
        """The very claim a volume is bound to; the server is asked before anyone believes that it is gone."""
        claim = self.claims.get(ref.name, ref.namespace)
        if claim is None or claim.metadata.uid != ref.uid:
            try:
                claim = await self.client.get(PersistentVolumeClaim, ref.name, ref.namespace)
            except NotFound:
                return None
        return claim if claim.metadata.uid == ref.uid else None

    async def _reclaim(self, volume: PersistentVolume) -> None:
        """What a released volume's policy says. One made by a provisioner is its to delete."""
        if _phase(volume) == FAILED:
            return
        if _policy(volume) == "Recycle":
            text = "No recycler plugin found for the volume!"
            await self._fail(volume, "VolumeFailedRecycle", text)
        elif _policy(volume) == "Delete" and PROVISIONED_BY not in volume.metadata.annotations:
            name = volume.metadata.name
            text = f'error getting deleter volume plugin for volume "{name}": no deletable volume plugin matched'
            await self._fail(volume, "VolumeFailedDelete", text)

    async def _fail(self, volume: PersistentVolume, reason: str, text: str) -> None:
        self.events.event(volume, "Warning", reason, text)
        await self._phase_of_volume(volume, FAILED, text)

    async def _phase_of_volume(self, volume: PersistentVolume, phase: str, message: str = "") -> PersistentVolume:
        if _phase(volume) == phase:
            return volume
        status = PersistentVolumeStatus(phase=phase, message=message or None, last_phase_transition_time=self.now())
        written = await self.client.update_status(replace(volume, status=status))
        await self.volumes.shows(written.metadata.resource_version)
        return written

    async def _write(self, informer: Informer[Any], obj: Any) -> Any:
        """Write an object unless the cache holds just this."""
        if informer.by_key(key_of(obj)) is obj:
            return obj
        written = await self.client.update(obj)
        await informer.shows(written.metadata.resource_version)
        return written


def _phase(volume: PersistentVolume) -> str:
    return (volume.status.phase or "") if volume.status else ""


def _policy(volume: PersistentVolume) -> str:
    return volume.spec.persistent_volume_reclaim_policy or "Retain"
