"""A connection that ends by itself once nothing has moved on it for long enough, either way."""

from __future__ import annotations

import asyncio

from kaa.runtime.pipe import Pipe


class Idle:
    """A pipe around a pipe. An idle one reads as if the other side had gone. ``limit_s`` 0: never."""

    def __init__(self, pipe: Pipe, limit_s: float) -> None:
        self._pipe, self._limit_s = pipe, limit_s
        self._moved_at = asyncio.get_running_loop().time()

    async def read(self) -> bytes:
        if not self._limit_s:
            return await self._pipe.read()
        while True:
            left = self._moved_at + self._limit_s - self._now()
            if left <= 0:
                return b""
            try:
                async with asyncio.timeout(left):
                    data = await self._pipe.read()
            except TimeoutError:
                continue  # something may have been written meanwhile
            self._moved_at = self._now()
            return data

    async def write(self, data: bytes) -> None:
        await self._pipe.write(data)
        self._moved_at = self._now()

    async def close(self) -> None:
        await self._pipe.close()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
