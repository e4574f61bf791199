"""Which volume a claim gets, and what a claim and a volume say of each other. No I/O.

The binder and the scheduler both decide by it: what the one would call a fit the other may rely on.

Source: kubernetes pkg/controller/volume/persistentvolume (index.go), component-helpers storage/volume.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from msgspec.structs import replace

from . import quantity, selectors
from .types.core_v1 import ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod
from .types.storage_v1 import StorageClass

BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
BOUND_BY_CONTROLLER = "pv.kubernetes.io/bound-by-controller"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
SELECTED_NODE = "volume.kubernetes.io/selected-node"
PROVISIONER = "volume.kubernetes.io/storage-provisioner"
BETA_PROVISIONER = "volume.beta.kubernetes.io/storage-provisioner"
BETA_CLASS = "volume.beta.kubernetes.io/storage-class"
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
BETA_DEFAULT_CLASS = "storageclass.beta.kubernetes.io/is-default-class"


def class_of(obj: Any) -> str:
    """The storage class that a claim or volume names; empty for none."""
    return obj.metadata.annotations.get(BETA_CLASS) or obj.spec.storage_class_name or ""


def capacity(volume: PersistentVolume) -> Fraction:
    return quantity.parse(volume.spec.capacity.get("storage", "0"))


def asked(claim: PersistentVolumeClaim) -> Fraction:
    return quantity.parse(claim.spec.resources.requests.get("storage", "0"))


def granted(claim: PersistentVolumeClaim) -> Fraction:
    """What a claim has, by its status."""
    return quantity.parse(claim.status.capacity.get("storage", "0"))


def is_for(volume: PersistentVolume, claim: PersistentVolumeClaim) -> bool:
    """Whether a volume names the claim: by name alone when someone has set it aside, else by uid too."""
    ref = volume.spec.claim_ref
    if ref is None or (ref.namespace, ref.name) != (claim.metadata.namespace, claim.metadata.name):
        return False
    return not ref.uid or ref.uid == claim.metadata.uid


def mismatch(volume: PersistentVolume, claim: PersistentVolumeClaim) -> str:
    """Why a volume does not satisfy a claim; empty when it does."""
    if (volume.spec.volume_mode or "Filesystem") != (claim.spec.volume_mode or "Filesystem"):
        return "incompatible volumeMode"
    if capacity(volume) < asked(claim):
        return "requested PV is too small"
    if class_of(volume) != class_of(claim):
        return "storageClassName does not match"
    if (volume.spec.volume_attributes_class_name or "") != (claim.spec.volume_attributes_class_name or ""):
        return "volumeAttributesClassName does not match"
    if not set(claim.spec.access_modes) <= set(volume.spec.access_modes):
        return "incompatible accessMode"
    return ""


def candidates(
    claim: PersistentVolumeClaim, volumes: Iterable[PersistentVolume], *, delayed: bool = False
) -> list[PersistentVolume]:
    """The volumes a claim may get: the one set aside for it, else all free ones that fit. When binding is delayed, only
    what is set aside: the scheduler chooses among the rest."""
    selector = selectors.from_label_selector(claim.spec.selector) if claim.spec.selector is not None else None
    free = []
    for volume in sorted(volumes, key=lambda each: each.metadata.name or ""):
        if (volume.spec.volume_mode or "Filesystem") != (claim.spec.volume_mode or "Filesystem"):
            continue
        if is_for(volume, claim):
            if capacity(volume) >= asked(claim) and volume.metadata.deletion_timestamp is None:
                return [volume]
        elif not delayed and _is_free(volume) and not mismatch(volume, claim):
            free.append(volume)
    return free if selector is None else [volume for volume in free if selector.matches(volume.metadata.labels)]


def best(
    claim: PersistentVolumeClaim, volumes: Iterable[PersistentVolume], *, delayed: bool
) -> PersistentVolume | None:
    """Of the candidates that with the fewest access modes, the smallest."""
    found = candidates(claim, volumes, delayed=delayed)
    return min(found, key=lambda each: (len(each.spec.access_modes), capacity(each)), default=None)


def is_bound(claim: PersistentVolumeClaim) -> bool:
    """Whether a claim's binding is complete: written on both ends, and said so."""
    return bool(claim.spec.volume_name) and BIND_COMPLETED in claim.metadata.annotations


