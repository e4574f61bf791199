"""The kubelet's own API: who asks what of it, and which handler answers.

    port 10250   all of it, over TLS, authenticated and authorized by the API server
    read-only    health, pods, stats and metrics, to everyone, where a KubeletConfiguration asks for it
    10248        health, on loopback

Source: pkg/kubelet/server/server.go, cmd/kubelet/app/server.go (the healthz server).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from ..kubelet import Kubelet
from .auth import Auth
from .checkpoint import CheckpointRoute
from .container_logs import LogRoutes
from .http import HEAD_MAX, HttpError, Request, serve_connection
from .info import InfoRoutes
from .pods import Pods
from .streams import StreamRoutes

log = structlog.get_logger(__name__)
Handle = Callable[[Request, list[str]], Awaitable[None]]
_GET, _POST, _BOTH = ("GET",), ("POST",), ("GET", "POST")
_ANY = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
_LONG_RUNNING = frozenset({"exec", "attach", "portforward", "debug"})
_LISTEN_AGAIN_S = 5.0


class Route(msgspec.Struct, frozen=True):
    """What answers under a path's first word, and to which methods."""

    handle: Handle
    methods: tuple[str, ...]


class KubeletServer:
    """One listener. ``start`` listens, ``close`` stops. ``tls`` asks for client certificates; ``auth`` None lets everyone in.

    ``read_only`` is the server of the read-only port, which knows only what needs no permission; ``only_health`` no more.
    """

    def __init__(
        self,
        kubelet: Kubelet,
        *,
        auth: Auth | None,
        tls: ssl.SSLContext | None,
        read_only: bool = False,
        only_health: bool = False,
    ) -> None:
        self._kubelet, self._auth, self._tls = kubelet, auth, tls
        self._type = "readonly" if read_only else "readwrite"
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        every = self._all_routes(read_only or only_health)
        self._routes = {"healthz": every["healthz"]} if only_health else every

    def _all_routes(self, read_only: bool) -> dict[str, Route]:
        """{first word of the path: its route}, as the configuration has it."""
        serving = self._kubelet.config.serving
        pods = Pods(self._kubelet)
        made: dict[str, Route] = {}
        info = InfoRoutes(self._kubelet, lambda: tuple(f"/{name}" for name in made))
        made |= {
            "healthz": Route(info.healthz, _ANY),
            "pods": Route(info.pods, _GET),
            "stats": Route(info.stats, _BOTH),
            "metrics": Route(info.metrics, _ANY),
        }
        if read_only:
            return made
        if not serving.debugging:
            refused = Route(_refusal("Debug endpoints are disabled.\n"), _ANY)
            names = ("run", "exec", "attach", "portForward", "containerLogs", "runningpods", "debug", "logs")
            return made | dict.fromkeys(names, refused)
        streams, logs = StreamRoutes(self._kubelet, pods), LogRoutes(self._kubelet, pods)
        made |= {
            "run": Route(streams.run, _POST),
            "exec": Route(streams.exec, _BOTH),
            "attach": Route(streams.attach, _BOTH),
            "portForward": Route(streams.port_forward, _BOTH),
            "containerLogs": Route(logs.container_logs, _GET),
            "checkpoint": Route(CheckpointRoute(self._kubelet, pods).checkpoint, _POST),
            "configz": Route(info.configz, _ANY),
            "runningpods": Route(info.running_pods, _GET),
            "flagz": Route(info.flagz, _ANY),
            "statusz": Route(info.statusz, _ANY),
            "debug": Route(self._debug, _ANY),
            "logs": Route(info.logs, _GET)
            if serving.system_logs
            else Route(_refusal("logs endpoint is disabled.\n"), _ANY),
        }
        return made

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port (of interest with port 0)."""
        self._server = await asyncio.start_server(self._connected, host, port, ssl=self._tls, limit=HEAD_MAX)
        found: int = self._server.sockets[0].getsockname()[1]
        return found

    async def run(self, host: str, port: int) -> None:
        """Listen until cancelled; an address that is taken is tried again, for pods go on without it."""
        try:
            while True:
                try:
                    await self.start(host, port)
                    break
                except OSError as err:
                    log.error("the kubelet cannot listen", host=host, port=port, error=str(err))
                    await self._kubelet.clock.sleep(_LISTEN_AGAIN_S)
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
        """Answer, and count it."""
        metrics, clock = self._kubelet.metrics, self._kubelet.clock
        path = self._bucket(request.path)
        method = request.method if request.method in _ANY else "other"
        labels = (method, path, self._type, "true" if path in _LONG_RUNNING else "false")
        metrics.http_requests_total.inc(*labels)
        metrics.http_inflight_requests.inc(*labels)
        began = clock.monotonic()
        try:
            await self._route(request)
        finally:
            metrics.http_inflight_requests.inc(*labels, by=-1)
            metrics.http_requests_duration_seconds.observe(clock.monotonic() - began, *labels)

    async def _route(self, request: Request) -> None:
        if self._auth is not None:
            await self._auth.check(request)
        parts = [part for part in request.path.split("/") if part]
        route = self._routes.get(parts[0]) if parts else None
        if route is None:
            raise HttpError(404, "404 page not found\n")
        if request.method not in route.methods:
            raise HttpError(405, "Method Not Allowed", {"Allow": ", ".join(route.methods)})
        await route.handle(request, parts[1:])

    def _bucket(self, path: str) -> str:
        """What a path is counted as: its first word, for metrics the first two."""
        first, _, rest = path.lstrip("/").partition("/")
        if first == "metrics" and rest in ("cadvisor", "probes", "resource"):
            return f"{first}/{rest}"
        return first if first in self._routes else "other"

    async def _debug(self, request: Request, parts: list[str]) -> None:
        """Go's profiles are not to be had of a Python process; where they are forbidden, that is said instead."""
        serving = self._kubelet.config.serving
        if parts[:1] == ["pprof"] and not serving.profiling:
            raise HttpError(405, "profiling endpoint is disabled.\n")
        if parts == ["flags", "v"] and not serving.debug_flags:
            raise HttpError(405, "flags endpoint is disabled.\n")
        raise HttpError(404, "404 page not found\n")


def _refusal(message: str) -> Handle:
    async def refuse(request: Request, parts: list[str]) -> None:
        raise HttpError(405, message)

    return refuse
