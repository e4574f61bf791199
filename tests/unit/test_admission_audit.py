"""What webhooks and policies leave in the audit log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import api_lab
from api_lab import Lab
from webhook_configs import ADMISSION, configure, create, put, rule, webhook
from webhook_lab import Json, allow, webhook_server

from kaa.apiserver.options import ApiServerOptions


def audited(tmp_path: Path, test: Any) -> dict[str, str]:
    """The annotations of the one request on configmaps that a test makes."""
    policy, log = tmp_path / "policy.yaml", tmp_path / "audit.log"
    rules = "omitStages: [RequestReceived]\nrules: [{level: Metadata, resources: [{resources: [configmaps]}]}]\n"
    policy.write_text(f"apiVersion: audit.k8s.io/v1\nkind: Policy\n{rules}")
    options = ApiServerOptions(audit_policy_file=str(policy), audit_log_path=str(log))
    api_lab.run(test, http=True, options=options)
    [event] = [json.loads(line) for line in log.read_text().splitlines()]
    found: dict[str, str] = event["annotations"]
    return found


def test_webhooks_say_what_they_did(tmp_path: Path) -> None:
    def answer(path: str, review: Json) -> Any:
        if path == "/broken":
            return (500, "text/plain", b"boom")
        return allow(review, patch=put("/data/x", "y"), auditAnnotations={"why": "because"})

    async def test(lab: Lab) -> None:
        async with webhook_server(answer) as hook:
            broken = webhook(hook, "broken", "/broken", failurePolicy="Ignore")
            await configure(lab, "mutating", webhook(hook), broken)
            assert (await create(lab)).status == 201

    found = audited(tmp_path, test)
    assert found["one.kaa.dev/why"] == "because"
    assert json.loads(found["mutation.webhook.admission.k8s.io/round_0_index_0"]) == {
        "configuration": "config",
        "webhook": "one.kaa.dev",
        "mutated": True,
    }
    assert found["failed-open.mutating.webhook.admission.k8s.io/round_0_index_1"] == "broken.kaa.dev"
    assert found["authorization.k8s.io/decision"] == "allow"


def test_policies_say_what_they_found(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        spec = {
            "matchConstraints": {"resourceRules": [rule()]},
            "validations": [{"expression": "true"}, {"expression": "false", "message": "no"}],
            "auditAnnotations": [
                {"key": "k", "valueExpression": "'k is ' + object.data.k"},
                {"key": "none", "valueExpression": "null"},
            ],
        }
        await lab.ask("POST", f"{ADMISSION}/validatingadmissionpolicies", {"metadata": {"name": "p"}, "spec": spec})
        for name in ("b1", "b2"):
            bound = {"metadata": {"name": name}, "spec": {"policyName": "p", "validationActions": ["Audit"]}}
            await lab.ask("POST", f"{ADMISSION}/validatingadmissionpolicybindings", bound)
        assert (await create(lab)).status == 201

    found = audited(tmp_path, test)
    assert found["p/k"] == "k is v"
    assert "p/none" not in found
    failures = json.loads(found["validation.policy.admission.k8s.io/validation_failure"])
    assert [failure["binding"] for failure in failures] == ["b1", "b2"]
    assert failures[0] == {
        "message": "no",
        "policy": "p",
        "binding": "b1",
        "expressionIndex": 1,
        "validationActions": ["Audit"],
    }
