"""crun on a machine with both versions of cgroups, of which it wants only one: it refuses to work as soon as the hierarchy of
version 2, at ``/sys/fs/cgroup/unified``, has a controller of its own, be it one that nobody asked for.

The idea: a program of a few bytes takes a mount namespace, takes that hierarchy off in it, and becomes crun, which then sees
version 1 alone. Nobody else notices: the namespace ends with crun, and a container takes its own anyway. It is worth it: crun
costs half of what runc does.

Source of crun's rule: libcrun/cgroup-utils.c, "cgroups in hybrid mode not supported".
"""

from __future__ import annotations

import os
import platform
import struct
from pathlib import Path

from . import elf
from .detect import CGROUP_ROOT

_X86_64 = 62
#: ``unshare(CLONE_NEWNS)``; ``mount("", TOP, 0, MS_PRIVATE, 0)``, lest the host's be taken off, too; ``umount2(UNIFIED,
#: MNT_DETACH)``; ``execve(CRUN, argv, envp)``. Whatever fails ends it with the error's number.
_CODE = (
    "bf00000200"  # mov edi, 0x20000 (CLONE_NEWNS)
    "b810010000"  # mov eax, 272 (unshare)
    "0f05"  # syscall
    "85c0"  # test eax, eax
    "7553"  # jne fail
    "488d35{top}"  # lea rsi, [rip + top]
    "4889f7"  # mov rdi, rsi
    "31d2"  # xor edx, edx
    "41ba00000400"  # mov r10d, 0x40000 (MS_PRIVATE)
    "4531c0"  # xor r8d, r8d
    "b8a5000000"  # mov eax, 165 (mount)
    "0f05"  # syscall
    "85c0"  # test eax, eax
    "7533"  # jne fail
    "488d3d{unified}"  # lea rdi, [rip + unified]
    "be02000000"  # mov esi, 2 (MNT_DETACH)
    "b8a6000000"  # mov eax, 166 (umount2)
    "0f05"  # syscall
    "85c0"  # test eax, eax
    "751c"  # jne fail
    "488b0c24"  # mov rcx, [rsp] (argc)
    "488d742408"  # lea rsi, [rsp + 8] (argv)
    "488d54ce08"  # lea rdx, [rsi + rcx * 8 + 8] (envp)
    "488d3d{crun}"  # lea rdi, [rip + crun]
    "b83b000000"  # mov eax, 59 (execve)
    "0f05"  # syscall
    "f7d8"  # fail: neg eax
    "89c7"  # mov edi, eax
    "b83c000000"  # mov eax, 60 (exit)
    "0f05"  # syscall
)
#: Where the instruction ends that names a string: the string's place is counted from there.
_AFTER = {"top": 23, "unified": 55, "crun": 92}
_LENGTH = 110


def is_hybrid(root: Path = CGROUP_ROOT) -> bool:
    """Whether version 2 of cgroups stands beside version 1, and has controllers."""
    try:
        return bool((root / "unified" / "cgroup.controllers").read_text().strip())
    except OSError:
        return False


def can_hide() -> bool:
    """Whether the program below is known for this machine's processor."""
    return platform.machine() == "x86_64"


def hiding(crun: str) -> bytes:
    """The program that becomes ``crun``, which is a path."""
    strings = {"top": str(CGROUP_ROOT), "unified": f"{CGROUP_ROOT}/unified", "crun": crun}
    places, data = {}, b""
    for name, value in strings.items():
        places[name] = struct.pack("<i", _LENGTH + len(data) - _AFTER[name]).hex()
        data += os.fsencode(value) + b"\0"
    return elf.program(_X86_64, bytes.fromhex(_CODE.format(**places)) + data)
