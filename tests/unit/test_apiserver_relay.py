"""What is relayed from a kubelet or a pod: a client that keeps its connections must know when one ends with the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from kaa.apiserver.connect import Relay


class Client:
    """The connection's end that a relay writes to."""

    def __init__(self) -> None:
        self.received = b""

    def take_over(self, sink: Callable[[bytes], None]) -> None:
        self.sink = sink

    async def write(self, data: bytes) -> None:
        self.received += data


async def relayed(head: bytes, body: bytes) -> bytes:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(body)
        writer.close()

    client: Any = Client()
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await Relay(head, *await asyncio.open_connection("127.0.0.1", port))(client)
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
