"""MutatingAdmissionPolicyBindings.

Source: pkg/registry/admissionregistration; ValidateMutatingAdmissionPolicyBinding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import names
from kaa.api.fields import FieldError
from kaa.api.types.admissionregistration_v1 import MutatingAdmissionPolicyBinding

from ...validation.common import SPEC, named
from ..strategy import Strategy
from ..tables import age, shape
from . import common


def _cells(obj: MutatingAdmissionPolicyBinding, now: float) -> Sequence[Any]:
    ref = common.param_ref_cell(obj.spec.param_ref)
    return obj.metadata.name, obj.spec.policy_name or "", ref, age(obj.metadata, now)


class MutatingAdmissionPolicyBindingStrategy(Strategy[MutatingAdmissionPolicyBinding]):
    kind = MutatingAdmissionPolicyBinding
    allows_unconditional_update = False
    counts_generation = True
    table = shape("admissionregistration/mutatingadmissionpolicybindings", "PolicyName|ParamRef|Age", _cells)

    def default(self, obj: MutatingAdmissionPolicyBinding) -> MutatingAdmissionPolicyBinding:
        match = common.default_match(obj.spec.match_resources)
        if match is obj.spec.match_resources:
            return obj
        return replace(obj, spec=replace(obj.spec, match_resources=match))

    def validate(self, obj: MutatingAdmissionPolicyBinding) -> list[FieldError]:
        return list(_faults(obj))


def _faults(obj: MutatingAdmissionPolicyBinding) -> Iterator[FieldError]:
    spec = obj.spec
    yield from named(SPEC, "policyName", spec.policy_name, names.dns_subdomain)
    if spec.param_ref is not None:
        yield from common.param_ref_faults(spec.param_ref, SPEC.child("paramRef"))
    if spec.match_resources is not None:
        yield from common.match_faults(spec.match_resources, SPEC.child("matchResources"))


STRATEGY = MutatingAdmissionPolicyBindingStrategy()
