"""What upstream's conformance suite does to the kinds of apps, nodes, networking and storage: each verb, in its order.

A row says what a kind's client writes; the patches are as Go's clients send them, with the zeros of their structs.
"""

from __future__ import annotations

from typing import Any

import pytest
from api_lab import Answer, Lab, run

Json = dict[str, Any]
MERGE, STRATEGIC = "application/merge-patch+json", "application/strategic-merge-patch+json"
LABELS = {"e2e": "kinds"}
SELECTED = "?labelSelector=e2e%3Dkinds"
POD: Json = {"containers": [{"name": "c", "image": "busybox:1"}]}
TEMPLATE: Json = {"metadata": {"labels": {"app": "x"}}, "spec": POD}
SELECTOR: Json = {"matchLabels": {"app": "x"}}
CLAIM: Json = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}
REQUESTS: Json = {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "c"}}]}}
CONDITION: Json = {"type": "StatusPatched", "status": "True", "reason": "E2E", "message": "Set by an e2e test"}
SINCE = {"lastTransitionTime": "2026-01-01T00:00:00Z"}
POD_JOB = {"template": {"spec": {**POD, "restartPolicy": "OnFailure"}}, "completions": 2, "suspend": True}
VOLUME: Json = {
    "capacity": {"storage": "2Gi"},
    "accessModes": ["ReadWriteOnce"],
    "persistentVolumeReclaimPolicy": "Retain",
    "csi": {"driver": "e2e", "volumeHandle": "h"},
}

