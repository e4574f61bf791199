"""Logs of a process that holds several components: one file a component, told apart by the module that speaks.

A line is ``2026-11-21T02:31:37.123456Z info     message  key=value``. Files turn over at 10 MB, three are kept.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import structlog

#: {module prefix: component}
COMPONENTS = {
    "kaa.apiserver": "kube-apiserver",
    "kaa.controllers": "kube-controller-manager",
    "kaa.scheduler": "kube-scheduler",
    "kaa.store": "etcd",
    "kaa.network.dns": "coredns",
    "kaa.network": "kube-proxy",
    "kaa.kubelet": "kubelet",
    "kaa.runtime": "kubelet",
}
SIZE_BYTES, KEPT = 10 << 20, 3


def component_of(module: str, default: str) -> str:
    """The component that a module belongs to; the longest prefix wins."""
    found = [prefix for prefix in COMPONENTS if module == prefix or module.startswith(prefix + ".")]
    return COMPONENTS[max(found, key=len)] if found else default


class _File:
    """One component's log; opened on its first line. On a full disk lines are lost, and counted: who logs must not end of it."""

    def __init__(self, path: Path) -> None:
        self._handler = RotatingFileHandler(path, maxBytes=SIZE_BYTES, backupCount=KEPT, delay=True, encoding="utf-8")
        self._lost = 0

    def write(self, line: str) -> None:
        try:
            self._write(f"{line}\n(before it {self._lost} lines were lost)" if self._lost else line)
            self._lost = 0
        except OSError:
            self._lost += 1
            self.close()

    def _write(self, line: str) -> None:
        handler = self._handler
        if handler.stream is None:  # delay=True: not open yet
            handler.stream = handler._open()
        if handler.stream.tell() > SIZE_BYTES:
            handler.doRollover()
        handler.stream.write(line + "\n")
        handler.stream.flush()

    def close(self) -> None:
        stream, self._handler.stream = self._handler.stream, None  # as delay=True begins
        with suppress(OSError):  # what could not be written is in its buffer still
            if stream is not None:
                stream.close()


class _Logger:
    """What structlog writes to: the file of the module's component, or standard error."""

    def __init__(self, file: _File | None) -> None:
        self._file = file

    def msg(self, line: str) -> None:
        if self._file is not None:
            self._file.write(line)
        else:
            print(line, file=sys.stderr, flush=True)

    debug = info = warning = warn = error = critical = exception = fatal = log = msg


class LogFiles:
    """The open files of this process."""

    def __init__(self, folder: Path | None, default: str) -> None:
        self._folder, self._default = folder, default
        self._files: dict[str, _File] = {}

    def __call__(self, *args: Any) -> _Logger:
        if self._folder is None:
            return _Logger(None)
        component = component_of(str(args[0]) if args else "", self._default)
        if component not in self._files:
            self._files[component] = _File(self._folder / f"{component}.log")
        return _Logger(self._files[component])


def _line(_: Any, method: str, event: Any) -> str:
    """One event as text."""
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    error = event.pop("exception", None)
    message = event.pop("event", "")
    rest = " ".join(f"{key}={_shown(value)}" for key, value in event.items())
    text = f"{moment} {method:<8} {message}" + (f"  {rest}" if rest else "")
    return f"{text}\n{error}" if error else text


def _shown(value: object) -> str:
    text = str(value)
    return repr(text) if not text or any(mark in text for mark in " \n\"'=") else text


def log_to(folder: Path | None, default: str, level: int = 20) -> None:
    """Send this process's logs to files in ``folder`` (None: standard error). ``level`` as in ``logging``."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    processors: list[Any] = [structlog.processors.format_exc_info, _line]
    structlog.configure(
        processors=processors,
        logger_factory=LogFiles(folder, default),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a file."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            size = file.tell()
            file.seek(max(0, size - 512 * max(lines, 1)))
            return file.read().decode("utf-8", "replace").splitlines()[-lines:]
    except FileNotFoundError:
        return []
