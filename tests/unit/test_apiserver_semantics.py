"""The core's semantics over HTTP, as tables: generated names, preconditions, grace periods, versions, tokens, ETags."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from api_lab import Answer, Lab, run

from kaa.api import names

NS = "/api/v1/namespaces/default"
MAPS, PODS = f"{NS}/configmaps", f"{NS}/pods"


def config_map(**metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


def pod(name: str, **spec: Any) -> dict[str, Any]:
    spec = {"containers": [{"name": "c", "image": "i"}], "nodeName": "n", **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


# --------------------------------------------------------------------------------------------------- generated names


@pytest.mark.parametrize(("taken", "status"), [(1, 201), (7, 201), (8, 409)])
def test_a_generated_name_that_is_taken_is_drawn_again(
    taken: int, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []

    def draw(prefix: str, random: Any) -> str:
        drawn.append(prefix)
        return f"{prefix}taken" if len(drawn) <= taken else f"{prefix}free"

    async def use(lab: Lab) -> None:
        await lab.ask("POST", MAPS, config_map(name="a-taken"))
        monkeypatch.setattr(names, "generate_name", draw)
        answer = await lab.ask("POST", MAPS, config_map(generateName="a-"))
        assert (answer.status, len(drawn)) == (status, min(taken + 1, 8))
        if status == 409:
            assert answer.json()["reason"] == "AlreadyExists"

    run(use, http=True)


# --------------------------------------------------------------------------------------------------- preconditions


def test_preconditions() -> None:
    async def use(lab: Lab) -> None:
        made = (await lab.ask("POST", MAPS, config_map(name="a"))).json()["metadata"]
        uid, version = made["uid"], made["resourceVersion"]
        for wanted, problem in [
            ({"uid": "x"}, f"the UID in the precondition (x) does not match the UID in record ({uid})."),
            (
                {"resourceVersion": "1"},
                "the ResourceVersion in the precondition (1) does not match the ResourceVersion",
            ),
            ({"uid": uid, "resourceVersion": "1"}, "the ResourceVersion in the precondition (1) does not match"),
        ]:
            answer = await lab.ask("DELETE", f"{MAPS}/a", {"preconditions": wanted})
            assert (answer.status, answer.json()["reason"]) == (409, "Conflict")
            assert problem in answer.json()["message"]
        stale = await lab.ask("PUT", f"{MAPS}/a", config_map(name="a", resourceVersion="1"))
        assert stale.json()["message"] == (
            'Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to the'
            " latest version and try again"
        )
        other = await lab.ask("PUT", f"{MAPS}/a", config_map(name="a", uid="x"))
        assert (other.status, "Precondition failed: UID in precondition: x" in other.json()["message"]) == (409, True)
        right = {"preconditions": {"uid": uid, "resourceVersion": version}}
        assert (await lab.ask("DELETE", f"{MAPS}/a", right)).status == 200

    run(use, http=True)


# --------------------------------------------------------------------------------------------------- grace periods


@pytest.mark.parametrize(
    ("spec", "deletes", "left"),
    [
        ({}, [{}], 30),
        ({}, [{"gracePeriodSeconds": None}], 30),
        ({"terminationGracePeriodSeconds": 7}, [{}], 7),
        ({}, [{"gracePeriodSeconds": 0}], None),
        ({}, [{"gracePeriodSeconds": 90}], 90),
        ({}, [{}, {}], 30),
        ({}, [{}, {"gracePeriodSeconds": 90}], 30),
        ({}, [{}, {"gracePeriodSeconds": 5}], 5),
        ({}, [{}, {"gracePeriodSeconds": 5}, {"gracePeriodSeconds": 9}], 5),
        ({}, [{}, {"gracePeriodSeconds": 0}], None),
        ({"nodeName": ""}, [{}], None),
    ],
    ids=["default", "null", "the pod's own", "zero", "larger", "twice", "then longer", "then shorter", "back up", "then zero", "not bound"],
)  # fmt: skip
def test_grace(spec: dict[str, Any], deletes: list[dict[str, Any]], left: int | None) -> None:
    async def use(lab: Lab) -> None:
        assert (await lab.ask("POST", PODS, pod("a", **spec))).status == 201
        for body in deletes:
            assert (await lab.ask("DELETE", f"{PODS}/a", body)).status == 200
        answer = await lab.ask("GET", f"{PODS}/a")
        if left is None:
            assert answer.status == 404
        else:
            assert answer.json()["metadata"]["deletionGracePeriodSeconds"] == left

    run(use, http=True)


# --------------------------------------------------------------------------------------------------- versions


FUTURE = "999999"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 200), ("resourceVersion=", 200), ("resourceVersion=0", 200), ("resourceVersion={rv}", 200),
        ("resourceVersion=0&resourceVersionMatch=NotOlderThan", 200), ("resourceVersion=0&resourceVersionMatch=Exact", 422),
        ("resourceVersion={rv}&resourceVersionMatch=NotOlderThan", 200), ("resourceVersion={rv}&resourceVersionMatch=Exact", 200),
        ("resourceVersionMatch=Exact", 422), ("resourceVersionMatch=NotOlderThan", 422),
        ("resourceVersion={rv}&resourceVersionMatch=Bogus", 422), ("resourceVersion=x", 400), ("resourceVersion=-1", 400),
        ("limit=1&resourceVersion=0", 200), ("limit=1&resourceVersion={rv}", 200), ("limit=1&resourceVersion=0&resourceVersionMatch=NotOlderThan", 200),
        ("watch=1&timeoutSeconds=1", 200), ("watch=1&timeoutSeconds=1&resourceVersion=0", 200), ("watch=1&timeoutSeconds=1&resourceVersion={rv}", 200),
        ("watch=1&resourceVersion={rv}&resourceVersionMatch=Exact", 422), ("watch=1&resourceVersion=x", 400),
        ("watch=1&sendInitialEvents=true", 422), ("sendInitialEvents=true", 422),
        ("watch=1&timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=1", 200),
        ("watch=1&sendInitialEvents=true&resourceVersionMatch=Exact", 422),
    ],
)  # fmt: skip
def test_versions_of_lists_and_watches(query: str, status: int) -> None:
    async def use(lab: Lab) -> None:
        rv = (await lab.ask("POST", MAPS, config_map(name="a"))).json()["metadata"]["resourceVersion"]
        answer = await lab.ask("GET", f"{MAPS}?{query.format(rv=rv)}")
        assert answer.status == status, answer.body
        if status == 200 and "watch" not in query:
            assert [item["metadata"]["name"] for item in answer.json()["items"]] == ["a"]
        if status == 200 and "watch" in query:
            shown = b'"name":"a"' in answer.body
            assert shown == ("resourceVersion={rv}" not in query)
        if status == 422:
            assert answer.json()["message"].startswith('ListOptions.meta.k8s.io "" is invalid: ')

    run(use, http=True)


@pytest.mark.parametrize("path", [f"{MAPS}/a", MAPS, f"{MAPS}?resourceVersionMatch=Exact"])
def test_a_version_to_come(path: str) -> None:
    async def use(lab: Lab) -> None:
        await lab.ask("POST", MAPS, config_map(name="a"))
        answer = await lab.ask("GET", f"{path}{'&' if '?' in path else '?'}resourceVersion={FUTURE}")
        status = answer.json()
        assert (answer.status, status["reason"]) == (504, "Timeout")
        assert status["message"].startswith(f"Timeout: Too large resource version: {FUTURE}, current: ")
        assert status["details"]["causes"] == [
            {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
        ]

    run(use, http=True)


def test_a_version_that_is_gone() -> None:
    async def use(lab: Lab) -> None:
        await _compacted(lab)
        status = (await lab.ask("GET", f"{MAPS}?resourceVersion=1&resourceVersionMatch=Exact")).json()
        assert (status["code"], status["reason"]) == (410, "Expired")

    run(use, http=True)


async def _compacted(lab: Lab) -> Answer:
    """A server that has forgotten its past; the answer is a page of it from before."""
    for name in ("a", "b", "c"):
        await lab.ask("POST", MAPS, config_map(name=name))
    page = await lab.ask("GET", f"{MAPS}?limit=1")
    await lab.ask("POST", MAPS, config_map(name="d"))
    await lab.plane.store.compact(lab.plane.api.cacher.revision)
    return page


def test_a_token_that_has_expired_gives_one_for_the_rest() -> None:
    async def use(lab: Lab) -> None:
        page = (await _compacted(lab)).json()
        expired = await lab.ask("GET", f"{MAPS}?limit=1&continue={page['metadata']['continue']}")
        status = expired.json()
        assert (expired.status, status["reason"]) == (410, "Expired")
        assert status["message"].startswith(
            "The provided continue parameter is too old to display a consistent list result."
        )
        rest = await lab.ask("GET", f"{MAPS}?continue={status['metadata']['continue']}")
        assert [item["metadata"]["name"] for item in rest.json()["items"]] == ["b", "c", "d"]
        token = base64.urlsafe_b64encode(json.dumps({"v": "meta.k8s.io/v2", "rv": 1, "start": "a"}).encode()).decode()
        for wrong in ("!", "e30", token.rstrip("=")):
            answer = await lab.ask("GET", f"{MAPS}?continue={wrong}")
            assert (answer.status, answer.json()["message"][:46]) == (
                400,
                "invalid continue token: continue key is not va",
            )

    run(use, http=True)


# --------------------------------------------------------------------------------------------------- ETags, HEAD, 503

AGGREGATED = "application/json;v=v2;g=apidiscovery.k8s.io;as=APIGroupDiscoveryList"


@pytest.mark.parametrize(("path", "accept"), [("/apis", AGGREGATED), ("/api", AGGREGATED), ("/openapi/v2", "application/json"), ("/openapi/v3/api/v1", "application/json")])  # fmt: skip
def test_etags(path: str, accept: str) -> None:
    async def use(lab: Lab) -> None:
        first = await lab.ask("GET", path, Accept=accept)
        tag = first.headers["etag"]
        same = await lab.ask("GET", path, Accept=accept, If_None_Match=tag)
        assert (same.status, same.body, same.headers.get("etag")) == (304, b"", tag)
        other = await lab.ask("GET", path, Accept=accept, If_None_Match='"other"')
        assert (other.status, other.body) == (200, first.body)

    run(use, http=True)


@pytest.mark.parametrize("path", [f"{NS}", MAPS, f"{MAPS}/none", "/version", "/api", "/healthz", "/openapi/v3"])
def test_head_says_what_get_says_without_a_body(path: str) -> None:
    async def use(lab: Lab) -> None:
        got, head = await lab.ask("GET", path), await lab.ask("HEAD", path)
        assert (head.status, head.headers.get("content-type"), head.body) == (
            got.status,
            got.headers.get("content-type"),
            b"",
        )
        assert head.headers.get("content-length") == got.headers.get("content-length")

    run(use, http=True)


@pytest.mark.parametrize("path", ["services/a/proxy/", "services/none/proxy/", "pods/a/log", "pods/a/proxy/"])
def test_a_backend_that_is_away(path: str) -> None:
    async def use(lab: Lab) -> None:
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}}
        await lab.ask("POST", f"{NS}/services", service)
        await lab.ask("POST", PODS, pod("a"))
        answer = await lab.ask("GET", f"{NS}/{path}")
        status = answer.json()
        if path == "services/a/proxy/":
            assert (answer.status, status["reason"]) == (503, "ServiceUnavailable")
            assert status["message"] == 'no endpoints available for service "a"'
        elif path == "services/none/proxy/":
            assert (answer.status, status["message"]) == (404, 'services "none" not found')
        else:
            assert 400 <= answer.status < 600
            assert status["kind"] == "Status"

    run(use, http=True)
