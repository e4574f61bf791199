"""Blocking work off the event loop: threads for short things, pidfds for waiting on processes."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from ..base import RuntimeFailure

T = TypeVar("T")
_THREADS = 16
COMMAND_TIMEOUT_S = 120.0
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LEVEL = re.compile(r"^[A-Z]{4}\[\d+\] ")  #: logrus on a terminal


class Threads:
    """A bounded pool of the runtime's own, so that a slow disk does not starve others of the default one."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, "kaa-runtime")

    async def run(self, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


async def to_its_end(work: Coroutine[Any, Any, T], name: str) -> T:
    """Finish ``work`` even when the caller is cancelled, who then learns of it once all is done.

    What threads and processes do cannot be called back: whoever tidied up before they are through would miss what they
    make afterwards. ``work`` must end by itself.
    """
    task = asyncio.get_running_loop().create_task(work, name=name)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.wait((task,))
            except asyncio.CancelledError:
                continue  # asked again: the first time counts
        if not task.cancelled():
            task.exception()  # nobody is left to hear of it
        raise


def run_command(command: Sequence[str], timeout_s: float = COMMAND_TIMEOUT_S) -> bytes:
    """Run a command to its end; its output. Blocks. Raises RuntimeFailure with the last line that it complained with."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, stdin=subprocess.DEVNULL, check=False)
    except (OSError, subprocess.TimeoutExpired) as err:
        raise RuntimeFailure(f"{command[0]}: {err}") from err
    if done.returncode:
        raise RuntimeFailure(complaint(done.stderr) or f"{command[0]} exited with {done.returncode}")
    return done.stdout


def complaint(stderr: bytes) -> str:
    """The message in what runc or crun wrote: its last line, without log decoration."""
    lines = [line for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    if not lines:
        return ""
    last = _LEVEL.sub("", _COLOUR.sub("", lines[-1])).strip()
    if 'msg="' in last:
        last = last.split('msg="', 1)[1].rstrip('"').replace('\\"', '"')
    return last


class ProcessWatch:
    """Calls back once, in the event loop, when a process (ours or not) has ended."""

    def __init__(self, pid: int, ended: Callable[[], None]) -> None:
        """Raises ProcessLookupError when it is gone already."""
        self._loop, self._ended = asyncio.get_running_loop(), ended
        self._fd = os.pidfd_open(pid)
        self._loop.add_reader(self._fd, self._fire)

    def _fire(self) -> None:
        self.close()
        self._ended()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to exactly this process; nothing happens when it is gone."""
        if self._fd >= 0:
            try:
                signal.pidfd_send_signal(self._fd, number)
            except ProcessLookupError:
                return

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1


async def ended(pid: int) -> None:
    """Wait until a process has ended."""
    gone = asyncio.Event()
    try:
        watch = ProcessWatch(pid, gone.set)
    except ProcessLookupError:
        return
    try:
        await gone.wait()
    finally:
        watch.close()
