"""gRPC on unix sockets: asking a plugin, and answering one.

The library is loaded by the first plugin that shows itself. Our own socket listens without it: the first connection starts
the server behind it, at a socket that nobody else is told of, and bytes are passed on between the two.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import structlog

from kaa.api.protobuf_structs import Message

log = structlog.get_logger(__name__)
M = TypeVar("M", bound=Message)

DIAL_TIMEOUT_S = 10.0
_MESSAGE_MAX_BYTES = 16 << 20


class RpcFailure(Exception):
    """A plugin refused or cannot be reached; the text is gRPC's own."""


class Refused(Exception):
    """Raised by a method that we serve: what the caller is told."""


async def _grpc() -> Any:
    """The library; its import takes the time of a frame or two, so it is not made on the loop."""

    def load() -> Any:
        import grpc.aio

        return grpc

    return await asyncio.to_thread(load)


class Connection:
    """To one plugin's socket; close it."""

    def __init__(self, channel: Any, grpc: Any, service: str) -> None:
        self._channel, self._grpc, self._service = channel, grpc, service

    @classmethod
    async def to(cls, path: str, service: str) -> Connection:
        """``service``: the full name that verbs are asked of. Nothing is dialled yet."""
        grpc = await _grpc()
        options = [
            ("grpc.default_authority", "localhost"),
            ("grpc.max_receive_message_length", _MESSAGE_MAX_BYTES),
            ("grpc.max_reconnect_backoff_ms", 3000),
            ("grpc.use_local_subchannel_pool", 1),  # a plugin that comes again is another one
        ]
        return cls(grpc.aio.insecure_channel(f"unix:{path}", options), grpc, service)

    async def dial(self, timeout_s: float = DIAL_TIMEOUT_S) -> None:
        """Wait until somebody answers. Raises RpcFailure."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._channel.channel_ready()
        except TimeoutError:
            raise RpcFailure("context deadline exceeded") from None

    async def call(
        self, verb: str, request: Message, answer: type[M], timeout_s: float | None, *, service: str = ""
    ) -> M:
        """Raises RpcFailure."""
        ask = self._channel.unary_unary(
            f"/{service or self._service}/{verb}",
            request_serializer=Message.encode,
            response_deserializer=answer.decode,
        )
        try:
            return await ask(request, timeout=timeout_s)  # type: ignore[no-any-return]  # grpcio has no types
        except self._grpc.aio.AioRpcError as err:
            raise _failure(err) from None

    async def stream(self, verb: str, request: Message, answer: type[M]) -> AsyncIterator[M]:
        """Answers for as long as the plugin lives. Raises RpcFailure."""
        ask = self._channel.unary_stream(
            f"/{self._service}/{verb}", request_serializer=Message.encode, response_deserializer=answer.decode
        )
        try:
            async for found in ask(request):
                yield found
        except self._grpc.aio.AioRpcError as err:
            raise _failure(err) from None

    async def states(self) -> AsyncIterator[bool]:
        """Whether the plugin is reachable: now, and at each change. It is dialled again whenever it is not."""
        ready = self._grpc.ChannelConnectivity.READY
        last: bool | None = None
        while True:
            state = self._channel.get_state(try_to_connect=True)
            if (state is ready) is not last:
                last = state is ready
                yield last
            await self._channel.wait_for_state_change(state)

    async def close(self) -> None:
        await self._channel.close()


def _failure(err: Any) -> RpcFailure:
    """As Go's client words it."""
    name = "".join(word.capitalize() for word in err.code().name.split("_"))
    return RpcFailure(f"rpc error: code = {name} desc = {err.details()}")


#: {verb: (what its request is, who answers)}
Methods = Mapping[str, tuple[type[Message], Callable[[Any], Awaitable[Message]]]]


class Listener:
    """A gRPC service of ours at a socket. ``run`` until cancelled."""

    def __init__(self, path: Path, service: str, methods: Methods) -> None:
        self._path, self._service, self._methods = path, service, methods
        self._inner = path.parent.parent / f".{path.name}.grpc"  # beside the folder: plugins watch what is in it
        self._server: Any = None
        self._starting = asyncio.Lock()
        self.listening = asyncio.Event()

    async def run(self) -> None:
        remove_socket(self._path)
        server = await asyncio.start_unix_server(self._relay, str(self._path))
        try:
            self.listening.set()
            await asyncio.Event().wait()
        finally:
            self.listening.clear()
            server.close()
            remove_socket(self._path)
            if self._server is not None:
                await self._server.stop(0)
                remove_socket(self._inner)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._started()
            inner_reader, inner_writer = await asyncio.open_unix_connection(str(self._inner))
            try:
                await asyncio.gather(_pass_on(reader, inner_writer), _pass_on(inner_reader, writer))
            finally:
                inner_writer.close()
        except OSError as err:
            log.warning("plugin's connection broke", path=str(self._path), error=str(err))
        finally:
            writer.close()

    async def _started(self) -> None:
        async with self._starting:
            if self._server is None:
                grpc = await _grpc()
                server = grpc.aio.server()
                handlers = {verb: _handler(grpc, *method) for verb, method in self._methods.items()}
                server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(self._service, handlers),))
                remove_socket(self._inner)
                server.add_insecure_port(f"unix:{self._inner}")
                self._inner.chmod(0o600)
                await server.start()
                self._server = server


def _handler(grpc: Any, kind: type[Message], answer: Callable[[Any], Awaitable[Message]]) -> Any:
    async def serve(request: Any, context: Any) -> Any:
        try:
            return await answer(request)
        except Refused as err:
            await context.abort(grpc.StatusCode.UNKNOWN, str(err))

    return grpc.unary_unary_rpc_method_handler(
        serve, request_deserializer=kind.decode, response_serializer=Message.encode
    )


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Bytes from one to the other until there are no more."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        if writer.can_write_eof():
            writer.write_eof()


def remove_socket(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
