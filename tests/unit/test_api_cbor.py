"""Kubernetes' CBOR form, by itself and over HTTP. cbor2 of the client's side reads what ours wrote."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import subprocess
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path
from typing import Any

import cbor2
import pytest
from api_lab import Answer, Lab, keys, run
from custom_lab import DEFINITIONS, WIDGETS, definition, until, widget

from kaa.api import cbor

CBOR = "application/cbor"
AS = ";as={};v=v1;g=meta.k8s.io"
MAPS = "/api/v1/namespaces/default/configmaps"
SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}, "data": {"a": "AAEC"}, "type": "Opaque"}
CONFIG_MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "b"}}


def read(answer: Answer) -> Any:
    """What an independent reader makes of a body."""
    assert answer.headers["content-type"] == CBOR
    assert answer.body.startswith(b"\xd9\xd9\xf7")
    return cbor2.loads(answer.body[3:])  # what is in a tag it would make immutable


# ------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("data", "value"),
    [
        ("d9d9f7a0", {}),
        ("a0", {}),
        ("a1616bd9d9f76176", {"k": "v"}),
        ("a141614162", {"a": "b"}),  # Go writes texts as bytes
        ("c074323031332d30332d32315432303a30343a30305a", "2013-03-21T20:04:00Z"),
        ("c11a514b67b0", "2013-03-21T20:04:00Z"),
        ("d64401020304", "AQIDBA=="),
        ("d5420102", "AQI"),
        ("d7420102", "0102"),
        ("d82061 61".replace(" ", ""), "a"),
        ("d9010281 01".replace(" ", ""), [1]),
        ("1b7fffffffffffffff", 2**63 - 1),
        ("3b7fffffffffffffff", -(2**63)),
        ("f7", None),
        ("fb3ff199999999999a", 1.1),
        ("9f01ff", [1]),
    ],
)
def test_what_is_read(data: str, value: Any) -> None:
    found = cbor.decode(bytes.fromhex(data))
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    "data",
    [
        "",
        "ff",
        "a1",
        "a2616101616102",  # a key twice
        "a2616101416102",  # once as text, once as bytes
        "a10102",
        "f97e00",  # NaN
        "f97c00",  # infinity
        "f0",
        "1bffffffffffffffff",
        "c249010000000000000000",
        "62c328",
        "42c328",
        "a0a0",  # two items
        "81" * 70 + "80",
    ],
)
def test_what_is_refused(data: str) -> None:
    with pytest.raises(cbor.Malformed):
        cbor.decode(bytes.fromhex(data))


def test_fields_of_bytes_travel_as_bytes() -> None:
    body = cbor.encode(SECRET)
    assert cbor2.CBORTag(22, b"\0\1\2") == cbor2.loads(body)["data"]["a"]
    assert cbor.decode(body) == SECRET
    listed = {"apiVersion": "v1", "kind": "SecretList", "metadata": {}, "items": [{"data": {"a": "AAEC"}}]}
    assert cbor2.loads(cbor.encode(listed))["items"][0]["data"]["a"].value == b"\0\1\2"
    row = {"cells": ["x"], "object": SECRET}
    shown = {"apiVersion": "meta.k8s.io/v1", "kind": "Table", "metadata": {}, "rows": [row]}
    assert cbor2.loads(cbor.encode(shown))["rows"][0]["object"]["data"]["a"].value == b"\0\1\2"
    hook = {"name": "w", "clientConfig": {"caBundle": "AAEC", "url": "https://x"}}
    hooks = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "webhooks": [hook]}  # fmt: skip
    assert cbor2.loads(cbor.encode(hooks))["webhooks"][0]["clientConfig"]["caBundle"].value == b"\0\1\2"


def test_nobody_pays_who_does_not_ask() -> None:
    code = "import sys, kaa.apiserver.front, kaa.apiserver.patch.apply; print('cbor2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# --------------------------------------------------------------------------------------------------------- HTTP


def test_objects_lists_tables_and_refusals() -> None:
    async def use(lab: Lab) -> None:
        made = await lab.ask("POST", MAPS, cbor2.dumps(CONFIG_MAP), content_type=CBOR, Accept=CBOR)
        assert made.status == 201
        plain = (await lab.ask("GET", MAPS + "/x")).json()
        assert read(made) == plain
        as_go = {b"apiVersion": b"v1", b"kind": b"Secret", b"metadata": {b"name": b"s"}, b"data": {b"a": cbor2.CBORTag(22, b"\0")}}  # fmt: skip
        secrets = "/api/v1/namespaces/default/secrets"
        sent = await lab.ask("POST", secrets, b"\xd9\xd9\xf7" + cbor2.dumps(as_go), content_type=CBOR)
        assert sent.json()["data"] == {"a": "AA=="}
        found = read(await lab.ask("GET", secrets, Accept=CBOR))
        assert (found["kind"], found["items"][0]["data"]["a"]) == ("SecretList", cbor2.CBORTag(22, b"\0"))
        assert read(await lab.ask("GET", MAPS, Accept=CBOR))["items"][0]["data"] == {"a": "b"}
        shown = read(await lab.ask("GET", MAPS, Accept=CBOR + AS.format("Table")))
        assert (shown["kind"], shown["rows"][0]["cells"][:2]) == ("Table", ["x", 1])
        some = read(await lab.ask("GET", MAPS, Accept=CBOR + AS.format("PartialObjectMetadataList")))
        assert (some["kind"], some["items"][0]["metadata"]) == ("PartialObjectMetadataList", plain["metadata"])
        missing = await lab.ask("GET", MAPS + "/y", Accept=CBOR)
        assert (missing.status, read(missing)["reason"]) == (404, "NotFound")

    run(use, http=True)


def test_bodies_are_judged_as_json_is() -> None:
    async def use(lab: Lab) -> None:
        async def post(body: Any, query: str = "") -> Answer:
            data = body if isinstance(body, bytes) else cbor2.dumps(body)
            return await lab.ask("POST", MAPS + query, data, content_type=CBOR)

        assert (await post({**CONFIG_MAP, "kind": "Pod"})).status == 400
        odd = {**CONFIG_MAP, "colour": "red"}
        assert 'unknown field "colour"' in (await post(odd, "?fieldValidation=Strict")).json()["message"]
        broken = await post(b"\xa2\x61a\x01\x61a\x02")
        assert broken.status == 400
        assert broken.json()["message"].startswith("the object provided is unrecognized (must be of type ConfigMap)")
        assert (await lab.ask("POST", MAPS, cbor2.dumps(CONFIG_MAP), content_type="application/cbor-seq")).status == 415
        assert (await post(odd)).headers["warning"] == '299 - "unknown field \\"colour\\""'
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "other"}}
        assert (await lab.ask("DELETE", MAPS + "/x", cbor2.dumps(options), content_type=CBOR)).status == 409

    run(use, http=True)


def test_apply_in_cbor() -> None:
    async def use(lab: Lab) -> None:
        where, kind = MAPS + "/x?fieldManager=me", "application/apply-patch+cbor"
        made = await lab.ask("PATCH", where, cbor2.dumps(CONFIG_MAP), content_type=kind, Accept=CBOR)
        entry = read(made)["metadata"]["managedFields"][0]
        assert (made.status, entry["operation"], entry["fieldsV1"]) == (201, "Apply", {"f:data": {"f:a": {}}})
        broken = await lab.ask("PATCH", where, b"\xff", content_type=kind)
        assert (broken.status, broken.json()["reason"]) == (400, "BadRequest")
        assert (await lab.ask("PATCH", where, b"\x80", content_type=kind)).status == 400
        other = await lab.ask("PATCH", where, b"\xa0", content_type="application/merge-patch+cbor")
        assert other.status == 415

    run(use, http=True)


def test_custom_resources() -> None:
    async def use(lab: Lab) -> None:
        await lab.ask("POST", DEFINITIONS, cbor2.dumps(definition()), content_type=CBOR)
        await until(lab, WIDGETS, lambda answer: answer.status == 200)
        body = cbor2.dumps(widget("w", size=3))
        made = await until(lab, WIDGETS, lambda answer: answer.status != 404, "POST", widget("v", size=2))
        assert made.status == 201
        made = await lab.ask("POST", WIDGETS, body, content_type=CBOR, Accept=CBOR)
        assert (made.status, read(made)["spec"]) == (201, {"size": 3, "colour": "red"})
        assert [item["kind"] for item in read(await lab.ask("GET", WIDGETS, Accept=CBOR))["items"]] == ["Widget"] * 2
        wrong = await lab.ask("POST", WIDGETS, cbor2.dumps(widget("z", size=99)), content_type=CBOR, Accept=CBOR)
        assert (wrong.status, read(wrong)["details"]["causes"][0]["field"]) == (422, "spec.size")
        applied = {**widget("w", size=4), "spec": {"size": 4}}
        kind = "application/apply-patch+cbor"
        found = await lab.ask(
            "PATCH", WIDGETS + "/w?fieldManager=me&force=true", cbor2.dumps(applied), content_type=kind
        )
        assert found.json()["spec"]["size"] == 4

    run(use, http=True)


@pytest.mark.parametrize("accept", [CBOR, "application/cbor-seq"])
def test_a_watch_is_a_sequence(accept: str) -> None:
    async def use(lab: Lab) -> None:
        for name in ("x", "y"):
            await lab.ask("POST", MAPS, {**CONFIG_MAP, "metadata": {"name": name}})
        query = "?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1"
        answer = await lab.ask("GET", MAPS + query, Accept=accept)
        assert answer.headers["content-type"] == "application/cbor-seq"
        events, source = [], io.BytesIO(answer.body)
        while source.tell() < len(answer.body):
            events.append(cbor2.CBORDecoder(source).decode())
        assert [(one["type"], one["object"]["metadata"].get("name")) for one in events] == [
            ("ADDED", "x"), ("ADDED", "y"), ("BOOKMARK", None),
        ]  # fmt: skip
        assert events[2]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}

    run(use, http=True)


def test_discovery() -> None:
    async def use(lab: Lab) -> None:
        for path in ("/api", "/apis", "/api/v1", "/apis/apps", "/apis/apps/v1"):
            assert read(await lab.ask("GET", path, Accept=CBOR)) == (await lab.ask("GET", path)).json()
        assert (await lab.ask("GET", "/api/v1", Accept="image/png")).status == 406
        assert (await lab.ask("GET", MAPS, Accept="image/png")).status == 406

    run(use, http=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_a_go_client_reads_and_watches_it(tmp_path: Path) -> None:
    """kubectl 1.32 and later wait through a dynamic client, which speaks CBOR when it is told to."""

    async def use(lab: Lab) -> None:
        await lab.ask("POST", "/api/v1/namespaces/default/secrets", SECRET)
        pki = keys()[1]
        access = [
            f"--server=https://127.0.0.1:{lab.port}", f"--certificate-authority={pki.ca}", "-v=8",
            f"--client-certificate={pki.cert('super-admin')}", f"--client-key={pki.key('super-admin')}",
        ]  # fmt: skip
        gates = {"KUBE_FEATURE_ClientsAllowCBOR": "true", "KUBE_FEATURE_ClientsPreferCBOR": "true"}
        environment = {**os.environ, **gates, "HOME": str(tmp_path), "KUBECONFIG": ""}
        command = ("kubectl", "wait", "--for=jsonpath={.data.b}=Yg==", "secret/x", "--timeout=10s", *access)
        process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=PIPE, stderr=STDOUT)
        await asyncio.sleep(0.5)
        where = "/api/v1/namespaces/default/secrets/x"
        await lab.ask("PATCH", where, {"data": {"b": "Yg=="}}, content_type="application/merge-patch+json")
        output = (await process.communicate())[0].decode()
        assert "secret/x condition met" in output
        assert "Content-Type: application/cbor-seq" in output

    run(use, http=True)


def test_the_audit_log_reads_it() -> None:
    from kaa.apiserver.audit.requests import as_json

    assert json.loads(as_json(cbor2.dumps(CONFIG_MAP), CBOR)) == CONFIG_MAP
    assert json.loads(as_json(cbor2.dumps(CONFIG_MAP), "application/apply-patch+cbor")) == CONFIG_MAP
    assert as_json(b"\xff", CBOR) == b""
