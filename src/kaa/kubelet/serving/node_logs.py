"""``/logs/``: what is in the node's log folder, and ``?query=``: the log of a service or a file, asked for by name.

A service's log comes from the journal where there is one, else from ``NAME``, ``NAME.log`` or ``NAME/NAME.log``. Nothing
outside the folder is shown, whatever links lie in it.
Source: pkg/kubelet/kubelet_server_journal.go (KEP-2258), net/http FileServer.
"""

from __future__ import annotations

import asyncio
import html
import re
import shutil
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from urllib.parse import quote

import msgspec

from kaa.api import fields
from kaa.api.clock import format_time, parse_time
from kaa.api.fields import FieldError

_TAIL_MAX, _NAME_MAX, _SERVICES_MAX = 100_000, 256, 4
_BLOCK = 64 * 1024
_TIMEOUT_S = 30.0
_UNSAFE = re.compile(r"[^a-zA-Z\-_0-9@]")

Query = Mapping[str, list[str]]


class LogQuery(msgspec.Struct, frozen=True):
    """Which log, and what of it. Times in seconds since 1970."""

    services: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None
    boot: int | None = None
    tail: int | None = None
    pattern: str = ""

    @property
    def optioned(self) -> bool:
        return self != LogQuery(self.services, self.files)


class BadQuery(Exception):
    """The query cannot be answered; the text is the answer's."""


def read_query(query: Query) -> LogQuery | None:
    """What a request asks; None when it asks for a path only. Raises BadQuery."""
    faults: list[FieldError] = []
    asked = query.get("query", [])
    files = tuple(one for one in asked if "/" in one or "\\" in one)
    services = tuple(one for one in asked if one not in files and one.strip())
    if "query" in query and not (files or services):
        faults.append(fields.invalid(fields.Path("query"), asked, "query cannot be empty"))
    found = LogQuery(
        services,
        files,
        _moment(query, "sinceTime", faults),
        _moment(query, "untilTime", faults),
        _whole(query, "boot", faults),
        _whole(query, "tailLines", faults),
        query.get("pattern", [""])[0],
    )
    if faults:
        raise BadQuery(fields.joined(faults))
    return None if found == LogQuery() else found


def _moment(query: Query, name: str, faults: list[FieldError]) -> float | None:
    text = query.get(name, [""])[0]
    try:
        return parse_time(text) if text else None
    except ValueError:
        faults.append(fields.invalid(fields.Path(name), text, "invalid time format"))
        return None


def _whole(query: Query, name: str, faults: list[FieldError]) -> int | None:
    text = query.get(name, [""])[0]
    try:
        return int(text) if text else None
    except ValueError:
        faults.append(fields.invalid(fields.Path(name), text, f'strconv.Atoi: parsing "{text}": invalid syntax'))
        return None


def check_query(query: LogQuery, root: Path) -> None:
    """Raises BadQuery for what may not be asked."""
    where, faults = fields.Path("query"), _service_faults(query)
    named = list(query.files)
    if not query.files and not query.services:
        faults.append(fields.required(where, "cannot be empty with options"))
    elif query.files and query.services:
        both = f"[{' '.join(query.files)}], [{' '.join(query.services)}]"
        faults.append(fields.invalid(where, both, "cannot specify a file and service"))
    elif len(query.files) > 1:
        faults.append(fields.invalid(where, named, "cannot specify more than one file"))
    elif query.files and query.optioned:
        faults.append(fields.invalid(where, named, "cannot specify file with options"))
    elif query.files and inside(root, query.files[0]) is None:
        faults.append(fields.invalid(where, named, f"stat {root}/{named[0].lstrip('/')}: no such file or directory"))
    if query.since is not None and query.until is not None and query.since > query.until:
        shown = format_time(query.until)
        faults.append(fields.invalid(fields.Path("untilTime"), shown, "must be after `sinceTime`"))
    if query.boot is not None and query.boot > 0:
        faults.append(fields.invalid(fields.Path("boot"), query.boot, "must be less than 1"))
    if query.tail is not None and not 0 <= query.tail <= _TAIL_MAX:
        detail = f"must be between 0 and {_TAIL_MAX}, inclusive"
        faults.append(fields.invalid(fields.Path("tailLines"), query.tail, detail))
    try:
        re.compile(query.pattern)
    except re.error as err:
        faults.append(fields.invalid(fields.Path("pattern"), query.pattern, f"error parsing regexp: {err}"))
    if faults:
        raise BadQuery(fields.joined(faults))


