"""Signing: a certificate made of a request, by an authority whose certificate and key are at hand.

    authority = Authority(ca_pem, key_pem)
    pem = authority.sign(read_request(csr.spec.request), csr.spec.usages, life_s=3600, now=clock.now())

Subject, names and key are the request's; everything else is said here: what it may be used for, from when, until when.

Source: kubernetes pkg/controller/certificates/authority; RFC 5280.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

#: Certificates begin a little in the past, for clocks that lag.
BACKDATE_S = 300.0
#: Shorter lives than this do not pay for it with their end.
SHORT_S = 8 * 3600.0

#: {usage: the bit of KeyUsage that it sets}
KEY_USAGES = {
    "signing": "digital_signature",
    "digital signature": "digital_signature",
    "content commitment": "content_commitment",
    "key encipherment": "key_encipherment",
    "key agreement": "key_agreement",
    "data encipherment": "data_encipherment",
    "cert sign": "key_cert_sign",
    "crl sign": "crl_sign",
    "encipher only": "encipher_only",
    "decipher only": "decipher_only",
}
EXTENDED_USAGES = {
    "any": ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
    "server auth": ExtendedKeyUsageOID.SERVER_AUTH,
    "client auth": ExtendedKeyUsageOID.CLIENT_AUTH,
    "code signing": ExtendedKeyUsageOID.CODE_SIGNING,
    "email protection": ExtendedKeyUsageOID.EMAIL_PROTECTION,
    "s/mime": ExtendedKeyUsageOID.EMAIL_PROTECTION,
    "ipsec end system": ObjectIdentifier("1.3.6.1.5.5.7.3.5"),
    "ipsec tunnel": ObjectIdentifier("1.3.6.1.5.5.7.3.6"),
    "ipsec user": ObjectIdentifier("1.3.6.1.5.5.7.3.7"),
    "timestamping": ExtendedKeyUsageOID.TIME_STAMPING,
    "ocsp signing": ExtendedKeyUsageOID.OCSP_SIGNING,
    "microsoft sgc": ObjectIdentifier("1.3.6.1.4.1.311.10.3.3"),
    "netscape sgc": ObjectIdentifier("2.16.840.1.113730.4.1"),
}


class SigningFailed(Exception):
    """This request cannot be signed now."""


def read_request(text: str) -> x509.CertificateSigningRequest:
    """Read the base64 of a PEM request. Raises ValueError for what is none."""
    return x509.load_pem_x509_csr(base64.b64decode(text))


def expires_at(text: str) -> float:
    """When a certificate (base64 of PEM) ends, in seconds since 1970. Raises ValueError for what is none."""
    return x509.load_pem_x509_certificate(base64.b64decode(text)).not_valid_after_utc.timestamp()


class Authority:
    """An authority's certificate and key, both PEM. Raises ValueError when they cannot be read."""

    def __init__(self, certificate: bytes, key: bytes) -> None:
        self.certificate = x509.load_pem_x509_certificate(certificate)
        found = load_pem_private_key(key, password=None)
        if not isinstance(found, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
            raise ValueError("the authority's key is neither an elliptic curve key nor an RSA key")
        self._key = found

    def sign(
        self, request: x509.CertificateSigningRequest, usages: Iterable[str], *, life_s: float, now: float
    ) -> bytes:
        """The certificate for a request, as PEM. It never outlives the authority. Raises SigningFailed."""
        ends = self.certificate.not_valid_after_utc.timestamp()
        if now >= ends:
            raise SigningFailed(f"the signer has expired: NotAfter={self.certificate.not_valid_after_utc}")
        if not request.is_signature_valid:
            raise SigningFailed("unable to verify certificate request signature")
        until = now + life_s - (0 if life_s < SHORT_S else BACKDATE_S)
        builder = (
            x509.CertificateBuilder()
            .serial_number(x509.random_serial_number())
            .issuer_name(self.certificate.subject)
            .subject_name(request.subject)
            .public_key(request.public_key())
            .not_valid_before(_moment(now - BACKDATE_S))
            .not_valid_after(_moment(min(until, ends)))
        )
        for extension, critical in self._extensions(request, usages):
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM)

    def _extensions(
        self, request: x509.CertificateSigningRequest, usages: Iterable[str]
    ) -> Iterable[tuple[x509.ExtensionType, bool]]:
        bits, extended = sort_usages(usages)
        if bits:
            yield _key_usage(bits), True
        if extended:
            yield x509.ExtendedKeyUsage(extended), False
        yield x509.BasicConstraints(ca=False, path_length=None), True
        yield self._holder(), False
        names = names_of(request)
        if names:
            yield x509.SubjectAlternativeName(names), not list(request.subject)

    def _holder(self) -> x509.AuthorityKeyIdentifier:
        try:
            found = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        except x509.ExtensionNotFound:
            return x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found)


def names_of(request: x509.CertificateSigningRequest) -> list[x509.GeneralName]:
    """The alternative names that a request asks for, of the kinds that are carried over."""
    try:
        found = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    kinds = (x509.DNSName, x509.IPAddress, x509.RFC822Name, x509.UniformResourceIdentifier)
    return [name for name in found if isinstance(name, kinds)]


def sort_usages(usages: Iterable[str]) -> tuple[set[str], list[ObjectIdentifier]]:
    """The bits of KeyUsage and the extended usages that an API object's words stand for. Raises SigningFailed."""
    words = list(usages)
    unknown = [word for word in words if word not in KEY_USAGES and word not in EXTENDED_USAGES]
    if unknown:
        quoted = " ".join(f'"{word}"' for word in unknown)
        raise SigningFailed(f"unrecognized usage values: [{quoted}]")
    bits = {KEY_USAGES[word] for word in words if word in KEY_USAGES}
    extended = {EXTENDED_USAGES[word]: None for word in EXTENDED_USAGES if word in words}
    return bits, list(extended)


def _key_usage(bits: set[str]) -> x509.KeyUsage:
    flags: dict[str, Any] = dict.fromkeys(KEY_USAGES.values(), False)
    return x509.KeyUsage(**(flags | dict.fromkeys(bits, True)))


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)
