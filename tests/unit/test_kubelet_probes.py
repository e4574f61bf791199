"""Probes: what they say of real listeners on loopback (HTTP, TCP, gRPC), and how a kubelet counts under virtual time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc as real_grpc
import pytest
from kubelet_world import World, make_container, make_pod
from msgspec.structs import replace

from kaa.api.clock import VirtualClock
from kaa.api.types.core_v1 import (
    ContainerPort,
    EnvVar,
    ExecAction,
    GRPCAction,
    HTTPGetAction,
    HTTPHeader,
    Probe,
    TCPSocketAction,
)
from kaa.kubelet.probing.grpc import NotServing, check
from kaa.kubelet.probing.hpack import Decoder, HpackError
from kaa.kubelet.probing.probes import ProbeErrored, ProbeFailed, run_probe
from kaa.runtime.base import ExecResult, RuntimeFailure
from kaa.runtime.simulated import SimulatedRuntime

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def ask(serve: Serve | None, make: Callable[[int], Probe]) -> str:
    """The probe's complaint about a server; empty when it is content."""
    idle: Serve = serve or _hang
    served: list[asyncio.Task[None]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        served.append(task)
        with contextlib.suppress(ConnectionError):  # the probe leaves as soon as it knows
            await idle(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    if serve is None:
        server.close()
        await server.wait_closed()
    spec = make_container(ports=(ContainerPort(name="web", container_port=port),))
    try:
        warned = await run_probe(SimulatedRuntime(VirtualClock()), spec, "c", "127.0.0.1", make(port))
    except (ProbeFailed, ProbeErrored, OSError) as err:
        return str(err).replace(str(port), "PORT")
    finally:
        server.close()
        await asyncio.sleep(0.01)
        await asyncio.gather(*served)
    return warned.replace(str(port), "PORT")


async def _hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


def answering(code: int, location: str = "", body: bytes = b"") -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        where = f"Location: {location}\r\n" if location else ""
        writer.write(f"HTTP/1.1 {code} Whatever\r\n{where}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        writer.close()

    return serve


def redirecting(target: str) -> Serve:
    """``/healthz`` leads to ``target``, and everything else says 200 or what its path says."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        code = 302 if path == "/healthz" else int(path.rpartition("/")[2] or 200)
        writer.write(f"HTTP/1.1 {code} So\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode())
        writer.close()

    return serve


def saying(raw: bytes) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(raw)
        writer.close()

    return serve


def grpc(status: bytes) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(24 + 9)
        body = b"\0" + len(status).to_bytes(4, "big") + status
        writer.write(b"\0\0\0\x04\0\0\0\0\0")
        writer.write(len(body).to_bytes(3, "big") + b"\0\0\0\0\0\x01" + body)
        writer.write(b"\0\0\0\x01\x05\0\0\0\x01")
        await writer.drain()
        await reader.read()

    return serve


def http(port: int | str, timeout: int = 1) -> Probe:
    return Probe(http_get=HTTPGetAction(port=port, path="/healthz"), timeout_seconds=timeout)


GET = 'Get "http://127.0.0.1:PORT/healthz"'


@pytest.mark.parametrize(
    ("serve", "make", "message"),
    [
        (answering(200), http, ""),
        (answering(204), lambda port: http("web"), ""),
        (answering(302, body=b"over there"), http, "Probe terminated redirects, Response body: over there"),
        (answering(302, "http://elsewhere.test/"), http, "Probe terminated redirects, Response body: "),
        (redirecting("/fine/200"), http, ""),
        (redirecting("bad/503"), http, "HTTP probe failed with statuscode: 503"),
        (redirecting("/healthz"), http, f"{GET}: stopped after 10 redirects"),
        (answering(500), http, "HTTP probe failed with statuscode: 500"),
        (answering(200, body=b"x" * 100_000), http, ""),
        (saying(b""), http, f"{GET}: EOF"),
        (
            saying(b"SSH-2.0-box\r\n"),
            http,
            f'{GET}: net/http: HTTP/1.x transport connection broken: malformed HTTP response "SSH-2.0-box"',
        ),
        (
            saying(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            lambda port: Probe(http_get=HTTPGetAction(port=port, path="/healthz", scheme="HTTPS")),
            'Get "https://127.0.0.1:PORT/healthz": http: server gave HTTP response to HTTPS client',
        ),
        (None, http, f"{GET}: dial tcp 127.0.0.1:PORT: connect: connection refused"),
        (answering(200), lambda port: http("nobody"), 'strconv.Atoi: parsing "nobody": invalid syntax'),
        (answering(200), lambda port: http(0), "invalid port number: 0"),
        (_hang, lambda port: Probe(tcp_socket=TCPSocketAction(port=port)), ""),
        (
            None,
            lambda port: Probe(tcp_socket=TCPSocketAction(port=port)),
            "dial tcp 127.0.0.1:PORT: connect: connection refused",
        ),
        (grpc(b"\x08\x01"), lambda port: Probe(grpc=GRPCAction(port=port, service="me")), ""),
        (
            grpc(b"\x08\x02"),
            lambda port: Probe(grpc=GRPCAction(port=port)),
            'service unhealthy (responded with "NOT_SERVING")',
        ),
        (
            None,
            lambda port: Probe(grpc=GRPCAction(port=port)),
            'timeout: failed to connect service "127.0.0.1:PORT" within 1s: context deadline exceeded',
        ),
    ],
    ids=[
        "200", "204-by-name", "redirect-to-nowhere", "redirect-elsewhere", "redirect-here", "redirect-to-503",
        "redirects-for-ever", "500", "large-body", "eof", "no-http", "no-tls", "refused", "no-such-port", "port-0", "tcp",
        "tcp-refused", "grpc", "grpc-not-serving", "grpc-refused",
    ],
)  # fmt: skip
def test_probes(serve: Serve | None, make: Callable[[int], Probe], message: str) -> None:
    assert asyncio.run(ask(serve, make)) == message


def test_a_silent_server_is_given_its_time() -> None:
    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
        await reader.read()

    async def go() -> None:
        silent, cut = await asyncio.gather(ask(_hang, http), ask(late, http))
        assert silent == f"{GET}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        assert cut == "context deadline exceeded (Client.Timeout or context cancellation while reading body)"

    asyncio.run(go())


@pytest.mark.parametrize(
    ("headers", "sent"),
    [
        ((), ["Host: 127.0.0.1:PORT", "User-Agent: kube-probe/1.36", "Accept: */*", "Connection: close"]),
        (
            (("Host", "web.test"), ("user-agent", "me"), ("Accept", ""), ("X-A", "1"), ("X-A", "2")),
            ["Host: web.test", "User-Agent: me", "X-A: 1", "X-A: 2", "Connection: close"],
        ),
    ],
    ids=["of-its-own", "as-told"],
)
def test_headers_of_a_probe(headers: tuple[tuple[str, str], ...], sent: list[str]) -> None:
    seen: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    def make(port: int) -> Probe:
        given = tuple(HTTPHeader(name=name, value=value) for name, value in headers)
        sent[:] = [line.replace("PORT", str(port)) for line in sent]
        return Probe(http_get=HTTPGetAction(port=port, path="a?b=c", http_headers=given))

    assert asyncio.run(ask(serve, make)) == ""
    assert seen[0].split("\r\n")[:-2] == ["GET /a?b=c HTTP/1.1", *sent]


def test_grpc_of_a_real_server_without_health() -> None:
    server = real_grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(NotServing) as refused:
            asyncio.run(check("127.0.0.1", port, "me", 5))
    finally:
        server.stop(None).wait()
    assert str(refused.value) == (
        "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): Method not found!"
    )


def test_hpack_reads_what_the_rfc_shows() -> None:
    decoder = Decoder()
    first = bytes.fromhex("400a637573746f6d2d6b65790d637573746f6d2d686561646572")  # RFC 7541, C.2.1
    packed = bytes.fromhex("408825a849e95ba97d7f8925a849e95bb8e8b4bf")  # C.4.3
    assert decoder.read(first) == {"custom-key": "custom-header"}
    assert decoder.read(packed) == {"custom-key": "custom-value"}
    assert decoder.read(b"\xbf") == {"custom-key": "custom-header"}, "the older of the table's two"
    for broken in (b"\xff", b"\x40", b"\x40\x05ab", b"\xc0", b"\x40\x82\xff\xff"):
        with pytest.raises(HpackError):
            decoder.read(broken)


# ------------------------------------------------------------------------------------------------ counting


class Script:
    """An exec that answers what it is told to, and remembers when it was asked and what."""

    def __init__(self, world: World) -> None:
        self.world, self.code, self.asked = world, 0, list[tuple[float, tuple[str, ...]]]()
        self.fault: Exception | None = None
        world.runtime.exec_sync = self.exec_sync  # type: ignore[method-assign]

    async def exec_sync(self, container_id: str, command: tuple[str, ...], timeout_s: float) -> ExecResult:
        self.asked.append((self.world.clock.now(), command))
        if self.fault is not None:
            raise self.fault
        return ExecResult(exit_code=self.code, stderr=b"no")


def probe(**fields: Any) -> Probe:
    return Probe(exec=ExecAction(command=("ask", "$(WHAT)")), **fields)


def play(tmp_path: Path, story: Callable[[World, Script], Awaitable[None]]) -> None:
    async def go() -> None:
        async with World(tmp_path) as world:
            await story(world, Script(world))

    asyncio.run(go())


def said(world: World) -> list[str]:
    return [text for _, reason, text in world.events.said if reason == "Unhealthy"]


def status(world: World) -> Any:
    return world.pod().status.container_statuses[0]


def test_probes_wait_for_the_startup_probe(tmp_path: Path) -> None:
    async def story(world: World, script: Script) -> None:
        script.code = 1
        variable = EnvVar(name="WHAT", value="you")
        first, then = probe(period_seconds=1, failure_threshold=10), probe(period_seconds=1, initial_delay_seconds=2)
        container = make_container(startup_probe=first, readiness_probe=then, env=(variable,))
        world.client.put(make_pod(containers=(container,)))
        await world.advance(3)
        assert (status(world).started, status(world).ready) == (False, False)
        assert {command for _, command in script.asked} == {("ask", "you")}
        assert set(said(world)) == {"Startup probe failed: no"}
        script.code = 0
        await world.advance(1)
        assert (status(world).started, status(world).ready) == (True, True), "the delay counts from the start"

    play(tmp_path, story)


def test_a_failed_startup_probe_restarts_with_the_grace_of_the_probe(tmp_path: Path) -> None:
    async def story(world: World, script: Script) -> None:
        script.code = 1
        first = probe(period_seconds=1, failure_threshold=2, termination_grace_period_seconds=3)
        stubborn = make_pod(
            containers=(make_container(startup_probe=first),),
            annotations={"simulated.kaa.dev/ignore-stop": "true"},
        )
        world.client.put(stubborn)
        await world.advance(12)
        assert status(world).restart_count >= 1
        assert "Container main failed startup probe, will be restarted" in {m for _, _, m in world.events.said}

    play(tmp_path, story)


def test_a_probe_that_cannot_be_asked_counts_for_nothing(tmp_path: Path) -> None:
    async def story(world: World, script: Script) -> None:
        live = probe(period_seconds=1, failure_threshold=1)
        world.client.put(make_pod(containers=(make_container(liveness_probe=live),)))
        await world.advance(1)
        script.fault = RuntimeFailure("runtime is out")
        await world.advance(5)
        assert status(world).restart_count == 0
        assert set(said(world)) == {"Liveness probe errored and resulted in unknown state: runtime is out"}
        script.fault = TimeoutError()
        await world.advance(1)
        assert said(world)[-1] == 'Liveness probe failed: command timed out: "ask $(WHAT)" timed out after 1s'

    play(tmp_path, story)


def test_readiness_survives_a_restart_of_the_kubelet(tmp_path: Path) -> None:
    async def story(world: World, script: Script) -> None:
        ready = probe(period_seconds=10)
        world.client.put(make_pod(containers=(make_container(readiness_probe=ready, startup_probe=ready),)))
        await world.advance(1)
        assert status(world).ready
        script.asked.clear()
        patches = len(world.client.patches)
        await world.advance(5)
        await world.restart()
        assert status(world).ready
        assert [name for name, _ in world.client.patches[patches:]].count("web") == 0, "nothing about it changed"
        await world.advance(10)
        assert script.asked, "it is asked again within a period"

    play(tmp_path, story)


def test_a_changed_pod_is_asked_at_once_if_it_is_not_ready(tmp_path: Path) -> None:
    async def story(world: World, script: Script) -> None:
        script.code = 1
        world.client.put(make_pod(containers=(make_container(readiness_probe=probe(period_seconds=300)),)))
        await world.advance(20)
        assert not status(world).ready
        script.code = 0
        pod = world.pod()
        world.client.put(replace(pod, metadata=replace(pod.metadata, labels={"a": "b"})))
        await world.rest()
        assert status(world).ready

    play(tmp_path, story)


def test_an_ending_pod_is_asked_for_readiness_alone(tmp_path: Path) -> None:
    async def story(world: World, script: Script) -> None:
        both = probe(period_seconds=1, failure_threshold=2)
        container = make_container(readiness_probe=both, liveness_probe=both)
        world.client.put(make_pod(containers=(container,), annotations={"simulated.kaa.dev/ignore-stop": "true"}))
        await world.advance(2)
        script.code = 1
        world.client.ask_delete("web", world.clock.now(), grace_s=20)
        await world.advance(5)
        assert set(said(world)) <= {"Readiness probe failed: no"}
        assert not any("failed liveness" in text for _, _, text in world.events.said)

    play(tmp_path, story)
