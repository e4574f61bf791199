"""Programs in memory that nobody can change any more.

A container's process could write to the OCI runtime that starts it, through ``/proc`` (CVE-2019-5736). So crun makes itself such
a copy each time, with a file, two mounts and a second start of itself, 2 ms in all; it does not when it is one already.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os

_EXEC = 0x10  # MFD_EXEC: Linux 6.3 wants to be told
_SEALS = 0xF  # of content, size up, size down, and of seals
_ADD_SEALS = 1033
#: {the content's hash: its open file}: one copy for as long as this process lives.
_MADE: dict[bytes, int] = {}


def sealed(content: bytes, name: str) -> str:
    """Keep a program in memory; its path, which is good while this process lives. Raises OSError where the kernel refuses."""
    digest = hashlib.sha256(content).digest()
    if digest not in _MADE:
        _MADE[digest] = _made(content, name)
    return f"/proc/{os.getpid()}/fd/{_MADE[digest]}"


def sealed_copy(path: str) -> str:
    """The path of a sealed copy of a program; ``path`` itself for a script, or where the kernel refuses."""
    with contextlib.suppress(OSError):
        with open(path, "rb") as file:
            content = file.read()
        if content.startswith(b"\x7fELF"):
            return sealed(content, os.path.basename(path))
    return path


def _made(content: bytes, name: str) -> int:
    try:
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | _EXEC)
    except OSError:
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(content)
        fcntl.fcntl(fd, _ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd
