"""What a pod refers to by name, and which secrets a persistent volume needs: pure walks over the objects."""

from __future__ import annotations

from collections.abc import Iterator

from kaa.api.types.core_v1 import Container, EphemeralContainer, PersistentVolume, Pod, Volume

#: (plural, name) in the pod's namespace
Reference = tuple[str, str]


def references(pod: Pod) -> set[Reference]:
    """Every secret, config map, claim, resource claim and service account that the pod needs."""
    spec = pod.spec
    found: set[Reference] = {("secrets", ref.name or "") for ref in spec.image_pull_secrets}
    if spec.service_account_name:
        found.add(("serviceaccounts", spec.service_account_name))
    containers: list[Container | EphemeralContainer] = [
        *spec.containers,
        *spec.init_containers,
        *spec.ephemeral_containers,
    ]
    for container in containers:
        for source in container.env_from:
            if source.config_map_ref:
                found.add(("configmaps", source.config_map_ref.name or ""))
            if source.secret_ref:
                found.add(("secrets", source.secret_ref.name or ""))
        for env in container.env:
            value = env.value_from
            if value is not None and value.config_map_key_ref:
                found.add(("configmaps", value.config_map_key_ref.name or ""))
            if value is not None and value.secret_key_ref:
                found.add(("secrets", value.secret_key_ref.name or ""))
    for volume in spec.volumes:
        found.update(_of_volume(volume, pod.metadata.name or ""))
    found.update(_resource_claims(pod))
    return found


def _of_volume(volume: Volume, pod_name: str) -> Iterator[Reference]:
    if volume.secret:
        yield "secrets", volume.secret.secret_name or ""
    if volume.config_map:
        yield "configmaps", volume.config_map.name or ""
    if volume.persistent_volume_claim:
        yield "persistentvolumeclaims", volume.persistent_volume_claim.claim_name
    if volume.ephemeral:
        yield "persistentvolumeclaims", f"{pod_name}-{volume.name}"
    if volume.projected:
        for source in volume.projected.sources:
            if source.secret:
                yield "secrets", source.secret.name or ""
            if source.config_map:
                yield "configmaps", source.config_map.name or ""
    for secret in _volume_secret_names(volume):
        yield "secrets", secret


def _volume_secret_names(volume: Volume) -> Iterator[str]:
    """The secrets that drivers of inline volumes log in with."""
    if volume.csi and volume.csi.node_publish_secret_ref:
        yield volume.csi.node_publish_secret_ref.name or ""
    if volume.azure_file:
        yield volume.azure_file.secret_name
    for source in (volume.cephfs, volume.cinder, volume.flex_volume, volume.iscsi, volume.rbd, volume.scale_io):
        ref = source.secret_ref if source is not None else None
        if ref is not None:
            yield ref.name or ""


def _resource_claims(pod: Pod) -> Iterator[Reference]:
    for claim in pod.spec.resource_claims:
        if claim.resource_claim_name:
            yield "resourceclaims", claim.resource_claim_name
    for status in pod.status.resource_claim_statuses:
        if status.resource_claim_name:
            yield "resourceclaims", status.resource_claim_name
    extended = pod.status.extended_resource_claim_status
    if extended is not None:
        yield "resourceclaims", extended.resource_claim_name


def volume_secrets(volume: PersistentVolume, claim_namespace: str) -> set[tuple[str, str]]:
    """{(namespace, name)} of the secrets that using the volume takes."""
    spec = volume.spec
    found: set[tuple[str, str]] = set()
    if spec.csi:
        refs = (
            spec.csi.node_publish_secret_ref,
            spec.csi.node_stage_secret_ref,
            spec.csi.node_expand_secret_ref,
        )
        found.update((ref.namespace or "", ref.name or "") for ref in refs if ref is not None)
    for source in (spec.cephfs, spec.cinder, spec.flex_volume, spec.iscsi, spec.rbd, spec.scale_io):
        ref = source.secret_ref if source is not None else None
        if ref is not None:
            found.add((ref.namespace or claim_namespace, ref.name or ""))
    if spec.azure_file:
        found.add((spec.azure_file.secret_namespace or claim_namespace, spec.azure_file.secret_name))
    return found
