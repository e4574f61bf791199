"""Instants and durations as text and as parts: RFC 3339 and Go's duration notation.

Source: Go time.Parse, time.ParseDuration; cel-go common/types/timestamp.go, duration.go.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ..durations import parse_nanos
from .errors import EvaluationError
from .operations import instant
from .values import NANOS, Duration, Timestamp

_RFC3339 = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:[.,](\d+))?(?:Z|([+-])(\d\d):(\d\d))", re.ASCII)
_EPOCH = datetime(1970, 1, 1)


def parse_timestamp(text: str) -> Timestamp | None:
    """The instant that an RFC 3339 text names, None where it is none.

    Raises: EvaluationError: beyond year 1 or 9999.
    """
    found = _RFC3339.fullmatch(text)
    if found is None:
        return None
    year, month, day, hour, minute, second = (int(part) for part in found.groups()[:6])
    fraction, sign, offset_hours, offset_minutes = found.groups()[6:]
    offset = 0
    if sign:
        if int(offset_hours) > 24 or int(offset_minutes) >= 60:
            return None
        offset = (int(offset_hours) * 60 + int(offset_minutes)) * (-60 if sign == "-" else 60)
    try:
        days = (datetime(year, month, day) - _EPOCH).days
    except ValueError:
        return None
    if hour > 23 or minute > 59 or second > 59:
        return None
    seconds = days * 86400 + hour * 3600 + minute * 60 + second - offset
    return instant(seconds * NANOS + int((fraction or "0")[:9].ljust(9, "0")), offset)


def parse_duration(text: str) -> Duration | None:
    """The span that Go's notation names (``1h30m``), None where it is none or too long."""
    try:
        return Duration(parse_nanos(text))
    except ValueError:
        return None


def _fraction(nanos: int) -> str:
    return f".{nanos:09d}".rstrip("0") if nanos else ""


def timestamp_text(value: Timestamp) -> str:
    """RFC 3339 with as many digits as there are, in the zone it was written in."""
    seconds, nanos = divmod(value.nanos, NANOS)
    local = _EPOCH + timedelta(seconds=seconds + value.offset_s)
    zone = "Z"
    if value.offset_s:
        minutes = abs(value.offset_s) // 60
        zone = f"{'-' if value.offset_s < 0 else '+'}{minutes // 60:02d}:{minutes % 60:02d}"
    text = f"{local.year:04d}-{local.month:02d}-{local.day:02d}T{local.hour:02d}:{local.minute:02d}:{local.second:02d}"
    return f"{text}{_fraction(nanos)}{zone}"


def duration_text(value: Duration) -> str:
    """Seconds: ``5400s``, ``0.5s``. As Go has it, by way of a double."""
    whole = abs(value.nanos) // NANOS
    seconds = whole + (abs(value.nanos) - whole * NANOS) / 1e9
    sign = "-" if value.nanos < 0 else ""
    return f"{sign}{Decimal(repr(float(seconds))):f}".removesuffix(".0") + "s"


def unix(seconds: int) -> Timestamp:
    return instant(seconds * NANOS)


def part_of(value: Timestamp, part: str, zone: str | None = None) -> int:
    """One of the parts that ``getFullYear()`` and its kin give, in UTC or in a zone (a name, or ``+02:00``)."""
    where = UTC if zone is None else _zone(zone)
    seconds, nanos = divmod(value.nanos, NANOS)
    try:
        local = (_EPOCH.replace(tzinfo=UTC) + timedelta(seconds=seconds)).astimezone(where)
    except OverflowError:
        raise EvaluationError("timestamp overflow") from None
    match part:
        case "getFullYear":
            return local.year
        case "getMonth":
            return local.month - 1
        case "getDate":
            return local.day
        case "getDayOfMonth":
            return local.day - 1
        case "getDayOfYear":
            return local.timetuple().tm_yday - 1
        case "getDayOfWeek":
            return local.isoweekday() % 7
        case "getHours":
            return local.hour
        case "getMinutes":
            return local.minute
        case "getSeconds":
            return local.second
        case _:
            return nanos // 1_000_000


def _zone(name: str) -> tzinfo:
    hours, colon, minutes = name.partition(":")
    if not colon:
        return _named_zone(name)
    try:
        hour, minute = int(hours), int(minutes)
        return timezone(timedelta(minutes=hour * 60 - minute if name.startswith("-") else hour * 60 + minute))
    except ValueError:
        raise EvaluationError(f'strconv.Atoi: parsing "{name}": invalid syntax') from None


def _named_zone(name: str) -> tzinfo:
    if name in ("", "UTC"):
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise EvaluationError(f"unknown time zone {name}") from None


def part_of_duration(value: Duration, part: str) -> int:
    """Whole hours, minutes, seconds or milliseconds of the entire span, towards zero."""
    unit = {"getHours": 3600 * NANOS, "getMinutes": 60 * NANOS, "getSeconds": NANOS, "getMilliseconds": 1_000_000}[part]
    count = abs(value.nanos) // unit
    return -count if value.nanos < 0 else count
