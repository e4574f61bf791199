"""Definitions as they change, and webhooks on their objects: upstream's conformance tests of custom resources."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from api_lab import Lab, run
from custom_lab import DEFINITIONS, status, until
from webhook_configs import configure, rule, webhook
from webhook_lab import Json, allow, deny, webhook_server

GROUP = "e2e.example.com"
JSON_PATCH, MERGE = "application/json-patch+json", "application/merge-patch+json"
OPEN: Json = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
TEXT: Json = {"type": "string"}


def definition(schema: Json = OPEN, versions: tuple[str, ...] = ("v1",), kind: str = "Foo", **labels: str) -> Json:
    """The first version is the stored one."""
    plural = f"{kind.lower()}s"
    rows = [
        {"name": name, "served": True, "storage": name == versions[0], "schema": {"openAPIV3Schema": schema}}
        for name in versions
    ]
    names = {"plural": plural, "singular": kind.lower(), "kind": kind, "listKind": f"{kind}List"}
    return {
        "metadata": {"name": f"{plural}.{GROUP}", "labels": labels},
        "spec": {"group": GROUP, "scope": "Namespaced", "names": names, "versions": rows},
    }


def place(version: str = "v1", plural: str = "foos") -> str:
    return f"/apis/{GROUP}/{version}/namespaces/default/{plural}"


def foo(name: str, version: str = "v1", **content: Any) -> Json:
    return {"apiVersion": f"{GROUP}/{version}", "kind": "Foo", "metadata": {"name": name}, **content}


async def served(lab: Lab, body: Json) -> str:
    """The path of the definition, once its objects are served."""
    made = await lab.ask("POST", DEFINITIONS, body)
    assert made.status == 201, made.body
    plural = body["spec"]["names"]["plural"]
    for version in body["spec"]["versions"]:
        await until(lab, place(version["name"], plural), status(200))
    return f"{DEFINITIONS}/{body['metadata']['name']}"


def test_defaults_come_to_what_is_stored_and_stay_where_they_were_written() -> None:
    async def use(lab: Lab) -> None:
        path = await served(lab, definition({**OPEN, "properties": {"a": TEXT, "b": TEXT}}))
        at = "/spec/versions/0/schema/openAPIV3Schema/properties"
        await lab.ask("POST", place(), foo("before"))
        await lab.ask("PATCH", path, [{"op": "add", "path": f"{at}/a/default", "value": "A"}], content_type=JSON_PATCH)
        await until(lab, f"{place()}/before", lambda answer: answer.json().get("a") == "A")
        assert (await lab.ask("POST", place(), foo("after"))).json()["a"] == "A"
        change = [
            {"op": "remove", "path": f"{at}/a/default"},
            {"op": "add", "path": f"{at}/b/default", "value": "B"},
        ]
        await lab.ask("PATCH", path, change, content_type=JSON_PATCH)
        found = await until(lab, f"{place()}/after", lambda answer: answer.json().get("b") == "B")
        assert found.json()["a"] == "A"
        assert "a" not in (await lab.ask("GET", f"{place()}/before")).json()

    run(use, http=True)


def test_the_status_of_a_definition_takes_conditions_that_say_little() -> None:
    async def use(lab: Lab) -> None:
        path = await served(lab, definition()) + "/status"
        shown = (await lab.ask("GET", path)).json()
        little = {"type": "", "status": "", "lastTransitionTime": None, "message": "updated"}
        shown["status"]["conditions"].append(little)
        answer = await lab.ask("PUT", path, shown)
        assert answer.status == 200, answer.body
        assert answer.json()["status"]["conditions"][-1]["message"] == "updated"
        patch = [{"op": "add", "path": "/status/conditions", "value": [{"message": "patched"}]}]
        answer = await lab.ask("PATCH", path, patch, content_type=JSON_PATCH)
        assert [one["message"] for one in answer.json()["status"]["conditions"]] == ["patched"]

    run(use, http=True)


def test_labelled_definitions_go_together() -> None:
    async def use(lab: Lab) -> None:
        for kind in ("A", "B", "C"):
            await served(lab, definition(kind=kind, **({"e2e": "x"} if kind != "C" else {})))
        query = f"{DEFINITIONS}?labelSelector=e2e%3Dx"
        assert len((await lab.ask("GET", query)).json()["items"]) == 2
        assert (await lab.ask("DELETE", query)).status == 200
        await until(lab, query, lambda answer: not answer.json()["items"])
        assert len((await lab.ask("GET", DEFINITIONS)).json()["items"]) == 1
        await until(lab, place("v1", "as"), status(404))
        assert (await lab.ask("GET", place("v1", "cs"))).status == 200

    run(use, http=True)


def test_openapi_follows_versions() -> None:
    spec = {
        "type": "object",
        "description": "Specification of Foo",
        "properties": {"bars": {"type": "array", "items": TEXT}},
    }
    schema: Json = {"description": "Foo CRD for Testing", "type": "object", "properties": {"spec": spec}}

    async def use(lab: Lab) -> None:
        path = await served(lab, definition(schema, ("v2", "v3")))

        async def published(*versions: str) -> dict[str, Json]:
            wanted = {f"com.example.e2e.{version}.Foo" for version in versions}

            def good(answer: Any) -> bool:
                return {name for name in answer.json()["definitions"] if name.endswith(".Foo")} == wanted

            found = (await until(lab, "/openapi/v2", good)).json()["definitions"]
            return {name: found[name] for name in wanted}

        for made in (await published("v2", "v3")).values():
            own = {
                name: inner
                for name, inner in made["properties"].items()
                if name not in ("apiVersion", "kind", "metadata")
            }
            assert {**made, "properties": own, "x-kubernetes-group-version-kind": 0} == {
                **schema,
                "x-kubernetes-group-version-kind": 0,
            }
        rename = [
            {"op": "test", "path": "/spec/versions/1/name", "value": "v3"},
            {"op": "replace", "path": "/spec/versions/1/name", "value": "v4"},
        ]
        assert (await lab.ask("PATCH", path, rename, content_type=JSON_PATCH)).status == 200
        await published("v2", "v4")
        hide = [{"op": "replace", "path": "/spec/versions/1/served", "value": False}]
        assert (await lab.ask("PATCH", path, hide, content_type=JSON_PATCH)).status == 200
        await published("v2")

    run(use, http=True)


def stages(path: str, review: Json) -> Json:
    """The suite's webhook: start leads to stage 1, stage 1 to stage 2."""
    data = review["request"]["object"].get("data") or {}
    for before, after in (("mutation-stage-1", "mutation-stage-2"), ("mutation-start", "mutation-stage-1")):
        if data.get(before) == "yes":
            return allow(review, patch=[{"op": "add", "path": f"/data/{after}", "value": "yes"}])
    return allow(review)


