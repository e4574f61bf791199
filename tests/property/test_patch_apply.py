"""Server-side apply: what holds whatever is applied by whom, in whatever order."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, cast

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from kaa.api import scheme
from kaa.api.clock import VirtualClock
from kaa.api.types.core_v1 import Pod
from kaa.apiserver.patch.apply import Applier
from kaa.apiserver.patch.field_sets import is_member, members
from kaa.apiserver.patch.managed_fields import Tracker
from kaa.apiserver.registry.strategy import Strategy
from kaa.apiserver.writes import Writer, Written
from kaa.client.pipeline import Request, User

RESOURCE = scheme.resource_of(Pod)


def finished(work: Coroutine[Any, Any, Written]) -> Written:
    """What a coroutine that waits for nothing returns, without the cost of a loop."""
    try:
        work.send(None)
    except StopIteration as done:
        return cast(Written, done.value)
    raise AssertionError("it waits for something")


class World:
    """One pod, as a Writer without store, defaults and admission would keep it."""

    def __init__(self) -> None:
        self.clock, self.obj = VirtualClock(), cast(Any, None)

    def strategy_for(self, _: Any) -> Strategy[Any]:
        return Strategy()

    async def change(
        self, request: Request, change: Any, warnings: Any = None, *, operation: str = "Update"
    ) -> Written:
        tracker = Tracker(request, Strategy[Any](), self.clock)
        new = change(self.obj)
        self.obj = tracker.created(new) if self.obj is None else tracker.updated(new, self.obj, operation)
        return Written(200, None, self.obj)

    def apply(self, sent: dict[str, Any], by: str) -> Any:
        body = msgspec.json.encode({"apiVersion": "v1", "kind": "Pod", **sent})
        options = {"fieldManager": by, "force": "true"}
        kind = "application/apply-patch+yaml"
        request = Request(User("u"), "patch", RESOURCE, "default", "x", "", body, kind, options)
        return finished(Applier(cast(Writer, self)).apply(request)).object

    def fields(self, by: str) -> set[tuple[str, ...]]:
        return {
            path
            for entry in self.obj.metadata.managed_fields
            if entry.manager == by
            for path in members(entry.fields_v1)
        }


NAMES = st.sampled_from("abc")


def pods(prefix: str = "") -> st.SearchStrategy[dict[str, Any]]:
    """Documents of a Pod; with a prefix, ones that share no field with those of another prefix."""
    names = NAMES.map(lambda name: prefix + name)
    texts = st.dictionaries(names, NAMES, min_size=1 if prefix else 0, max_size=2)
    ports = st.lists(
        st.fixed_dictionaries({"containerPort": st.integers(1, 3)}, optional={"name": NAMES}),
        max_size=2,
        unique_by=lambda port: port["containerPort"],
    )
    containers = st.lists(
        st.fixed_dictionaries({"name": names}, optional={"image": NAMES, "ports": ports}),
        min_size=1,
        max_size=3,
        unique_by=lambda container: container["name"],
    )
    return st.fixed_dictionaries(
        {"spec": st.fixed_dictionaries({"containers": containers})},
        optional={"metadata": st.fixed_dictionaries({"labels": texts}), "status": st.just({"phase": "Running"})},
    )


MANY = st.lists(st.tuples(st.sampled_from(["one", "two", "three"]), pods()), min_size=1, max_size=5)


def applied(*steps: tuple[str, dict[str, Any]]) -> World:
    world = World()
    for by, sent in steps:
        world.apply(sent, by)
    return world


@settings(max_examples=60, deadline=None)
@given(MANY, pods())
def test_apply_is_idempotent_and_force_takes_what_is_sent(many: list[Any], sent: dict[str, Any]) -> None:
    world = applied(*many, ("one", sent))
    before = world.obj
    world.clock._now += 60
    assert world.apply(sent, "one") == before
    for container in sent["spec"]["containers"]:
        if "image" in container:
            step = ("f:spec", "f:containers", f'k:{{"name":"{container["name"]}"}}', "f:image")
            assert step in world.fields("one")
            found = next(c for c in world.obj.spec.containers if c.name == container["name"])
            assert found.image == container["image"]


@settings(max_examples=60, deadline=None)
@given(pods("x"), pods("y"), pods("x"))
def test_appliers_of_disjoint_fields_do_not_meet(one: Any, two: Any, later: Any) -> None:
    world = applied(("one", one), ("two", two))
    theirs = world.fields("two")
    world.apply(later, "one")
    assert world.fields("two") == theirs
    names = {container["name"] for container in two["spec"]["containers"] + later["spec"]["containers"]}
    assert {container.name for container in world.obj.spec.containers} == names


@settings(max_examples=60, deadline=None)
@given(MANY)
def test_nobody_owns_what_is_the_servers_nor_what_is_not_there(many: list[Any]) -> None:
    world = applied(*many)
    present = scheme.document(world.obj)
    for entry in world.obj.metadata.managed_fields:
        assert entry.fields_v1
        assert not is_member(entry.fields_v1)
        for path in members(entry.fields_v1):
            assert path[0] in ("f:spec", "f:metadata")
            assert path[:2] != ("f:metadata", "f:name")
            if path[:2] == ("f:spec", "f:containers") and len(path) > 2:
                names = [f'k:{{"name":"{container["name"]}"}}' for container in present["spec"]["containers"]]
                assert path[2] in names


@settings(max_examples=60, deadline=None)
@given(pods(), pods())
def test_what_its_only_owner_leaves_out_goes(first: dict[str, Any], second: dict[str, Any]) -> None:
    world, fresh = applied(("one", first), ("one", second)), applied(("one", second))
    assert {c.name: c for c in world.obj.spec.containers} == {c.name: c for c in fresh.obj.spec.containers}
    assert world.obj.metadata.labels == fresh.obj.metadata.labels
    assert world.fields("one") == fresh.fields("one")
