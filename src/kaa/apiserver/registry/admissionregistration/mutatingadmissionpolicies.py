"""MutatingAdmissionPolicies.

Source: pkg/registry/admissionregistration/mutatingadmissionpolicy; ValidateMutatingAdmissionPolicy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from kaa.api import fields
from kaa.api.fields import FieldError, Path
from kaa.api.types.admissionregistration_v1 import MutatingAdmissionPolicy, MutatingAdmissionPolicySpec, Mutation

from ...validation.common import SPEC
from ..strategy import Strategy
from ..tables import age, shape
from . import common

if TYPE_CHECKING:
    from ...policies.checking import Check


def _cells(obj: MutatingAdmissionPolicy, now: float) -> Sequence[Any]:
    kind = common.param_kind_cell(obj.spec.param_kind)
    return obj.metadata.name, len(obj.spec.mutations), kind, age(obj.metadata, now)


class MutatingAdmissionPolicyStrategy(Strategy[MutatingAdmissionPolicy]):
    kind = MutatingAdmissionPolicy
    allows_unconditional_update = False
    counts_generation = True
    table = shape("admissionregistration/mutatingadmissionpolicies", "Mutations:integer|ParamKind|Age", _cells)

    def default(self, obj: MutatingAdmissionPolicy) -> MutatingAdmissionPolicy:
        spec = obj.spec
        made = replace(
            spec,
            failure_policy=spec.failure_policy or "Fail",
            match_constraints=common.default_match(spec.match_constraints),
        )
        return replace(obj, spec=made)

    def validate(self, obj: MutatingAdmissionPolicy) -> list[FieldError]:
        return list(_faults(obj.spec))


def _faults(spec: MutatingAdmissionPolicySpec) -> Iterator[FieldError]:
    from ...policies.checking import Check  # CEL is for clusters that use it

    check = Check(params=spec.param_kind is not None, mutating=True, variables=spec.variables)
    if spec.failure_policy not in common.FAILURE_POLICIES:
        yield fields.not_supported(SPEC.child("failurePolicy"), spec.failure_policy, common.FAILURE_POLICIES)
    if spec.param_kind is not None:
        yield from common.param_kind_faults(spec.param_kind, SPEC.child("paramKind"))
    yield from common.constraints_faults(spec.match_constraints, SPEC.child("matchConstraints"))
    yield from common.conditions_faults(spec.match_conditions, SPEC.child("matchConditions"), check.condition)
    yield from common.variables_faults(spec.variables, SPEC.child("variables"), check.variable)
    if not spec.mutations:
        yield fields.required(SPEC.child("mutations"), "mutations must contain at least one item")
    for n, mutation in enumerate(spec.mutations):
        yield from _mutation(mutation, SPEC.child("mutations").index(n), check)
    if not spec.reinvocation_policy:
        yield fields.required(SPEC.child("reinvocationPolicy"))
    elif spec.reinvocation_policy not in ("IfNeeded", "Never"):
        choices = ("IfNeeded", "Never")
        yield fields.not_supported(SPEC.child("reinvocationPolicy"), spec.reinvocation_policy, choices)


def _mutation(mutation: Mutation, path: Path, check: Check) -> Iterator[FieldError]:
    match mutation.patch_type:
        case "ApplyConfiguration":
            if mutation.apply_configuration is None:
                yield fields.required(
                    path.child("applyConfiguration"), "must be specified when patchType is ApplyConfiguration"
                )
            else:
                at = path.child("applyConfiguration").child("expression")
                yield from common.expression_faults(
                    at, mutation.apply_configuration.expression, check.applied, "expression is not specified"
                )
        case "JSONPatch":
            if mutation.json_patch is None:
                yield fields.required(path.child("jsonPatch"), "must be specified when patchType is JSONPatch")
            else:
                at = path.child("jsonPatch").child("expression")
                yield from common.expression_faults(
                    at, mutation.json_patch.expression, check.patch, "expression is not specified"
                )
        case "":
            yield fields.required(path.child("patchType"))
        case other:
            yield fields.not_supported(path.child("patchType"), other, ("ApplyConfiguration", "JSONPatch"))


STRATEGY = MutatingAdmissionPolicyStrategy()
