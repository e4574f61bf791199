"""Claims for the ``ephemeral`` volumes of pods: made from the template in the pod, named after both, gone with the pod.

Source: API concepts "Ephemeral Volumes"; kubernetes pkg/controller/volume/ephemeral.
"""

from __future__ import annotations

from kaa.api.errors import ApiError
from kaa.api.types.core_v1 import PersistentVolumeClaim, Pod, Volume
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.api.volume_match import foreign_claim_fault
from kaa.client.informer import key_of
from kaa.client.workqueue import Key

from .controller import Context, Controller, refused_since_it_ends
from .owners import controller_of
from .pods import controller_reference


class NotOurs(ApiError):
    """A claim of the right name stands already, and belongs to somebody else."""


def claim_name(pod: Pod, volume: Volume) -> str:
    return f"{pod.metadata.name}-{volume.name}"


def claim_for(pod: Pod, volume: Volume) -> PersistentVolumeClaim:
    """The claim that an ephemeral volume of a pod asks for."""
    assert volume.ephemeral is not None
    template = volume.ephemeral.volume_claim_template
    assert template is not None
    meta = ObjectMeta(
        name=claim_name(pod, volume),
        namespace=pod.metadata.namespace,
        labels=template.metadata.labels,
        annotations=template.metadata.annotations,
        owner_references=(controller_reference(pod),),
    )
    return PersistentVolumeClaim(metadata=meta, spec=template.spec)


class EphemeralVolumes(Controller[Key]):
    """Keys are pods."""

    name = "ephemeral-volume-controller"
    component = "ephemeral_volume"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.claims = self.watch(PersistentVolumeClaim, self._on_claim)
        self.pods = self.watch(Pod, self._on_pod)

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        if old is None and new is not None and any(volume.ephemeral for volume in new.spec.volumes):
            self.queue.add(key_of(new))

    def _on_claim(self, old: PersistentVolumeClaim | None, new: PersistentVolumeClaim | None) -> None:
        """A claim that is gone may have to be made again, or may have stood in the way of one."""
        owner = controller_of(old) if old is not None and new is None else None
        if owner is not None and owner.kind == "Pod":
            self.queue.add(Key(old.metadata.namespace or "", owner.name))  # type: ignore[union-attr]  # owner says so

    async def reconcile(self, key: Key) -> None:
        pod = self.pods.by_key(key)
        if pod is None or pod.metadata.deletion_timestamp is not None:
            return
        for volume in pod.spec.volumes:
            if volume.ephemeral is not None:
                await self._ensure(pod, volume)

    async def _ensure(self, pod: Pod, volume: Volume) -> None:
        try:
            standing = self.claims.get(claim_name(pod, volume), pod.metadata.namespace)
            if standing is None:
                made = await self._make(pod, volume)
                await self.claims.shows(made.metadata.resource_version)
            elif foreign_claim_fault(pod, standing):
                raise NotOurs(foreign_claim_fault(pod, standing))
        except ApiError as err:
            if not refused_since_it_ends(err):
                self.events.event(pod, "Warning", "FailedBinding", f"ephemeral volume {volume.name}: {err}")
            raise

    async def _make(self, pod: Pod, volume: Volume) -> PersistentVolumeClaim:
        try:
            return await self.client.create(claim_for(pod, volume))
        except ApiError as err:
            if refused_since_it_ends(err):
                raise
            raise NotOurs(f"create PVC {claim_name(pod, volume)}: {err}") from err
