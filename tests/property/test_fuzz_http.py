"""Whatever a client writes to the socket, it is answered or hung up on soon, never with a 500, and the server goes on.

Two fuzzers on one server: raw HTTP/1.1 (broken heads, chunks, pipelines), and requests that our own OpenAPI describes,
made by schemathesis. Fixed seeds; ``KAA_FUZZ=10`` tries ten times as many.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import warnings
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from api_lab import Answer, Lab, read_answer, run
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

TIMES = int(os.environ.get("KAA_FUZZ", "1"))
MAPS = b"/api/v1/namespaces/default/configmaps"
GOOD = b"GET %s/x HTTP/1.1\r\nHost: x\r\n\r\n" % MAPS
BODY = b'{"kind":"ConfigMap","apiVersion":"v1","metadata":{"generateName":"f-"}}'
#: Bare 500s that are upstream's own words.
UPSTREAM = ("failed to create typed", "unknown patch type", "resourceVersion should not be set", "target.name", "without impersonating")  # fmt: skip

METHODS = (
    b"GET",
    b"HEAD",
    b"POST",
    b"PUT",
    b"PATCH",
    b"DELETE",
    b"OPTIONS",
    b"CONNECT",
    b"TRACE",
    b"PRI",
    b"GE T",
    b"",
)
TARGETS = (
    MAPS, MAPS + b"?limit=%D9%A1", MAPS + b"?watch=1&timeoutSeconds=1", b"/api/v1/pods?labelSelector=%ff%00", b"/%2e%2e/%00",
    b"//api//v1//pods", b"*", b"http://h/api", b"/api/v1/namespaces/%E2%82/pods", b"/" + b"a" * 9000, b"/openapi/v3?hash=\xff",
    b"/api/v1/namespaces/default/pods/a/exec?command=%0d%0a", b"/apis/apps/v1/namespaces/default/deployments/a/scale", b"",
)  # fmt: skip
HEADERS = (
    b"Host: x", b"Host: ", b"Accept: application/json;as=Table;g=meta.k8s.io;v=v1", b"Accept: ;;;,,=", b"Accept-Encoding: gzip",
    b"Connection: close", b"Connection: Upgrade", b"Upgrade: websocket", b"Upgrade: SPDY/3.1", b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked", b"Content-Length: 71", b"Content-Length: -1", b"Content-Length: 99999999999999999999",
    b"Content-Length: 1\r\nContent-Length: 2", b"Expect: 100-continue", b"Expect: x", b"Impersonate-User: a\xff", b"X: " + b"y" * 70_000,
    b"Content-Type: application/yaml", b"Content-Type: application/vnd.kubernetes.protobuf", b"Content-Type: \xff;=;", b"Audit-ID: \x7f",
    b" folded", b"No colon", b"If-None-Match: \"", b"Authorization: Bearer \xff", b"Traceparent: 00-0-0-0", b"X-Remote-User: root",
)  # fmt: skip
BODIES = (b"", BODY, b"47\r\n" + BODY + b"\r\n0\r\n\r\n", b"zz\r\n", b"ffffffffffffffff\r\nx", b"1\r\nab\r\n", b"0\r\nT: x\r\n\r\n", b"k8s\x00\n\xff", GOOD)  # fmt: skip


def message(draw: st.DrawFn) -> bytes:
    if draw(st.integers(0, 4)) == 0:
        return GOOD
    line = b"%s %s %s" % (
        draw(st.sampled_from(METHODS)),
        draw(st.sampled_from(TARGETS)),
        draw(st.sampled_from((b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/9.9", b""))),
    )
    heads = [b"Host: x", *draw(st.lists(st.sampled_from(HEADERS), max_size=4))]
    return b"\r\n".join([line, *heads, b"", b""]) + draw(st.sampled_from(BODIES))


@st.composite
def conversations(draw: st.DrawFn) -> list[bytes]:
    """Up to three messages on one connection, in pieces."""
    data = b"".join(message(draw) for _ in range(draw(st.integers(1, 3))))
    if draw(st.booleans()):
        n = draw(st.integers(0, len(data)))
        data = data[:n] + draw(st.binary(max_size=3)) + data[n:]
    cut = draw(st.integers(0, len(data)))
    return [data[:cut], data[cut:]]


def examples(strategy: st.SearchStrategy[Any], count: int) -> list[Any]:
    """So many values, the same in every run: drawn first, for the server lives in an event loop."""
    found: list[Any] = []

    @seed(20260101)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def take(value: Any) -> None:
        found.append(value)

    take()
    return found


async def answers(lab: Lab, pieces: list[bytes]) -> bytes:
    """All that the server says until it has nothing more to say."""
    reader, writer = await lab.connect()
    try:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0)
        writer.write(b"")
        said = b""
        while True:
            try:
                piece = await asyncio.wait_for(reader.read(1 << 20), 0.15)
            except TimeoutError:
                return said
            if not piece:
                return said
            said += piece
    except ConnectionError:
        return b""
    finally:
        writer.close()


def test_raw_http() -> None:
    conversation = examples(conversations(), 80 * TIMES)

    async def use(lab: Lab) -> None:
        await lab.ask("GET", "/version")
        tasks = len(asyncio.all_tasks())
        with capture_logs() as logs:
            for start in range(0, len(conversation), 10):
                batch = conversation[start : start + 10]
                for pieces, said in zip(batch, await asyncio.gather(*(answers(lab, p) for p in batch)), strict=True):
                    assert b"HTTP/1.1 500" not in said, (pieces, said)
            assert (await lab.ask("GET", "/version")).status == 200
        assert not [entry for entry in logs if entry["log_level"] == "error"]
        await asyncio.sleep(0.5)
        assert len(asyncio.all_tasks()) <= tasks + 2  # what a conversation started has ended with it

    run(use, http=True, patience_s=60 * TIMES)


# --------------------------------------------------------------------------------------------------- by our OpenAPI


def cases(document: dict[str, Any], each: int) -> list[Any]:
    """Requests to every operation of a document. The choice of operations is ours, so that all are reached in time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # schemathesis' own dependencies
        import schemathesis

        schema = schemathesis.openapi.from_dict(document)
        operations = [found.ok() for found in schema.get_all_operations()]
        operations = [operation for operation in operations if "/watch/" not in operation.path]  # they last
        chosen = random.Random(1).sample(operations, min(len(operations), 12 * TIMES))
        return [case for operation in chosen for case in examples(operation.as_strategy(), each)]


