"""What the pods of a node were given of it, in sum: kept as it changes, so that a pod's arrival does not count all others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping


class Room:
    """``wake`` is called with the uid of each pod that waits for room, when some may have become free."""

    def __init__(self, wake: Callable[[str], None]) -> None:
        self._wake = wake
        self._total: Counter[str] = Counter()
        self._given: dict[str, Mapping[str, int]] = {}  #: {pod uid: {resource: amount}}
        self._waiting: set[str] = set()

    def give(self, uid: str, amounts: Mapping[str, int]) -> None:
        """A pod has this much now, instead of what it had."""
        self._total.subtract(self._given.pop(uid, {}))
        if amounts:
            self._total.update(amounts)
            self._given[uid] = amounts

    def used_beside(self, uid: str) -> Mapping[str, int]:
        """{resource: amount} that the other pods have."""
        own = self._given.get(uid, {})
        return {resource: amount - own.get(resource, 0) for resource, amount in self._total.items()}

    def waits(self, uid: str, waiting: bool) -> None:
        """Whether a pod wants more than there is."""
        (self._waiting.add if waiting else self._waiting.discard)(uid)

    def freed(self) -> None:
        """There may be room for those that wait."""
        for uid in list(self._waiting):
            self._wake(uid)

    def forget(self, uid: str) -> None:
        """A pod is gone."""
        self.give(uid, {})
        self._waiting.discard(uid)
        self.freed()
