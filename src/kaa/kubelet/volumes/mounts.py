"""Mounting and letting go of it again: the only system calls that volumes make beyond files."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from pathlib import Path
from typing import Protocol

from kaa.runtime.files import mount_points

_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_MS_NOSUID, _MS_NODEV, _MS_BIND = 2, 4, 4096


def _drop_unlike(target: Path, mode: int) -> None:
    """Remove what a mount was shown at, if it is a folder and a file is wanted there, or the other way round."""
    is_folder = target.is_dir() and not target.is_symlink()
    if is_folder and not stat.S_ISDIR(mode):
        target.rmdir()
    elif stat.S_ISDIR(mode) and not is_folder:
        target.unlink()


class Mounter(Protocol):
    def mounted(self, path: Path) -> bool:
        """Whether something is mounted on a folder."""
        ...

    def tmpfs(self, path: Path, size_bytes: int | None) -> None:
        """Mount a tmpfs on a folder; once is enough. It is never swapped out, where the kernel knows how."""
        ...

    def hugetlbfs(self, path: Path, page_size: str) -> None:
        """Mount huge pages, of ``2Mi`` say, on a folder; once is enough."""
        ...

    def bind(self, descriptor: int, target: Path) -> Path:
        """Show the file or folder that is open as ``descriptor`` at ``target`` as well; where it is to be found."""
        ...

    def unmount_below(self, path: Path) -> None:
        """Unmount everything at or below a folder, deepest first."""
        ...


class PlainFolders:
    """Leaves folders as they are: for nodes that only pretend, and for tests without root."""

    def mounted(self, path: Path) -> bool:
        return True

    def tmpfs(self, path: Path, size_bytes: int | None) -> None:
        return None

    def hugetlbfs(self, path: Path, page_size: str) -> None:
        return None

    def bind(self, descriptor: int, target: Path) -> Path:
        return Path(os.readlink(f"/proc/self/fd/{descriptor}"))

    def unmount_below(self, path: Path) -> None:
        return None


class SystemMounter:
    """The kernel's own, through libc."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._noswap = ",noswap"  # Linux 6.4

    def mounted(self, path: Path) -> bool:
        return os.path.ismount(path)

    def tmpfs(self, path: Path, size_bytes: int | None) -> None:
        if self.mounted(path):
            return
        options = "mode=1777" + (f",size={size_bytes}" if size_bytes else "")
        try:
            self._mount("tmpfs", path, "tmpfs", _MS_NOSUID | _MS_NODEV, options + self._noswap)
        except OSError as err:
            if err.errno != errno.EINVAL or not self._noswap:
                raise
            self._noswap = ""
            self._mount("tmpfs", path, "tmpfs", _MS_NOSUID | _MS_NODEV, options)

    def hugetlbfs(self, path: Path, page_size: str) -> None:
        if not self.mounted(path):
            self._mount("nodev", path, "hugetlbfs", 0, f"pagesize={page_size.removesuffix('i')}")

    def bind(self, descriptor: int, target: Path) -> Path:
        wanted = os.fstat(descriptor)
        with contextlib.suppress(FileNotFoundError):
            has = os.lstat(target)
            if (has.st_dev, has.st_ino) == (wanted.st_dev, wanted.st_ino):
                return target
            self.unmount_below(target)
            _drop_unlike(target, wanted.st_mode)
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        if stat.S_ISDIR(wanted.st_mode):
            target.mkdir(exist_ok=True, mode=0o750)
        else:
            target.touch(mode=0o640)
        self._mount(f"/proc/self/fd/{descriptor}", target, "", _MS_BIND, "")
        return target

    def unmount_below(self, path: Path) -> None:
        for point in sorted(mount_points(path), key=lambda point: len(point.parts), reverse=True):
            self._check(self._libc.umount2(os.fsencode(point), _MNT_DETACH | _UMOUNT_NOFOLLOW), point)

    def _mount(self, source: str, target: Path, kind: str, flags: int, options: str) -> None:
        done = self._libc.mount(
            source.encode(), os.fsencode(target), kind.encode() or None, ctypes.c_ulong(flags), options.encode() or None
        )
        self._check(done, target)

    def _check(self, done: int, path: Path) -> None:
        if done != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
