"""The defaults of volumes: modes, drivers' parameters, and the empty volume that is an emptyDir.

Source: pkg/apis/core/v1/defaults.go.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from kaa.api.types.core_v1 import (
    DownwardAPIVolumeFile,
    EmptyDirVolumeSource,
    ProjectedVolumeSource,
    Volume,
    VolumeProjection,
)

from ..fill import each, filled

DEFAULT_MODE = 0o644
_TOKEN_SECONDS = 3600
_CERTIFICATE_SECONDS = 86400
#: The fields of a Volume that name a source, in the order of the API.
SOURCES = tuple(field.name for field in msgspec.structs.fields(Volume) if field.name != "name")

#: {source: {field: what an absent one means}}
PARAMETERS: dict[str, dict[str, Any]] = {
    "secret": {"default_mode": DEFAULT_MODE},
    "config_map": {"default_mode": DEFAULT_MODE},
    "host_path": {"type": ""},
    "iscsi": {"iscsi_interface": "default"},
    "rbd": {"pool": "rbd", "user": "admin", "keyring": "/etc/ceph/keyring"},
    "azure_disk": {"caching_mode": "ReadWrite", "kind": "Shared", "fs_type": "ext4", "read_only": False},
    "scale_io": {"storage_mode": "ThinProvisioned", "fs_type": "xfs"},
}


def volume(given: Volume) -> Volume:
    name = source_of(given)
    if name is None:
        return replace(given, empty_dir=EmptyDirVolumeSource())
    source = getattr(given, name)
    made = _source(name, source)
    return given if made is source else replace(given, **{name: made})


def source_of(given: Volume) -> str | None:
    """The attribute that holds the volume's source."""
    for name in SOURCES:
        if getattr(given, name) is not None:
            return name
    return None


def _source(name: str, source: Any) -> Any:
    if name in PARAMETERS:
        return parameters(name, source)
    if name == "downward_api":
        return filled(source, default_mode=_mode(source.default_mode), items=each(source.items, _file))
    if name == "projected":
        return _projected(source)
    if name == "image" and not source.pull_policy:
        return replace(source, pull_policy=pull_policy(source.reference or ""))
    if name == "ephemeral" and source.volume_claim_template is not None:
        claim = source.volume_claim_template
        if claim.spec.volume_mode is None:
            made = replace(claim, spec=replace(claim.spec, volume_mode="Filesystem"))
            return replace(source, volume_claim_template=made)
    return source


def parameters(name: str, source: Any) -> Any:
    """``source`` of the kind ``name`` with its absent parameters filled."""
    absent = {field: value for field, value in PARAMETERS[name].items() if getattr(source, field) is None}
    return replace(source, **absent) if absent else source


def _file(given: DownwardAPIVolumeFile) -> DownwardAPIVolumeFile:
    if given.field_ref is not None and not given.field_ref.api_version:
        return replace(given, field_ref=replace(given.field_ref, api_version="v1"))
    return given


def _projected(given: ProjectedVolumeSource) -> ProjectedVolumeSource:
    return filled(given, default_mode=_mode(given.default_mode), sources=each(given.sources, _projection))


def _mode(given: int | None) -> int:
    return DEFAULT_MODE if given is None else given


def _projection(given: VolumeProjection) -> VolumeProjection:
    token, downward, certificate = given.service_account_token, given.downward_api, given.pod_certificate
    changes: dict[str, Any] = {}
    if token is not None and token.expiration_seconds is None:
        changes["service_account_token"] = replace(token, expiration_seconds=_TOKEN_SECONDS)
    if downward is not None:
        changes["downward_api"] = filled(downward, items=each(downward.items, _file))
    if certificate is not None and certificate.max_expiration_seconds is None:
        changes["pod_certificate"] = replace(certificate, max_expiration_seconds=_CERTIFICATE_SECONDS)
    return filled(given, **changes)


def pull_policy(image: str) -> str:
    """Always for the tag ``latest``, also when implied; IfNotPresent for any other tag or digest."""
    last = image.rpartition("/")[2]
    name, _, digest = last.partition("@")
    tag = name.partition(":")[2]
    if digest and not tag:
        return "IfNotPresent"
    return "Always" if tag in ("", "latest") else "IfNotPresent"
