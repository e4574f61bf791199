"""A Deployment's ReplicaSets as its history: which is the new one, what revision each is, which may be forgotten. No I/O.

A set is *new* when its template, but for the hash label, is the deployment's: rolling back finds the old set again.

Source: kubernetes pkg/controller/deployment/util/deployment_util.go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

from msgspec.structs import replace

from kaa.api import names, scheme
from kaa.api.types.apps_v1 import Deployment, ReplicaSet, ReplicaSetSpec
from kaa.api.types.core_v1 import PodTemplateSpec
from kaa.api.types.meta_v1 import LabelSelector, ObjectMeta

from .pods import controller_reference
from .rolling import DESIRED, MAX, by_age, limits_of, size

HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
HISTORY = "deployment.kubernetes.io/revision-history"
HISTORY_LIMIT_CHARACTERS = 2000
NO_LIMIT = 2**31 - 1
#: Annotations that are the deployment's alone.
OWN_ANNOTATIONS = frozenset(
    (
        "kubectl.kubernetes.io/last-applied-configuration",
        "deprecated.deployment.rollback.to",
        REVISION,
        HISTORY,
        DESIRED,
        MAX,
    )
)


def template_hash(template: PodTemplateSpec, collisions: int) -> str:
    """A short word for a template, the same as long as the template is."""
    digest = hashlib.blake2b(scheme.encode_inner(template), digest_size=4, salt=collisions.to_bytes(8, "big")).digest()
    return names.safe_encode(str(int.from_bytes(digest, "big")))


def same_template(left: PodTemplateSpec, right: PodTemplateSpec) -> bool:
    return left.spec == right.spec and _bare(left.metadata) == _bare(right.metadata)


def _bare(meta: ObjectMeta) -> ObjectMeta:
    if HASH_LABEL not in meta.labels:
        return meta
    return replace(meta, labels={key: value for key, value in meta.labels.items() if key != HASH_LABEL})


def split(deployment: Deployment, sets: Sequence[ReplicaSet]) -> tuple[ReplicaSet | None, list[ReplicaSet]]:
    """The new set (the oldest, should there be several) and the old ones."""
    ordered = by_age(sets)
    new = next((s for s in ordered if same_template(s.spec.template, deployment.spec.template)), None)
    return new, [each for each in ordered if each is not new]


@lru_cache(maxsize=1024)
def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def revision_of(replica_set: ReplicaSet) -> int:
    return _number(replica_set.metadata.annotations.get(REVISION, ""))


def next_revision(old: Sequence[ReplicaSet]) -> int:
    return max(map(revision_of, old), default=0) + 1


def size_annotations(deployment: Deployment) -> dict[str, str]:
    """What a set notes of the deployment's size whenever its own is set."""
    limits = limits_of(deployment)
    return {DESIRED: str(limits.replicas), MAX: str(limits.most)}


def new_set(deployment: Deployment, revision: int, replicas: int) -> ReplicaSet:
    """The ReplicaSet of the deployment's present template."""
    template = deployment.spec.template
    word = template_hash(template, deployment.status.collision_count or 0)
    labels = {**template.metadata.labels, HASH_LABEL: word}
    selector = deployment.spec.selector
    matched = LabelSelector(
        match_labels={**selector.match_labels, HASH_LABEL: word}, match_expressions=selector.match_expressions
    )
    meta = ObjectMeta(
        name=f"{deployment.metadata.name}-{word}",
        namespace=deployment.metadata.namespace,
        labels=labels,
        annotations={**_inherited(deployment), REVISION: str(revision), **size_annotations(deployment)},
        owner_references=(controller_reference(deployment),),
    )
    spec = ReplicaSetSpec(
        replicas=replicas,
        min_ready_seconds=deployment.spec.min_ready_seconds,
        selector=matched,
        template=replace(template, metadata=replace(template.metadata, labels=labels)),
    )
    return ReplicaSet(metadata=meta, spec=spec)


def _inherited(deployment: Deployment) -> dict[str, str]:
    return {key: value for key, value in deployment.metadata.annotations.items() if key not in OWN_ANNOTATIONS}


def revised(deployment: Deployment, new: ReplicaSet, revision: int) -> ReplicaSet:
    """The new set with the annotations, revision and ``minReadySeconds`` that the deployment gives it now."""
    annotations = {**new.metadata.annotations, **_inherited(deployment)}
    before = new.metadata.annotations.get(REVISION, "")
    if _number(before) < revision:
        annotations[REVISION] = str(revision)
        if before:
            annotations[HISTORY] = _history(new.metadata.annotations.get(HISTORY, ""), before)
    spec = new.spec
    if (spec.min_ready_seconds or 0) != (deployment.spec.min_ready_seconds or 0):
        spec = replace(spec, min_ready_seconds=deployment.spec.min_ready_seconds)
    return replace(new, metadata=replace(new.metadata, annotations=annotations), spec=spec)


def _history(history: str, revision: str) -> str:
    revisions = [*filter(None, history.split(",")), revision]
    while len(",".join(revisions)) > HISTORY_LIMIT_CHARACTERS:
        revisions.pop(0)
    return ",".join(revisions)


def forgettable(deployment: Deployment, old: Sequence[ReplicaSet]) -> list[ReplicaSet]:
    """The old sets beyond ``revisionHistoryLimit``, the oldest revisions first; only ones that are empty and at rest."""
    limit = deployment.spec.revision_history_limit
    if limit is None or limit == NO_LIMIT:
        return []
    alive = [each for each in old if each.metadata.deletion_timestamp is None]
    surplus = max(0, len(alive) - limit)
    ordered = sorted(by_age(alive), key=revision_of)
    return [each for each in ordered[:surplus] if _at_rest(each)]


def _at_rest(each: ReplicaSet) -> bool:
    status = each.status
    seen = status is not None and (status.observed_generation or 0) >= (each.metadata.generation or 0)
    return seen and status is not None and status.replicas == 0 and size(each) == 0
