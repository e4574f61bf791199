"""Bytes to and from containers: exec, attach, port-forward.

All of them read straight from file descriptors when the reader asks, so a slow reader slows the writer down and nothing
is buffered here. An exec is one process of the OCI runtime (``execs``); attach is conmon's packet socket; port-forward a socket
made inside the sandbox's network namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import struct
import subprocess
import termios
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Literal

from ..base import RuntimeFailure
from . import conmon
from .engines import as_runc_says
from .linux import CLONE_NEWNET, in_own_thread, setns
from .work import complaint, ended

Channel = Literal["stdout", "stderr"]
_CHUNK = 1 << 16
_PACKET = 8192  # what conmon reads at once
_CONNECT_TIMEOUT_S = 10.0
_DRAIN_S = 0.5
_KILL_TRIES = 3


class _Reader:
    """Waits for the first of some descriptors; ``stop`` ends the wait."""

    def __init__(self) -> None:
        self._waiter: asyncio.Future[int] | None = None

    async def readable(self, fds: Mapping[int, Channel]) -> int:
        """The descriptor that can be read; -1 once stopped."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[int] = loop.create_future()
        self._waiter = waiter

        def ready(fd: int) -> None:
            if not waiter.done():
                waiter.set_result(fd)

        for fd in fds:
            loop.add_reader(fd, ready, fd)
        try:
            return await waiter
        finally:
            for fd in fds:
                loop.remove_reader(fd)

    def stop(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(-1)


async def _write_all(fd: int, data: bytes, write: Callable[[int, memoryview], int]) -> None:
    """Write everything, waiting while the other side is slow. A side that has gone swallows the rest."""
    loop, view = asyncio.get_running_loop(), memoryview(data)
    while view:
        try:
            view = view[write(fd, view[:_PACKET]) :]
        except BlockingIOError:
            waiter: asyncio.Future[None] = loop.create_future()
            loop.add_writer(fd, lambda w=waiter: w.done() or w.set_result(None))  # type: ignore[misc]  # a late second call
            try:
                await waiter
            finally:
                loop.remove_writer(fd)
        except (BrokenPipeError, ConnectionResetError, OSError):
            return


class ExecStreams:
    """A running ``exec``."""

    def __init__(
        self, process: subprocess.Popen[bytes], pid_file: Path, outputs: dict[int, Channel], stdin: int
    ) -> None:
        self.process, self.pid_file, self._outputs, self._stdin = process, pid_file, outputs, stdin
        self.program = ""  #: that is executed
        self._all = {*outputs, *([stdin] if stdin >= 0 else [])}
        self._reader, self._tail, self._reaped = _Reader(), b"", False
        for fd in self._all:
            os.set_blocking(fd, False)

    def give_to(self, user: int) -> None:
        """Let the pipes belong to a user of the host: our ends are the same files as the command's."""
        for fd in self._all:
            os.fchown(fd, user, user)

    async def write(self, data: bytes) -> None:
        if self._stdin >= 0:
            await _write_all(self._stdin, data, os.write)

    async def close_stdin(self) -> None:
        if self._stdin < 0:
            return
        if self._stdin in self._outputs:  # a terminal: end of input is a character
            await self.write(b"\x04")
        else:
            self._drop(self._stdin)
        self._stdin = -1

    async def resize(self, columns: int, rows: int) -> None:
        for fd in self._outputs:
            with contextlib.suppress(OSError):
                fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if not self._reaped:
            self.process.send_signal(signal.SIGWINCH)

    async def output(self) -> AsyncIterator[tuple[Channel, bytes]]:
        while self._outputs:
            fd = await self._reader.readable(self._outputs)
            if fd < 0:
                return
            try:
                data = os.read(fd, _CHUNK)
            except BlockingIOError:
                continue
            except OSError:  # EIO: a terminal whose other side is gone
                data = b""
            channel = self._outputs[fd]
            if not data:
                del self._outputs[fd]
                if fd != self._stdin:
                    self._drop(fd)
                continue
            if channel == "stderr" or not self._tail:
                self._tail = (self._tail + data)[-4096:]
            yield channel, data

    async def wait(self) -> int:
        await ended(self.process.pid)
        code = self.process.wait()
        self._reaped = True
        started = self.pid_file.exists() and self.pid_file.read_text().strip()
        with contextlib.suppress(FileNotFoundError):
            self.pid_file.unlink()
        if code and not started and not self._killed:
            raise RuntimeFailure(as_runc_says(complaint(self._tail), self.program) or "exec failed")
        return 128 - code if code < 0 else code

    _killed = False

    async def _kill(self) -> None:
        """End the process inside; the one that waits for it then collects it and ends, or is ended as well."""
        if self._reaped or self.process.poll() is not None:
            return
        self._killed = True
        try:
            for _ in range(_KILL_TRIES):
                if not self._kill_inside():
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_DRAIN_S):
                        await ended(self.process.pid)
                        return
        finally:
            self.process.kill()

    def _kill_inside(self) -> bool:
        """False when there is nothing inside, nor will be once the OCI runtime is killed."""
        try:
            os.kill(int(self.pid_file.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            return True
        except (FileNotFoundError, ValueError):  # it is only about to begin
            return kill_begun(self.process.pid)
        return True

    async def close(self) -> None:
        await self._kill()
        self._reader.stop()
        for fd in list(self._all):
            self._drop(fd)
        self._outputs.clear()
        if not self._reaped:
            with contextlib.suppress(RuntimeFailure):
                await self.wait()

    def _drop(self, fd: int) -> None:
        if fd in self._all:
            self._all.discard(fd)
            os.close(fd)


def kill_begun(pid: int) -> bool:
    """Kill what an OCI runtime has forked and not told us of yet; whether there was something.

    It is stopped meanwhile, so that it forks no more. Killing the runtime alone would not do: what it has set going by then
    goes on.
    """
    known: set[int] = set()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        while found := _descendants(pid) - known:
            known |= found
            for child in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        if known:
            os.kill(pid, signal.SIGCONT)
    return bool(known)


def _descendants(pid: int) -> set[int]:
    """What a process has forked, and what that has, as /proc has it now."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int(Path(entry.path, "stat").read_text().rsplit(")", 1)[1].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            found.add(child)
            waiting.append(child)
    return found


class SocketStreams:
    """A connected socket: a port inside a sandbox, or conmon's attach socket (packets, the channel as first byte)."""

    def __init__(self, sock: socket.socket, *, stdin: bool = True, bundle: Path | None = None) -> None:
        sock.setblocking(False)
        self._socket, self._stdin, self._bundle = sock, stdin, bundle
        self._reader, self._ended, self._sending_done = _Reader(), asyncio.Event(), False

    async def write(self, data: bytes) -> None:
        if self._stdin and not self._sending_done and self._socket.fileno() >= 0:
            await _write_all(self._socket.fileno(), data, os.write)

    async def close_stdin(self) -> None:
        if self._stdin and not self._sending_done and self._socket.fileno() >= 0:
            self._sending_done = True
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    async def resize(self, columns: int, rows: int) -> None:
        if self._bundle:
            conmon.control(self._bundle, conmon.RESIZE, rows, columns)

    async def output(self) -> AsyncIterator[tuple[Channel, bytes]]:
        try:
            while self._socket.fileno() >= 0:
                if await self._reader.readable({self._socket.fileno(): "stdout"}) < 0:
                    return
                try:
                    data = self._socket.recv(_CHUNK)
                except BlockingIOError:
                    continue
                except ConnectionError:
                    return
                if not data:
                    return
                if self._bundle is None:
                    yield "stdout", data
                elif len(data) > 1:
                    yield ("stderr" if data[0] == 3 else "stdout"), data[1:]
        finally:
            self._ended.set()

    async def wait(self) -> int:
        await self._ended.wait()
        return 0

    async def close(self) -> None:
        self._reader.stop()
        self._socket.close()
        self._ended.set()


async def attach_streams(bundle: Path, *, stdin: bool) -> SocketStreams:
    """Connect to a container's conmon. Raises RuntimeFailure when it is gone."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    folder = os.open(bundle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)  # the path may be longer than a socket's may be
    try:
        sock.connect(f"/proc/self/fd/{folder}/attach")
    except OSError as err:
        sock.close()
        raise RuntimeFailure(f"cannot attach: {err.strerror}") from err
    finally:
        os.close(folder)
    return SocketStreams(sock, stdin=stdin, bundle=bundle)


async def forward_streams(netns: Path | None, port: int) -> SocketStreams:
    """Connect to a port on the sandbox's localhost, IPv4 first. Raises RuntimeFailure."""

    def connect() -> socket.socket:
        if netns is not None:
            fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
            try:
                setns(fd, CLONE_NEWNET)
            finally:
                os.close(fd)
        refusals = []
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.settimeout(_CONNECT_TIMEOUT_S)
            try:
                sock.connect((address, port))
                return sock
            except OSError as err:
                sock.close()
                refusals.append(f"{address}: {err}")
        raise RuntimeFailure(f"failed to connect to localhost:{port} inside the sandbox: {', '.join(refusals)}")

    return SocketStreams(await in_own_thread(connect))
