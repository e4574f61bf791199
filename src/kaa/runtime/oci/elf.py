"""Programs of a few machine instructions, made here: what must start in no time and cost no memory."""

from __future__ import annotations

import struct

_BASE, _HEADER = 0x400000, 64 + 56


def program(machine: int, code: bytes) -> bytes:
    """A static ELF program that begins with the first byte of ``code``. ``machine``: ELF's number of the processor."""
    elf = struct.pack(
        "<4sBBBB8xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 0, 2, machine, 1, _BASE + _HEADER, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    size = _HEADER + len(code)
    return elf + struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000) + code
