"""Clients that do not mean well: what they send is refused, and no process, task or connection outlives them."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import zlib
from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
from kubelet_serving import WEBSOCKET, Play, SpdyClient, fetch, play, upgrade
from kubelet_world import World, make_pod
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, TextMessage

from kaa.kubelet.config import Serving
from kaa.runtime import spdy

__all__ = ["play"]  # a fixture
V5 = {**WEBSOCKET, "Sec-WebSocket-Protocol": "v5.channel.k8s.io"}
BASE64 = {**WEBSOCKET, "Sec-WebSocket-Protocol": "v4.base64.channel.k8s.io"}
SPDY = {"Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": "v4.channel.k8s.io"}
EXEC = "/exec/default/web/main?command=cat&input=1&output=1&error=1"


class Process:
    """A command that runs until it is killed, and reads as fast as it is told to."""

    def __init__(self) -> None:
        self.killed = asyncio.Event()
        self.got = b""
        self.reads = asyncio.Event()
        self.reads.set()

    async def write(self, data: bytes) -> None:
        await self.reads.wait()
        self.got += data

    async def close_stdin(self) -> None:
        return None

    async def resize(self, columns: int, rows: int) -> None:
        self.got += f"{columns}x{rows}".encode()

    async def output(self) -> AsyncIterator[tuple[Literal["stdout", "stderr"], bytes]]:
        yield "stdout", b"up"
        await self.killed.wait()

    async def wait(self) -> int:
        await self.killed.wait()
        return 137

    async def close(self) -> None:
        self.killed.set()


async def exec_in(world: World) -> list[Process]:
    """A pod in which every exec begins one of these; the list grows with them."""
    begun: list[Process] = []

    async def exec(*_: Any, **__: Any) -> Process:
        begun.append(Process())
        return begun[-1]

    world.runtime.exec = exec  # type: ignore[method-assign,assignment]  # processes that the test sees
    world.client.put(make_pod())
    await world.rest()
    return begun


async def ended(begun: list[Process], port: int, count: int = 1) -> None:
    """Every process is gone, every connection too, and the server answers others."""
    async with asyncio.timeout(5):
        while len(begun) < count:  # noqa: ASYNC110  # the server's own tasks
            await asyncio.sleep(0.01)
        for process in begun:
            await process.killed.wait()
        while any("pump" in task.get_name() for task in asyncio.all_tasks()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await fetch(port, "/healthz") == (200, b"ok")


def message(data: bytes, *, text: bool = False) -> bytes:
    frames = Connection(ConnectionType.CLIENT)
    return frames.send(TextMessage(data=data.decode()) if text else BytesMessage(data=data))


def control(kind: int, payload: bytes) -> bytes:
    return struct.pack(">HHB", 0x8003, kind, 0) + len(payload).to_bytes(3, "big") + payload


@pytest.mark.parametrize(
    ("headers", "sent"),
    [
        (V5, b"\x81\x05hello"),
        (V5, b"\x82\xff" + (1 << 62).to_bytes(8, "big") + b"mask" + b"x" * 1000),
        (V5, b"\xf2\x80mask"),
        (V5, b"\x8b" + b"\xff" * 20),
        (BASE64, message(b"0!!!", text=True)),
    ],
    ids=["unmasked", "of-many-exabytes", "reserved-bits", "unknown-opcode", "no-base64"],
)
def test_frames_that_are_none(play: Play, headers: dict[str, str], sent: bytes) -> None:
    async def story(world: World, port: int) -> None:
        begun = await exec_in(world)
        _, writer, head = await upgrade(port, "GET", EXEC, headers)
        assert "101" in head
        writer.write(sent)
        await writer.drain()
        if sent.startswith(b"\x82\xff"):
            writer.close()  # nobody waits for exabytes
        await ended(begun, port)
        writer.close()

    play(story)


def test_channels_that_are_none_are_not_heard(play: Play) -> None:
    async def story(world: World, port: int) -> None:
        begun = await exec_in(world)
        _, writer, _ = await upgrade(port, "GET", EXEC + "&tty=1", V5)
        for channel in (1, 2, 3, 5, 77, 254):
            writer.write(message(bytes([channel]) + b"evil"))
        for size in (
            b"{",
            b"[]",
            b'{"Width":"x","Height":1}',
            b'{"Width":1e999,"Height":1}',
            b'{"Width":80,"Height":24}',
        ):
            writer.write(message(b"\x04" + size))
        writer.write(message(b"\x00good"))
        async with asyncio.timeout(5):
            while not begun or not begun[0].got.endswith(b"good"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert begun[0].got == b"80x24good"
        writer.close()
        await ended(begun, port)

    play(story)


@pytest.mark.parametrize("cut", [1, 3, 7])
@pytest.mark.parametrize("headers", [V5, SPDY], ids=["websocket", "spdy"])
def test_a_client_that_goes_in_the_middle_of_a_frame(play: Play, headers: dict[str, str], cut: int) -> None:
    async def story(world: World, port: int) -> None:
        begun = await exec_in(world)
        reader, writer, _ = await upgrade(port, "POST", EXEC, headers)
        frame = message(b"\x00some input")
        if headers is SPDY:
            client = SpdyClient(reader, writer)
            for kind in ("error", "stdin", "stdout", "stderr"):
                await client.open(streamtype=kind)
            frame = struct.pack(">IB", 3, 0) + (1000).to_bytes(3, "big") + b"some input"
        writer.write(frame[:cut])
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.close()
        await ended(begun, port)

    play(story)


def bomb() -> bytes:
    """Headers that unpack to a thousand times their size."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 15, 8, zlib.Z_DEFAULT_STRATEGY, spdy.DICTIONARY)
    return packer.compress(b"\0" * (64 << 20)) + packer.flush()


