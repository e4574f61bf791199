"""PodCertificateRequests: a kubelet asks for the certificate of a pod. What is asked never changes; the status is settled
once: issued (with a chain for the key that was asked for), denied or failed.

Source: pkg/registry/certificates/podcertificaterequest/strategy.go; ValidatePodCertificateRequestCreate, …StatusUpdate.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from kaa.api import fields, names
from kaa.api.clock import moment_of, parse_time
from kaa.api.errors import Invalid
from kaa.api.fields import FieldError, Path
from kaa.api.types.certificates_v1beta1 import (
    PodCertificateRequest,
    PodCertificateRequestSpec,
    PodCertificateRequestStatus,
)

from ...validation.common import SPEC, STATUS, conditions, faults_of, immutable, is_domain_prefixed
from ...validation.meta import annotation_faults
from ...view import View
from ..strategy import Strategy
from ..tables import age, shape
from .pem import Block, blocks

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

SETTLED = ("Issued", "Denied", "Failed")
DAY_S = 24 * 3600
LEAST_S, MOST_S, MOST_KUBERNETES_S = 3600, 91 * DAY_S, DAY_S
_MOST_KEY_BYTES, _MOST_CHAIN_BYTES, _MOST_UID = 10 * 1024, 100 * 1024, 128
_SKEW_S, _REFRESH_S = 300, 600
_CHAIN, _KEY, _PROOF, _STUB = (
    STATUS.child("certificateChain"),
    SPEC.child("pkixPublicKey"),
    SPEC.child("proofOfPossession"),
    SPEC.child("stubPKCS10Request"),
)
_UNPROVEN = "could not verify proof-of-possession signature"


def _cells(obj: PodCertificateRequest, now: float) -> Sequence[Any]:
    spec = obj.spec
    word = next((one.type for one in (_status(obj)).conditions if one.type in SETTLED), "Pending")
    return obj.metadata.name, spec.pod_name, spec.service_account_name, spec.node_name, spec.signer_name, word, age(obj.metadata, now)  # fmt: skip


def _status(obj: PodCertificateRequest) -> PodCertificateRequestStatus:
    return obj.status or PodCertificateRequestStatus()


def is_settled(obj: PodCertificateRequest, *words: str) -> bool:
    return any(one.type in (words or SETTLED) and one.status == "True" for one in _status(obj).conditions)


class PodCertificateRequestStrategy(Strategy[PodCertificateRequest]):
    kind = PodCertificateRequest
    allows_unconditional_update = False
    table = shape(
        "certificates/podcertificaterequests", "PodName|ServiceAccountName|NodeName|SignerName|State|Age", _cells
    )
    field_names = frozenset(("spec.signerName", "spec.podName", "spec.nodeName"))

    def fields(self, obj: PodCertificateRequest) -> Mapping[str, str]:
        spec = obj.spec
        return {
            "spec.signerName": spec.signer_name,
            "spec.podName": spec.pod_name,
            "spec.nodeName": spec.node_name,
        }

    def default(self, obj: PodCertificateRequest) -> PodCertificateRequest:
        if obj.spec.max_expiration_seconds is not None and obj.status is not None:
            return obj
        seconds = DAY_S if obj.spec.max_expiration_seconds is None else obj.spec.max_expiration_seconds
        return replace(obj, spec=replace(obj.spec, max_expiration_seconds=seconds), status=_status(obj))

    def prepare_create(self, obj: PodCertificateRequest) -> PodCertificateRequest:
        return replace(obj, status=PodCertificateRequestStatus())

    def allocate(
        self, new: PodCertificateRequest, old: PodCertificateRequest | None, view: View
    ) -> PodCertificateRequest:
        """Only the time of an issue is looked at here, where there is a clock."""
        if old is None or not is_settled(new, "Issued") or is_settled(old) or self.validate_status_update(new, old):
            return new
        begin = _status(new).not_before or ""
        if abs(parse_time(begin) - view.clock.now()) >= _SKEW_S:
            why = "must be set to within 5 minutes of kube-apiserver's current time"
            faults = [fields.invalid(STATUS.child("notBefore"), begin, why)]
            raise Invalid.of(self.resource.group, self.resource.kind, new.metadata.name or "", faults)
        return new

    def validate(self, obj: PodCertificateRequest) -> list[FieldError]:
        return list(_faults(obj.spec))

    def validate_update(self, new: PodCertificateRequest, old: PodCertificateRequest) -> list[FieldError]:
        return list(immutable(SPEC, new.spec, old.spec))

    def validate_status_update(self, new: PodCertificateRequest, old: PodCertificateRequest) -> list[FieldError]:
        found = [*_condition_faults(new), *conditions(STATUS.child("conditions"), _status(new).conditions)]
        if found:
            return found
        if is_settled(old):
            why = "immutable after PodCertificateRequest is issued, denied, or failed"
            return _unless(_status(new) == _status(old), why)
        if is_settled(new, "Denied", "Failed"):
            why = "non-condition status fields must be empty when denying or failing the PodCertificateRequest"
            return _unless(_status(new) == PodCertificateRequestStatus(conditions=_status(new).conditions), why)
        if is_settled(new, "Issued"):
            return next(([fault] for fault in _issue_faults(new, old)), [])
        why = 'status is immutable unless transitioning to "Issued", "Denied", or "Failed"'
        return _unless(_status(new) == _status(old), why)


def _unless(right: bool, why: str) -> list[FieldError]:
    return [] if right else [FieldError(fields.INVALID, str(STATUS), f"Invalid value: {why}")]


# ------------------------------------------------------------------------------------------------ what is asked


def _faults(spec: PodCertificateRequestSpec) -> Iterator[FieldError]:
    yield from is_domain_prefixed(SPEC.child("signerName"), spec.signer_name)
    yield from _annotation_faults(spec.unverified_user_annotations)
    for wire, name in (
        ("podName", spec.pod_name),
        ("serviceAccountName", spec.service_account_name),
        ("nodeName", spec.node_name),
    ):
        yield from faults_of(SPEC.child(wire), name, names.dns_subdomain(name))
    for wire, uid in (
        ("podUID", spec.pod_uid),
        ("serviceAccountUID", spec.service_account_uid),
        ("nodeUID", spec.node_uid),
    ):
        if not uid:
            yield fields.invalid(SPEC.child(wire), uid, "must not be empty")
        if len(uid) > _MOST_UID:
            yield fields.too_long(SPEC.child(wire), _MOST_UID)
    seconds = spec.max_expiration_seconds or 0
    most = MOST_KUBERNETES_S if spec.signer_name.partition("/")[0] == "kubernetes.io" else MOST_S
    if not LEAST_S <= seconds <= most:
        why = f"must be in the range [{LEAST_S}, {most}]"
        yield fields.invalid(SPEC.child("maxExpirationSeconds"), seconds, why)
    yield from _key_faults(spec)


def _annotation_faults(given: Mapping[str, str]) -> Iterator[FieldError]:
    at = SPEC.child("unverifiedUserAnnotations")
    yield from annotation_faults(given, at)
    for key in given:
        if "/" not in key:
            yield fields.invalid(at, key, 'must be a domain-prefixed key (such as "acme.io/foo")')


def _key_faults(spec: PodCertificateRequestSpec) -> Iterator[FieldError]:
    stub, key, proof = (
        base64.b64decode(text or "")
        for text in (spec.stub_pkcs10_request, spec.pkix_public_key, spec.proof_of_possession)
    )
    for at, data in ((_STUB, stub), (_KEY, key), (_PROOF, proof)):
        if len(data) > _MOST_KEY_BYTES:
            yield fields.too_long(at, _MOST_KEY_BYTES)
            return
    if bool(stub) == bool(key) or bool(key) != bool(proof):
        why = "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set"
        yield FieldError(fields.INVALID, str(SPEC), f"Invalid value: {why}")
    elif stub:
        yield from _stub_faults(stub, spec.stub_pkcs10_request)
    else:
        yield from _proof_faults(key, proof, spec)


def _stub_faults(stub: bytes, text: str) -> Iterator[FieldError]:
    from cryptography import x509

    try:
        request = x509.load_der_x509_csr(stub)
        key = request.public_key()
    except ValueError:
        yield fields.invalid(_STUB, text, "must be a valid PKCS#10 request")
        return
    found = list(_kind_faults(_STUB, key, text))
    yield from found
    if not found and not request.is_signature_valid:
        yield FieldError(fields.INVALID, str(_STUB), "Invalid value: could not verify the signature of the request")


def _proof_faults(data: bytes, proof: bytes, spec: PodCertificateRequestSpec) -> Iterator[FieldError]:
    from cryptography.exceptions import InvalidSignature

    key = _public_key(data)
    if key is None:
        yield fields.invalid(_KEY, spec.pkix_public_key, "must be a valid PKIX-serialized public key")
        return
    found = list(_kind_faults(_KEY, key, spec.pkix_public_key or ""))
    yield from found
    if found:
        return
    try:
        _verify(key, proof, spec.pod_uid.encode())
    except InvalidSignature:
        yield FieldError(fields.INVALID, str(_PROOF), f"Invalid value: {_UNPROVEN}")


def _public_key(data: bytes) -> Any:
    """The key in its PKIX form; None for what is none."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    try:
        return load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        return None


