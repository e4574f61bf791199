"""exec, attach, run and port-forward: a request becomes streams, whichever protocol carries them.

The API server hands upgraded connections through byte by byte, so WebSocket and SPDY end here.
Source: pkg/kubelet/server/server.go, cri-streaming remotecommand and portforward.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from kaa.runtime.base import RuntimeFailure, Streams
from kaa.runtime.pipe import SocketPipe
from kaa.runtime.spdy import Session

from ..kubelet import Kubelet
from .http import HttpError, Request
from .pods import Pods, specs
from .streaming import port_channels, port_forward, remote_command
from .streaming.idle import Idle
from .streaming.remote_command import SPDY_PROTOCOLS, WEBSOCKET_PROTOCOLS, Options, SpdyChannels, WebSocketChannels
from .streaming.websocket import Numbered, Tunnel, WebSocket, choose, handshake


class StreamRoutes:
    """The handlers of ``/run``, ``/exec``, ``/attach`` and ``/portForward``."""

    def __init__(self, kubelet: Kubelet, pods: Pods) -> None:
        self._kubelet, self._pods = kubelet, pods

    async def run(self, request: Request, parts: list[str]) -> None:
        _, container = await self._pods.running(parts)
        command = tuple(request.first("cmd").split())
        try:
            result = await self._kubelet.runtime.exec_sync(container.id, command, 0)
        except RuntimeFailure as err:
            raise HttpError(500, f"{err}\n") from err
        request.answer(200, result.stdout + result.stderr)

    async def exec(self, request: Request, parts: list[str]) -> None:
        _, container = await self._pods.running(parts)
        command = tuple(request.query.get("command", ()))
        if not command:
            raise HttpError(400, "you must specify a command for the container")
        options = stream_options(request)

        async def open_exec() -> Streams:
            return await self._kubelet.runtime.exec(container.id, command, stdin=options.stdin, tty=options.tty)

        await self._stream(request, options, open_exec, command)

    async def attach(self, request: Request, parts: list[str]) -> None:
        pod, container = await self._pods.running(parts)
        spec = next(one for one in specs(pod) if one.name == container.name)
        asked = stream_options(request)
        options = Options(asked.stdin, asked.stdout, asked.stderr, bool(spec.tty))

        async def open_attach() -> Streams:
            return await self._kubelet.runtime.attach(container.id, stdin=options.stdin, tty=options.tty)

        await self._stream(request, options, open_attach, ())

    async def _stream(
        self, request: Request, options: Options, begin: Callable[[], Awaitable[Streams]], command: tuple[str, ...]
    ) -> None:
        if request.upgrade == "websocket":
            await self._stream_websocket(request, options, begin, command)
        elif request.upgrade == "spdy/3.1":
            await self._stream_spdy(request, options, begin, command)
        else:
            raise HttpError(400, "Upgrade request required")

    async def _stream_websocket(
        self, request: Request, options: Options, begin: Callable[[], Awaitable[Streams]], command: tuple[str, ...]
    ) -> None:
        offered = request.headers.get("sec-websocket-protocol", "")
        protocol = choose(offered, WEBSOCKET_PROTOCOLS)
        if offered and not protocol:
            raise HttpError(400, f"unable to upgrade: unsupported protocols {offered}")
        socket = self._websocket(request, protocol)
        channels = WebSocketChannels(socket, protocol, options)
        await _run_streams(begin, channels, options, command)

    async def _stream_spdy(
        self, request: Request, options: Options, begin: Callable[[], Awaitable[Streams]], command: tuple[str, ...]
    ) -> None:
        offered = request.headers.get("x-stream-protocol-version", "")
        protocol = choose(offered, SPDY_PROTOCOLS) if offered else "channel.k8s.io"
        if not protocol:
            raise HttpError(403, f"unable to upgrade: unable to negotiate protocol: client supports [{offered}]")
        session = self._spdy(request, protocol)
        reading = asyncio.ensure_future(session.run())
        try:
            channels = await SpdyChannels.gather(session, protocol, options)
            await _run_streams(begin, channels, options, command)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    def _websocket(self, request: Request, protocol: str) -> WebSocket:
        if request.headers.get("sec-websocket-version") != "13":
            raise HttpError(400, "missing or bad WebSocket Version", {"Sec-WebSocket-Version": "13"})
        if not request.headers.get("sec-websocket-key"):
            raise HttpError(400, "mismatch challenge/response")
        request.taken = True
        request.writer.write(handshake(request.headers.get("sec-websocket-key", ""), protocol))
        return WebSocket(self._pipe(request))

    def _spdy(self, request: Request, protocol: str) -> Session:
        request.taken = True
        head = (
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
            f"X-Stream-Protocol-Version: {protocol}\r\n\r\n"
        )
        request.writer.write(head.encode())
        return Session(self._pipe(request))

    def _pipe(self, request: Request) -> Idle:
        return Idle(SocketPipe(request.reader, request.writer), self._kubelet.config.serving.idle_s)

    async def port_forward(self, request: Request, parts: list[str]) -> None:
        if len(parts) not in (2, 3):
            raise HttpError(404, "404: Page Not Found")
        pod = self._pods.pod(parts[0], parts[1])
        if len(parts) == 3:
            self._pods.check_uid(pod, parts[2], "pod not found")
        sandbox = (await self._pods.view(pod)).sandbox
        if sandbox is None:
            raise HttpError(404, f'unable to find pod sandbox for "{pod.metadata.name}"')

        def connect(port: int) -> Awaitable[Streams]:
            return self._kubelet.runtime.port_forward(sandbox.id, port)

        if request.upgrade == "websocket":
            offered = request.headers.get("sec-websocket-protocol", "")
            protocol = choose(offered, (*port_forward.TUNNELED, *port_channels.PROTOCOLS))
            if offered and not protocol:
                raise HttpError(400, "unable to upgrade: unsupported port-forward protocol")
            if protocol not in port_forward.TUNNELED:
                ports = forwarded_ports(request)
                socket = Numbered(self._websocket(request, protocol), protocol)
                await port_channels.serve(socket, ports, connect)
                return
            session = Session(Tunnel(self._websocket(request, protocol)))
        elif request.upgrade == "spdy/3.1":
            session = self._spdy(request, port_forward.PROTOCOL)
        else:
            raise HttpError(400, "Upgrade request required")
        reading = asyncio.ensure_future(session.run())
        try:
            await port_forward.serve(session, connect)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def _run_streams(
    begin: Callable[[], Awaitable[Streams]],
    channels: remote_command.Channels,
    options: Options,
    command: tuple[str, ...],
) -> None:
    try:
        streams = await begin()
    except RuntimeFailure as err:
        await channels.send("error", remote_command.failure(str(err), structured=channels.structured))
        await channels.finish()
        return
    await remote_command.serve(streams, channels, options, command)


def stream_options(request: Request) -> Options:
    """What streams a client asks for. Raises HttpError 400 when it asks for none."""
    options = Options(
        stdin=request.flag("input", "stdin"),
        stdout=request.flag("output", "stdout"),
        stderr=request.flag("error", "stderr") and not request.flag("tty"),
        tty=request.flag("tty"),
    )
    if not (options.stdin or options.stdout or options.stderr):
        raise HttpError(400, "you must specify at least 1 of stdin, stdout, stderr")
    return options


def forwarded_ports(request: Request) -> list[int]:
    """The ports that a client without streams names in its query. Raises HttpError 400."""
    texts = [text for value in request.query.get("port", ()) for text in value.split(",")]
    if not texts:
        raise HttpError(400, 'query parameter "port" is required')
    for text in texts:
        if not (text.isdecimal() and int(text) < 65536):
            raise HttpError(400, f'unable to parse "{text}" as a port')
        if int(text) == 0:
            raise HttpError(400, f'port "{text}" must be > 0')
    return [int(text) for text in texts]
