"""When work is done: so much a second, or once it is quiet."""

from __future__ import annotations

from kaa.api.clock import Clock


class Rate:
    """So many a second, and a burst of some: a bucket of tokens.

    What is taken comes back with time, ``per_second`` of it, up to ``burst``. A rate of nothing a second has no limit.
    """

    __slots__ = ("_at", "_burst", "_clock", "_left", "_per_second")

    def __init__(self, clock: Clock, per_second: float, burst: float) -> None:
        self._clock, self._per_second, self._burst = clock, per_second, float(burst)
        self._left, self._at = float(burst), clock.monotonic()

    def take(self) -> bool:
        """Whether one may go now, which then counts."""
        if self._per_second <= 0:
            return True
        self._fill()
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def wait_s(self) -> float:
        """How long one has to wait for its turn, which is its own from here on."""
        if self._per_second <= 0:
            return 0.0
        self._fill()
        self._left -= 1
        return max(0.0, -self._left / self._per_second)

    def _fill(self) -> None:
        now = self._clock.monotonic()
        self._left, self._at = min(self._burst, self._left + (now - self._at) * self._per_second), now


class Lull:
    """Moments when nothing has happened for ``quiet_s``: the time of what can wait, for ``patience_s`` at most."""

    __slots__ = ("_clock", "_patience_s", "_quiet_at", "_quiet_s")

    def __init__(self, clock: Clock, quiet_s: float, patience_s: float) -> None:
        self._clock, self._quiet_s, self._patience_s = clock, quiet_s, patience_s
        self._quiet_at = clock.monotonic()

    def stir(self) -> None:
        """Something happens now."""
        self._quiet_at = self._clock.monotonic() + self._quiet_s

    async def wait(self, since: float | None = None) -> None:
        """Until it is quiet, or patience ends. ``since``: when it began, by the monotonic clock; now, if not told."""
        latest = (self._clock.monotonic() if since is None else since) + self._patience_s
        while (wait_s := min(self._quiet_at, latest) - self._clock.monotonic()) > 0:
            await self._clock.sleep(wait_s)
