"""Evictions, as upstream's conformance suite asks for them."""

from __future__ import annotations

from typing import Any

import pytest
from api_lab import Lab, run

PODS = "/api/v1/namespaces/default/pods"
#: Held by a finalizer, so that what the eviction wrote can be read.
POD: dict[str, Any] = {
    "metadata": {"name": "p", "finalizers": ["example.com/held"]},
    "spec": {"containers": [{"name": "c", "image": "busybox:1"}]},
}


@pytest.mark.parametrize(
    ("options", "status", "marked"),
    [
        ({}, 201, True),
        ({"preconditions": {"resourceVersion": "now"}}, 201, True),
        ({"preconditions": {"resourceVersion": "1"}}, 409, False),
        ({"preconditions": {"uid": "another"}}, 409, False),
        ({"dryRun": ["All"]}, 201, False),
    ],
    ids=["plain", "of this version", "of another version", "of another pod", "dry run"],
)
def test_an_eviction_says_on_the_pod_why_it_goes(options: dict[str, Any], status: int, marked: bool) -> None:
    async def use(lab: Lab) -> None:
        made = (await lab.ask("POST", PODS, POD)).json()
        if "now" in str(options):
            options["preconditions"] = {"resourceVersion": made["metadata"]["resourceVersion"]}
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}, "deleteOptions": options}
        answer = await lab.ask("POST", f"{PODS}/p/eviction", eviction)
        assert answer.status == status, answer.body
        pod = (await lab.ask("GET", f"{PODS}/p")).json()
        assert ("deletionTimestamp" in pod["metadata"]) == marked
        targets = [c for c in pod["status"].get("conditions", ()) if c["type"] == "DisruptionTarget"]
        said = [(c["status"], c["reason"], c["message"]) for c in targets]
        assert said == ([("True", "EvictionByEvictionAPI", "Eviction API: evicting")] if marked else [])

    run(use, http=True)
