"""Trees that others may have written in: removed, and measured.

Removing never leads out of the tree, never through a link, never across a mount. A volume is a folder that a container owned; what lies in it is not to be trusted. The idea: walk by file descriptors opened
with ``O_NOFOLLOW``, so that no name is looked up twice, and compare each folder's mount id with its parent's before going in.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
import stat
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

_DEEPEST, _PASSES = 100, 1_000_000
_QUIET_S, _AT_MOST_S = 0.5, 2.0
_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class RefusedError(OSError):
    """Removing would have left the tree: a path outside it, a link on the way, or a mount inside."""


def remove_tree(path: Path, *, root: Path) -> None:
    """Remove ``path`` and everything in it; a path that is gone already is fine.

    Args:   path: an absolute path strictly below ``root``.
            root: a folder that is trusted, itself free to be a link or a mount.
    Raises: RefusedError: ``path`` is not below ``root``, passes a symlink or a mount on its way, or holds a mount point. What
            comes before the mount point in the walk is gone by then; the mount's own content is untouched.
    """
    with contextlib.suppress(FileNotFoundError), _parent(path, root) as (parent, name, mount):
        _remove(parent, name, str(path), mount)


@contextlib.contextmanager
def _parent(path: Path, root: Path) -> Iterator[tuple[int, str, int]]:
    """(the open folder that holds ``path``, its name there, the mount that everything must lie on)."""
    parts = _below(path, root)
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mount = mount_id(here)
        for name in parts[:-1]:
            here = _descend(here, name, mount)
        yield here, parts[-1], mount
    finally:
        os.close(here)


def scatter(folder: Path) -> None:
    """Make a folder whose sub-folders are trees that have nothing to do with each other, and tell the file system so.

    ext4 puts them into different places of the disk then. Otherwise all lie in one, where each new file is looked for among all
    that were removed lately (it does not use those again for a minute): 2 ms a pod instead of 0.2. Others need no telling.
    Source: chattr(1), ``T``; fs/ext4/ialloc.c ``recently_deleted``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        here = os.open(folder, _OPEN_DIR)
        try:
            flags = bytearray(8)
            fcntl.ioctl(here, _GET_FLAGS, flags)
            (known,) = struct.unpack_from("=I", flags)
            if not known & _TOP_OF_TREES:
                fcntl.ioctl(here, _SET_FLAGS, struct.pack("=Q", known | _TOP_OF_TREES))
        finally:
            os.close(here)


_GET_FLAGS, _SET_FLAGS, _TOP_OF_TREES = 0x80086601, 0x40086602, 0x20000


class Trash:
    """A folder for trees that nobody needs any more: they are gone at once, and removed by one thread once it is quiet.

    What a process leaves here is removed by the next. Trees on another file system are removed on the spot.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._remover = ThreadPoolExecutor(1, "trash")
        self._last = 0.0  #: when something was thrown away, by the monotonic clock
        self._closing = threading.Event()

    def open(self) -> None:
        """Begin to remove what an earlier life left."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for entry in self._folder.iterdir():
            self._remover.submit(self._remove, entry)

    def put(self, path: Path, *, root: Path, mounted: bool = True) -> None:
        """Take ``path`` away from its place. Arguments and refusals as ``remove_tree``'s, but nothing is gone when it refuses.

        ``mounted``: look for mounts first, which takes as long as the machine has mounts; not where only we ever write.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        doomed = self._folder / secrets.token_hex(8)
        try:
            with _parent(path, root) as (parent, name, _):
                for point in mount_points(path) if mounted else ():
                    raise RefusedError(f"refusing to take {path} away: something is mounted there, at {point}")
                os.rename(name, doomed, src_dir_fd=parent)
        except FileNotFoundError:
            return
        except OSError as err:
            if err.errno != errno.EXDEV:
                raise
            remove_tree(path, root=root)
            return
        self._last = time.monotonic()
        self._remover.submit(self._remove, doomed, self._last)

    def _remove(self, doomed: Path, since: float = 0.0) -> None:
        # A thread that lets others go first: this is not the cluster's time.
        while (wait_s := min(self._last + _QUIET_S, since + _AT_MOST_S) - time.monotonic()) > 0:
            if self._closing.wait(wait_s):
                return
        try:
            remove_tree(doomed, root=self._folder)
        except OSError as err:
            log.warning("a tree is not removed", path=str(doomed), error=str(err))

    def close(self) -> None:
        self._closing.set()
        self._remover.shutdown(wait=False, cancel_futures=True)


def _below(path: Path, root: Path) -> tuple[str, ...]:
    if not path.is_absolute() or not root.is_absolute():
        raise RefusedError(f"refusing to remove {path}: it and its root {root} must be absolute paths")
    try:
        parts = path.relative_to(root).parts
    except ValueError:
        parts = ()
    if not parts or ".." in parts:
        raise RefusedError(f"refusing to remove {path}: it is not below {root}")
    return parts


def _descend(folder: int, name: str, mount: int) -> int:
    """Open a sub-folder in place of ``folder``, which is closed. A link or a mount on the way is refused."""
    inner = _open_same_mount(folder, name, name, mount)
    os.close(folder)
    return inner


def _open_same_mount(folder: int, name: str, shown: str, mount: int) -> int:
    try:
        inner = os.open(name, _OPEN_DIR, dir_fd=folder)
    except OSError as err:
        if isinstance(err, FileNotFoundError):
            raise
        raise RefusedError(f"refusing to go through {shown}: not a plain folder") from err
    if mount_id(inner) != mount:
        os.close(inner)
        raise RefusedError(f"refusing to go into {shown}: something is mounted there")
    return inner


def _remove(folder: int, name: str, shown: str, mount: int, top: int = -1, depth: int = 0) -> None:
    """Remove an entry of an open folder.

    Neither the stack nor the open files bound how deep a tree may be: of what lies too deep, folders are moved up into the
    tree's own ``top`` first, and removed from there in another pass.
    """
    try:
        is_folder = stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
        if not is_folder:
            os.unlink(name, dir_fd=folder)  # EBUSY when a file is mounted over it: refused by the kernel itself
            return
        inner = _open_same_mount(folder, name, shown, mount)
    except FileNotFoundError:
        return
    try:
        for _ in range(_PASSES if depth == 0 else 1):
            entries = os.listdir(inner)
            for entry in entries:
                if depth < _DEEPEST or not _lift(inner, entry, top):
                    _remove(inner, entry, f"{shown}/{entry}", mount, inner if depth == 0 else top, depth + 1)
            if not entries:
                break
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=folder)


def _lift(folder: int, name: str, top: int) -> bool:
    """Move a folder up to ``top``; False for what is none."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        return False
    os.rename(name, secrets.token_hex(16), src_dir_fd=folder, dst_dir_fd=top)
    return True


