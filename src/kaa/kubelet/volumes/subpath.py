"""subPath: a file or folder inside a volume, whatever those who write in the volume do meanwhile.

The idea: walk from the volume's own folder by descriptors, a name at a time, never following a link but reading it and going
on from there; a step out of the volume is refused. What is mounted is the descriptor at the walk's end, not its name, so that
a link that is swapped in afterwards leads nowhere.
Source: pkg/volume/util/subpath (SafeMakeDir, doBindSubPath).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_LINKS = 40


class EscapeError(OSError):
    """The way leads out of the volume, or is no way."""


@contextlib.contextmanager
def opened(volume: Path, inner: str, *, make: bool = True) -> Iterator[int]:
    """A descriptor (``O_PATH``) of what lies at ``inner`` in a volume.

    Args: make: make what is missing, folders with the volume's mode.

    Raises OSError: EscapeError for a path that leaves the volume.
    """
    root = os.open(volume, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    walk = _Walk(root, os.path.realpath(volume), make)
    try:
        yield walk.to(inner)
    finally:
        walk.close()


class _Walk:
    """Open folders from the volume down to where the walk stands."""

    def __init__(self, root: int, place: str, make: bool) -> None:
        self._open, self._place, self._make = [root], place, make
        self._mode = stat.S_IMODE(os.fstat(root).st_mode)

    def to(self, inner: str) -> int:
        todo, links = list(reversed(PurePosixPath(inner).parts)), 0
        while todo:
            name = todo.pop()
            if name == "..":
                self._up()
                continue
            step = self._step(name)
            if stat.S_ISLNK(os.fstat(step).st_mode):
                target = os.readlink("", dir_fd=step)
                os.close(step)
                links += 1
                if links > _MAX_LINKS:
                    raise EscapeError(errno.ELOOP, os.strerror(errno.ELOOP), inner)
                todo.extend(reversed(self._follow(target)))
            else:
                self._open.append(step)
        return self._open[-1]

    def _up(self) -> None:
        if len(self._open) == 1:
            raise EscapeError(errno.EXDEV, "the path leaves its volume")
        os.close(self._open.pop())

    def _step(self, name: str) -> int:
        """Open a name in the folder where the walk stands; a folder is made for one that is not there."""
        here = self._open[-1]
        try:
            return os.open(name, _STEP, dir_fd=here)
        except FileNotFoundError:
            if not self._make:
                raise
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=here)
        step = os.open(name, _STEP, dir_fd=here)
        if stat.S_ISDIR(os.fstat(step).st_mode):
            os.chmod(f"/proc/self/fd/{step}", self._mode)
        return step

    def _follow(self, target: str) -> tuple[str, ...]:
        """The names to go on with behind a link. One that is absolute may name a place in the volume as the node knows it."""
        path = PurePosixPath(target)
        if not path.is_absolute():
            return path.parts
        if not path.is_relative_to(self._place):
            raise EscapeError(errno.EXDEV, "a link leaves its volume")
        while len(self._open) > 1:
            os.close(self._open.pop())
        return path.relative_to(self._place).parts

    def close(self) -> None:
        for descriptor in self._open:
            os.close(descriptor)
