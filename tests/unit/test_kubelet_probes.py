"""What probes say of real listeners on loopback: HTTP, TCP, gRPC."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest
from kubelet_world import make_container

from kaa.api.clock import VirtualClock
from kaa.api.types.core_v1 import ContainerPort, GRPCAction, HTTPGetAction, Probe, TCPSocketAction
from kaa.kubelet.probes import ProbeFailed, run_probe
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
        await run_probe(SimulatedRuntime(VirtualClock()), spec, "c", "127.0.0.1", make(port))
    except (ProbeFailed, OSError) as err:
        return str(err).replace(str(port), "PORT")
    finally:
        server.close()
        await asyncio.sleep(0.01)
        await asyncio.gather(*served)
    return ""


async def _hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


def answering(code: int) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {code} Whatever\r\nContent-Length: 0\r\n\r\n".encode())
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


@pytest.mark.parametrize(
    ("serve", "make", "message"),
    [
        (answering(200), http, ""),
        (answering(302), lambda port: http("web"), ""),
        (answering(500), http, "HTTP probe failed with statuscode: 500"),
        (
            None,
            http,
            'Get "http://127.0.0.1:PORT/healthz": dial tcp 127.0.0.1:PORT: connect: connection refused',
        ),
        (answering(200), lambda port: http("nobody"), "couldn't find port: 'nobody' in container main"),
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
    ],
    ids=["200", "302-by-name", "500", "refused", "no-such-port", "tcp", "tcp-refused", "grpc", "grpc-not-serving"],
)
def test_probes(serve: Serve | None, make: Callable[[int], Probe], message: str) -> None:
    assert asyncio.run(ask(serve, make)) == message
