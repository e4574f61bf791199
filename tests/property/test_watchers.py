"""Watches of one resource: each selection is told what it would be told if all were asked, in order, whoever writes it."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kaa.api import selectors
from kaa.api.resources import RESOURCES
from kaa.apiserver.entries import Entry
from kaa.apiserver.watchers import Audience, Change, Watcher
from kaa.client.client import WatchType
from kaa.store.base import Revision

PODS = next(one for one in RESOURCES if one.plural == "pods" and one.group == "")
NAMES, NODES = ("a", "b", "c"), ("", "n1", "n2")
FIELDS = (
    "",
    "metadata.name=a",
    "spec.nodeName=n1",
    "spec.nodeName!=n1",
    "spec.nodeName=",
    "metadata.name=b,spec.nodeName=n2",
)
steps = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from((None, *NODES)), st.sampled_from(("", "x"))), max_size=30
)


def entry(name: str, revision: int, node: str, label: str) -> Entry:
    fields = {"metadata.name": name, "metadata.namespace": "default", "spec.nodeName": node}
    inner = b'"metadata":{"resourceVersion":"%d"}}' % revision
    return Entry(PODS, f"default/{name}", Revision(revision), inner, {"app": label} if label else {}, fields, None)


def history(steps: list[tuple[str, str | None, str]]) -> list[Change]:
    """The changes of a cache in which each step puts a pod on a node, or (None) deletes it."""
    there: dict[str, Entry] = {}
    made = []
    for revision, (name, node, label) in enumerate(steps, 1):
        previous = there.pop(name, None)
        if node is not None:
            there[name] = entry(name, revision, node, label)
            type = WatchType.ADDED if previous is None else WatchType.MODIFIED
            made.append(Change(type, there[name], previous, 0.0))
        elif previous is not None:
            made.append(Change(WatchType.DELETED, previous.at(Revision(revision)), previous, 0.0))
    return made


def watchers() -> list[Watcher]:
    return [
        Watcher(namespace, selectors.parse_labels(labels), selectors.parse_fields(fields))
        for namespace in ("", "default", "other")
        for labels in ("", "app=x")
        for fields in FIELDS
    ]


def told(watcher: Watcher) -> list[tuple[WatchType, int]]:
    return [(type, int(one.revision)) for type, one, _ in watcher.changes]


@given(steps, st.sets(st.integers(0, 35)))
def test_an_audience_tells_each_what_it_would_be_told_alone(steps: list[Any], leaving: set[int]) -> None:
    audience, together, alone = Audience(), watchers(), watchers()
    for one in together:
        audience.add(one)
    changes = [None, *history(steps)]
    for n, change in enumerate(changes):
        if n == len(changes) // 2:
            for gone in leaving:
                audience.discard(together[gone])
                alone[gone].namespace = "nowhere/"
        if change is None:
            continue
        audience.tell(change)
        for one in alone:
            one.offer(change)
    assert [told(one) for one in together] == [told(one) for one in alone]
    assert {id(one) for one in audience} == {id(one) for n, one in enumerate(together) if n not in leaving}


@given(steps, st.lists(st.tuples(st.booleans(), st.booleans()), min_size=30, max_size=30))
def test_what_is_written_at_once_stays_in_order(steps: list[Any], turns: list[tuple[bool, bool]]) -> None:
    """``turns``: whether the client takes it now, and whether the reader has its turn after the change."""
    changes = history(steps)

    async def follow() -> list[int]:
        watcher, seen = Watcher("", selectors.EVERYTHING, ()), list[int]()
        client = iter([takes for takes, _ in turns])

        def at_once(type: WatchType, entry: Entry, change: Change) -> bool:
            takes = next(client)
            if takes:
                seen.append(int(change.revision))
            return takes

        async def read() -> None:
            while watcher.changes or not watcher.ended:
                await watcher.wait()
                seen.extend(int(one.revision) for _, one, _ in watcher.changes)
                watcher.changes.clear()

        watcher.at_once = at_once
        reading = asyncio.ensure_future(read())
        for change, (_, turn) in zip(changes, turns, strict=False):
            if turn:
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            watcher.offer(change)
        watcher.end()
        await reading
        return seen

    assert asyncio.run(follow()) == [int(change.revision) for change in changes]