def _kind_faults(at: Path, key: Any, text: str) -> Iterator[FieldError]:
    """Keys that are too weak, or of a kind that nobody takes."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size not in (3072, 4096):
            why = "RSA keys must have modulus size 3072 or 4096"
            yield fields.invalid(at, f"{key.key_size}-bit modulus", why)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        if not isinstance(key.curve, (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)):
            yield fields.invalid(at, f"curve {key.curve.name}", "elliptic public keys must use curve P256 or P384")
    elif not isinstance(key, ed25519.Ed25519PublicKey):
        yield fields.invalid(at, text, "unknown public key type; supported types are Ed25519, ECDSA, and RSA")


def _verify(key: Any, proof: bytes, uid: bytes) -> None:
    """That whoever knows the private key has signed the pod's uid. Raises InvalidSignature."""
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
    from cryptography.hazmat.primitives.hashes import SHA256

    if isinstance(key, rsa.RSAPublicKey):
        key.verify(proof, uid, padding.PSS(padding.MGF1(SHA256()), padding.PSS.AUTO), SHA256())
    elif isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(proof, uid, ec.ECDSA(SHA256()))
    else:
        key.verify(proof, uid)


# ------------------------------------------------------------------------------------------------ what is answered


def _condition_faults(obj: PodCertificateRequest) -> Iterator[FieldError]:
    settled = 0
    for n, condition in enumerate(_status(obj).conditions):
        at = STATUS.child("conditions", f"[{n}]")
        if condition.type not in SETTLED:
            yield fields.not_supported(at.child("type"), condition.type, SETTLED)
            continue
        settled += 1
        if settled > 1:
            why = 'There may be at most one condition with type "Issued", "Denied", or "Failed"'
            yield fields.invalid(at.child("type"), condition.type, why)
        if condition.status != "True":
            yield fields.not_supported(at.child("status"), condition.status, ("True",))


