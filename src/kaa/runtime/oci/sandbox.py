"""A sandbox's namespaces, held without a process: the kernel keeps a namespace for as long as its file is mounted.

A thread takes new network, ipc and uts namespaces, sets them up (``lo``, hostname, sysctls), mounts its own
``/proc/self/task/…/ns/*`` over empty files, and ends. That costs 1 ms and no memory, where a pause container costs a
process and 50 ms. Only a shared pid namespace needs a process, since it dies with its first one: that is ``pause``, a
program of a few bytes made here, which tells the kernel to reap for it (SIGCHLD is ignored) and sleeps without end. It runs in an empty root without rights, as others in its namespace can see it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import signal
import socket
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

from ..base import RuntimeFailure, SandboxConfig
from . import elf, users
from .files import remove_tree
from .linux import (
    CLONE_FS,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    loopback_up,
    mount,
    start_time,
    thread_namespace,
    unmount,
    unshare,
)

_NOBODY = 65535
_SHM_BYTES = 64 << 20
#: {machine: (ELF machine number, code)}: ``rt_sigaction(SIGCHLD, {SIG_IGN}, NULL, 8); for (;;) pause();``. The struct with
#: SIG_IGN stands behind the code, 8-aligned, and is addressed relative to it.
_SIG_IGN = struct.pack("<4Q", 1, 0, 0, 0)
_CODE = {
    "x86_64": (
        62,
        bytes.fromhex(
            "b80d000000"  # mov eax, 13 (rt_sigaction)
            "bf11000000"  # mov edi, 17 (SIGCHLD)
            "488d3517000000"  # lea rsi, [rip + 23] (the struct: 36 bytes of code, aligned to 40)
            "31d2"  # xor edx, edx
            "41ba08000000"  # mov r10d, 8
            "0f05"  # syscall
            "b822000000"  # again: mov eax, 34 (pause)
            "0f05"  # syscall
            "ebf7"  # jmp again
        ),
    ),
    "aarch64": (
        183,
        struct.pack(
            "<14I",
            0xD28010C8,  # mov x8, 134 (rt_sigaction)
            0xD2800220,  # mov x0, 17 (SIGCHLD)
            0x10000181,  # adr x1, +48 (the struct, behind the code)
            0xD2800002,  # mov x2, 0
            0xD2800103,  # mov x3, 8
            0xD4000001,  # svc 0
            0xD2800000,  # again: mov x0, 0
            0xD2800001,  # mov x1, 0
            0xD2800002,  # mov x2, 0
            0xD2800003,  # mov x3, 0
            0xD2800928,  # mov x8, 73 (ppoll)
            0xD4000001,  # svc 0
            0x17FFFFFA,  # b again
            0xD503201F,  # nop, for the alignment
        ),
    ),
}


def wanted_namespaces(config: SandboxConfig) -> dict[str, int]:
    """{nsfs name: CLONE_NEW flag} of what the sandbox holds by mounts. The host's network brings the host's name."""
    wanted: dict[str, int] = {}
    if config.namespaces.network != "node":
        wanted |= {"net": CLONE_NEWNET, "uts": CLONE_NEWUTS}
    if config.namespaces.ipc != "node":
        wanted["ipc"] = CLONE_NEWIPC
    return {"user": CLONE_NEWUSER, **wanted} if config.namespaces.users else wanted


def make_namespaces(folder: Path, config: SandboxConfig) -> None:
    """Make and hold the namespaces below ``folder``, with /dev/shm. Call it in a thread of its own."""
    wanted = wanted_namespaces(config)
    if config.namespaces.users:
        _make_below_user_namespace(folder, config, wanted)
        return
    if wanted:
        flags = 0
        for flag in wanted.values():
            flags |= flag
        unshare(flags)
    if "net" in wanted:
        loopback_up()
        socket.sethostname(config.hostname or config.name or "localhost")
    write_sysctls(config.sysctls)
    for name in wanted:
        (folder / name).touch()
        mount(thread_namespace(name), str(folder / name), flags=MS_BIND)
    if "ipc" in wanted:
        _mount_shm(folder)


def _mount_shm(folder: Path, owner: int = 0) -> None:
    (folder / "shm").mkdir(exist_ok=True)
    options = f"mode=1777,size={_SHM_BYTES},uid={owner},gid={owner}"
    mount("shm", str(folder / "shm"), "tmpfs", MS_NOEXEC | MS_NOSUID | MS_NODEV, options)


def _make_below_user_namespace(folder: Path, config: SandboxConfig, wanted: Mapping[str, int]) -> None:
    root = users.outside(config.namespaces.users, 0)
    users.hold(folder, wanted, config.namespaces.users)
    users.enter(folder, [kind for kind in wanted if kind != "user"])
    if "net" in wanted:
        loopback_up()
        socket.sethostname(config.hostname or config.name or "localhost")
    of_network = {name: value for name, value in config.sysctls.items() if name.startswith("net")}
    write_sysctls(of_network)  # these ask for capabilities, the others for being the namespace's root
    if len(config.sysctls) > len(of_network):
        with users.acting_as(root):
            write_sysctls({name: value for name, value in config.sysctls.items() if name not in of_network})
    if "ipc" in wanted:
        _mount_shm(folder, root)


def write_sysctls(sysctls: Mapping[str, str]) -> None:
    """Set the calling thread's namespaced sysctls. Raises RuntimeFailure naming the one that is refused."""
    for name, value in sysctls.items():
        path = name if "/" in name else name.replace(".", "/")
        if ".." in path.split("/"):
            raise RuntimeFailure(f"invalid sysctl {name!r}")
        try:
            with open(f"/proc/sys/{path}", "w") as file:
                file.write(value)
        except OSError as err:
            raise RuntimeFailure(f"cannot set sysctl {name}={value}: {err.strerror}") from err


