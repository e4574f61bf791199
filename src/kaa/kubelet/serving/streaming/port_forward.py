"""Port-forward over SPDY streams: a pair of streams (error, data) a connection, matched by ``requestid``.

Source: kubelet pkg/cri/streaming/portforward/httpstream.go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from kaa.runtime.base import RuntimeFailure, Streams
from kaa.runtime.spdy import Session, Stream

from ...tasks import Tasks

PROTOCOL = "portforward.k8s.io"
TUNNELED = ("v2.portforward.k8s.io", "SPDY/3.1+portforward.k8s.io")
#: Opens a connection to a port of the pod.
Connect = Callable[[int], Awaitable[Streams]]


async def serve(session: Session, connect: Connect) -> None:
    """Forward connections until the client is gone. The session must be running."""
    pairs: dict[str, dict[str, Stream]] = {}
    tasks = Tasks("kubelet/port-forward")
    try:
        while (stream := await session.accept()) is not None:
            kind = stream.headers.get("streamtype", "")
            port = stream.headers.get("port", "")
            if kind not in ("data", "error") or not port.isdigit():
                await stream.reset()
                continue
            request = stream.headers.get("requestid") or _old_request(stream, kind)
            pair = pairs.setdefault(request, {})
            pair[kind] = stream
            if len(pair) == 2:
                del pairs[request]
                tasks.start(request, _forward(session, pair["data"], pair["error"], int(port), connect))
    finally:
        await tasks.close()
        await session.close()


def _old_request(stream: Stream, kind: str) -> str:
    """Clients without request ids open the error stream first and the data stream next to it."""
    return str(stream.id if kind == "error" else stream.id - 2)


async def _forward(session: Session, data: Stream, error: Stream, port: int, connect: Connect) -> None:
    try:
        streams = await connect(port)
    except (RuntimeFailure, OSError) as err:
        await error.write(f"error forwarding port {port} to pod: {err}".encode())
    else:
        await _pump(data, streams)
    finally:
        await data.close()
        await error.close()
        session.forget(data)
        session.forget(error)


async def _pump(data: Stream, streams: Streams) -> None:
    """Both ways until the pod's side has ended; the client's end is passed on as a half-close."""
    sending = asyncio.ensure_future(_send(data, streams))
    try:
        async for _, chunk in streams.output():
            await data.write(chunk)
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await streams.close()


async def _send(data: Stream, streams: Streams) -> None:
    while chunk := await data.read():
        await streams.write(chunk)
    await streams.close_stdin()
