"""The kubelet's own API on port 10250: logs, exec, attach, port-forward, pods, stats, metrics.

The API server hands upgraded connections through byte by byte, so WebSocket and SPDY end here.
Source: pkg/kubelet/server/server.go.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from kaa.api.clock import format_time, parse_time
from kaa.api.scheme import encode_inner
from kaa.api.types.core_v1 import Pod
from kaa.runtime.base import Container, ContainerState, RuntimeFailure, Streams
from kaa.runtime.pipe import SocketPipe
from kaa.runtime.spdy import Session

from . import logs
from .auth import Auth
from .config import HostProcess
from .container_config import log_directory
from .http import HttpError, Request, serve_connection
from .kubelet import Kubelet
from .pod_plan import PodView
from .static_pods import MIRROR
from .streaming import port_channels, port_forward, remote_command
from .streaming.remote_command import SPDY_PROTOCOLS, WEBSOCKET_PROTOCOLS, Options, SpdyChannels, WebSocketChannels
from .streaming.websocket import Numbered, Tunnel, WebSocket, choose, handshake

Handle = Callable[[Request, list[str]], Awaitable[None]]


class KubeletServer:
    """``start`` listens, ``close`` stops. ``tls`` asks for client certificates; ``auth`` None lets everyone in (tests)."""

    def __init__(self, kubelet: Kubelet, *, auth: Auth | None, tls: ssl.SSLContext | None) -> None:
        self._kubelet, self._auth, self._tls = kubelet, auth, tls
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._routes: dict[str, Handle] = {
            "healthz": self._healthz,
            "pods": self._pods,
            "runningpods": self._pods,
            "containerLogs": self._container_logs,
            "exec": self._exec,
            "attach": self._attach,
            "portForward": self._port_forward,
            "run": self._run,
            "stats": self._stats,
            "metrics": self._metrics,
        }

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port (of interest with port 0)."""
        self._server = await asyncio.start_server(self._connected, host, port, ssl=self._tls)
        found: int = self._server.sockets[0].getsockname()[1]
        return found

    async def run(self, host: str, port: int) -> None:
        """Listen until cancelled."""
        await self.start(host, port)
        try:
            await asyncio.Event().wait()
        finally:
            await self.close()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        left = list(self._connections)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await serve_connection(reader, writer, self._handle)
        except asyncio.CancelledError:
            writer.close()  # we are closing: the stream's own callback must not see a cancellation
        finally:
            self._connections.discard(task)

    async def _handle(self, request: Request) -> None:
        if self._auth is not None:
            await self._auth.check(request)
        parts = [part for part in request.path.split("/") if part]
        handle = self._routes.get(parts[0]) if parts else None
        if handle is None:
            raise HttpError(404, "404 page not found\n")
        await handle(request, parts[1:])

    # ------------------------------------------------------------------------------------------------ lookups

    def _pod(self, namespace: str, name: str) -> Pod:
        """The pod as the API names it. Raises HttpError 404."""
        found = self._kubelet.pods.get(name, namespace)
        if found is not None:
            return found
        for worker in self._kubelet.workers.values():
            if (worker.pod.metadata.namespace, worker.pod.metadata.name) == (namespace, name):
                return worker.pod
        raise HttpError(404, "pod does not exist\n")

    def _uid(self, pod: Pod) -> str:
        """The uid under which the runtime knows the pod: a mirror's is its static pod's."""
        return pod.metadata.annotations.get(MIRROR) or pod.metadata.uid or ""

    async def _view(self, pod: Pod) -> PodView:
        runtime, uid = self._kubelet.runtime, self._uid(pod)
        sandboxes = await runtime.list_sandboxes(uid=uid)
        containers: list[Container] = []
        for sandbox in sandboxes:
            containers += await runtime.list_containers(sandbox_id=sandbox.id)
        return PodView.of(sandboxes, containers)

    def _host_process(self, pod: Pod) -> HostProcess | None:
        for process in self._kubelet.config.host_processes:
            if (
                pod.metadata.name == f"{process.name}-{self._kubelet.config.node_name}"
                and MIRROR in pod.metadata.annotations
            ):
                return process
        return None

    async def _running(self, parts: list[str]) -> tuple[Pod, Container]:
        """The running container that a path names: namespace, pod, [uid,] container."""
        if len(parts) not in (3, 4):
            raise HttpError(404, "404 page not found\n")
        pod = self._pod(parts[0], parts[1])
        current = (await self._view(pod)).latest(parts[-1])
        if current is None or current.state is not ContainerState.RUNNING:
            raise HttpError(404, f'container not found ("{parts[-1]}")')
        return pod, current

    # ------------------------------------------------------------------------------------------------ plain answers

    async def _healthz(self, request: Request, parts: list[str]) -> None:
        request.answer(200, b"ok")

    async def _pods(self, request: Request, parts: list[str]) -> None:
        pods = b",".join(encode_inner(worker.pod) for worker in self._kubelet.workers.values())
        request.answer_json(b'{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[' + pods + b"]}")

    async def _stats(self, request: Request, parts: list[str]) -> None:
        if parts != ["summary"]:
            raise HttpError(404, "404 page not found\n")
        request.answer_json(await summary(self._kubelet))

    async def _metrics(self, request: Request, parts: list[str]) -> None:
        usage = {u.container_id: u for u in await self._kubelet.runtime.usage()}
        named = [(w.pod, c) for w in self._kubelet.workers.values() for c in w.view.running()]
        lines = ["# TYPE kubelet_running_pods gauge", f"kubelet_running_pods {len({p.metadata.uid for p, _ in named})}"]
        lines += [
            "# TYPE kubelet_running_containers gauge",
            f'kubelet_running_containers{{container_state="running"}} {len(named)}',
        ]
        for metric, kind in (("cpu_usage_seconds_total", "counter"), ("memory_working_set_bytes", "gauge")):
            lines.append(f"# TYPE container_{metric} {kind}")
            for pod, container in named:
                used = usage.get(container.id)
                if used is not None:
                    value = (
                        used.cpu_ns / 1e9 if kind == "counter" else used.memory_working_set_bytes or used.memory_bytes
                    )
                    labels = (
                        f'container="{container.name}",namespace="{pod.metadata.namespace}",pod="{pod.metadata.name}"'
                    )
                    lines.append(f"container_{metric}{{{labels}}} {value:g}")
        request.answer(200, ("\n".join(lines) + "\n").encode(), "text/plain; version=0.0.4; charset=utf-8")

    # ------------------------------------------------------------------------------------------------ logs

    async def _container_logs(self, request: Request, parts: list[str]) -> None:
        if len(parts) != 3:
            raise HttpError(404, "404 page not found\n")
        pod = self._pod(parts[0], parts[1])
        process = self._host_process(pod)
        options = log_options(request, self._kubelet.clock.now(), plain=process is not None)
        if process is not None:
            path: Path = process.log_path
            running: Callable[[], Awaitable[bool]] = self._always
        else:
            path, running = await self._log_of(pod, parts[2], previous=request.flag("previous"))
        chunks = request.begin_chunks()
        async for chunk in logs.read(path, options, running):
            await chunks.send(chunk)
        await chunks.end()

    async def _always(self) -> bool:
        return True

    async def _log_of(self, pod: Pod, name: str, *, previous: bool) -> tuple[Path, Callable[[], Awaitable[bool]]]:
        spec = pod.spec
        if name not in {c.name for c in (*spec.init_containers, *spec.containers, *_plain(spec.ephemeral_containers))}:
            raise HttpError(404, f'container "{name}" not found in pod "{pod.metadata.name}"\n')
        view = await self._view(pod)
        current = view.latest(name)
        found = view.previous(name) if previous else current
        if found is None and previous:
            raise HttpError(400, f'previous terminated container "{name}" in pod "{pod.metadata.name}" not found')
        if found is None or found.state is ContainerState.CREATED:
            reason = _waiting_reason(pod, name)
            raise HttpError(400, f'container "{name}" in pod "{pod.metadata.name}" is waiting to start: {reason}')
        path = (
            Path(found.log_path)
            if found.log_path
            else log_directory(self._kubelet.config, pod) / name / f"{found.attempt}.log"
        )

        async def running() -> bool:
            try:
                return (await self._kubelet.runtime.container(found.id)).state is ContainerState.RUNNING
            except RuntimeFailure:
                return False

        return path, running

    # ------------------------------------------------------------------------------------------------ streams

    async def _run(self, request: Request, parts: list[str]) -> None:
        _, container = await self._running(parts)
        command = tuple(request.first("cmd").split())
        try:
            result = await self._kubelet.runtime.exec_sync(container.id, command, 0)
        except RuntimeFailure as err:
            raise HttpError(500, f"{err}\n") from err
        request.answer(200, result.stdout + result.stderr)

    async def _exec(self, request: Request, parts: list[str]) -> None:
        _, container = await self._running(parts)
        command = tuple(request.query.get("command", ()))
        if not command:
            raise HttpError(400, "you must specify a command for the container")
        options = stream_options(request)

        async def open_exec() -> Streams:
            return await self._kubelet.runtime.exec(container.id, command, stdin=options.stdin, tty=options.tty)

        await self._stream(request, options, open_exec, command)

    async def _attach(self, request: Request, parts: list[str]) -> None:
        pod, container = await self._running(parts)
        spec: Any = next(
            c
            for c in (*pod.spec.containers, *pod.spec.init_containers, *_plain(pod.spec.ephemeral_containers))
            if c.name == container.name
        )
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
        request.taken = True
        request.writer.write(handshake(request.headers.get("sec-websocket-key", ""), protocol))
        return WebSocket(SocketPipe(request.reader, request.writer))

    def _spdy(self, request: Request, protocol: str) -> Session:
        request.taken = True
        head = (
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
            f"X-Stream-Protocol-Version: {protocol}\r\n\r\n"
        )
        request.writer.write(head.encode())
        return Session(SocketPipe(request.reader, request.writer))

    async def _port_forward(self, request: Request, parts: list[str]) -> None:
        if len(parts) not in (2, 3):
            raise HttpError(404, "404 page not found\n")
        sandbox = (await self._view(self._pod(parts[0], parts[1]))).sandbox
        if sandbox is None:
            raise HttpError(404, "pod does not exist\n")

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
    return Options(
        stdin=request.flag("input", "stdin"),
        stdout=request.flag("output", "stdout"),
        stderr=request.flag("error", "stderr") and not request.flag("tty"),
        tty=request.flag("tty"),
    )


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


