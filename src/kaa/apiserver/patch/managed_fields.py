"""Who set which field: ``metadata.managedFields``."""

from __future__ import annotations

from typing import Any

from kaa.api.clock import Clock
from kaa.client.pipeline import Request

from ..registry.strategy import Strategy


class Tracker:
    """Keeps ``managedFields`` true through one write."""

    def __init__(self, request: Request, strategy: Strategy[Any], clock: Clock) -> None:
        self._request, self._strategy, self._clock = request, strategy, clock

    def created(self, obj: Any) -> Any:
        """The object with its first entry."""
        return obj

    def updated(self, new: Any, old: Any, operation: str) -> Any:
        """The object with what changed moved to the one who changed it. ``operation`` is Update or Apply."""
        return new
