"""What clients are told when a kubelet, a pod or a service is not reached: in Go's words, with upstream's codes."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from pathlib import Path

import pytest

from kaa.apiserver.connect import Place, Undialled, dial, not_reached
from kaa.kubelet.bootstrap import self_signed


def test_a_port_at_which_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(Undialled, match=rf"^dial tcp 127\.0\.0\.1:{port}: connect: connection refused$"):
            asyncio.run(dial(Place("127.0.0.1", port, "/")))


def test_a_certificate_that_nobody_vouches_for(tmp_path: Path) -> None:
    for name, text in zip(("crt", "key"), self_signed("n1", ("127.0.0.1",), time.time()), strict=True):
        (tmp_path / name).write_bytes(text)
    own = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    own.load_cert_chain(tmp_path / "crt", tmp_path / "key")

    async def story() -> None:
        async def nobody(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        async with await asyncio.start_server(nobody, "127.0.0.1", 0, ssl=own) as server:
            port = server.sockets[0].getsockname()[1]
            await dial(Place("127.0.0.1", port, "/", ssl.create_default_context()))

    words = "^tls: failed to verify certificate: x509: certificate signed by unknown authority$"
    with pytest.raises(Undialled, match=words):
        asyncio.run(story())


@pytest.mark.parametrize(
    ("subresource", "code", "text"),
    [
        ("log", 500, 'Get "https://10.0.0.2:10250/x": EOF'),
        ("exec", 500, "error dialing backend: EOF"),
        ("portforward", 500, "error dialing backend: EOF"),
        ("proxy", 503, "error trying to reach service: EOF"),
    ],
)
def test_who_is_told_what(subresource: str, code: int, text: str) -> None:
    error = not_reached("EOF", Place("10.0.0.2", 10250, "/x"), subresource)
    assert (error.code, str(error)) == (code, text)
