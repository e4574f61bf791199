"""What a scheduler plugin is, in columns.

The idea: upstream asks each plugin about each node; here a plugin is asked once about a pod's template and answers for all
nodes at once: ``filter`` gives a ``Filter`` (a mask), ``score`` a ``Score`` (a vector). Both stay alive for as long as pods
of the template keep coming, and are corrected with every pod that is placed or leaves, instead of asked again.

    PreFilter + Filter           Plugin.filter(template, nodes) -> Filter | Status | None (Skip)
    PreScore + Score + Normalize Plugin.score(template, nodes)  -> Score | None (Skip)
    Reserve, Unreserve, PreBind  the ``Reserver`` protocol: what must be held, and done, before a pod is bound
    EventsToRegister             Plugin.events: what may make a pod that it rejected schedulable

Source: kubernetes/kubernetes pkg/scheduler/framework (extension points, codes).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum, auto
from typing import Any, NamedTuple, Protocol

import numpy as np

from kaa.api.types.core_v1 import Pod

from .columns import Mask, Move, Rows, Vector
from .snapshot import Snapshot
from .template import Template

MAX_SCORE = 100
#: What is to be done on the API server.
Job = Callable[[], Awaitable[None]]


class Code(IntEnum):
    SUCCESS = 0
    ERROR = 1
    UNSCHEDULABLE = 2  #: evicting other pods may help
    UNRESOLVABLE = 3  #: nothing done to other pods helps


@dataclass(frozen=True, slots=True)
class Status:
    """A verdict. "Does not fit" is an answer, so it is a value."""

    code: Code = Code.SUCCESS
    reason: str = ""
    plugin: str = ""

    @property
    def ok(self) -> bool:
        return self.code is Code.SUCCESS


SUCCESS = Status()


class ClusterEvent(Enum):
    """What happens in a cluster that may make a rejected pod schedulable."""

    NODE_ADD = auto()
    NODE_ALLOCATABLE = auto()
    NODE_LABEL = auto()
    NODE_TAINT = auto()
    POD_ADD = auto()  #: of a pod that has a node
    POD_UPDATE = auto()  #: its labels, or it asks for less
    POD_DELETE = auto()
    NAMESPACE_LABEL = auto()
    STORAGE = auto()  #: a claim, volume, class or driver
    DEVICES = auto()  #: a claim, class or slice of devices
    WORKLOAD = auto()  #: a Service or a pod's owner, for default spreading


class Rejection(NamedTuple):
    """Rows that are refused for one reason."""

    rows: Mask
    reason: str
    resolvable: bool = True


class Filter(Protocol):
    """A template's mask over all rows, kept true by ``correct``."""

    mask: Mask  #: True: may go there

    def correct(self, rows: Rows, moves: Sequence[Move]) -> None:
        """Pods came or left: ``rows`` are those touched by ``moves``."""
        ...

    def rejections(self) -> Iterator[Rejection]:
        """Why the rows outside the mask are outside, in upstream's order of checks."""
        ...


class StillFilter:
    """A filter on what only the node object says: pods that come and go change nothing."""

    def __init__(self, mask: Mask, reason: str, *, resolvable: bool = False) -> None:
        self.mask, self._reason, self._resolvable = mask, reason, resolvable

    def correct(self, rows: Rows, moves: Sequence[Move]) -> None:
        return

    def rejections(self) -> Iterator[Rejection]:
        yield Rejection(~self.mask, self._reason, self._resolvable)


class StillFilters(StillFilter):
    """A still filter with several reasons."""

    def __init__(self, mask: Mask, rejections: Sequence[Rejection]) -> None:
        super().__init__(mask, "")
        self._rejections = rejections

    def rejections(self) -> Iterator[Rejection]:
        yield from self._rejections


class Score(Protocol):
    """A template's scores. ``raw`` counts as it stands when ``local``; else ``normalized`` turns it into 0..100."""

    raw: Vector
    local: bool

    def correct(self, rows: Rows, moves: Sequence[Move]) -> None: ...

    def normalized(self, feasible: Mask) -> Vector:
        """Scores 0..100; only those of feasible rows mean anything. Never called when ``local``."""
        ...


class StillScore:
    """Scores on what only the node object says, normalized by their largest (Source: DefaultNormalizeScore)."""

    local = False

    def __init__(self, raw: Vector, *, reverse: bool = False) -> None:
        self.raw, self._reverse = raw, reverse

    def correct(self, rows: Rows, moves: Sequence[Move]) -> None:
        return

    def normalized(self, feasible: Mask) -> Vector:
        largest = int(np.max(self.raw, where=feasible, initial=0))
        scaled = self.raw * MAX_SCORE // largest if largest else self.raw
        return MAX_SCORE - scaled if self._reverse else scaled


class Plugin(Protocol):
    """One consideration. Stateless: everything it knows is in its arguments."""

    name: str
    events: frozenset[ClusterEvent]

    def filter(self, template: Template, nodes: Snapshot) -> Filter | Status | None:
        """None: it does not concern this pod. A Status refuses the pod on every node."""
        ...

    def score(self, template: Template, nodes: Snapshot) -> Score | None: ...


class Unfiltered:
    """Base of plugins that only score."""

    def filter(self, template: Template, nodes: Snapshot) -> Filter | Status | None:
        return None


class Unscored:
    """Base of plugins that only filter."""

    def score(self, template: Template, nodes: Snapshot) -> Score | None:
        return None


class Reserver(Protocol):
    """Something besides room on a node that a pod must get before it is bound: volumes, devices."""

    name: str

    def reserve(self, pod: Pod, node: str) -> Status: ...

    def waits(self, pod: Pod) -> bool:
        """Whether ``pre_bind`` has to wait for others, perhaps for minutes."""
        ...

    def unreserve(self, pod: Pod, node: str) -> Job | None:
        """Let go of it. Returns what is then to be done on the API server."""
        ...

    async def pre_bind(self, pod: Pod, node: str) -> Status:
        """Make it so on the API server, and wait until it is."""
        ...


class Recorder(Protocol):
    """Where events go. ``type`` is Normal or Warning."""

    def event(self, obj: Any, type: str, reason: str, message: str) -> None: ...
