"""What API servers tell each other of the versions that they store, in StorageVersions.

Source: apiserver pkg/storageversion/updater.go.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from .types.apiserverinternal_v1alpha1 import (
    ServerStorageVersion,
    StorageVersion,
    StorageVersionCondition,
    StorageVersionStatus,
)

#: The Lease of an API server: where it is, and the label that it has.
NAMESPACE = "kube-system"
IDENTITY, SERVER = "apiserver.kubernetes.io/identity", "kube-apiserver"
AGREED = "AllEncodingVersionsEqual"


def servers(version: StorageVersion) -> Sequence[ServerStorageVersion]:
    return version.status.storage_versions if version.status is not None else ()


def common_version(told: Sequence[ServerStorageVersion]) -> str | None:
    """The version that all servers write; None when they differ, or are none."""
    found = {one.encoding_version for one in told}
    return found.pop() if len(found) == 1 else None


def status_of(version: StorageVersion, told: tuple[ServerStorageVersion, ...], now: str) -> StorageVersionStatus:
    """What servers told, and whether they agree."""
    common = common_version(told)
    old = version.status or StorageVersionStatus()
    word = "Set" if common is not None else "Unset"
    condition = StorageVersionCondition(
        type=AGREED,
        status="True" if common is not None else "False",
        observed_generation=version.metadata.generation,
        last_transition_time=now,
        reason=f"CommonEncodingVersion{word}",
        message=f"Common encoding version {word.lower()}",
    )
    held = next((one for one in old.conditions if one.type == AGREED), None)
    if held is not None and held.status == condition.status:
        condition = replace(condition, last_transition_time=held.last_transition_time)
    others = tuple(one for one in old.conditions if one.type != AGREED)
    return StorageVersionStatus(common_encoding_version=common, storage_versions=told, conditions=(*others, condition))
