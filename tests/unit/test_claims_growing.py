"""Claims that ask for more: who may, who may take it back, what is said to the others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from api_lab import Lab, run
from msgspec.structs import replace

from kaa.api import errors, scheme
from kaa.api.types.core_v1 import PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.api.types.storage_v1 import StorageClass
from kaa.api.values import Quantity
from kaa.apiserver.registry.core.persistentvolumes import STRATEGY as VOLUMES
from kaa.apiserver.validation import claims

SPEC_STAYS = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
OLD_CLASS = "volume.beta.kubernetes.io/storage-class"


def make_claim(size: str = "1Gi", *, capacity: str | None = "1Gi", current: str | None = None, **spec: Any) -> Any:
    """A claim that is bound when it has a capacity."""
    given = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}, "volumeMode": "Filesystem"}
    claim = scheme.convert(
        PersistentVolumeClaim, {"metadata": {"name": "data", "namespace": "default"}, "spec": {**given, **spec}}
    )
    status = PersistentVolumeClaimStatus(
        phase="Bound" if capacity else "Pending",
        capacity={"storage": Quantity(capacity)} if capacity else {},
        current_volume_attributes_class_name=current,
    )
    return replace(claim, status=status)


def annotated(claim: Any, name: str) -> Any:
    return replace(claim, metadata=ObjectMeta(name="data", annotations={OLD_CLASS: name}))


def faults(old: Any, new: Any) -> list[tuple[str, str]]:
    """(field, first line of what is said)"""
    return [
        (each.field, each.body.split("\n")[0]) for each in claims.claim_update(replace(new, status=old.status), old)
    ]


LESS = ("spec.resources.requests.storage", "Forbidden: field can not be less than status.capacity")
STAYS = ("spec", f"Forbidden: {SPEC_STAYS}")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        pytest.param(make_claim(), make_claim("2Gi"), [], id="a bound claim grows"),
        pytest.param(make_claim("10Gi"), make_claim("5Gi"), [], id="growing that failed is taken back"),
        pytest.param(make_claim("10Gi"), make_claim("1Gi"), [LESS], id="but not to what it has"),
        pytest.param(make_claim("10Gi"), make_claim("512Mi"), [LESS], id="nor below"),
        pytest.param(make_claim(capacity=None), make_claim("2Gi"), [STAYS], id="an unbound claim stays"),
        pytest.param(
            make_claim(),
            make_claim(resources={"requests": {"storage": "2Gi"}, "limits": {"storage": "3Gi"}}),
            [STAYS],
            id="limits stay",
        ),
        pytest.param(
            make_claim(),
            make_claim(volumeMode="Block"),
            [STAYS, ("volumeMode", 'Invalid value: "Block": field is immutable')],
            id="the mode stays",
        ),
        pytest.param(make_claim(), make_claim(volumeName="pv-1"), [], id="its volume is named once"),
        pytest.param(make_claim(volumeName="pv-1"), make_claim(volumeName="pv-2"), [STAYS], id="and not again"),
        pytest.param(make_claim(), make_claim(storageClassName="c"), [], id="the class comes late"),
        pytest.param(make_claim(storageClassName="c"), make_claim(storageClassName="d"), [STAYS], id="and stays"),
        pytest.param(annotated(make_claim(), "c"), make_claim(storageClassName="c"), [], id="from annotation to field"),
        pytest.param(
            annotated(make_claim(), "c"),
            annotated(make_claim(), "d"),
            [(f"metadata.annotations.{OLD_CLASS}", 'Invalid value: "d": field is immutable')],
            id="the annotation stays",
        ),
        pytest.param(
            make_claim(volumeAttributesClassName="gold"),
            make_claim(),
            [],
            id="attributes that were never reached are taken back",
        ),
        pytest.param(
            make_claim(volumeAttributesClassName="gold", current="gold"),
            make_claim(),
            [
                (
                    "spec.volumeAttributesClassName",
                    "Forbidden: update to nil is forbidden when status.currentVolumeAttributesClassName is not nil",
                )
            ],
            id="those that were are not",
        ),
        pytest.param(
            make_claim(volumeAttributesClassName="gold", current="gold"),
            make_claim(volumeAttributesClassName="silver"),
            [],
            id="but changed",
        ),
        pytest.param(
            make_claim(capacity=None, volumeAttributesClassName="gold"),
            make_claim(volumeAttributesClassName="silver"),
            [STAYS],
            id="unless the claim is unbound",
        ),
    ],
)
def test_what_an_update_of_a_claim_may_change(old: Any, new: Any, said: list[tuple[str, str]]) -> None:
    assert faults(old, new) == said


def test_what_changed_is_shown_without_what_may_change() -> None:
    old, new = make_claim(), make_claim("2Gi", volumeName="pv-1", accessModes=["ReadWriteMany"])
    (fault,) = claims.claim_update(replace(new, status=old.status), old)
    shown = fault.body.split("\n")
    assert [line for line in shown if line.startswith(("+", "-"))] == ['-  "ReadWriteOnce"', '+  "ReadWriteMany"']


def test_a_status_speaks_of_storage_alone() -> None:
    status = PersistentVolumeClaimStatus(
        capacity={"storage": Quantity("-1")},
        allocated_resources={"cpu": Quantity("1"), "example.com/space": Quantity("1"), "storage": Quantity("-2")},
        allocated_resource_statuses={"storage": "Growing", "memory": "NodeResizePending"},
    )
    assert [(each.field, each.body) for each in claims.claim_status(status)] == [
        ("status.capacity[storage]", "Invalid value: -1: must be a valid resource quantity"),
        ("status.allocatedResourceStatuses", 'Unsupported value: "memory": supported values: "storage"'),
        (
            "status.allocatedResourceStatuses",
            'Unsupported value: "storage": supported values: "ControllerResizeInProgress", "ControllerResizeInfeasible",'
            ' "NodeResizeInProgress", "NodeResizeInfeasible", "NodeResizePending"',
        ),
        ("status.allocatedResources", 'Unsupported value: "cpu": supported values: "storage"'),
        ("status.allocatedResources[storage]", "Invalid value: -2: must be a valid resource quantity"),
    ]


def make_volume(**csi: Any) -> PersistentVolume:
    source = {"driver": "d.example.com", "volumeHandle": "h", **csi}
    spec = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "csi": source}
    return scheme.convert(PersistentVolume, {"metadata": {"name": "pv"}, "spec": spec})


def test_a_volume_may_get_the_secret_that_growing_needs() -> None:
    plain, secret = make_volume(), {"controllerExpandSecretRef": {"name": "s", "namespace": "default"}}
    assert VOLUMES.validate_update(make_volume(**secret), plain) == []
    (fault,) = VOLUMES.validate_update(plain, make_volume(**secret))
    assert fault.body.startswith("Forbidden: spec.persistentvolumesource is immutable after creation\n@@")
    (fault,) = VOLUMES.validate_update(make_volume(volumeHandle="other"), plain)
    assert '-  "VolumeHandle": "h",\n+  "VolumeHandle": "other",' in fault.body


# ------------------------------------------------------------------------------------------------ admission


def refused(play: Callable[[Lab], Awaitable[None]], said: str) -> None:
    async def use(lab: Lab) -> None:
        with pytest.raises(errors.Forbidden) as caught:
            await play(lab)
        assert caught.value.message == f'persistentvolumeclaims "data" is forbidden: {said}'

    run(use)


async def grow(lab: Lab, *, bound: bool, cls: str | None, expands: bool | None) -> PersistentVolumeClaim:
    made = StorageClass(metadata=ObjectMeta(name="c"), provisioner="p.example.com", allow_volume_expansion=expands)
    await lab.client.create(made)
    claim = make_claim()
    claim = replace(claim, spec=replace(claim.spec, storage_class_name=cls))
    claim = await lab.client.create(claim)
    if bound:
        status = PersistentVolumeClaimStatus(phase="Bound", capacity={"storage": Quantity("1Gi")})
        claim = await lab.client.update_status(replace(claim, status=status))
    patch = {"spec": {"resources": {"requests": {"storage": "2Gi"}}}}
    return await lab.client.patch(PersistentVolumeClaim, "data", patch, "default")


ONLY_GROWABLE = (
    "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"
)


@pytest.mark.parametrize(
    ("cls", "expands"),
    [
        pytest.param("c", None, id="its class says nothing"),
        pytest.param("c", False, id="its class says no"),
        pytest.param("gone", True, id="its class is gone"),
        pytest.param("", True, id="it has no class"),
    ],
)
def test_only_claims_of_a_class_that_allows_it_grow(cls: str, expands: bool | None) -> None:
    async def play(lab: Lab) -> None:
        await grow(lab, bound=True, cls=cls, expands=expands)

    refused(play, ONLY_GROWABLE)


def test_an_unbound_claim_does_not_grow() -> None:
    async def use(lab: Lab) -> None:
        with pytest.raises(errors.Invalid, match=SPEC_STAYS):
            await grow(lab, bound=False, cls="c", expands=True)

    run(use)


def test_a_claim_grows() -> None:
    async def use(lab: Lab) -> None:
        claim = await grow(lab, bound=True, cls="c", expands=True)
        assert claim.spec.resources.requests["storage"] == "2Gi"

    run(use)
