"""A StatefulSet's pods and claims: names, identity, storage, and to whom claims belong. No I/O.

Source: kubernetes pkg/controller/statefulset/stateful_set_utils.go.
"""

from __future__ import annotations

import re
from typing import Any

from msgspec.structs import replace

from kaa.api.types.apps_v1 import StatefulSet
from kaa.api.types.core_v1 import (
    PersistentVolumeClaim,
    PersistentVolumeClaimVolumeSource,
    Pod,
    PodTemplateSpec,
    Volume,
)
from kaa.api.types.meta_v1 import OwnerReference

from .history import REVISION_HASH
from .pods import controller_reference, from_template

POD_NAME = "statefulset.kubernetes.io/pod-name"
POD_INDEX = "apps.kubernetes.io/pod-index"
RETAIN, DELETE = "Retain", "Delete"
_NAME = re.compile(r"(.*)-([0-9]+)")


def ordinal_of(pod: Pod) -> int:
    """The number in a pod's name; -1 when it has none."""
    found = _NAME.fullmatch(pod.metadata.name or "")
    return int(found[2]) if found and len(found[2]) < 10 else -1


def is_member(set_name: str, pod: Pod) -> bool:
    """Whether a pod is named as one of a set."""
    found = _NAME.fullmatch(pod.metadata.name or "")
    return found is not None and found[1] == set_name


def replicas_of(owner: StatefulSet) -> int:
    return 1 if owner.spec.replicas is None else owner.spec.replicas


def first_ordinal(owner: StatefulSet) -> int:
    return (owner.spec.ordinals.start or 0) if owner.spec.ordinals else 0


def ordinals(owner: StatefulSet) -> range:
    start = first_ordinal(owner)
    return range(start, start + replicas_of(owner))


def revision_of(pod: Pod) -> str:
    return pod.metadata.labels.get(REVISION_HASH, "")


# ------------------------------------------------------------------------------------------------ pods


def new_pod(owner: StatefulSet, template: PodTemplateSpec, revision: str, ordinal: int) -> Pod:
    """The pod of one ordinal, as a revision describes it."""
    name = f"{owner.metadata.name}-{ordinal}"
    pod = from_template(template, owner, generate_name="")
    meta = replace(
        pod.metadata,
        generate_name=f"{owner.metadata.name}-",
        name=name,
        labels={**pod.metadata.labels, **_identity(name, ordinal), REVISION_HASH: revision},
    )
    spec = replace(pod.spec, hostname=name, subdomain=owner.spec.service_name or None)
    return with_storage(owner, replace(pod, metadata=meta, spec=spec))


def _identity(name: str, ordinal: int) -> dict[str, str]:
    return {POD_NAME: name, POD_INDEX: str(ordinal)}


def fixed(owner: StatefulSet, pod: Pod) -> Pod:
    """The pod with the labels and volumes that its name gives it; itself when it has them."""
    wanted = _identity(pod.metadata.name or "", ordinal_of(pod))
    labels = {**pod.metadata.labels, **wanted}
    if labels != pod.metadata.labels:
        pod = replace(pod, metadata=replace(pod.metadata, labels=labels))
    return pod if _has_storage(owner, pod) else with_storage(owner, pod)


def _has_storage(owner: StatefulSet, pod: Pod) -> bool:
    held = {v.name: v.persistent_volume_claim.claim_name for v in pod.spec.volumes if v.persistent_volume_claim}
    return all(held.get(template) == claim for template, claim in claim_names(owner, ordinal_of(pod)).items())


def with_storage(owner: StatefulSet, pod: Pod) -> Pod:
    """The pod with a volume for each claim; they take the place of template volumes of the same name."""
    claims = claim_names(owner, ordinal_of(pod))
    own = tuple(
        Volume(name=name, persistent_volume_claim=PersistentVolumeClaimVolumeSource(claim_name=claim))
        for name, claim in claims.items()
    )
    rest = tuple(volume for volume in pod.spec.volumes if volume.name not in claims)
    return replace(pod, spec=replace(pod.spec, volumes=(*own, *rest)))


# ------------------------------------------------------------------------------------------------ claims


def claim_names(owner: StatefulSet, ordinal: int) -> dict[str, str]:
    """{volume: name of its claim} of one ordinal."""
    names = [template.metadata.name or "" for template in owner.spec.volume_claim_templates]
    return {name: f"{name}-{owner.metadata.name}-{ordinal}" for name in names}


def new_claims(owner: StatefulSet, ordinal: int) -> list[PersistentVolumeClaim]:
    """The claims of one ordinal."""
    names = claim_names(owner, ordinal)
    made = []
    for template in owner.spec.volume_claim_templates:
        meta = replace(
            template.metadata,
            name=names[template.metadata.name or ""],
            namespace=owner.metadata.namespace,
            labels={**template.metadata.labels, **owner.spec.selector.match_labels},
        )
        claim = PersistentVolumeClaim(metadata=meta, spec=template.spec, status=template.status)
        made.append(retained(owner, claim, None, ordinal))
    return made


def retention(owner: StatefulSet) -> tuple[str, str]:
    """(when scaled, when deleted): Retain or Delete."""
    policy = owner.spec.persistent_volume_claim_retention_policy
    if policy is None:
        return RETAIN, RETAIN
    return policy.when_scaled or RETAIN, policy.when_deleted or RETAIN


def retained(owner: StatefulSet, claim: PersistentVolumeClaim, pod: Pod | None, ordinal: int) -> PersistentVolumeClaim:
    """The claim with the owners that the retention policy gives it; itself when it has them.

    Whoever owns a claim takes it along when it goes: the set, or a pod that scaling down takes away. Claims that someone
    else controls are left alone.
    """
    scaled, deleted = retention(owner)
    condemned = ordinal not in ordinals(owner)
    references = claim.metadata.owner_references
    if any(ref.controller and ref.uid != owner.metadata.uid for ref in references):
        return claim
    wanted: list[OwnerReference] = [ref for ref in references if not _is_ours(ref, owner, ordinal)]
    if scaled == DELETE and condemned:
        wanted += [_reference(pod)] if pod is not None else []
    elif deleted == DELETE:
        wanted.append(controller_reference(owner))
    if tuple(wanted) == references:
        return claim
    return replace(claim, metadata=replace(claim.metadata, owner_references=tuple(wanted)))


def _is_ours(ref: OwnerReference, owner: StatefulSet, ordinal: int) -> bool:
    pod = ref.kind == "Pod" and ref.name == f"{owner.metadata.name}-{ordinal}"
    return ref.uid == owner.metadata.uid or pod


def _reference(obj: Any) -> OwnerReference:
    return OwnerReference(
        api_version=obj.API_VERSION, kind=obj.KIND, name=obj.metadata.name or "", uid=obj.metadata.uid or ""
    )


def is_stale(claim: PersistentVolumeClaim, pod_uids: set[str]) -> bool:
    """Owned by a pod that is gone: the garbage collector is about to take it."""
    return any(ref.kind == "Pod" and ref.uid not in pod_uids for ref in claim.metadata.owner_references)
