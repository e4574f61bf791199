from __future__ import annotations

from typing import Any

from kaa.api import scheme
from kaa.api.types import autoscaling_v1, autoscaling_v2, core_v1, events_v1
from kaa.apiserver.registry.conversion import convert

TARGET = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
V1 = scheme.resource_of(autoscaling_v1.HorizontalPodAutoscaler)
V2 = scheme.resource_of(autoscaling_v2.HorizontalPodAutoscaler)


def make_hpa(**spec: Any) -> autoscaling_v2.HorizontalPodAutoscaler:
    document = {"metadata": {"name": "web"}, "spec": {"scaleTargetRef": TARGET, "maxReplicas": 3, **spec}}
    return scheme.convert(autoscaling_v2.HorizontalPodAutoscaler, document)


def test_cpu_metric_becomes_the_old_field() -> None:
    target = {"type": "Utilization", "averageUtilization": 70}
    old = convert(make_hpa(metrics=[{"type": "Resource", "resource": {"name": "cpu", "target": target}}]), V1)
    assert old.spec.target_cpu_utilization_percentage == 70
    assert old.metadata.annotations == {}


def test_what_v1_cannot_say_survives_the_way_there_and_back() -> None:
    cpu = {"type": "Utilization", "averageUtilization": 70}
    memory = {"type": "AverageValue", "averageValue": "1Gi"}
    given = make_hpa(
        metrics=[
            {"type": "Resource", "resource": {"name": "cpu", "target": cpu}},
            {"type": "Resource", "resource": {"name": "memory", "target": memory}},
        ],
        behavior={"scaleDown": {"stabilizationWindowSeconds": 60}},
    )
    assert convert(convert(given, V1), V2) == given


def test_events_are_one_under_two_names() -> None:
    document = {
        "metadata": {"name": "e", "namespace": "n"},
        "involvedObject": {"kind": "Pod", "name": "p"},
        "message": "m",
    }
    core = scheme.convert(core_v1.Event, document)
    newer = convert(core, scheme.resource_of(events_v1.Event))
    assert (newer.note, newer.regarding.name) == ("m", "p")
    assert b'"eventTime":null' in scheme.encode(newer)
    again = convert(newer, scheme.resource_of(core_v1.Event))
    assert (again.message, again.involved_object) == (core.message, core.involved_object)
