"""Containers under conmon: it holds their output, writes their log and notes how they ended, while we may come and go.

Per container a bundle folder holds ``config.json`` and conmon's files: ``pid`` and ``conmon.pid``, ``exit/<id>`` with the
exit code, ``oom`` once the kernel killed something, ``attach`` (a packet socket: stdout and stderr by a first byte, stdin
back), ``ctl`` (a fifo: ``1 rows columns`` resizes, ``2 0 0`` reopens the log).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ..base import RuntimeFailure
from .engines import Engine, as_runc_says
from .files import remove_tree
from .work import complaint, run_command

RESIZE, REOPEN_LOG = 1, 2
_START_TIMEOUT_S = 60.0
_FIFO_TIMEOUT_MS = 2000
_KILL_TIMEOUT_S = 10.0
_PATIENCE_S = 3


@dataclass(frozen=True, slots=True)
class Launch:
    """What conmon is told of one container."""

    container_id: str
    bundle: Path
    log_path: str = ""
    tty: bool = False
    stdin: bool = False
    stdin_once: bool = False


@dataclass(frozen=True, slots=True)
class Launched:
    pid: int
    conmon_pid: int


def conmon_command(engine: Engine, launch: Launch) -> list[str]:
    """The command line. ``--full-attach`` keeps the attach socket in the bundle and needs no folder of conmon's own."""
    bundle = str(launch.bundle)
    words = [
        engine.conmon,
        "--api-version",
        "1",
        "--cid",
        launch.container_id,
        "--cuuid",
        launch.container_id,
        "--name",
        launch.container_id,
        "--runtime",
        engine.binary,
        "--runtime-arg=--root=" + str(engine.state),
        "--bundle",
        bundle,
        "--container-pidfile",
        f"{bundle}/pid",
        "--conmon-pidfile",
        f"{bundle}/conmon.pid",
        "--exit-dir",
        f"{bundle}/exit",
        "--log-level",
        "error",
        "--full-attach",
        "--no-sync-log",
        "--log-path",
        f"k8s-file:{launch.log_path}" if launch.log_path else "none",
    ]
    if launch.tty:
        words.append("--terminal")
    if launch.stdin:
        words.append("--stdin")
        if not launch.stdin_once:
            words.append("--leave-stdin-open")
    return words


def launch(engine: Engine, what: Launch) -> Launched:
    """Create a container under a new conmon. Blocks. Raises RuntimeFailure with the OCI runtime's own words."""
    (what.bundle / "exit").mkdir(exist_ok=True)
    with ExitStack() as stack:
        sync, start_gate = _Pipe(stack), _Pipe(stack)
        environment = {
            "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            "_OCI_SYNCPIPE": str(sync.writer),
            "_OCI_STARTPIPE": str(start_gate.reader),
        }
        process = subprocess.Popen(
            conmon_command(engine, what),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[sync.writer, start_gate.reader],
            env=environment,
            cwd="/",
            start_new_session=True,
        )
        sync.close_writer()
        with process:  # conmon waits at the gate, then forks away: this one ends at once
            engine.shelter(process.pid)
            os.write(start_gate.writer, b"go")
            start_gate.close_writer()
            answer = _read_answer(sync.reader, what)
            assert process.stderr is not None
            noise = process.stderr.read() if not answer else b""
    pid, message = _outcome(answer, noise)
    if pid <= 0:
        args = json.loads((what.bundle / "config.json").read_bytes())["process"]["args"]
        raise RuntimeFailure(f"OCI runtime create failed: {as_runc_says(message, args[0])}")
    return Launched(pid, int((what.bundle / "conmon.pid").read_text()))


class _Pipe:
    """Both ends, closed with the stack unless they were closed before."""

    def __init__(self, stack: ExitStack) -> None:
        self.reader, self.writer = os.pipe()
        stack.callback(os.close, self.reader)
        stack.callback(self.close_writer)

    def close_writer(self) -> None:
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1


def _read_answer(fd: int, what: Launch) -> bytes:
    """conmon's one line of JSON; empty when it died without a word, or has nothing more to wait for.

    It says nothing when the OCI runtime was killed once the container's first process was there: that holds the pipe open on
    which conmon waits for an excuse.
    """
    parts, idle = [], 0
    deadline = time.monotonic() + _START_TIMEOUT_S  # a thread's wait on the kernel, not the cluster's time
    while time.monotonic() < deadline and idle < _PATIENCE_S:
        if not select.select([fd], [], [], 1.0)[0]:
            idle = 0 if _is_creating(what) else idle + 1
            continue
        data = os.read(fd, 65536)
        parts.append(data)
        if not data or data.endswith(b"\n"):
            break
    return b"".join(parts)


def _is_creating(what: Launch) -> bool:
    """Whether the OCI runtime is still at work. What crun has forked to become the container bears crun's command line, too."""
    known, ours = what.bundle / "pid", os.readlink("/proc/self/ns/pid")
    made = known.read_text() if known.exists() else ""
    for pid, words in _at_work(what.container_id):
        with contextlib.suppress(OSError):
            if b"create" in words and str(pid) != made and os.readlink(f"/proc/{pid}/ns/pid") == ours:
                return True
    return False


def _outcome(answer: bytes, noise: bytes) -> tuple[int, str]:
    if not answer.strip():
        return -1, complaint(noise) or "conmon ended without an answer"
    found = json.loads(answer.splitlines()[0])
    message = complaint(str(found.get("message", "")).encode())
    return int(found.get("data", found.get("pid", -1))), message or "no reason was given"


