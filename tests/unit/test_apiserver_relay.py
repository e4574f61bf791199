"""What is relayed from a kubelet or a pod: a client that keeps its connections must know when one ends with the answer,
links of what is proxied lead through the proxy, and logs come as messages to whom asks so."""

from __future__ import annotations

import asyncio
import base64
import gzip
import time
from collections.abc import Callable
from typing import Any

import pytest

from kaa.apiserver.connect_relay import MessageRelay, Relay, asks_for_messages
from kaa.apiserver.proxied import ProxyRelay, Standing


class Client:
    """The connection's end that a relay writes to."""

    def __init__(self) -> None:
        self.received = b""

    def take_over(self, sink: Callable[[bytes], None]) -> None:
        self.sink = sink

    async def write(self, data: bytes) -> None:
        self.received += data


async def relayed(head: bytes, body: bytes, make: Callable[..., Relay] = Relay) -> bytes:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(body)
        writer.close()

    client: Any = Client()
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await make(head, *await asyncio.open_connection("127.0.0.1", port))(client)
    return bytes(client.received)


@pytest.mark.parametrize(
    ("head", "given"),
    [
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
            id="an-answer-ends-the-connection",
        ),
        pytest.param(
            b"HTTP/1.1 404 Not Found\r\nconnection: keep-alive\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\n\r\n",
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nConnection: close\r\n\r\n",
            id="whatever-the-pod-said",
        ),
        pytest.param(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: SPDY/3.1\r\nConnection: Upgrade\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: SPDY/3.1\r\nConnection: Upgrade\r\n\r\n",
            id="an-upgrade-is-as-it-was",
        ),
    ],
)
def test_a_relayed_head_says_what_becomes_of_the_connection(head: bytes, given: bytes) -> None:
    assert asyncio.run(relayed(head, b"hi")) == given + b"hi"


PREFIX = "/api/v1/namespaces/n/pods/p:1080/proxy"
HERE = Standing(PREFIX, "10.0.0.5:1080", "api.example.com")


@pytest.mark.parametrize(
    ("link", "led"),
    [
        ("/a/b?q=1#f", f"{PREFIX}/a/b?q=1#f"),
        ("/a/", f"{PREFIX}/a/"),
        ("/", f"{PREFIX}/"),
        ("http://10.0.0.5:1080/a", f"{PREFIX}/a"),
        ("http://api.example.com/a", f"{PREFIX}/a"),
        (f"{PREFIX}/a", f"{PREFIX}/a"),
        ("http://elsewhere.example.com/a", "http://elsewhere.example.com/a"),
        ("a/b", "a/b"),
        ("#top", "#top"),
        ("http://[", "http://["),
    ],
    ids=lambda text: text[:32],
)
def test_links_to_the_same_host_lead_through_the_proxy(link: str, led: str) -> None:
    assert HERE.link(link) == led


@pytest.mark.parametrize(
    ("page", "wanted"),
    [
        ('<a href="/x">y</a>', f'<a href="{PREFIX}/x">y</a>'),
        ("<A class=b HREF='/x?a=1&amp;b'>/x</A>", f'<A class=b HREF="{PREFIX}/x?a=1&amp;b">/x</A>'),
        ("<img src=/x alt=/x>", f'<img src="{PREFIX}/x" alt=/x>'),
        ('<script src="/x">f("<a href=\'/x\'>")</script>', f'<script src="{PREFIX}/x">f("<a href=\'/x\'>")</script>'),
        ('<!-- <a href="/x"> --><b href="/x">', '<!-- <a href="/x"> --><b href="/x">'),
        ('2 < 3 <a title="<" href="/x" "', f'2 < 3 <a title="<" href="{PREFIX}/x" "'),
    ],
    ids=["plain", "quotes-and-entities", "no-quotes", "scripts-are-text", "comments", "never-closed"],
)
def test_a_page_keeps_all_but_its_links(page: str, wanted: str) -> None:
    assert HERE.page(page) == wanted


def test_a_page_that_never_closes_anything_is_read_in_one_go() -> None:
    began = time.process_time()
    for piece in ('<a "', "<a '", "<!--", "<a =", "<script>", '<a href="', "<a b"):
        HERE.page(piece * 50_000)
    assert time.process_time() - began < 1.5


@pytest.mark.parametrize("packed", [False, True])
def test_a_proxied_page(packed: bool) -> None:
    page = b'<a href="/x">y</a>'
    body = gzip.compress(page) if packed else page
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nAccess-Control-Allow-Origin: *\r\n"
    head += b"Content-Encoding: gzip\r\n" * packed + b"Transfer-Encoding: chunked\r\n\r\n"
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    wanted = f'<a href="{PREFIX}/x">y</a>'.encode()
    answer = asyncio.run(relayed(head, chunks, lambda *rest: ProxyRelay(*rest, HERE, "GET")))
    assert answer == (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n"
        b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(wanted), wanted)
    )


def test_a_redirect_leads_through_the_proxy() -> None:
    head = b"HTTP/1.1 302 Found\r\nLocation: /x/\r\nContent-Length: 0\r\n\r\n"
    answer = asyncio.run(relayed(head, b"", lambda *rest: ProxyRelay(*rest, HERE, "GET")))
    assert b"\r\nLocation: " + PREFIX.encode() + b"/x/\r\n" in answer


@pytest.mark.parametrize(
    ("offered", "kind", "sent"),
    [("binary.k8s.io", 0x82, b"hi"), ("other, base64.binary.k8s.io", 0x81, base64.b64encode(b"hi")), ("", 0x82, b"hi")],
)
def test_a_log_comes_in_messages(offered: str, kind: int, sent: bytes) -> None:
    asked = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        "sec-websocket-protocol": offered,
    }
    assert asks_for_messages(asked)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = asyncio.run(relayed(head, b"2\r\nhi\r\n0\r\n\r\n", lambda *rest: MessageRelay(*rest, asked)))
    shaken, _, frames = answer.partition(b"\r\n\r\n")
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in shaken  # RFC 6455, 1.3
    assert (b"Sec-WebSocket-Protocol" in shaken) == bool(offered)
    assert frames == bytes((kind, 0, kind, len(sent))) + sent + b"\x88\x02\x03\xe8"
