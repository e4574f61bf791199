"""Runs ``nft``: a ruleset text goes in as one transaction, or not at all.

One load at a time in a process: the kernel would serialize them anyway, and a refused one is easier to read alone.
"""

from __future__ import annotations

import asyncio
import shutil
from typing import Protocol
from weakref import WeakKeyDictionary

from kaa.runtime.base import RuntimeFailure

TIMEOUT_S = 30.0

_locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


class NftError(RuntimeFailure):
    """nft refused; the message is its own words."""


class Loader(Protocol):
    """What loads a ruleset text: ``load`` of this module, or a test's."""

    async def __call__(self, text: str) -> None: ...


async def load(text: str) -> None:
    """Apply ``text`` atomically. Raises NftError, with nothing changed."""
    if text:
        await _run(text, "-f", "-")


async def tables(prefix: str = "") -> list[tuple[str, str]]:
    """(family, name) of every table whose name begins with ``prefix``."""
    found = []
    for line in (await _run("", "list", "tables")).splitlines():
        _, family, name = line.split()
        if name.startswith(prefix):
            found.append((family, name))
    return found


async def delete_table(name: str, family: str = "inet") -> None:
    """Remove a table; one that is gone is fine."""
    await load(f"add table {family} {name}\ndelete table {family} {name}\n")


async def _run(text: str, *arguments: str) -> str:
    program = shutil.which("nft") or "/usr/sbin/nft"
    async with _locks.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
        try:
            process = await asyncio.create_subprocess_exec(
                program,
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except FileNotFoundError as err:
            raise NftError("nft is not installed: the package is called nftables") from err
        try:
            async with asyncio.timeout(TIMEOUT_S):
                out, errors = await process.communicate(text.encode())
        except BaseException as err:
            if process.returncode is None:
                process.kill()
                await process.wait()
            if isinstance(err, TimeoutError):
                raise NftError(f"nft did not finish in {TIMEOUT_S:.0f} s") from err
            raise
    if process.returncode:
        raise NftError(errors.decode(errors="replace").strip() or f"nft exited with {process.returncode}")
    return out.decode()
