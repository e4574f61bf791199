"""ResourceQuotas.

Source: pkg/registry/core/resourcequota/strategy.go; ValidateResourceQuota.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields
from kaa.api.fields import FieldError
from kaa.api.types.core_v1 import ResourceQuota, ResourceQuotaSpec, ResourceQuotaStatus

from ...validation.common import SPEC, STATUS, amount
from ...validation.resources import quota_resource_name
from ..strategy import Strategy
from ..tables import age, shape

_SCOPES = frozenset(
    [
        "BestEffort",
        "CrossNamespacePodAffinity",
        "NotBestEffort",
        "NotTerminating",
        "PriorityClass",
        "Terminating",
        "VolumeAttributesClass",
    ]
)
_COMPUTE = frozenset(
    [
        "cpu",
        "memory",
        "requests.cpu",
        "requests.memory",
        "limits.cpu",
        "limits.memory",
        "pods",
        "ephemeral-storage",
        "requests.ephemeral-storage",
        "limits.ephemeral-storage",
    ]
)
_CONFLICTS = (("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating"))


def _cells(obj: ResourceQuota, now: float) -> Sequence[Any]:
    requests: list[str] = []
    limits: list[str] = []
    for name in sorted(obj.status.hard):
        text = f"{name}: {obj.status.used.get(name, '0')}/{obj.status.hard[name]}"
        (limits if name.startswith("limits") else requests).append(text)
    return obj.metadata.name, ", ".join(requests), ", ".join(limits), age(obj.metadata, now)


class ResourceQuotaStrategy(Strategy[ResourceQuota]):
    kind = ResourceQuota
    table = shape("core/resourcequotas", "Request|Limit|Age", _cells)

    def prepare_create(self, obj: ResourceQuota) -> ResourceQuota:
        return replace(obj, status=ResourceQuotaStatus())

    def validate(self, obj: ResourceQuota) -> list[FieldError]:
        return list(_faults(obj.spec))

    def validate_update(self, new: ResourceQuota, old: ResourceQuota) -> list[FieldError]:
        found = list(_faults(new.spec))
        if sorted(new.spec.scopes) != sorted(old.spec.scopes):
            found.append(fields.invalid(SPEC.child("scopes"), list(new.spec.scopes), "field is immutable"))
        return found

    def validate_status_update(self, new: ResourceQuota, old: ResourceQuota) -> list[FieldError]:
        found: list[FieldError] = []
        for wire, listed in (("hard", new.status.hard), ("used", new.status.used)):
            found += _amounts(listed, STATUS.child(wire))
        return found


def _amounts(listed: Mapping[str, Any], path: Any) -> Iterator[FieldError]:
    for name in sorted(listed, reverse=True):
        at = path.key(name)
        yield from quota_resource_name(at, name)
        yield from amount(at, name, listed[name])


def _faults(spec: ResourceQuotaSpec) -> Iterator[FieldError]:
    yield from _amounts(spec.hard, SPEC.child("hard"))
    if spec.scopes:
        at = SPEC.child("scopes")
        for scope in spec.scopes:
            if scope not in _SCOPES:
                yield fields.invalid(at, list(spec.scopes), "unsupported scope")
            elif any(name not in _COMPUTE and name != "pods" for name in spec.hard if scope != "VolumeAttributesClass"):
                yield fields.invalid(at, list(spec.scopes), "unsupported scope applied to resource")
        for pair in _CONFLICTS:
            if set(pair) <= set(spec.scopes):
                yield fields.invalid(at, list(spec.scopes), "conflicting scopes")
    if spec.scope_selector is not None:
        yield from _scope_selector(spec)


def _scope_selector(spec: ResourceQuotaSpec) -> Iterator[FieldError]:
    assert spec.scope_selector is not None
    for n, term in enumerate(spec.scope_selector.match_expressions):
        at = SPEC.child("scopeSelector", "matchExpressions").index(n)
        if term.scope_name not in _SCOPES:
            yield fields.invalid(at.child("scopeName"), term.scope_name, "unsupported scope")
        if term.operator not in ("In", "NotIn", "Exists", "DoesNotExist"):
            yield fields.invalid(at.child("operator"), term.operator, "not a valid selector operator")
        elif term.operator in ("In", "NotIn"):
            if not term.values:
                detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"
                yield fields.required(at.child("values"), detail)
        elif term.values:
            detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"
            yield fields.invalid(at.child("values"), list(term.values), detail)


STRATEGY = ResourceQuotaStrategy()
