"""Port-forward over the numbered channels of a WebSocket: the nth port asked for has data on 2n and an error on 2n+1.

Each channel opens with its port in two bytes, little-endian. There is one connection a port, and no half-close: the
WebSocket ends when the client goes or every connection has ended.
Source: kubelet pkg/cri/streaming/portforward/websocket.go.
"""

from __future__ import annotations

import asyncio

from kaa.runtime.base import RuntimeFailure, Streams

from ...tasks import Tasks
from .port_forward import Connect
from .websocket import Numbered

PROTOCOLS = ("v4.channel.k8s.io", "v4.base64.channel.k8s.io")
_WAITING_MESSAGES = 16  # of a port whose connection is slow to take them


class Port:
    """One port's connection, and what the client has sent it."""

    def __init__(self, socket: Numbered, index: int, number: int) -> None:
        self.number = number
        self._socket, self._data, self._error = socket, 2 * index, 2 * index + 1
        self.inbox: asyncio.Queue[bytes] = asyncio.Queue(_WAITING_MESSAGES)

    async def open(self) -> None:
        for channel in (self._data, self._error):
            await self._socket.send(channel, self.number.to_bytes(2, "little"))

    async def forward(self, connect: Connect) -> None:
        try:
            streams = await connect(self.number)
        except (RuntimeFailure, OSError) as err:
            await self._socket.send(self._error, f"error forwarding port {self.number} to pod: {err}".encode())
            return
        sending = asyncio.ensure_future(self._send(streams))
        try:
            async for _, chunk in streams.output():
                await self._socket.send(self._data, chunk)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await streams.close()

    async def _send(self, streams: Streams) -> None:
        while True:
            await streams.write(await self.inbox.get())


async def serve(socket: Numbered, numbers: list[int], connect: Connect) -> None:
    """Forward until the client is gone or the pod has closed every connection."""
    ports = [Port(socket, index, number) for index, number in enumerate(numbers)]
    for port in ports:
        await port.open()
    tasks = Tasks("kubelet/port-forward")
    forwards = [tasks.start(str(index), port.forward(connect)) for index, port in enumerate(ports)]
    receiving = tasks.start("receive", _receive(socket, ports))
    try:
        await asyncio.wait(
            (receiving, asyncio.gather(*forwards, return_exceptions=True)), return_when=asyncio.FIRST_COMPLETED
        )
    finally:
        await tasks.close()
        await socket.close()


async def _receive(socket: Numbered, ports: list[Port]) -> None:
    while (message := await socket.receive()) is not None:
        channel, data = message
        if data and channel % 2 == 0 and channel < 2 * len(ports):
            await ports[channel // 2].inbox.put(data)
