"""The background processes of a cluster: started detached, found again by their pid file, ended by their own id.

A pid file holds the pid and the process's start time, so that a number that the kernel has given to somebody else is
never mistaken for ours.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def start_time(pid: int) -> str:
    """The kernel's start time of a process, in clock ticks since boot; empty when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    after = text.rpartition(")")[2].split()  # the name in parentheses may hold anything
    return "" if after[0] in "ZX" else after[19]


def running_pid(pid_file: Path) -> int:
    """The pid of the process that a file names, 0 when it does not run."""
    try:
        pid, _, started = pid_file.read_text().strip().partition(" ")
    except FileNotFoundError:
        return 0
    return int(pid) if pid.isdigit() and started and start_time(int(pid)) == started else 0


class Gate:
    """What processes wait at, once they are loaded, until their starter has made ready: it opens when the block ends.

    It is a pipe that nobody writes to, given to them as standard input: its end is the word to go. It comes also when the
    starter dies.
    """

    def __enter__(self) -> Gate:
        self.end, self._held = os.pipe()
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self.end)
        os.close(self._held)


def pass_gate() -> None:
    """Wait until the starter has made ready."""
    while os.read(0, 1):
        pass


def spawn(
    arguments: Sequence[str],
    pid_file: Path,
    log_file: Path,
    environment: Mapping[str, str] | None = None,
    *,
    gate: Gate | None = None,
) -> int:
    """Start ``python -m kaa ARGUMENTS`` in its own session, with its output in a file; returns its pid."""
    pid_file.parent.mkdir(parents=True, exist_ok=True)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as output:
        process = subprocess.Popen(  # its own session: it outlives the terminal
            [sys.executable, "-m", "kaa", *arguments],
            stdin=subprocess.DEVNULL if gate is None else gate.end,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
            env={**os.environ, **(environment or {})},
        )
    pid_file.write_text(f"{process.pid} {start_time(process.pid)}\n")
    process.returncode = 0  # it is meant to outlive us: no warning that it still runs
    return process.pid


def stop(pid_file: Path, timeout_s: float = 10.0) -> bool:
    """End a process: TERM, then KILL. True if it ran."""
    pid = running_pid(pid_file)
    if not pid:
        pid_file.unlink(missing_ok=True)
        return False
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        pid_file.unlink(missing_ok=True)
        return False
    try:
        for sent in (signal.SIGTERM, signal.SIGKILL):
            try:
                signal.pidfd_send_signal(handle, sent)
            except ProcessLookupError:
                break
            if select.select([handle], [], [], timeout_s)[0]:
                break
    finally:
        os.close(handle)
    _reap(pid)
    pid_file.unlink(missing_ok=True)
    return True


def _reap(pid: int) -> None:
    """Collect it, if it was this process's own child."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def started_at(pid: int) -> float:
    """When a process began, in seconds since 1970; 0 when there is none."""
    ticks = start_time(pid) if pid else ""
    if not ticks:
        return 0.0
    boot = next(
        (float(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime ")),
        0.0,
    )
    return boot + int(ticks) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """The memory that a process holds; 0 when there is none."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