def start_pause(folder: Path, config: SandboxConfig) -> int:
    """Start the first process of a shared pid namespace; its pid. Call it in a thread of its own.

    The net, ipc and uts namespaces stay the host's: containers take those from the mounts.
    """
    jail = folder / "pause"
    jail.mkdir(exist_ok=True)
    program = jail / "pause"
    program.write_bytes(pause_program())
    program.chmod(0o555)
    if config.namespaces.users:
        return users.start_pause(folder, jail, _NOBODY)
    with open(os.devnull, "r+b") as null:
        unshare(CLONE_FS | CLONE_NEWPID)
        os.chroot(jail)
        os.chdir("/")
        process = subprocess.Popen(
            ["/pause"],
            stdin=null,
            stdout=null,
            stderr=null,
            env={},
            start_new_session=True,
            user=_NOBODY,
            group=_NOBODY,
            extra_groups=[],
        )
    process.returncode = 0  # it is not waited for here: it outlives this process
    return process.pid


def pause_program(machine: str = "") -> bytes:
    """A static ELF program that sleeps for ever. Raises RuntimeFailure on a machine whose code is not known here."""
    known = _CODE.get(machine or platform.machine())
    if known is None:
        raise RuntimeFailure(f"a shared pid namespace is not supported on {machine or platform.machine()}")
    number, text = known
    code = text + bytes(-len(text) % 8) + _SIG_IGN
    return elf.program(number, code)


def kill_pause(pid: int, started: int) -> None:
    """End a pause process, and with it all of its pid namespace. One that is gone is collected, if it was our child."""
    alive = start_time(pid) == started
    if alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0 if alive else os.WNOHANG)


def held(folder: Path, config: SandboxConfig) -> bool:
    """Whether the namespaces are still there: a restart of the machine takes the mounts away."""
    try:
        here = os.stat(folder).st_dev
        return all(os.stat(folder / name).st_dev != here for name in wanted_namespaces(config))
    except FileNotFoundError:
        return False


def drop_namespaces(folder: Path) -> None:
    """Let go of the namespaces and remove the folder."""
    for name in ("shm", "net", "ipc", "uts", "user"):
        while unmount(str(folder / name)):
            pass
    try:
        remove_tree(folder)
    except OSError as err:
        if err.errno != errno.EBUSY:
            raise
        raise RuntimeFailure(f"sandbox folder {folder} is still in use: {err}") from err
