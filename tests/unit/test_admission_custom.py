"""Webhooks and policies on custom resources: versions, pruning, parameters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from api_lab import Lab, run
from webhook_configs import ADMISSION, configmap, configure, create, put, rule, serve, webhook
from webhook_lab import Json, Webhook, allow, deny

GROUP = "example.com"
SCHEMA = {
    "type": "object",
    "properties": {
        "spec": {"type": "object", "properties": {"size": {"type": "integer"}, "color": {"type": "string"}}}
    },
}


@asynccontextmanager
async def defined(lab: Lab) -> AsyncIterator[None]:
    """Widgets in v1 and v2, stored as v1."""
    definitions = lab.plane.definitions
    await definitions.start()
    running = asyncio.create_task(definitions.run(), name="definitions")
    versions = [
        {"name": name, "served": True, "storage": name == "v1", "schema": {"openAPIV3Schema": SCHEMA}}
        for name in ("v1", "v2")
    ]
    names = {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"}
    spec = {"group": GROUP, "scope": "Namespaced", "names": names, "versions": versions}
    body = {"metadata": {"name": f"widgets.{GROUP}"}, "spec": spec}
    try:
        made = await lab.ask("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body)
        assert made.status == 201, made.body
        for _ in range(500):
            if (await lab.ask("GET", widgets("v1"))).status == 200:
                break
            await asyncio.sleep(0.01)
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def widgets(version: str, name: str = "") -> str:
    return f"/apis/{GROUP}/{version}/namespaces/default/widgets" + (f"/{name}" if name else "")


def widget(version: str, **spec: Any) -> Json:
    return {"apiVersion": f"{GROUP}/{version}", "kind": "Widget", "metadata": {"name": "w"}, "spec": spec}


def test_a_webhook_sees_the_version_that_it_asked_for() -> None:
    def answer(path: str, review: Json) -> Json:
        request = review["request"]
        if request["operation"] == "DELETE" or path == "/look":
            return allow(review)
        return allow(review, patch=put("/spec/color", "red") + put("/spec/unknown", 1))

    async def test(lab: Lab, hook: Webhook) -> None:
        async with defined(lab):
            only_v1 = rule("widgets", apiGroups=[GROUP], apiVersions=["v1"])
            await configure(lab, "mutating", webhook(hook, rules=[only_v1]))
            exact = webhook(hook, "exact", "/look", rules=[only_v1], matchPolicy="Exact")
            both = webhook(hook, "both", "/look", rules=[rule("widgets", apiGroups=[GROUP])])
            await configure(lab, "validating", exact, both)
            made = await lab.ask("POST", widgets("v2"), widget("v2", size=1))
            assert made.status == 201, made.body
            assert made.json()["apiVersion"] == f"{GROUP}/v2"
            assert made.json()["spec"] == {"size": 1, "color": "red"}  # what the schema does not know is pruned
            (first_path, first), (last_path, last) = ((path, r["request"]) for path, r in hook.seen)
            assert (first_path.partition("?")[0], last_path.partition("?")[0]) == ("/x", "/look")
            assert first["kind"]["version"] == first["resource"]["version"] == "v1"
            assert first["requestKind"]["version"] == first["requestResource"]["version"] == "v2"
            assert first["object"]["apiVersion"] == f"{GROUP}/v1"
            assert last["kind"]["version"] == last["requestKind"]["version"] == "v2"
            assert last["object"]["apiVersion"] == f"{GROUP}/v2"
            assert last["object"]["spec"] == {"size": 1, "color": "red"}
            hook.seen.clear()
            assert (await lab.ask("DELETE", widgets("v2", "w"))).status == 200
            assert [r["oldObject"]["apiVersion"] for r in hook.requests] == [f"{GROUP}/v1", f"{GROUP}/v2"]

    serve(answer, test)


def test_creations_changes_and_deletions_are_refused() -> None:
    def answer(path: str, review: Json) -> Json:
        request = review["request"]
        bad = (request["object"] or request["oldObject"])["spec"]["size"] > 1
        return deny(review, "too big", 403) if bad or request["operation"] == "DELETE" else allow(review)

    async def test(lab: Lab, hook: Webhook) -> None:
        async with defined(lab):
            await configure(lab, "validating", webhook(hook, rules=[rule("widgets", apiGroups=[GROUP])]))
            assert (await lab.ask("POST", widgets("v1"), widget("v1", size=2))).status == 403
            assert (await lab.ask("POST", widgets("v1"), widget("v1", size=1))).status == 201
            patched = await lab.ask(
                "PATCH", widgets("v1", "w"), {"spec": {"size": 3}}, content_type="application/merge-patch+json"
            )
            assert patched.json()["message"] == 'admission webhook "one.kaa.dev" denied the request: too big'
            assert (await lab.ask("DELETE", widgets("v1", "w"))).status == 403

    serve(answer, test)


def test_a_definition_can_be_refused() -> None:
    async def test(lab: Lab, hook: Webhook) -> None:
        await configure(lab, "validating", webhook(hook, rules=[rule("customresourcedefinitions")]))
        names = {"plural": "widgets", "kind": "Widget"}
        version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": SCHEMA}}
        spec = {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [version]}
        body = {"metadata": {"name": f"widgets.{GROUP}"}, "spec": spec}
        made = await lab.ask("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body)
        assert made.json()["message"] == 'admission webhook "one.kaa.dev" denied the request: no'

    serve(lambda path, review: deny(review, "no"), test)


def test_parameters_and_mutations_of_a_custom_kind() -> None:
    async def test(lab: Lab) -> None:
        async with defined(lab):
            await lab.ask("POST", widgets("v1"), widget("v1", size=3))
            spec = {
                "paramKind": {"apiVersion": f"{GROUP}/v1", "kind": "Widget"},
                "matchConstraints": {"resourceRules": [rule()]},
                "validations": [{"expression": "size(object.data.k) <= params.spec.size"}],
            }
            await lab.ask("POST", f"{ADMISSION}/validatingadmissionpolicies", {"metadata": {"name": "p"}, "spec": spec})
            ref = {"name": "w", "parameterNotFoundAction": "Deny"}
            bound = {
                "metadata": {"name": "p"},
                "spec": {"policyName": "p", "validationActions": ["Deny"], "paramRef": ref},
            }
            await lab.ask("POST", f"{ADMISSION}/validatingadmissionpolicybindings", bound)
            assert (await create(lab, {**configmap("short"), "data": {"k": "abc"}})).status == 201
            assert (await create(lab, {**configmap("long"), "data": {"k": "abcd"}})).status == 422
            applied = {"expression": "Object{spec: Object.spec{color: 'blue'}}"}
            mutating = {
                "matchConstraints": {"resourceRules": [rule("widgets", "UPDATE")]},
                "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": applied}],
                "reinvocationPolicy": "Never",
            }
            await lab.ask(
                "POST", f"{ADMISSION}/mutatingadmissionpolicies", {"metadata": {"name": "m"}, "spec": mutating}
            )
            bound = {"metadata": {"name": "m"}, "spec": {"policyName": "m"}}
            await lab.ask("POST", f"{ADMISSION}/mutatingadmissionpolicybindings", bound)
            patch = {"spec": {"size": 4}}
            made = await lab.ask("PATCH", widgets("v2", "w"), patch, content_type="application/merge-patch+json")
            assert made.json()["spec"] == {"size": 4, "color": "blue"}, made.body

    run(test, http=True)
