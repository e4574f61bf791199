"""The gRPC connection to a CRI runtime: a request in, an answer out, its errors in the contract's words.

gRPC itself is ``grpcio``'s business; only a node that is given an endpoint imports it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeVar

import grpc
import grpc.aio

from ...api.protobuf_structs import Message
from ..base import NotFoundError, RuntimeFailure
from .messages import Empty

M = TypeVar("M", bound=Message)

REQUEST_TIMEOUT_S = 120.0  # the kubelet's --runtime-request-timeout
_ANSWER_MAX_BYTES = 64 << 20  # two streams of an exec, 16 MiB each, and room
_RUNTIME, _IMAGES = "runtime.v1.RuntimeService", "runtime.v1.ImageService"
_IMAGE_VERBS = frozenset(("ListImages", "ImageStatus", "PullImage", "RemoveImage", "ImageFsInfo"))


class NotServedError(RuntimeFailure):
    """The runtime does not know this verb: it is older than it."""


class DeadlineError(RuntimeFailure):
    """What was asked for took longer than it was allowed to."""


class Channel:
    """One connection; it is made by the first call and made again when it breaks."""

    def __init__(self, endpoint: str) -> None:
        """``endpoint``: ``unix:///run/containerd/containerd.sock``, or the bare path of a socket."""
        self.endpoint = endpoint if "://" in endpoint else f"unix://{endpoint}"
        options = [
            ("grpc.default_authority", "localhost"),
            ("grpc.max_receive_message_length", _ANSWER_MAX_BYTES),
            ("grpc.max_send_message_length", _ANSWER_MAX_BYTES),
            ("grpc.max_reconnect_backoff_ms", 3000),
        ]
        self._channel = grpc.aio.insecure_channel(self.endpoint, options)

    async def call(
        self, verb: str, request: Message, answer: type[M], *, timeout_s: float | None = REQUEST_TIMEOUT_S
    ) -> M:
        """Raises NotFoundError, NotServedError, DeadlineError or another RuntimeFailure."""
        ask = self._channel.unary_unary(
            _path(verb), request_serializer=Message.encode, response_deserializer=answer.decode
        )
        try:
            return await ask(request, timeout=timeout_s)  # type: ignore[no-any-return]  # grpcio has no types
        except grpc.aio.AioRpcError as err:
            raise _failure(err, self.endpoint) from None

    async def do(self, verb: str, request: Message) -> None:
        """A verb whose answer says nothing."""
        await self.call(verb, request, Empty)

    async def stream(self, verb: str, request: Message, answer: type[M]) -> AsyncIterator[M]:
        """The answers of a verb that goes on until it is closed. Raises as ``call`` does."""
        ask = self._channel.unary_stream(
            _path(verb), request_serializer=Message.encode, response_deserializer=answer.decode
        )
        try:
            async for found in ask(request):
                yield found
        except grpc.aio.AioRpcError as err:
            raise _failure(err, self.endpoint) from None

    async def close(self) -> None:
        await self._channel.close()


def _path(verb: str) -> str:
    return f"/{_IMAGES if verb in _IMAGE_VERBS else _RUNTIME}/{verb}"


def _failure(err: grpc.aio.AioRpcError, endpoint: str) -> RuntimeFailure:
    code, text = err.code(), err.details() or "no reason given"
    match code:
        case grpc.StatusCode.NOT_FOUND:
            return NotFoundError(text)
        case grpc.StatusCode.UNIMPLEMENTED:
            return NotServedError(text)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineError(text)
        case grpc.StatusCode.UNAVAILABLE:
            return RuntimeFailure(f"the container runtime at {endpoint} does not answer: {text}")
    return RuntimeFailure(text)
