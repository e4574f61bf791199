"""One object in the served versions of its kind.

Stored forms: ``autoscaling/v2`` for HorizontalPodAutoscalers, ``v1`` for Events (``keys`` knows all). What an older version
cannot say is kept in annotations, as upstream keeps it, so nothing is lost on the way through. Versions that differ in
nothing but their name need no step of their own.

Source: pkg/apis/autoscaling/v1/conversion.go; pkg/apis/events/v1/conversion.go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import replace

from kaa.api import scheme
from kaa.api.custom import CustomObject
from kaa.api.resources import Resource
from kaa.api.types import autoscaling_v1, autoscaling_v2, core_v1, events_v1
from kaa.api.types.meta_v1 import ObjectMeta

from .. import keys
from .resource import versions

_METRICS = "autoscaling.alpha.kubernetes.io/metrics"
_CURRENT = "autoscaling.alpha.kubernetes.io/current-metrics"
_CONDITIONS = "autoscaling.alpha.kubernetes.io/conditions"
_BEHAVIOR = "autoscaling.alpha.kubernetes.io/behavior"

_REGARDING = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
#: {served: {a field as its clients select by it: the stored form's}}
SELECTED_AS: dict[type[Any], dict[str, str]] = {
    events_v1.Event: {
        **{f"regarding.{name}": f"involvedObject.{name}" for name in _REGARDING},
        "reportingController": "reportingComponent",
        "reason": "reason",
        "type": "type",
    },
}


def served_as(resource: Resource[Any], api_version: str) -> Resource[Any] | None:
    """The resource that serves the same objects in another version; None when there is none."""
    found = scheme.resource_by_kind(api_version, resource.kind)
    if found is None or keys.storage_resource(found) is not keys.storage_resource(resource):
        return None
    return found


def convert(obj: Any, resource: Resource[Any]) -> Any:
    """``obj`` as the type that ``resource`` serves; the same object when it is one already."""
    if isinstance(obj, CustomObject):  # strategy None: versions differ in nothing but their name
        return obj if obj.api_version == resource.api_version else replace(obj, api_version=resource.api_version)
    if type(obj) is resource.type:
        return obj
    step = _STEPS.get((type(obj), resource.type))
    if step is not None:
        return step(obj)
    if keys.storage_resource(scheme.resource_of(obj)) is not keys.storage_resource(resource):
        raise TypeError(f"no conversion from {type(obj).__module__} to {resource.api_version} {resource.kind}")
    return scheme.convert(resource.type, versions.across(scheme.to_builtins(obj), obj, resource))


# ------------------------------------------------------------------------------------------------ events


def event_to_core(obj: events_v1.Event) -> core_v1.Event:
    series = None
    if obj.series is not None:
        series = core_v1.EventSeries(count=obj.series.count, last_observed_time=obj.series.last_observed_time)
    return core_v1.Event(
        metadata=obj.metadata,
        involved_object=obj.regarding,
        related=obj.related,
        reason=obj.reason,
        message=obj.note,
        source=obj.deprecated_source,
        first_timestamp=obj.deprecated_first_timestamp,
        last_timestamp=obj.deprecated_last_timestamp,
        count=obj.deprecated_count,
        type=obj.type,
        event_time=obj.event_time or None,
        series=series,
        action=obj.action,
        reporting_component=obj.reporting_controller or "",
        reporting_instance=obj.reporting_instance or "",
    )


def event_from_core(obj: core_v1.Event) -> events_v1.Event:
    series = None
    if obj.series is not None:
        series = events_v1.EventSeries(count=obj.series.count or 0, last_observed_time=obj.series.last_observed_time)
    return events_v1.Event(
        metadata=obj.metadata,
        regarding=obj.involved_object,
        related=obj.related,
        reason=obj.reason,
        note=obj.message,
        deprecated_source=obj.source,
        deprecated_first_timestamp=obj.first_timestamp,
        deprecated_last_timestamp=obj.last_timestamp,
        deprecated_count=obj.count,
        type=obj.type,
        event_time=obj.event_time,
        series=series,
        action=obj.action,
        reporting_controller=obj.reporting_component or None,
        reporting_instance=obj.reporting_instance or None,
    )


# ------------------------------------------------------------------------------------------------ autoscalers


def hpa_to_v2(obj: autoscaling_v1.HorizontalPodAutoscaler) -> autoscaling_v2.HorizontalPodAutoscaler:
    notes = obj.metadata.annotations
    metrics: tuple[autoscaling_v2.MetricSpec, ...] = ()
    if obj.spec.target_cpu_utilization_percentage is not None:
        metrics = (cpu_metric(obj.spec.target_cpu_utilization_percentage),)
    metrics += _kept(notes.get(_METRICS), tuple[autoscaling_v2.MetricSpec, ...], ())
    status = None
    if obj.status is not None:
        status = autoscaling_v2.HorizontalPodAutoscalerStatus(
            current_replicas=obj.status.current_replicas,
            desired_replicas=obj.status.desired_replicas,
            last_scale_time=obj.status.last_scale_time,
            observed_generation=obj.status.observed_generation,
            current_metrics=_current_cpu(obj.status.current_cpu_utilization_percentage)
            + _kept(notes.get(_CURRENT), tuple[autoscaling_v2.MetricStatus, ...], ())
            or None,
            conditions=_kept(notes.get(_CONDITIONS), tuple[autoscaling_v2.HorizontalPodAutoscalerCondition, ...], ()),
        )
    reference = obj.spec.scale_target_ref
    return autoscaling_v2.HorizontalPodAutoscaler(
        metadata=_with_notes(obj.metadata, {}),
        spec=autoscaling_v2.HorizontalPodAutoscalerSpec(
            max_replicas=obj.spec.max_replicas,
            min_replicas=obj.spec.min_replicas,
            scale_target_ref=autoscaling_v2.CrossVersionObjectReference(
                api_version=reference.api_version, kind=reference.kind, name=reference.name
            ),
            metrics=metrics or (cpu_metric(80),),
            behavior=_kept(notes.get(_BEHAVIOR), autoscaling_v2.HorizontalPodAutoscalerBehavior | None, None),
        ),
        status=status,
    )


def hpa_to_v1(obj: autoscaling_v2.HorizontalPodAutoscaler) -> autoscaling_v1.HorizontalPodAutoscaler:
    percent: int | None = None
    others: list[autoscaling_v2.MetricSpec] = []
    for metric in obj.spec.metrics:
        source = metric.resource
        if (
            percent is None
            and source is not None
            and source.name == "cpu"
            and source.target.average_utilization is not None
        ):
            percent = source.target.average_utilization
        else:
            others.append(metric)
    notes: dict[str, str] = {}
    if others:
        notes[_METRICS] = scheme.encode_inner(others).decode()
    if obj.spec.behavior is not None:
        notes[_BEHAVIOR] = scheme.encode_inner(obj.spec.behavior).decode()
    reference = obj.spec.scale_target_ref
    return autoscaling_v1.HorizontalPodAutoscaler(
        metadata=_with_notes(obj.metadata, notes | _status_notes(obj.status)),
        spec=autoscaling_v1.HorizontalPodAutoscalerSpec(
            max_replicas=obj.spec.max_replicas,
            min_replicas=obj.spec.min_replicas,
            scale_target_ref=autoscaling_v1.CrossVersionObjectReference(
                api_version=reference.api_version, kind=reference.kind, name=reference.name
            ),
            target_cpu_utilization_percentage=percent,
        ),
        status=_old_status(obj.status),
    )


def cpu_metric(percent: int) -> autoscaling_v2.MetricSpec:
    target = autoscaling_v2.MetricTarget(type="Utilization", average_utilization=percent)
    return autoscaling_v2.MetricSpec(
        type="Resource", resource=autoscaling_v2.ResourceMetricSource(name="cpu", target=target)
    )


def _current_cpu(percent: int | None) -> tuple[autoscaling_v2.MetricStatus, ...]:
    if percent is None:
        return ()
    current = autoscaling_v2.MetricValueStatus(average_utilization=percent)
    source = autoscaling_v2.ResourceMetricStatus(name="cpu", current=current)
    return (autoscaling_v2.MetricStatus(type="Resource", resource=source),)


def _is_cpu(metric: autoscaling_v2.MetricStatus) -> bool:
    source = metric.resource
    return source is not None and source.name == "cpu" and source.current.average_utilization is not None


def _status_notes(status: autoscaling_v2.HorizontalPodAutoscalerStatus | None) -> dict[str, str]:
    notes: dict[str, str] = {}
    if status is None:
        return notes
    others = [metric for metric in status.current_metrics or () if not _is_cpu(metric)]
    if others:
        notes[_CURRENT] = scheme.encode_inner(others).decode()
    if status.conditions:
        notes[_CONDITIONS] = scheme.encode_inner(status.conditions).decode()
    return notes


def _old_status(
    status: autoscaling_v2.HorizontalPodAutoscalerStatus | None,
) -> autoscaling_v1.HorizontalPodAutoscalerStatus | None:
    if status is None:
        return None
    cpu = next((metric.resource for metric in status.current_metrics or () if _is_cpu(metric)), None)
    return autoscaling_v1.HorizontalPodAutoscalerStatus(
        current_replicas=status.current_replicas or 0,
        desired_replicas=status.desired_replicas,
        last_scale_time=status.last_scale_time,
        observed_generation=status.observed_generation,
        current_cpu_utilization_percentage=cpu.current.average_utilization if cpu is not None else None,
    )


def _with_notes(metadata: ObjectMeta, notes: dict[str, str]) -> ObjectMeta:
    """The metadata with ``notes`` as its only conversion annotations."""
    ours = (_METRICS, _CURRENT, _CONDITIONS, _BEHAVIOR)
    kept = {key: value for key, value in metadata.annotations.items() if key not in ours} | notes
    return metadata if kept == metadata.annotations else replace(metadata, annotations=kept)


def _kept(text: str | None, kind: Any, absent: Any) -> Any:
    """What an annotation kept; one that somebody broke is as good as none, as it is upstream."""
    if text is None:
        return absent
    try:
        return scheme.decode(kind, text.encode())
    except (scheme.DecodeError, msgspec.MsgspecError):
        return absent


_STEPS: dict[tuple[type[Any], type[Any]], Callable[[Any], Any]] = {
    (events_v1.Event, core_v1.Event): event_to_core,
    (core_v1.Event, events_v1.Event): event_from_core,
    (autoscaling_v1.HorizontalPodAutoscaler, autoscaling_v2.HorizontalPodAutoscaler): hpa_to_v2,
    (autoscaling_v2.HorizontalPodAutoscaler, autoscaling_v1.HorizontalPodAutoscaler): hpa_to_v1,
}
