"""The OCI runtimes of this machine. A container stays with the one that made it; a RuntimeClass may ask for either by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from ..base import RuntimeFailure
from .detect import find_conmon, find_engines
from .hybrid import can_hide, hiding, is_hybrid
from .sealed import sealed, sealed_copy

log = structlog.get_logger(__name__)
#: {runtime: the file below a container's state that it writes}.
_NOTES = {"runc": "state.json", "crun": "status"}


@dataclass(frozen=True, slots=True)
class Engine:
    """runc or crun with the folder of its state, and conmon."""

    name: str
    binary: str
    state: Path
    conmon: str
    shelter: Callable[[int], None]  #: moves a conmon, named by its pid, to where it survives us

    def command(self, *words: str) -> list[str]:
        return [self.binary, "--root", str(self.state), *words]


def as_runc_says(message: str, program: str) -> str:
    """What crun says of a ``program`` that cannot be run, in the words that users and tools know; anything else as it is."""
    if match := _NOT_FOUND.match(message):
        name = match[1]
        why = f"stat {name}: no such file or directory" if "/" in name else "executable file not found in $PATH"
        return f'unable to start container process: exec: "{name}": {why}'
    if message.startswith("open executable: "):
        return f'unable to start container process: exec: "{program}": permission denied'
    return message


_NOT_FOUND = re.compile(r"executable file `(.*)` not found in \$PATH")


def _crun(path: str) -> str:
    """What to start in its place; nothing where it would refuse to work."""
    copy = sealed_copy(path)
    if not is_hybrid():
        return copy
    try:
        return sealed(hiding(copy), "crun") if can_hide() else ""
    except OSError as err:  # vm.memfd_noexec
        log.warning("crun is not used: this machine runs no programs from memory", error=str(err))
        return ""


class Engines(Mapping[str, Engine]):
    """Those there are, by name; ``default`` is what containers are made with when nobody asks for another."""

    def __init__(self, run_dir: Path, shelter: Callable[[int], None], wanted: str | None = None) -> None:
        """``wanted``: the one to have, a name or a path. Raises RuntimeFailure without any, or without conmon."""
        monitor = find_conmon()
        self.state = run_dir / "engine"
        self._known: dict[str, Engine] = {}
        for path in find_engines(wanted):
            name = Path(path).name
            binary = _crun(path) if name == "crun" else path
            if binary:
                self._known[name] = Engine(name, binary, self.state, monitor, shelter)
        if not self._known:
            raise RuntimeFailure("crun refuses this machine's cgroups, of both versions: install runc")
        self.default = next(iter(self._known.values()))

    def __getitem__(self, name: str) -> Engine:
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def of(self, name: str) -> Engine:
        """By the name in a container's record; the default for one that is installed no more."""
        return self._known.get(name, self.default)

    def maker(self, container_id: str) -> Engine:
        """Whose state there is of a container without a record."""
        for name, engine in self._known.items():
            if (self.state / container_id / _NOTES.get(name, "")).exists():
                return engine
        return self.default
