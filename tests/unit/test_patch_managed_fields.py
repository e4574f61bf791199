"""managedFields: who owns what after a write."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from kaa.api import scheme
from kaa.api.clock import VirtualClock, format_time
from kaa.api.custom import from_document
from kaa.api.resources import Resource
from kaa.api.types.core_v1 import ConfigMap, Pod, Service
from kaa.api.types.meta_v1 import ManagedFieldsEntry
from kaa.apiserver.patch.field_sets import LEAF, difference, intersection, members, of_paths, union, without_trees
from kaa.apiserver.patch.managed_fields import Tracker, capped, manager_of, without_new_times
from kaa.apiserver.registry.strategy import Strategy
from kaa.client.pipeline import Request, User

CLOCK = VirtualClock()
NOW = format_time(CLOCK.now())


def tracker(kind: Any, *, by: str = "kubectl", subresource: str = "", verb: str = "update") -> Tracker:
    resource = scheme.resource_of(kind)
    request = Request(User("u"), verb, resource, "default", "x", subresource, options={"fieldManager": by})
    return Tracker(request, Strategy[Any](), CLOCK)


def make(kind: Any, **document: Any) -> Any:
    return scheme.convert(kind, {"metadata": {"name": "x"}, **document})


def owned(obj: Any) -> dict[str, Any]:
    return {entry.manager: entry.fields_v1 for entry in obj.metadata.managed_fields}


def test_a_creator_owns_what_it_set_and_not_what_go_puts_there() -> None:
    pod = make(Pod, spec={"containers": [{"name": "c", "image": "nginx", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]})  # fmt: skip
    made = tracker(Pod).created(pod)
    container: dict[str, Any] = {
        ".": {},
        "f:image": {},
        "f:name": {},
        "f:ports": {
            ".": {},
            'k:{"containerPort":80,"protocol":"TCP"}': {".": {}, "f:containerPort": {}, "f:protocol": {}},
        },
        "f:resources": {},
    }
    assert made.metadata.managed_fields == (
        ManagedFieldsEntry(
            manager="kubectl",
            operation="Update",
            api_version="v1",
            time=NOW,
            fields_type="FieldsV1",
            fields_v1={"f:spec": {"f:containers": {'k:{"name":"c"}': container}}},
        ),
    )


def test_metadata_of_the_server_and_status_are_nobodys() -> None:
    pod = make(Pod, spec={"containers": []}, status={"phase": "Running"})
    assert tracker(Pod).created(pod).metadata.managed_fields == ()


def test_atomic_maps_are_one_field() -> None:
    made = tracker(Service).created(make(Service, spec={"selector": {"app": "web"}}))
    assert owned(made) == {"kubectl": {"f:spec": {"f:selector": {}}}}


def test_a_change_moves_the_field() -> None:
    old = tracker(ConfigMap).created(make(ConfigMap, data={"a": "1", "b": "1"}))
    new = tracker(ConfigMap, by="other").updated(replace(old, data={"a": "2", "b": "1"}), old, "Update")
    assert owned(new) == {"kubectl": {"f:data": {".": {}, "f:b": {}}}, "other": {"f:data": {"f:a": {}}}}


def test_an_entry_that_loses_everything_vanishes() -> None:
    old = tracker(ConfigMap).created(make(ConfigMap, data={"a": "1"}))
    new = tracker(ConfigMap, by="other").updated(replace(old, data={}), old, "Update")
    assert owned(new) == {}


def test_a_status_write_has_an_entry_of_its_own() -> None:
    old = tracker(Pod).created(make(Pod, spec={"containers": [{"name": "c"}]}))
    wanted = replace(old, status=replace(old.status, phase="Running"))
    new = tracker(Pod, subresource="status").updated(wanted, old, "Update")
    assert new.metadata.managed_fields[0] is old.metadata.managed_fields[0]
    entry = new.metadata.managed_fields[1]
    assert (entry.manager, entry.subresource, entry.fields_v1) == ("kubectl", "status", {"f:status": {"f:phase": {}}})


def test_nothing_changed_nothing_moved() -> None:
    old = tracker(ConfigMap).created(make(ConfigMap, data={"a": "1"}))
    sent = replace(old, metadata=replace(old.metadata, managed_fields=()))
    new = tracker(ConfigMap, by="other").updated(sent, old, "Update")
    assert new == old


def test_an_update_that_is_undone_keeps_its_time() -> None:
    old = tracker(ConfigMap).created(make(ConfigMap, data={"a": "1"}))
    later = tuple(replace(entry, time="2030-01-01T00:00:00Z") for entry in old.metadata.managed_fields)
    assert without_new_times(replace(old, metadata=replace(old.metadata, managed_fields=later)), old) is old


def test_one_empty_entry_forgets_all_owners() -> None:
    old = tracker(ConfigMap).created(make(ConfigMap, data={"a": "1"}))
    sent = replace(old, metadata=replace(old.metadata, managed_fields=(ManagedFieldsEntry(),)), data={"a": "2"})
    new = tracker(ConfigMap).updated(sent, old, "Update")
    assert new.metadata.managed_fields == ()
    again = tracker(ConfigMap).updated(replace(new, data={"a": "3"}), new, "Update")
    assert again.metadata.managed_fields == (), "an object without known owners stays so"


def test_old_updaters_melt_into_one() -> None:
    entries = [
        ManagedFieldsEntry(
            manager=f"m{n:02}", operation="Update", api_version="v1", time=f"2026-01-01T00:00:{n:02}Z",
            fields_type="FieldsV1", fields_v1=of_paths(f"data.k{n:02}"),
        )
        for n in range(12)
    ]  # fmt: skip
    left = capped(entries)
    assert len(left) == 10
    ancient = next(entry for entry in left if entry.manager == "ancient-changes")
    assert ancient.fields_v1 == of_paths("data.k00", "data.k01", "data.k02")
    assert ancient.time == "2026-01-01T00:00:02Z"


def test_keyed_items_with_one_key_are_one_field() -> None:
    """Objects from before a key was unique may hold two items alike."""
    port = {"port": 80, "protocol": "TCP", "name": "a"}
    old = tracker(Service).created(make(Service, spec={"ports": [port, {**port, "name": "b"}]}))
    assert owned(old)["kubectl"]["f:spec"]["f:ports"] == {".": {}, 'k:{"port":80,"protocol":"TCP"}': {}}


def test_custom_resources_are_tracked_by_their_shape() -> None:
    resource: Resource[Any] = Resource("example.com", "v1", "widgets", "Widget", True, "widget", custom=True)
    request = Request(User("u"), "create", resource, options={"fieldManager": "m"})
    widget = from_document({"metadata": {"name": "w", "labels": {"a": "b"}}, "spec": {"size": 1, "of": [1]}})
    made = Tracker(request, Strategy[Any](), CLOCK).created(widget)
    assert owned(made) == {
        "m": {"f:metadata": {"f:labels": {".": {}, "f:a": {}}}, "f:spec": {".": {}, "f:of": {}, "f:size": {}}}
    }


@pytest.mark.parametrize(
    ("option", "agent", "name"),
    [
        pytest.param("one", "kubectl/v1", "one", id="the option wins"),
        pytest.param("", "kubectl/v1 (linux)", "kubectl", id="the agent up to its slash"),
        pytest.param("", "", "unknown", id="nobody"),
        pytest.param("", "x" * 200, "x" * 128, id="128 bytes"),
    ],
)
def test_manager_names(option: str, agent: str, name: str) -> None:
    request = Request(User("u"), "update", scheme.resource_of(Pod), options={"fieldManager": option}, user_agent=agent)
    assert manager_of(request) == name


def test_set_algebra() -> None:
    ab, a = of_paths("x.a", "x.b"), of_paths("x.a")
    assert union(a, of_paths("x.b")) == ab
    assert union(a, of_paths("x")) == {"f:x": {".": LEAF, "f:a": LEAF}}
    assert difference(ab, a) == of_paths("x.b")
    assert difference(a, of_paths("x")) is a, "members below stay"
    assert difference(a, a) == {}
    assert intersection(ab, a) == a
    assert without_trees(ab, of_paths("x")) == {}
    assert list(members(union(a, of_paths("x")))) == [("f:x",), ("f:x", "f:a")]


def test_the_melted_entry_stays_one() -> None:
    def entry(n: int, manager: str, second: int) -> ManagedFieldsEntry:
        time = f"2026-01-01T00:00:{second:02}Z"
        fields = of_paths(f"data.k{n:02}")
        return ManagedFieldsEntry(
            manager=manager, operation="Update", api_version="v1", time=time, fields_type="FieldsV1", fields_v1=fields
        )

    entries = [entry(0, "ancient-changes", 5), *(entry(n, f"a{n:02}", 5 + n // 4) for n in range(1, 12))]
    left = capped(entries)
    assert len(left) == 10
    assert [e.manager for e in left].count("ancient-changes") == 1
