"""HorizontalPodAutoscalers, both served versions; v2 is the stored one.

Source: pkg/registry/autoscaling/horizontalpodautoscaler/strategy.go; pkg/apis/autoscaling/validation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields, names, quantity
from kaa.api.fields import FieldError, Path
from kaa.api.types import autoscaling_v1 as v1
from kaa.api.types import autoscaling_v2 as v2

from ...validation.common import SPEC, faults_of
from .. import conversion
from ..strategy import Strategy
from ..tables import age, shape

_WINDOW_LIMIT_S = 3600
_PERIOD_LIMIT_S = 1800
_TYPES = ("ContainerResource", "External", "Object", "Pods", "Resource")
_DOWN = (v2.HPAScalingPolicy(type="Percent", value=100, period_seconds=15),)
_UP = (v2.HPAScalingPolicy(type="Pods", value=4, period_seconds=15), *_DOWN)
_COLUMNS = "Reference|Targets|MinPods|MaxPods|Replicas|Age"
_SHOWN_METRICS = 2


def _cells(obj: v2.HorizontalPodAutoscaler, now: float) -> Sequence[Any]:
    spec, status = obj.spec, obj.status
    least = "<unset>" if spec.min_replicas is None else str(spec.min_replicas)
    reference = f"{spec.scale_target_ref.kind}/{spec.scale_target_ref.name}"
    current = status.current_metrics or () if status is not None else ()
    replicas = (status.current_replicas or 0) if status is not None else 0
    return (
        obj.metadata.name,
        reference,
        _targets(spec.metrics, current),
        least,
        spec.max_replicas,
        replicas,
        age(obj.metadata, now),
    )


def _targets(specs: Sequence[v2.MetricSpec], statuses: Sequence[v2.MetricStatus]) -> str:
    if not specs:
        return "<none>"
    listed = [_target(spec, statuses[n] if n < len(statuses) else None) for n, spec in enumerate(specs)]
    text = ", ".join(listed[:_SHOWN_METRICS])
    more = len(listed) - _SHOWN_METRICS
    return f"{text} + {more} more..." if more > 0 else text


def _target(spec: v2.MetricSpec, status: v2.MetricStatus | None) -> str:
    """``cpu: 35%/80%``; what is not known yet is ``<unknown>``."""
    source: Any = spec.resource or spec.container_resource or spec.pods or spec.object or spec.external
    if source is None:
        return "<unknown type>"
    found: Any = None
    if status is not None:
        found = status.resource or status.container_resource or status.pods or status.object or status.external
    current = found.current if found is not None else None
    label = f"{source.name}: " if spec.resource or spec.container_resource else ""
    target = source.target
    if target.average_utilization is not None:
        percent = current.average_utilization if current is not None else None
        return f"{label}{'<unknown>' if percent is None else f'{percent}%'}/{target.average_utilization}%"
    average = " (avg)" if target.average_value is not None and not (spec.pods or label) else ""
    wanted = target.average_value if target.average_value is not None else target.value
    have = None
    if current is not None:
        have = current.average_value if target.average_value is not None else current.value
    return f"{label}{'<unknown>' if have is None else str(have)}/{wanted}{average}"


class AutoscalerStrategy(Strategy[v2.HorizontalPodAutoscaler]):
    kind = v2.HorizontalPodAutoscaler
    table = shape("autoscaling/horizontalpodautoscalers", _COLUMNS, _cells)

    def default(self, obj: v2.HorizontalPodAutoscaler) -> v2.HorizontalPodAutoscaler:
        changes: dict[str, Any] = {}
        if obj.spec.min_replicas is None:
            changes["min_replicas"] = 1
        if not obj.spec.metrics:
            changes["metrics"] = (conversion.cpu_metric(80),)
        if obj.spec.behavior is not None:
            changes["behavior"] = _default_behavior(obj.spec.behavior)
        return replace(obj, spec=replace(obj.spec, **changes)) if changes else obj

    def prepare_create(self, obj: v2.HorizontalPodAutoscaler) -> v2.HorizontalPodAutoscaler:
        return replace(obj, status=v2.HorizontalPodAutoscalerStatus(desired_replicas=0))

    def validate(self, obj: v2.HorizontalPodAutoscaler) -> list[FieldError]:
        return list(_faults(obj.spec))


class OldAutoscalerStrategy(Strategy[v1.HorizontalPodAutoscaler]):
    kind = v1.HorizontalPodAutoscaler
    table = shape(
        "autoscaling/horizontalpodautoscalers", _COLUMNS, lambda obj, now: _cells(conversion.hpa_to_v2(obj), now)
    )

    def default(self, obj: v1.HorizontalPodAutoscaler) -> v1.HorizontalPodAutoscaler:
        return obj if obj.spec.min_replicas is not None else replace(obj, spec=replace(obj.spec, min_replicas=1))

    def prepare_create(self, obj: v1.HorizontalPodAutoscaler) -> v1.HorizontalPodAutoscaler:
        return replace(obj, status=v1.HorizontalPodAutoscalerStatus(current_replicas=0, desired_replicas=0))

    def validate(self, obj: v1.HorizontalPodAutoscaler) -> list[FieldError]:
        return list(_faults(conversion.hpa_to_v2(obj).spec))


def _default_behavior(given: v2.HorizontalPodAutoscalerBehavior) -> v2.HorizontalPodAutoscalerBehavior:
    up = given.scale_up or v2.HPAScalingRules()
    down = given.scale_down or v2.HPAScalingRules()
    window = 0 if up.stabilization_window_seconds is None else up.stabilization_window_seconds
    up = replace(
        up, select_policy=up.select_policy or "Max", policies=up.policies or _UP, stabilization_window_seconds=window
    )
    down = replace(down, select_policy=down.select_policy or "Max", policies=down.policies or _DOWN)
    return replace(given, scale_up=up, scale_down=down)


def _faults(spec: v2.HorizontalPodAutoscalerSpec) -> Iterator[FieldError]:
    if spec.min_replicas is not None and spec.min_replicas < 1:
        detail = "must be greater than or equal to 1"
        yield fields.invalid(SPEC.child("minReplicas"), spec.min_replicas, detail)
    if spec.max_replicas < 1:
        yield fields.invalid(SPEC.child("maxReplicas"), spec.max_replicas, "must be greater than 0")
    if spec.min_replicas is not None and spec.max_replicas < spec.min_replicas:
        detail = "must be greater than or equal to `minReplicas`"
        yield fields.invalid(SPEC.child("maxReplicas"), spec.max_replicas, detail)
    yield from _reference(spec.scale_target_ref, SPEC.child("scaleTargetRef"))
    for n, metric in enumerate(spec.metrics):
        yield from _metric(metric, SPEC.child("metrics").index(n))
    if spec.behavior is not None:
        for wire, rules in (("scaleUp", spec.behavior.scale_up), ("scaleDown", spec.behavior.scale_down)):
            if rules is not None:
                yield from _rules(rules, SPEC.child("behavior", wire))


def _reference(ref: v2.CrossVersionObjectReference, path: Path) -> Iterator[FieldError]:
    for wire, text in (("kind", ref.kind), ("name", ref.name)):
        if not text:
            yield fields.required(path.child(wire))
        else:
            yield from faults_of(path.child(wire), text, names.path_segment(text))
    version = ref.api_version or ""
    group = version.partition("/")[0] if "/" in version else ""
    if version.count("/") > 1:
        yield fields.invalid(path.child("apiVersion"), version, f"unexpected GroupVersion string: {version}")
    elif not group and ref.kind and ref.kind != "ReplicationController":
        yield fields.invalid(path.child("apiVersion"), version, "apiVersion must specify API group")


def _metric(metric: v2.MetricSpec, path: Path) -> Iterator[FieldError]:
    given: dict[str, Any] = {
        "object": metric.object,
        "pods": metric.pods,
        "resource": metric.resource,
        "external": metric.external,
        "containerResource": metric.container_resource,
    }
    if metric.type not in _TYPES:
        if metric.type:
            yield fields.not_supported(path.child("type"), metric.type, _TYPES)
        else:
            yield fields.required(path.child("type"), "must specify a metric source type")
        return
    mine = metric.type[0].lower() + metric.type[1:]
    for wire, source in given.items():
        if source is None and wire == mine:
            yield fields.required(path.child(wire), "must populate information for the given metric source")
        elif source is not None and wire != mine:
            detail = "must populate the given metric source only"
            yield fields.forbidden(path.child(wire), detail)
    source = given[mine]
    if source is not None:
        yield from _target_faults(source.target, path.child(mine, "target"))
        if mine in ("resource", "containerResource") and not source.name:
            yield fields.required(path.child(mine, "name"), "must specify a resource name")


def _target_faults(target: v2.MetricTarget, path: Path) -> Iterator[FieldError]:
    if target.type not in ("Utilization", "Value", "AverageValue"):
        if target.type:
            detail = "must be either Utilization, Value, or AverageValue"
            yield fields.invalid(path.child("type"), target.type, detail)
        else:
            yield fields.required(path.child("type"), "must specify a metric target type")
    for wire, amount in (("value", target.value), ("averageValue", target.average_value)):
        if amount is not None and quantity.parse(amount) <= 0:
            yield fields.invalid(path.child(wire), amount, "must be positive")
    if target.average_utilization is not None and target.average_utilization < 1:
        yield fields.invalid(path.child("averageUtilization"), target.average_utilization, "must be greater than 0")


def _rules(rules: v2.HPAScalingRules, path: Path) -> Iterator[FieldError]:
    window = rules.stabilization_window_seconds
    if window is not None and window < 0:
        yield fields.invalid(path.child("stabilizationWindowSeconds"), window, "must be greater than or equal to zero")
    if window is not None and window > _WINDOW_LIMIT_S:
        detail = f"must be less than or equal to {_WINDOW_LIMIT_S}"
        yield fields.invalid(path.child("stabilizationWindowSeconds"), window, detail)
    if rules.select_policy is not None and rules.select_policy not in ("Disabled", "Max", "Min"):
        yield fields.not_supported(path.child("selectPolicy"), rules.select_policy, ("Disabled", "Max", "Min"))
    if not rules.policies:
        yield fields.required(path.child("policies"), "must specify at least one Policy")
    for n, policy in enumerate(rules.policies):
        at = path.child("policies").index(n)
        if policy.type not in ("Percent", "Pods"):
            yield fields.not_supported(at.child("type"), policy.type, ("Percent", "Pods"))
        if policy.value <= 0:
            yield fields.invalid(at.child("value"), policy.value, "must be greater than zero")
        if policy.period_seconds <= 0:
            yield fields.invalid(at.child("periodSeconds"), policy.period_seconds, "must be greater than zero")
        if policy.period_seconds > _PERIOD_LIMIT_S:
            detail = f"must be less than or equal to {_PERIOD_LIMIT_S}"
            yield fields.invalid(at.child("periodSeconds"), policy.period_seconds, detail)


STRATEGY = AutoscalerStrategy()
STRATEGIES: tuple[Strategy[Any], ...] = (STRATEGY, OldAutoscalerStrategy())
