"""Queries and bodies that the API server must refuse, or read as upstream reads them, at its door."""

from __future__ import annotations

import json
from typing import Any

import pytest
from api_lab import Lab, run

MAPS = "/api/v1/namespaces/default/configmaps"
ONE = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, "data": {"a": "1"}}
MERGE, JSON, STRATEGIC = "application/merge-patch+json", "application/json-patch+json", "application/strategic-merge-patch+json"  # fmt: skip
APPLY = "application/apply-patch+yaml"


def refused(answer: Any, code: int) -> str:
    status = answer.json()
    assert (answer.status, status["kind"], status["code"]) == (code, "Status", code), status
    message: str = status["message"]
    return message


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("limit=x", 'strconv.ParseInt: parsing "x": invalid syntax'),
        ("limit=", 'strconv.ParseInt: parsing "": invalid syntax'),
        ("timeoutSeconds=x", 'strconv.ParseInt: parsing "x": invalid syntax'),
        ("timeoutSeconds=9223372036854775808", 'strconv.ParseInt: parsing "9223372036854775808": value out of range'),
        ("watch=1&timeoutSeconds=1.5", 'strconv.ParseInt: parsing "1.5": invalid syntax'),
        ("watch=1&limit=%D9%A1", 'strconv.ParseInt: parsing "\u0661": invalid syntax'),
    ],
)
def test_numbers_of_a_list_are_read_before_it_begins(query: str, words: str) -> None:
    async def use(lab: Lab) -> None:
        assert refused(await lab.ask("GET", f"{MAPS}?{query}"), 400) == words
        if "watch" not in query:
            assert refused(await lab.ask("DELETE", f"{MAPS}?{query}"), 400) == words

    run(use, http=True)


@pytest.mark.parametrize(
    ("word", "watches"), [("true", 1), ("foo", 1), ("", 1), ("f", 1), ("False", 0), ("0", 0), ("fAlSe", 0)]
)
def test_a_switch_is_on_unless_it_says_no(word: str, watches: int) -> None:
    async def use(lab: Lab) -> None:
        answer = await lab.ask(
            "GET", f"{MAPS}?watch={word}&timeoutSeconds=1&resourceVersion=0&fieldSelector=metadata.name=x"
        )
        assert (b"ConfigMapList" not in answer.body) == bool(watches)

    run(use, http=True)


@pytest.mark.parametrize(
    ("kind", "query", "field"),
    [
        (MERGE, "fieldValidation=Bogus", "fieldValidation: Unsupported value: \"Bogus\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\""),
        (APPLY, "fieldManager=m&fieldValidation=Bogus", "fieldValidation: Unsupported value: \"Bogus\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\""),
        (APPLY, "", "fieldManager: Required value: is required for apply patch"),
        (MERGE, "force=true", "force: Forbidden: may not be specified for non-apply patch"),
        (MERGE, "dryRun=Some", 'dryRun: Unsupported value: ["Some"]: supported values: "All"'),
        (MERGE, "fieldManager=" + "m" * 129, "fieldManager: Too long: may not be more than 128 bytes"),
        (MERGE, "fieldManager=a%09b", 'fieldManager: Invalid value: "a\\tb": invalid character U+0009 (at position 1)'),
        (MERGE, "dryRun=x&fieldValidation=y", '[dryRun: Unsupported value: ["x"]: supported values: "All", fieldValidation: Unsupported value: "y": supported values: "", "Ignore", "Strict", "Warn"]'),
    ],
)  # fmt: skip
def test_options_of_a_patch(kind: str, query: str, field: str) -> None:
    async def use(lab: Lab) -> None:
        await lab.ask("POST", MAPS, ONE)
        message = refused(await lab.ask("PATCH", f"{MAPS}/one?{query}", ONE, content_type=kind), 422)
        assert message == f'PatchOptions.meta.k8s.io "" is invalid: {field}'

    run(use, http=True)


@pytest.mark.parametrize(("method", "path", "kind"), [("POST", "", "CreateOptions"), ("PUT", "/one", "UpdateOptions")])
def test_options_of_other_writes(method: str, path: str, kind: str) -> None:
    async def use(lab: Lab) -> None:
        message = refused(await lab.ask(method, f"{MAPS}{path}?fieldValidation=Bogus", ONE), 422)
        assert message.startswith(f'{kind}.meta.k8s.io "" is invalid: fieldValidation: Unsupported value: "Bogus"')

    run(use, http=True)


def test_what_a_delete_is_told_in_its_body() -> None:
    async def use(lab: Lab) -> None:
        await lab.ask("POST", MAPS, ONE)
        for path in (f"{MAPS}/one", MAPS, f"{MAPS}?labelSelector=none%3Dhere"):
            assert 'no kind "Pod" is registered for version "v1"' in refused(
                await lab.ask("DELETE", path, {"kind": "Pod", "apiVersion": "v1"}), 400
            )
            assert refused(await lab.ask("DELETE", path, [1]), 400)
        assert (await lab.ask("GET", f"{MAPS}/one")).status == 200
        for version in ("v1", "meta.k8s.io/v1", "apps/v1"):
            await lab.ask("POST", MAPS, ONE)
            body = {"kind": "DeleteOptions", "apiVersion": version}
            assert (await lab.ask("DELETE", f"{MAPS}/one", body)).status == 200

    run(use, http=True)


def test_preconditions_of_a_delete_by_query() -> None:
    async def use(lab: Lab) -> None:
        metadata = (await lab.ask("POST", MAPS, ONE)).json()["metadata"]
        assert "the UID in the precondition (x) does not match" in refused(
            await lab.ask("DELETE", f"{MAPS}/one?uid=x"), 409
        )
        assert "the ResourceVersion in the precondition (1) does not match" in refused(
            await lab.ask("DELETE", f"{MAPS}/one?resourceVersion=1"), 409
        )
        right = f"?uid={metadata['uid']}&resourceVersion={metadata['resourceVersion']}"
        assert (await lab.ask("DELETE", f"{MAPS}/one{right}")).status == 200

    run(use, http=True)


