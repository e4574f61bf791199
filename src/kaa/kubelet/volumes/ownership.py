"""Whose a volume is: what a pod's ``fsGroup`` changes in it.

Source: pkg/volume/volume_linux.go (SetVolumeOwnership): group and group's rights, ``setgid`` on folders.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

WRITABLE, READ_ONLY, ENTER = 0o660, 0o440, 0o110


def grouped(mode: int, *, folder: bool, read_only: bool = False) -> int:
    """The mode of a file or folder that a group may use."""
    mode |= READ_ONLY if read_only else WRITABLE
    return mode | ENTER | stat.S_ISGID if folder else mode


def give_to_group(volume: Path, group: int, *, on_root_mismatch: bool = False, read_only: bool = False) -> None:
    """Hand a whole volume to a group. Links are given, never followed.

    Args: on_root_mismatch: leave it all as it is when its root is the group's already (``fsGroupChangePolicy``).
    """
    if on_root_mismatch and _is_grouped(os.stat(volume), group, read_only):
        return
    for folder, folders, files in os.walk(volume):
        for name in (*folders, *files):
            _give(os.path.join(folder, name), group, read_only)
    _give(str(volume), group, read_only)  # the root last: it stands for the whole having been done


def give_root(volume: Path, group: int, *, read_only: bool = False) -> None:
    """Hand only the volume's own folder to a group: it is empty, or what is in it has been seen to."""
    _give(str(volume), group, read_only)


def _is_grouped(facts: os.stat_result, group: int, read_only: bool) -> bool:
    wanted = grouped(0, folder=stat.S_ISDIR(facts.st_mode), read_only=read_only)
    return facts.st_gid == group and facts.st_mode & wanted == wanted


def _give(path: str, group: int, read_only: bool) -> None:
    try:
        os.lchown(path, -1, group)
        facts = os.lstat(path)
        if not stat.S_ISLNK(facts.st_mode):
            os.chmod(
                path, grouped(stat.S_IMODE(facts.st_mode), folder=stat.S_ISDIR(facts.st_mode), read_only=read_only)
            )
    except FileNotFoundError:  # somebody who uses the volume took it away meanwhile
        return