def start(engine: Engine, container_id: str, *, hooks: bool = False) -> None:
    """Let a created container go. Raises RuntimeFailure.

    The container's init waits at its ``exec.fifo``: runc's until someone reads from it, crun's until someone writes to it.
    ``start`` does nothing else where there are no hooks, so we do it ourselves and save a process. Sources: runc
    libcontainer/container_linux.go ``exec``; crun libcrun/status.c ``libcrun_status_write_exec_fifo``.
    """
    fifo = engine.state / container_id / "exec.fifo"
    pass_on = {"runc": _read_fifo, "crun": _write_fifo}.get(engine.name)
    if not hooks and pass_on is not None and fifo.exists() and pass_on(fifo):
        fifo.unlink(missing_ok=True)
        return
    try:
        run_command(engine.command("start", container_id))
    except RuntimeFailure as err:
        raise RuntimeFailure(f"OCI runtime start failed: {err}") from err


def _read_fifo(path: Path) -> bool:
    """Whether init wrote its byte; False when it did not come in time (``runc start`` then finds out why)."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        waiting = select.poll()
        waiting.register(fd, select.POLLIN)
        return bool(waiting.poll(_FIFO_TIMEOUT_MS)) and bool(os.read(fd, 16))
    finally:
        os.close(fd)


def _write_fifo(path: Path) -> bool:
    """Whether init was there to read; False leaves it to ``crun start`` to find out why not."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.write(fd, b"x") == 1
    finally:
        os.close(fd)


def abandon(engine: Engine, container_id: str) -> None:
    """End a start half way: conmon, what it began to make the container, and what the OCI runtime knows of it.

    Raises RuntimeFailure. What runs in the container's cgroups is the caller's to kill, before and after.
    """
    while found := monitors(container_id):  # again, for a conmon that forks meanwhile
        sessions = {_session(pid) for pid in found} - {0, os.getsid(0)}
        for pid in _processes():
            if _session(pid) in sessions:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for pid in found:
            _wait_for_end(pid)
    delete(engine, container_id)


def monitors(container_id: str) -> list[int]:
    """Pids of conmon (there are two while it forks) and of the OCI runtime at work for a container: by their command lines."""
    return [pid for pid, _ in _at_work(container_id)]


def _at_work(container_id: str) -> Iterator[tuple[int, list[bytes]]]:
    """(pid, command line) of conmon and the OCI runtime while they make a container."""
    for pid in _processes():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if container_id.encode() in words and (b"--cid" in words or b"--bundle" in words):
            yield pid, words


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _session(pid: int) -> int:
    """The session that a process belongs to; 0 when it is gone."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def _wait_for_end(pid: int) -> None:
    """Wait until a killed process is gone. Blocks; raises RuntimeFailure for one that the kernel does not let go."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not select.select([fd], [], [], _KILL_TIMEOUT_S)[0]:
            raise RuntimeFailure(f"process {pid} does not die")
    finally:
        os.close(fd)


def started(engine: Engine, bundle: Path, container_id: str) -> Launched | None:
    """What a start came to whose end was not noted: the processes, or None when the container's command never ran.

    Only we let a created container go, so whoever asks while nobody starts it gets an answer that stays true.
    """
    try:
        pid = int((bundle / "pid").read_text())
        monitor = int((bundle / "conmon.pid").read_text())
    except (FileNotFoundError, ValueError):
        return None
    # After a restart of the machine the number is somebody else's.
    ours = _mentions(f"/proc/{pid}/cgroup", container_id)
    if (engine.state / container_id / "exec.fifo").exists() and not (ours and _runs_its_command(engine, pid)):
        return None
    return Launched(pid if ours else 0, monitor if _mentions(f"/proc/{monitor}/cmdline", container_id) else 0)


def _mentions(path: str, word: str) -> bool:
    try:
        return word in Path(path).read_bytes().decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False


def _runs_its_command(engine: Engine, pid: int) -> bool:
    """Whether a container's first process has become what it was made for. runc's own is called ``runc:[2:INIT]``; crun's is
    ``crun``, or a copy of it in memory, whose process may have any name."""
    try:
        name, program = Path(f"/proc/{pid}/comm").read_text(), os.readlink(f"/proc/{pid}/exe")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return not (name.startswith(("runc:[", engine.name)) or program.startswith(f"/memfd:{engine.name}"))


def forget(engine: Engine, container_id: str) -> None:
    """Drop the OCI runtime's record of a container that ended and whose cgroups are gone: nothing else is left of it."""
    remove_tree(engine.state / container_id)


def delete(engine: Engine, container_id: str) -> None:
    """Take the container from the OCI runtime with its cgroups; an unknown one is fine."""
    if not (engine.state / container_id).exists():
        return
    try:
        run_command(engine.command("delete", "--force", container_id))
    except RuntimeFailure as err:
        if "does not exist" not in str(err):
            raise
    remove_tree(engine.state / container_id)  # a state the OCI runtime itself could not read


def control(bundle: Path, kind: int, rows: int = 0, columns: int = 0) -> None:
    """Tell conmon something through its fifo. Raises RuntimeFailure when no conmon listens."""
    try:
        fd = os.open(bundle / "ctl", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as err:
        raise RuntimeFailure(f"the container's monitor does not answer: {err.strerror}") from err
    try:
        os.write(fd, f"{kind} {rows} {columns}\n".encode())
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class Exit:
    code: int
    at: float
    oom_killed: bool


def read_exit(bundle: Path, container_id: str) -> Exit | None:
    """How a container ended by conmon's word; None while there is none."""
    path = bundle / "exit" / container_id
    try:
        code, at = int(path.read_text()), path.stat().st_mtime
    except (FileNotFoundError, ValueError):
        return None
    return Exit(code, at, (bundle / "oom").exists())
