"""Files that change all at once: a reader sees the old set or the new one, never a mixture.

    volume/..2026_11_21_03_10_07.123456789/   the present set
    volume/..data -> ..2026_11_21_…           swapped by one rename
    volume/key    -> ..data/key               for the user

Source: pkg/volume/util/atomic_writer.go.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from kaa.api.clock import format_micro_time
from kaa.runtime.files import remove_tree

from . import ownership
from .payload import File

DATA = "..data"


def write(volume: Path, files: Mapping[str, File], now: float, *, group: int | None = None) -> bool:
    """Make a volume hold exactly ``files``; returns whether anything changed. ``group`` may read them, too (fsGroup)."""
    for path in files:
        _check(path)
    old = _current(volume)
    if old is not None and _same(old, files, group):
        return False
    fresh = volume / (".." + _stamp(now, volume))
    fresh.mkdir(mode=0o755)
    fresh.chmod(0o755)
    for path, file in files.items():
        _write(fresh, path, file)
    if group is not None:
        ownership.give_to_group(fresh, group, read_only=True)
        ownership.give_root(volume, group, read_only=True)
    link = volume / "..data_tmp"
    link.unlink(missing_ok=True)
    link.symlink_to(fresh.name)
    link.rename(volume / DATA)
    _link_names(volume, {PurePosixPath(path).parts[0] for path in files})
    if old is not None:
        remove_tree(old, root=volume)
    return True


def _check(path: str) -> None:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or parts[0].startswith(".."):
        raise ValueError(f"invalid path {path!r} in a volume")


def _stamp(now: float, volume: Path) -> str:
    base = format_micro_time(now).translate(str.maketrans("-T:", "___", "Z"))
    stamp, n = base, 0
    while (volume / f"..{stamp}").exists():
        n += 1
        stamp = f"{base}{n}"
    return stamp


def _current(volume: Path) -> Path | None:
    try:
        target = os.readlink(volume / DATA)
    except OSError:
        return None
    found = volume / target
    return found if "/" not in target and found.is_dir() else None


def _same(old: Path, files: Mapping[str, File], group: int | None) -> bool:
    held = {str(p.relative_to(old)) for p in old.rglob("*") if p.is_file()}
    if held != {str(PurePosixPath(path)) for path in files}:
        return False
    for path, file in files.items():
        facts = (old / path).stat()
        owners = facts.st_uid if file.owner is None else file.owner, facts.st_gid if group is None else group
        if (facts.st_uid, facts.st_gid) != owners or stat.S_IMODE(facts.st_mode) != _mode(file, group):
            return False
        if (old / path).read_bytes() != file.data:
            return False
    return True


def _mode(file: File, group: int | None) -> int:
    return file.mode if group is None else ownership.grouped(file.mode, folder=False, read_only=True)


def _write(folder: Path, path: str, file: File) -> None:
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(file.data)
    target.chmod(file.mode)
    if file.owner is not None:
        os.chown(target, file.owner, -1)


def _link_names(volume: Path, names: set[str]) -> None:
    for entry in list(volume.iterdir()):
        if entry.is_symlink() and not entry.name.startswith("..") and entry.name not in names:
            entry.unlink()
    for name in names:
        link = volume / name
        if not link.is_symlink():
            link.symlink_to(f"{DATA}/{name}")
