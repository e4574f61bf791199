"""StorageVersionMigrations: rewrite all objects of a resource, once.

Source: pkg/registry/storagemigration/storagemigration/strategy.go; pkg/apis/storagemigration/validation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from kaa.api import fields, names
from kaa.api.fields import FieldError
from kaa.api.types.meta_v1 import Condition, GroupResource
from kaa.api.types.storagemigration_v1beta1 import (
    StorageVersionMigration,
    StorageVersionMigrationSpec,
    StorageVersionMigrationStatus,
)

from ...validation.common import SPEC, STATUS, conditions, immutable
from ...validation.internal import raw
from ..strategy import Strategy
from ..tables import created

_NOTHING = StorageVersionMigrationSpec(resource=GroupResource(group="", resource=""))


class MigrationStrategy(Strategy[StorageVersionMigration]):
    kind = StorageVersionMigration
    allows_unconditional_update = False
    table = created("storagemigration/storageversionmigrations")

    def default(self, obj: StorageVersionMigration) -> StorageVersionMigration:
        return replace(obj, spec=obj.spec or _NOTHING, status=obj.status or StorageVersionMigrationStatus())

    def prepare_create(self, obj: StorageVersionMigration) -> StorageVersionMigration:
        return replace(obj, status=StorageVersionMigrationStatus())

    def validate(self, obj: StorageVersionMigration) -> list[FieldError]:
        wanted, at = (obj.spec or _NOTHING).resource, SPEC.child("resource")
        faults = names.dns_1035_label(wanted.resource) if wanted.resource else []
        found = [] if wanted.resource else [fields.required(at.child("resource"), "resource is required to be set")]
        if faults:
            found.append(fields.invalid(at.child("resource"), wanted.resource, ",".join(faults)))
        faults = names.dns_subdomain(wanted.group) if wanted.group else []
        if faults:
            found.append(fields.invalid(at.child("group"), wanted.group, ",".join(faults)))
        return found

    def validate_update(self, new: StorageVersionMigration, old: StorageVersionMigration) -> list[FieldError]:
        return [*self.validate(new), *immutable(SPEC, new.spec, old.spec, raw(new.spec))]

    def validate_status_update(self, new: StorageVersionMigration, old: StorageVersionMigration) -> list[FieldError]:
        now = new.status or StorageVersionMigrationStatus()
        return list(_status_faults(now, old.status or StorageVersionMigrationStatus()))


def _status_faults(new: StorageVersionMigrationStatus, old: StorageVersionMigrationStatus) -> Iterator[FieldError]:
    version, at = new.resource_version or "", STATUS.child("resourceVersion")
    if version and not (version.isdecimal() and version.isascii() and version[0] != "0"):
        yield fields.invalid(at, version, f"resource version is not well formed: {version}")
    yield from conditions(STATUS.child("conditions"), new.conditions)
    if old.resource_version and old.resource_version != version:
        yield fields.invalid(at, version, "field is immutable")
    for why in _contradictions(_true(new.conditions), _true(old.conditions)):
        yield fields.invalid(STATUS.child("conditions"), raw(new.conditions), why)


def _true(given: Sequence[Condition]) -> set[str]:
    return {condition.type for condition in given if condition.status == "True"}


def _contradictions(new: set[str], old: set[str]) -> Iterator[str]:
    if {"Succeeded", "Failed"} <= new:
        yield "Both success and failed conditions cannot be true at the same time"
    if {"Succeeded", "Running"} <= new:
        yield "Running condition cannot be true when success condition is true"
    if {"Failed", "Running"} <= new:
        yield "Running condition cannot be true when failed condition is true"
    if "Succeeded" in old - new:
        yield "Success condition cannot be set to false once it is true"
    if "Failed" in old - new:
        yield "Failed condition cannot be set to false once it is true"


STRATEGY = MigrationStrategy()
