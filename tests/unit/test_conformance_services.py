"""Services that change their type, as upstream's conformance suite changes them."""

from __future__ import annotations

from typing import Any

import pytest
from api_lab import Lab, run

SERVICES = "/api/v1/namespaces/default/services"
PORT = {"name": "http", "port": 80, "targetPort": 80, "protocol": "TCP"}


@pytest.mark.parametrize("kind", ["ClusterIP", "NodePort"])
@pytest.mark.parametrize(
    "cleared",
    [("clusterIP", "clusterIPs"), ("clusterIP",), ()],
    ids=["addresses cleared", "the one address cleared", "all sent back"],
)
def test_a_service_becomes_a_name_and_an_address_again(kind: str, cleared: tuple[str, ...]) -> None:
    async def use(lab: Lab) -> None:
        spec: dict[str, Any] = {"type": "ExternalName", "externalName": "foo.example.com"}
        answer = await lab.ask("POST", SERVICES, {"metadata": {"name": "s"}, "spec": spec})
        service = answer.json()
        service["spec"] = {"type": kind, "ports": [PORT], "selector": {"a": "b"}}
        answer = await lab.ask("PUT", f"{SERVICES}/s", service)
        assert answer.status == 200, answer.body
        service = answer.json()
        assert service["spec"]["clusterIP"]
        assert ("nodePort" in service["spec"]["ports"][0]) == (kind == "NodePort")
        service["spec"].update(type="ExternalName", externalName="bar.example.com")
        for name in cleared:
            del service["spec"][name]
        answer = await lab.ask("PUT", f"{SERVICES}/s", service)
        assert answer.status == 200, answer.body
        spec = answer.json()["spec"]
        assert not {"clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"} & set(spec)
        assert "nodePort" not in spec["ports"][0]

    run(use, http=True)


def test_a_condition_without_a_time_has_none() -> None:
    """Go's clients send null for a time that is not set, and cannot read an empty text as one."""

    async def use(lab: Lab) -> None:
        spec = {"type": "LoadBalancer", "ports": [PORT]}
        await lab.ask("POST", SERVICES, {"metadata": {"name": "s"}, "spec": spec})
        bare = {"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "Set from e2e test"}
        for sent in ({**bare, "lastTransitionTime": None}, bare):
            answer = await lab.ask("GET", f"{SERVICES}/s/status")
            service = {**answer.json(), "status": {"loadBalancer": {}, "conditions": [sent]}}
            answer = await lab.ask("PUT", f"{SERVICES}/s/status", service)
            assert answer.status == 200, answer.body
            assert answer.json()["status"]["conditions"] == [{**bare, "lastTransitionTime": None}]

    run(use, http=True)
