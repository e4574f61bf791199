"""Cron schedules as Kubernetes reads them: five fields, names, ``@every``, ``@daily`` and its kin, time zones. No I/O.

Day of month and day of week are joined as cron has always done: when both are given, either will do; when one begins with
``*``, both must hold.

A clock that is put forward skips what lies in the gap; one that is put back runs what lies in the doubled hour once
(and fields ``*`` of the hour twice), for the search walks through real moments.

Source: robfig/cron v3 (parser.go, spec.go), as used by kubernetes pkg/controller/cronjob.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from kaa.api.durations import parse_seconds

MONTHS = {name: n for n, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)}
DAYS = {name: n for n, name in enumerate("sun mon tue wed thu fri sat".split())}
MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
#: (least, most, names) of each field.
FIELDS: tuple[tuple[int, int, dict[str, int]], ...] = (
    (0, 59, {}),
    (0, 23, {}),
    (1, 31, {}),
    (1, 12, MONTHS),
    (0, 6, DAYS),
)
SEARCH_YEARS = 5


class InvalidSchedule(ValueError):
    """The text is no schedule, or names no time zone that there is."""


class Schedule(Protocol):
    def after(self, moment: float) -> float | None:
        """The next time after a moment, in seconds since 1970; None if there is none within five years."""
        ...


@dataclass(frozen=True, slots=True)
class Every:
    """``@every 90m``: whole seconds from one time to the next."""

    seconds: int

    def after(self, moment: float) -> float:
        return int(moment) + self.seconds


@dataclass(frozen=True, slots=True)
class Spec:
    """Which minutes, hours, days, months and weekdays; ``either_day``: one of the two days suffices."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either_day: bool
    zone: tzinfo

    def after(self, moment: float) -> float | None:
        at = (int(moment) // 60 + 1) * 60
        end = datetime.fromtimestamp(at, self.zone).year + SEARCH_YEARS
        while True:
            local = datetime.fromtimestamp(at, self.zone)
            if local.year > end:
                return None
            if local.month not in self.months or not self._has_day(local):
                at = self._later_than(at, _next_midnight(local))
            elif local.hour not in self.hours:
                at += 3600 - (local.minute * 60 + local.second)
            elif local.minute not in self.minutes:
                at += 60 - local.second
            else:
                return float(at)

    def _has_day(self, local: datetime) -> bool:
        of_month, of_week = local.day in self.days, local.isoweekday() % 7 in self.weekdays
        return of_month or of_week if self.either_day else of_month and of_week

    def _later_than(self, at: int, local: datetime) -> int:
        """A local time as a moment; in a zone whose midnight is skipped, what follows it."""
        return max(at + 60, int(local.replace(tzinfo=self.zone).timestamp()))


def _next_midnight(local: datetime) -> datetime:
    return (local.replace(tzinfo=None, hour=0, minute=0, second=0, microsecond=0)) + timedelta(days=1)


def parse(text: str, zone: str | None = None) -> Schedule:
    """Read a schedule.

    Args:    text: as in ``spec.schedule``, ``TZ=…`` and ``CRON_TZ=…`` before it included.
             zone: name of a time zone, as in ``spec.timeZone``; None for that of the controller, which is UTC. One in
             the text comes before it.
    Raises:  InvalidSchedule.
    """
    for prefix in ("TZ=", "CRON_TZ="):
        if text.startswith(prefix):
            zone, _, text = text.removeprefix(prefix).partition(" ")
            try:
                zone_of(zone)
            except InvalidSchedule as err:
                raise InvalidSchedule(f"provided bad location {zone}: {err}") from err
    text = text.strip()
    if text.startswith("@every "):
        return Every(max(1, int(_duration(text.removeprefix("@every ")))))
    if text.startswith("@"):
        if text not in MACROS:
            raise InvalidSchedule(f"unrecognized descriptor: {text}")
        text = MACROS[text]
    words = text.split()
    if len(words) != len(FIELDS):
        raise InvalidSchedule(f"expected exactly {len(FIELDS)} fields, found {len(words)}: {words}")
    sets = [_field(word, *field) for word, field in zip(words, FIELDS, strict=True)]
    either = not any(star for _, star in (sets[2], sets[4]))
    minutes, hours, days, months, weekdays = (values for values, _ in sets)
    return Spec(minutes, hours, days, months, weekdays, either, zone_of(zone))


def zone_of(name: str | None) -> tzinfo:
    if not name or name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as err:
        raise InvalidSchedule(f"unknown time zone {name}") from err


def _duration(text: str) -> float:
    try:
        return parse_seconds(text)
    except ValueError as err:
        raise InvalidSchedule(f"failed to parse duration @every {text}: {err}") from err


def _field(text: str, least: int, most: int, names: dict[str, int]) -> tuple[frozenset[int], bool]:
    """(the values of a field, whether it says "any")."""
    found: set[int] = set()
    star = False
    for part in text.split(","):
        values, any_value = _part(part, least, most, names)
        found |= values
        star = star or any_value
    return frozenset(found), star


def _part(text: str, least: int, most: int, names: dict[str, int]) -> tuple[set[int], bool]:
    span, slash, step_text = text.partition("/")
    if span in ("*", "?"):
        low, high = least, most
    else:
        first, dash, last = span.partition("-")
        low = _number(first, names)
        high = _number(last, names) if dash else (most if slash else low)
    step = _number(step_text, {}) if slash else 1
    if step == 0:
        raise InvalidSchedule(f"step of range should be a positive number: {text}")
    if low < least:
        raise InvalidSchedule(f"beginning of range ({low}) below minimum ({least}): {text}")
    if high > most:
        raise InvalidSchedule(f"end of range ({high}) above maximum ({most}): {text}")
    if low > high:
        raise InvalidSchedule(f"beginning of range ({low}) beyond end of range ({high}): {text}")
    return set(range(low, high + 1, step)), span in ("*", "?") and step == 1


def _number(text: str, names: dict[str, int]) -> int:
    if text.lower() in names:
        return names[text.lower()]
    if not text.isascii() or not text.isdecimal():
        raise InvalidSchedule(f"failed to parse int from {text}")
    return int(text)