def tree_usage(folder: Path) -> tuple[int, int]:
    """(bytes on disk, inodes) of a folder with all below it, as ``du`` counts: no link followed, hard links once.

    What vanishes meanwhile counts nothing.
    """
    try:
        size, inodes = folder.stat().st_blocks * 512, 1
    except OSError:
        return 0, 0
    waiting = [str(folder)]
    linked: set[tuple[int, int]] = set()
    while waiting:
        for entry in _entries(waiting.pop()):
            try:
                facts = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISDIR(facts.st_mode):
                waiting.append(entry.path)
            elif facts.st_nlink > 1:
                if (facts.st_dev, facts.st_ino) in linked:
                    continue
                linked.add((facts.st_dev, facts.st_ino))
            size, inodes = size + facts.st_blocks * 512, inodes + 1
    return size, inodes


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


_ESCAPES = {b" ": b"\\040", b"\t": b"\\011", b"\n": b"\\012"}


def mount_points(path: Path) -> list[Path]:
    """Where something is mounted at or below a folder, as /proc/self/mountinfo tells."""
    wanted = os.fsencode(path).replace(b"\\", b"\\134")
    for character, escape in _ESCAPES.items():
        wanted = wanted.replace(character, escape)
    table = Path("/proc/self/mountinfo").read_bytes()
    if b" %s" % wanted not in table:
        return []
    points = (line.split(b" ", 5)[4] for line in table.splitlines() if wanted in line)
    return [_unescaped(point) for point in points if point == wanted or point.startswith(wanted + b"/")]


def _unescaped(point: bytes) -> Path:
    for character, escape in _ESCAPES.items():
        point = point.replace(escape, character)
    return Path(os.fsdecode(point.replace(b"\\134", b"\\")))


def mount_id(descriptor: int) -> int:
    """The kernel's number of the mount that an open file lies on: tells bind mounts of one file system apart too.

    Raises RefusedError when the kernel does not tell. Source: statx(2), ``stx_mnt_id``, since Linux 5.8.
    """
    facts = ctypes.create_string_buffer(256)
    if _libc.statx(descriptor, b"", _AT_EMPTY_PATH, _STATX_MNT_ID, facts) == 0:
        mask, number = _STATX_FIELDS.unpack_from(facts)
        if mask & _STATX_MNT_ID:
            return int(number)
    return _mount_id_by_proc(descriptor)


_libc = ctypes.CDLL(None, use_errno=True)
_AT_EMPTY_PATH, _STATX_MNT_ID = 0x1000, 0x1000
_STATX_FIELDS = struct.Struct("=I140xQ")


def _mount_id_by_proc(descriptor: int) -> int:
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as info:
        for line in info:
            if line.startswith("mnt_id:"):
                return int(line.split()[1])
    raise RefusedError("the kernel does not tell mount ids")