def _service_faults(query: LogQuery) -> list[FieldError]:
    where, faults = fields.Path("query"), []
    for name in query.services:
        if len(name) > _NAME_MAX:
            faults.append(fields.invalid(where, name, "length must be less than 100"))
        elif _UNSAFE.search(name):
            faults.append(fields.invalid(where, name, "input contains unsupported characters"))
    if len(query.services) > _SERVICES_MAX:
        faults.append(fields.too_many(where, len(query.services), _SERVICES_MAX))
    return faults


def inside(root: Path, name: str) -> Path | None:
    """The file or folder of that name below ``root``; None when there is none, or when it leads out."""
    top = root.resolve()
    found = (top / name.replace("\\", "/").lstrip("/")).resolve()
    return found if found.exists() and found.is_relative_to(top) else None


def listing(folder: Path) -> bytes:
    """A folder's entries as links, as Go's file server shows them."""
    names = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in folder.iterdir())
    links = (f'<a href="{quote(name)}">{html.escape(name)}</a>\n' for name in names)
    head = '<!doctype html>\n<meta name="viewport" content="width=device-width">\n<pre>\n'
    return f"{head}{''.join(links)}</pre>\n".encode()


async def file_chunks(path: Path) -> AsyncIterator[bytes]:
    """A file's bytes, as far as it goes now."""
    with path.open("rb") as file:
        while data := await asyncio.to_thread(file.read, _BLOCK):
            yield data


async def service_logs(query: LogQuery, root: Path) -> AsyncIterator[bytes]:
    """The logs of services: those in the journal first, then files."""
    in_files = [name for name in query.services if not await _in_journal(name)]
    in_journal = [name for name in query.services if name not in in_files]
    if in_journal:
        async for data in _command(journal_command(query, in_journal)):
            yield data
    if in_files and query.optioned:
        named = " ".join(in_files)
        yield f"\noptions present and query resolved to log files for [{named}]\ntry without specifying options\n".encode()
        return
    for name in in_files:
        candidates = (inside(root, one) for one in (name, f"{name}.log", f"{name}/{name}.log"))
        found = next((one for one in candidates if one is not None and one.is_file()), None)
        if found is None:
            yield f"\nlog not found for {name}\n".encode()
        else:
            async for data in file_chunks(found):
                yield data


def journal_command(query: LogQuery, services: list[str]) -> list[str]:
    words = ["journalctl", "--utc", "--no-pager", "--output=short-precise"]
    if query.since is not None:
        words.append(f"--since={_journal_time(query.since)}")
    if query.until is not None:
        words.append(f"--until={_journal_time(query.until)}")
    if query.tail is not None:
        words.append(f"--lines={query.tail}")
    words += [f"--unit={name}" for name in services]
    if query.pattern:
        words += [f"--grep={query.pattern}", "--case-sensitive=true"]
    return [*words, "--boot", str(query.boot or 0)]


def _journal_time(moment: float) -> str:
    return format_time(moment).replace("T", " ").removesuffix("Z")


async def _in_journal(service: str) -> bool:
    if shutil.which("journalctl") is None:
        return False
    words = ["journalctl", "--no-pager", "--output=cat", "--lines=1", f"--unit={service}"]
    said = b"".join([data async for data in _command(words)])
    return bool(said.strip()) and b"-- No entries --" not in said


async def _command(words: list[str]) -> AsyncIterator[bytes]:
    """What a command says; it is ended when nobody listens any more, or after half a minute."""
    process = await asyncio.create_subprocess_exec(
        *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            while data := await process.stdout.read(_BLOCK):
                yield data
            await process.wait()
    except TimeoutError:
        return
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
