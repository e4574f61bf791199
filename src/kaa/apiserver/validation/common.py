"""Checks that many kinds share: counts, names, enums, percentages, quantities, conditions.

A check returns the faults it found, or None/() when all is well; paths are made only for a fault, since nearly every
object is well and POSTs are many.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from kaa.api import fields, names, quantity
from kaa.api.fields import FieldError, Path
from kaa.api.types.meta_v1 import Condition

NOT_NEGATIVE = "must be greater than or equal to 0"
POSITIVE = "must be greater than 0"
IMMUTABLE = "field is immutable"

ROOT = Path()
SPEC = Path("spec")
STATUS = Path("status")
METADATA = Path("metadata")


def same(value: Any, other: Any) -> bool:
    """Whether two JSON values are equal; true is not 1."""
    if value is other:
        return True
    if value != other:
        return False
    if isinstance(value, Mapping):
        return all(same(inner, other[name]) for name, inner in value.items())
    if isinstance(value, list):
        return all(map(same, value, other))
    return isinstance(value, bool) == isinstance(other, bool)


def immutable(path: Path, new: Any, old: Any, shown: Any = None) -> Iterator[FieldError]:
    """``shown`` stands for ``new`` in the message, where upstream prints another form of it."""
    if new != old:
        yield fields.invalid(path, new if shown is None else shown, IMMUTABLE)


def not_negative(path: Path, name: str, value: int | None) -> Iterator[FieldError]:
    if value is not None and value < 0:
        yield fields.invalid(path.child(name), value, NOT_NEGATIVE)


def positive(path: Path, name: str, value: int | None) -> Iterator[FieldError]:
    if value is not None and value <= 0:
        yield fields.invalid(path.child(name), value, POSITIVE)


def one_of(
    path: Path, name: str, value: str | None, supported: Iterable[str], *, needed: bool = False
) -> Iterator[FieldError]:
    """``supported`` in the order of the message. An empty value is a fault only when ``needed``."""
    if not value:
        if needed:
            yield fields.required(path.child(name))
        return
    if value not in supported:
        yield fields.not_supported(path.child(name), value, supported)


def named(
    path: Path, name: str, value: str | None, check: Callable[[str], list[str]], *, needed: bool = True
) -> Iterator[FieldError]:
    """A required (or optional) name that must pass ``check``."""
    if not value:
        if needed:
            yield fields.required(path.child(name))
        return
    for fault in check(value):
        yield fields.invalid(path.child(name), value, fault)


def faults_of(path: Path, value: Any, found: Iterable[str]) -> Iterator[FieldError]:
    for fault in found:
        yield fields.invalid(path, value, fault)


# ------------------------------------------------------------------------------------------------ numbers or percents

_PERCENT = re.compile(r"[0-9]+%")


def percent_of(value: int | str | None) -> int | None:
    """``25%`` -> 25; None when ``value`` is no percentage."""
    return int(value[:-1]) if isinstance(value, str) and _PERCENT.fullmatch(value) else None


def int_or_percent(path: Path, value: int | str | None) -> Iterator[FieldError]:
    """A count that is not negative, or a percentage."""
    if isinstance(value, str):
        if not _PERCENT.fullmatch(value):
            yield fields.invalid(path, value, _NO_PERCENT)
    elif value is not None and value < 0:
        yield fields.invalid(path, value, NOT_NEGATIVE)


_NO_PERCENT = (
    "a valid percent string must be a numeric string followed by an ending '%'"
    " (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')"
)


def at_most_all(path: Path, value: int | str | None) -> Iterator[FieldError]:
    percent = percent_of(value)
    if percent is not None and percent > 100:
        yield fields.invalid(path, value, "must not be greater than 100%")


def is_zero(value: int | str | None) -> bool:
    """Whether a count or percentage is none at all; absent counts as 0."""
    return (percent_of(value) or 0) == 0 if isinstance(value, str) else not value


# ------------------------------------------------------------------------------------------------ quantities

_ZERO = quantity.parse("0")


def amount(path: Path, resource: str, value: str) -> Iterator[FieldError]:
    """An amount of a resource: not negative, and whole where the resource comes in pieces."""
    number = quantity.parse(value)
    if number < 0:
        yield fields.invalid(path, value, NOT_NEGATIVE)
    if number.denominator != 1 and is_whole_resource(resource):
        yield fields.invalid(path, value, "must be an integer")


_WHOLE = frozenset(
    [
        "pods",
        "services",
        "replicationcontrollers",
        "resourcequotas",
        "secrets",
        "configmaps",
        "persistentvolumeclaims",
        "services.nodeports",
        "services.loadbalancers",
    ]
)


def is_whole_resource(name: str) -> bool:
    return name in _WHOLE or is_extended_resource(name)


def is_native_resource(name: str) -> bool:
    return "/" not in name or "kubernetes.io/" in name


def is_extended_resource(name: str) -> bool:
    """A resource that its owner counts, such as ``nvidia.com/gpu``."""
    if is_native_resource(name) or name.startswith("requests."):
        return False
    return not names.qualified_name(f"requests.{name}")


# ------------------------------------------------------------------------------------------------ addresses


def ip_address(path: Path, value: str) -> Iterator[FieldError]:
    yield from faults_of(path, value, names.ip_address(value))


NO_CIDR = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"


def cidr(path: Path, value: str) -> Iterator[FieldError]:
    if network_of(value) is None:
        yield fields.invalid(path, value, NO_CIDR)


def network_of(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """The network of a CIDR, host bits forgiven as Go forgives them; None when it is none."""
    if "/" not in text or not text.rpartition("/")[2].isdigit():
        return None
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def endpoint_ip(path: Path, value: str) -> Iterator[FieldError]:
    """An address that endpoints may have: not the unspecified, loopback or link-local ones."""
    for fault in _endpoint_ip_faults(value):
        yield fields.invalid(path, value, fault)


@lru_cache(maxsize=1 << 14)
def _endpoint_ip_faults(value: str) -> tuple[str, ...]:
    """Remembered: the addresses of a Service are all checked again whenever one of them changes."""
    try:
        ip = ipaddress.ip_address(value)
    except ValueError:
        return (names.ip_address(value)[0],)
    checks = (
        (ip.is_unspecified, f"may not be unspecified ({value})"),
        (ip.is_loopback, "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (ip.is_link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        (
            ip in _LINK_LOCAL_MULTICAST[ip.version],
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        ),
    )
    return tuple(fault for is_fault, fault in checks if is_fault)


_LINK_LOCAL_MULTICAST: Mapping[int, ipaddress.IPv4Network | ipaddress.IPv6Network] = {
    4: ipaddress.ip_network("224.0.0.0/24"),
    6: ipaddress.ip_network("ff02::/16"),
}


def wildcard_subdomain(text: str) -> list[str]:
    """``*.example.com``."""
    if re.fullmatch(_WILDCARD, text):
        return [names.max_length(253)] if len(text) > 253 else []
    message = (
        "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of"
        " lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character"
    )
    return [names.regex_error(message, _WILDCARD, "*.example.com")]


_WILDCARD = r"\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"


def is_domain_prefixed(path: Path, text: str) -> Iterator[FieldError]:
    """``example.com/path``: controllers of ingress classes, signers, managers of jobs."""
    if not text:
        yield fields.required(path)
        return
    host, slash, rest = text.partition("/")
    if not slash or not host or not rest:
        yield fields.invalid(path, text, 'must be a domain-prefixed path (such as "acme.io/foo")')
        return
    yield from faults_of(path, host, names.dns_subdomain(host))
    if not re.fullmatch(_URL_PATH, rest):
        yield fields.invalid(path, rest, names.regex_error("Invalid path", _URL_PATH))


_URL_PATH = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+"


def conditions(path: Path, given: Iterable[Condition]) -> Iterator[FieldError]:
    """metav1 conditions of a status."""
    seen: set[str] = set()
    for n, condition in enumerate(given):
        at = path.index(n)
        if condition.type in seen:
            yield fields.duplicate(at.child("type"), condition.type)
        seen.add(condition.type)
        if condition.type:
            yield from faults_of(at.child("type"), condition.type, names.qualified_name(condition.type))
        else:
            yield fields.required(at.child("type"), "must be set")
        if condition.status not in ("True", "False", "Unknown"):
            yield fields.not_supported(at.child("status"), condition.status, ("False", "True", "Unknown"))
        yield from not_negative(at, "observedGeneration", condition.observed_generation)
        if not condition.last_transition_time:
            yield fields.required(at.child("lastTransitionTime"), "must be set")
        if not condition.reason:
            yield fields.required(at.child("reason"), "must be set")
