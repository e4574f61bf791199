"""How many seats a level wanted over a while: its peak, and a smoothed envelope that rises at once and falls slowly.

Source: KEP-1040 "Dispatching"; apiserver pkg/util/flowcontrol apf_controller.go.
"""

from __future__ import annotations

from math import sqrt

SMOOTHING = 0.977


class Demand:
    """Integrals over time of the seats wanted (waiting or in use) since the last ``close``."""

    __slots__ = ("_at", "_began", "_square", "_sum", "peak", "seats", "smooth")

    def __init__(self, now: float) -> None:
        self.seats = 0  #: now
        self.peak = 0
        self.smooth = 0.0
        self._began = self._at = now
        self._sum = self._square = 0.0

    def change(self, by: int, now: float) -> None:
        span = now - self._at
        if span > 0:
            self._sum += self.seats * span
            self._square += self.seats * self.seats * span
            self._at = now
        self.seats += by
        if self.seats > self.peak:
            self.peak = self.seats

    def close(self, now: float) -> int:
        """End a period: ``smooth`` takes it in, and the next begins. Returns its peak."""
        self.change(0, now)
        length = now - self._began
        mean = self._sum / length if length > 0 else float(self.seats)
        spread = sqrt(max(0.0, self._square / length - mean * mean)) if length > 0 else 0.0
        envelope = mean + spread
        self.smooth = max(envelope, SMOOTHING * self.smooth + (1 - SMOOTHING) * envelope)
        peak, self.peak = self.peak, self.seats
        self._began = self._at = now
        self._sum = self._square = 0.0
        return peak
