"""ValidatingAdmissionPolicies.

Whether an expression compiles is asked of ``compile_expression``, which the server sets once it has a CEL compiler.

Source: pkg/registry/admissionregistration/validatingadmissionpolicy; ValidateValidatingAdmissionPolicy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields, names
from kaa.api.fields import FieldError
from kaa.api.types.admissionregistration_v1 import (
    ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicySpec,
    ValidatingAdmissionPolicyStatus,
)

from ...validation.common import SPEC, faults_of
from ..strategy import Strategy
from ..tables import age, shape
from . import common

_REASONS = ("Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized")


def _cells(obj: ValidatingAdmissionPolicy, now: float) -> Sequence[Any]:
    kind = common.param_kind_cell(obj.spec.param_kind)
    return obj.metadata.name, len(obj.spec.validations), kind, age(obj.metadata, now)


class ValidatingAdmissionPolicyStrategy(Strategy[ValidatingAdmissionPolicy]):
    kind = ValidatingAdmissionPolicy
    counts_generation = True
    table = shape("admissionregistration/validatingadmissionpolicies", "Validations:integer|ParamKind|Age", _cells)

    def __init__(self, compile_expression: common.Compile | None = None) -> None:
        self.compile_expression = compile_expression

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
        return list(self._faults(obj.spec))

    def _faults(self, spec: ValidatingAdmissionPolicySpec) -> Iterator[FieldError]:
        if spec.failure_policy not in common.FAILURE_POLICIES:
            at = SPEC.child("failurePolicy")
            if spec.failure_policy:
                yield fields.not_supported(at, spec.failure_policy, common.FAILURE_POLICIES)
            else:
                yield fields.required(at)
        if spec.param_kind is not None:
            yield from common.param_kind_faults(spec.param_kind, SPEC.child("paramKind"))
        yield from common.constraints_faults(spec.match_constraints, SPEC.child("matchConstraints"))
        yield from common.conditions_faults(spec.match_conditions, SPEC.child("matchConditions"))
        if not spec.validations and not spec.audit_annotations:
            detail = "validations or auditAnnotations must contain at least one item"
            yield fields.required(SPEC.child("validations"), detail)
            yield fields.required(SPEC.child("auditAnnotations"), detail)
        for n, variable in enumerate(spec.variables):
            at = SPEC.child("variables").index(n)
            if not variable.name:
                yield fields.required(at.child("name"), "name is not specified")
            yield from self._expression(at.child("expression"), variable.expression, "expression is not specified")
        for n, rule in enumerate(spec.validations):
            at = SPEC.child("validations").index(n)
            yield from self._expression(at.child("expression"), rule.expression, "expression is not specified")
            if rule.reason is not None and rule.reason not in _REASONS:
                yield fields.not_supported(at.child("reason"), rule.reason, _REASONS)
            if rule.message is not None and not rule.message.strip():
                detail = "message must be non-empty if specified"
                yield fields.invalid(at.child("message"), rule.message, detail)
            if rule.message is None and "\n" in rule.expression:
                detail = "message must be specified if expression contains line breaks"
                yield fields.required(at.child("message"), detail)
        for n, note in enumerate(spec.audit_annotations):
            at = SPEC.child("auditAnnotations").index(n)
            yield from faults_of(at.child("key"), note.key, names.qualified_name(note.key))
            yield from self._expression(
                at.child("valueExpression"), note.value_expression, "valueExpression is not specified"
            )

    def _expression(self, path: Any, text: str, absent: str) -> Iterator[FieldError]:
        if not text.strip():
            yield fields.required(path, absent)
        elif self.compile_expression is not None:
            why = self.compile_expression(text)
            if why:
                yield fields.invalid(path, text, f"compilation failed: {why}")


STRATEGY = ValidatingAdmissionPolicyStrategy()
