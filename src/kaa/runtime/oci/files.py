"""Files that must not go wrong: state written whole or not at all, and trees removed without leaving them."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def write_atomic(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace ``path`` in one step. A crash of the process leaves the old or the new content, never a mixture."""
    part = path.with_name(f".{path.name}.part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
    os.replace(part, path)


def remove_tree(path: Path) -> None:
    """Remove a folder and all in it; links are removed, not followed, and another file system is never entered.

    Raises OSError (EBUSY) when something is still mounted inside, so that a volume's data cannot be lost with a pod.
    A bind mount of the same file system is found by its mount point: the kernel refuses to remove that, and what is below
    it is protected by comparing mount ids. A path that is gone is fine.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        path.unlink()
        return
    try:
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if _mount_id(parent) != _mount_id(fd):
                raise OSError(errno.EBUSY, "refusing to remove a mount point", str(path))
        finally:
            os.close(parent)
        _empty(fd, _mount_id(fd), str(path))
    finally:
        os.close(fd)
    os.rmdir(path)


def _empty(folder: int, mount_id: int, name: str) -> None:
    with os.scandir(folder) as found:
        entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
    for entry, is_folder in entries:
        if not is_folder:
            os.unlink(entry, dir_fd=folder)
            continue
        child = os.open(entry, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            if _mount_id(child) != mount_id:
                raise OSError(errno.EBUSY, "refusing to remove across a mount", f"{name}/{entry}")
            _empty(child, mount_id, f"{name}/{entry}")
        finally:
            os.close(child)
        os.rmdir(entry, dir_fd=folder)


def _mount_id(fd: int) -> int:
    """The kernel's number of the mount that an open file lies on (fdinfo, Linux 3.15)."""
    with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
        for line in file:
            if line.startswith(b"mnt_id:"):
                return int(line[7:])
    raise OSError(errno.ENOSYS, "the kernel tells no mnt_id in fdinfo")


def tree_size(path: Path) -> tuple[int, int]:
    """(bytes on disk, inodes) of a tree; files that vanish meanwhile count nothing."""
    total, inodes, folders, seen = 0, 0, [str(path)], set()
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    try:
                        facts = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    if facts.st_nlink > 1 and not stat.S_ISDIR(facts.st_mode):
                        if facts.st_ino in seen:
                            continue
                        seen.add(facts.st_ino)
                    total += facts.st_blocks * 512
                    inodes += 1
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
        except (FileNotFoundError, NotADirectoryError):
            continue
    return total, inodes