@pytest.mark.parametrize(
    ("kind", "body", "faults"),
    [
        (MERGE, b'{"data":{"a":"2","a":"3"}}', 'duplicate field "data.a"'),
        (STRATEGIC, b'{"data":{"a":"2","a":"3"},"x":1}', 'duplicate field "data.a", unknown field "x"'),
        (
            JSON,
            b'[{"op":"add","path":"/data/a","path":"/data/b","value":"2"}]',
            'json patch duplicate field "[0].path"',
        ),
        (JSON, b'[{"op":"add","path":"/data/b","value":"2","why":"x"}]', 'json patch unknown field "[0].why"'),
        (MERGE, b'{"spec":{"a":1}}', 'unknown field "spec"'),
    ],
)
def test_strict_patches(kind: str, body: bytes, faults: str) -> None:
    async def use(lab: Lab) -> None:
        await lab.ask("POST", MAPS, ONE)
        strict = await lab.ask("PATCH", f"{MAPS}/one?fieldValidation=Strict", body, content_type=kind)
        message = refused(strict, 422)
        assert message.startswith(' "" is invalid: patch: Invalid value: "')
        assert message.endswith(f'": strict decoding error: {faults}')
        assert strict.json()["details"]["causes"][0]["field"] == "patch"
        if kind == STRATEGIC:
            assert 'Invalid value: "map[data:map[a:3] x:1]"' in message
        warned = await lab.ask("PATCH", f"{MAPS}/one", body, content_type=kind)
        assert warned.status == 200
        assert faults.split(", ")[-1].replace('"', '\\"') in warned.headers["warning"]
        ignored = await lab.ask("PATCH", f"{MAPS}/one?fieldValidation=Ignore", body, content_type=kind)
        assert (ignored.status, ignored.headers.get("warning")) == (200, None)

    run(use, http=True)


def test_a_patch_that_makes_no_object() -> None:
    async def use(lab: Lab) -> None:
        await lab.ask("POST", MAPS, ONE)
        answer = await lab.ask("PATCH", f"{MAPS}/one", {"data": {"a": 1}}, content_type=MERGE)
        message = refused(answer, 422)
        assert message.startswith(' "" is invalid: patch: Invalid value: "{')
        assert "json: cannot unmarshal number into Go struct field ConfigMap.data" in message
        assert message.endswith(" of type string")

    run(use, http=True)


# ------------------------------------------------------------------------------------------------------ JSON patch


def test_limits_of_json_patches() -> None:
    step = {"op": "add", "path": "/data/b", "value": "x"}
    double = [{"op": "copy", "from": "/data", "path": f"/data/c{n}"} for n in range(64)]
    first = [{"op": "add", "path": "/data/b", "value": "x" * 1000}]

    async def use(lab: Lab) -> None:
        await lab.ask("POST", MAPS, ONE)
        many = await lab.ask("PATCH", f"{MAPS}/one", [step] * 10_001, content_type=JSON)
        assert refused(many, 413) == (
            "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001"
        )
        assert (await lab.ask("PATCH", f"{MAPS}/one", [step] * 10_000, content_type=JSON)).status == 200
        swell = await lab.ask("PATCH", f"{MAPS}/one", [*first, *double], content_type=JSON)
        assert refused(swell, 422) == "the server rejected our request due to an error in our request"

    run(use, http=True)


def test_a_long_patch_of_a_long_list_is_quick() -> None:
    """Containers are copied once a patch, not once an operation: 10,000 copies of this list took half a minute."""
    import time

    from kaa.apiserver.patch.json_patch import apply_json_patch

    document = {"metadata": {"finalizers": [f"a/{n}" for n in range(200_000)]}}
    steps = [{"op": "replace", "path": "/metadata/finalizers/7", "value": "b/c"}] * 10_000
    began = time.process_time()
    made = apply_json_patch(document, steps)
    assert time.process_time() - began < 1
    assert (made["metadata"]["finalizers"][7], document["metadata"]["finalizers"][7]) == ("b/c", "a/7")


def deep(opening: str, closing: str, inner: str, depth: int) -> bytes:
    return (opening * depth + inner + closing * depth).encode()


@pytest.mark.parametrize("depth", [500, 10_001, 200_000])
@pytest.mark.parametrize("level", ["Strict", "Ignore"])
def test_nesting_is_refused_whatever_carries_it(depth: int, level: str) -> None:
    objects, lists = deep('{"a":', "}", "1", depth), deep("[", "]", "", depth)
    bodies = [(kind, b'{"data":%s}' % bomb) for kind in (MERGE, STRATEGIC, APPLY) for bomb in (objects, lists)]
    bodies += [(JSON, b'[{"op":"add","path":"/data","value":%s}]' % bomb) for bomb in (objects, lists)]
    bodies += [(JSON, json.dumps([{"op": "add", "path": "/a" * depth, "value": 1}]).encode())]

    async def use(lab: Lab) -> None:
        await lab.ask("POST", MAPS, ONE)
        for kind, body in bodies:
            query = f"fieldManager=m&fieldValidation={level}"
            answer = await lab.ask("PATCH", f"{MAPS}/one?{query}", body, content_type=kind)
            assert answer.status in (400, 422, *([500] if kind == APPLY and depth == 500 else [])), (
                kind,
                answer.body[:300],
            )
            assert len(answer.body) < 10_000_000
        assert (await lab.ask("GET", f"{MAPS}/one")).json()["data"] == {"a": "1"}

    run(use, http=True)
