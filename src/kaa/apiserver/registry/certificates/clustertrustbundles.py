"""ClusterTrustBundles: certificates of authorities that pods may trust.

Source: pkg/registry/certificates/clustertrustbundle/strategy.go; ValidateClusterTrustBundle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kaa.api import fields, names
from kaa.api.fields import FieldError, Path
from kaa.api.types.certificates_v1beta1 import ClusterTrustBundle

from ...validation.common import METADATA, SPEC, faults_of, immutable, is_domain_prefixed
from ..strategy import Strategy
from ..tables import NONE, shape
from .pem import Block, blocks

_MOST_BYTES = 1024 * 1024
_HIDDEN = "<value omitted>"


def _cells(obj: ClusterTrustBundle, now: float) -> Sequence[Any]:
    return obj.metadata.name, obj.spec.signer_name or NONE


class ClusterTrustBundleStrategy(Strategy[ClusterTrustBundle]):
    kind = ClusterTrustBundle
    allows_unconditional_update = False
    table = shape("certificates/clustertrustbundles", "SignerName", _cells)
    field_names = frozenset(("spec.signerName",))

    @staticmethod
    def name_faults(name: str, /) -> list[str]:
        """Which names it may have, its signer says: ``validate`` looks."""
        return []

    def fields(self, obj: ClusterTrustBundle) -> Mapping[str, str]:
        return {"spec.signerName": obj.spec.signer_name or ""}

    def validate(self, obj: ClusterTrustBundle) -> list[FieldError]:
        return [*_name_faults(obj), *_bundle_faults(SPEC.child("trustBundle"), obj.spec.trust_bundle)]

    def validate_update(self, new: ClusterTrustBundle, old: ClusterTrustBundle) -> list[FieldError]:
        same = new.spec.trust_bundle == old.spec.trust_bundle
        found = list(_name_faults(new)) if same else self.validate(new)
        signers = new.spec.signer_name or "", old.spec.signer_name or ""
        return [*found, *immutable(SPEC.child("signerName"), *signers)]


def _name_faults(obj: ClusterTrustBundle) -> Iterator[FieldError]:
    name, signer = obj.metadata.name or "", obj.spec.signer_name or ""
    prefix = signer.replace("/", ":") + ":" if signer else ""
    at = METADATA.child("name")
    if not signer and ":" in name:
        yield fields.invalid(at, name, 'ClusterTrustBundle without signer name must not have ":" in its name')
    elif not name.startswith(prefix):
        why = f"ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}"
        yield fields.invalid(at, name, why)
    else:
        yield from faults_of(at, name, names.dns_subdomain(name.removeprefix(prefix)))
    if signer:
        yield from is_domain_prefixed(SPEC.child("signerName"), signer)


def _bundle_faults(at: Path, text: str) -> Iterator[FieldError]:
    if len(text.encode()) > _MOST_BYTES:
        yield fields.too_long(at, _MOST_BYTES)
        return
    seen: dict[bytes, list[int]] = {}
    sound = True
    for n, block in enumerate(blocks(text)):
        fault = _block_fault(block)
        if fault:
            sound = False
            yield fields.invalid(at, _HIDDEN, f"entry {n} {fault}")
        seen.setdefault(block.data, []).append(n)
    if not sound:
        return
    if not seen:
        yield fields.invalid(at, _HIDDEN, "at least one trust anchor must be provided")
    for places in seen.values():
        if len(places) > 1:
            listed = " ".join(map(str, places))
            yield fields.invalid(at, _HIDDEN, f"duplicate trust anchor (indices [{listed}])")


def _block_fault(block: Block) -> str:
    """What is wrong with a block; empty for nothing."""
    from cryptography import x509

    if block.kind != "CERTIFICATE":
        return f"has bad block type: {block.kind}"
    if block.headers:
        return "has PEM block headers"
    try:
        found = x509.load_der_x509_certificate(block.data)
        limits = found.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return "does not have the CA bit set"
    except ValueError:
        return "does not parse as X.509"
    return "" if limits.ca else "does not have the CA bit set"


STRATEGY = ClusterTrustBundleStrategy()
