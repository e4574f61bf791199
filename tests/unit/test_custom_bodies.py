"""What a body must say of itself to be an object of a custom resource, in upstream's words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from api_lab import Lab, run
from custom_lab import NAME, WIDGETS, established, widget
from msgspec.structs import replace

from kaa.api.custom import CustomObject
from kaa.api.resources import Resource
from kaa.api.types.apiextensions_v1 import CustomResourceDefinition
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.client.client import Client, WatchType
from kaa.controllers.served import rows_of

MERGE = "application/merge-patch+json"
FORMATS = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
OTHER_VERSION = "the API version in the data ({}) does not match the expected API version (example.com/v1)"
SENT = {"apiVersion": "example.com/v1", "metadata": {"name": "b"}}


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({**widget("b", size=3), "apiVersion": "example.com/v2"}, 400, OTHER_VERSION.format("example.com/v2")),
        ({**widget("b", size=3), "apiVersion": "v1"}, 400, OTHER_VERSION.format("v1")),
        ({"kind": "Widget", "metadata": {"name": "b"}}, 400, OTHER_VERSION.format("")),
        (SENT, 400, "the object provided is unrecognized (must be of type Widget): Object 'Kind' is missing in"
         f" '{json.dumps(SENT)}' ({json.dumps(SENT)[:30]} ...)"),
        ({**widget("b", size=3), "kind": "Gadget"}, 422,
         'Gadget.example.com "b" is invalid: kind: Invalid value: "Gadget": must be Widget'),
    ],
    ids=["version", "group", "no version", "no kind", "kind"],
)  # fmt: skip
def test_an_object_is_of_the_kind_and_version_of_its_path(body: dict[str, Any], status: int, message: str) -> None:
    async def use(lab: Lab) -> None:
        await established(lab)
        answer = await lab.ask("POST", WIDGETS, json.dumps(body).encode())
        assert (answer.status, json.loads(answer.body)["message"]) == (status, message)

    run(use, http=True)


def test_no_update_and_no_patch_changes_what_an_object_is() -> None:
    async def use(lab: Lab) -> None:
        await established(lab)
        made = json.loads((await lab.ask("POST", WIDGETS, widget("a", size=3))).body)
        put = await lab.ask("PUT", f"{WIDGETS}/a", {**made, "apiVersion": "example.com/v9"})
        assert json.loads(put.body)["message"] == OTHER_VERSION.format("example.com/v9")
        put = await lab.ask("PUT", f"{WIDGETS}/a", {**made, "kind": "Gadget"})
        assert (put.status, json.loads(put.body)["details"]["kind"]) == (422, "Gadget")
        patched = await lab.ask("PATCH", f"{WIDGETS}/a", {"apiVersion": "example.com/v9"}, content_type=MERGE)
        assert json.loads(patched.body)["message"] == (
            'Widget.example.com "a" is invalid: apiVersion: Invalid value: "example.com/v9": must be example.com/v1'
        )

    run(use, http=True)


@pytest.mark.parametrize("kind", ["application/strategic-merge-patch+json", "text/plain"])
def test_a_patch_of_no_format_for_custom_resources(kind: str) -> None:
    async def use(lab: Lab) -> None:
        await established(lab)
        await lab.ask("POST", WIDGETS, widget("a", size=3))
        answer = json.loads((await lab.ask("PATCH", f"{WIDGETS}/a", {}, content_type=kind)).body)
        assert (answer["code"], answer["reason"]) == (415, "UnsupportedMediaType")
        words = "the body of the request was in an unknown format - accepted media types include"
        assert answer["message"] == f"{words}: {FORMATS}"

    run(use, http=True)


async def by_client(client: Client, resource: Resource[Any]) -> None:
    one = CustomObject(
        kind="Widget", api_version="example.com/v1", metadata=ObjectMeta(name="c", namespace="default"),
        content={"spec": {"size": 3}},
    )  # fmt: skip
    made = await client.create(one, resource=resource)
    assert made.content["spec"] == {"size": 3, "colour": "red"}
    made = await client.update(replace(made, content={"spec": {"size": 4}}), resource=resource)
    made = await client.update_status(replace(made, content={**made.content, "status": {"size": 1}}), resource=resource)
    assert made.content["status"] == {"size": 1}
    with pytest.raises(LookupError, match=r"example.com/v1 Widget is no built-in kind"):
        await client.create(one)


def test_a_client_says_which_resource_serves_a_custom_object() -> None:
    async def use(lab: Lab) -> None:
        await established(lab)
        resource: Resource[Any] = Resource("example.com", "v1", "widgets", "Widget", True, "widget", custom=True)
        await by_client(lab.client, resource)

    run(use, http=True)


def test_controllers_reach_custom_objects_by_the_row_that_they_make() -> None:
    """Their row has no short names, subresources or columns, as the garbage collector's and the namespace controller's."""

    async def use(lab: Lab) -> None:
        await established(lab)
        await lab.ask("POST", WIDGETS, widget("a", size=3))
        row = rows_of(await lab.client.get(CustomResourceDefinition, NAME))
        assert row is not None
        found = await lab.client.list(row)
        assert [one.metadata.name for one in found.items] == ["a"]
        events = lab.client.watch(row, resource_version=found.resource_version)
        await lab.client.delete(row, "a", "default")
        assert (await anext(aiter(events))).type is WatchType.DELETED
        await events.aclose()  # type: ignore[attr-defined]  # it is a generator

    run(use, http=True)
