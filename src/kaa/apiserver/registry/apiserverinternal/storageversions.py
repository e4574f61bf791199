"""StorageVersions: in which version each API server writes a resource.

Source: pkg/registry/apiserverinternal/storageversion/strategy.go; pkg/apis/apiserverinternal/validation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields, names
from kaa.api.fields import FieldError, Path
from kaa.api.storage_versions import common_version
from kaa.api.types.apiserverinternal_v1alpha1 import (
    ServerStorageVersion,
    StorageVersion,
    StorageVersionCondition,
    StorageVersionSpec,
    StorageVersionStatus,
)

from ...validation.common import STATUS, faults_of
from ..strategy import Strategy
from ..tables import UNSET, age, shape

_SHOWN = 3
_NOT_A_VERSION = (
    "a DNS-1035 label, which must consist of lower case alphanumeric characters or '-', start with an alphabetic"
    " character, and end with an alphanumeric character"
)


def _cells(obj: StorageVersion, now: float) -> Sequence[Any]:
    status = obj.status or StorageVersionStatus()
    servers = [f"{one.api_server_id}={one.encoding_version}" for one in status.storage_versions]
    shown = ",".join(servers[:_SHOWN])
    if len(servers) > _SHOWN:
        shown = f"{shown} + {len(servers) - _SHOWN} more..."
    return obj.metadata.name, status.common_encoding_version or UNSET, shown, age(obj.metadata, now)


class StorageVersionStrategy(Strategy[StorageVersion]):
    kind = StorageVersion
    allows_unconditional_update = False
    table = shape("apiserverinternal/storageversions", "CommonEncodingVersion|StorageVersions|Age", _cells)

    @staticmethod
    def name_faults(name: str, /) -> list[str]:
        group, dot, resource = name.rpartition(".")
        if not dot:
            return ["name must be in the form of <group>.<resource>"]
        return [
            *(f"the group segment {fault}" for fault in names.dns_subdomain(group)),
            *(f"the resource segment {fault}" for fault in names.dns_1035_label(resource)),
        ]

    def default(self, obj: StorageVersion) -> StorageVersion:
        return replace(obj, spec=obj.spec or StorageVersionSpec(), status=obj.status or StorageVersionStatus())

    def prepare_create(self, obj: StorageVersion) -> StorageVersion:
        return replace(obj, status=StorageVersionStatus())

    def validate_update(self, new: StorageVersion, old: StorageVersion) -> list[FieldError]:
        return []

    def validate_status_update(self, new: StorageVersion, old: StorageVersion) -> list[FieldError]:
        return list(_status_faults(new.status or StorageVersionStatus()))


def _status_faults(status: StorageVersionStatus) -> Iterator[FieldError]:
    seen: set[str] = set()
    for n, server in enumerate(status.storage_versions):
        at = STATUS.child("storageVersions").index(n)
        if server.api_server_id in seen:
            yield fields.duplicate(at.child("apiServerID"), server.api_server_id)
        seen.add(server.api_server_id)
        yield from _server_faults(server, at)
    yield from _common_faults(status)
    yield from _condition_faults(status.conditions)


def _server_faults(server: ServerStorageVersion, at: Path) -> Iterator[FieldError]:
    encoding, decodable = server.encoding_version, server.decodable_versions
    yield from faults_of(at.child("apiServerID"), server.api_server_id, names.dns_subdomain(server.api_server_id))
    yield from _version_faults(at.child("encodingVersion"), encoding)
    for n, version in enumerate(decodable):
        yield from _version_faults(at.child("decodableVersions").index(n), version)
    if encoding not in decodable:
        detail = f"decodableVersions must include encodingVersion {encoding}"
        yield fields.invalid(at.child("decodableVersions"), list(decodable), detail)
    for n, version in enumerate(server.served_versions):
        here = at.child("servedVersions").index(n)
        yield from _version_faults(here, version)
        if version not in decodable:
            known = f"[{' '.join(decodable)}]"
            detail = f"individual served version : {version} must be included in decodableVersions : {known}"
            yield fields.invalid(here, version, detail)


def _version_faults(at: Path, text: str) -> Iterator[FieldError]:
    """``apps/v1``, ``v1``: all that is wrong with it at once."""
    group, slash, version = text.rpartition("/")
    if "/" in group:
        pattern, examples = "[a-z]([-a-z0-9]*[a-z0-9])?", ("my-name", "abc-123")
        why = names.regex_error(_NOT_A_VERSION, pattern, *examples)
        found = [f"an apiVersion is {why} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyVersion')"]
    else:
        found = [f"group part: {fault}" for fault in (names.dns_subdomain(group) if group else [_EMPTY]) if slash]
        found += [f"version part: {fault}" for fault in (names.dns_1035_label(version) if version else [_EMPTY])]
    if found:
        yield fields.invalid(at, text, ",".join(found))


_EMPTY = "must be non-empty"


def _common_faults(status: StorageVersionStatus) -> Iterator[FieldError]:
    at, said = STATUS.child("commonEncodingVersion"), status.common_encoding_version
    actual = common_version(status.storage_versions)
    if actual is None and said is not None:
        why = "should be nil if servers do not agree on the same encoding version, or if there is no server reporting the supported versions yet"
        yield fields.invalid(at, said, why)
    elif actual is not None and said is None:
        yield fields.invalid(at, None, f"the common encoding version is {actual}")
    elif actual != said:
        yield fields.invalid(at, said, f"the actual common encoding version is {actual}")


def _condition_faults(given: Sequence[StorageVersionCondition]) -> Iterator[FieldError]:
    seen: dict[str, int] = {}
    for n, condition in enumerate(given):
        at = STATUS.index(n)  # upstream leaves ``conditions`` out of these paths
        if condition.type in seen:
            why = f"the type of the condition is not unique, it also appears in conditions[{seen[condition.type]}]"
            yield fields.invalid(at.child("type"), condition.type, why)
        seen[condition.type] = n
        yield from faults_of(at.child("type"), condition.type, names.qualified_name(condition.type))
        yield from faults_of(at.child("status"), condition.status, names.qualified_name(condition.status))
        if not condition.reason:
            yield fields.required(at.child("reason"), "reason cannot be empty")
        if not condition.message:
            yield fields.required(at.child("message"), "message cannot be empty")


STRATEGY = StorageVersionStrategy()
