"""A definition's webhook turns objects from one version into another, whoever asks for them in which."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from api_lab import Lab, run
from custom_lab import DEFINITIONS, GROUP, NAME, WIDGETS, definition, status, until
from webhook_configs import configure, rule, webhook
from webhook_lab import Json, Webhook, allow, webhook_server

from kaa.apiserver.custom import definitions

OLD = f"{GROUP}/v1beta1/namespaces/default/widgets"
MERGE = "application/merge-patch+json"


def converted(obj: Json, wanted: str) -> Json:
    """v1 says ``spec.size``; v1beta1 says ``spec.sizeText``."""
    spec = dict(obj["spec"])
    if wanted.endswith("/v1"):
        spec["size"] = int(spec.pop("sizeText"))
    else:
        spec["sizeText"] = str(spec.pop("size"))
    return {**obj, "apiVersion": wanted, "spec": spec}


def answer(path: str, review: Json) -> Json:
    asked = review["request"]
    made = [converted(obj, asked["desiredAPIVersion"]) for obj in asked["objects"]]
    response = {"uid": asked["uid"], "result": {"status": "Success"}, "convertedObjects": made}
    return {"kind": "ConversionReview", "apiVersion": review["apiVersion"], "response": response}


def two_versions(hook: Webhook, storage: str = "v1") -> Json:
    text = {"type": "object", "properties": {"sizeText": {"type": "string"}, "colour": {"type": "string"}}}
    body = definition()
    first = body["spec"]["versions"][0]
    old = {"name": "v1beta1", "served": True, "storage": False,
           "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": text}}}}  # fmt: skip
    for version in (first, old):
        version["storage"] = version["name"] == storage
    webhook = {"clientConfig": hook.client_config("/convert"), "conversionReviewVersions": ["v1"]}
    body["spec"] |= {"versions": [first, old], "conversion": {"strategy": "Webhook", "webhook": webhook}}
    return body


def with_hook(play: Callable[[Lab, Webhook], Awaitable[None]], storage: str = "v1") -> None:
    async def use(lab: Lab) -> None:
        async with webhook_server(answer) as hook:
            made = await lab.ask("POST", DEFINITIONS, two_versions(hook, storage))
            assert made.status == 201, made.body
            await until(lab, WIDGETS, status(200))
            await play(lab, hook)

    run(use, http=True)


def old_widget(name: str, size: str) -> Json:
    return {
        "apiVersion": "example.com/v1beta1",
        "kind": "Widget",
        "metadata": {"name": name},
        "spec": {"sizeText": size},
    }


def body(found: Any) -> Any:
    assert found.status in (200, 201), found.body
    return json.loads(found.body)


def test_each_version_is_read_and_written_through_the_webhook() -> None:
    async def play(lab: Lab, hook: Webhook) -> None:
        made = body(await lab.ask("POST", OLD, old_widget("a", "3")))
        assert (made["apiVersion"], made["spec"]["sizeText"]) == ("example.com/v1beta1", "3")
        assert body(await lab.ask("GET", f"{WIDGETS}/a"))["spec"] == {"size": 3, "colour": "red"}
        patched = body(await lab.ask("PATCH", f"{OLD}/a", {"spec": {"sizeText": "5"}}, content_type=MERGE))
        assert patched["spec"]["sizeText"] == "5"
        applied = await lab.ask(
            "PATCH",
            f"{OLD}/a?fieldManager=x&force=true",
            old_widget("a", "6"),
            content_type="application/apply-patch+yaml",
        )
        assert body(applied)["spec"]["sizeText"] == "6"
        assert body(await lab.ask("GET", f"{WIDGETS}/a"))["spec"]["size"] == 6
        wrong = await lab.ask("PATCH", f"{OLD}/a", {"spec": {"sizeText": "99"}}, content_type=MERGE)
        assert wrong.status == 422
        listed = body(await lab.ask("GET", OLD))["items"]
        assert [(one["apiVersion"], one["spec"]["sizeText"]) for one in listed] == [("example.com/v1beta1", "6")]
        watched = await lab.ask("GET", f"{OLD}?watch=1&timeoutSeconds=1&resourceVersion=0")
        assert json.loads(watched.body.splitlines()[0])["object"]["spec"]["sizeText"] == "6"

    with_hook(play)


def test_a_list_of_what_was_stored_in_two_versions() -> None:
    async def play(lab: Lab, hook: Webhook) -> None:
        body(await lab.ask("POST", OLD, old_widget("a", "3")))
        current = body(await lab.ask("GET", f"{DEFINITIONS}/{NAME}"))
        for version in current["spec"]["versions"]:
            version["storage"] = version["name"] == "v1"
        body(await lab.ask("PUT", f"{DEFINITIONS}/{NAME}", current))
        new = {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "b"}, "spec": {"size": 4}}
        await until(lab, WIDGETS, status(201), "POST", new)
        for path, field, wanted in ((WIDGETS, "size", [3, 4]), (OLD, "sizeText", ["3", "4"])):
            assert [one["spec"][field] for one in body(await lab.ask("GET", path))["items"]] == wanted

    with_hook(play, storage="v1beta1")


def test_the_old_is_served_until_the_new_can_be() -> None:
    async def play(lab: Lab, hook: Webhook) -> None:
        asked, go = asyncio.Event(), asyncio.Event()

        async def late(path: str, review: Json) -> Json:
            asked.set()
            await go.wait()
            return answer(path, review)

        body(await lab.ask("POST", OLD, old_widget("a", "3")))
        current = body(await lab.ask("GET", f"{DEFINITIONS}/{NAME}"))
        for version in current["spec"]["versions"]:
            version["storage"] = version["name"] == "v1"
        hook.handler = late
        body(await lab.ask("PUT", f"{DEFINITIONS}/{NAME}", current))
        await asyncio.wait_for(asked.wait(), 5)
        body(await lab.ask("POST", OLD, old_widget("b", "4")))
        assert [one["spec"]["sizeText"] for one in body(await lab.ask("GET", OLD))["items"]] == ["3", "4"]
        go.set()
        sizes = await asyncio.gather(*(lab.ask("GET", WIDGETS) for _ in range(20)))
        assert [[one["spec"]["size"] for one in body(found)["items"]] for found in sizes] == [[3, 4]] * 20
        await until(lab, f"{WIDGETS}/b", lambda answer: answer.json()["spec"] == {"size": 4, "colour": "red"})
        stored = await lab.plane.store.range("/registry/example.com/widgets/")
        async with asyncio.timeout(5):
            while any(b'"example.com/v1"' not in kv.value for kv in stored.items):
                await asyncio.sleep(0.01)
                stored = await lab.plane.store.range("/registry/example.com/widgets/")

    with_hook(play, storage="v1beta1")


async def store_in(lab: Lab, wanted: str) -> None:
    current = body(await lab.ask("GET", f"{DEFINITIONS}/{NAME}"))
    for version in current["spec"]["versions"]:
        version["storage"] = version["name"] == wanted
    body(await lab.ask("PUT", f"{DEFINITIONS}/{NAME}", current))


async def switched(lab: Lab, held: Any) -> None:
    async with asyncio.timeout(5):
        while lab.plane.api.custom["example.com", "v1beta1", "widgets"] is held:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.01)


def test_a_write_on_its_way_to_the_store_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(lab: Lab, hook: Webhook) -> None:
        asked, go, put = asyncio.Event(), asyncio.Event(), lab.plane.store.put

        async def late(key: str, *args: Any, **kwargs: Any) -> Any:
            if key.startswith("/registry/example.com/widgets/"):
                asked.set()
                await go.wait()
            return await put(key, *args, **kwargs)

        monkeypatch.setattr(lab.plane.store, "put", late)
        creating = asyncio.ensure_future(lab.ask("POST", OLD, old_widget("a", "3")))
        await asyncio.wait_for(asked.wait(), 5)
        held = lab.plane.api.custom["example.com", "v1beta1", "widgets"]
        await store_in(lab, "v1")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(switched(lab, held), 0.05)
        go.set()
        assert body(await creating)["spec"] == {"sizeText": "3"}
        await switched(lab, held)
        assert body(await lab.ask("GET", f"{WIDGETS}/a"))["spec"]["size"] == 3
        assert body(await lab.ask("GET", f"{OLD}/a"))["spec"]["sizeText"] == "3"

    with_hook(play, storage="v1beta1")


def test_what_is_tried_again_does_not_undo_what_came_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(definitions, "RETRY_S", 0.01)

    async def play(lab: Lab, hook: Webhook) -> None:
        asked, go = asyncio.Event(), asyncio.Event()

        async def late(path: str, review: Json) -> Json:
            asked.set()
            await go.wait()
            return answer(path, review)

        def broken(path: str, review: Json) -> Json:
            hook.handler = late
            return {}

        body(await lab.ask("POST", OLD, old_widget("a", "3")))
        hook.handler = broken
        await store_in(lab, "v1")
        await asyncio.wait_for(asked.wait(), 5)
        await store_in(lab, "v1beta1")
        await asyncio.sleep(0.05)
        go.set()
        await asyncio.sleep(0.1)
        row = lab.plane.api.custom["example.com", "v1beta1", "widgets"]
        assert row.stored_as is None
        assert body(await lab.ask("GET", f"{OLD}/a"))["spec"]["sizeText"] == "3"
        assert body(await lab.ask("GET", f"{WIDGETS}/a"))["spec"]["size"] == 3

    with_hook(play, storage="v1beta1")


def test_a_write_under_way_does_not_store_what_is_stored_no_more() -> None:
    async def play(lab: Lab, hook: Webhook) -> None:
        asked, go = asyncio.Event(), asyncio.Event()

        async def late(path: str, review: Json) -> Json:
            if path == "/convert":
                return answer(path, review)
            asked.set()
            await go.wait()
            return allow(review)

        hook.handler = late
        rules = [rule("widgets", "CREATE", apiGroups=["example.com"], apiVersions=["*"])]
        await configure(lab, "validating", webhook(hook, rules=rules))
        creating = asyncio.ensure_future(lab.ask("POST", OLD, old_widget("a", "3")))
        await asyncio.wait_for(asked.wait(), 5)
        held = lab.plane.api.custom["example.com", "v1beta1", "widgets"]
        await store_in(lab, "v1")
        await switched(lab, held)
        await lab.ask("GET", OLD)
        go.set()
        refused = await creating
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert body(await lab.ask("GET", WIDGETS))["items"] == []
        body(await lab.ask("POST", OLD, old_widget("a", "3")))
        assert body(await lab.ask("GET", f"{WIDGETS}/a"))["spec"]["size"] == 3

    with_hook(play, storage="v1beta1")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda response: {**response, "result": {"status": "Failed", "message": "not today"}}, "not today"),
        (lambda response: {**response, "uid": "other"}, "expected response.uid="),
        (lambda response: {**response, "convertedObjects": []}, "webhook returned 0 objects, expected 1"),
        (lambda response: None, "the answer is no ConversionReview"),
        (
            lambda response: {**response, "convertedObjects": [{**response["convertedObjects"][0], "kind": "Gadget"}]},
            "invalid kind (expected Widget, received Gadget) in the converted object at index 0",
        ),
    ],
)
def test_what_a_webhook_may_not_answer(change: Callable[[Json], Json | None], words: str) -> None:
    async def play(lab: Lab, hook: Webhook) -> None:
        def twisted(path: str, review: Json) -> Json:
            made = answer(path, review)
            return {**made, "response": change(made["response"])}

        hook.handler = twisted
        refused = await lab.ask("POST", OLD, old_widget("a", "3"))
        assert refused.status == 500
        message = json.loads(refused.body)["message"]
        assert message.startswith("conversion webhook for example.com/v1beta1, Kind=Widget failed: ")
        assert words in message

    with_hook(play)
