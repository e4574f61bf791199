"""StatefulSets.

Source: pkg/registry/apps/statefulset/strategy.go; ValidateStatefulSet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields, names
from kaa.api.fields import FieldError
from kaa.api.types.apps_v1 import (
    RollingUpdateStatefulSetStrategy,
    StatefulSet,
    StatefulSetPersistentVolumeClaimRetentionPolicy,
    StatefulSetSpec,
    StatefulSetStatus,
    StatefulSetUpdateStrategy,
)
from kaa.api.types.core_v1 import (
    EmbeddedPersistentVolumeClaim,
    PersistentVolumeClaim,
    PersistentVolumeClaimStatus,
    PersistentVolumeClaimVolumeSource,
    PodTemplateSpec,
    Volume,
)

from ...validation import selectors
from ...validation.common import SPEC, STATUS, at_most_all, faults_of, int_or_percent, is_zero, not_negative
from ..core import pod_defaults
from ..strategy import Strategy
from ..tables import age, containers_and_images, shape
from .workload import counts_not_negative, template_faults

_NONE_YET = StatefulSetStatus(replicas=0, available_replicas=0)
_MAY_CHANGE = (
    "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy',"
    " 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
)


def _cells(obj: StatefulSet, now: float) -> Sequence[Any]:
    status = obj.status or _NONE_YET
    listed = containers_and_images(obj.spec.template.spec.containers)
    ready = f"{status.ready_replicas or 0}/{obj.spec.replicas or 0}"
    return obj.metadata.name, ready, age(obj.metadata, now), *listed


class StatefulSetStrategy(Strategy[StatefulSet]):
    kind = StatefulSet
    counts_generation = True
    table = shape("apps/statefulsets", "Ready|Age|Containers+|Images+", _cells)

    @staticmethod
    def name_faults(name: str, /) -> list[str]:
        return names.dns_subdomain(name)

    def default(self, obj: StatefulSet) -> StatefulSet:
        return replace(obj, spec=_default(obj.spec))

    def prepare_create(self, obj: StatefulSet) -> StatefulSet:
        return replace(obj, status=_NONE_YET)

    def prepare_update(self, new: StatefulSet, old: StatefulSet) -> StatefulSet:
        return replace(new, status=old.status)

    def validate(self, obj: StatefulSet) -> list[FieldError]:
        return list(_faults(obj.spec))

    def validate_update(self, new: StatefulSet, old: StatefulSet) -> list[FieldError]:
        found = list(_faults(new.spec))
        kept = replace(
            new.spec,
            replicas=old.spec.replicas,
            ordinals=old.spec.ordinals,
            template=old.spec.template,
            update_strategy=old.spec.update_strategy,
            revision_history_limit=old.spec.revision_history_limit,
            persistent_volume_claim_retention_policy=old.spec.persistent_volume_claim_retention_policy,
            min_ready_seconds=old.spec.min_ready_seconds,
        )
        before = tuple(_claim(claim) for claim in old.spec.volume_claim_templates)  # old stores name no kinds in them
        if kept != replace(old.spec, volume_claim_templates=before):
            found.append(fields.forbidden(SPEC, _MAY_CHANGE))
        return found

    def validate_status_update(self, new: StatefulSet, old: StatefulSet) -> list[FieldError]:
        status = new.status or _NONE_YET
        found = list(
            counts_not_negative(
                STATUS,
                replicas=status.replicas,
                readyReplicas=status.ready_replicas,
                currentReplicas=status.current_replicas,
                updatedReplicas=status.updated_replicas,
                observedGeneration=status.observed_generation,
                collisionCount=status.collision_count,
            )
        )
        for wire, value in (
            ("readyReplicas", status.ready_replicas),
            ("currentReplicas", status.current_replicas),
            ("updatedReplicas", status.updated_replicas),
            ("availableReplicas", status.available_replicas),
        ):
            if (value or 0) > status.replicas:
                found.append(fields.invalid(STATUS.child(wire), value, "cannot be greater than status.replicas"))
        return found


def _default(spec: StatefulSetSpec) -> StatefulSetSpec:
    changes: dict[str, Any] = {}
    if spec.replicas is None:
        changes["replicas"] = 1
    if spec.revision_history_limit is None:
        changes["revision_history_limit"] = 10
    if not spec.pod_management_policy:
        changes["pod_management_policy"] = "OrderedReady"
    kind = spec.update_strategy.type or "RollingUpdate"
    if kind == "RollingUpdate":
        rolling = spec.update_strategy.rolling_update or RollingUpdateStatefulSetStrategy()
        if rolling.partition is None:
            rolling = replace(rolling, partition=0)
        changes["update_strategy"] = StatefulSetUpdateStrategy(type=kind, rolling_update=rolling)
    keep = spec.persistent_volume_claim_retention_policy or StatefulSetPersistentVolumeClaimRetentionPolicy()
    changes["persistent_volume_claim_retention_policy"] = replace(
        keep, when_deleted=keep.when_deleted or "Retain", when_scaled=keep.when_scaled or "Retain"
    )
    changes["template"] = pod_defaults.template(spec.template)
    changes["volume_claim_templates"] = tuple(_claim(claim) for claim in spec.volume_claim_templates)
    return replace(spec, **changes)


def _claim(claim: EmbeddedPersistentVolumeClaim) -> EmbeddedPersistentVolumeClaim:
    status = claim.status if claim.status.phase else PersistentVolumeClaimStatus(phase="Pending")
    named = replace(claim, kind=claim.kind or PersistentVolumeClaim.KIND)
    named = replace(named, api_version=claim.api_version or PersistentVolumeClaim.API_VERSION)
    return replace(named, spec=pod_defaults.claim_spec(claim.spec), status=status)


def _faults(spec: StatefulSetSpec) -> Iterator[FieldError]:
    policy = spec.pod_management_policy
    if not policy:
        yield fields.required(SPEC.child("podManagementPolicy"))
    elif policy not in ("OrderedReady", "Parallel"):
        yield fields.invalid(SPEC.child("podManagementPolicy"), policy, "must be 'OrderedReady' or 'Parallel'")
    yield from _update_strategy(spec.update_strategy)
    keep = spec.persistent_volume_claim_retention_policy
    if keep is not None:
        at = SPEC.child("persistentVolumeClaimRetentionPolicy")
        for wire, value in (("whenDeleted", keep.when_deleted), ("whenScaled", keep.when_scaled)):
            if value not in ("Retain", "Delete"):
                yield fields.not_supported(at.child(wire), value, ("Retain", "Delete"))
    yield from not_negative(SPEC, "replicas", spec.replicas)
    yield from not_negative(SPEC, "minReadySeconds", spec.min_ready_seconds)
    if spec.ordinals is not None:
        yield from not_negative(SPEC.child("ordinals"), "start", spec.ordinals.start)
    if selectors.is_empty(spec.selector):
        yield fields.required(SPEC.child("selector"))
    else:
        yield from selectors.label_selector(spec.selector, SPEC.child("selector"))
    if spec.service_name:
        yield from faults_of(SPEC.child("serviceName"), spec.service_name, names.dns_subdomain(spec.service_name))
    yield from template_faults(_with_claims(spec), spec.selector)
    yield from not_negative(SPEC, "revisionHistoryLimit", spec.revision_history_limit)


def _update_strategy(strategy: StatefulSetUpdateStrategy) -> Iterator[FieldError]:
    at = SPEC.child("updateStrategy")
    match strategy.type:
        case None | "":
            yield fields.required(at)
        case "OnDelete":
            if strategy.rolling_update is not None:
                detail = "only allowed for updateStrategy 'RollingUpdate'"
                yield fields.invalid(at.child("rollingUpdate"), "", detail)
        case "RollingUpdate":
            rolling = strategy.rolling_update
            if rolling is not None:
                here = at.child("rollingUpdate")
                yield from not_negative(here, "partition", rolling.partition)
                if rolling.max_unavailable is not None:
                    where = here.child("maxUnavailable")
                    yield from int_or_percent(where, rolling.max_unavailable)
                    if is_zero(rolling.max_unavailable):
                        yield fields.invalid(where, rolling.max_unavailable, "cannot be 0")
                    yield from at_most_all(where, rolling.max_unavailable)
        case other:
            yield fields.invalid(at, other, "must be 'RollingUpdate' or 'OnDelete'")


STRATEGY = StatefulSetStrategy()


def _with_claims(spec: StatefulSetSpec) -> PodTemplateSpec:
    """The template with a volume for each claim template: its containers may mount those too."""
    pod = spec.template.spec
    known = {volume.name for volume in pod.volumes}
    names = [claim.metadata.name or "" for claim in spec.volume_claim_templates]
    claimed = tuple(
        Volume(name=name, persistent_volume_claim=PersistentVolumeClaimVolumeSource(claim_name=name))
        for name in names
        if name not in known
    )
    return replace(spec.template, spec=replace(pod, volumes=pod.volumes + claimed)) if claimed else spec.template
