"""ValidatingAdmissionPolicies.

Source: pkg/registry/admissionregistration/validatingadmissionpolicy; ValidateValidatingAdmissionPolicy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from kaa.api import fields, names
from kaa.api.fields import FieldError, Path
from kaa.api.types.admissionregistration_v1 import (
    ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicySpec,
    ValidatingAdmissionPolicyStatus,
    Validation,
)

from ...validation.common import SPEC, faults_of
from ..strategy import Strategy
from ..tables import age, shape
from . import common

if TYPE_CHECKING:
    from ...policies.checking import Check

_REASONS = ("Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized")


def _cells(obj: ValidatingAdmissionPolicy, now: float) -> Sequence[Any]:
    kind = common.param_kind_cell(obj.spec.param_kind)
    return obj.metadata.name, len(obj.spec.validations), kind, age(obj.metadata, now)


class ValidatingAdmissionPolicyStrategy(Strategy[ValidatingAdmissionPolicy]):
    kind = ValidatingAdmissionPolicy
    allows_unconditional_update = False
    counts_generation = True
    table = shape("admissionregistration/validatingadmissionpolicies", "Validations:integer|ParamKind|Age", _cells)

    def default(self, obj: ValidatingAdmissionPolicy) -> ValidatingAdmissionPolicy:
        spec = obj.spec
        made = replace(
            spec,
            failure_policy=spec.failure_policy or "Fail",
            match_constraints=common.default_match(spec.match_constraints),
        )
        return replace(obj, spec=made)

    def prepare_create(self, obj: ValidatingAdmissionPolicy) -> ValidatingAdmissionPolicy:
        return replace(obj, status=ValidatingAdmissionPolicyStatus())

    def validate(self, obj: ValidatingAdmissionPolicy) -> list[FieldError]:
        return list(_faults(obj.spec))


def _faults(spec: ValidatingAdmissionPolicySpec) -> Iterator[FieldError]:
    from ...policies.checking import Check  # CEL is for clusters that use it

    check = Check(params=spec.param_kind is not None, variables=spec.variables)
    if spec.failure_policy not in common.FAILURE_POLICIES:
        at = SPEC.child("failurePolicy")
        if spec.failure_policy:
            yield fields.not_supported(at, spec.failure_policy, common.FAILURE_POLICIES)
        else:
            yield fields.required(at)
    if spec.param_kind is not None:
        yield from common.param_kind_faults(spec.param_kind, SPEC.child("paramKind"))
    yield from common.constraints_faults(spec.match_constraints, SPEC.child("matchConstraints"))
    yield from common.conditions_faults(spec.match_conditions, SPEC.child("matchConditions"), check.condition)
    if not spec.validations and not spec.audit_annotations:
        detail = "validations or auditAnnotations must contain at least one item"
        yield fields.required(SPEC.child("validations"), detail)
        yield fields.required(SPEC.child("auditAnnotations"), detail)
    yield from common.variables_faults(spec.variables, SPEC.child("variables"), check.variable)
    for n, rule in enumerate(spec.validations):
        yield from _validation(rule, SPEC.child("validations").index(n), check)
    seen: set[str] = set()
    for n, note in enumerate(spec.audit_annotations):
        at = SPEC.child("auditAnnotations").index(n)
        yield from faults_of(at.child("key"), note.key, names.qualified_name(note.key))
        yield from common.expression_faults(
            at.child("valueExpression"), note.value_expression, check.note, "valueExpression is not specified"
        )
        if note.key in seen:
            yield fields.duplicate(at.child("key"), note.key)
        seen.add(note.key)


def _validation(rule: Validation, at: Path, check: Check) -> Iterator[FieldError]:
    expression = at.child("expression")
    yield from common.expression_faults(expression, rule.expression, check.condition, "expression is not specified")
    if rule.message_expression is not None:
        place = at.child("messageExpression")
        if not rule.message_expression.strip():
            yield fields.invalid(place, rule.message_expression, "must be non-empty if specified")
        else:
            yield from common.expression_faults(place, rule.message_expression, check.message)
    if rule.message is not None and not rule.message.strip():
        yield fields.invalid(at.child("message"), rule.message, "message must be non-empty if specified")
    elif "\n" in (rule.message or "").strip():
        yield fields.invalid(at.child("message"), rule.message, "message must not contain line breaks")
    if rule.message is None and "\n" in rule.expression.strip():
        yield fields.required(at.child("message"), "message must be specified if expression contains line breaks")
    if rule.reason is not None and rule.reason not in _REASONS:
        yield fields.not_supported(at.child("reason"), rule.reason, _REASONS)


STRATEGY = ValidatingAdmissionPolicyStrategy()
