"""The formats of strings that schemas may ask for: {name without dashes: whether a text has it}, and the ranges of numbers.

Source: kube-openapi pkg/validation/{strfmt,validate}; apiextensions-apiserver pkg/apiserver/validation/formats.go, which
says which of them count: a format of any other name is as none.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from datetime import date
from urllib.parse import urlsplit

from kaa.api import names
from kaa.api.durations import parse_nanos


def _matches(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern, re.ASCII | re.IGNORECASE)
    return lambda text: compiled.fullmatch(text) is not None


def _parses(read: Callable[[str], object]) -> Callable[[str], bool]:
    def fits(text: str) -> bool:
        try:
            read(text)
        except ValueError:
            return False
        return True

    return fits


# --------------------------------------------------------------------------------------------------------- moments

_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME = re.compile(r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:.\d+)?(?:z|[+-]\d\d:\d\d)", re.ASCII)
_is_day = _parses(date.fromisoformat)
_WORDED = re.compile(r"(\d+)\s*([A-Za-zµ]+)")
_UNITS = ("ns", "us", "µs", "ms", "s", "m", "h", "hr", "d", "w", "wk")
#: longer names need only begin so: ``minutes``
_BEGINNINGS = ("nano", "micro", "milli", "sec", "min", "hour", "day", "week")


def _date(text: str) -> bool:
    return _DAY.fullmatch(text) is not None and _is_day(text)


def _moment(text: str) -> bool:
    day, t, time = text.lower().partition("t")
    return bool(t) and _date(day) and _TIME.fullmatch(time.partition("t")[0]) is not None


def _duration(text: str) -> bool:
    """As Go writes durations, or in words: ``3 days``."""
    try:
        parse_nanos(text)
    except ValueError:
        units = [unit.lower() for _, unit in _WORDED.findall(text)]
        return any(unit in _UNITS or unit.startswith(_BEGINNINGS) for unit in units)
    return True


# ------------------------------------------------------------------------------------------------------- addresses

_ATOM = r"[^\x00-\x20\x7f()<>\[\]:;@\\,.\"]+"
_DOTTED = rf"{_ATOM}(?:\.{_ATOM})*"
_QUOTED = r'"(?:[^"\\\r\n]|\\.)*"'
_ADDRESS = rf"(?:{_DOTTED}|{_QUOTED})@{_DOTTED}"
_email = _matches(rf"\s*{_ADDRESS}\s*|\s*(?:(?:{_DOTTED}|{_QUOTED})\s*)*<{_ADDRESS}>\s*")
_LETTER = r"[^\W_]"
_HOST = re.compile(
    rf"{_LETTER}(?:-?{_LETTER}{{0,62}})?"
    rf"|(?:{_LETTER}(?:(?:{_LETTER}|-){{0,61}}{_LETTER})?\.)+{_LETTER}(?:-?{_LETTER}){{1,62}}"
)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.ASCII | re.IGNORECASE)
_ODD = re.compile(r"[\x00-\x1f\x7f]|%(?![0-9a-fA-F]{2})")


def _hostname(text: str) -> bool:
    whole = len(text.encode()) <= 255 and all(len(part.encode()) <= 63 for part in text.split("."))
    return whole and _HOST.fullmatch(text) is not None


def _uri(text: str) -> bool:
    """An absolute URI or an absolute path."""
    if _ODD.search(text) or not (text.startswith("/") or _SCHEME.match(text)):
        return False
    try:
        parts = urlsplit(text)
        return parts.port is None or " " not in parts.netloc
    except ValueError:
        return False


def _cidr(text: str) -> bool:
    address, _, length = text.partition("/")
    return length.isdigit() and _is_network(text) and "%" not in address


_is_address, _is_network = _parses(ipaddress.ip_address), _parses(lambda text: ipaddress.ip_network(text, strict=False))


# --------------------------------------------------------------------------------------------------------- numbers

_HEX = "[0-9a-f]"
_BYTE = r"(?:\d|[1-9]\d|1\d\d|2[0-4]\d|25[0-5])"
_CARD = re.compile(
    r"4\d{12}(\d{3})?|5[1-5]\d{14}|6(011|5\d\d)\d{12}|3[47]\d{13}|3(0[0-5]|[68]\d)\d{11}|(2131|1800|35\d{3})\d{11}"
)


def _digits(text: str) -> str:
    return re.sub(r"[\s-]+", "", text)


def _isbn10(text: str) -> bool:
    found = _digits(text)
    if not re.fullmatch(r"\d{9}[\dX]", found, re.ASCII):
        return False
    return sum(n * (10 if digit == "X" else int(digit)) for n, digit in enumerate(found, 1)) % 11 == 0


def _isbn13(text: str) -> bool:
    found = _digits(text)
    if not re.fullmatch(r"\d{13}", found, re.ASCII):
        return False
    return sum((3 if n % 2 else 1) * int(digit) for n, digit in enumerate(found)) % 10 == 0


def _credit_card(text: str) -> bool:
    """A number of a known kind that passes Luhn's sum, with anything between its digits."""
    found = re.sub(r"\D+", "", text, flags=re.ASCII)
    doubled = (int(digit) * (1 + n % 2) for n, digit in enumerate(reversed(found)))
    return _CARD.fullmatch(found) is not None and sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


