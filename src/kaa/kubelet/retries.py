"""How long a pod waits before something is tried again: twice as long each time, until it works."""

from __future__ import annotations

FIRST_S, MAX_S = 0.5, 10.0  #: upstream looks at a pod that failed again after 10 s


class Retries:
    """The waits of one pod, by what failed."""

    def __init__(self) -> None:
        self._waits: dict[str, float] = {}

    def failed(self, what: str, *, at_most_s: float = MAX_S) -> float:
        """How many seconds to wait."""
        self._waits[what] = min(self._waits.get(what, FIRST_S / 2) * 2, at_most_s)
        return self._waits[what]

    def worked(self, what: str) -> None:
        self._waits.pop(what, None)
