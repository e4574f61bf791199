"""Removing trees of empty folders, which is what cgroups are: their files cannot be removed and need not be."""

from __future__ import annotations

import os
from pathlib import Path


def remove_folders(folder: str | Path) -> None:
    """Remove a folder and the folders below it; one that is gone is fine.

    The idea: try first. Most cgroups are leaves, and looking through the dozens of files in each costs far more than one
    refusal. What can be removed is, even when something beside it cannot.
    Raises: OSError: something holds it, as processes do a cgroup.
    """
    try:
        os.rmdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError:
        if not _removed_children(folder):
            raise
        os.rmdir(folder)


def _removed_children(folder: str | Path) -> bool:
    """Whether there were folders inside. Raises OSError for one that stays, after all have been tried."""
    with os.scandir(folder) as entries:
        children = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    refused: OSError | None = None
    for child in children:
        try:
            remove_folders(child)
        except OSError as err:
            refused = err
    if refused is not None:
        raise refused
    return bool(children)
