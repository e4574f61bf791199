"""The kernel's lists of small numbers, CPUs and memory nodes: ``0-3,8``.

Source: cpuset(7) "List format"; k8s.io/utils/cpuset.
"""

from __future__ import annotations

from collections.abc import Iterable

Cpus = frozenset[int]


def read_list(text: str) -> Cpus:
    """The numbers of a list; none of an empty one. Raises ValueError in Go's words."""
    found: set[int] = set()
    for part in text.split(",") if text else ():
        first, dash, last = part.partition("-")
        begin = _number(first)
        end = _number(last) if dash else begin
        if begin > end:
            raise ValueError(f'invalid range "{part}" ({begin} > {end})')
        found.update(range(begin, end + 1))
    return frozenset(found)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f'strconv.Atoi: parsing "{text}": invalid syntax')
    return int(text)


def write_list(numbers: Iterable[int]) -> str:
    """The shortest list, in ascending order."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
