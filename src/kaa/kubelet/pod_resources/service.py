"""The service's socket, ``pod-resources/kubelet.sock`` in the kubelet's root.

It listens without gRPC: the first that calls makes the server start behind it, and bytes are passed on between the two. A node
that nobody asks pays for a socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import structlog

from kaa.api.types.core_v1 import Pod

from ..topology.hardware import Hardware

log = structlog.get_logger(__name__)
FOLDER = "pod-resources"
_CHUNK = 1 << 16


class PodResourcesService:
    """``pods`` are those that were let in and have not ended. ``run`` until cancelled."""

    def __init__(self, root: Path, hardware: Hardware, pods: Callable[[], Iterable[Pod]]) -> None:
        self.path = root / FOLDER / "kubelet.sock"
        self._inner = root / FOLDER / ".grpc.sock"
        self._hardware, self._pods = hardware, pods
        self._server: Any = None
        self.listening = asyncio.Event()
        self._starting = asyncio.Lock()

    async def run(self) -> None:
        try:
            self.path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            self.path.unlink(missing_ok=True)
            listening = await asyncio.start_unix_server(self._relay, str(self.path))
        except OSError as err:  # a path over 107 bytes, a full disk
            log.error("pod resources are not served", path=str(self.path), error=str(err))
            return
        try:
            self.listening.set()
            await asyncio.Event().wait()
        finally:
            self.listening.clear()
            listening.close()
            if self._server is not None:
                await self._server.stop(0)
            for path in (self.path, self._inner):
                path.unlink(missing_ok=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._begin()
            inner_reader, inner_writer = await asyncio.open_unix_connection(str(self._inner))
            with contextlib.closing(inner_writer):
                await asyncio.gather(_pass_on(reader, inner_writer), _pass_on(inner_reader, writer))
        except OSError as err:
            log.info("connection to pod resources broke", error=str(err))
        finally:
            writer.close()

    async def _begin(self) -> None:
        async with self._starting:
            if self._server is None:
                self._inner.unlink(missing_ok=True)
                await asyncio.to_thread(importlib.import_module, "grpc.aio")  # that takes a moment
                server = self._made()
                await server.start()
                self._server = server

    def _made(self) -> Any:
        """The gRPC server, not started."""
        import grpc.aio

        from kaa.api.protobuf_structs import Message

        from . import answers, messages

        async def listed(request: Any, context: Any) -> Any:
            return answers.of_all(self._pods(), self._hardware)

        async def listed_before(request: Any, context: Any) -> Any:
            return answers.in_v1alpha1(answers.of_all(self._pods(), self._hardware))

        async def got(request: Any, context: Any) -> Any:
            wanted = request.pod_name, request.pod_namespace
            found = [pod for pod in self._pods() if (pod.metadata.name, pod.metadata.namespace) == wanted]
            if not found:
                await context.abort(grpc.StatusCode.UNKNOWN, "pod {} in namespace {} not found".format(*wanted))
            return messages.GetPodResourcesResponse(answers.of_pod(found[0], self._hardware))

        async def allocatable(request: Any, context: Any) -> Any:
            return answers.allocatable(self._hardware)

        def handler(answer: Any, request: type[Message] = messages.Empty) -> Any:
            return grpc.unary_unary_rpc_method_handler(
                answer, request_deserializer=request.decode, response_serializer=Message.encode
            )

        v1 = {
            "List": handler(listed),
            "Get": handler(got, messages.GetPodResourcesRequest),
            "GetAllocatableResources": handler(allocatable),
        }
        server = grpc.aio.server()
        for version, verbs in (("v1", v1), ("v1alpha1", {"List": handler(listed_before)})):
            service = grpc.method_handlers_generic_handler(f"{version}.PodResourcesLister", verbs)
            server.add_generic_rpc_handlers((service,))
        server.add_insecure_port(f"unix:{self._inner}")
        return server


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Bytes until there are no more, and word of that."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()
