"""The formats of strings that schemas may ask for: {name without dashes: whether a text has it}.

Source: kube-openapi pkg/validation/strfmt; the list in the API reference of JSONSchemaProps.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable
from datetime import date, datetime
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
        except (ValueError, binascii.Error):
            return False
        return True

    return fits


_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[tT ]\d\d:\d\d:\d\d(\.\d+)?([zZ]|[+-]\d\d:?\d\d)")


def _moment(text: str) -> bool:
    found = _MOMENT.fullmatch(text)
    if found is None:
        return False
    return _parses(lambda given: datetime.fromisoformat(given))(text[:10] + "T" + text[11:19])


def _uri(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return bool(parts.scheme) or text.startswith("/")


def _duration(text: str) -> bool:
    try:
        parse_nanos(text)
    except ValueError:
        return _WORDED.fullmatch(text) is not None
    return True


_WORDED = re.compile(r"\d+ ?(ns|us|ms|s|m|h|d|w|[a-z]+)")
_HEX = "[0-9a-f]"


def _uuid(version: str) -> Callable[[str], bool]:
    return _matches(f"{_HEX}{{8}}-?{_HEX}{{4}}-?{version}{_HEX}{{3}}-?{_HEX}{{4}}-?{_HEX}{{12}}")


FORMATS: dict[str, Callable[[str], bool]] = {
    "bsonobjectid": _matches(f"{_HEX}{{24}}"),
    "byte": _parses(lambda text: base64.b64decode(text, validate=True)),
    "cidr": _parses(lambda text: ipaddress.ip_network(text, strict=False) if "/" in text else int("no mask")),
    "date": _parses(date.fromisoformat),
    "datetime": _moment,
    "duration": _duration,
    "email": _matches(r"[^@\s]+@[^@\s]+\.?[^@\s]*"),
    "hexcolor": _matches(f"#?({_HEX}{{3}}|{_HEX}{{6}})"),
    "hostname": _matches(
        r"(?=.{1,253}\.?$)([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*\.?"
    ),
    "ipv4": _parses(ipaddress.IPv4Address),
    "ipv6": _parses(ipaddress.IPv6Address),
    "k8slongname": lambda text: not names.dns_subdomain(text),
    "k8sshortname": lambda text: not names.dns_label(text),
    "mac": _matches(f"{_HEX}{{2}}([:-]{_HEX}{{2}}){{5}}|{_HEX}{{4}}(\\.{_HEX}{{4}}){{2}}"),
    "uri": _uri,
    "uuid": _uuid(_HEX),
    "uuid3": _uuid("3"),
    "uuid4": _uuid("4"),
    "uuid5": _uuid("5"),
}
