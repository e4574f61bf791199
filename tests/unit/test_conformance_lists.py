"""Pages, watches and what they promise: upstream's conformance "Servers with support for API chunking" and "Watchers"."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from api_lab import Lab, run

from kaa.apiserver import cacher
from kaa.store.base import Revision

Json = dict[str, Any]
CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
TEMPLATES = "/api/v1/namespaces/default/podtemplates"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
TOTAL = 20


def names(page: Json) -> list[str]:
    return [item["metadata"]["name"] for item in page["items"]]


async def pages(lab: Lab, limit: int, token: str = "") -> AsyncIterator[Json]:
    while True:
        more = f"&continue={token}" if token else ""
        answer = await lab.ask("GET", f"{TEMPLATES}?limit={limit}{more}")
        assert answer.status == 200, answer.body
        page: Json = answer.json()
        yield page
        token = page["metadata"].get("continue", "")
        if not token:
            return


async def templates(lab: Lab) -> None:
    spec = {"containers": [{"name": "test", "image": "test2"}]}
    for n in range(TOTAL):
        body = {"metadata": {"name": f"template-{n:04}"}, "template": {"spec": spec}}
        assert (await lab.ask("POST", TEMPLATES, body)).status == 201


def test_pages_are_one_list() -> None:
    async def use(lab: Lab) -> None:
        await templates(lab)
        wanted = [f"template-{n:04}" for n in range(TOTAL)]
        for limit in (3, 7, TOTAL, TOTAL + 1):
            found: list[str] = []
            versions = set()
            async for page in pages(lab, limit):
                assert len(page["items"]) <= limit
                found += names(page)
                versions.add(page["metadata"]["resourceVersion"])
                left = page["metadata"].get("remainingItemCount")
                assert left == (TOTAL - len(found) if "continue" in page["metadata"] else None)
                await lab.ask("POST", CONFIGMAPS, {"metadata": {"generateName": "in-between-"}})
            assert (found, len(versions)) == (wanted, 1)

    run(use, http=True)


def test_a_list_goes_on_after_its_version_was_compacted_away() -> None:
    async def use(lab: Lab) -> None:
        await templates(lab)
        first = (await lab.ask("GET", f"{TEMPLATES}?limit=5")).json()
        await lab.ask("PATCH", f"{TEMPLATES}/template-0001", {}, content_type="application/merge-patch+json")
        await lab.ask("DELETE", f"{TEMPLATES}/template-0000")
        now = (await lab.ask("GET", f"{TEMPLATES}?limit=1")).json()["metadata"]["resourceVersion"]
        await lab.plane.store.compact(Revision(int(now)))
        expired = await lab.ask("GET", f"{TEMPLATES}?limit=5&continue={first['metadata']['continue']}")
        assert (expired.status, expired.json()["reason"]) == (410, "Expired")
        token = expired.json()["metadata"]["continue"]
        found, versions, left = names(first), set(), TOTAL - 5
        async for page in pages(lab, 5, token):
            found += names(page)
            left -= len(page["items"])
            assert page["metadata"].get("remainingItemCount", 0) == left
            versions.add(page["metadata"]["resourceVersion"])
        assert found == [f"template-{n:04}" for n in range(TOTAL)]
        assert len(versions) == 1
        assert versions != {first["metadata"]["resourceVersion"]}

    run(use, http=True)


class Watched:
    """A watch: ``await it.next()`` is its next event."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._lines: list[bytes] = []

    async def next(self) -> tuple[str, str, str]:
        """(type, name, version)"""
        while not self._lines:
            size = int(await self._reader.readline(), 16)
            self._lines += (await self._reader.readexactly(size + 2)).splitlines()[: -1 if not size else None]
            self._lines = [line for line in self._lines if line]
        event = json.loads(self._lines.pop(0))
        metadata = event["object"]["metadata"]
        return event["type"], metadata["name"], metadata["resourceVersion"]

    async def quiet(self) -> bool:
        try:
            async with asyncio.timeout(0.05):
                await self.next()
        except TimeoutError:
            return True
        return False


