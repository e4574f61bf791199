"""Being told by the kernel that something in a folder changed."""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

MODIFY, CLOSE_WRITE, MOVED, CREATE, DELETE = 0x2, 0x8, 0xC0, 0x100, 0x200
SELF_GONE = 0xC00  #: the folder itself was removed or moved
ONLY_FOLDERS = 0x01000000


class Watch:
    """Calls ``changed`` whenever something that ``mask`` names happens in one of its folders. Close it.

    The kernel counts watches: one that cannot be had is told in the log and leaves ``blind`` true, so whoever watches looks
    now and then besides.
    """

    def __init__(self, changed: Callable[[], None], mask: int) -> None:
        self._changed, self._mask = changed, mask
        self.blind = False
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            self._lack(ctypes.get_errno(), "fs.inotify.max_user_instances")
        else:
            asyncio.get_running_loop().add_reader(self._fd, self._read)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, folder: Path | str) -> None:
        """One that is watched already, or gone, is fine."""
        if self._fd >= 0 and self._libc.inotify_add_watch(self._fd, os.fsencode(folder), self._mask) < 0:
            number = ctypes.get_errno()
            if os.path.isdir(folder):
                self._lack(number, "fs.inotify.max_user_watches")

    def _lack(self, number: int, limit: str) -> None:
        """Told with what an administrator can raise."""
        if not self.blind:
            log.warning("changes of files are looked for now and then only", inotify=os.strerror(number), sysctl=limit)
        self.blind = True

    def _read(self) -> None:
        try:
            os.read(self._fd, 65536)
        except BlockingIOError:
            return
        self._changed()

    def close(self) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
