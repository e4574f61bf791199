"""CertificateSigningRequests: approve what kubelets may have, sign what is approved, clean up what is old.

The three share the request's words: Approved and Denied are said once, by people or the approver; Failed by the signer. The
signer signs for the four signers of ``kubernetes.io``, each with its own rules about what a request may say.

Source: kubernetes pkg/controller/certificates/{approver,signer,cleaner}; API reference "Certificate Signing Requests".
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import structlog
from cryptography import x509
from cryptography.x509.oid import NameOID
from msgspec.structs import replace

from kaa.api.clock import parse_time
from kaa.api.errors import NotFound
from kaa.api.types.authorization_v1 import ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec
from kaa.api.types.certificates_v1 import CertificateSigningRequest, CertificateSigningRequestCondition
from kaa.api.values import Base64, Time
from kaa.client.informer import key_of
from kaa.client.workqueue import Key

from .certificate_authority import Authority, expires_at, names_of, read_request
from .controller import Context, Controller

log = structlog.get_logger(__name__)

CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY = (
    "kubernetes.io/kube-apiserver-client",
    "kubernetes.io/kube-apiserver-client-kubelet",
    "kubernetes.io/kubelet-serving",
    "kubernetes.io/legacy-unknown",
)
SIGNING_LIFE_S = 365 * 24 * 3600.0
LEAST_LIFE_S = 600.0
HOUR_S = 3600.0
PENDING_S, SETTLED_S = 24 * HOUR_S, HOUR_S

NODES, NODE_PREFIX = "system:nodes", "system:node:"
#: What kubelets ask for; with a key that is not RSA, without "key encipherment".
CLIENT_USAGES = ("client auth", "digital signature", "key encipherment")
SERVING_USAGES = ("digital signature", "key encipherment", "server auth")


# ------------------------------------------------------------------------------------------------ what a request says


def has(csr: CertificateSigningRequest, condition: str) -> bool:
    return any(c.type == condition and c.status == "True" for c in csr.status.conditions)


def with_condition(
    csr: CertificateSigningRequest, type: str, reason: str, message: str, now: Time
) -> CertificateSigningRequest:
    condition = CertificateSigningRequestCondition(
        type=type, status="True", reason=reason, message=message, last_update_time=now, last_transition_time=now
    )
    return replace(csr, status=replace(csr.status, conditions=(*csr.status.conditions, condition)))


def _words(request: x509.CertificateSigningRequest, what: x509.ObjectIdentifier) -> list[str]:
    return [str(each.value) for each in request.subject.get_attributes_for_oid(what)]


def _as_node(request: x509.CertificateSigningRequest, usages: Collection[str], wanted: Iterable[str]) -> str:
    """Why a request is no node's; empty when it is one."""
    if not "".join(_words(request, NameOID.COMMON_NAME)).startswith(NODE_PREFIX):
        return f"subject common name does not begin with {NODE_PREFIX}"
    required = set(wanted)
    if set(usages) not in (required, required - {"key encipherment"}):
        return f"usages did not match [{' '.join(sorted(required))}]"
    return ""


def kubelet_client_fault(request: x509.CertificateSigningRequest, usages: Collection[str]) -> str:
    """Why a request is not one for a kubelet's client certificate; empty when it is."""
    if _words(request, NameOID.ORGANIZATION_NAME) != [NODES]:
        return "subject organization is not system:nodes"
    kinds = {type(name) for name in names_of(request)}
    refused: tuple[tuple[type, str], ...] = (
        (x509.DNSName, "DNS"),
        (x509.RFC822Name, "Email"),
        (x509.IPAddress, "IP"),
        (x509.UniformResourceIdentifier, "URI"),
    )
    for kind, word in refused:
        if kind in kinds:
            return f"{word} subjectAltNames are not allowed"
    return _as_node(request, usages, CLIENT_USAGES)


def kubelet_serving_fault(request: x509.CertificateSigningRequest, usages: Collection[str]) -> str:
    """Why a request is not one for a kubelet's serving certificate; empty when it is."""
    if _words(request, NameOID.ORGANIZATION_NAME) != [NODES]:
        return "subject organization is not system:nodes"
    kinds = {type(name) for name in names_of(request)}
    if not kinds & {x509.DNSName, x509.IPAddress}:
        return "DNS or IP subjectAltName is required"
    if x509.RFC822Name in kinds:
        return "Email subjectAltNames are not allowed"
    if x509.UniformResourceIdentifier in kinds:
        return "URI subjectAltNames are not allowed"
    return _as_node(request, usages, SERVING_USAGES)


def client_fault(request: x509.CertificateSigningRequest, usages: Collection[str]) -> str:
    """Why a request is not one for a client certificate; empty when it is."""
    for usage in usages:
        if usage not in CLIENT_USAGES:
            return f"invalid usage for client certificate: {usage}"
    return "" if "client auth" in usages else "missing required usage for client certificate: client auth"


#: {signer: what it demands}
RULES: dict[str, Callable[[x509.CertificateSigningRequest, Collection[str]], str]] = {
    CLIENT: client_fault,
    KUBELET_CLIENT: kubelet_client_fault,
    KUBELET_SERVING: kubelet_serving_fault,
    LEGACY: lambda request, usages: "",
}