@asynccontextmanager
async def watching(lab: Lab, query: str) -> AsyncIterator[Watched]:
    reader, writer = await lab.connect()
    writer.write(f"GET {CONFIGMAPS}?watch=1{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    try:
        assert b" 200 " in (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0]
        yield Watched(reader)
    finally:
        writer.close()


async def put(lab: Lab, method: str, name: str, **data: str) -> str:
    """Write a configmap; the version that it has then. ``label`` is its watched label."""
    body = {"metadata": {"name": name, "labels": {"watch": data.pop("label", "a")}}, "data": data}
    path = CONFIGMAPS if method == "POST" else f"{CONFIGMAPS}/{name}"
    answer = await lab.ask(method, path, body if method != "DELETE" else b"")
    assert answer.status in (200, 201), answer.body
    return str(answer.json()["metadata"].get("resourceVersion", ""))


def test_a_watch_starts_after_the_version_it_names() -> None:
    async def use(lab: Lab) -> None:
        await put(lab, "POST", "m")
        first = await put(lab, "PUT", "m", mutation="1")
        second = await put(lab, "PUT", "m", mutation="2")
        await put(lab, "DELETE", "m")
        async with watching(lab, f"&labelSelector=watch%3Da&resourceVersion={first}") as watch:
            assert await watch.next() == ("MODIFIED", "m", second)
            kind, _, last = await watch.next()
            assert (kind, int(last) > int(second)) == ("DELETED", True)
            assert await watch.quiet()
        async with watching(lab, f"&resourceVersion={last}") as watch:
            assert await watch.quiet()

    run(use, http=True)


def test_that_the_past_is_forgotten_is_told_in_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cacher, "HISTORY_MIN", 0)
    monkeypatch.setattr(cacher, "HISTORY_MAX", 1)

    async def use(lab: Lab) -> None:
        first = await put(lab, "POST", "m")
        last = [await put(lab, "PUT", "m", mutation=str(n)) for n in range(3)][-1]
        answer = await lab.ask("GET", f"{CONFIGMAPS}?watch=1&resourceVersion={first}")
        event = answer.json()
        assert (answer.status, event["type"]) == (200, "ERROR")
        assert (event["object"]["code"], event["object"]["reason"]) == (410, "Expired")
        assert event["object"]["message"].startswith(f"too old resource version: {first} (")
        async with watching(lab, f"&resourceVersion={last}") as watch:
            assert await watch.quiet()

    run(use, http=True)


@pytest.mark.parametrize(("accept", "status"), [(TABLE, 406), (f"{TABLE},application/json", 200)], ids=["no", "else"])
def test_a_watch_that_begins_with_a_list_has_no_tables(accept: str, status: int) -> None:
    listed = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"

    async def use(lab: Lab) -> None:
        await put(lab, "POST", "m")
        answer = await lab.ask("GET", f"{CONFIGMAPS}?watch=1&timeoutSeconds=1&{listed}", accept=accept)
        assert answer.status == status, answer.body
        if status == 200:
            events = [json.loads(line)["object"]["kind"] for line in answer.body.splitlines()]
            assert set(events) == {"ConfigMap"}
        plain = await lab.ask("GET", f"{CONFIGMAPS}?watch=1&timeoutSeconds=1", accept=accept)
        assert json.loads(plain.body.splitlines()[0])["object"]["kind"] == "Table"

    run(use, http=True)


def test_an_object_that_meets_a_selector_no_more_is_deleted_to_its_watchers() -> None:
    async def use(lab: Lab) -> None:
        async with (
            watching(lab, "&labelSelector=watch+in+(a,b)") as both,
            watching(lab, "&labelSelector=watch%3Da") as one,
        ):
            await put(lab, "POST", "m")
            await put(lab, "PUT", "m", mutation="1")
            moved = await put(lab, "PUT", "m", label="b")
            await put(lab, "PUT", "m", label="b", mutation="2")
            await put(lab, "PUT", "m", mutation="3")
            await put(lab, "DELETE", "m")
            seen = [await one.next() for _ in range(5)]
            assert [kind for kind, _, _ in seen] == ["ADDED", "MODIFIED", "DELETED", "ADDED", "DELETED"]
            assert seen[2][2] == moved
            assert [(await both.next())[0] for _ in range(6)] == ["ADDED", *["MODIFIED"] * 4, "DELETED"]
            assert await one.quiet()

    run(use, http=True)


def test_watches_from_any_event_on_see_what_came_after_it_in_one_order() -> None:
    async def use(lab: Lab) -> None:
        async with watching(lab, "&labelSelector=watch%3Da") as first:
            for n in range(4):
                await put(lab, "POST", f"m{n}")
                await put(lab, "PUT", f"m{n}", mutation="1")
            await put(lab, "DELETE", "m2")
            await put(lab, "POST", "m2")
            seen = [await first.next() for _ in range(10)]
        for n, (_, _, version) in enumerate(seen[:-1]):
            async with watching(lab, f"&labelSelector=watch%3Da&resourceVersion={version}") as later:
                assert [await later.next() for _ in seen[n + 1 :]] == seen[n + 1 :]

    run(use, http=True)
