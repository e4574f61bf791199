"""CertificateSigningRequests. Who asks is set by the server, not by the asker.

Source: pkg/registry/certificates/certificates/strategy.go; pkg/apis/certificates/validation.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cryptography import x509
from msgspec.structs import replace

from kaa.api import fields, names
from kaa.api.clock import format_duration
from kaa.api.fields import FieldError, Path
from kaa.api.types.certificates_v1 import CertificateSigningRequest, CertificateSigningRequestStatus
from kaa.client.pipeline import User

from ...validation.common import SPEC, STATUS, immutable, is_domain_prefixed
from ..strategy import Strategy
from ..tables import NONE, age, shape

_LEAST_SECONDS = 600
_USAGES = (
    "any", "cert sign", "client auth", "code signing", "content commitment", "crl sign", "data encipherment",
    "decipher only", "digital signature", "email protection", "encipher only", "ipsec end system", "ipsec tunnel",
    "ipsec user", "key agreement", "key encipherment", "microsoft sgc", "netscape sgc", "ocsp signing", "s/mime",
    "server auth", "signing", "timestamping",
)  # fmt: skip


def _cells(obj: CertificateSigningRequest, now: float) -> Sequence[Any]:
    seconds = obj.spec.expiration_seconds
    return (
        obj.metadata.name,
        age(obj.metadata, now),
        obj.spec.signer_name or NONE,
        obj.spec.username or "",
        NONE if seconds is None else format_duration(seconds),
        _condition(obj),
    )


def _condition(obj: CertificateSigningRequest) -> str:
    """``Approved,Issued``."""
    given = {condition.type for condition in obj.status.conditions}
    words: list[str] = [word for word in ("Approved", "Denied", "Failed") if word in given] or ["Pending"]
    if words[0] == "Failed":
        words = ["Pending", "Failed"]
    return ",".join([*words, "Issued"] if obj.status.certificate else words)


class SigningRequestStrategy(Strategy[CertificateSigningRequest]):
    kind = CertificateSigningRequest
    table = shape(
        "certificates/certificatesigningrequests", "Age|SignerName|Requestor|RequestedDuration|Condition", _cells
    )
    field_names = frozenset(("spec.signerName",))

    @staticmethod
    def name_faults(name: str, /) -> list[str]:
        """Any that a URL can hold: kubelets name theirs by a digest in base64, ``node-csr-uqNUG6f…``."""
        return names.path_segment(name)

    def prepare_create(self, obj: CertificateSigningRequest) -> CertificateSigningRequest:
        return replace(obj, status=CertificateSigningRequestStatus())

    def asked_by(self, obj: CertificateSigningRequest, user: User) -> CertificateSigningRequest:
        extra = {name: tuple(values) for name, values in user.extra.items()}
        spec = replace(obj.spec, username=user.name or None, uid=user.uid or None, groups=user.groups, extra=extra)
        return replace(obj, spec=spec)

    def prepare_update(
        self, new: CertificateSigningRequest, old: CertificateSigningRequest
    ) -> CertificateSigningRequest:
        return replace(new, spec=old.spec, status=old.status)

    def prepare_status_update(
        self, new: CertificateSigningRequest, old: CertificateSigningRequest
    ) -> CertificateSigningRequest:
        """Neither the spec nor approval and denial."""
        kept = tuple(c for c in new.status.conditions if c.type not in ("Approved", "Denied"))
        decided = tuple(c for c in old.status.conditions if c.type in ("Approved", "Denied"))
        return replace(old, metadata=new.metadata, status=replace(new.status, conditions=decided + kept))

    def subresource_update(
        self, subresource: str, new: CertificateSigningRequest, old: CertificateSigningRequest
    ) -> CertificateSigningRequest | None:
        if subresource != "approval":
            return None
        return replace(old, metadata=new.metadata, status=replace(old.status, conditions=new.status.conditions))

    def validate(self, obj: CertificateSigningRequest) -> list[FieldError]:
        return list(_faults(obj))

    def validate_update(self, new: CertificateSigningRequest, old: CertificateSigningRequest) -> list[FieldError]:
        return []

    def validate_status_update(
        self, new: CertificateSigningRequest, old: CertificateSigningRequest
    ) -> list[FieldError]:
        found = list(_conditions(new))
        if old.status.certificate and new.status.certificate != old.status.certificate:
            found += immutable(STATUS.child("certificate"), new.status.certificate, old.status.certificate)
        return found

    def validate_subresource_update(
        self, subresource: str, new: CertificateSigningRequest, old: CertificateSigningRequest
    ) -> list[FieldError]:
        return list(_conditions(new))

    def fields(self, obj: CertificateSigningRequest) -> Mapping[str, str]:
        return {"spec.signerName": obj.spec.signer_name}


def _faults(obj: CertificateSigningRequest) -> Iterator[FieldError]:
    spec = obj.spec
    try:
        x509.load_pem_x509_csr(base64.b64decode(spec.request))
    except (ValueError, binascii.Error) as err:
        detail = "PEM block type must be CERTIFICATE REQUEST" if "PEM" in str(err) or "pem" in str(err) else str(err)
        yield fields.invalid(SPEC.child("request"), spec.request, detail)
    if not spec.usages:
        yield fields.required(SPEC.child("usages"), "usages are required")
    for n, usage in enumerate(spec.usages):
        at = SPEC.child("usages").index(n)
        if usage not in _USAGES:
            yield fields.not_supported(at, usage, _USAGES)
        if usage in spec.usages[:n]:
            yield fields.duplicate(at, usage)
    yield from _signer(SPEC.child("signerName"), spec.signer_name)
    seconds = spec.expiration_seconds
    if seconds is not None and seconds < _LEAST_SECONDS:
        detail = "may not specify a duration less than 600 seconds (10 minutes)"
        yield fields.invalid(SPEC.child("expirationSeconds"), seconds, detail)
    yield from _conditions(obj)


def _signer(path: Path, name: str) -> Iterator[FieldError]:
    if name == "kubernetes.io/legacy-unknown":
        detail = "the legacy signerName is not allowed via this API version"
        yield fields.invalid(path, name, detail)
        return
    yield from is_domain_prefixed(path, name)


def _conditions(obj: CertificateSigningRequest) -> Iterator[FieldError]:
    at = STATUS.child("conditions")
    seen: set[str] = set()
    for n, condition in enumerate(obj.status.conditions):
        here = at.index(n)
        if not condition.type:
            yield fields.required(here.child("type"))
        if condition.type in seen:
            yield fields.duplicate(here.child("type"), condition.type)
        seen.add(condition.type)
        if condition.type in ("Approved", "Denied", "Failed"):
            if condition.status != "True":
                yield fields.not_supported(here.child("status"), condition.status, ("True",))
        elif condition.status not in ("True", "False", "Unknown"):
            yield fields.not_supported(here.child("status"), condition.status, ("False", "True", "Unknown"))
    if {"Approved", "Denied"} <= seen:
        yield fields.invalid(at, "Denied", "Approved and Denied conditions are mutually exclusive")


STRATEGY = SigningRequestStrategy()