def with_webhook(play: Callable[[Lab, Any], Any], handler: Any = stages) -> None:
    async def use(lab: Lab) -> None:
        async with webhook_server(handler) as hook:
            await play(lab, hook)

    run(use, http=True)


def test_webhooks_change_custom_objects_and_pruning_comes_after_them() -> None:
    rules = [rule("foos", "CREATE", apiGroups=[GROUP])]

    async def play(lab: Lab, hook: Any) -> None:
        fields = {"mutation-start": TEXT, "mutation-stage-1": TEXT}
        data = {"type": "object", "properties": fields}
        await served(lab, definition({"type": "object", "properties": {"data": data}}))
        await configure(lab, "mutating", *(webhook(hook, name, rules=rules) for name in ("one", "two")))
        made = await lab.ask("POST", place(), foo("a", data={"mutation-start": "yes"}))
        assert made.json()["data"] == {"mutation-start": "yes", "mutation-stage-1": "yes"}

    with_webhook(play)


def test_webhooks_see_the_version_of_the_request_whatever_version_is_stored() -> None:
    rules = [rule("foos", "CREATE UPDATE", apiGroups=[GROUP], apiVersions=["v1"])]

    async def play(lab: Lab, hook: Any) -> None:
        body = definition(versions=("v1", "v2"))
        path = await served(lab, body)
        await configure(lab, "mutating", webhook(hook, rules=rules))
        assert (await lab.ask("POST", place(), foo("a", data={"mutation-start": "no"}))).status == 201
        for version in body["spec"]["versions"]:
            version["storage"] = version["name"] == "v2"
        stored = await lab.ask("PATCH", path, {"spec": {"versions": body["spec"]["versions"]}}, content_type=MERGE)
        assert stored.status == 200, stored.body
        change = {"data": {"mutation-start": "yes"}}
        patched = await lab.ask("PATCH", f"{place()}/a", change, content_type=MERGE)
        assert patched.json()["data"] == {"mutation-start": "yes", "mutation-stage-1": "yes"}
        assert patched.json()["apiVersion"] == f"{GROUP}/v1"
        assert {entry["apiVersion"] for entry in patched.json()["metadata"]["managedFields"]} == {f"{GROUP}/v1"}
        assert {request["object"]["apiVersion"] for request in hook.requests} == {f"{GROUP}/v1"}
        assert (await lab.ask("GET", path)).json()["status"]["storedVersions"] == ["v1", "v2"]

    with_webhook(play)


