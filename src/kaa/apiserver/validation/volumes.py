"""Volumes of pods and the sources that PersistentVolumes share with them.

Source: pkg/apis/core/validation/validation.go (validateVolumes, validateVolumeSource).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from kaa.api import fields, names, quantity
from kaa.api.fields import FieldError, Path
from kaa.api.types.core_v1 import DownwardAPIVolumeFile, KeyToPath, ProjectedVolumeSource, Volume
from kaa.api.types.meta_v1 import ObjectMeta

from ..memo import Memo
from .common import NOT_NEGATIVE, faults_of, one_of
from .containers import field_ref, local_descending_path
from .selectors import label_selector

_FILE_FIELDS = frozenset(
    ("metadata.name", "metadata.namespace", "metadata.uid", "metadata.annotations", "metadata.labels")
)
_MODE = "must be a number between 0 and 0777 (octal), both inclusive"

#: {attribute: wire name} of the sources a Volume may have.
WIRE: Mapping[str, str] = {
    "empty_dir": "emptyDir", "host_path": "hostPath", "git_repo": "gitRepo", "gce_persistent_disk": "gcePersistentDisk",
    "aws_elastic_block_store": "awsElasticBlockStore", "secret": "secret", "nfs": "nfs", "iscsi": "iscsi",
    "glusterfs": "glusterfs", "flocker": "flocker", "persistent_volume_claim": "persistentVolumeClaim", "rbd": "rbd",
    "cinder": "cinder", "cephfs": "cephfs", "flex_volume": "flexVolume", "config_map": "configMap",
    "azure_file": "azureFile", "downward_api": "downwardAPI", "fc": "fc", "vsphere_volume": "vsphereVolume",
    "quobyte": "quobyte", "azure_disk": "azureDisk", "storageos": "storageos", "projected": "projected",
    "photon_persistent_disk": "photonPersistentDisk", "portworx_volume": "portworxVolume", "scale_io": "scaleIO",
    "csi": "csi", "ephemeral": "ephemeral", "image": "image", "local": "local",
}  # fmt: skip


def volumes(given: Sequence[Volume], path: Path) -> Iterator[FieldError]:
    seen: set[str] = set()
    for n, volume in enumerate(given):
        at = path.index(n)
        yield from _sources(volume, at)
        if not volume.name:
            yield fields.required(at.child("name"))
            continue
        faults = names.dns_label(volume.name)
        yield from faults_of(at.child("name"), volume.name, faults)
        if volume.name in seen:
            yield fields.duplicate(at.child("name"), volume.name)
        elif not faults:
            seen.add(volume.name)


def _sources(volume: Volume, path: Path) -> Iterator[FieldError]:
    found = 0
    for attribute, wire in WIRE.items():
        source = getattr(volume, attribute, None)
        if source is None:
            continue
        found += 1
        at = path.child(wire)
        if found > 1:
            yield fields.forbidden(at, "may not specify more than 1 volume type")
            continue
        check = _CHECKS.get(attribute)
        if check is not None:
            yield from check(source, at)
        yield from needed(attribute, source, at)
    if not found:
        yield fields.required(path, "must specify a volume type")


#: {source: the fields it cannot be without, as (attribute, wire name)}
_NEEDED: dict[str, tuple[tuple[str, str], ...]] = {
    "git_repo": (("repository", "repository"),),
    "gce_persistent_disk": (("pd_name", "pdName"),),
    "aws_elastic_block_store": (("volume_id", "volumeID"),),
    "secret": (("secret_name", "secretName"),),
    "nfs": (("server", "server"), ("path", "path")),
    "iscsi": (("target_portal", "targetPortal"), ("iqn", "iqn")),
    "glusterfs": (("endpoints", "endpoints"), ("path", "path")),
    "persistent_volume_claim": (("claim_name", "claimName"),),
    "rbd": (("monitors", "monitors"), ("image", "image")),
    "cinder": (("volume_id", "volumeID"),),
    "cephfs": (("monitors", "monitors"),),
    "flex_volume": (("driver", "driver"),),
    "config_map": (("name", "name"),),
    "azure_file": (("secret_name", "secretName"), ("share_name", "shareName")),
    "vsphere_volume": (("volume_path", "volumePath"),),
    "quobyte": (("registry", "registry"), ("volume", "volume")),
    "azure_disk": (("disk_name", "diskName"), ("disk_uri", "diskURI")),
    "photon_persistent_disk": (("pd_id", "pdID"),),
    "portworx_volume": (("volume_id", "volumeID"),),
    "scale_io": (("gateway", "gateway"), ("system", "system"), ("volume_name", "volumeName")),
    "csi": (("driver", "driver"),),
}


def needed(attribute: str, source: Any, path: Path) -> Iterator[FieldError]:
    for field, wire in _NEEDED.get(attribute, ()):
        if not getattr(source, field):
            yield fields.required(path.child(wire))


def _mode(value: int | None, path: Path) -> Iterator[FieldError]:
    if value is not None and not 0 <= value <= 0o777:
        yield fields.invalid(path, value, _MODE)


def _items(given: Sequence[KeyToPath], path: Path) -> Iterator[FieldError]:
    for n, item in enumerate(given):
        at = path.index(n)
        if not item.key:
            yield fields.required(at.child("key"))
        if not item.path:
            yield fields.required(at.child("path"))
        yield from _not_backstepping(item.path, at.child("path"))
        yield from _mode(item.mode, at.child("mode"))


def _not_backstepping(text: str, path: Path) -> Iterator[FieldError]:
    yield from local_descending_path(text, path)
    if text.startswith("..") and ".." not in text.split("/"):
        yield fields.invalid(path, text, "must not start with '..'")


def host_path(source: Any, path: Path) -> Iterator[FieldError]:
    if not source.path:
        yield fields.required(path.child("path"))
    elif ".." in source.path.split("/"):
        yield fields.invalid(path.child("path"), source.path, "must not contain '..'")
    choices = ("", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket")
    if source.type and source.type not in choices:
        yield fields.not_supported(path.child("type"), source.type, choices)


def _empty_dir(source: Any, path: Path) -> Iterator[FieldError]:
    if source.size_limit is not None and quantity.parse(source.size_limit) < 0:
        yield fields.forbidden(path.child("sizeLimit"), "SizeLimit field must be a valid resource quantity")


def _keyed(source: Any, path: Path) -> Iterator[FieldError]:
    yield from _mode(source.default_mode, path.child("defaultMode"))
    yield from _items(source.items, path.child("items"))


def _iscsi(source: Any, path: Path) -> Iterator[FieldError]:
    if source.iqn and not source.iqn.startswith(("iqn", "eui", "naa")):
        yield fields.invalid(path.child("iqn"), source.iqn, "must be valid format starting with iqn, eui, or naa")
    if not 0 <= source.lun <= 255:
        yield fields.invalid(path.child("lun"), source.lun, "must be between 0 and 255, inclusive")
    if (source.chap_auth_discovery or source.chap_auth_session) and source.secret_ref is None:
        yield fields.required(path.child("secretRef"))


def _nfs(source: Any, path: Path) -> Iterator[FieldError]:
    if source.path and not source.path.startswith("/"):
        yield fields.invalid(path.child("path"), source.path, "must be an absolute path")


def _csi(source: Any, path: Path) -> Iterator[FieldError]:
    if source.driver:
        yield from faults_of(path.child("driver"), source.driver, names.dns_subdomain(source.driver.lower()))
    if source.node_publish_secret_ref is not None and not source.node_publish_secret_ref.name:
        yield fields.required(path.child("nodePublishSecretRef", "name"))


def _downward_files(items: Sequence[DownwardAPIVolumeFile], path: Path) -> Iterator[FieldError]:
    for n, item in enumerate(items):
        at = path.index(n) if n else path
        if not item.path:
            yield fields.required(path.child("path"))
        yield from _not_backstepping(item.path, path.child("path"))
        if item.field_ref is not None:
            ref = item.field_ref
            yield from field_ref(ref.field_path, ref.api_version, _FILE_FIELDS, path.child("fieldRef"))
            if item.resource_field_ref is not None:
                detail = "fieldRef and resourceFieldRef can not be specified simultaneously"
                yield fields.invalid(path, "resource", detail)
        elif item.resource_field_ref is not None:
            if not item.resource_field_ref.container_name:
                yield fields.required(path.child("resourceFieldRef", "containerName"))
            if not item.resource_field_ref.resource:
                yield fields.required(path.child("resourceFieldRef", "resource"))
        else:
            yield fields.required(at, "one of fieldRef and resourceFieldRef is required")
        yield from _mode(item.mode, path.child("mode"))


def _downward(source: Any, path: Path) -> Iterator[FieldError]:
    yield from _mode(source.default_mode, path.child("defaultMode"))
    yield from _downward_files(source.items, path)


def _projected(source: ProjectedVolumeSource, path: Path) -> Iterator[FieldError]:
    """Nearly every pod has one, and it is always the same: the token's, which admission adds."""
    if not _is_faultless(source):
        yield from _projected_faults(source, path)


