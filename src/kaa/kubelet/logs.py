"""A container's log as ``kubectl logs`` shows it: CRI lines read, filtered, followed; rotated files first.

    2026-11-21T03:10:07.123456789Z stdout F a whole line
    2026-11-21T03:10:07.123456790Z stderr P a part of one

Source: kubelet kuberuntime/logs, CRI logging format.
"""

from __future__ import annotations

import asyncio
import ctypes
import gzip
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from kaa.api.clock import parse_time

_BLOCK = 64 * 1024
_IN_MODIFY, _IN_MOVE_SELF, _IN_CREATE, _IN_NONBLOCK = 0x2, 0x800, 0x100, 0x800
_LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class LogOptions:
    """``since`` in seconds since 1970, 0 for all; ``tail`` and ``limit_bytes`` None for no limit. ``plain``: not CRI lines."""

    follow: bool = False
    tail: int | None = None
    since: float = 0.0
    timestamps: bool = False
    limit_bytes: int | None = None
    stream: str = "All"
    plain: bool = False


def shown(line: bytes, options: LogOptions) -> bytes:
    """A raw line as the user gets it; empty when it is filtered out."""
    if options.plain:
        return line
    stamp, _, rest = line.partition(b" ")
    stream, _, rest = rest.partition(b" ")
    tags, _, text = rest.partition(b" ")
    if stream not in (b"stdout", b"stderr"):
        return line
    if options.stream not in ("", "All") and stream.decode() != options.stream.lower():
        return b""
    if options.since and _moment(stamp) < options.since:
        return b""
    if tags.split(b":")[0] == b"P":
        text = text.removesuffix(b"\n")
    return stamp.replace(b"+00:00", b"Z") + b" " + text if options.timestamps else text


def _moment(stamp: bytes) -> float:
    text = stamp.decode("ascii", "replace")
    whole, _, fraction = text.rstrip("Z").partition(".")
    zone = "Z" if text.endswith("Z") else ""
    try:
        return parse_time(f"{whole}.{fraction[:6]}{zone}" if zone and fraction else text)
    except ValueError:
        return 0.0


def files_of(path: Path) -> list[Path]:
    """Rotated files of a log, oldest first, then the log itself."""
    rotated = sorted(p for p in path.parent.glob(path.name + ".*") if not p.name.endswith(".tmp"))
    return [*rotated, path]


def read_lines(path: Path, tail: int | None) -> tuple[list[bytes], int]:
    """(the lines, at most ``tail`` from the end; where in the present file they end). An unfinished line is left for later."""
    kept: list[bytes] = []
    end = 0
    for file in reversed(files_of(path)):
        if tail is not None and len(kept) >= max(tail, 1):
            break
        if not file.exists():
            continue
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else _from_end(file, tail)
        whole = data[: data.rfind(b"\n") + 1]
        if file == path:
            end = file.stat().st_size - (len(data) - len(whole)) if file.exists() else 0
        kept = whole.splitlines(keepends=True) + kept
    if tail is not None:
        kept = kept[len(kept) - tail :] if tail < len(kept) else kept
        kept = kept if tail else []
    return kept, end


def _from_end(path: Path, lines: int | None) -> bytes:
    """A file's content, or so much of its end as holds so many lines."""
    with path.open("rb") as file:
        if lines is None:
            return file.read()
        at = file.seek(0, os.SEEK_END)
        blocks: list[bytes] = []
        count = 0
        while at > 0 and count <= lines:
            size = min(_BLOCK, at)
            at -= size
            file.seek(at)
            blocks.insert(0, file.read(size))
            count += blocks[0].count(b"\n")
        return b"".join(blocks)


async def read(path: Path, options: LogOptions, still_running: Callable[[], Awaitable[bool]]) -> AsyncIterator[bytes]:
    """What to send, chunk by chunk. With ``follow`` it goes on until the container has ended and all is read."""
    left = options.limit_bytes
    tail = None if options.since and options.tail is None else options.tail
    lines, at = await asyncio.to_thread(read_lines, path, tail)
    with _Watch(path) as watch:
        while True:
            for chunk in _chunks(lines, options):
                if left is not None:
                    chunk = chunk[:left]
                    left -= len(chunk)
                yield chunk
                if left == 0:
                    return
            if not options.follow:
                return
            ended = not await still_running()
            lines, at = await asyncio.to_thread(_more, path, at)
            if not lines:
                if ended:
                    return
                await watch.wait()
                lines, at = await asyncio.to_thread(_more, path, at)


def _chunks(lines: list[bytes], options: LogOptions) -> list[bytes]:
    made: list[bytes] = []
    size = 0
    part: list[bytes] = []
    for line in lines:
        text = shown(line, options)
        part.append(text)
        size += len(text)
        if size >= _BLOCK:
            made.append(b"".join(part))
            part, size = [], 0
    rest = b"".join(part)
    return [*made, rest] if rest else made


def _more(path: Path, at: int) -> tuple[list[bytes], int]:
    """Whole lines after an offset. A file shorter than the offset was rotated: begin at its start."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < at:
                at = 0
            file.seek(at)
            data = file.read(4 * 1024 * 1024)
    except FileNotFoundError:
        return [], 0
    whole = data[: data.rfind(b"\n") + 1]
    return whole.splitlines(keepends=True), at + len(whole)


class _Watch:
    """Waits for a file to change, by inotify on it and its folder; looks by itself every second."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._changed = asyncio.Event()

    def __enter__(self) -> _Watch:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(_IN_NONBLOCK)
        if self._fd >= 0:
            for path, mask in ((self._path, _IN_MODIFY | _IN_MOVE_SELF), (self._path.parent, _IN_CREATE)):
                libc.inotify_add_watch(self._fd, os.fsencode(path), mask)
            asyncio.get_running_loop().add_reader(self._fd, self._read)
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)

    def _read(self) -> None:
        try:
            os.read(self._fd, 4096)
        except BlockingIOError:
            return
        self._changed.set()

    async def wait(self) -> None:
        try:
            async with asyncio.timeout(_LOOK_S):
                await self._changed.wait()
        except TimeoutError:
            pass
        self._changed.clear()
