"""``/containerLogs``: which file a request means, and which of its lines.

Source: pkg/kubelet/server/server.go (getContainerLogs), kubelet_pods.go (GetKubeletContainerLogs), core validation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from kaa.api.clock import parse_time
from kaa.api.types.core_v1 import Pod
from kaa.runtime.base import ContainerState, EventKind, RuntimeFailure

from ..container_config import log_directory
from ..kubelet import Kubelet
from . import logs
from .http import HttpError, Request
from .pods import Pods, specs

_STREAMS = ("All", "Stdout", "Stderr")


class LogRoutes:
    """The handler of ``/containerLogs``."""

    def __init__(self, kubelet: Kubelet, pods: Pods) -> None:
        self._kubelet, self._pods = kubelet, pods

    async def container_logs(self, request: Request, parts: list[str]) -> None:
        if len(parts) != 3:
            raise HttpError(404, "404: Page Not Found")
        options = log_options(request, self._kubelet.clock.now())
        pod = self._pod(parts[0], parts[1])
        process = self._pods.host_process(pod)
        if process is not None:
            options = options.of_plain_text()
            path: Path = process.log_path
            running: Callable[[], Awaitable[bool]] = self._always
        else:
            path, running = await self._log_of(pod, parts[2], previous=request.flag("previous"))
        await self._send(request, path, options, running)

    async def _send(
        self, request: Request, path: Path, options: logs.LogOptions, running: Callable[[], Awaitable[bool]]
    ) -> None:
        chunks, news = request.begin_chunks(), asyncio.Event()
        hearing = asyncio.ensure_future(self._hear(news)) if options.follow else None
        try:
            async for chunk in logs.read(path, options, running, news):
                await chunks.send(chunk)
            await chunks.end()
        finally:
            if hearing is not None:
                hearing.cancel()
                await asyncio.gather(hearing, return_exceptions=True)

    async def _hear(self, news: asyncio.Event) -> None:
        """A container that ends writes nothing that would wake its log's reader."""
        async for event in self._kubelet.runtime.events():
            if event.kind in (EventKind.STOPPED, EventKind.DELETED):
                news.set()

    def _pod(self, namespace: str, name: str) -> Pod:
        try:
            return self._pods.pod(namespace, name)
        except HttpError as err:
            raise HttpError(404, f'pod "{name}" does not exist') from err

    async def _always(self) -> bool:
        return True

    async def _log_of(self, pod: Pod, name: str, *, previous: bool) -> tuple[Path, Callable[[], Awaitable[bool]]]:
        if name not in {one.name for one in specs(pod)}:
            raise HttpError(404, f'container "{name}" not found in pod "{pod.metadata.name}"')
        view = await self._pods.view(pod)
        found = view.previous(name) if previous else view.latest(name)
        if found is None and previous:
            raise HttpError(400, f'previous terminated container "{name}" in pod "{pod.metadata.name}" not found')
        if found is None or found.state is ContainerState.CREATED:
            reason = _waiting_reason(pod, name)
            raise HttpError(400, f'container "{name}" in pod "{pod.metadata.name}" is waiting to start: {reason}')
        folder = log_directory(self._kubelet.config, pod) / name
        path = Path(found.log_path) if found.log_path else folder / f"{found.attempt}.log"

        async def running() -> bool:
            try:
                return (await self._kubelet.runtime.container(found.id)).state is ContainerState.RUNNING
            except RuntimeFailure:
                return False

        return path, running


def log_options(request: Request, now: float) -> logs.LogOptions:
    """PodLogOptions from a query. Raises HttpError 400 for what cannot be read, 422 for what may not be asked."""
    try:
        since = 0.0
        ago, moment = request.first("sinceSeconds"), request.first("sinceTime")
        tail, most = request.first("tail", "tailLines"), request.first("limitBytes")
        stream = request.first("stream") or "All"
        if moment:
            since = parse_time(moment)
        if ago:
            since = now - int(ago)
        made = logs.LogOptions(
            follow=request.flag("follow"),
            tail=int(tail) if tail not in ("", "all") else None,
            since=since,
            timestamps=request.flag("timestamps"),
            limit_bytes=int(most) if most else None,
            stream=stream,
        )
    except ValueError as err:
        raise HttpError(400, '{"message": "Unable to decode query."}') from err
    refused = (
        (made.tail is not None and made.tail < 0)
        or (made.limit_bytes is not None and made.limit_bytes < 1)
        or (bool(ago) and (bool(moment) or int(ago) < 1))
        or stream not in _STREAMS
        or (stream != "All" and made.tail is not None)
    )
    if refused:
        raise HttpError(422, '{"message": "Invalid request."}')
    return made


def _waiting_reason(pod: Pod, name: str) -> str:
    statuses = (*pod.status.container_statuses, *pod.status.init_container_statuses)
    waiting = next((s.state.waiting for s in statuses if s.name == name), None)
    if waiting is not None and waiting.reason:
        return waiting.reason
    return "PodInitializing" if pod.spec.init_containers else "ContainerCreating"
