"""Plugins of the kubelet for tests: a device plugin and a DRA driver, on real sockets, whose behaviour tests say.

As a program, so that a test can start one beside a cluster::

    python plugin_lab.py device KUBELET_ROOT example.com/dev HOST_DEVICE id…
    python plugin_lab.py driver KUBELET_ROOT driver.example.com CDI_FOLDER
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from kaa.api.protobuf_structs import Message
from kaa.kubelet.claims import messages as dra
from kaa.kubelet.devices import messages as api
from kaa.kubelet.listener import remove_socket

Answer = Callable[[Any], Awaitable[Message]]


class Refusal(Exception):
    """What a plugin answers instead."""


class Nonsense(Message, frozen=True):
    """Bytes that are no message."""

    def encode(self) -> bytes:
        return b"\xff\xff\xff"


async def serve(path: Path, services: Mapping[str, Mapping[str, tuple[type[Message], Any]]]) -> Any:
    """A gRPC server on a socket: {service: {verb: (request, function; one that yields is a stream)}}."""
    server = grpc.aio.server()
    for service, methods in services.items():
        handlers = {verb: _handler(*method) for verb, method in methods.items()}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    remove_socket(path)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    return server


def _handler(kind: type[Message], function: Any) -> Any:
    async def answer(request: Any, context: Any) -> Any:
        try:
            return await function(request)
        except Refusal as err:
            await context.abort(grpc.StatusCode.UNKNOWN, str(err))

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        async for one in function(request):
            yield one

    coders = {"request_deserializer": kind.decode, "response_serializer": lambda made: made.encode()}
    if asyncio.iscoroutinefunction(function):
        return grpc.unary_unary_rpc_method_handler(answer, **coders)
    return grpc.unary_stream_rpc_method_handler(stream, **coders)


def run(body: Callable[[], Awaitable[None]]) -> None:
    """A story, to its end within a while."""

    async def main() -> None:
        async with asyncio.timeout(20):
            await body()

    asyncio.run(main())


async def ask(path: Path, verb: str, request: Message, answer: type[Message]) -> Any:
    """One question to a socket."""
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        call = channel.unary_unary(verb, request_serializer=Message.encode, response_deserializer=answer.decode)
        return await call(request, timeout=10, wait_for_ready=True)


def device(key: str, *nodes: int, health: str = api.HEALTHY) -> api.Device:
    topology = api.Topology(tuple(api.NumaNode(node) for node in nodes)) if nodes else None
    return api.Device(key, health, topology)


class DevicePlugin:
    """One resource. ``allocation`` makes what a container gets of the ids of its devices."""

    def __init__(
        self,
        folder: Path,
        *devices: api.Device,
        resource: str = "example.com/dev",
        options: api.Options | None = None,
        name: str = "fake.sock",
    ) -> None:
        self.folder, self.resource, self.options = folder, resource, options or api.Options()
        self.path = folder / name
        self.devices = devices
        self.calls: list[tuple[str, Any]] = []
        self.liked: tuple[str, ...] = ()
        self.refuse = ""
        self.nonsense = False  #: answers are no protobuf
        self.asked = asyncio.Event()
        self.hang: asyncio.Event | None = None  #: allocations wait for it
        self.allocation: Callable[[tuple[str, ...]], api.ContainerAllocation] = lambda ids: api.ContainerAllocation(
            envs={"DEVICES": ",".join(ids)}
        )
        self._changed = asyncio.Condition()
        self._server: Any = None

    async def start(self) -> None:
        methods = {
            "GetDevicePluginOptions": (api.Empty, self._options),
            "ListAndWatch": (api.Empty, self._list),
            "Allocate": (api.AllocateRequest, self._allocate),
            "GetPreferredAllocation": (api.PreferredAllocationRequest, self._prefer),
            "PreStartContainer": (api.Ids, self._start),
        }
        self._server = await serve(self.path, {api.PLUGIN: methods})

    async def register(self, version: str = api.VERSION) -> None:
        request = api.RegisterRequest(version, self.path.name, self.resource, self.options)
        await ask(self.folder / "kubelet.sock", f"/{api.REGISTRATION}/Register", request, api.Empty)

    async def stop(self) -> None:
        await self._server.stop(0)

    async def tell(self, *devices: api.Device) -> None:
        """Other devices from now on."""
        async with self._changed:
            self.devices = devices
            self._changed.notify_all()

    async def _options(self, _: Any) -> Message:
        return self.options

    async def _list(self, _: Any) -> AsyncIterator[Message]:
        while True:
            async with self._changed:
                yield Nonsense() if self.nonsense else api.ListAndWatchResponse(self.devices)
                await self._changed.wait()

    async def _allocate(self, request: api.AllocateRequest) -> Message:
        self.calls.append(("allocate", request.containers[0].ids))
        self.asked.set()
        if self.hang is not None:
            await self.hang.wait()
        if self.nonsense:
            return Nonsense()
        if self.refuse:
            raise Refusal(self.refuse)
        return api.AllocateResponse(tuple(self.allocation(one.ids) for one in request.containers))

    async def _prefer(self, request: api.PreferredAllocationRequest) -> Message:
        self.calls.append(("prefer", request.containers[0]))
        return api.PreferredAllocationResponse((api.Ids(self.liked),))

    async def _start(self, request: api.Ids) -> Message:
        self.calls.append(("start", request.ids))
        if self.refuse:
            raise Refusal(self.refuse)
        return api.Empty()


class RegisteredPlugin:
    """A socket in ``plugins_registry``; ``status`` gets what the kubelet says of it."""

    def __init__(self, path: Path, info: api.PluginInfo) -> None:
        self.path, self.info = path, info
        self.status: asyncio.Queue[api.RegistrationStatus] = asyncio.Queue()
        self._server: Any = None

    async def start(self) -> None:
        methods = {
            "GetInfo": (api.Empty, self._info),
            "NotifyRegistrationStatus": (api.RegistrationStatus, self._noted),
        }
        self._server = await serve(self.path, {api.PLUGIN_REGISTRATION: methods})

    async def stop(self) -> None:
        await self._server.stop(0)
        self.path.unlink(missing_ok=True)

    async def _info(self, _: Any) -> Message:
        return self.info

    async def _noted(self, status: api.RegistrationStatus) -> Message:
        await self.status.put(status)
        return api.Empty()


class Driver:
    """A DRA driver: each claim becomes one CDI device with a variable; its registration is a ``RegisteredPlugin``."""

    def __init__(
        self,
        root: Path,
        name: str,
        cdi: Path,
        *,
        service: str = dra.SERVICES["v1.DRAPlugin"],
        health: bool = False,
    ) -> None:
        self.name, self.cdi, self.service = name, cdi, service
        self.path = root / f"{name}.sock"
        versions = [short for short, full in dra.SERVICES.items() if full == service]
        info = api.PluginInfo("DRAPlugin", name, str(self.path), (*versions, *([dra.HEALTH] if health else [])))
        self.registration = RegisteredPlugin(root / "plugins_registry" / f"{name}-reg.sock", info)
        self.calls: list[tuple[str, tuple[str, ...]]] = []
        self.prepared: dict[str, str] = {}  #: {claim uid: its name}
        self.requests: dict[str, tuple[str, ...]] = {}  #: {device: the requests that it is for}
        self.refuse = ""
        self.health: asyncio.Queue[dra.WatchResponse | None] = (
            asyncio.Queue()
        )  #: what it says of devices; None: no more
        self._server: Any = None

    async def start(self) -> None:
        methods = {
            "NodePrepareResources": (dra.Claims, self._prepare),
            "NodeUnprepareResources": (dra.Claims, self._unprepare),
        }
        services = {self.service: methods, dra.HEALTH: {"NodeWatchResources": (api.Empty, self._health)}}
        self._server = await serve(self.path, services)
        await self.registration.start()

    async def stop(self) -> None:
        await self.registration.stop()
        await self._server.stop(0)

    async def _health(self, _: Any) -> AsyncIterator[Message]:
        while told := await self.health.get():
            yield told

    def _file(self, uid: str) -> Path:
        return self.cdi / f"{self.name}-{uid}.json"

    async def _prepare(self, request: dra.Claims) -> Message:
        self.calls.append(("prepare", tuple(one.name for one in request.claims)))
        made = []
        for claim in request.claims:
            if self.refuse:
                made.append(dra.Prepared(claim.uid, dra.PrepareResult(error=self.refuse)))
                continue
            edits = {"env": [f"CLAIM={claim.name}"]}
            devices = [{"name": claim.uid, "containerEdits": edits}]
            spec = {"cdiVersion": "0.5.0", "kind": f"{self.name}/claim", "devices": devices}
            self._file(claim.uid).write_text(json.dumps(spec))
            self.prepared[claim.uid] = claim.name
            names = (f"{self.name}/claim={claim.uid}",)
            every = self.requests or {"dev": ()}
            found = tuple(
                dra.Device(asked, "pool", key, names if key == "dev" else (f"{self.name}/claim={key}",))
                for key, asked in every.items()
            )
            made.append(dra.Prepared(claim.uid, dra.PrepareResult(found)))
        return dra.PrepareResponse(tuple(made))

    async def _unprepare(self, request: dra.Claims) -> Message:
        self.calls.append(("unprepare", tuple(one.name for one in request.claims)))
        made = []
        for claim in request.claims:
            if not self.refuse:
                self._file(claim.uid).unlink(missing_ok=True)
                self.prepared.pop(claim.uid, None)
            made.append(dra.Unprepared(claim.uid, dra.UnprepareResult(self.refuse)))
        return dra.UnprepareResponse(tuple(made))


async def _main(what: str, root: Path, name: str, where: str, *ids: str) -> None:
    made: DevicePlugin | Driver
    if what == "device":
        made = plugin = DevicePlugin(root / "device-plugins", *(device(one) for one in ids), resource=name)
        plugin.allocation = lambda given: api.ContainerAllocation(
            envs={"DEVICES": ",".join(given)},
            devices=tuple(api.DeviceSpec(f"/dev/{one}", where, "rw") for one in given),
        )
        await plugin.start()
        await plugin.register()
    else:
        made = Driver(root, name, Path(where))
        await made.start()
    print("ready", flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await made.stop()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]))
