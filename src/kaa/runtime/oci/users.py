"""User namespaces: a sandbox whose root is nobody on the host, and mounts that show it the owners it knows.

The idea: runc is given no more than a namespace to join and ordinary bind mounts. The namespace is made by a helper process
that ends when the namespace's file is mounted; the ids of volumes and layers are mapped by the kernel (idmapped mounts, Linux
6.3 for tmpfs), on copies of the mounts that last until runc has taken its own.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..base import IdMap, RuntimeFailure
from .linux import MS_BIND, mount, mount_idmapped, set_thread_user, setns, unmount

STAGED = "idmapped"  #: the folder of a bundle where mounts wait for runc
_UNSHARE = {"user": "--user", "net": "--net", "ipc": "--ipc", "uts": "--uts"}
_WAIT_S = 10.0


def outside(users: Sequence[IdMap], inside: int) -> int:
    """The host's number of a namespace's user or group. Raises RuntimeFailure for one that it does not have."""
    for one in users:
        if one.inside <= inside < one.inside + one.length:
            return one.outside + inside - one.inside
    raise RuntimeFailure(f"id {inside} is not mapped in the user namespace")


def hold(folder: Path, kinds: Mapping[str, int], users: Sequence[IdMap]) -> None:
    """Make namespaces below a new user namespace, and mount each at its name in ``folder``.

    A process of many threads cannot enter a user namespace, so ``unshare`` does; that ``cat`` echoes shows that it has.
    """
    words = ["unshare", *(_UNSHARE[kind] for kind in kinds), "cat"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as helper:
        assert helper.stdin
        assert helper.stdout
        assert helper.stderr
        try:
            with contextlib.suppress(BrokenPipeError):
                helper.stdin.write(b"x")
                helper.stdin.flush()
            if helper.stdout.read(1) != b"x":
                raise RuntimeFailure(f"no user namespace: {helper.stderr.read().decode(errors='replace').strip()}")
            lines = "".join(f"{one.inside} {one.outside} {one.length}\n" for one in users)
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{helper.pid}/{name}").write_text(lines)
            for kind in kinds:
                (folder / kind).touch()
                mount(f"/proc/{helper.pid}/ns/{kind}", str(folder / kind), flags=MS_BIND)
        finally:
            helper.kill()


def enter(folder: Path, kinds: Sequence[str]) -> None:
    """Move the calling thread into namespaces held in ``folder``. Call it in a thread of its own."""
    for kind in kinds:
        with opened(folder / kind) as descriptor:
            setns(descriptor, 0)


@contextlib.contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """Let the calling thread be another user of the host for a while: namespaced sysctls belong to their namespace's root."""
    set_thread_user(uid)
    try:
        yield
    finally:
        set_thread_user(0)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def map_mount(source: str, target: str, namespace: int) -> None:
    """An idmapped copy of a mount. Raises RuntimeFailure where the file system cannot have one."""
    try:
        mount_idmapped(source, target, namespace)
    except OSError as err:
        raise RuntimeFailure(
            f"failed to set MOUNT_ATTR_IDMAP on {source}: {(err.strerror or str(err)).lower()}"
            " (maybe the filesystem used doesn't support idmap mounts on this kernel?)"
        ) from err


def drop_staged(bundle: Path) -> None:
    """Let go of mounts that runc has taken, or that nobody will."""
    folder = bundle / STAGED
    if not folder.is_dir():
        return
    for place in folder.iterdir():
        while unmount(str(place)):
            pass
        place.rmdir() if place.is_dir() else place.unlink()
    folder.rmdir()


def give_stdio(pid: int, user: int) -> None:
    """Let a process's pipes belong to its user, who may then open them as /dev/stderr: runc cannot change owners here."""
    for number in range(3):
        path = f"/proc/{pid}/fd/{number}"
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if stat.S_ISFIFO(os.stat(path).st_mode):
                os.chown(path, user, user)


def reachable(folder: Path) -> bool:
    """Whether every user of the host may go into a folder, and so the users of a user namespace."""
    return all(os.stat(one).st_mode & 0o001 for one in (folder, *folder.parents))


def start_pause(folder: Path, jail: Path, user: int) -> int:
    """The first process of a shared pid namespace below the sandbox's user namespace; its pid."""
    words = [
        *("nsenter", f"--user={folder / 'user'}", "unshare", "--pid", "--fork", f"--root={jail}", "--wd=/"),
        *(f"--setuid={user}", f"--setgid={user}", "/pause"),
    ]
    null = subprocess.DEVNULL
    with subprocess.Popen(
        words, stdin=null, stdout=null, stderr=subprocess.PIPE, env=_PATH, start_new_session=True
    ) as go:
        try:
            return _child(go)
        except RuntimeFailure:
            for child in _children(go.pid):
                os.kill(child, signal.SIGKILL)
            raise
        finally:
            go.kill()


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


_PATH = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


def _child(parent: subprocess.Popen[bytes]) -> int:
    """The one child of a process, once it runs its own program."""
    end = time.monotonic() + _WAIT_S
    while time.monotonic() < end and parent.poll() is None:
        with contextlib.suppress(OSError):
            for child in _children(parent.pid):
                if os.readlink(f"/proc/{child}/exe").endswith("/pause"):
                    return child
        time.sleep(0.001)
    assert parent.stderr
    said = parent.stderr.read().decode(errors="replace").strip() if parent.poll() is not None else "it does not start"
    raise RuntimeFailure(f"no pid namespace on {platform.machine()}: {said}")
