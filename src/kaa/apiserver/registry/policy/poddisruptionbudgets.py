"""PodDisruptionBudgets.

Source: pkg/registry/policy/poddisruptionbudget/strategy.go; ValidatePodDisruptionBudgetSpec.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields
from kaa.api.fields import FieldError
from kaa.api.types.policy_v1 import PodDisruptionBudget, PodDisruptionBudgetStatus

from ...validation.common import SPEC, STATUS, at_most_all, int_or_percent
from ...validation.internal import raw
from ...validation.selectors import label_selector
from ..apps.workload import counts_not_negative
from ..strategy import Strategy
from ..tables import age, shape

_NONE_YET = PodDisruptionBudgetStatus(current_healthy=0, desired_healthy=0, disruptions_allowed=0, expected_pods=0)


def _cells(obj: PodDisruptionBudget, now: float) -> Sequence[Any]:
    least = "N/A" if obj.spec.min_available is None else str(obj.spec.min_available)
    most = "N/A" if obj.spec.max_unavailable is None else str(obj.spec.max_unavailable)
    return obj.metadata.name, least, most, obj.status.disruptions_allowed or 0, age(obj.metadata, now)


class PodDisruptionBudgetStrategy(Strategy[PodDisruptionBudget]):
    kind = PodDisruptionBudget
    allows_unconditional_update = False
    counts_generation = True
    table = shape(
        "policy/poddisruptionbudgets", "Min Available|Max Unavailable|Allowed Disruptions:integer|Age", _cells
    )

    def prepare_create(self, obj: PodDisruptionBudget) -> PodDisruptionBudget:
        return replace(obj, status=_NONE_YET)

    def validate(self, obj: PodDisruptionBudget) -> list[FieldError]:
        return list(_faults(obj))

    def validate_status_update(self, new: PodDisruptionBudget, old: PodDisruptionBudget) -> list[FieldError]:
        status = new.status
        return list(
            counts_not_negative(
                STATUS,
                disruptionsAllowed=status.disruptions_allowed,
                currentHealthy=status.current_healthy,
                desiredHealthy=status.desired_healthy,
                expectedPods=status.expected_pods,
            )
        )


def _faults(obj: PodDisruptionBudget) -> Iterator[FieldError]:
    spec = obj.spec
    if spec.min_available is not None and spec.max_unavailable is not None:
        yield fields.invalid(SPEC, raw(spec), "minAvailable and maxUnavailable cannot be both set")
    for wire, value in (("minAvailable", spec.min_available), ("maxUnavailable", spec.max_unavailable)):
        if value is not None:
            yield from int_or_percent(SPEC.child(wire), value)
            yield from at_most_all(SPEC.child(wire), value)
    yield from label_selector(spec.selector, SPEC.child("selector"))
    policy = spec.unhealthy_pod_eviction_policy
    if policy is not None and policy not in ("AlwaysAllow", "IfHealthyBudget"):
        choices = ("AlwaysAllow", "IfHealthyBudget")
        yield fields.not_supported(SPEC.child("unhealthyPodEvictionPolicy"), policy, choices)


STRATEGY = PodDisruptionBudgetStrategy()