#: id: (api version, plural, namespaced, kind, body, merge patch of the body, status that is patched in)
KINDS: dict[str, tuple[str, str, bool, str, Json, Json, Json]] = {
    kind: (version, plural, namespaced, kind, body, patch, status)
    for version, plural, namespaced, kind, body, patch, status in (
        (
            "apps/v1",
            "deployments",
            True,
            "Deployment",
            {"spec": {"replicas": 0, "selector": SELECTOR, "template": TEMPLATE}},
            {"spec": {"replicas": 0, "minReadySeconds": 2}},
            {"conditions": [CONDITION]},
        ),
        (
            "apps/v1",
            "replicasets",
            True,
            "ReplicaSet",
            {"spec": {"replicas": 0, "selector": SELECTOR, "template": TEMPLATE}},
            {"spec": {"replicas": 0, "minReadySeconds": 2}},
            {"conditions": [CONDITION]},
        ),
        (
            "apps/v1",
            "statefulsets",
            True,
            "StatefulSet",
            {"spec": {"replicas": 0, "selector": SELECTOR, "template": TEMPLATE, "serviceName": "s"}},
            {"spec": {"replicas": 0, "minReadySeconds": 2}},
            {"conditions": [CONDITION]},
        ),
        (
            "apps/v1",
            "daemonsets",
            True,
            "DaemonSet",
            {"spec": {"selector": SELECTOR, "template": TEMPLATE}},
            {"spec": {"minReadySeconds": 2}},
            {"conditions": [CONDITION]},
        ),
        (
            "apps/v1",
            "controllerrevisions",
            True,
            "ControllerRevision",
            {"revision": 1, "data": {"spec": {"template": TEMPLATE}}},
            {"revision": 3},
            {},
        ),
        (
            "v1",
            "replicationcontrollers",
            True,
            "ReplicationController",
            {"spec": {"replicas": 0, "selector": {"app": "x"}, "template": TEMPLATE}},
            {"spec": {"replicas": 0, "minReadySeconds": 2}},
            {"conditions": [CONDITION]},
        ),
        (
            "batch/v1",
            "jobs",
            True,
            "Job",
            {"spec": POD_JOB},
            {"spec": {"backoffLimit": 3}},
            {"conditions": [CONDITION]},
        ),
        (
            "batch/v1",
            "cronjobs",
            True,
            "CronJob",
            {"spec": {"schedule": "* */1 * * ?", "concurrencyPolicy": "Allow", "jobTemplate": {"spec": POD_JOB}}},
            {"spec": {"concurrencyPolicy": "Forbid"}},
            {"lastScheduleTime": "2026-01-01T00:00:00Z"},
        ),
        (
            "policy/v1",
            "poddisruptionbudgets",
            True,
            "PodDisruptionBudget",
            {"spec": {"minAvailable": 1, "selector": SELECTOR}},
            {"spec": {"minAvailable": "2%"}},
            {"conditions": [{**CONDITION, **SINCE}], "disruptedPods": {"pod-1": "2026-01-01T00:00:00Z"}},
        ),
        (
            "autoscaling/v2",
            "horizontalpodautoscalers",
            True,
            "HorizontalPodAutoscaler",
            {
                "spec": {
                    "maxReplicas": 2,
                    "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "x"},
                }
            },
            {"spec": {"maxReplicas": 3}},
            {"conditions": [CONDITION], "desiredReplicas": 2},
        ),
        (
            "v1",
            "services",
            True,
            "Service",
            {"spec": {"type": "LoadBalancer", "ports": [{"name": "http", "port": 80, "targetPort": 80}]}},
            {"spec": {"sessionAffinity": "ClientIP"}},
            {
                "loadBalancer": {"ingress": [{"ip": "203.0.113.1", "ipMode": "VIP"}]},
                "conditions": [{**CONDITION, **SINCE}],
            },
        ),
        (
            "v1",
            "endpoints",
            True,
            "Endpoints",
            {"subsets": [{"addresses": [{"ip": "10.0.0.24"}], "ports": [{"name": "http", "port": 80}]}]},
            {
                "subsets": [
                    {
                        "addresses": [{"ip": "10.0.0.25"}],
                        "ports": [{"name": "http-test", "port": 8080, "protocol": "TCP"}],
                    }
                ]
            },
            {},
        ),
        (
            "discovery.k8s.io/v1",
            "endpointslices",
            True,
            "EndpointSlice",
            {"addressType": "IPv4", "endpoints": [{"addresses": ["1.2.3.4"], "conditions": {"ready": True}}]},
            {"ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
            {},
        ),
        (
            "networking.k8s.io/v1",
            "networkpolicies",
            True,
            "NetworkPolicy",
            {"spec": {"podSelector": SELECTOR, "ingress": [{"from": [{"namespaceSelector": {}}]}]}},
            {"spec": {"policyTypes": ["Ingress", "Egress"]}},
            {},
        ),
        (
            "networking.k8s.io/v1",
            "servicecidrs",
            False,
            "ServiceCIDR",
            {"spec": {"cidrs": ["10.96.0.0/16"]}},
            {},
            {"conditions": [{**CONDITION, **SINCE}]},
        ),
        ("v1", "configmaps", True, "ConfigMap", {"data": {"a": "b"}}, {"data": {"a": "c"}}, {}),
        ("v1", "secrets", True, "Secret", {"data": {"a": "dmFsdWUtMQ=="}}, {"data": {"a": "dmFsdWUxCg=="}}, {}),
        ("v1", "podtemplates", True, "PodTemplate", {"template": TEMPLATE}, {}, {}),
        (
            "v1",
            "limitranges",
            True,
            "LimitRange",
            {"spec": {"limits": [{"type": "Container", "min": {"cpu": "50m"}, "max": {"cpu": "500m"}}]}},
            {
                "spec": {
                    "limits": [
                        {
                            "type": "Container",
                            "min": {"cpu": "49m"},
                            "max": {"cpu": "500m"},
                            "default": {"cpu": "500m"},
                            "defaultRequest": {"cpu": "500m"},
                        }
                    ]
                }
            },
            {},
        ),
        (
            "coordination.k8s.io/v1",
            "leases",
            True,
            "Lease",
            {
                "spec": {
                    "holderIdentity": "h",
                    "leaseDurationSeconds": 30,
                    "acquireTime": "2026-01-01T00:00:00.000000Z",
                    "leaseTransitions": 0,
                }
            },
            {"spec": {"holderIdentity": "h2", "renewTime": "2026-01-01T00:00:01.000000Z", "leaseTransitions": 1}},
            {},
        ),
        (
            "v1",
            "persistentvolumes",
            False,
            "PersistentVolume",
            {"spec": VOLUME},
            {},
            {"phase": "Failed", "message": "StatusPatched", "reason": "E2E patchStatus"},
        ),
        (
            "v1",
            "persistentvolumeclaims",
            True,
            "PersistentVolumeClaim",
            {"spec": CLAIM},
            {},
            {"conditions": [{**CONDITION, "lastProbeTime": None}]},
        ),
        ("storage.k8s.io/v1", "storageclasses", False, "StorageClass", {"provisioner": "e2e-fake"}, {}, {}),
        (
            "storage.k8s.io/v1",
            "csidrivers",
            False,
            "CSIDriver",
            {"spec": {"attachRequired": True, "podInfoOnMount": True, "volumeLifecycleModes": ["Persistent"]}},
            {},
            {},
        ),
        (
            "storage.k8s.io/v1",
            "csinodes",
            False,
            "CSINode",
            {"spec": {"drivers": [{"name": "d", "nodeID": "n"}]}},
            {},
            {},
        ),
        (
            "storage.k8s.io/v1",
            "volumeattachments",
            False,
            "VolumeAttachment",
            {"spec": {"attacher": "e2e.example.com", "nodeName": "n", "source": {"persistentVolumeName": "v"}}},
            {},
            {"attached": True, "attachError": {"message": "m"}},
        ),
        (
            "storage.k8s.io/v1",
            "csistoragecapacities",
            True,
            "CSIStorageCapacity",
            {"storageClassName": "s", "capacity": "100Gi"},
            {"maximumVolumeSize": "1Gi"},
            {},
        ),
        (
            "storage.k8s.io/v1",
            "volumeattributesclasses",
            False,
            "VolumeAttributesClass",
            {"driverName": "d", "parameters": {"iops": "1"}},
            {},
            {},
        ),
        (
            "resource.k8s.io/v1",
            "resourceclaims",
            True,
            "ResourceClaim",
            {"spec": REQUESTS},
            {},
            {"allocation": {"devices": {"results": [{"request": "r", "driver": "d", "pool": "p", "device": "x"}]}}},
        ),
        (
            "resource.k8s.io/v1",
            "resourceclaimtemplates",
            True,
            "ResourceClaimTemplate",
            {"spec": {"spec": REQUESTS}},
            {},
            {},
        ),
        (
            "resource.k8s.io/v1",
            "resourceslices",
            False,
            "ResourceSlice",
            {
                "spec": {
                    "driver": "d",
                    "nodeName": "n",
                    "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
                    "devices": [{"name": "x"}],
                }
            },
            {},
            {},
        ),
        (
            "v1",
            "events",
            True,
            "Event",
            {
                "involvedObject": {"namespace": "default"},
                "reason": "Test",
                "message": "m",
                "type": "Normal",
                "source": {"component": "e2e"},
                "count": 1,
            },
            {"message": "patched"},
            {},
        ),
        (
            "events.k8s.io/v1",
            "events",
            True,
            "Event",
            {
                "regarding": {"namespace": "default"},
                "eventTime": "2026-01-01T00:00:00.000000Z",
                "note": "m",
                "type": "Normal",
                "reason": "Test",
                "action": "Do",
                "reportingController": "c",
                "reportingInstance": "i",
            },
            {"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}},
            {},
        ),
        (
            "v1",
            "pods",
            True,
            "Pod",
            {"spec": POD},
            {"spec": {"activeDeadlineSeconds": 90}},
            {"conditions": [CONDITION], "message": "m"},
        ),
    )
}


def good(answer: Answer, status: int = 200) -> Json:
    assert answer.status == status, (answer.status, answer.body)
    return answer.json()  # type: ignore[no-any-return]


def holds(found: Any, wanted: Any) -> bool:
    """Whether all that is wanted was found; a list by its members in order."""
    if isinstance(wanted, dict):
        found = found or {}
        return all(value is None or holds(found.get(name), value) for name, value in wanted.items())
    if isinstance(wanted, list):
        return len(found or ()) == len(wanted) and all(holds(*pair) for pair in zip(found, wanted, strict=True))
    return bool(found == wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_each_verb(kind: str) -> None:
    version, plural, namespaced, name, body, patch, status = KINDS[kind]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    path = f"{root}/namespaces/default/{plural}" if namespaced else f"{root}/{plural}"

    async def use(lab: Lab) -> None:
        metadata = {"generateName": "e2e-", "labels": LABELS}
        wanted = {"apiVersion": version, "kind": name, **body, "metadata": metadata}
        made = [good(await lab.ask("POST", path, wanted), 201) for _ in range(3)]
        assert holds(made[0], body)
        mine = f"{path}/{made[0]['metadata']['name']}"
        assert good(await lab.ask("GET", mine)) == made[0]
        for where in {path, f"{root}/{plural}"}:
            listed = good(await lab.ask("GET", where + SELECTED))
            assert (listed["kind"], len(listed["items"])) == (f"{name}List", 3)

        change = {"metadata": {"creationTimestamp": None, "labels": {"patched": "yes"}}, **patch}
        for content_type in (MERGE, STRATEGIC):
            patched = good(await lab.ask("PATCH", mine, change, content_type=content_type))
            assert patched["metadata"]["labels"] == {**LABELS, "patched": "yes"}
            assert patched["metadata"]["creationTimestamp"] == made[0]["metadata"]["creationTimestamp"]
            assert holds(patched, patch), (patch, patched)
        patched["metadata"].setdefault("annotations", {})["updated"] = "yes"
        patched = good(await lab.ask("PUT", mine, patched))
        assert patched["metadata"]["annotations"]["updated"] == "yes"
        if status:
            await write_status(lab, mine, status)

        await lab.ask("DELETE", mine + "?gracePeriodSeconds=0")
        if name in ("PersistentVolume", "PersistentVolumeClaim", "ServiceCIDR", "VolumeAttributesClass"):
            return
        assert (await lab.ask("GET", mine)).status == 404
        good(await lab.ask("DELETE", path + SELECTED + "&gracePeriodSeconds=0"))
        assert good(await lab.ask("GET", path + SELECTED))["items"] == []

    run(use, http=True)


async def write_status(lab: Lab, path: str, status: Json) -> None:
    """Read, patch and replace the status; the spec that comes along changes nothing."""
    before = good(await lab.ask("GET", f"{path}/status"))
    change = {"metadata": {"annotations": {"patchedstatus": "yes"}}, "status": status}
    for content_type in (MERGE, STRATEGIC):
        after = good(await lab.ask("PATCH", f"{path}/status", change, content_type=content_type))
        assert holds(after["status"], status), after
        assert after["metadata"]["annotations"]["patchedstatus"] == "yes", after
    assert after.get("spec") == before.get("spec")
    if "conditions" in status:
        after["status"]["conditions"].append({**status["conditions"][0], "type": "StatusUpdate"})
        after = good(await lab.ask("PUT", f"{path}/status", after))
        assert [one["type"] for one in after["status"]["conditions"]] == ["StatusPatched", "StatusUpdate"]
