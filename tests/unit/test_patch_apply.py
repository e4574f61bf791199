"""Server-side apply on a writer that stores nothing else."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
import pytest
from msgspec.structs import replace

from kaa.api import scheme
from kaa.api.clock import VirtualClock
from kaa.api.custom import CustomObject
from kaa.api.errors import ApiError, Conflict
from kaa.api.resources import Resource
from kaa.api.types.apps_v1 import Deployment
from kaa.api.types.core_v1 import ConfigMap, Pod
from kaa.apiserver.patch.apply import LAST_APPLIED, Applier
from kaa.apiserver.patch.managed_fields import Tracker
from kaa.apiserver.patch.type_view import view_of_schema
from kaa.apiserver.registry.strategy import Strategy
from kaa.apiserver.writes import Writer, Written
from kaa.client.pipeline import Request, User


@dataclass
class World:
    """One object, as a Writer without store, defaults and admission would keep it."""

    resource: Resource[Any]
    type_view: Any = None
    obj: Any = None
    clock: VirtualClock = field(default_factory=VirtualClock)

    def strategy_for(self, _: Resource[Any]) -> Strategy[Any]:
        strategy = Strategy[Any]()
        strategy.type_view = self.type_view  # type: ignore[attr-defined]  # as a custom resource's strategy has it
        return strategy

    async def change(
        self, request: Request, change: Any, warnings: Any = None, *, operation: str = "Update"
    ) -> Written:
        tracker = Tracker(request, self.strategy_for(self.resource), self.clock)
        new = change(self.obj)
        self.obj = tracker.created(new) if self.obj is None else tracker.updated(new, self.obj, operation)
        return Written(200, None, self.obj, list(warnings or ()))

    def request(self, body: Any, by: str, **options: str) -> Request:
        subresource = options.pop("subresource", "")
        data = body.encode() if isinstance(body, str) else msgspec.json.encode(body)
        options = {"fieldManager": by, **options}
        kind = "application/apply-patch+yaml"
        return Request(User("u"), "patch", self.resource, "default", "x", subresource, data, kind, options)

    def apply(self, body: Any, by: str = "one", **options: str) -> Any:
        if isinstance(body, dict):
            body = {
                "apiVersion": self.resource.api_version,
                "kind": self.resource.kind,
                "metadata": {"name": "x"},
                **body,
            }
        writer = cast(Writer, self)
        return asyncio.run(Applier(writer).apply(self.request(body, by, **options))).object

    def update(self, new: Any, by: str, subresource: str = "") -> None:
        request = replace_request(self.request({}, by), subresource)
        self.obj = Tracker(request, self.strategy_for(self.resource), self.clock).updated(new, self.obj, "Update")

    @property
    def owned(self) -> dict[str, Any]:
        return {entry.manager: entry.fields_v1 for entry in self.obj.metadata.managed_fields}


def replace_request(request: Request, subresource: str) -> Request:
    return Request(
        request.user, "update", request.resource, "default", "x", subresource, None, "application/json", request.options
    )


def world(kind: Any) -> World:
    return World(scheme.resource_of(kind))


def containers(*items: dict[str, Any]) -> dict[str, Any]:
    selector = {"matchLabels": {"app": "web"}}
    return {"spec": {"selector": selector, "template": {"spec": {"containers": list(items)}}}}


def test_what_is_no_longer_sent_goes() -> None:
    w = world(ConfigMap)
    w.apply({"data": {"a": "1", "b": "1"}})
    assert w.owned == {"one": {"f:data": {"f:a": {}, "f:b": {}}}}
    w.apply({"data": {"a": "1"}})
    assert w.obj.data == {"a": "1"}
    w.apply({})
    assert w.obj.data == {}
    assert w.owned == {}


def test_what_another_owns_too_stays() -> None:
    w = world(ConfigMap)
    w.apply({"data": {"a": "1", "b": "1"}})
    w.apply({"data": {"a": "1"}}, by="two")
    w.apply({}, by="one")
    assert w.obj.data == {"a": "1"}
    assert w.owned == {"two": {"f:data": {"f:a": {}}}}


def test_one_conflict_is_named() -> None:
    w = world(ConfigMap)
    w.apply({"data": {"a": "1"}})
    with pytest.raises(Conflict) as caught:
        w.apply({"data": {"a": "2"}}, by="two")
    assert caught.value.message == 'Apply failed with 1 conflict: conflict with "one": .data.a'
    (cause,) = caught.value.details.causes
    assert (cause.reason, cause.message, cause.field) == ("FieldManagerConflict", 'conflict with "one"', ".data.a")


def test_several_conflicts_are_listed_by_manager() -> None:
    w = world(Deployment)
    w.apply(containers({"name": "c", "image": "a"}))
    w.update(replace(w.obj, spec=replace(w.obj.spec, replicas=3)), by="scaler", subresource="scale")
    with pytest.raises(Conflict) as caught:
        w.apply(
            {"spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "c", "image": "b"}]}}}}, by="two"
        )
    assert caught.value.message == (
        'Apply failed with 2 conflicts: conflicts with "one":\n- .spec.template.spec.containers[name="c"].image\n'
        'conflicts with "scaler" with subresource "scale" using apps/v1:\n- .spec.replicas'
    )


def test_force_takes_the_field() -> None:
    w = world(ConfigMap)
    w.apply({"data": {"a": "1", "b": "1"}})
    w.apply({"data": {"a": "2"}}, by="two", force="true")
    assert w.obj.data == {"a": "2", "b": "1"}
    assert w.owned == {"one": {"f:data": {"f:b": {}}}, "two": {"f:data": {"f:a": {}}}}


def test_applying_again_changes_nothing() -> None:
    w = world(Deployment)
    body = containers({"name": "c", "image": "a", "ports": [{"containerPort": 80}]})
    first = w.apply(body)
    w.clock._now += 60  # later
    assert w.apply(body) == first


def test_keyed_lists_merge_and_keep_the_senders_order() -> None:
    w = world(Deployment)
    w.apply(containers({"name": "a"}, {"name": "b"}))
    w.apply(
        {"spec": {"template": {"spec": {"containers": [{"name": "z"}, {"name": "b", "image": "i"}]}}}},
        by="two",
    )
    found = w.obj.spec.template.spec.containers
    assert [c.name for c in found] == ["a", "z", "b"]
    assert found[2].image == "i"
    w.apply(containers({"name": "b"}))
    assert [c.name for c in w.obj.spec.template.spec.containers] == ["z", "b"]


@pytest.mark.parametrize(
    ("ports", "problem"),
    [
        pytest.param(
            [{"containerPort": 443}, {"containerPort": 443}],
            '.spec.template.spec.containers[name="c"].ports: duplicate entries for key [containerPort=443,protocol="TCP"]',
            id="twice one key",
        ),
        pytest.param(
            [{"name": "web"}],
            '.spec.template.spec.containers[name="c"].ports: element 0: associative list with keys has an element that'
            ' omits key field "containerPort" (and doesn\'t have default value)',
            id="no key",
        ),
        pytest.param(
            [{"containerPort": 1, "nope": 1}],
            '.spec.template.spec.containers[name="c"].ports[containerPort=1,protocol="TCP"].nope: field not declared in schema',
            id="unknown field",
        ),
    ],
)
def test_documents_that_cannot_be(ports: list[Any], problem: str) -> None:
    w = world(Deployment)
    with pytest.raises(ApiError) as caught:
        w.apply(containers({"name": "c", "ports": ports}))
    assert (caught.value.status.code, caught.value.status.reason) == (500, None)
    assert caught.value.message == f"failed to create typed patch object (/x; apps/v1, Kind=Deployment): {problem}"


def test_refusals_before_anything_is_read() -> None:
    w = world(ConfigMap)
    for body, words in [
        ({"metadata": {"name": "x", "managedFields": [{}]}}, "metadata.managedFields must be nil"),
        ({"metadata": {"name": "y"}}, "the name of the object (y) does not match the name on the URL (x)"),
        ({"apiVersion": "v2"}, "Incorrect version specified in apply patch. Specified patch version: v2, expected: v1"),
    ]:
        with pytest.raises(ApiError) as refused:
            w.apply(body)
        assert (refused.value.status.code, refused.value.message) == (400, words)


def test_yaml() -> None:
    w = world(ConfigMap)
    w.apply("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: x\ndata:\n  a: b\n")
    assert w.obj.data == {"a": "b"}


def test_an_object_without_owners_belonged_to_whoever_was_there() -> None:
    w = world(ConfigMap)
    w.obj = scheme.convert(ConfigMap, {"metadata": {"name": "x"}, "data": {"a": "1"}})
    w.apply({"data": {"b": "1"}})
    assert w.owned == {"one": {"f:data": {"f:b": {}}}, "before-first-apply": {"f:data": {".": {}, "f:a": {}}}}


def test_kubectl_takes_over_what_it_applied_from_the_clients_side() -> None:
    w = world(ConfigMap)
    sent = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "1", "b": "1"}}
    text = msgspec.json.encode(sent).decode()
    plain = scheme.convert(ConfigMap, {**sent, "metadata": {"name": "x", "annotations": {LAST_APPLIED: text}}})
    request = replace_request(w.request({}, "kubectl-client-side-apply"), "")
    w.obj = Tracker(request, Strategy[Any](), w.clock).created(plain)
    w.apply({"data": {"a": "2", "b": "1"}}, by="kubectl")
    assert w.obj.data == {"a": "2", "b": "1"}
    assert '"a":"2"' in w.obj.metadata.annotations[LAST_APPLIED]
    w.update(replace(w.obj, data={"a": "3", "b": "1"}), by="editor")
    with pytest.raises(Conflict, match=r'"editor" using v1: \.data\.a'):
        w.apply({"data": {"a": "2", "b": "1"}}, by="kubectl")


def test_status_is_applied_through_its_subresource() -> None:
    w = world(Pod)
    w.obj = scheme.convert(Pod, {"metadata": {"name": "x"}, "spec": {"containers": []}})
    w.apply({"status": {"phase": "Running"}, "spec": {"nodeName": "n"}}, subresource="status")
    assert w.owned == {"one": {"f:status": {"f:phase": {}}}}


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "properties": {
                "size": {"type": "integer"},
                "parts": {
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name"],
                    "items": {"type": "object", "properties": {"name": {"type": "string"}, "n": {"type": "integer"}}},
                },
                "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            },
        }
    },
}


def test_custom_resources_merge_by_their_schema() -> None:
    resource: Resource[Any] = Resource("example.com", "v1", "widgets", "Widget", True, "widget", custom=True)
    w = World(resource, view_of_schema(SCHEMA))
    w.apply({"spec": {"size": 1, "parts": [{"name": "a", "n": 1}], "tags": ["x"]}})
    w.apply({"spec": {"parts": [{"name": "b"}], "tags": ["y"]}}, by="two")
    assert isinstance(w.obj, CustomObject)
    assert w.obj.content["spec"] == {"size": 1, "parts": [{"name": "a", "n": 1}, {"name": "b"}], "tags": ["x", "y"]}
    assert w.owned["two"] == {
        "f:spec": {"f:parts": {'k:{"name":"b"}': {".": {}, "f:name": {}}}, "f:tags": {'v:"y"': {}}}
    }
    w.apply({"spec": {"size": 1}})
    assert w.obj.content["spec"] == {"size": 1, "parts": [{"name": "b"}], "tags": ["y"]}


def test_custom_resources_without_a_schema_merge_maps_and_replace_lists() -> None:
    resource: Resource[Any] = Resource("example.com", "v1", "widgets", "Widget", True, "widget", custom=True)
    w = World(resource)
    w.apply({"spec": {"a": {"b": 1}, "of": [1, 2]}})
    w.apply({"spec": {"a": {"c": 1}}}, by="two")
    assert w.obj.content["spec"] == {"a": {"b": 1, "c": 1}, "of": [1, 2]}
    with pytest.raises(Conflict, match=r"\.spec\.of"):
        w.apply({"spec": {"of": [3]}}, by="two")
