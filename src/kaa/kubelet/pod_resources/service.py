"""The service's socket, ``pod-resources/kubelet.sock`` in the kubelet's root.

A node that nobody asks pays for a socket: gRPC comes with the first that does (``listener``).
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from kaa.api.types.core_v1 import Pod

from ..listener import Listener
from ..topology.hardware import Hardware

FOLDER = "pod-resources"


class PodResourcesService:
    """``pods`` are those that were let in and have not ended. ``run`` until cancelled."""

    def __init__(self, root: Path, hardware: Hardware, pods: Callable[[], Iterable[Pod]]) -> None:
        self.path = root / FOLDER / "kubelet.sock"
        self._hardware, self._pods = hardware, pods
        self._listener = Listener(self.path, self._serve)
        self.listening = self._listener.listening

    async def run(self) -> None:
        await self._listener.run()

    async def _serve(self, path: Path) -> Any:
        await asyncio.to_thread(importlib.import_module, "grpc.aio")  # that takes a moment
        server = self._made(path)
        await server.start()
        return server

    def _made(self, path: Path) -> Any:
        """The gRPC server, not started."""
        import grpc.aio

        from kaa.api.protobuf_structs import Message

        from . import answers, messages

        asked = self._hardware.metrics.asked

        async def listed(request: Any, context: Any) -> Any:
            with asked("List", "v1"):
                return answers.of_all(self._pods(), self._hardware)

        async def listed_before(request: Any, context: Any) -> Any:
            with asked("List", "v1alpha1"):
                return answers.in_v1alpha1(answers.of_all(self._pods(), self._hardware))

        async def got(request: Any, context: Any) -> Any:
            with asked("Get", "v1"):
                return await found_of(request, context)

        async def found_of(request: Any, context: Any) -> Any:
            wanted = request.pod_name, request.pod_namespace
            found = [pod for pod in self._pods() if (pod.metadata.name, pod.metadata.namespace) == wanted]
            if not found:
                await context.abort(grpc.StatusCode.UNKNOWN, "pod {} in namespace {} not found".format(*wanted))
            return messages.GetPodResourcesResponse(answers.of_pod(found[0], self._hardware))

        async def allocatable(request: Any, context: Any) -> Any:
            with asked("GetAllocatableResources", "v1"):
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
        server.add_insecure_port(f"unix:{path}")
        return server
