"""The kubelet's API over real connections: logs, exec by WebSocket and by SPDY, port-forward, host processes."""

from __future__ import annotations

import asyncio
import base64
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from kubelet_serving import WEBSOCKET, Play, SpdyClient, fetch, play, upgrade, websocket_messages
from kubelet_world import World, make_pod
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage

from kaa.kubelet.config import HostProcess
from kaa.runtime import spdy

__all__ = ["play"]  # a fixture


def write_log(world: World, text: str, name: str = "web") -> Path:
    path = world.config.pod_log_root / f"default_{name}_uid-{name}/main/0.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(text)
    return path


LINES = (
    "2026-11-21T03:10:01.000000001Z stdout F one\n"
    "2026-11-21T03:10:02.000000001Z stderr F two\n"
    "2026-11-21T03:10:03.000000001Z stdout P thr\n"
    "2026-11-21T03:10:03.000000002Z stdout F ee\n"
)


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("", b"one\ntwo\nthree\n"),
        ("?tailLines=1", b"ee\n"),
        ("?tailLines=0", b""),
        ("?limitBytes=5", b"one\nt"),
        ("?stream=Stderr", b"two\n"),
        ("?sinceTime=2026-11-21T03:10:03Z", b"three\n"),
        ("?timestamps=true&tailLines=1", b"2026-11-21T03:10:03.000000002Z ee\n"),
    ],
    ids=["all", "tail", "tail-none", "limit", "stream", "since", "timestamps"],
)
def test_logs(play: Play, query: str, body: bytes) -> None:
    async def story(world: World, port: int) -> None:
        world.client.put(make_pod())
        await world.rest()
        write_log(world, LINES)
        assert await fetch(port, f"/containerLogs/default/web/main{query}") == (200, body)

    play(story)


def test_logs_of_what_is_not_there(play: Play) -> None:
    async def story(world: World, port: int) -> None:
        world.runtime.pull_errors["busybox:1.36"] = "unknown"
        world.client.put(make_pod())
        await world.rest()
        code, body = await fetch(port, "/containerLogs/default/web/main")
        assert (code, body) == (400, b'container "main" in pod "web" is waiting to start: ErrImagePull')
        assert (await fetch(port, "/containerLogs/default/nobody/main"))[0] == 404
        code, body = await fetch(port, "/containerLogs/default/web/main?previous=true")
        assert body == b'previous terminated container "main" in pod "web" not found'

    play(story)


def test_logs_follow_until_the_container_ends(play: Play) -> None:
    async def story(world: World, port: int) -> None:
        world.client.put(make_pod(restart_policy="Never"))
        await world.rest()
        write_log(world, LINES)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        path = "/containerLogs/default/web/main?follow=true&tailLines=1"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        await reader.readuntil(b"ee\n")
        write_log(world, "2026-11-21T03:10:04.000000001Z stdout F four\n")
        await reader.readuntil(b"four\n")
        [container] = await world.runtime.list_containers()
        world.runtime.exit(container.id)
        assert await reader.read() == b"\r\n0\r\n\r\n"
        writer.close()

    play(story)


def test_host_process_is_a_mirror_pod_with_logs(play: Play, tmp_path: Path) -> None:
    log_path = tmp_path / "apiserver.log"
    log_path.write_text("plain one\nplain two\n")
    process = HostProcess("kube-apiserver", "kube-apiserver", log_path, "kaa:1", 1_790_000_000.0)

    async def story(world: World, port: int) -> None:
        await world.advance(1)
        pod = world.pod("kube-apiserver-n1", "kube-system")
        assert pod.status.phase == "Running"
        assert pod.status.container_statuses[0].ready
        assert "kubernetes.io/config.mirror" in pod.metadata.annotations
        answer = await fetch(port, "/containerLogs/kube-system/kube-apiserver-n1/kube-apiserver?tailLines=1")
        assert answer == (200, b"plain two\n")

    play(story, host_processes=(process,))


def test_pods_stats_metrics_and_health(play: Play) -> None:
    async def story(world: World, port: int) -> None:
        world.client.put(make_pod())
        await world.rest()
        assert await fetch(port, "/healthz") == (200, b"ok")
        pods = json.loads((await fetch(port, "/pods"))[1])
        assert [p["metadata"]["name"] for p in pods["items"]] == ["web"]
        stats = json.loads((await fetch(port, "/stats/summary"))[1])
        assert stats["pods"][0]["containers"][0]["name"] == "main"
        assert b"kubelet_running_pods 1\n" in (await fetch(port, "/metrics"))[1]
        assert (await fetch(port, "/nothing"))[0] == 404

    play(story)


def test_exec_over_websocket(play: Play) -> None:
    async def story(world: World, port: int) -> None:
        world.client.put(make_pod())
        await world.rest()
        path = "/exec/default/web/main?command=echo&command=hi&output=1&error=1"
        offered = {"Sec-WebSocket-Protocol": "v5.channel.k8s.io"}
        reader, writer, head = await upgrade(port, "GET", path, {**WEBSOCKET, **offered})
        assert "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
        assert "v5.channel.k8s.io" in head
        got = [m async for m in websocket_messages(reader, Connection(ConnectionType.CLIENT))]
        assert got == [b"\x01echo hi\n", b'\x03{"metadata":{},"status":"Success"}']
        writer.close()

    play(story)


