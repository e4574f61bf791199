"""The kernel calls that Python 3.11 lacks: mounts, namespaces, and a thread of one's own to change them in.

Namespaces, the working folder and the root belong to a thread, not to the process. ``in_own_thread`` therefore runs a
function in a thread that dies with it, so that nothing leaks into the event loop or into a pool.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_PRIVATE, MS_SHARED = 4096, 1 << 18, 1 << 20
MNT_DETACH = 2
CLONE_FS = 0x200
CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = 0x4000000, 0x8000000, 0x20000000, 0x40000000
CLONE_NEWUSER = 0x10000000
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # the same number on every machine
_OPEN_TREE_CLONE, _AT_RECURSIVE, _AT_EMPTY_PATH = 1, 0x8000, 0x1000
_MOVE_MOUNT_F_EMPTY_PATH, _MOUNT_ATTR_IDMAP, _AT_FDCWD = 4, 0x100000, -100
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, *names: str) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), *names[:1])


def _text(value: str) -> bytes | None:
    return os.fsencode(value) if value else None


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2). Raises OSError."""
    _check(
        _libc.mount(
            _text(source), os.fsencode(target), _text(fstype), ctypes.c_ulong(flags), data.encode() if data else None
        ),
        target,
    )


def keep_in_memory(folder: Path) -> None:
    """Put a tmpfs on a folder that holds nothing yet: what need not outlive the machine should not cost a disk's inodes."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o711)
    if not os.path.ismount(folder) and not any(folder.iterdir()):
        mount("kaa", str(folder), "tmpfs", MS_NOSUID | MS_NODEV, "mode=0711")


def unmount(target: str, *, lazy: bool = True) -> bool:
    """Take a mount off; False when nothing was mounted there."""
    try:
        _check(_libc.umount2(os.fsencode(target), MNT_DETACH if lazy else 0), target)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as err:
        if err.errno == 22:  # EINVAL: not a mount point
            return False
        raise
    return True


class _MountAttributes(ctypes.Structure):
    _fields_ = [  # the shape that ctypes wants
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("user_namespace", ctypes.c_uint64),
    ]


def mount_idmapped(source: str, target: str, user_namespace: int) -> None:
    """Show ``source`` at ``target`` as well, its owners as the user namespace (a descriptor) counts them. Raises OSError.

    What is mounted below ``source`` comes along as it is.
    """
    flags = _OPEN_TREE_CLONE | _AT_RECURSIVE | os.O_CLOEXEC
    tree = _libc.syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(source), flags)
    _check(-1 if tree < 0 else 0, source)
    try:
        wanted = _MountAttributes(_MOUNT_ATTR_IDMAP, 0, MS_PRIVATE, user_namespace)
        size = ctypes.sizeof(wanted)
        _check(_libc.syscall(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, ctypes.byref(wanted), size), source)
        flags = _MOVE_MOUNT_F_EMPTY_PATH
        _check(_libc.syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), flags), target)
    finally:
        os.close(tree)


def unshare(flags: int) -> None:
    """Give the calling thread namespaces of its own. Call it inside ``in_own_thread`` only."""
    _check(_libc.unshare(flags))


def setns(fd: int, kind: int) -> None:
    """Move the calling thread into a namespace. Call it inside ``in_own_thread`` only."""
    _check(_libc.setns(fd, kind))


def set_thread_user(uid: int) -> None:
    """Change the effective user of the calling thread alone, which libc would change for all. Raises OSError."""
    number = {"x86_64": 117, "aarch64": 147}[os.uname().machine]  # setresuid
    _check(_libc.syscall(number, -1, uid, -1))


def loopback_up() -> None:
    """Bring ``lo`` up in the calling thread's network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        (flags,) = struct.unpack("16xh14x", fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16sh14x", b"lo", 0)))
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def thread_namespace(kind: str) -> str:
    """The path of the calling thread's namespace: ``net``, ``ipc``, ``uts``."""
    return f"/proc/self/task/{threading.get_native_id()}/ns/{kind}"


async def in_own_thread(function: Callable[[], T]) -> T:
    """Run ``function`` in a fresh thread which ends with it; its result or exception comes back here."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # None only where T is None

    def body() -> None:
        try:
            result = function()
        except BaseException as err:
            loop.call_soon_threadsafe(settle, None, err)
        else:
            loop.call_soon_threadsafe(settle, result, None)

    threading.Thread(target=body, name="kaa-runtime-own", daemon=True).start()
    return await asyncio.shield(done)


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 when it is gone or a zombie. Tells apart reused pids."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


@cache
def boot_id() -> str:
    """The kernel's name for this boot: it lasts as long as any process does."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
