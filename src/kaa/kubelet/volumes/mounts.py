"""Mounting tmpfs and letting go of it again: the only system calls that volumes make beyond files."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Protocol

from kaa.runtime.files import mount_points

_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_MS_NOSUID, _MS_NODEV = 2, 4


class Mounter(Protocol):
    def tmpfs(self, path: Path, size_bytes: int | None) -> None:
        """Mount a tmpfs on a folder; once is enough."""
        ...

    def unmount_below(self, path: Path) -> None:
        """Unmount everything at or below a folder, deepest first."""
        ...


class PlainFolders:
    """Leaves folders as they are: for nodes that only pretend, and for tests without root."""

    def tmpfs(self, path: Path, size_bytes: int | None) -> None:
        return None

    def unmount_below(self, path: Path) -> None:
        return None


class SystemMounter:
    """The kernel's own, through libc."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)

    def tmpfs(self, path: Path, size_bytes: int | None) -> None:
        if os.path.ismount(path):
            return
        options = "mode=0777" + (f",size={size_bytes}" if size_bytes else "")
        done = self._libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", _MS_NOSUID | _MS_NODEV, options.encode())
        self._check(done, path)

    def unmount_below(self, path: Path) -> None:
        for point in sorted(mount_points(path), key=lambda point: len(point.parts), reverse=True):
            self._check(self._libc.umount2(os.fsencode(point), _MNT_DETACH | _UMOUNT_NOFOLLOW), point)

    def _check(self, done: int, path: Path) -> None:
        if done != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
