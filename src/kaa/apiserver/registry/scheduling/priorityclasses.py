"""PriorityClasses.

Source: pkg/registry/scheduling/priorityclass/strategy.go; ValidatePriorityClass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields
from kaa.api.fields import FieldError, Path
from kaa.api.types.scheduling_v1 import PriorityClass

from ...validation.common import METADATA, ROOT, one_of
from ..strategy import Strategy
from ..tables import age, shape

#: {name: value} of the classes that upstream reserves.
SYSTEM_CLASSES = {"system-node-critical": 2000001000, "system-cluster-critical": 2000000000}
_HIGHEST_FOR_USERS = 1_000_000_000
_RESERVED = "priority class names with 'system-' prefix are reserved for system use only. error: "


def _cells(obj: PriorityClass, now: float) -> Sequence[Any]:
    policy = obj.preemption_policy or "PreemptLowerPriority"
    return obj.metadata.name, obj.value or 0, bool(obj.global_default), age(obj.metadata, now), policy


class PriorityClassStrategy(Strategy[PriorityClass]):
    kind = PriorityClass
    counts_generation = True
    table = shape("scheduling/priorityclasses", "Value:integer|Global-Default:boolean|Age|PreemptionPolicy", _cells)

    def default(self, obj: PriorityClass) -> PriorityClass:
        return obj if obj.preemption_policy else replace(obj, preemption_policy="PreemptLowerPriority")

    def validate(self, obj: PriorityClass) -> list[FieldError]:
        name, value = obj.metadata.name or "", obj.value or 0
        found: list[FieldError] = []
        if name.startswith("system-"):
            why = _system_fault(obj)
            if why:
                found.append(fields.forbidden(METADATA.child("name"), _RESERVED + why))
        elif value > _HIGHEST_FOR_USERS:
            detail = f"maximum allowed value of a user defined priority is {_HIGHEST_FOR_USERS}"
            found.append(fields.forbidden(Path("value"), detail))
        choices = ("Never", "PreemptLowerPriority")
        return [*found, *one_of(ROOT, "preemptionPolicy", obj.preemption_policy, choices)]

    def validate_update(self, new: PriorityClass, old: PriorityClass) -> list[FieldError]:
        found: list[FieldError] = []
        if (new.value or 0) != (old.value or 0):
            found.append(fields.forbidden(Path("value"), "may not be changed in an update."))
        if new.preemption_policy != old.preemption_policy:
            found.append(fields.invalid(Path("preemptionPolicy"), new.preemption_policy, "field is immutable"))
        return found


def _system_fault(obj: PriorityClass) -> str:
    name = obj.metadata.name or ""
    value = SYSTEM_CLASSES.get(name)
    if value is None:
        return f"{name} is not a known system priority class"
    if (obj.value or 0) != value:
        return f"value of {name} PriorityClass must be {value}"
    return f"globalDefault of {name} PriorityClass must be false" if obj.global_default else ""


STRATEGY = PriorityClassStrategy()
