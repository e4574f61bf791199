"""What happened, told from what is: the CRI says states, the contract wants steps.

``Tracker`` keeps the last state of every container and sandbox. A verb of ours that succeeded says so at once; a relisting
finds the rest. A state only goes forward, so that steps between two looks are told in their order, each once.
Source: kubelet pkg/kubelet/pleg (generic.go).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from ..base import EventKind

#: How far a container or a sandbox has come.
Stage = Literal[0, 1, 2, 3]
CREATED, RUNNING, ENDED, GONE = range(4)
_STEPS = (EventKind.CREATED, EventKind.STARTED, EventKind.STOPPED, EventKind.DELETED)


@dataclass(frozen=True, slots=True)
class Key:
    """A container in its sandbox; the sandbox itself has no ``container_id``."""

    sandbox_id: str
    container_id: str = ""


def steps(before: int, after: int) -> tuple[EventKind, ...]:
    """What lies between two stages; -1 is before there was anything."""
    return _STEPS[before + 1 : after + 1]


class Tracker:
    """See the module. Not a word is said of what the first relisting finds: it was there before us."""

    def __init__(self) -> None:
        self._stages: dict[Key, int] = {}
        self._touched: set[Key] = set()  #: what a verb said since the running relisting began
        self._known = False

    def saw(self, key: Key, stage: int) -> tuple[EventKind, ...]:
        """A verb brought something to a stage; the steps that this is news of."""
        self._touched.add(key)
        return self._advance(key, stage)

    def begin(self) -> None:
        """A relisting begins: what verbs do from here on is newer than what it will find."""
        self._touched.clear()

    def relisted(self, found: Mapping[Key, int]) -> Iterator[tuple[Key, EventKind]]:
        """Take in what the relisting found; the steps that nobody has told yet."""
        gone = [(key, GONE) for key in self._stages if key not in found]
        news = [(key, stage) for key, stage in (*found.items(), *gone) if key not in self._touched]
        told, self._known = self._known, True
        for key, stage in news:
            for kind in self._advance(key, stage):
                if told:
                    yield key, kind

    def sandbox_of(self, container_id: str) -> str:
        """The sandbox of a container that was seen; empty when it was not."""
        return next((key.sandbox_id for key in self._stages if key.container_id == container_id), "")

    def knows(self, key: Key) -> bool:
        return key in self._stages

    def members(self, sandbox_id: str) -> list[Key]:
        """Containers seen in a sandbox."""
        return [key for key in self._stages if key.sandbox_id == sandbox_id and key.container_id]

    def _advance(self, key: Key, stage: int) -> tuple[EventKind, ...]:
        before = self._stages.get(key, -1)
        if stage == GONE:
            known = self._stages.pop(key, None)
            return steps(before, stage) if known is not None else ()
        if stage > before:
            self._stages[key] = stage
        told = steps(before, stage)
        return told if key.container_id else tuple(kind for kind in told if kind is not EventKind.CREATED)
