"""CSIDrivers.

Source: pkg/registry/storage/csidriver/strategy.go; ValidateCSIDriver.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields, names
from kaa.api.fields import FieldError
from kaa.api.types.storage_v1 import CSIDriver, CSIDriverSpec

from ...validation.common import METADATA, SPEC, faults_of
from ..strategy import Strategy
from ..tables import UNSET, age, shape

_MODES = ("Ephemeral", "Persistent")
_POLICIES = ("File", "None", "ReadWriteOnceWithFSType")


def _cells(obj: CSIDriver, now: float) -> Sequence[Any]:
    spec = obj.spec
    tokens = ",".join(request.audience for request in spec.token_requests)
    return (
        obj.metadata.name,
        True if spec.attach_required is None else spec.attach_required,
        bool(spec.pod_info_on_mount),
        bool(spec.storage_capacity),
        tokens or UNSET,
        bool(spec.requires_republish),
        ",".join(spec.volume_lifecycle_modes) or "<none>",
        age(obj.metadata, now),
    )


class CSIDriverStrategy(Strategy[CSIDriver]):
    kind = CSIDriver
    allows_unconditional_update = False
    table = shape(
        "storage/csidrivers",
        "AttachRequired:boolean|PodInfoOnMount:boolean|StorageCapacity:boolean|TokenRequests"
        "|RequiresRepublish:boolean|Modes|Age",
        _cells,
    )

    def default(self, obj: CSIDriver) -> CSIDriver:
        spec = obj.spec
        changes: dict[str, Any] = {"attach_required": True} if spec.attach_required is None else {}
        for name in ("pod_info_on_mount", "storage_capacity", "requires_republish", "se_linux_mount"):
            if getattr(spec, name) is None:
                changes[name] = False
        if spec.fs_group_policy is None:
            changes["fs_group_policy"] = "ReadWriteOnceWithFSType"
        if not spec.volume_lifecycle_modes:
            changes["volume_lifecycle_modes"] = ("Persistent",)
        return replace(obj, spec=replace(spec, **changes)) if changes else obj

    def validate(self, obj: CSIDriver) -> list[FieldError]:
        name = obj.metadata.name or ""
        found = [] if len(name) <= 63 else [fields.too_long(METADATA.child("name"), 63)]
        return [*found, *_faults(obj.spec)]

    def validate_update(self, new: CSIDriver, old: CSIDriver) -> list[FieldError]:
        found = list(_faults(new.spec))
        for wire, mine, its in (
            ("attachedRequired", new.spec.attach_required, old.spec.attach_required),
            ("volumeLifecycleModes", new.spec.volume_lifecycle_modes, old.spec.volume_lifecycle_modes),
        ):
            if mine != its:
                shown = list(mine) if isinstance(mine, tuple) else mine
                found.append(fields.invalid(SPEC.child(wire), shown, "field is immutable"))
        return found


def _faults(spec: CSIDriverSpec) -> Iterator[FieldError]:
    if spec.fs_group_policy is not None and spec.fs_group_policy not in _POLICIES:
        yield fields.not_supported(SPEC.child("fsGroupPolicy"), spec.fs_group_policy, _POLICIES)
    for mode in spec.volume_lifecycle_modes:
        if mode not in _MODES:
            yield fields.not_supported(SPEC.child("volumeLifecycleModes"), mode, _MODES)
    seen: set[str] = set()
    for n, request in enumerate(spec.token_requests):
        at = SPEC.child("tokenRequests").index(n)
        if request.audience in seen:
            yield fields.duplicate(at.child("audience"), request.audience)
        seen.add(request.audience)
        seconds = request.expiration_seconds
        if seconds is not None and seconds < 600:
            detail = "may not specify a duration less than 10 minutes"
            yield fields.invalid(at.child("expirationSeconds"), seconds, detail)
        if seconds is not None and seconds > 2**32:
            detail = "may not specify a duration larger than 2^32 seconds"
            yield fields.invalid(at.child("expirationSeconds"), seconds, detail)


def driver_name_faults(path: Any, name: str) -> Iterator[FieldError]:
    """The name of a CSI driver where it is referred to."""
    if not name:
        yield fields.required(path)
        return
    if len(name) > 63:
        yield fields.too_long(path, 63)
    yield from faults_of(path, name, names.dns_subdomain(name.lower()))


STRATEGY = CSIDriverStrategy()