def test_stdin_over_websocket_is_closed_by_v5(play: Play) -> None:
    async def story(world: World, port: int) -> None:
        world.client.put(make_pod())
        await world.rest()
        path = "/exec/default/web/main?command=cat&input=1&output=1"
        offered = {"Sec-WebSocket-Protocol": "v5.channel.k8s.io"}
        reader, writer, _ = await upgrade(port, "GET", path, {**WEBSOCKET, **offered})
        frames = Connection(ConnectionType.CLIENT)
        writer.write(frames.send(BytesMessage(data=b"\x00hello")))
        writer.write(frames.send(BytesMessage(data=b"\xff\x00")))
        got = [m async for m in websocket_messages(reader, frames)]
        assert got == [b"\x01hello", b'\x03{"metadata":{},"status":"Success"}']
        writer.close()

    play(story)


class TunnelClient(SpdyClient):
    """The same inside WebSocket messages."""

    def __init__(self, reader: Any, writer: Any) -> None:
        super().__init__(reader, writer)
        self._frames = Connection(ConnectionType.CLIENT)
        self._messages = websocket_messages(reader, self._frames)
        self._held = b""

    async def _write(self, data: bytes) -> None:
        self._writer.write(self._frames.send(BytesMessage(data=data)))

    async def _read(self, size: int) -> bytes:
        while len(self._held) < size:
            self._held += await anext(self._messages)
        taken, self._held = self._held[:size], self._held[size:]
        return taken


def test_exec_over_spdy(play: Play) -> None:
    async def story(world: World, port: int) -> None:
        world.client.put(make_pod())
        await world.rest()
        path = "/exec/default/web/main?command=cat&input=1&output=1&error=1"
        headers = {"Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": "v4.channel.k8s.io, v3.channel.k8s.io"}
        reader, writer, head = await upgrade(port, "POST", path, headers)
        assert "X-Stream-Protocol-Version: v4.channel.k8s.io" in head
        client = SpdyClient(reader, writer)
        error = await client.open(streamtype="error")
        stdin = await client.open(streamtype="stdin")
        stdout = await client.open(streamtype="stdout")
        stderr = await client.open(streamtype="stderr")
        await client.send(stdin, b"hello", end=True)
        got = await client.collect({error, stdout, stderr})
        assert (got[stdout], got[error]) == (b"hello", b'{"metadata":{},"status":"Success"}')
        writer.close()

    play(story)


@pytest.mark.parametrize("tunneled", [False, True], ids=["spdy", "spdy-in-websocket"])
def test_port_forward(play: Play, tunneled: bool) -> None:
    async def story(world: World, port: int) -> None:
        world.client.put(make_pod())
        await world.rest()
        if tunneled:
            headers = {**WEBSOCKET, "Sec-WebSocket-Protocol": "SPDY/3.1+portforward.k8s.io"}
            reader, writer, _ = await upgrade(port, "GET", "/portForward/default/web", headers)
            client: SpdyClient = TunnelClient(reader, writer)
        else:
            headers = {"Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": "portforward.k8s.io"}
            reader, writer, _ = await upgrade(port, "POST", "/portForward/default/web", headers)
            client = SpdyClient(reader, writer)
        for request in ("0", "1"):
            error = await client.open(streamtype="error", port="80", requestid=request)
            data = await client.open(streamtype="data", port="80", requestid=request)
            await client.send(data, b"ping" + request.encode(), end=True)
            got = await client.collect({data, error})
            assert got[data] == b"ping" + request.encode()
        writer.close()

    play(story)


@pytest.mark.parametrize("protocol", ["", "v4.channel.k8s.io", "v4.base64.channel.k8s.io"])
def test_port_forward_over_channels(play: Play, protocol: str) -> None:
    """As the Python and JavaScript clients ask for it: two channels a port, each opened with the port's number."""

    def frame(channel: int, data: bytes) -> bytes:
        return str(channel).encode() + base64.b64encode(data) if "base64" in protocol else bytes([channel]) + data

    async def story(world: World, port: int) -> None:
        world.client.put(make_pod())
        await world.rest()
        headers = {**WEBSOCKET, "Sec-WebSocket-Protocol": protocol} if protocol else WEBSOCKET
        reader, writer, _ = await upgrade(port, "GET", "/portForward/default/web?port=80&port=81", headers)
        frames = Connection(ConnectionType.CLIENT)
        messages = websocket_messages(reader, frames)
        opened = [await anext(messages) for _ in range(4)]
        assert opened == [frame(c, n) for c, n in ((0, b"\x50\0"), (1, b"\x50\0"), (2, b"\x51\0"), (3, b"\x51\0"))]
        for channel, data in ((2, b"to the second"), (0, b"to the first"), (2, b"again")):
            writer.write(frames.send(BytesMessage(data=frame(channel, data))))
            assert await anext(messages) == frame(channel, data)
        writer.close()

    play(story)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("", b'query parameter "port" is required'),
        ("?port=http", b'unable to parse "http" as a port'),
        ("?port=65536", b'unable to parse "65536" as a port'),
        ("?port=0", b'port "0" must be > 0'),
    ],
)
def test_port_forward_over_channels_needs_ports(play: Play, query: str, says: bytes) -> None:
    async def story(world: World, port: int) -> None:
        world.client.put(make_pod())
        await world.rest()
        reader, writer, head = await upgrade(port, "GET", f"/portForward/default/web{query}", WEBSOCKET)
        assert head.startswith("HTTP/1.1 400 ")
        assert await reader.readexactly(len(says)) == says
        writer.close()

    play(story)


def test_the_dictionary_is_spdy_3s() -> None:
    assert (len(spdy.DICTIONARY), zlib.adler32(spdy.DICTIONARY)) == (1423, 0xE3C6A7C2)