def _uuid(version: str, variant: str) -> Callable[[str], bool]:
    return _matches(f"{_HEX}{{8}}-?{_HEX}{{4}}-?{version}{_HEX}{{3}}-?{variant}{_HEX}{{3}}-?{_HEX}{{12}}")


FORMATS: dict[str, Callable[[str], bool]] = {
    "bsonobjectid": _matches(f"{_HEX}{{24}}"),
    "byte": _matches(r"(?:[a-z0-9+/]{4})*(?:[a-z0-9+/]{2}==|[a-z0-9+/]{3}=|[a-z0-9+/]{4})"),
    "cidr": _cidr,
    "creditcard": _credit_card,
    "date": _date,
    "datetime": _moment,
    "duration": _duration,
    "email": _email,
    "hexcolor": _matches(f"#?({_HEX}{{3}}|{_HEX}{{6}})"),
    "hostname": _hostname,
    "ipv4": lambda text: "." in text and _is_address(text),
    "ipv6": lambda text: ":" in text and "%" not in text and _is_address(text),
    "isbn": lambda text: _isbn10(text) or _isbn13(text),
    "isbn10": _isbn10,
    "isbn13": _isbn13,
    "k8slongname": lambda text: not names.dns_subdomain(text),
    "k8sshortname": lambda text: not names.dns_label(text),
    "mac": _matches(
        f"{_HEX}{{2}}([:-])(?:{_HEX}{{2}}\\1){{4}}{_HEX}{{2}}(?:(?:\\1{_HEX}{{2}}){{2}}|(?:\\1{_HEX}{{2}}){{14}})?"
        f"|{_HEX}{{4}}(?:\\.{_HEX}{{4}}){{2,3}}|{_HEX}{{4}}(?:\\.{_HEX}{{4}}){{9}}"
    ),
    "password": lambda text: True,
    "rgbcolor": _matches(rf"rgb\(\s*{_BYTE}\s*,\s*{_BYTE}\s*,\s*{_BYTE}\s*\)"),
    "ssn": _matches(r"\d{3}[- ]?\d{2}[- ]?\d{4}"),
    "uri": _uri,
    "uuid": _uuid(_HEX, _HEX),
    "uuid3": _uuid("3", _HEX),
    "uuid4": _uuid("4", "[89ab]"),
    "uuid5": _uuid("5", "[89ab]"),
}

#: {(type, format): the least and the most}; ``double`` holds whatever JSON says
RANGES: dict[tuple[str, str], tuple[float, float]] = {
    ("integer", "int32"): (-(1 << 31), (1 << 31) - 1),
    ("integer", "int64"): (-(1 << 63), (1 << 63) - 1),
    ("number", "float"): (-3.4028235677973362e38, 3.4028235677973362e38),
    ("number", "double"): (float("-inf"), float("inf")),
}


def known_format(type: str, format: str) -> bool:
    """Whether values of a type are held to a format."""
    return (type, format) in RANGES or (type in ("", "string") and format.replace("-", "") in FORMATS)