def _issue_faults(new: PodCertificateRequest, old: PodCertificateRequest) -> Iterator[FieldError]:
    """The first of them is told."""
    status = _status(new)
    chain = status.certificate_chain or ""
    if len(chain.encode()) > _MOST_CHAIN_BYTES:
        yield fields.too_long(_CHAIN, _MOST_CHAIN_BYTES)
    found = blocks(chain)
    if not found:
        yield fields.invalid(_CHAIN, chain, "issued certificate chain must contain at least one certificate")
        return
    leaf = _certificate(found[0])
    if found[0].kind != "CERTIFICATE":
        yield fields.invalid(_CHAIN, chain, "issued certificate chain must consist entirely of CERTIFICATE PEM blocks")
    elif leaf is None:
        yield fields.invalid(_CHAIN, chain, "leaf certificate does not parse as valid X.509")
    else:
        yield from _leaf_faults(leaf, chain, old.spec)
        yield from _time_faults(leaf, status, old.spec)
    for block in found[1:]:
        if block.kind != "CERTIFICATE":
            why = "issued certificate chain must consist entirely of CERTFICATE PEM blocks"  # upstream's spelling
            yield fields.invalid(_CHAIN, chain, why)
        elif _certificate(block) is None:
            yield fields.invalid(_CHAIN, chain, "intermediate certificate does not parse as valid X.509")


