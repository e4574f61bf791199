"""The audit log: a line of JSON an event, in a file that is turned over by size and age.

Each line is one write to the file's end, so a crash loses nothing that was said to be written. A full file is renamed
``audit-2026-01-02T15-04-05.000.log`` and begun anew, as lumberjack does it for upstream.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

DAY_S = 24 * 3600.0
MEGABYTE = 1024 * 1024
_STAMP = "%Y-%m-%dT%H-%M-%S"


class LogFile:
    """``max_age_days``, ``max_backups`` and ``max_size_mb``: 0 keeps turned-over files for ever, keeps all of them, and
    never turns over. ``-`` is standard output."""

    def __init__(
        self,
        path: str,
        now: Callable[[], float],
        *,
        max_age_days: int = 0,
        max_backups: int = 0,
        max_size_mb: int = 100,
    ) -> None:
        self._now = now
        self._age_s, self._backups, self._limit = max_age_days * DAY_S, max_backups, max_size_mb * MEGABYTE
        self._path = None if path == "-" else Path(path)
        self._file, self._size = self._open()

    def _open(self) -> tuple[int, int]:
        if self._path is None:
            return sys.stdout.fileno(), 0
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return file, os.fstat(file).st_size

    def write(self, event: bytes) -> None:
        """Raises OSError."""
        line = event + b"\n"
        if self._path is not None and self._limit and self._size and self._size + len(line) > self._limit:
            self._turn_over(self._path)
        self._size += len(line)
        while line:  # a write may be cut short, by a full disk or a signal
            line = line[os.write(self._file, line) :]

    def _turn_over(self, path: Path) -> None:
        os.close(self._file)
        path.rename(self._backup_name(path))
        self._file, self._size = self._open()
        self._remove_old(path)

    def _backup_name(self, path: Path) -> Path:
        now = self._now()
        stamp = f"{datetime.fromtimestamp(now, UTC).strftime(_STAMP)}.{int(now * 1000) % 1000:03d}"
        name = path.with_name(f"{path.stem}-{stamp}{path.suffix}")
        count = 0
        while name.exists():
            count += 1
            name = path.with_name(f"{path.stem}-{stamp}.{count}{path.suffix}")
        return name

    def _remove_old(self, path: Path) -> None:
        backups = sorted(path.parent.glob(f"{path.stem}-*{path.suffix}"), reverse=True)
        for n, backup in enumerate(backups):
            too_many = self._backups and n >= self._backups
            too_old = self._age_s and self._now() - self._moment(backup) > self._age_s
            if too_many or too_old:
                backup.unlink(missing_ok=True)

    def _moment(self, backup: Path) -> float:
        stamp = backup.stem[-23:]
        try:
            return datetime.strptime(stamp.partition(".")[0], _STAMP).replace(tzinfo=UTC).timestamp()
        except ValueError:
            return self._now()  # not one of ours: left alone

    def close(self) -> None:
        if self._path is not None:
            os.close(self._file)
