"""ValidatingAdmissionPolicyBindings.

Source: pkg/registry/admissionregistration; ValidateValidatingAdmissionPolicyBinding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields, names
from kaa.api.fields import FieldError
from kaa.api.types.admissionregistration_v1 import ValidatingAdmissionPolicyBinding

from ...validation.common import SPEC, named
from ..strategy import Strategy
from ..tables import age, shape
from . import common

_ACTIONS = ("Audit", "Deny", "Warn")


def _cells(obj: ValidatingAdmissionPolicyBinding, now: float) -> Sequence[Any]:
    ref = common.param_ref_cell(obj.spec.param_ref)
    return obj.metadata.name, obj.spec.policy_name or "", ref, age(obj.metadata, now)


class ValidatingAdmissionPolicyBindingStrategy(Strategy[ValidatingAdmissionPolicyBinding]):
    kind = ValidatingAdmissionPolicyBinding
    allows_unconditional_update = False
    counts_generation = True
    table = shape("admissionregistration/validatingadmissionpolicybindings", "PolicyName|ParamRef|Age", _cells)

    def default(self, obj: ValidatingAdmissionPolicyBinding) -> ValidatingAdmissionPolicyBinding:
        match = common.default_match(obj.spec.match_resources)
        if match is obj.spec.match_resources:
            return obj
        return replace(obj, spec=replace(obj.spec, match_resources=match))

    def validate(self, obj: ValidatingAdmissionPolicyBinding) -> list[FieldError]:
        return list(_faults(obj))


def _faults(obj: ValidatingAdmissionPolicyBinding) -> Iterator[FieldError]:
    spec = obj.spec
    yield from named(SPEC, "policyName", spec.policy_name, names.dns_subdomain)
    if spec.param_ref is not None:
        yield from common.param_ref_faults(spec.param_ref, SPEC.child("paramRef"))
    if spec.match_resources is not None:
        yield from common.match_faults(spec.match_resources, SPEC.child("matchResources"))
    at = SPEC.child("validationActions")
    if not spec.validation_actions:
        yield fields.required(at, "must specify at least one validation action")
    for n, action in enumerate(spec.validation_actions):
        if action not in _ACTIONS:
            yield fields.not_supported(at.index(n), action, _ACTIONS)
        if action in spec.validation_actions[:n]:
            yield fields.duplicate(at.index(n), action)
    if {"Deny", "Warn"} <= set(spec.validation_actions):
        yield fields.invalid(
            at,
            list(spec.validation_actions),
            "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)",
        )


STRATEGY = ValidatingAdmissionPolicyBindingStrategy()
