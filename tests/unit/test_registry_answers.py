"""What the API server writes where nothing was set, and in whose version fields are owned."""

from __future__ import annotations

from typing import Any

import pytest
from api_lab import Lab, run

from kaa.api import scheme
from kaa.api.types import apps_v1, autoscaling_v2, core_v1, events_v1, rbac_v1

TEMPLATE = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
SELECTOR = {"matchLabels": {"a": "b"}}
TARGET = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
METADATA = {"name": "x", "namespace": "default"}


def document(api_version: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}, **fields}


@pytest.mark.parametrize(
    ("kind", "plain", "nulls"),
    [
        (core_v1.PodCondition, {"type": "Ready", "status": "True"}, ["lastProbeTime", "lastTransitionTime"]),
        (core_v1.ContainerStateRunning, {}, ["startedAt"]),
        (core_v1.Event, {"metadata": {}, "involvedObject": {}}, ["eventTime", "firstTimestamp", "lastTimestamp"]),
        (events_v1.Event, {"eventTime": "t"}, ["deprecatedFirstTimestamp", "deprecatedLastTimestamp"]),
        (apps_v1.DeploymentCondition, {"type": "a", "status": "b"}, ["lastTransitionTime", "lastUpdateTime"]),
        (autoscaling_v2.HorizontalPodAutoscalerStatus, {"desiredReplicas": 0}, ["currentMetrics"]),
        (rbac_v1.ClusterRole, {"metadata": {}}, ["rules"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_go_holds_by_value_is_null_when_absent(kind: type, plain: dict[str, Any], nulls: list[str]) -> None:
    made = scheme.to_builtins(scheme.convert(kind, plain))
    assert sorted(name for name, value in made.items() if value is None) == nulls
    assert scheme.convert(kind, made) == scheme.convert(kind, plain)


def test_a_creation_time_is_left_out() -> None:
    assert scheme.to_builtins(scheme.convert(core_v1.PodTemplateSpec, TEMPLATE))["metadata"] == TEMPLATE["metadata"]


def owned(obj: Any, *, api_version: str) -> set[str]:
    """The top fields of ``spec``, or of the object if it has none, that entries of a version own."""
    found: set[str] = set()
    for entry in obj["metadata"]["managedFields"]:
        if entry["apiVersion"] == api_version:
            fields = entry["fieldsV1"]
            found |= set(fields.get("f:spec", fields))
    return found


def test_fields_are_owned_in_the_version_that_the_client_speaks() -> None:
    async def use(lab: Lab) -> None:
        where = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers"
        spec = {"scaleTargetRef": TARGET, "maxReplicas": 3, "targetCPUUtilizationPercentage": 50}
        made = (await lab.ask("POST", where, document("autoscaling/v1", "HorizontalPodAutoscaler", spec=spec))).json()
        assert owned(made, api_version="autoscaling/v1") == {
            "f:maxReplicas", "f:minReplicas", "f:scaleTargetRef", "f:targetCPUUtilizationPercentage",
        }  # fmt: skip
        newer = where.replace("v1", "v2") + "/x"
        patch = {"spec": {"maxReplicas": 5, "metrics": [{"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}}]}}  # fmt: skip
        found = await lab.ask("PATCH", newer, patch, content_type="application/merge-patch+json", User_Agent="other/1")
        assert owned(found.json(), api_version="autoscaling/v2") == {"f:maxReplicas", "f:metrics"}
        assert owned(found.json(), api_version="autoscaling/v1") == {"f:minReplicas", "f:scaleTargetRef"}

    run(use, http=True)


def test_an_event_of_the_newer_group_is_owned_there() -> None:
    async def use(lab: Lab) -> None:
        body = document("events.k8s.io/v1", "Event", note="n", reason="R", action="A", type="Normal",
                        eventTime="2026-01-02T03:04:05.000006Z", regarding={"kind": "Pod", "name": "x", "namespace": "default"},
                        reportingController="example.com/c", reportingInstance="i")  # fmt: skip
        made = (await lab.ask("POST", "/apis/events.k8s.io/v1/namespaces/default/events", body)).json()
        assert {"f:note", "f:regarding", "f:reportingController"} <= owned(made, api_version="events.k8s.io/v1")
        assert made["deprecatedLastTimestamp"] is None
        other = (await lab.ask("GET", "/api/v1/namespaces/default/events/x")).json()
        assert (other["lastTimestamp"], other["message"]) == (None, "n")

    run(use, http=True)


def test_what_conversion_fills_in_is_owned_too() -> None:
    async def use(lab: Lab) -> None:
        spec = {"selector": SELECTOR, "template": TEMPLATE}
        made = (await lab.ask("POST", "/apis/apps/v1/namespaces/default/daemonsets", document("apps/v1", "DaemonSet", spec=spec))).json()  # fmt: skip
        note = "deprecated.daemonset.template.generation"
        assert made["metadata"]["annotations"] == {note: "1"}
        assert made["metadata"]["managedFields"][0]["fieldsV1"]["f:metadata"]["f:annotations"] == {".": {}, f"f:{note}": {}}  # fmt: skip
        where = "/api/v1/namespaces/default/pods"
        await lab.ask("POST", where, document("v1", "Pod", spec=TEMPLATE["spec"]))
        patch = {"status": {"podIP": "10.0.0.1"}}
        found = (await lab.ask("PATCH", f"{where}/x/status", patch, content_type="application/merge-patch+json")).json()
        fields = next(e["fieldsV1"] for e in found["metadata"]["managedFields"] if e.get("subresource") == "status")
        assert {"f:podIP", "f:podIPs"} <= set(fields["f:status"])

    run(use, http=True)


def test_admission_comes_before_what_the_store_refuses() -> None:
    async def use(lab: Lab) -> None:
        where = "/api/v1/namespaces/default/"
        body = document("v1", "Pod", spec=TEMPLATE["spec"])
        body["metadata"]["resourceVersion"] = "1"
        refused = (await lab.ask("POST", where + "pods", body)).json()
        assert (refused["code"], refused["message"]) == (
            500,
            "resourceVersion should not be set on objects to be created",
        )
        await lab.ask("POST", where + "resourcequotas", document("v1", "ResourceQuota", spec={"hard": {"pods": "0"}}))
        assert (await lab.ask("POST", where + "pods", body)).status == 403

    run(use, http=True)


def test_whole_numbers_of_a_schema_stay_whole() -> None:
    async def use(lab: Lab) -> None:
        where = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        schema = {"type": "object", "properties": {"size": {"type": "number", "minimum": 1, "maximum": 2.5}}}
        version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
        names = {"plural": "widgets", "kind": "Widget"}
        spec = {"group": "example.com", "scope": "Namespaced", "names": names, "versions": [version]}
        body = document("apiextensions.k8s.io/v1", "CustomResourceDefinition", spec=spec)
        body["metadata"]["name"] = "widgets.example.com"
        made = await lab.ask("POST", where, body)
        assert b'"maximum":2.5,"minimum":1,' in made.body
        assert b'"conditions":null' in made.body
        lacking = {**body, "spec": {**spec, "versions": [{**version, "storage": False}]}}
        refused = (await lab.ask("POST", where, lacking)).json()
        texts = [cause["message"] for cause in refused["details"]["causes"]]
        assert "Invalid value: null: must have at least one stored version" in texts

    run(use, http=True)
