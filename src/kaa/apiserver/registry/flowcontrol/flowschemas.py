"""FlowSchemas.

Source: pkg/registry/flowcontrol/flowschema/strategy.go; ValidateFlowSchema.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields, names
from kaa.api.fields import FieldError, Path
from kaa.api.types.flowcontrol_v1 import FlowSchema, FlowSchemaStatus, PolicyRulesWithSubjects

from ...validation.common import SPEC, faults_of
from ..strategy import Strategy
from ..tables import NONE, age, shape

_MOST = 10000
_METHODS = ("ByNamespace", "ByUser")
_SUBJECTS = ("Group", "ServiceAccount", "User")


def _cells(obj: FlowSchema, now: float) -> Sequence[Any]:
    spec = obj.spec
    method = spec.distinguisher_method.type if spec.distinguisher_method is not None else NONE
    dangling = next((c.status for c in obj.status.conditions if c.type == "Dangling"), "?")
    return (
        obj.metadata.name,
        spec.priority_level_configuration.name,
        spec.matching_precedence or 0,
        method,
        age(obj.metadata, now),
        dangling,
    )


class FlowSchemaStrategy(Strategy[FlowSchema]):
    kind = FlowSchema
    counts_generation = True
    table = shape(
        "flowcontrol/flowschemas", "PriorityLevel|MatchingPrecedence|DistinguisherMethod|Age|MissingPL", _cells
    )

    def default(self, obj: FlowSchema) -> FlowSchema:
        if obj.spec.matching_precedence:
            return obj
        return replace(obj, spec=replace(obj.spec, matching_precedence=1000))

    def prepare_create(self, obj: FlowSchema) -> FlowSchema:
        return replace(obj, status=FlowSchemaStatus())

    def validate(self, obj: FlowSchema) -> list[FieldError]:
        return list(_faults(obj))


def _faults(obj: FlowSchema) -> Iterator[FieldError]:
    spec = obj.spec
    precedence = spec.matching_precedence or 0
    if precedence <= 0:
        yield fields.invalid(SPEC.child("matchingPrecedence"), precedence, "must be a positive value")
    elif precedence > _MOST:
        yield fields.invalid(SPEC.child("matchingPrecedence"), precedence, f"must not be greater than {_MOST}")
    elif precedence == 1 and obj.metadata.name != "exempt":
        detail = "only the schema named 'exempt' may have matchingPrecedence 1"
        yield fields.invalid(SPEC.child("matchingPrecedence"), precedence, detail)
    if spec.distinguisher_method is not None and spec.distinguisher_method.type not in _METHODS:
        at = SPEC.child("distinguisherMethod", "type")
        yield fields.not_supported(at, spec.distinguisher_method.type, _METHODS)
    at = SPEC.child("priorityLevelConfiguration").child("name")
    level = spec.priority_level_configuration.name
    if level:
        yield from faults_of(at, level, names.dns_subdomain(level))
    else:
        yield fields.required(at, "must reference a priority level")
    for n, rule in enumerate(spec.rules):
        yield from _rule(rule, SPEC.child("rules").index(n))


def _rule(rule: PolicyRulesWithSubjects, path: Path) -> Iterator[FieldError]:
    if not rule.subjects:
        yield fields.required(path.child("subjects"), "subjects must contain at least one value")
    for n, subject in enumerate(rule.subjects):
        if subject.kind not in _SUBJECTS:
            yield fields.not_supported(path.child("subjects").index(n).child("kind"), subject.kind, _SUBJECTS)
    if not rule.resource_rules and not rule.non_resource_rules:
        yield fields.required(path, "at least one of resourceRules and nonResourceRules has to be non-empty")
    for n, resource in enumerate(rule.resource_rules):
        at = path.child("resourceRules").index(n)
        for wire, given in (
            ("verbs", resource.verbs),
            ("apiGroups", resource.api_groups),
            ("resources", resource.resources),
        ):
            if not given:
                words = {
                    "apiGroups": "resource rules must supply at least one api group",
                    "resources": "resource rules must supply at least one resource",
                }
                yield fields.required(at.child(wire), words.get(wire, "verbs must contain at least one value"))
        if not resource.namespaces and not resource.cluster_scope:
            detail = "resource rules that are not cluster scoped must supply at least one namespace"
            yield fields.required(at.child("namespaces"), detail)


STRATEGY = FlowSchemaStrategy()
