"""hostPath: a path of the node, checked or made as its ``type`` says. Source: pkg/volume/hostpath."""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from kaa.api.types.core_v1 import HostPathVolumeSource

from .payload import PayloadError

#: {type: (what the path must be, its name in the refusal)}
_KINDS: Mapping[str, tuple[Callable[[int], bool], str]] = {
    "Directory": (stat.S_ISDIR, "directory"),
    "DirectoryOrCreate": (stat.S_ISDIR, "directory"),
    "File": (stat.S_ISREG, "file"),
    "FileOrCreate": (stat.S_ISREG, "file"),
    "Socket": (stat.S_ISSOCK, "socket file"),
    "CharDevice": (stat.S_ISCHR, "character device"),
    "BlockDevice": (stat.S_ISBLK, "block device"),
}


def prepare(source: HostPathVolumeSource) -> Path:
    """The path, there and of the right kind. Raises PayloadError."""
    path, kind = Path(source.path), source.type or ""
    try:
        if kind == "DirectoryOrCreate" and not path.exists():
            path.mkdir(mode=0o755, parents=True)
        elif kind == "FileOrCreate" and not path.exists():
            path.touch(mode=0o644)
    except OSError as err:
        verb = "mkdir" if kind == "DirectoryOrCreate" else "open"
        raise PayloadError(f"{verb} {err.filename or path}: {(err.strerror or '').lower()}") from err
    if kind:
        _check(path, kind)
    return path


def _check(path: Path, kind: str) -> None:
    if kind not in _KINDS:
        raise PayloadError(f"{kind} is an invalid volume type")
    is_kind, word = _KINDS[kind]
    try:
        fits = is_kind(path.stat().st_mode)
    except OSError:
        fits = False
    if not fits:
        raise PayloadError(f"hostPath type check failed: {path} is not a {word}")
