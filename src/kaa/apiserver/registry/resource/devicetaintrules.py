"""DeviceTaintRules: taints that an administrator puts on devices from outside their drivers.

Source: pkg/registry/resource/devicetaintrule/strategy.go; ValidateDeviceTaintRule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields, names
from kaa.api.clock import format_time
from kaa.api.fields import FieldError, Path
from kaa.api.types.resource_v1alpha3 import DeviceTaint, DeviceTaintRule, DeviceTaintRuleStatus, DeviceTaintSelector

from ...validation.common import SPEC, STATUS, conditions, faults_of, one_of
from ...view import View
from ..strategy import Strategy
from ..tables import age, shape

_EFFECTS = ("NoExecute", "NoSchedule", "None")
_MOST_CONDITIONS = 8


def _cells(obj: DeviceTaintRule, now: float) -> Sequence[Any]:
    return obj.metadata.name, age(obj.metadata, now)


class DeviceTaintRuleStrategy(Strategy[DeviceTaintRule]):
    kind = DeviceTaintRule
    counts_generation = True
    table = shape("resource/devicetaintrules", "Age", _cells)

    def default(self, obj: DeviceTaintRule) -> DeviceTaintRule:
        return obj if obj.status is not None else replace(obj, status=DeviceTaintRuleStatus())

    def prepare_create(self, obj: DeviceTaintRule) -> DeviceTaintRule:
        return replace(obj, status=DeviceTaintRuleStatus())

    def allocate(self, new: DeviceTaintRule, old: DeviceTaintRule | None, view: View) -> DeviceTaintRule:
        """A taint without a time is of now; one whose effect alone has changed is, too."""
        taint, before = new.spec.taint, old.spec.taint if old is not None else None
        moved = before is not None and taint.effect != before.effect and taint.time_added == before.time_added
        if taint.time_added and not moved:
            return new
        taint = replace(taint, time_added=format_time(view.clock.now()))
        return replace(new, spec=replace(new.spec, taint=taint))

    def validate(self, obj: DeviceTaintRule) -> list[FieldError]:
        spec = obj.spec
        found = list(_selector_faults(spec.device_selector, SPEC.child("deviceSelector")))
        return [*found, *_taint_faults(spec.taint, SPEC.child("taint"))]

    def validate_status_update(self, new: DeviceTaintRule, old: DeviceTaintRule) -> list[FieldError]:
        given, at = (new.status or DeviceTaintRuleStatus()).conditions, STATUS.child("conditions")
        found = list(conditions(at, given))
        if len(given) > _MOST_CONDITIONS:
            found.append(fields.too_many(at, len(given), _MOST_CONDITIONS))
        return found


def _selector_faults(given: DeviceTaintSelector | None, at: Path) -> Iterator[FieldError]:
    if given is None:
        return
    if given.driver is not None:
        yield from faults_of(at.child("driver"), given.driver, names.dns_subdomain(given.driver))
    for part in (given.pool or "").split("/") if given.pool is not None else ():
        yield from faults_of(at.child("pool"), given.pool, names.dns_subdomain(part))
    if given.device is not None:
        yield from faults_of(at.child("device"), given.device, names.dns_label(given.device))


def _taint_faults(taint: DeviceTaint, at: Path) -> Iterator[FieldError]:
    yield from faults_of(at.child("key"), taint.key, names.qualified_name(taint.key))
    yield from faults_of(at.child("value"), taint.value, names.label_value(taint.value or ""))
    yield from one_of(at, "effect", taint.effect, _EFFECTS, needed=True)


STRATEGY = DeviceTaintRuleStrategy()
