"""Files of environment variables that a pod's own containers wrote: a strict part of the shell's syntax.

Every value stands in single quotes, taken as it is, over several lines if it likes::

    # comment
    NAME='any text' # comment

Source: KEP-3721; pkg/kubelet/util/env.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .volumes import subpath

MAX_BYTES = 1 << 20  # a file is read whole


class EnvFileError(ValueError):
    """The file cannot be read, or not all of what comes before the key."""


def read(volume: Path, path: str, key: str) -> str:
    """The value of ``key`` in a file of a volume; empty when it has none. Raises EnvFileError."""
    try:
        with subpath.opened(volume, path, make=False) as found:
            descriptor = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(descriptor, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
                text = file.read(MAX_BYTES + 1)
    except OSError as err:
        raise EnvFileError(f'failed to open environment variable file "{path}": {err}') from err
    if len(text) > MAX_BYTES:
        raise EnvFileError(f'error reading environment variable file "{path}": it is too long')
    return value_of(text, key)


def value_of(text: str, key: str) -> str:
    """The first value of ``key``; empty when there is none. Raises EnvFileError for what is before it and no variable."""
    return next((value for name, value in _variables(text) if name == key), "")


def _variables(text: str) -> Iterator[tuple[str, str]]:
    lines = enumerate(text.removesuffix("\n").split("\n"), 1)
    for number, raw in lines:
        line = raw.removesuffix("\r").lstrip(" \t")
        if not line or line.startswith("#"):
            continue
        name, equals, rest = line.partition("=")
        fault = _fault(name, equals, rest)
        if fault:
            raise EnvFileError(f"invalid environment variable format at line {number}: {fault}")
        if rest[0] in " \t":  # as in a shell: nothing is assigned
            yield name, ""
        else:
            yield name, _quoted(rest[1:], number, lines)


def _fault(name: str, equals: str, rest: str) -> str:
    if not equals:
        return "missing '='"
    if not name.rstrip(" \t"):
        return "empty variable name"
    if name != name.rstrip(" \t"):
        return "whitespace before '=' is not allowed"
    if not rest or rest[0] not in " \t'":
        return "value must be enclosed in single quotes"
    return ""


def _quoted(rest: str, first: int, lines: Iterator[tuple[int, str]]) -> str:
    """What stands up to the closing quote, on this line or on one of the next."""
    held, number = [], first
    while "'" not in rest:
        held.append(rest)
        number, rest = next(lines, (0, None))  # type: ignore[assignment]  # None ends it
        if rest is None:
            raise EnvFileError(f"invalid environment variable format starting at line {first}: unclosed single quote")
    value, _, after = rest.partition("'")
    after = after.strip(" \t\r")
    if after and not after.startswith("#"):
        raise EnvFileError(
            f"invalid environment variable format at line {number}: unexpected content after closing quote"
        )
    return "\n".join([*held, value])
