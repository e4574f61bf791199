"""Named formats: ``!format.dns1123Label().validate(self.name).hasValue()``.

Source: apiserver pkg/cel/library/format.go; kube-openapi pkg/validation/strfmt.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import ClassVar

from ... import names
from ..declarations import Library, function, member
from ..types import STRING, ListType, OpaqueType, OptionalType, Type
from ..values import NOTHING, OptionalValue
from .urls import request_fault

FORMAT = OpaqueType("kubernetes.NamedFormat")
_UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", re.IGNORECASE)
_DATE_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?(?:[zZ]|[+-](?:[01]\d|2[0-3]):?[0-5]\d)?",
    re.ASCII,
)


@dataclass(frozen=True)
class FormatValue:
    """``regex_size``: how long the format's regular expression is taken to be, which prices its use."""

    cel_type: ClassVar[Type] = FORMAT
    name: str
    faults: Callable[[str], list[str]]
    regex_size: int


def _prefix(check: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
    """As for a name of which only the beginning is there: it may end in a dash."""
    return lambda text: check(f"{text[:-2]}a" if len(text) > 1 and text.endswith("-") else text)


def is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return len(text) == 10


def is_date_time(text: str) -> bool:
    found = _DATE_TIME.fullmatch(text)
    return found is not None and is_date(found.group(1))


def is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return len(text) > 0


def is_uuid(text: str) -> bool:
    return _UUID.fullmatch(text) is not None


def _unless(check: Callable[[str], bool], fault: str) -> Callable[[str], list[str]]:
    return lambda text: [] if check(text) else [fault]


def _uri(text: str) -> list[str]:
    fault = request_fault(text)
    return [] if fault is None else [fault]


_DATE_TIME_SIZE = 125
FORMATS = {
    "dns1123Label": FormatValue("DNS1123Label", names.dns_label, 30),
    "dns1123Subdomain": FormatValue("DNS1123Subdomain", names.dns_subdomain, 60),
    "dns1035Label": FormatValue("DNS1035Label", names.dns_1035_label, 30),
    "qualifiedName": FormatValue("QualifiedName", names.qualified_name, 60),
    "dns1123LabelPrefix": FormatValue("DNS1123LabelPrefix", _prefix(names.dns_label), 30),
    "dns1123SubdomainPrefix": FormatValue("DNS1123SubdomainPrefix", _prefix(names.dns_subdomain), 60),
    "dns1035LabelPrefix": FormatValue("DNS1035LabelPrefix", _prefix(names.dns_1035_label), 30),
    "labelValue": FormatValue("LabelValue", names.label_value, 40),
    "uri": FormatValue("URI", _uri, 2142),
    "uuid": FormatValue("uuid", _unless(is_uuid, "does not match the UUID format"), 81),
    "byte": FormatValue("byte", _unless(is_base64, "invalid base64"), 93),
    "date": FormatValue("date", _unless(is_date, "invalid date"), _DATE_TIME_SIZE),
    "datetime": FormatValue("datetime", _unless(is_date_time, "invalid datetime"), _DATE_TIME_SIZE),
}


def _validate(format: FormatValue, text: str) -> OptionalValue:
    found = format.faults(text)
    return OptionalValue(found) if found else NOTHING


def _named(name: str) -> OptionalValue:
    found = FORMATS.get(name)
    return NOTHING if found is None else OptionalValue(found)


def _constant(value: FormatValue) -> Callable[[], FormatValue]:
    return lambda: value


LIBRARY = Library(
    "kubernetes.format",
    (
        function("format.named", "format-named", (STRING,), OptionalType(FORMAT), _named),
        member("validate", "format-validate", (FORMAT, STRING), OptionalType(ListType(STRING)), _validate),
        *(function(f"format.{name}", f"format.{name}", (), FORMAT, _constant(one)) for name, one in FORMATS.items()),
    ),
    types={"kubernetes.NamedFormat": FORMAT},
)