# ------------------------------------------------------------------------------------------------ deciding


@dataclass(frozen=True, slots=True)
class Recognized:
    """A right that suffices for approval: ``create certificatesigningrequests/SUBRESOURCE``."""

    subresource: str
    message: str


SELF = Recognized("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.")
OTHER = Recognized("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.")


def recognized(csr: CertificateSigningRequest) -> tuple[Recognized, ...]:
    """By which rights a request may be approved without a person; () when it must wait for one."""
    if csr.status.certificate or has(csr, "Approved") or has(csr, "Denied") or csr.spec.signer_name != KUBELET_CLIENT:
        return ()
    request = read_request(csr.spec.request)
    if kubelet_client_fault(request, csr.spec.usages):
        return ()
    own = csr.spec.username == "".join(_words(request, NameOID.COMMON_NAME))
    return (SELF, OTHER) if own else (OTHER,)


def awaits_signature(csr: CertificateSigningRequest) -> bool:
    """Whether it is for us to sign it now."""
    settled = bool(csr.status.certificate) or has(csr, "Failed") or has(csr, "Denied")
    return csr.spec.signer_name in RULES and has(csr, "Approved") and not settled


def life_s(csr: CertificateSigningRequest, most_s: float = SIGNING_LIFE_S) -> float:
    """How long a certificate lives: as asked for, within limits."""
    asked = csr.spec.expiration_seconds
    return most_s if asked is None else min(max(asked, LEAST_LIFE_S), most_s)


def due_at(csr: CertificateSigningRequest) -> float | None:
    """When a request is old enough to be removed, in seconds since 1970; None for never."""
    conditions, certificate = csr.status.conditions, csr.status.certificate
    moments = []
    if not conditions:
        moments.append(parse_time(csr.metadata.creation_timestamp or Time("1970-01-01T00:00:00Z")) + PENDING_S)
    for condition in conditions:
        over = condition.type in ("Denied", "Failed") or (condition.type == "Approved" and certificate)
        if over and condition.last_update_time:
            moments.append(parse_time(condition.last_update_time) + SETTLED_S)
    if certificate and has(csr, "Approved"):
        moments.append(expires_at(certificate))
    return min(moments, default=None)


# ------------------------------------------------------------------------------------------------ doing


class _Requests(Controller[Key]):
    """What the three share: keys are requests, and all work as one account."""

    identity = "certificate-controller"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.requests = self.watch(CertificateSigningRequest, self._on_request)

    def _on_request(self, old: CertificateSigningRequest | None, new: CertificateSigningRequest | None) -> None:
        if new is not None:
            self.queue.add(key_of(new))


class CertificateApprover(_Requests):
    """Approves the client certificates of kubelets, if whoever asks has the right to one."""

    name = "csrapproving"

    async def reconcile(self, key: Key) -> None:
        csr = self.requests.by_key(key)
        for right in recognized(csr) if csr is not None else ():
            assert csr is not None
            if await self._allowed(csr, right.subresource):
                approved = with_condition(csr, "Approved", "AutoApproved", right.message, Time(self.now()))
                written = await self.client.update(approved, subresource="approval")
                await self.requests.shows(written.metadata.resource_version)
                return

    async def _allowed(self, csr: CertificateSigningRequest, subresource: str) -> bool:
        asked = ResourceAttributes(
            group="certificates.k8s.io", resource="certificatesigningrequests", verb="create", subresource=subresource
        )
        spec = SubjectAccessReviewSpec(
            user=csr.spec.username,
            uid=csr.spec.uid,
            groups=csr.spec.groups,
            extra=csr.spec.extra,
            resource_attributes=asked,
        )
        answer = await self.client.create(SubjectAccessReview(spec=spec))
        return answer.status is not None and answer.status.allowed


class CertificateSigner(_Requests):
    """Signs approved requests with the cluster's authority."""

    name = "csrsigning"

    def __init__(self, context: Context, authority: Authority) -> None:
        super().__init__(context)
        self.authority = authority

    async def reconcile(self, key: Key) -> None:
        csr = self.requests.by_key(key)
        if csr is None or not awaits_signature(csr):
            return
        request, usages = read_request(csr.spec.request), csr.spec.usages
        fault = RULES[csr.spec.signer_name](request, usages)
        if fault:
            wanted = with_condition(csr, "Failed", "SignerValidationFailure", fault, Time(self.now()))
        else:
            pem = self.authority.sign(request, usages, life_s=life_s(csr), now=self.clock.now())
            text = Base64(base64.b64encode(pem).decode())
            wanted = replace(csr, status=replace(csr.status, certificate=text))
        written = await self.client.update_status(wanted)
        await self.requests.shows(written.metadata.resource_version)


class CertificateCleaner(_Requests):
    """Removes requests that are settled for an hour, unsettled for a day, or whose certificate has ended."""

    name = "csrcleaner"
    workers = 1

    async def reconcile(self, key: Key) -> float | None:
        csr = self.requests.by_key(key)
        due = due_at(csr) if csr is not None else None
        if csr is None or due is None:
            return None
        if due > self.clock.now():
            return due - self.clock.now()
        log.info("cleaning certificate signing request", request=key.name)
        try:
            await self.client.delete(CertificateSigningRequest, key.name)
        except NotFound:
            return None
        return None