def log_options(request: Request, now: float, *, plain: bool) -> logs.LogOptions:
    """PodLogOptions from a query. Raises HttpError 400."""
    try:
        since = 0.0
        if request.first("sinceSeconds"):
            since = now - int(request.first("sinceSeconds"))
        if request.first("sinceTime"):
            since = parse_time(request.first("sinceTime"))
        return logs.LogOptions(
            follow=request.flag("follow"),
            tail=int(request.first("tailLines", "tail"))
            if request.first("tailLines", "tail") not in ("", "all")
            else None,
            since=since,
            timestamps=request.flag("timestamps"),
            limit_bytes=int(request.first("limitBytes")) if request.first("limitBytes") else None,
            stream=request.first("stream") or "All",
            plain=plain,
        )
    except ValueError as err:
        raise HttpError(400, f'{{"message": "Unable to decode query: {err}"}}') from err


def _plain(containers: Any) -> tuple[Any, ...]:
    return tuple(containers)


def _waiting_reason(pod: Pod, name: str) -> str:
    statuses = (*pod.status.container_statuses, *pod.status.init_container_statuses)
    waiting = next((s.state.waiting for s in statuses if s.name == name), None)
    if waiting is not None and waiting.reason:
        return waiting.reason
    return "PodInitializing" if pod.spec.init_containers else "ContainerCreating"


