"""Connections on which nothing comes: they are closed in time, and those at work are not."""

from __future__ import annotations

import asyncio
import time

import pytest
from api_lab import Lab, read_answer, run

GET = b"GET /api/v1/namespaces/default HTTP/1.1\r\nHost: x\r\n\r\n"
WATCH = b"GET /api/v1/namespaces?watch=1 HTTP/1.1\r\nHost: x\r\n\r\n"


async def quick(lab: Lab) -> None:
    """Have the sweeper look every 30 ms, with limits that a test can wait for."""
    server = lab.plane.server
    server.header_timeout_s, server.idle_timeout_s, server.body_timeout_s = 0.3, 0.12, 0.6
    await asyncio.sleep(0)


async def closed_after(lab: Lab, *pieces: bytes, every_s: float = 0.0) -> tuple[float, bytes]:
    """Seconds from the first piece until the server closes, and what it said."""
    reader, writer = await lab.connect()
    began = time.monotonic()
    try:
        for piece in pieces:
            writer.write(piece)
            if every_s:
                await asyncio.sleep(every_s)
        said = await asyncio.wait_for(reader.read(), 5)
        return time.monotonic() - began, said
    except ConnectionError:
        return time.monotonic() - began, b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("pieces", "least_s", "says"),
    [
        ((b"",), 0.1, b""),
        ((GET,), 0.1, b"HTTP/1.1 200 OK"),
        ((GET[:20],), 0.28, b""),
        (tuple(GET[n : n + 1] for n in range(20)), 0.28, b""),  # a byte now and then buys no time
        ((b"POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",), 0.5, b"HTTP/1.1 504"),
        (
            (b"POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", *[b"1\r\n \r\n"] * 20),
            0.5,
            b"HTTP/1.1 504",
        ),
    ],
    ids=["nothing", "idle", "half a head", "a slow head", "half a body", "a slow body"],
)  # fmt: skip
def test_silence_is_ended(pieces: tuple[bytes, ...], least_s: float, says: bytes) -> None:
    async def use(lab: Lab) -> None:
        await quick(lab)
        took, said = await closed_after(lab, *pieces, every_s=0.05 if len(pieces) > 1 else 0)
        assert least_s <= took < 2.5
        assert said.startswith(says)
        assert bool(said) == bool(says)

    run(use, http=True)


def test_a_watch_and_a_busy_connection_stay() -> None:
    async def use(lab: Lab) -> None:
        await quick(lab)
        watching, first = await lab.connect()
        asking, second = await lab.connect()
        first.write(WATCH)
        await watching.readuntil(b"\r\n\r\n")
        for _ in range(10):
            second.write(GET)
            assert (await read_answer(asking)).status == 200
            await asyncio.sleep(0.05)
        assert not watching.at_eof()
        first.close()
        second.close()

    run(use, http=True)
