"""The three plugins of storage: the default class, the finalizers of what is in use, and who may grow.

Source: plugin/pkg/admission/storage/{storageclass/setdefault,storageobjectinuseprotection,persistentvolume/resize}.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from kaa.api.types.core_v1 import PersistentVolumeClaim
from kaa.api.types.storage_v1 import StorageClass
from kaa.api.volume_match import asked, class_of

from ..view import View
from .base import Attributes
from .plugin import Passive, refuse

DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
OLD_DEFAULT_CLASS = "storageclass.beta.kubernetes.io/is-default-class"
OLD_CLASS = "volume.beta.kubernetes.io/storage-class"
_FINALIZERS = {
    "persistentvolumes": ("", "kubernetes.io/pv-protection"),
    "persistentvolumeclaims": ("", "kubernetes.io/pvc-protection"),
    "volumeattributesclasses": ("storage.k8s.io", "kubernetes.io/vac-protection"),
}


class DefaultStorageClass(Passive):
    """A claim that names no class is given the newest of the default classes."""

    name = "DefaultStorageClass"
    kinds = frozenset({"persistentvolumeclaims"})

    async def admit(self, attributes: Attributes, view: View) -> None:
        if attributes.operation != "CREATE" or not attributes.on("persistentvolumeclaims"):
            return
        claim: PersistentVolumeClaim = attributes.object
        if claim.spec.storage_class_name is not None or OLD_CLASS in claim.metadata.annotations:
            return
        found = default_class(view)
        if found is not None:
            attributes.object = replace(claim, spec=replace(claim.spec, storage_class_name=found.metadata.name))


def default_class(view: View) -> StorageClass | None:
    marked = [c for c in view.list(StorageClass) if _is_default(c)]
    newest = max((c.metadata.creation_timestamp or "" for c in marked), default="")
    latest = [c for c in marked if (c.metadata.creation_timestamp or "") == newest]
    return min(latest, key=lambda c: c.metadata.name or "", default=None)


def _is_default(found: StorageClass) -> bool:
    annotations = found.metadata.annotations
    return "true" in (annotations.get(DEFAULT_CLASS), annotations.get(OLD_DEFAULT_CLASS))


class StorageObjectInUseProtection(Passive):
    """A volume, claim or attributes class goes only after its controller found it unused."""

    name = "StorageObjectInUseProtection"
    kinds = frozenset(_FINALIZERS)

    async def admit(self, attributes: Attributes, view: View) -> None:
        request = attributes.request
        row = _FINALIZERS.get(request.resource.plural)
        if attributes.operation != "CREATE" or row is None or request.resource.group != row[0] or request.subresource:
            return
        obj: Any = attributes.object
        if row[1] not in obj.metadata.finalizers:
            meta = replace(obj.metadata, finalizers=(*obj.metadata.finalizers, row[1]))
            attributes.object = replace(obj, metadata=meta)


class PersistentVolumeClaimResize(Passive):
    """Only claims of a class that allows it grow, and only once they are bound."""

    name = "PersistentVolumeClaimResize"
    kinds = frozenset({"persistentvolumeclaims"})

    async def validate(self, attributes: Attributes, view: View) -> None:
        if attributes.operation != "UPDATE" or not attributes.on("persistentvolumeclaims"):
            return
        new, old = attributes.object, attributes.old
        if asked(new) <= asked(old):
            return
        if old.status.phase != "Bound":
            raise refuse(attributes, "Only bound persistent volume claims can be expanded")
        name = class_of(old)
        found = view.get(StorageClass, name) if name and name == class_of(new) else None
        if found is None or not found.allow_volume_expansion:
            why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"
            raise refuse(attributes, why)