@Memo
def _is_faultless(source: ProjectedVolumeSource) -> bool:
    return not any(_projected_faults(source, Path()))


def _projected_faults(source: ProjectedVolumeSource, path: Path) -> Iterator[FieldError]:
    yield from _mode(source.default_mode, path.child("defaultMode"))
    taken: set[str] = set()
    for n, one in enumerate(source.sources):
        at = path.child("sources").index(n)
        paths: list[str] = []
        kinds = 0
        for wire, part in (("secret", one.secret), ("configMap", one.config_map)):
            if part is not None:
                kinds += 1
                if not part.name:
                    yield fields.required(at.child(wire, "name"))
                yield from _items(part.items, at.child(wire, "items"))
                paths += [item.path for item in part.items]
        if one.downward_api is not None:
            kinds += 1
            yield from _downward_files(one.downward_api.items, at.child("downwardAPI"))
            paths += [item.path for item in one.downward_api.items]
        if one.service_account_token is not None:
            kinds += 1
            yield from _token(one.service_account_token, at.child("serviceAccountToken"))
            paths.append(one.service_account_token.path)
        if one.cluster_trust_bundle is not None:
            kinds += 1
            yield from label_selector(
                one.cluster_trust_bundle.label_selector, at.child("clusterTrustBundle", "labelSelector")
            )
            paths.append(one.cluster_trust_bundle.path)
        if one.pod_certificate is not None:
            kinds += 1
        if kinds > 1:
            yield fields.forbidden(at, "may not specify more than 1 volume type per source")
        for text in paths:
            if text in taken:
                yield fields.invalid(path, text, "conflicting duplicate paths")
            taken.add(text)


