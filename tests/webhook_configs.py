"""Webhook configurations for tests, and the API server that they stand in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from api_lab import Answer, Lab, run
from webhook_lab import Handler, Json, Webhook, webhook_server

ADMISSION = "/apis/admissionregistration.k8s.io/v1"
CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
KINDS = {"mutatingwebhookconfigurations": "Mutating", "validatingwebhookconfigurations": "Validating"}


def rule(resources: str = "configmaps", operations: str = "*", **more: Any) -> Json:
    made: Json = {
        "operations": operations.split(),
        "apiGroups": ["*"],
        "apiVersions": ["*"],
        "resources": resources.split(),
    }
    return {**made, **more}


def webhook(hook: Webhook, name: str = "one", path: str = "/x", **more: Any) -> Json:
    return {
        "name": f"{name}.kaa.dev",
        "clientConfig": hook.client_config(path),
        "rules": [rule()],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        **more,
    }


async def configure(lab: Lab, phase: str, *webhooks: Json, name: str = "config") -> None:
    """``phase`` is mutating or validating."""
    body = {"metadata": {"name": name}, "webhooks": list(webhooks)}
    answer = await lab.ask("POST", f"{ADMISSION}/{phase}webhookconfigurations", body)
    assert answer.status == 201, answer.body


def configmap(name: str = "a", **metadata: Any) -> Json:
    return {"metadata": {"name": name, **metadata}, "data": {"k": "v"}}


async def create(lab: Lab, body: Json | None = None, query: str = "") -> Answer:
    return await lab.ask("POST", f"{CONFIGMAPS}{query}", configmap() if body is None else body)


def serve(handler: Handler, test: Callable[[Lab, Webhook], Awaitable[None]]) -> None:
    """Run a test with an API server on HTTPS and one webhook server."""

    async def use(lab: Lab) -> None:
        async with webhook_server(handler) as hook:
            await test(lab, hook)
            lab.plane.dynamic.caller.close()

    run(use, http=True)


def put(path: str, value: Any) -> list[Json]:
    """A JSON patch that adds one value."""
    return [{"op": "add", "path": path, "value": value}]
