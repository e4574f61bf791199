"""A container's log as ``kubectl logs`` shows it: CRI lines read, filtered, followed; rotated files first.

    2026-11-21T03:10:07.123456789Z stdout F a whole line
    2026-11-21T03:10:07.123456790Z stderr P a part of one

A follower holds its file open: what is written until the file is rotated away is read from it, then those that were rotated
meanwhile, then the new one. So no line is lost or shown twice, however slow the reader.
Source: staging/src/k8s.io/cri-client/pkg/logs/logs.go, CRI logging format.
"""

from __future__ import annotations

import asyncio
import io
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, cast

from kaa.api.clock import parse_time

from .. import inotify
from ..log_rotation import COMPRESSED, rotated

_BLOCK = 64 * 1024
_LINE_MAX = 4 * 1024 * 1024  #: a longer line is shown in pieces
_LOOK_S = 10.0  #: news may get lost: inotify's watches are counted


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

    def of_plain_text(self) -> LogOptions:
        """The same of a file that a process of the host writes."""
        return replace(self, plain=True)


class Shown:
    """Turns raw lines into what the user gets. ``full`` once the user has all that was asked for."""

    def __init__(self, options: LogOptions) -> None:
        self._options, self._left = options, options.limit_bytes
        self._fresh = True  # the last line shown was whole: only a new one gets a timestamp

    @property
    def full(self) -> bool:
        return self._left == 0

    def of(self, lines: list[bytes]) -> bytes:
        data = b"".join([self._line(line) for line in lines])
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        return data

    def _line(self, line: bytes) -> bytes:
        """One raw line; empty when it is filtered out."""
        options = self._options
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
        began, self._fresh = self._fresh, text[-1:] in (b"\n", b"")
        return stamp.replace(b"+00:00", b"Z") + b" " + text if options.timestamps and began else text


def _moment(stamp: bytes) -> float:
    text = stamp.decode("ascii", "replace")
    whole, _, fraction = text.rstrip("Z").partition(".")
    zone = "Z" if text.endswith("Z") else ""
    try:
        return parse_time(f"{whole}.{fraction[:6]}{zone}" if zone and fraction else text)
    except ValueError:
        return 0.0


# -------------------------------------------------------------------------------------------------------- files


class LogFiles:
    """Lines of a log, read block by block from its newest file on, over those that are begun later; ``more`` goes on where
    it ended. All of it blocks. What was rotated before is not told any more, as upstream does not."""

    def __init__(self, path: Path, tail: int | None) -> None:
        self._path = path
        self._live = _opened(path)
        #: rotated files that were there when we last looked; the live one may have become one since it was opened
        self._known = {_stem(one) for one in rotated(path) if _inode(one) != self._live_inode()}
        self._before: deque[Path] = deque()  #: rotated since, to be read before the live one
        self._old: IO[bytes] | None = None  #: the rotated file that is being read
        self._rest = b""
        if tail is not None and self._live is not None:
            self._live.seek(_tail_offset(self._live, tail))

    def _live_inode(self) -> int:
        return os.fstat(self._live.fileno()).st_ino if self._live is not None else 0

    def more(self) -> list[bytes]:
        """Some whole lines, in order; none when there are none yet."""
        while True:
            if self._old is None and self._before:
                self._old, self._rest = _read_any(self._before.popleft()), b""
            stream = self._old or self._live
            moved = _inode(self._path) not in (
                0,
                self._live_inode(),
            )  # before we read: what is read then is all there is
            lines = self._lines(stream) if stream is not None else []
            if lines:
                return lines
            if self._old is not None:
                self._old.close()
                self._old, self._rest = None, b""
            elif moved:
                self._turn()
            else:
                return []

    def _lines(self, stream: IO[bytes]) -> list[bytes]:
        """The next whole lines of a file; an unfinished one is kept for later, unless it is too long to wait for."""
        while data := stream.read(_BLOCK):
            self._rest += data
            end = self._rest.rfind(b"\n") + 1 or (len(self._rest) if len(self._rest) >= _LINE_MAX else 0)
            if end:
                whole, self._rest = self._rest[:end], self._rest[end:]
                return whole.splitlines(keepends=True)
        return []

    def _turn(self) -> None:
        """Go on to the new file, over those that were begun and rotated while nobody looked."""
        new = [one for one in rotated(self._path) if _stem(one) not in self._known]
        self._known |= {_stem(one) for one in new}
        self._before.extend(new[1:] if self._live is not None else new)  # the first is the one that we have read
        self.close()
        self._live, self._rest = _opened(self._path), b""

    def close(self) -> None:
        for stream in (self._old, self._live):
            if stream is not None:
                stream.close()


def _opened(path: Path) -> IO[bytes] | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def _read_any(path: Path) -> IO[bytes]:
    """A rotated file, which may have been compressed, or dropped, since it was listed."""
    plain = path.with_name(_stem(path))
    try:
        return plain.open("rb")
    except FileNotFoundError:
        import gzip

        packed = plain.with_name(plain.name + COMPRESSED)
        return cast(IO[bytes], gzip.open(packed, "rb")) if packed.exists() else io.BytesIO()


def _stem(path: Path) -> str:
    return path.name.removesuffix(COMPRESSED)


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def _tail_offset(stream: IO[bytes], lines: int) -> int:
    """Where the last ``lines`` lines begin; the start when there are fewer. A line ends with its newline."""
    at = stream.seek(0, os.SEEK_END)
    end = at
    found = -1  # the newline that ends the last line begins none
    while at > 0:
        size = min(_BLOCK, at)
        at -= size
        stream.seek(at)
        block = stream.read(size)
        if found < 0:
            last = block.rfind(b"\n")
            if last < 0:
                continue
            block, found, end = block[:last], 0, at + last + 1
            if lines == 0:
                return end
        where = len(block)
        while (where := block.rfind(b"\n", 0, where)) >= 0:
            found += 1
            if found == lines:
                return at + where + 1
    return end if found < 0 else 0


# -------------------------------------------------------------------------------------------------------- reading


async def read(
    path: Path,
    options: LogOptions,
    still_running: Callable[[], Awaitable[bool]],
    nudge: asyncio.Event | None = None,
) -> AsyncIterator[bytes]:
    """What to send, chunk by chunk. With ``follow`` it goes on until the container has ended and all is read.

    ``nudge`` may be set by whoever hears that the container has ended.
    """
    news = nudge or asyncio.Event()
    shown = Shown(options)
    files = await asyncio.to_thread(LogFiles, path, options.tail)
    watch = inotify.Watch(news.set, inotify.MODIFY | inotify.CREATE) if options.follow else None
    if watch is not None:
        watch.add(path.parent)
    try:
        while True:
            ended = not options.follow or not await still_running()
            news.clear()
            while lines := await asyncio.to_thread(files.more):
                if data := shown.of(lines):
                    yield data
                if shown.full:
                    return
            if ended:
                return
            await _news(news)
    finally:
        files.close()
        if watch is not None:
            watch.close()


async def _news(news: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(_LOOK_S):
            await news.wait()
    except TimeoutError:
        return
