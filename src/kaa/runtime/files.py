"""Removing trees that others may have written in: never out of the tree, never through a link, never across a mount.

A volume is a folder that a container owned; what lies in it is not to be trusted. The idea: walk by file descriptors opened
with ``O_NOFOLLOW``, so that no name is looked up twice, and compare each folder's mount id with its parent's before going in.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

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
    parts = _below(path, root)
    try:
        here = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        mount = mount_id(here)  # looked up once: everything on the way and inside must lie on this mount
        for name in parts[:-1]:
            here = _descend(here, name, mount)
        _remove(here, parts[-1], str(path), mount)
    except FileNotFoundError:
        return
    finally:
        os.close(here)


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


def _remove(folder: int, name: str, shown: str, mount: int) -> None:
    try:
        is_folder = stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
        if not is_folder:
            os.unlink(name, dir_fd=folder)  # EBUSY when a file is mounted over it: refused by the kernel itself
            return
        inner = _open_same_mount(folder, name, shown, mount)
    except FileNotFoundError:
        return
    try:
        for entry in os.listdir(inner):
            _remove(inner, entry, f"{shown}/{entry}", mount)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=folder)


def mount_id(descriptor: int) -> int:
    """The kernel's number of the mount that an open file lies on: tells bind mounts of one file system apart too."""
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as info:
        for line in info:
            if line.startswith("mnt_id:"):
                return int(line.split()[1])
    raise RefusedError("the kernel does not tell mount ids")
