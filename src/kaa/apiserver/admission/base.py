"""What an admission plugin is.

A write passes all plugins that change it, in order, then (validated) all that refuse it. A plugin sees Structs, decides
without I/O from the View, and says no with an ApiError. Webhooks, which do have I/O, are plugins too: hence ``async``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from kaa.client.pipeline import Request

from ..view import View


@dataclass(slots=True)
class Attributes:
    """One write on its way. ``operation`` is CREATE, UPDATE, DELETE or CONNECT; ``object`` is None on deletion."""

    request: Request
    operation: str
    object: Any
    old: Any = None
    dry_run: bool = False
    warnings: list[str] = field(default_factory=list)
    #: The server made up the name: whoever looks before the object is stored sees ``generateName`` only.
    name_generated: bool = False
    #: Who takes long to validate has been asked already.
    consulted: bool = False

    def annotate(self, key: str, value: str) -> None:
        """Note something for the audit log."""
        if self.request.note is not None:
            self.request.note(key, value)

    def on(self, plural: str, group: str = "", subresource: str = "") -> bool:
        """Whether the write is on this resource and subresource."""
        resource = self.request.resource
        return resource.plural == plural and resource.group == group and self.request.subresource == subresource


_Phase = Callable[[Attributes, View], Awaitable[None]]


class Plugin(Protocol):
    name: str
    #: The plurals that it looks at; none named is all. It is not asked about others.
    kinds: frozenset[str]

    async def admit(self, attributes: Attributes, view: View) -> None:
        """Change ``attributes.object`` (by putting another in its place), or raise."""
        ...

    async def validate(self, attributes: Attributes, view: View) -> None:
        """Raise ApiError to refuse; change nothing."""
        ...


class Passive:
    """A plugin that does nothing: others override the phase they have, and the chain skips the other."""

    name = ""
    kinds: frozenset[str] = frozenset()

    async def admit(self, attributes: Attributes, view: View) -> None:
        return None

    async def validate(self, attributes: Attributes, view: View) -> None:
        return None


class Consultant(Passive):
    """A plugin that validates by asking others, which may take long. It leaves be what is ``consulted`` already."""

    @property
    def busy(self) -> bool:
        """Whether there is anybody to ask."""
        return False


class Chain:
    """The plugins in upstream's order."""

    def __init__(self, plugins: Sequence[Plugin]) -> None:
        self.plugins = tuple(plugins)
        self._consultants = [p for p in plugins if isinstance(p, Consultant)]
        #: {plural: the phases of the plugins that look at it}
        self._phases: dict[str, tuple[list[_Phase], list[_Phase]]] = {}

    async def admit(self, attributes: Attributes, view: View) -> None:
        plural = attributes.request.resource.plural
        for admit in (self._phases.get(plural) or self._concerning(plural))[0]:
            await admit(attributes, view)

    async def validate(self, attributes: Attributes, view: View) -> None:
        plural = attributes.request.resource.plural
        for validate in (self._phases.get(plural) or self._concerning(plural))[1]:
            await validate(attributes, view)

    @property
    def consults(self) -> bool:
        """Whether ``validate`` may take long, so that who holds a lock then is to ``consult`` before he takes it."""
        return any(one.busy for one in self._consultants)

    async def consult(self, attributes: Attributes, view: View) -> None:
        """Ask those who take long; ``validate`` leaves them out from then on."""
        for one in self._consultants:
            await one.validate(attributes, view)
        attributes.consulted = True

    def _concerning(self, plural: str) -> tuple[list[_Phase], list[_Phase]]:
        asked = [p for p in self.plugins if not p.kinds or plural in p.kinds]
        admits: list[_Phase] = [p.admit for p in asked if type(p).admit is not Passive.admit]
        validates: list[_Phase] = [p.validate for p in asked if type(p).validate is not Passive.validate]
        return self._phases.setdefault(plural, (admits, validates))
