"""Commands in containers that run: one ``exec`` of the OCI runtime each, with our pipes or our terminal.

runc takes the user, the capabilities and the rest of a command from its container, and copies between our terminal and the
container's. crun does neither: it is told the whole process, and sends us the container's terminal, so that there is nothing
to copy.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import secrets
import select
import socket
import subprocess
import tty as terminal
from collections.abc import Awaitable
from pathlib import Path

import msgspec

from ...api.clock import Clock
from ..base import ExecResult, RuntimeFailure
from .engines import Engine, as_runc_says
from .streams import Channel, ExecStreams
from .work import Threads, complaint

_MAX_SYNC_OUTPUT_BYTES = 16 << 20  # as containerd limits ExecSync
_DRAIN_S = 0.5
_TERMINAL_TIMEOUT_S = 30.0


def exec_folder(run_dir: Path) -> Path:
    """Where the OCI runtime writes the pids of what is executed, a file each, gone with its exec."""
    return run_dir / "execs"


async def exec_streams(
    engine: Engine,
    threads: Threads,
    bundle: Path,
    command: tuple[str, ...],
    *,
    stdin: bool,
    tty: bool,
    owner: int | None = None,
) -> ExecStreams:
    """Start a command in a running container. Raises RuntimeFailure when the OCI runtime cannot even be started.

    Args: bundle: the container's, which bears its id · owner: who may open its pipes by name (``/dev/stderr``), where the OCI
    runtime cannot see to it.
    """
    if not command:
        raise RuntimeFailure("no command given to exec")
    folder = exec_folder(engine.state.parent)
    pid_file = folder / secrets.token_hex(8)
    folder.mkdir(parents=True, exist_ok=True)
    options = ["--pid-file", str(pid_file), *(["--tty"] if tty else [])]

    def spawn() -> ExecStreams:
        if engine.name != "crun":
            words = engine.command("exec", *options, bundle.name, *command)
            return _spawn_on_terminal(words, pid_file) if tty else _spawn_on_pipes(words, pid_file, stdin)
        process = _described(bundle, command, tty=tty)
        try:
            options.extend(("--process", f"/proc/self/fd/{process}"))
            if tty:
                return _spawn_behind_console(engine, options, bundle.name, pid_file, process)
            return _spawn_on_pipes(engine.command("exec", *options, bundle.name), pid_file, stdin, process)
        finally:
            os.close(process)

    try:
        streams = await threads.run(spawn)
    except OSError as err:
        raise RuntimeFailure(f"{engine.binary}: {err}") from err
    streams.program = command[0]
    if owner is not None and not tty:
        streams.give_to(owner)
    return streams


def _described(bundle: Path, command: tuple[str, ...], *, tty: bool) -> int:
    """A file in memory with the whole process, for crun to read: the container's own but for its command."""
    process = msgspec.json.decode((bundle / "config.json").read_bytes())["process"]
    fd = os.memfd_create("process")
    os.write(fd, msgspec.json.encode({**process, "args": command, "terminal": tty}))
    return fd


def _spawn_on_pipes(words: list[str], pid_file: Path, stdin: bool, *inherited: int) -> ExecStreams:
    process = subprocess.Popen(
        words,
        pass_fds=inherited,
        stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        bufsize=0,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    outputs: dict[int, Channel] = {os.dup(process.stdout.fileno()): "stdout", os.dup(process.stderr.fileno()): "stderr"}
    entry = os.dup(process.stdin.fileno()) if process.stdin else -1
    for file in (process.stdin, process.stdout, process.stderr):
        if file:
            file.close()
    return ExecStreams(process, pid_file, outputs, entry)


def _spawn_on_terminal(words: list[str], pid_file: Path) -> ExecStreams:
    """The OCI runtime copies between our pty and the container's; SIGWINCH tells it to copy the size as well."""
    master, slave = pty.openpty()
    try:
        terminal.setraw(slave)
        process = subprocess.Popen(words, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    except BaseException:
        os.close(master)
        raise
    finally:
        os.close(slave)
    return ExecStreams(process, pid_file, {master: "stdout"}, master)


def _spawn_behind_console(
    engine: Engine, options: list[str], container_id: str, pid_file: Path, inherited: int
) -> ExecStreams:
    """The OCI runtime sends us the container's terminal over a socket, and is silent unless something goes wrong."""
    folder = os.open(pid_file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    door = pid_file.with_suffix(".socket")
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            path = f"/proc/{os.getpid()}/fd/{folder}/{door.name}"  # a socket's path may have 107 characters
            listener.bind(path)
            listener.listen(1)
            process = subprocess.Popen(
                engine.command("exec", *options, "--console-socket", path, container_id),
                pass_fds=(inherited,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            console = _received(listener, process.pid)
    finally:
        os.close(folder)
        door.unlink(missing_ok=True)
    assert process.stderr is not None
    outputs: dict[int, Channel] = {os.dup(process.stderr.fileno()): "stdout"}
    process.stderr.close()
    if console >= 0:
        outputs[console] = "stdout"
    return ExecStreams(process, pid_file, outputs, console)


def _received(listener: socket.socket, pid: int) -> int:
    """The descriptor that somebody sends; -1 when the process ends, or takes too long, without sending any."""
    process = os.pidfd_open(pid)
    try:
        ready, _, _ = select.select([listener.fileno(), process], [], [], _TERMINAL_TIMEOUT_S)
        if listener.fileno() not in ready:
            return -1
        connection, _ = listener.accept()
        with connection:
            _, found, _, _ = socket.recv_fds(connection, 1024, 1)
        return found[0] if found else -1
    finally:
        os.close(process)


async def exec_to_end(
    engine: Engine,
    threads: Threads,
    clock: Clock,
    bundle: Path,
    command: tuple[str, ...],
    timeout_s: float,
    owner: int | None = None,
) -> ExecResult:
    """Run a command and collect what it says, at most 16 MiB a stream. Raises TimeoutError."""
    streams = await exec_streams(engine, threads, bundle, command, stdin=False, tty=False, owner=owner)
    collected: dict[Channel, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}

    async def collect() -> None:
        async for channel, data in streams.output():
            room = _MAX_SYNC_OUTPUT_BYTES - len(collected[channel])
            collected[channel] += data[: max(0, room)]

    async def work() -> int:
        reading = asyncio.create_task(collect(), name="runtime/exec-output")
        try:
            code = await streams.wait()
            await asyncio.wait([reading], timeout=_DRAIN_S)  # a daemon it left behind may hold the pipes for ever
            return code
        except RuntimeFailure as err:
            await asyncio.wait([reading], timeout=_DRAIN_S)
            said = as_runc_says(complaint(bytes(collected["stderr"])), command[0])
            raise RuntimeFailure(said or str(err)) from err
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading

    try:
        code = await _within(work(), timeout_s, clock)
    finally:
        await streams.close()
    return ExecResult(code, bytes(collected["stdout"]), bytes(collected["stderr"]))


async def _within(work: Awaitable[int], timeout_s: float, clock: Clock) -> int:
    """Await ``work`` for so long by the injected clock. Raises TimeoutError."""
    task = asyncio.ensure_future(work)
    if timeout_s <= 0:
        return await task
    alarm = asyncio.create_task(clock.sleep(timeout_s), name="runtime/exec-timeout")
    try:
        await asyncio.wait([task, alarm], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise TimeoutError(f"command timed out after {timeout_s:g}s")
        return task.result()
    finally:
        alarm.cancel()
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
