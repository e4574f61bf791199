"""Volumes and claims for tests of what becomes of them."""

from __future__ import annotations

from typing import Any

from fake_api import FakeApi
from msgspec.structs import replace
from world import NODE_FACTS, make_pod

from kaa.api import scheme
from kaa.api.types.core_v1 import (
    Node,
    NodeCondition,
    NodeSpec,
    NodeStatus,
    ObjectReference,
    PersistentVolume,
    PersistentVolumeClaim,
    PersistentVolumeClaimStatus,
    PersistentVolumeClaimVolumeSource,
    Pod,
    Taint,
    Volume,
)
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.api.types.storage_v1 import VolumeAttachment, VolumeAttachmentStatus, VolumeError
from kaa.api.values import Quantity

CSI = {"csi": {"driver": "d.example.com", "volumeHandle": "h"}}


def make_volume(**source: Any) -> PersistentVolume:
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "c",
        **(source or CSI),
    }
    return scheme.convert(PersistentVolume, {"metadata": {"name": "pv"}, "spec": spec})


def make_claim(asked: str = "1Gi", granted: str | None = None) -> PersistentVolumeClaim:
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "c",
        "resources": {"requests": {"storage": asked}},
    }
    claim: PersistentVolumeClaim = scheme.convert(
        PersistentVolumeClaim, {"metadata": {"name": "data", "namespace": "default"}, "spec": spec}
    )
    if granted is None:
        return claim
    return replace(claim, status=PersistentVolumeClaimStatus(phase="Bound", capacity={"storage": Quantity(granted)}))


def make_disk(name: str = "h", *, mode: str = "ReadWriteOnce", namespace: str = "default") -> tuple[Any, Any]:
    """A CSI volume and the claim it is bound to, both of one name."""
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": [mode],
        "csi": {"driver": "d.example.com", "volumeHandle": name},
    }
    ref = ObjectReference(kind="PersistentVolumeClaim", name=name, namespace=namespace, uid=f"uid-{name}")
    volume = scheme.convert(PersistentVolume, {"metadata": {"name": name}, "spec": spec})
    meta = ObjectMeta(name=name, namespace=namespace, uid=f"uid-{name}")
    claim = make_claim(granted="1Gi")
    claim = replace(claim, metadata=meta, spec=replace(claim.spec, volume_name=name))
    return replace(volume, spec=replace(volume.spec, claim_ref=ref)), claim


def make_user(name: str, node: str | None, *claims: str, namespace: str = "default", **more: Any) -> Pod:
    """A pod that uses claims."""
    volumes = tuple(
        Volume(name=f"v{n}", persistent_volume_claim=PersistentVolumeClaimVolumeSource(claim_name=claim))
        for n, claim in enumerate(claims)
    )
    pod = make_pod(name, node=node, volumes=volumes, phase="Running", **more)
    return replace(pod, metadata=replace(pod.metadata, namespace=namespace))


def make_host(name: str, *used: str, ready: bool = True, managed: bool = True, taint: str = "") -> Node:
    """A node whose kubelet leaves attaching to the controller; ``used`` are its volumes in use."""
    status = NodeStatus(
        conditions=(NodeCondition(type="Ready", status=str(ready)),),
        volumes_in_use=tuple(map(unique, used)),
        **NODE_FACTS,
    )
    note = {"volumes.kubernetes.io/controller-managed-attach-detach": "true"} if managed else {}
    taints = (Taint(key=taint, effect="NoExecute"),) if taint else ()
    return Node(metadata=ObjectMeta(name=name, annotations=note), spec=NodeSpec(taints=taints), status=status)


def unique(handle: str) -> str:
    """A volume's name in the status of nodes."""
    return f"kubernetes.io/csi/d.example.com^{handle}"


class Attacher:
    """The external attacher of a CSI driver: holds attachments by a finalizer, attaches, detaches. ``says`` an error or not."""

    FINALIZER = "external-attacher/d-example-com"

    def __init__(self, api: FakeApi) -> None:
        self.api = api
        self.says = ""

    def step(self) -> None:
        for each in self.api.all(VolumeAttachment):
            self.see_to(each)

    def see_to(self, each: VolumeAttachment) -> None:
        if each.metadata.deletion_timestamp is not None:
            self.api.remove(each)
        elif self.FINALIZER not in each.metadata.finalizers:
            meta = replace(each.metadata, finalizers=(self.FINALIZER,))
            self.api.put(replace(each, metadata=meta))
        elif self.says:
            failed = VolumeAttachmentStatus(attached=False, attach_error=VolumeError(message=self.says))
            if each.status != failed:
                self.api.put(replace(each, status=failed))
        elif each.status is None or not each.status.attached:
            self.api.put(replace(each, status=VolumeAttachmentStatus(attached=True)))