def _token(token: Any, path: Path) -> Iterator[FieldError]:
    at = path.child("expirationSeconds")
    if (token.expiration_seconds or 0) < 600:
        yield fields.invalid(at, token.expiration_seconds or 0, "may not specify a duration less than 10 minutes")
    elif token.expiration_seconds > 2**32:
        yield fields.invalid(at, token.expiration_seconds, "may not specify a duration larger than 2^32 seconds")
    if not token.path:
        yield fields.required(path.child("path"))
    else:
        yield from _not_backstepping(token.path, path.child("path"))


def _ephemeral(source: Any, path: Path) -> Iterator[FieldError]:
    from .claims import claim_spec

    claim = source.volume_claim_template
    if claim is None:
        yield fields.required(path.child("volumeClaimTemplate"))
        return
    at = path.child("volumeClaimTemplate")
    if claim.metadata != ObjectMeta(labels=claim.metadata.labels, annotations=claim.metadata.annotations):
        yield fields.forbidden(at.child("metadata"), "must not be set, only labels and annotations are permitted")
    yield from claim_spec(claim.spec, at.child("spec"))


def _image(source: Any, path: Path) -> Iterator[FieldError]:
    if not source.reference:
        yield fields.required(path.child("reference"))
    yield from one_of(path, "pullPolicy", source.pull_policy, ("Always", "IfNotPresent", "Never"), needed=True)


def _fc(source: Any, path: Path) -> Iterator[FieldError]:
    if not source.target_wwns and not source.wwids:
        yield fields.required(path.child("targetWWNs"), "must specify either targetWWNs or wwids, but not both")
    if source.target_wwns and source.wwids:
        detail = "targetWWNs and wwids can not be specified simultaneously"
        yield fields.invalid(path.child("targetWWNs"), list(source.target_wwns), detail)
    if source.target_wwns:
        if source.lun is None:
            yield fields.required(path.child("lun"), "lun is required if targetWWNs is specified")
        elif not 0 <= source.lun <= 255:
            yield fields.invalid(path.child("lun"), source.lun, "must be between 0 and 255, inclusive")


def _partitioned(source: Any, path: Path) -> Iterator[FieldError]:
    if source.partition is not None and not 0 <= source.partition <= 255:
        yield fields.invalid(path.child("partition"), source.partition, NOT_NEGATIVE)


_CHECKS: dict[str, Callable[[Any, Path], Iterator[FieldError]]] = {
    "host_path": host_path,
    "empty_dir": _empty_dir,
    "secret": _keyed,
    "config_map": _keyed,
    "downward_api": _downward,
    "projected": _projected,
    "iscsi": _iscsi,
    "nfs": _nfs,
    "csi": _csi,
    "fc": _fc,
    "ephemeral": _ephemeral,
    "image": _image,
    "gce_persistent_disk": _partitioned,
    "aws_elastic_block_store": _partitioned,
}