def _certificate(block: Block) -> Certificate | None:
    from cryptography import x509

    try:
        return x509.load_der_x509_certificate(block.data)
    except ValueError:
        return None


def _leaf_faults(leaf: Certificate, chain: str, spec: PodCertificateRequestSpec) -> Iterator[FieldError]:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        listed = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        dns_names = listed.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        dns_names = []
    for name in dns_names:
        if not name:
            yield fields.invalid(_CHAIN, name, "leaf certificate should not contain empty DNSName")
        elif ".." in name:
            yield fields.invalid(_CHAIN, name, "leaf certificate's DNSName should not contain '..'")
        elif name.startswith(".") or name.endswith("."):
            yield fields.invalid(_CHAIN, name, "leaf certificate's DNSName should not start or end with '.'")
    if spec.stub_pkcs10_request:
        wanted: Any = x509.load_der_x509_csr(base64.b64decode(spec.stub_pkcs10_request)).public_key()
    else:
        wanted = _public_key(base64.b64decode(spec.pkix_public_key or ""))
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if wanted.public_bytes(*form) != leaf.public_key().public_bytes(*form):
        yield fields.invalid(_CHAIN, chain, "leaf certificate was not issued to the requested public key")


def _time_faults(
    leaf: Certificate, status: PodCertificateRequestStatus, spec: PodCertificateRequestSpec
) -> Iterator[FieldError]:
    begins, ends, refresh = (STATUS.child(wire) for wire in ("notBefore", "notAfter", "beginRefreshAt"))
    consistent = "must be present and consistent with the issued certificate"
    for at, given, why in (
        (begins, status.not_before, consistent),
        (ends, status.not_after, consistent),
        (refresh, status.begin_refresh_at, "must be present and in the range [notbefore+10min, notafter-10min]"),
    ):
        if not given:
            yield fields.required(at, why)
    if not (status.not_before and status.not_after and status.begin_refresh_at):
        return
    first, last = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
    if moment_of(status.not_before) != first:
        yield fields.invalid(
            begins, status.not_before, "must be set to the NotBefore time encoded in the leaf certificate"
        )
    if moment_of(status.not_after) != last:
        yield fields.invalid(ends, status.not_after, "must be set to the NotAfter time encoded in the leaf certificate")
    lifetime, most = int(last - first), spec.max_expiration_seconds or DAY_S
    if lifetime < LEAST_S:
        yield fields.invalid(_CHAIN, lifetime, "leaf certificate lifetime must be >= 1 hour")
    if lifetime > most:
        why = f"leaf certificate lifetime must be <= spec.maxExpirationSeconds ({most})"
        yield fields.invalid(_CHAIN, lifetime, why)
    moment = moment_of(status.begin_refresh_at) or 0.0
    if moment < first + _REFRESH_S:
        yield fields.invalid(refresh, status.begin_refresh_at, "must be at least 10 minutes after status.notBefore")
    if moment > last - _REFRESH_S:
        yield fields.invalid(refresh, status.begin_refresh_at, "must be at least 10 minutes before status.notAfter")


STRATEGY = PodCertificateRequestStrategy()