def test_definitions_and_attaching_can_be_denied() -> None:
    def no(path: str, review: Json) -> Json:
        return deny(review, "not allowed")

    async def play(lab: Lab, hook: Any) -> None:
        rules = [rule("customresourcedefinitions", "CREATE"), rule("pods/attach", "CONNECT")]
        pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
        assert (await lab.ask("POST", "/api/v1/namespaces/default/pods", pod)).status == 201
        await configure(lab, "validating", webhook(hook, rules=rules))
        made = lab.ask("POST", DEFINITIONS, definition())
        attached = lab.ask(
            "POST", "/api/v1/namespaces/default/pods/p/attach?container=c&stdout=1"
        )  # it runs nowhere yet
        for answer in await asyncio.gather(made, attached):
            assert answer.json()["message"] == 'admission webhook "one.kaa.dev" denied the request: not allowed'

    with_webhook(play, no)


def test_a_quota_counts_custom_objects_of_every_version() -> None:
    counted = f"count/foos.{GROUP}"

    async def use(lab: Lab) -> None:
        await served(lab, definition(versions=("v1", "v2")))
        quotas = "/api/v1/namespaces/default/resourcequotas"
        quota = {"metadata": {"name": "few"}, "spec": {"hard": {counted: "2"}}}
        assert (await lab.ask("POST", quotas, quota)).status == 201
        assert (await lab.ask("POST", place(), foo("a"))).status == 201
        assert (await lab.ask("POST", place("v2"), foo("b", "v2"))).status == 201
        for version in ("v1", "v2"):
            refused = await lab.ask("POST", place(version), foo("c", version))
            assert refused.status == 403
            assert refused.json()["message"] == (
                f'foos.{GROUP} "c" is forbidden: exceeded quota: few, requested: {counted}=1, used: {counted}=2, '
                f"limited: {counted}=2"
            )
        await lab.ask("DELETE", f"{place()}/a")
        assert (await lab.ask("POST", place(), foo("c"))).status == 201

    run(use, http=True)


def test_a_definition_that_changes_is_served_all_the_time() -> None:
    async def use(lab: Lab) -> None:
        path = await served(lab, definition())
        assert (await lab.ask("POST", place(), foo("a"))).status == 201
        changing = True

        async def ask() -> list[int]:
            seen = []
            while changing:
                seen.append((await lab.ask("PATCH", f"{place()}/a", {"n": len(seen)}, content_type=MERGE)).status)
            return seen

        asking = [asyncio.ensure_future(ask()) for _ in range(3)]
        at = "/spec/versions/0/schema/openAPIV3Schema/description"
        for n in range(10):
            change = [{"op": "add", "path": at, "value": str(n)}]
            assert (await lab.ask("PATCH", path, change, content_type=JSON_PATCH)).status == 200
        changing = False
        assert {status for seen in await asyncio.gather(*asking) for status in seen} <= {200, 409}

    run(use, http=True)
