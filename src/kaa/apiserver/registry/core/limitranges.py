"""LimitRanges.

Source: pkg/registry/core/limitrange/strategy.go; ValidateLimitRange.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec.structs import replace

from kaa.api import fields, names, quantity
from kaa.api.fields import FieldError, Path
from kaa.api.types.core_v1 import LimitRange, LimitRangeItem
from kaa.api.values import Quantity

from ...validation.common import SPEC, faults_of
from ...validation.resources import resource_name
from ..strategy import Strategy
from ..tables import created


class LimitRangeStrategy(Strategy[LimitRange]):
    kind = LimitRange
    allows_create_on_update = True
    table = created("core/limitranges")

    def default(self, obj: LimitRange) -> LimitRange:
        limits = tuple(_default(item) for item in obj.spec.limits)
        return obj if limits == obj.spec.limits else replace(obj, spec=replace(obj.spec, limits=limits))

    def validate(self, obj: LimitRange) -> list[FieldError]:
        return list(_faults(obj))


def _default(item: LimitRangeItem) -> LimitRangeItem:
    """A container's default limit is the most, its default request that limit, else the least."""
    if item.type != "Container":
        return item
    limits = {**item.max, **item.default}
    requests = {**item.min, **limits, **item.default_request}
    return replace(item, default=limits, default_request=requests)


def _faults(obj: LimitRange) -> Iterator[FieldError]:
    seen: set[str] = set()
    for n, item in enumerate(obj.spec.limits):
        at = SPEC.child("limits").index(n)
        yield from faults_of(at.child("type"), item.type, names.qualified_name(item.type))
        if item.type in seen:
            yield fields.duplicate(at.child("type"), item.type)
        seen.add(item.type)
        yield from _item(item, at)


def _item(item: LimitRangeItem, path: Path) -> Iterator[FieldError]:
    listed = {*item.max, *item.min, *item.default, *item.default_request, *item.max_limit_request_ratio}
    if item.type == "Pod":
        for wire, given in (("default", item.default), ("defaultRequest", item.default_request)):
            if given:
                yield fields.forbidden(path.child(wire), "may not be specified when `type` is 'Pod'")
    if item.type == "PersistentVolumeClaim" and "storage" not in item.min and "storage" not in item.max:
        yield fields.required(path, "either minimum or maximum storage value is required, but neither was provided")
    for wire, given in (
        ("max", item.max),
        ("min", item.min),
        ("default", item.default),
        ("defaultRequest", item.default_request),
    ):
        for name in sorted(given):
            yield from resource_name(path.child(wire).key(name), name)
    for name in sorted(listed):
        yield from _ordered(item, name, path)


def _ordered(item: LimitRangeItem, name: str, path: Path) -> Iterator[FieldError]:
    """least <= default request <= default <= most."""
    least, most = item.min.get(name), item.max.get(name)
    request, limit = item.default_request.get(name), item.default.get(name)

    def above(a: Quantity | None, b: Quantity | None) -> bool:
        return a is not None and b is not None and quantity.parse(a) > quantity.parse(b)

    if above(least, most):
        yield fields.invalid(path.child("min").key(name), least, f"min value {least} is greater than max value {most}")
    if above(least, request):
        detail = f"min value {least} is greater than default request value {request}"
        yield fields.invalid(path.child("defaultRequest").key(name), request, detail)
    if above(request, most):
        detail = f"default request value {request} is greater than max value {most}"
        yield fields.invalid(path.child("defaultRequest").key(name), request, detail)
    if above(request, limit):
        detail = f"default request value {request} is greater than default limit value {limit}"
        yield fields.invalid(path.child("defaultRequest").key(name), request, detail)
    if above(least, limit):
        detail = f"min value {least} is greater than default value {limit}"
        yield fields.invalid(path.child("default").key(name), least, detail)
    if above(limit, most):
        detail = f"default value {limit} is greater than max value {most}"
        yield fields.invalid(path.child("default").key(name), limit, detail)
    yield from _ratio(item.max_limit_request_ratio, name, path)


def _ratio(ratios: Mapping[str, Quantity], name: str, path: Path) -> Iterator[FieldError]:
    ratio = ratios.get(name)
    if ratio is not None and quantity.parse(ratio) < 1:
        detail = f"ratio {ratio} is less than 1"
        yield fields.invalid(path.child("maxLimitRequestRatio").key(name), ratio, detail)


STRATEGY = LimitRangeStrategy()
