"""Volumes and claims for tests of what becomes of them."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from kaa.api import scheme
from kaa.api.types.core_v1 import PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus
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
