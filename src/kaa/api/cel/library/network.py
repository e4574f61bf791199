"""IP addresses and CIDRs: ``cidr('10.0.0.0/8').containsIP(self.address)``.

Source: apiserver pkg/cel/library/ip.go, cidr.go; Go net/netip.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import ClassVar

from ..declarations import Library, function, member
from ..errors import EvaluationError
from ..types import BOOL, INT, STRING, OpaqueType, Type

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
IP, CIDR = OpaqueType("net.IP"), OpaqueType("net.CIDR")
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")
_LOCAL_MULTICAST = ipaddress.IPv4Network("224.0.0.0/24")


@dataclass(frozen=True)
class IPValue:
    cel_type: ClassVar[Type] = IP
    address: Address

    @property
    def cel_size(self) -> int:
        return self.address.max_prefixlen // 8

    @property
    def cel_text(self) -> str:
        return str(self.address)


@dataclass(frozen=True)
class CIDRValue:
    cel_type: ClassVar[Type] = CIDR
    address: Address
    bits: int

    @property
    def cel_size(self) -> int:
        return -(-self.bits // 8)

    @property
    def cel_text(self) -> str:
        return f"{self.address}/{self.bits}"

    def masked(self) -> CIDRValue:
        return CIDRValue(_masked(self.address, self.bits), self.bits)


def _masked(address: Address, bits: int) -> Address:
    spare = address.max_prefixlen - bits
    return type(address)(int(address) >> spare << spare)


def _parse(text: str) -> Address:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        fault = _fault(text)
        shown = f'IP Address "{text}" parse error during conversion from string: ParseAddr("{text}"): {fault}'
        raise EvaluationError(shown) from None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise EvaluationError(f'IP address "{text}" with zone value is not allowed')
        if address.ipv4_mapped is not None:
            raise EvaluationError(f'IPv4-mapped IPv6 address "{text}" is not allowed')
    return address


def _fault(text: str) -> str:
    """Why netip refuses it, as far as its more frequent words go."""
    if ":" in text or "." not in text:
        return "unable to parse IP"
    for part in (parts := text.split(".")):
        if part == "":
            return f'IPv4 field must have at least one digit (at "{text}")' if text[0] == "." else "unable to parse IP"
        if not part.isdecimal():
            return "unexpected character (at " + f'"{text[text.index(part) :]}")'
        if len(part) > 1 and part[0] == "0":
            return "IPv4 field has octet with leading zero"
        if int(part) > 255:
            return "IPv4 field has value >255"
    return "IPv4 address too short" if len(parts) < 4 else "IPv4 address too long"


def _parse_prefix(text: str) -> CIDRValue:
    host, slash, bits = text.rpartition("/")
    failed = "network address parse error during conversion from string: "
    shown = f'{failed}{failed}netip.ParsePrefix("{text}"): '
    if not slash:
        raise EvaluationError(shown + "no '/'")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise EvaluationError(f'{shown}ParseAddr("{host}"): {_fault(host)}') from None
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        raise EvaluationError(shown + "IPv6 zones cannot be present in a prefix")
    if not bits.isascii() or not bits.isdecimal() or (len(bits) > 1 and bits[0] == "0"):
        raise EvaluationError(f'{shown}bad bits after slash: "{bits}"')
    if int(bits) > address.max_prefixlen:
        raise EvaluationError(shown + "prefix length out of range")
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        raise EvaluationError(f'{failed}IPv4-mapped IPv6 address "{text}" is not allowed')
    return CIDRValue(address, int(bits))


def _is_ip(text: str) -> bool:
    try:
        _parse(text)
    except EvaluationError:
        return False
    return True


def _is_cidr(text: str) -> bool:
    try:
        _parse_prefix(text)
    except EvaluationError:
        return False
    return True


def _is_loopback(ip: IPValue) -> bool:
    return ip.address.is_loopback


def _is_link_local_unicast(ip: IPValue) -> bool:
    return ip.address.is_link_local


def _is_link_local_multicast(ip: IPValue) -> bool:
    if isinstance(ip.address, ipaddress.IPv4Address):
        return ip.address in _LOCAL_MULTICAST
    packed = ip.address.packed
    return packed[0] == 0xFF and packed[1] & 0x0F == 0x02


def _is_global_unicast(ip: IPValue) -> bool:
    address = ip.address
    if address == _BROADCAST:
        return False
    return not (address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local)


def _contains_ip(cidr: CIDRValue, ip: IPValue) -> bool:
    if cidr.address.version != ip.address.version:
        return False
    return _masked(cidr.address, cidr.bits) == _masked(ip.address, cidr.bits)


def _contains_cidr(cidr: CIDRValue, other: CIDRValue) -> bool:
    if cidr.address.version != other.address.version or cidr.bits > other.bits:
        return False
    return _masked(cidr.address, cidr.bits) == _masked(other.address, cidr.bits)


LIBRARY = Library(
    "kubernetes.net",
    (
        function("ip", "string_to_ip", (STRING,), IP, lambda text: IPValue(_parse(text))),
        function("isIP", "is_ip", (STRING,), BOOL, _is_ip),
        function("ip.isCanonical", "ip_is_canonical", (STRING,), BOOL, lambda text: str(_parse(text)) == text),
        function("string", "ip_to_string", (IP,), STRING, lambda ip: ip.cel_text),
        member("family", "ip_family", (IP,), INT, lambda ip: ip.address.version),
        member("isUnspecified", "ip_is_unspecified", (IP,), BOOL, lambda ip: ip.address.is_unspecified),
        member("isLoopback", "ip_is_loopback", (IP,), BOOL, _is_loopback),
        member("isLinkLocalMulticast", "ip_is_link_local_multicast", (IP,), BOOL, _is_link_local_multicast),
        member("isLinkLocalUnicast", "ip_is_link_local_unicast", (IP,), BOOL, _is_link_local_unicast),
        member("isGlobalUnicast", "ip_is_global_unicast", (IP,), BOOL, _is_global_unicast),
        function("cidr", "string_to_cidr", (STRING,), CIDR, _parse_prefix),
        function("isCIDR", "is_cidr", (STRING,), BOOL, _is_cidr),
        function("string", "cidr_to_string", (CIDR,), STRING, lambda cidr: cidr.cel_text),
        member("ip", "cidr_ip", (CIDR,), IP, lambda cidr: IPValue(cidr.address)),
        member("prefixLength", "cidr_prefix_length", (CIDR,), INT, lambda cidr: cidr.bits),
        member("masked", "cidr_masked", (CIDR,), CIDR, lambda cidr: cidr.masked()),
        member("containsIP", "cidr_contains_ip_ip", (CIDR, IP), BOOL, _contains_ip),
        member(
            "containsIP",
            "cidr_contains_ip_string",
            (CIDR, STRING),
            BOOL,
            lambda cidr, text: _contains_ip(cidr, IPValue(_parse(text))),
        ),
        member("containsCIDR", "cidr_contains_cidr", (CIDR, CIDR), BOOL, _contains_cidr),
        member(
            "containsCIDR",
            "cidr_contains_cidr_string",
            (CIDR, STRING),
            BOOL,
            lambda cidr, text: _contains_cidr(cidr, _parse_prefix(text)),
        ),
    ),
    types={"net.IP": IP, "net.CIDR": CIDR},
)
