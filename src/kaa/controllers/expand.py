"""Claims that ask for more than they have: told who is to grow their volume, for nothing here grows one.

Volumes are grown by their CSI driver's resizer, which watches claims itself. Those of the kinds that were once built in belong
to the driver that took them over: the claim is marked with its name.

Source: kubernetes pkg/controller/volume/expand/expand_controller.go; csi-translation-lib.
"""

from __future__ import annotations

from dataclasses import dataclass

from kaa.api.errors import ApiError, Conflict
from kaa.api.types.core_v1 import PersistentVolume, PersistentVolumeClaim
from kaa.api.volume_match import asked, granted, is_for
from kaa.client.informer import key_of
from kaa.client.workqueue import Key

from .controller import Context, Controller

RESIZER = "volume.kubernetes.io/storage-resizer"
#: {source of a volume: (the plugin it was, the driver that has taken over)}
MIGRATED = {
    "aws_elastic_block_store": ("kubernetes.io/aws-ebs", "ebs.csi.aws.com"),
    "azure_disk": ("kubernetes.io/azure-disk", "disk.csi.azure.com"),
    "azure_file": ("kubernetes.io/azure-file", "file.csi.azure.com"),
    "cinder": ("kubernetes.io/cinder", "cinder.csi.openstack.org"),
    "gce_persistent_disk": ("kubernetes.io/gce-pd", "pd.csi.storage.gke.io"),
    "portworx_volume": ("kubernetes.io/portworx-volume", "pxd.portworx.com"),
    "vsphere_volume": ("kubernetes.io/vsphere-volume", "csi.vsphere.vmware.com"),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a claim's people are told, and the name of the resizer it is to be marked with, if any."""

    message: str = ""
    resizer: str = ""


def plan(claim: PersistentVolumeClaim, volume: PersistentVolume) -> Plan:
    """Decide who is to grow the volume of a claim; an empty plan when it is large enough."""
    if asked(claim) <= granted(claim):
        return Plan()
    for source, (plugin, driver) in MIGRATED.items():
        if getattr(volume.spec, source) is not None:
            text = f"CSI migration enabled for {plugin}; waiting for external resizer to expand the pvc"
            return Plan(text, "" if claim.metadata.annotations.get(RESIZER) == driver else driver)
    return Plan("waiting for an external controller to expand this PVC")


class Expander(Controller[Key]):
    """Keys are claims."""

    name = "expand-controller"
    component = "volume_expand"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.volumes = self.watch(PersistentVolume)
        self.claims = self.watch(PersistentVolumeClaim, self._on_claim)

    def _on_claim(self, old: PersistentVolumeClaim | None, new: PersistentVolumeClaim | None) -> None:
        if new is None or new.status.phase != "Bound":
            return
        if old is None or asked(new) > asked(old) or granted(new) > granted(old):
            self.queue.add(key_of(new))

    async def reconcile(self, key: Key) -> None:
        claim = self.claims.by_key(key)
        if claim is None or not claim.spec.volume_name:
            return
        name = claim.spec.volume_name
        volume = self.volumes.get(name)
        if volume is None:
            volume = await self.client.get(PersistentVolume, name)
        if not is_for(volume, claim):
            raise Conflict(f"persistent Volume is not bound to PVC being updated : {key}")
        wanted = plan(claim, volume)
        if wanted.message:
            self.events.event(claim, "Normal", "ExternalExpanding", wanted.message)
        if wanted.resizer:
            await self._mark(claim, wanted.resizer)

    async def _mark(self, claim: PersistentVolumeClaim, resizer: str) -> None:
        version = claim.metadata.resource_version
        patch = {"metadata": {"resourceVersion": version, "annotations": {RESIZER: resizer}}}
        name, namespace = claim.metadata.name or "", claim.metadata.namespace
        try:
            written = await self.client.patch(PersistentVolumeClaim, name, patch, namespace, subresource="status")
        except ApiError as err:
            text = f"error setting resizer annotation to pvc {key_of(claim)}, with error {err}"
            self.events.event(claim, "Warning", "ExternalExpanding", text)
            raise
        await self.claims.shows(written.metadata.resource_version)