@pytest.mark.parametrize(
    "sent",
    [
        control(spdy.SYN_STREAM, struct.pack(">IIH", 9, 0, 0) + b"no zlib at all"),
        control(spdy.SYN_STREAM, struct.pack(">IIH", 9, 0, 0) + bomb()),
        control(spdy.SYN_STREAM, b"\0"),
        control(spdy.RST_STREAM, b""),
        control(spdy.PING, b"\1"),
        struct.pack(">HHB", 0x8001, 1, 0) + b"\0\0\0",
    ],
    ids=["garbage", "bomb", "short", "reset-of-nothing", "short-ping", "version"],
)
def test_spdy_that_is_none(play: Play, sent: bytes) -> None:
    async def story(world: World, port: int) -> None:
        begun = await exec_in(world)
        reader, writer, _ = await upgrade(port, "POST", EXEC, SPDY)
        client = SpdyClient(reader, writer)
        for kind in ("error", "stdin", "stdout", "stderr"):
            await client.open(streamtype=kind)
        writer.write(sent)
        await ended(begun, port)
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError):
                while await reader.read(65536):
                    continue
        writer.close()

    play(story)


def test_streams_beyond_measure_are_refused(play: Play) -> None:
    async def story(world: World, port: int) -> None:
        begun = await exec_in(world)
        reader, writer, _ = await upgrade(port, "POST", EXEC, SPDY)
        client = SpdyClient(reader, writer)
        for kind in ("error", "stdin", "stdout", "stderr"):
            await client.open(streamtype=kind)
        for _ in range(5000):
            await client.open(streamtype="stdin")
        await writer.drain()
        refused = 0
        async with asyncio.timeout(10):
            while refused < 5004 - spdy.STREAMS_MAX:
                head = await reader.readexactly(8)
                await reader.readexactly(int.from_bytes(head[5:], "big"))
                refused += head[:4] == struct.pack(">HH", 0x8003, spdy.RST_STREAM)
        writer.close()
        await ended(begun, port)

    play(story)


@pytest.mark.parametrize("headers", [V5, SPDY], ids=["websocket", "spdy"])
def test_thousands_of_opens_leave_nothing(play: Play, headers: dict[str, str]) -> None:
    async def story(world: World, port: int) -> None:
        begun = await exec_in(world)
        before = len(asyncio.all_tasks())

        async def one(n: int) -> None:
            reader, writer, _ = await upgrade(port, "POST", EXEC, headers)
            if headers is SPDY and n % 2:
                client = SpdyClient(reader, writer)
                for kind in ("error", "stdin", "stdout", "stderr"):
                    await client.open(streamtype=kind)
            writer.close()

        for first in range(0, 500, 50):
            await asyncio.gather(*(one(first + n) for n in range(50)))
        async with asyncio.timeout(10):
            while len(asyncio.all_tasks()) > before or not all(one.killed.is_set() for one in begun):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert await fetch(port, "/healthz") == (200, b"ok")

    play(story)


def test_a_process_that_does_not_read_holds_its_client_back(play: Play) -> None:
    """What a client sends is not gathered here for ever: the connection is not read any more."""

    async def story(world: World, port: int) -> None:
        begun = await exec_in(world)
        reader, writer, _ = await upgrade(port, "POST", EXEC, SPDY)
        client = SpdyClient(reader, writer)
        await client.open(streamtype="error")
        stdin = await client.open(streamtype="stdin")
        for kind in ("stdout", "stderr"):
            await client.open(streamtype=kind)
        async with asyncio.timeout(5):
            while not begun:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        begun[0].reads.clear()
        sent = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                while sent < 64 << 20:
                    await client.send(stdin, b"x" * (1 << 20))
                    await writer.drain()
                    sent += 1 << 20
        assert sent < 48 << 20
        begun[0].reads.set()
        async with asyncio.timeout(5):
            while len(begun[0].got) < sent:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        writer.close()
        await ended(begun, port)

    play(story)


def test_a_stream_on_which_nothing_moves_is_ended(play: Play) -> None:
    async def story(world: World, port: int) -> None:
        begun = await exec_in(world)
        _, writer, _ = await upgrade(port, "GET", EXEC, V5)
        await ended(begun, port)
        writer.close()

    play(story, serving=Serving(idle_s=0.2))


@pytest.mark.parametrize(
    ("without", "code"), [("Sec-WebSocket-Key", "400"), ("Sec-WebSocket-Version", "400"), ("Upgrade", "400")]
)
def test_handshakes_that_lack_something(play: Play, without: str, code: str) -> None:
    async def story(world: World, port: int) -> None:
        begun = await exec_in(world)
        headers = {name: value for name, value in V5.items() if name != without}
        _, writer, head = await upgrade(port, "GET", EXEC, headers)
        assert head.split()[1] == code
        writer.close()
        assert begun == []

    play(story)


def test_fragments_are_summed_once() -> None:
    """A message of very many parts costs as much as one of few."""
    from kaa.kubelet.serving.streaming.websocket import WebSocket

    class Fed:
        def __init__(self, data: bytes) -> None:
            self.data = data

        async def read(self) -> bytes:
            data, self.data = self.data, b""
            return data

        async def write(self, data: bytes) -> None:
            return None

        async def close(self) -> None:
            return None

    frames = Connection(ConnectionType.CLIENT)
    data = b"".join(frames.send(BytesMessage(data=b"x", message_finished=n == 2999)) for n in range(3000))

    async def go() -> bytes | None:
        return await WebSocket(Fed(data)).receive()

    assert asyncio.run(go()) == b"x" * 3000
