"""HTTP as clients misuse it: the order of answers, refusals, connections that stay or go, compression, health."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator

import pytest
from api_lab import Answer, Lab, read_answer, run

from kaa.api.types.core_v1 import ConfigMap
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.store.memory import MemoryStore

MAPS = "/api/v1/namespaces/default/configmaps"
HOST = "Host: x\r\n"


def create(name: str) -> bytes:
    """A request that takes a turn of the loop to answer."""
    body = json.dumps({"metadata": {"name": name}}).encode()
    head = f"POST {MAPS} HTTP/1.1\r\n{HOST}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def get(path: str, *headers: str, version: str = "1.1") -> bytes:
    return f"GET {path} HTTP/{version}\r\n{HOST}{''.join(f'{h}{chr(13)}{chr(10)}' for h in headers)}\r\n".encode()


async def say(lab: Lab, data: bytes) -> AsyncIterator[Answer]:
    """Every answer that comes to what is sent in one piece; ends when the server closes the connection."""
    reader, writer = await lab.connect()
    try:
        writer.write(data)
        while True:
            try:
                yield await read_answer(reader)
            except asyncio.IncompleteReadError as err:
                if err.partial:
                    raise
                return
    finally:
        writer.close()


async def codes(lab: Lab, data: bytes) -> list[int]:
    return [answer.status async for answer in say(lab, data)]


def test_answers_come_in_order_and_a_refusal_comes_last() -> None:
    large = f"POST {MAPS} HTTP/1.1\r\n{HOST}Content-Length: 99999999\r\n\r\n".encode()

    async def use(lab: Lab) -> None:
        assert await codes(lab, create("a") + get("/version") + create("b") + get(MAPS, "Connection: close")) == [
            201,
            200,
            201,
            200,
        ]
        assert await codes(lab, create("c") + large) == [201, 413]
        assert await codes(lab, create("d") + b"NO SUCH\r\n\r\n") == [201, 400]
        assert await codes(lab, create("e") + get("/version", "Connection: close") + create("never")) == [201, 200]
        assert (await lab.ask("GET", f"{MAPS}/never")).status == 404

    run(use, http=True)


def test_a_body_that_is_too_long_is_refused_without_being_read() -> None:
    declared = f"POST {MAPS} HTTP/1.1\r\n{HOST}Content-Length: 3145729\r\nExpect: 100-continue\r\n\r\n".encode()
    chunk = b"40000\r\n" + b"x" * 0x40000 + b"\r\n"

    async def use(lab: Lab) -> None:
        assert await codes(lab, declared) == [413]
        endless = f"POST {MAPS} HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk * 13
        answers = [answer async for answer in say(lab, endless)]
        assert [a.status for a in answers] == [413]
        assert answers[0].json()["message"] == "Request entity too large: limit is 3145728"
        assert answers[0].headers["connection"] == "close"

    run(use, http=True)


def test_chunked_bodies_and_continue() -> None:
    body = b'{"metadata":{"name":"chunks"}}'
    head = f"POST {MAPS} HTTP/1.1\r\n{HOST}Content-Type: application/json\r\nConnection: close\r\n"
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"

    async def use(lab: Lab) -> None:
        assert await codes(lab, head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunks) == [201]
        reader, writer = await lab.connect()
        waits = create("first") + head.replace(HOST, HOST + "Expect: 100-continue\r\n").encode()
        writer.write(waits + b"Content-Length: %d\r\n\r\n" % len(body))
        assert (await read_answer(reader)).status == 201
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 Continue")
        writer.write(body.replace(b"chunks", b"waited"))
        assert (await read_answer(reader)).status == 201
        writer.close()
        assert await codes(lab, get("/version", "Expect: a miracle")) == [417]

    run(use, http=True)


@pytest.mark.parametrize(
    ("request_", "wanted"),
    [
        (b"GET /version HTTP/1.1\r\n\r\n", [400]),
        (b"GET /version HTTP/1.0\r\n\r\n", [200]),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", [400]),
        (b"GET /version HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", [400]),
        (b"POST /version HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", [400]),
        (get("/version", "Connection: keep-alive, close"), [200]),
        (get("/version", "Connection: Upgrade", "Upgrade: h2c") + b"PRI", [200]),
        (get("/version") + get("/version", "Connection: CLOSE"), [200, 200]),
    ],
)
def test_connections_that_end(request_: bytes, wanted: list[int]) -> None:
    async def use(lab: Lab) -> None:
        assert await codes(lab, request_) == wanted

    run(use, http=True)


def test_http_1_0() -> None:
    async def use(lab: Lab) -> None:
        reader, writer = await lab.connect()
        writer.write(get("/version", "Connection: keep-alive", version="1.0") + get(MAPS, version="1.0"))
        first = await read_answer(reader)
        assert (first.status, first.headers["connection"]) == (200, "keep-alive")
        assert b"ConfigMapList" in await reader.read()
        writer.close()
        reader, writer = await lab.connect()
        writer.write(get(f"{MAPS}?watch=1&timeoutSeconds=1&resourceVersion=1", version="1.0"))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.0 200")
        assert b"chunked" not in head
        writer.close()

    run(use, http=True)


def test_head_has_no_body_also_when_the_list_streams() -> None:
    async def use(lab: Lab) -> None:
        for n in range(3):
            metadata = ObjectMeta(name=f"m{n}", namespace="default")
            await lab.client.create(ConfigMap(metadata=metadata, data={"k": "x" * 900_000}))
        reader, writer = await lab.connect()
        writer.write(get(MAPS).replace(b"GET", b"HEAD", 1) + get("/version"))
        assert (await read_answer(reader, "HEAD")).headers["transfer-encoding"] == "chunked"
        assert (await read_answer(reader)).json()["major"] == "1"
        writer.close()

    run(use, http=True)


def test_large_answers_are_compressed_for_those_who_ask() -> None:
    async def use(lab: Lab) -> None:
        for n in range(3):
            metadata = ObjectMeta(name=f"m{n}", namespace="default")
            await lab.client.create(ConfigMap(metadata=metadata, data={"k": "x" * 900_000}))
        plain = await lab.ask("GET", MAPS)
        assert "content-encoding" not in plain.headers
        for path, of in ((MAPS, plain.body), (f"{MAPS}/m0", (await lab.ask("GET", f"{MAPS}/m0")).body)):
            squeezed = await lab.ask("GET", path, accept_encoding="deflate, gzip")
            assert (squeezed.headers["content-encoding"], squeezed.headers["vary"]) == ("gzip", "Accept-Encoding")
            assert gzip.decompress(squeezed.body) == of
            assert len(squeezed.body) < len(of) / 50
        small = await lab.ask("GET", f"{MAPS}?labelSelector=a", accept_encoding="gzip")
        assert "content-encoding" not in small.headers
        watch = await lab.ask("GET", f"{MAPS}?watch=1&timeoutSeconds=1", accept_encoding="gzip")
        assert "content-encoding" not in watch.headers

    run(use, http=True)


def test_a_server_that_stops_ends_watches_properly() -> None:
    async def use(lab: Lab) -> None:
        reader, writer = await lab.connect()
        writer.write(get(f"{MAPS}?watch=1"))
        await reader.readuntil(b"\r\n\r\n")
        await lab.client.create(ConfigMap(metadata=ObjectMeta(name="a", namespace="default")))
        await reader.readuntil(b'"name":"a"')
        lab.plane.server.closing = True
        for connection in list(lab.plane.server.connections):
            connection.shut()
        assert (await reader.read()).endswith(b"}\n\r\n0\r\n\r\n")
        writer.close()

    run(use, http=True)


def test_health_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise OSError("no disk")

    async def use(lab: Lab) -> None:
        for kind in ("healthz", "livez", "readyz"):
            assert (await lab.ask("GET", f"/{kind}")).body == b"ok"
            assert (await lab.ask("GET", f"/{kind}/ping")).body == b"ok"
        told = (await lab.ask("GET", "/readyz?verbose&exclude=etcd&exclude=nope")).body.decode()
        assert "[+]etcd excluded: ok\n[+]etcd-readiness ok\n[+]informer-sync ok\n" in told
        assert told.endswith(
            '[+]shutdown ok\nwarn: some health checks cannot be excluded: no matches for "nope"\nreadyz check passed\n'
        )
        for hook in ("generic-apiserver-start-informers", "crd-informer-synced", "bootstrap-controller"):
            assert f"[+]poststarthook/{hook} ok\n" in told
            assert (await lab.ask("GET", f"/livez/poststarthook/{hook}")).body == b"ok"
        assert "[+]autoregister-completion ok\n" in told
        assert (await lab.ask("GET", "/livez/shutdown")).status == 404
        monkeypatch.setattr(MemoryStore, "range", broken)
        failed = await lab.ask("GET", "/livez")
        assert failed.status == 500
        assert b"[+]log ok\n[-]etcd failed: reason withheld\n" in failed.body
        assert failed.body.endswith(b"livez check failed\n")
        one = await lab.ask("GET", "/readyz/etcd")
        assert (one.status, one.body) == (500, b"internal server error: error getting data from etcd: no disk\n")
        assert (await lab.ask("GET", "/livez?exclude=etcd")).status == 200
        monkeypatch.undo()
        lab.plane.paths.health.stopping.set()
        assert (await lab.ask("GET", "/readyz")).status == 500
        assert (await lab.ask("GET", "/livez")).status == 200

    run(use, http=True)
