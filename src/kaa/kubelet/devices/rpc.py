"""gRPC on unix sockets: asking a plugin, and answering one.

The library is loaded by the first plugin that shows itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from kaa.api.protobuf_structs import Message

from . import Refused, RpcFailure

M = TypeVar("M", bound=Message)

DIAL_TIMEOUT_S = 10.0
_MESSAGE_MAX_BYTES = 16 << 20
_CLOSING = "rpc error: code = Canceled desc = grpc: the client connection is closing"


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
            ("grpc.initial_reconnect_backoff_ms", 100),
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

    async def call(self, verb: str, request: Message, answer: type[M], timeout_s: float | None) -> M:
        """Raises RpcFailure."""
        ask = self._channel.unary_unary(
            f"/{self._service}/{verb}", request_serializer=Message.encode, response_deserializer=answer.decode
        )
        with self._failures():
            found: M | None = await ask(request, timeout=timeout_s)
            return _read(found)

    async def stream(self, verb: str, request: Message, answer: type[M], *, service: str = "") -> AsyncIterator[M]:
        """Answers for as long as the plugin lives. Raises RpcFailure."""
        ask = self._channel.unary_stream(
            f"/{service or self._service}/{verb}",
            request_serializer=Message.encode,
            response_deserializer=answer.decode,
        )
        with self._failures():
            async for found in ask(request):
                yield _read(found)

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """What gRPC raises, as RpcFailure: a channel that is closed cancels its calls, which is nobody's cancellation."""
        try:
            yield
        except self._grpc.aio.AioRpcError as err:
            raise _failure(err) from None
        except self._grpc.aio.UsageError:
            raise RpcFailure(_CLOSING) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise RpcFailure(_CLOSING) from None

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


def _read(message: M | None) -> M:
    """gRPC gives None for what its reader refused. Raises RpcFailure."""
    if message is None:
        raise RpcFailure("rpc error: code = Internal desc = grpc: failed to unmarshal the received message")
    return message


def _failure(err: Any) -> RpcFailure:
    """As Go's client words it."""
    name = "".join(word.capitalize() for word in err.code().name.split("_"))
    return RpcFailure(f"rpc error: code = {name} desc = {err.details()}")


#: {verb: (what its request is, who answers)}
Methods = Mapping[str, tuple[type[Message], Callable[[Any], Awaitable[Message]]]]


async def serve(path: Path, service: str, methods: Methods) -> Any:
    """A gRPC server at a socket; ``stop`` it."""
    grpc = await _grpc()
    server = grpc.aio.server()
    handlers = {verb: _handler(grpc, *method) for verb, method in methods.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    return server


def _handler(grpc: Any, kind: type[Message], answer: Callable[[Any], Awaitable[Message]]) -> Any:
    async def serve(request: Any, context: Any) -> Any:
        try:
            return await answer(request)
        except Refused as err:
            await context.abort(grpc.StatusCode.UNKNOWN, str(err))

    return grpc.unary_unary_rpc_method_handler(
        serve, request_deserializer=kind.decode, response_serializer=Message.encode
    )
