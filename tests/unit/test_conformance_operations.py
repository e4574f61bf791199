"""Every verb on the kinds whose operations upstream's conformance suite walks through, in its order."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest
from api_lab import Lab, run
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Json = dict[str, Any]
MERGE = "application/merge-patch+json"
SELECTED = "?labelSelector=special%3Dtest"


def signing_request() -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "e2e.example.com")])
    key = ec.generate_private_key(ec.SECP256R1())
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return base64.b64encode(made.public_bytes(serialization.Encoding.PEM)).decode()


FLOW_SCHEMA: Json = {
    "matchingPrecedence": 10000,
    "priorityLevelConfiguration": {"name": "global-default"},
    "distinguisherMethod": {"type": "ByUser"},
    "rules": [
        {
            "subjects": [{"kind": "User", "user": {"name": "example-e2e-non-existent-user"}}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        }
    ],
}
LEVEL: Json = {"type": "Limited", "limited": {"nominalConcurrencyShares": 2, "limitResponse": {"type": "Reject"}}}
MATCH: Json = {
    "resourceRules": [
        {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments"]}
    ]
}
VALIDATING: Json = {
    "matchConstraints": MATCH,
    "validations": [{"expression": "object.spec.replicas > 1", "messageExpression": "'x'"}],
}
MUTATING: Json = {
    "matchConstraints": MATCH,
    "reinvocationPolicy": "Never",
    "mutations": [
        {
            "patchType": "ApplyConfiguration",
            "applyConfiguration": {"expression": "Object{metadata: Object.metadata{labels: {'a': 'b'}}}"},
        }
    ],
}
REGISTRATION = "/apis/admissionregistration.k8s.io/v1"
FLOW = "/apis/flowcontrol.apiserver.k8s.io/v1"
#: id: (path of the group version, plural, namespaced, kind, body, merge patch of the spec and the field that shows it)
KINDS: dict[str, tuple[str, str, bool, str, Json, Json]] = {
    "FlowSchema": (FLOW, "flowschemas", False, "FlowSchema", {"spec": FLOW_SCHEMA}, {"matchingPrecedence": 9999}),
    "PriorityLevel": (
        FLOW,
        "prioritylevelconfigurations",
        False,
        "PriorityLevelConfiguration",
        {"spec": LEVEL},
        {"limited": {"nominalConcurrencyShares": 4}},
    ),
    "ValidatingPolicy": (
        REGISTRATION,
        "validatingadmissionpolicies",
        False,
        "ValidatingAdmissionPolicy",
        {"spec": VALIDATING},
        {"failurePolicy": "Ignore"},
    ),
    "ValidatingBinding": (
        REGISTRATION,
        "validatingadmissionpolicybindings",
        False,
        "ValidatingAdmissionPolicyBinding",
        {"spec": {"policyName": "p", "validationActions": ["Deny"]}},
        {"validationActions": ["Warn"]},
    ),
    "MutatingPolicy": (
        REGISTRATION,
        "mutatingadmissionpolicies",
        False,
        "MutatingAdmissionPolicy",
        {"spec": MUTATING},
        {"failurePolicy": "Ignore"},
    ),
    "MutatingBinding": (
        REGISTRATION,
        "mutatingadmissionpolicybindings",
        False,
        "MutatingAdmissionPolicyBinding",
        {"spec": {"policyName": "p"}},
        {"matchResources": {"matchPolicy": "Exact"}},
    ),
    "SigningRequest": (
        "/apis/certificates.k8s.io/v1",
        "certificatesigningrequests",
        False,
        "CertificateSigningRequest",
        {
            "spec": {
                "request": signing_request(),
                "signerName": "example.com/e2e",
                "expirationSeconds": 3600,
                "usages": ["digital signature", "key encipherment", "server auth"],
            }
        },
        {},
    ),
    "RuntimeClass": ("/apis/node.k8s.io/v1", "runtimeclasses", False, "RuntimeClass", {"handler": "runc"}, {}),
    "IngressClass": (
        "/apis/networking.k8s.io/v1",
        "ingressclasses",
        False,
        "IngressClass",
        {"spec": {"controller": "example.com/controller"}},
        {},
    ),
    "Ingress": (
        "/apis/networking.k8s.io/v1",
        "ingresses",
        True,
        "Ingress",
        {"spec": {"defaultBackend": {"service": {"name": "default-backend", "port": {"number": 80}}}}},
        {},
    ),
    "PriorityClass": ("/apis/scheduling.k8s.io/v1", "priorityclasses", False, "PriorityClass", {"value": 3}, {}),
    "ServiceAccount": ("/api/v1", "serviceaccounts", True, "ServiceAccount", {}, {}),
    "Quota": (
        "/api/v1",
        "resourcequotas",
        True,
        "ResourceQuota",
        {"spec": {"hard": {"cpu": "1", "memory": "500Mi"}}},
        {"hard": {"memory": "750Mi"}},
    ),
    "DeviceClass": (
        "/apis/resource.k8s.io/v1",
        "deviceclasses",
        False,
        "DeviceClass",
        {"spec": {}},
        {},
    ),
}


async def watched(lab: Lab, path: str, seen: list[Json]) -> None:
    """Collect events until cancelled."""
    reader, writer = await lab.connect()
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        while size := int(await reader.readline(), 16):
            seen.extend(json.loads(line) for line in (await reader.readexactly(size + 2)).splitlines() if line)
    finally:
        writer.close()


def holds(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(holds(found.get(name), inner) for name, inner in wanted.items())
    return bool(found == wanted)


@pytest.mark.parametrize("case", KINDS.values(), ids=KINDS.keys())
def test_all_verbs(case: tuple[str, str, bool, str, Json, Json]) -> None:
    base, plural, namespaced, kind, body, patch = case
    group = base.split("/")[2] if base.startswith("/apis") else ""
    path = f"{base}/namespaces/default/{plural}" if namespaced else f"{base}/{plural}"

    async def use(lab: Lab) -> None:
        if group:
            groups = {one["name"]: one for one in (await lab.ask("GET", "/apis")).json()["groups"]}
            assert "v1" in [version["version"] for version in groups[group]["versions"]]
            one = (await lab.ask("GET", f"/apis/{group}")).json()
            assert (one["kind"], one["name"]) == ("APIGroup", group)
        served = {row["name"]: row for row in (await lab.ask("GET", base)).json()["resources"]}
        verbs = {"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
        assert verbs <= set(served[plural]["verbs"])

        named = {"apiVersion": base.removeprefix("/apis/").removeprefix("/api/"), "kind": kind, **body}
        for n in range(3):
            metadata = {"generateName": "e2e-", "labels": {"special": "test"}}
            answer = await lab.ask("POST", path, {**named, "metadata": metadata})
            assert answer.status == 201, (n, answer.body)
            made = answer.json()
        mine = f"{path}/{made['metadata']['name']}"
        got = (await lab.ask("GET", mine)).json()
        assert got["metadata"]["uid"] == made["metadata"]["uid"]
        listed = (await lab.ask("GET", path + SELECTED)).json()
        assert (listed["kind"], len(listed["items"])) == (f"{kind}List", 3)
        everywhere = (await lab.ask("GET", f"{base}/{plural}{SELECTED}")).json()
        assert len(everywhere["items"]) == 3

        seen: list[Json] = []
        from_here = f"{path}{SELECTED}&watch=1&resourceVersion={listed['metadata']['resourceVersion']}"
        watch = asyncio.create_task(watched(lab, from_here, seen))
        change = {"metadata": {"annotations": {"patched": "true"}}, **({"spec": patch} if patch else {})}
        answer = await lab.ask("PATCH", mine, change, content_type=MERGE)
        assert answer.status == 200, answer.body
        patched = answer.json()
        assert holds(patched, change)
        if "generation" in made["metadata"]:
            assert patched["metadata"]["generation"] == made["metadata"]["generation"] + bool(patch)
        patched["metadata"]["annotations"]["updated"] = "true"
        answer = await lab.ask("PUT", mine, patched)
        assert answer.status == 200, answer.body
        updated = answer.json()
        assert updated["metadata"]["annotations"] == {"patched": "true", "updated": "true"}

        for subresource in ("approval", "status"):
            if f"{plural}/{subresource}" in served:
                await walk_subresource(lab, mine, subresource, kind)

        answer = await lab.ask("DELETE", mine)
        assert answer.status == 200, answer.body
        gone = await lab.ask("GET", mine)
        assert (gone.status, gone.json()["reason"]) == (404, "NotFound")
        assert len((await lab.ask("GET", path + SELECTED)).json()["items"]) == 2
        answer = await lab.ask("DELETE", path + SELECTED)
        assert answer.status == 200, answer.body
        assert (await lab.ask("GET", path + SELECTED)).json()["items"] == []
        for _ in range(500):
            if [event["type"] for event in seen].count("DELETED") == 3:
                break
            await asyncio.sleep(0.01)
        watch.cancel()
        modified = [event["object"]["metadata"]["annotations"] for event in seen if event["type"] == "MODIFIED"]
        assert modified[:2] == [{"patched": "true"}, {"patched": "true", "updated": "true"}]

    run(use, http=True)


#: {kind: a status that the suite patches in}
STATUSES: dict[str, Json] = {
    "ResourceQuota": {"hard": {"cpu": "1", "memory": "750Mi"}},
    "Ingress": {"loadBalancer": {"ingress": [{"ip": "169.1.1.1"}]}},
}


async def walk_subresource(lab: Lab, path: str, subresource: str, kind: str) -> None:
    path = f"{path}/{subresource}"
    shown = (await lab.ask("GET", path)).json()
    assert shown["kind"] == kind
    condition = {"type": f"{subresource.title()}Patch", "status": "False", "reason": "ByE2E", "message": "from e2e"}
    if kind == "ValidatingAdmissionPolicy":
        condition["lastTransitionTime"] = "2026-01-01T00:00:00Z"
    if kind == "CertificateSigningRequest":
        condition["status"] = "True"
    status = STATUSES.get(kind, {"conditions": [condition]})
    change: Json = {"metadata": {"annotations": {f"patched{subresource}": "true"}}, "status": status}
    answer = await lab.ask("PATCH", path, change, content_type=MERGE)
    assert answer.status == 200, answer.body
    patched = answer.json()
    kept = patched["metadata"].get("annotations", {}).get(f"patched{subresource}")
    assert kept == "true", (subresource, patched)
    if "conditions" in status:
        assert patched["status"]["conditions"][0].items() >= condition.items()
        patched["status"]["conditions"].append({**condition, "type": f"{subresource.title()}Update"})
    else:
        assert holds(patched["status"], status)
    answer = await lab.ask("PUT", path, patched)
    assert answer.status == 200, answer.body
    if "conditions" in status:
        types = [one["type"] for one in answer.json()["status"]["conditions"]]
        assert f"{subresource.title()}Update" in types


EVENT: Json = {
    "eventTime": "2026-01-02T03:04:05.000006Z",
    "reportingController": "test-controller",
    "reportingInstance": "test-node",
    "action": "Do",
    "reason": "Test",
    "regarding": {"kind": "Pod", "name": "a", "namespace": "default"},
    "note": "This is an event",
    "type": "Normal",
}


def test_events_are_selected_by_the_names_of_the_group_that_is_asked() -> None:
    async def use(lab: Lab) -> None:
        core, new = "/api/v1/namespaces/default/events", "/apis/events.k8s.io/v1/namespaces/default/events"
        for name, controller in (("a", "test-controller"), ("b", "another")):
            body = {"metadata": {"name": name}, **EVENT, "reportingController": controller}
            assert (await lab.ask("POST", new, body)).status == 201
        for path, selector, found in (
            (new, "reportingController=test-controller", ["a"]),
            ("/apis/events.k8s.io/v1/events", "reportingController!=test-controller,regarding.kind=Pod", ["b"]),
            (core, "reportingComponent=test-controller", ["a"]),
            (core, "involvedObject.kind=Pod,reportingComponent=another", ["b"]),
            (new, "metadata.name=b,type=Normal,reason=Test", ["b"]),
        ):
            answer = await lab.ask("GET", f"{path}?fieldSelector={selector.replace('=', '%3D').replace(',', '%2C')}")
            assert [item["metadata"]["name"] for item in answer.json()["items"]] == found, (selector, answer.body)
        answer = await lab.ask("GET", f"{new}?fieldSelector=reportingComponent%3Da")
        assert answer.status == 400
        series = {"series": {"count": 2, "lastObservedTime": "2017-09-19T13:49:16.000000Z"}}
        answer = await lab.ask("PATCH", f"{new}/a", series, content_type="application/strategic-merge-patch+json")
        assert (answer.status, answer.json()["series"]) == (200, series["series"])

    run(use, http=True)
