"""So many a second, and a burst of some: a bucket of tokens."""

from __future__ import annotations

from kaa.api.clock import Clock


class Rate:
    """What is taken comes back with time, ``per_second`` of it, up to ``burst``. A rate of nothing a second has no limit."""

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
