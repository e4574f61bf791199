"""Files that must not go wrong: state written whole or not at all, and trees removed without leaving them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .. import files


def write_atomic(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace ``path`` in one step. A crash of the process leaves the old or the new content, never a mixture."""
    part = path.with_name(f".{path.name}.part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
    os.replace(part, path)


def remove_tree(path: Path) -> None:
    """Remove a tree of the runtime's own; what is gone is fine. Raises as ``runtime.files.remove_tree``."""
    files.remove_tree(path, root=path.parent)


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