async def summary(kubelet: Kubelet) -> dict[str, Any]:
    """``/stats/summary``: CPU and memory of the node's pods, as metrics-server reads them."""
    usage = {u.container_id: u for u in await kubelet.runtime.usage()}
    pods = []
    for worker in kubelet.workers.values():
        containers = []
        for container in worker.view.running():
            used = usage.get(container.id)
            if used is None:
                continue
            at = format_time(used.at)
            working_set = used.memory_working_set_bytes or used.memory_bytes
            containers.append(
                {
                    "name": container.name,
                    "startTime": format_time(container.started_at),
                    "cpu": {"time": at, "usageCoreNanoSeconds": used.cpu_ns},
                    "memory": {
                        "time": at,
                        "usageBytes": used.memory_bytes,
                        "workingSetBytes": working_set,
                        "rssBytes": used.memory_rss_bytes,
                        "pageFaults": used.memory_page_faults,
                        "majorPageFaults": used.memory_major_page_faults,
                    },
                    "rootfs": {"time": at, "usedBytes": used.rootfs_bytes, "inodesUsed": used.rootfs_inodes},
                }
            )
        meta = worker.pod.metadata
        pods.append(
            {
                "podRef": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
                "startTime": worker.pod.status.start_time,
                "containers": containers,
            }
        )
    return {"node": {"nodeName": kubelet.config.node_name}, "pods": pods}
