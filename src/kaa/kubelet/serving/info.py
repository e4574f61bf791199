"""What the kubelet tells: health, pods, configuration, use of resources, metrics, the node's own logs.

Source: pkg/kubelet/server/server.go, apiserver healthz, component-base configz and zpages (KEP-4827, KEP-4828).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable

from kaa.api.scheme import encode_inner
from kaa.api.types.core_v1 import Container, Pod, PodSpec
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.runtime.base import ContainerState, RuntimeFailure

from ..kubelet import Kubelet
from ..metrics import exposition
from ..status_writer import with_status
from .http import HttpError, Request

_ZPAGE_WARNING = (
    "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for"
    " debugging purposes only."
)
_TEXT = "text/plain; charset=utf-8"


class InfoRoutes:
    """Handlers of what only reads. ``paths`` are those that ``/statusz`` names."""

    def __init__(self, kubelet: Kubelet, paths: Callable[[], tuple[str, ...]]) -> None:
        self._kubelet, self._paths = kubelet, paths
        self._began_at = kubelet.clock.now()

    # ------------------------------------------------------------------------------------------------ health

    async def healthz(self, request: Request, parts: list[str]) -> None:
        """All checks, or the one that the path names."""
        checks = {"ping": "", "log": "", "syncloop": self._kubelet.lag()}
        if parts:
            if len(parts) > 1 or parts[0] not in checks:
                raise HttpError(404, "404 page not found\n")
            if checks[parts[0]]:
                raise HttpError(500, f"internal server error: {checks[parts[0]]}\n")
            request.answer(200, b"ok")
            return
        excluded = set(request.query.get("exclude", ()))
        held = {name: trouble for name, trouble in checks.items() if name not in excluded}
        lines = [f"[-]{name} failed: reason withheld" if trouble else f"[+]{name} ok" for name, trouble in held.items()]
        if any(held.values()):
            raise HttpError(500, "\n".join([*lines, "healthz check failed\n"]))
        if "verbose" in request.query:
            request.answer(200, "\n".join([*lines, "healthz check passed\n"]).encode())
        else:
            request.answer(200, b"ok")

    # ------------------------------------------------------------------------------------------------ pods

    async def pods(self, request: Request, parts: list[str]) -> None:
        """The pods that this node is told to have, with the status that it gives them."""
        statuses = self._kubelet.statuses
        made = (with_status(one.pod, statuses.last(one.uid)) for one in self._kubelet.workers.values())
        request.answer_json(_pod_list(made))

    async def running_pods(self, request: Request, parts: list[str]) -> None:
        """What the runtime has running, and no more than it knows of it."""
        runtime = self._kubelet.runtime
        containers = [one for one in await runtime.list_containers() if one.state is ContainerState.RUNNING]
        made = []
        for sandbox in await runtime.list_sandboxes():
            mine = tuple(
                Container(name=one.name, image=one.image) for one in containers if one.sandbox_id == sandbox.id
            )
            if mine:
                meta = ObjectMeta(name=sandbox.name, namespace=sandbox.namespace, uid=sandbox.uid)
                made.append(Pod(metadata=meta, spec=PodSpec(containers=mine)))
        request.answer_json(_pod_list(made))

    # ------------------------------------------------------------------------------------------------ resources

    async def stats(self, request: Request, parts: list[str]) -> None:
        if parts != ["summary"]:
            raise HttpError(404, "404: Page Not Found")
        from ..metrics.summary import summary

        only = request.flag("only_cpu_and_memory")
        try:
            request.answer_json(summary(await self._kubelet.stats.snapshot(only_cpu_and_memory=only)))
        except RuntimeFailure as err:
            raise HttpError(500, f"Internal Error: failed to get summary stats: {err}") from err

    async def metrics(self, request: Request, parts: list[str]) -> None:
        made = {
            (): self._own_metrics,
            ("resource",): self._resource_metrics,
            ("probes",): self._probe_metrics,
            ("cadvisor",): self._cadvisor_metrics,
        }.get(tuple(parts))
        if made is None:
            raise HttpError(404, "404 page not found\n")
        request.answer(200, await made(), exposition.CONTENT_TYPE)

    async def _own_metrics(self) -> bytes:
        from ..metrics import gauges

        kubelet = self._kubelet
        snapshot = await kubelet.stats.snapshot()
        process = await asyncio.to_thread(lambda: list(gauges.process(kubelet.config.version, kubelet.clock.now())))
        return exposition.text(
            [*kubelet.metrics.families(), *gauges.now_of(kubelet), *gauges.volumes(snapshot), *process]
        )

    async def _resource_metrics(self) -> bytes:
        from ..metrics.resource import families

        try:
            return exposition.text(families(await self._kubelet.stats.snapshot(only_cpu_and_memory=True)))
        except RuntimeFailure:
            return exposition.text(families(None))

    async def _probe_metrics(self) -> bytes:
        return exposition.text(self._kubelet.metrics.probes())

    async def _cadvisor_metrics(self) -> bytes:
        from ..metrics import cadvisor, groups

        kubelet = self._kubelet
        snapshot, reader, cgroups = await kubelet.stats.snapshot(), kubelet.stats.reader, kubelet.config.cgroups

        def read() -> bytes:
            now = kubelet.clock.now()
            machine = groups.machine(snapshot, kubelet.config.version)
            found = groups.groups(snapshot, reader, cgroups.kubepods, now) if reader is not None and cgroups else ()
            return exposition.text(cadvisor.families(found, machine, now))

        return await asyncio.to_thread(read)

    # ------------------------------------------------------------------------------------------------ about itself

    async def configz(self, request: Request, parts: list[str]) -> None:
        from .configz import configz

        request.answer_json(configz(self._kubelet.config))

    async def flagz(self, request: Request, parts: list[str]) -> None:
        """The flags of upstream's kubelet that have a meaning here, as they stand."""
        config = self._kubelet.config
        flags = {
            "hostname-override": config.node_name,
            "node-ip": ",".join(config.node_ips),
            "node-labels": ",".join(f"{name}={value}" for name, value in sorted(config.labels.items())),
            "root-dir": str(config.root),
        }
        lines = [f"{name}={value}" for name, value in sorted(flags.items())]
        request.answer(200, "\n".join(["", "kubelet flagz", _ZPAGE_WARNING, "", *lines, ""]).encode())

    async def statusz(self, request: Request, parts: list[str]) -> None:
        up = int(self._kubelet.clock.now() - self._began_at)
        version = self._kubelet.config.version.lstrip("v")
        lines = [
            f"Started: {time.strftime('%a %b %e %H:%M:%S UTC %Y', time.gmtime(self._began_at))}",
            f"Up: {up // 3600} hr {up // 60 % 60:02} min {up % 60:02} sec",
            f"Binary version: {version}",
            f"Emulation version: {'.'.join(version.split('.')[:2])}",
            f"Paths: {' '.join(sorted(self._paths()))}",
        ]
        request.answer(200, "\n".join(["", "kubelet statusz", _ZPAGE_WARNING, "", *lines, ""]).encode())

    # ------------------------------------------------------------------------------------------------ the node's logs

    async def logs(self, request: Request, parts: list[str]) -> None:
        """A folder's listing, a file, or what ``?query=`` asks."""
        from . import node_logs

        serving = self._kubelet.config.serving
        root, name = serving.system_log_root, "/".join(parts)
        if serving.system_log_query:
            try:
                query = node_logs.read_query(request.query)
            except node_logs.BadQuery as err:
                raise HttpError(400, f"{err}\n") from err
            if query is not None:
                if parts:
                    raise HttpError(406, "path not allowed in query mode\n")
                try:
                    node_logs.check_query(query, root)
                except node_logs.BadQuery as err:
                    raise HttpError(406, f"{err}\n") from err
                if query.services:
                    await _stream(request, node_logs.service_logs(query, root))
                    return
                name = query.files[0]
        found = await asyncio.to_thread(node_logs.inside, root, name)
        if found is None:
            raise HttpError(404, "404 page not found\n")
        if found.is_dir():
            request.answer(200, await asyncio.to_thread(node_logs.listing, found), "text/html; charset=utf-8")
        else:
            await _stream(request, node_logs.file_chunks(found))


async def _stream(request: Request, data: AsyncIterator[bytes]) -> None:
    chunks = request.begin_chunks(_TEXT)
    async for chunk in data:
        await chunks.send(chunk)
    await chunks.end()


def _pod_list(pods: Iterable[Pod]) -> bytes:
    items = b",".join(encode_inner(pod) for pod in pods)
    return b'{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[' + items + b"]}"