async def send(lab: Lab, case: Any) -> Answer:
    path = case.path
    for name, value in (case.path_parameters or {}).items():
        path = path.replace("{" + name + "}", quote(str(value), safe="") or "x")
    query = urlencode([(k, v) for k, v in (case.query or {}).items() if k != "watch"], doseq=True)
    body = b"" if type(case.body).__name__ == "NotSet" else json.dumps(case.body).encode()
    reader, writer = await lab.connect()
    try:
        kind = case.media_type if case.media_type and "*" not in case.media_type else "application/json"
        head = f"{case.method} {quote(path, safe='/%')}?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        return await read_answer(reader, case.method)
    finally:
        writer.close()


@pytest.mark.parametrize("group", ["api/v1", "apis/apps/v1"])
def test_what_our_openapi_describes(group: str) -> None:
    pytest.importorskip("schemathesis")

    documents: list[Any] = []

    async def fetch(lab: Lab) -> None:
        documents.append((await lab.ask("GET", f"/openapi/v3/{group}")).json())

    run(fetch, http=True)
    requests = cases(documents[0], 2)

    async def use(lab: Lab) -> None:
        with capture_logs() as logs:
            for case in requests:
                answer = await send(lab, case)
                if answer.status >= 500 and answer.status not in (503, 504):
                    assert any(word in answer.body.decode() for word in UPSTREAM), (case, answer)
            assert (await lab.ask("GET", "/version")).status == 200
        assert not [entry for entry in logs if entry["log_level"] == "error"]

    run(use, http=True, patience_s=60 * TIMES)