def claim_names(pod: Pod) -> tuple[tuple[str, bool], ...]:
    """The claims a pod uses, each with whether it is made for this pod alone: ``((data, False), (web-0-scratch, True))``."""
    found = []
    for volume in pod.spec.volumes:
        if volume.persistent_volume_claim is not None:
            found.append((volume.persistent_volume_claim.claim_name, False))
        elif volume.ephemeral is not None:
            found.append((f"{pod.metadata.name}-{volume.name}", True))
    return tuple(found)


def foreign_claim_fault(pod: Pod, claim: PersistentVolumeClaim) -> str:
    """Why a claim cannot be a pod's own, made for one of its ``ephemeral`` volumes; empty when it can."""
    if any(owner.controller and owner.uid == pod.metadata.uid for owner in claim.metadata.owner_references):
        return ""
    where = claim.metadata.namespace
    return f"PVC {where}/{claim.metadata.name} was not created for pod {where}/{pod.metadata.name} (pod is not owner)"


def _is_free(volume: PersistentVolume) -> bool:
    available = (volume.status.phase if volume.status else None) == "Available"
    return available and volume.spec.claim_ref is None and volume.metadata.deletion_timestamp is None


def default_class(classes: Iterable[StorageClass]) -> StorageClass | None:
    """The class of claims that name none: of several defaults the newest, then the first by name."""
    marked = [
        each
        for each in classes
        if "true" in (each.metadata.annotations.get(DEFAULT_CLASS), each.metadata.annotations.get(BETA_DEFAULT_CLASS))
    ]
    by_name = sorted(marked, key=lambda each: each.metadata.name or "")
    return max(by_name, key=lambda each: each.metadata.creation_timestamp or "", default=None)


# ------------------------------------------------------------------------------------------------ both ends of a binding


def annotated(obj: Any, **words: str) -> Any:
    """The object with annotations; underscores stand for nothing: pass them by ``**{name: value}``."""
    return replace(obj, metadata=replace(obj.metadata, annotations={**obj.metadata.annotations, **words}))


def bound_volume(volume: PersistentVolume, claim: PersistentVolumeClaim) -> PersistentVolume:
    """The volume with its claim written in; itself when it is."""
    ref = volume.spec.claim_ref
    if ref is not None and ref.uid == claim.metadata.uid and is_for(volume, claim):
        return volume
    if ref is None:
        volume = annotated(volume, **{BOUND_BY_CONTROLLER: "yes"})
    made = ObjectReference(
        kind="PersistentVolumeClaim",
        api_version="v1",
        namespace=claim.metadata.namespace,
        name=claim.metadata.name,
        uid=claim.metadata.uid,
        resource_version=claim.metadata.resource_version,
    )
    return replace(volume, spec=replace(volume.spec, claim_ref=made))


def bound_claim(claim: PersistentVolumeClaim, volume: PersistentVolume) -> PersistentVolumeClaim:
    """The claim with its volume written in; itself when it is."""
    done = claim.metadata.annotations.get(BIND_COMPLETED)
    if claim.spec.volume_name == volume.metadata.name and done:
        return claim
    if not claim.spec.volume_name:
        claim = annotated(claim, **{BOUND_BY_CONTROLLER: "yes"})
        claim = replace(claim, spec=replace(claim.spec, volume_name=volume.metadata.name))
    return claim if done else annotated(claim, **{BIND_COMPLETED: "yes"})


def unbound_volume(volume: PersistentVolume) -> PersistentVolume:
    """The volume let go: wholly if we had bound it, else still set aside for whoever it was."""
    if BOUND_BY_CONTROLLER not in volume.metadata.annotations:
        assert volume.spec.claim_ref is not None
        reference = replace(volume.spec.claim_ref, uid=None)
        return replace(volume, spec=replace(volume.spec, claim_ref=reference))
    left = {key: word for key, word in volume.metadata.annotations.items() if key != BOUND_BY_CONTROLLER}
    meta = replace(volume.metadata, annotations=left)
    return replace(volume, metadata=meta, spec=replace(volume.spec, claim_ref=None))
