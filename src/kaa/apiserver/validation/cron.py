"""Cron schedules, as the CronJob controller's parser reads them, and its words for those it cannot.

Source: robfig/cron v3 ``ParseStandard``.
"""

from __future__ import annotations

import re

_MONTHS = {
    name: n
    for n, name in enumerate(["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"], 1)
}
_DAYS = {name: n for n, name in enumerate(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])}
#: (least, most, names) of minute, hour, day of month, month, day of week.
_FIELDS: tuple[tuple[int, int, dict[str, int]], ...] = (
    (0, 59, {}),
    (0, 23, {}),
    (1, 31, {}),
    (1, 12, _MONTHS),
    (0, 6, _DAYS),
)
_DESCRIPTORS = frozenset(["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"])
_DURATION = re.compile(
    r"[-+]?(\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)((\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h))*", re.ASCII
)


def fault(schedule: str) -> str:
    """What is wrong with a schedule; empty when nothing is."""
    text = schedule
    if not text:
        return "empty spec string"
    if text.startswith(("TZ=", "CRON_TZ=")):
        _, _, text = text.partition(" ")
        text = text.strip()
    if text.startswith("@"):
        return _descriptor_fault(text)
    parts = text.split()
    if len(parts) != len(_FIELDS):
        return f"expected exactly {len(_FIELDS)} fields, found {len(parts)}: [{' '.join(parts)}]"
    for part, (least, most, names) in zip(parts, _FIELDS, strict=True):
        for expression in part.split(","):
            found = _range_fault(expression, least, most, names)
            if found:
                return found
    return ""


def _descriptor_fault(text: str) -> str:
    if text in _DESCRIPTORS:
        return ""
    if text.startswith("@every "):
        duration = text.removeprefix("@every ")
        if _DURATION.fullmatch(duration):
            return ""
        return f'failed to parse duration {text}: time: invalid duration "{duration}"'
    return f"unrecognized descriptor: {text}"


def _range_fault(expression: str, least: int, most: int, names: dict[str, int]) -> str:
    bounds, *steps = expression.split("/")
    low, *rest = bounds.split("-")
    if len(rest) > 1:
        return f"too many hyphens: {expression}"
    if low in ("*", "?"):
        start, end = least, most
    else:
        first = _number(low, names)
        if isinstance(first, str):
            return first
        last = _number(rest[0], names) if rest else first
        if isinstance(last, str):
            return last
        start, end = first, last
    if len(steps) > 1:
        return f"too many slashes: {expression}"
    step: int | str = 1
    if steps:
        step = _number(steps[0], {})
        if isinstance(step, str):
            return step
        if not rest and low not in ("*", "?"):
            end = most
    if start < least:
        return f"beginning of range ({start}) below minimum ({least}): {expression}"
    if end > most:
        return f"end of range ({end}) above maximum ({most}): {expression}"
    if start > end:
        return f"beginning of range ({start}) beyond end of range ({end}): {expression}"
    return f"step of range should be a positive number: {expression}" if step == 0 else ""


def _number(text: str, names: dict[str, int]) -> int | str:
    """The number, or the fault."""
    named = names.get(text.lower())
    if named is not None:
        return named
    if not re.fullmatch(r"[-+]?[0-9]+", text):
        return f'failed to parse int from {text}: strconv.Atoi: parsing "{text}": invalid syntax'
    if len(text) > 19:
        return f'failed to parse int from {text}: strconv.Atoi: parsing "{text}": value out of range'
    number = int(text)
    return f"negative number ({number}) not allowed: {text}" if number < 0 else number
