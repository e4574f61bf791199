"""Input that once broke the server: each was answered with 500, hung, or ended the process."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest
from api_lab import Lab, read_answer, run

from kaa.api.scheme import resource_of
from kaa.api.selectors import EVERYTHING
from kaa.api.types.core_v1 import ConfigMap
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.api.yaml import YAMLError, load
from kaa.apiserver.entries import Entry
from kaa.apiserver.watchers import Change, Watcher
from kaa.client.client import WatchType
from kaa.store.base import Revision

MAPS = "/api/v1/namespaces/default/configmaps"


@pytest.mark.parametrize("unit", ["- ", "[", "{a: "])
def test_yaml_nested_too_deeply_is_refused_before_the_c_parser_overflows(unit: str) -> None:
    with pytest.raises(YAMLError):
        load(unit * 200_000)


def test_yaml_numbers_longer_than_64_bits() -> None:
    assert load("a: 0x" + "f" * 5000)["a"].startswith("0xf")
    assert load("a: 99999999999999999999")["a"] == 1e20
    assert load("a: 18446744073709551615")["a"] == (1 << 64) - 1


@pytest.mark.parametrize(
    "query",
    ["resourceVersion=" + "9" * 5000, "watch=1&resourceVersion=" + "9" * 5000, "limit=" + "9" * 5000, "limit=1_0"],
)
def test_numbers_of_the_query_have_64_bits(query: str) -> None:
    async def use(lab: Lab) -> None:
        assert (await lab.ask("GET", f"{MAPS}?{query}")).status == 400

    run(use, http=True)


@pytest.mark.parametrize("grace", ["--5", "%C2%B2", "9" * 5000])
def test_a_grace_period_that_is_no_number_is_refused(grace: str) -> None:
    async def use(lab: Lab) -> None:
        await lab.client.create(ConfigMap(metadata=ObjectMeta(name="a", namespace="default")))
        assert (await lab.ask("DELETE", f"{MAPS}/a?gracePeriodSeconds={grace}")).status == 400

    run(use, http=True)


def test_a_watch_that_waits_for_a_version_in_vain_ends_with_an_error_event() -> None:
    query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=900"

    async def use(lab: Lab) -> None:
        lab.plane.api.cacher.WAIT_S = 0.05  # type: ignore[misc]  # a test's patience
        answer = await lab.ask("GET", f"{MAPS}?{query}")
        assert b'"type":"ERROR"' in answer.body
        assert b"ResourceVersionTooLarge" in answer.body

    run(use, http=True)


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("POST", MAPS, "application/json"),
        ("PUT", f"{MAPS}/a", "application/json"),
        ("PATCH", f"{MAPS}/a", "application/merge-patch+json"),
        ("PATCH", f"{MAPS}/a?fieldManager=x&force=true", "application/apply-patch+yaml"),
    ],
)
def test_text_that_is_no_utf8_is_read_as_go_reads_it(method: str, path: str, kind: str) -> None:
    body = b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"%s"},"data":{"k":"\xff"}}'

    async def use(lab: Lab) -> None:
        if method != "POST":
            await lab.client.create(ConfigMap(metadata=ObjectMeta(name="a", namespace="default")))
        answer = await lab.ask(method, path, body % (b"b" if method == "POST" else b"a"), content_type=kind)
        assert answer.status in (200, 201), answer.body
        assert json.loads(answer.body)["data"] == {"k": "\ufffd"}

    run(use, http=True)


def test_a_pull_secret_that_is_no_utf8_is_one_nevertheless() -> None:
    content = base64.b64encode(b'{"auths":{"reg.io":{"username":"\xff"}}}').decode()
    body = {
        "metadata": {"name": "s"},
        "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": content},
    }

    async def use(lab: Lab) -> None:
        answer = await lab.ask("POST", "/api/v1/namespaces/default/secrets", body)
        assert answer.status == 201, answer.body

    run(use, http=True)


def test_a_pull_secret_too_deep_to_read_is_refused() -> None:
    body = {
        "metadata": {"name": "s"},
        "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": base64.b64encode(b'{"auths":' * 20000).decode()},
    }

    async def use(lab: Lab) -> None:
        answer = await lab.ask("POST", "/api/v1/namespaces/default/secrets", body)
        assert answer.status == 422, answer.body
        assert b"exceeded max depth" in answer.body

    run(use, http=True)


def test_a_review_asked_for_as_a_table_is_refused() -> None:
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    body = b'{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","spec":{}}'

    async def use(lab: Lab) -> None:
        accept = "application/json;as=Table;v=v1;g=meta.k8s.io"
        assert (await lab.ask("POST", path, body, accept=accept)).status == 406

    run(use, http=True)


def test_a_head_without_an_end_is_refused() -> None:
    async def use(lab: Lab) -> None:
        reader, writer = await lab.connect()

        async def pour() -> None:
            writer.write(b"GET /")
            for _ in range(200):
                writer.write(b"x" * 16_384)
                await writer.drain()

        pouring = asyncio.create_task(pour(), name="pour")
        try:
            assert (await read_answer(reader)).status == 431
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # closed on the client while it was still pouring
        finally:
            await asyncio.gather(pouring, return_exceptions=True)
            writer.close()
        assert (await lab.ask("GET", "/version")).status == 200

    run(use, http=True)


def test_a_watcher_that_overflowed_tells_nothing_after_the_gap() -> None:
    resource = resource_of(ConfigMap)
    watcher = Watcher("", EVERYTHING, ())
    entry = Entry(resource, "default/a", Revision(1), b"", {}, {}, None)
    change = Change(WatchType.ADDED, entry, None, 0.0)
    for _ in range(Watcher.LIMIT + 1):
        watcher.offer(change)
    assert watcher.ended
    watcher.changes.clear()
    watcher.offer(change)
    assert not watcher.changes
