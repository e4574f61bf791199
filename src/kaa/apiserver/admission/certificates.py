"""Certificates: who approves, signs and attests for which signer, and whom the client signer never names.

Source: plugin/pkg/admission/certificates/{approval,ctbattest,signing,subjectrestriction}.
"""

from __future__ import annotations

import base64
import binascii

from kaa.api.types.certificates_v1 import CertificateSigningRequest
from kaa.client.pipeline import User

from ..authz.base import Authorizer, Decision, Question
from ..view import View
from .base import Attributes
from .plugin import Passive, refuse

GROUP, PLURAL = "certificates.k8s.io", "certificatesigningrequests"
BUNDLES, POD_REQUESTS = "clustertrustbundles", "podcertificaterequests"
CLIENT_SIGNER = "kubernetes.io/kube-apiserver-client"
MASTERS = "system:masters"


def may(authorizer: Authorizer, view: View, user: User, verb: str, signer: str) -> bool:
    """On the signer itself, or on all of its domain (``example.com/*``)."""
    domain = signer.partition("/")[0]
    for name in (signer, f"{domain}/*"):
        question = Question(user=user, verb=verb, group=GROUP, version="*", resource="signers", name=name)
        if authorizer.authorize(question, view)[0] is Decision.ALLOW:
            return True
    return False


class CertificateApproval(Passive):
    name = "CertificateApproval"
    kinds = frozenset({PLURAL})

    def __init__(self, authorizer: Authorizer) -> None:
        self.authorizer = authorizer

    async def validate(self, attributes: Attributes, view: View) -> None:
        if attributes.operation != "UPDATE" or not attributes.on(PLURAL, GROUP, "approval"):
            return
        signer = attributes.old.spec.signer_name
        if not may(self.authorizer, view, attributes.request.user, "approve", signer):
            raise refuse(attributes, f'user not permitted to approve requests with signerName "{signer}"')


class CertificateSigning(Passive):
    name = "CertificateSigning"
    kinds = frozenset({PLURAL})

    def __init__(self, authorizer: Authorizer) -> None:
        self.authorizer = authorizer

    async def validate(self, attributes: Attributes, view: View) -> None:
        if attributes.operation != "UPDATE" or not attributes.on(PLURAL, GROUP, "status"):
            return
        new, old = attributes.object, attributes.old
        if new.status.certificate == old.status.certificate and _failed(new) == _failed(old):
            return
        signer = old.spec.signer_name
        if not may(self.authorizer, view, attributes.request.user, "sign", signer):
            raise refuse(attributes, f'user not permitted to sign requests with signerName "{signer}"')


def _failed(request: CertificateSigningRequest) -> list[str]:
    return [c.status for c in request.status.conditions if c.type == "Failed"]


class CertificateSubjectRestriction(Passive):
    name = "CertificateSubjectRestriction"
    kinds = frozenset({PLURAL})

    async def validate(self, attributes: Attributes, view: View) -> None:
        if attributes.operation != "CREATE" or not attributes.on(PLURAL, GROUP):
            return
        request: CertificateSigningRequest = attributes.object
        if request.spec.signer_name == CLIENT_SIGNER and MASTERS in _organizations(request.spec.request):
            why = f"use of {CLIENT_SIGNER} signer with system:masters group is not allowed"
            raise refuse(attributes, why)


class PodCertificateSigning(Passive):
    """Who settles a pod's request speaks for its signer."""

    name = "PodCertificateSigning"
    kinds = frozenset({POD_REQUESTS})

    def __init__(self, authorizer: Authorizer) -> None:
        self.authorizer = authorizer

    async def validate(self, attributes: Attributes, view: View) -> None:
        if attributes.operation != "UPDATE" or not attributes.on(POD_REQUESTS, GROUP, "status"):
            return
        user, signer = attributes.request.user, attributes.old.spec.signer_name
        if not may(self.authorizer, view, user, "sign", signer):
            raise refuse(attributes, f'User "{user.name}" is not permitted to "sign" for signer "{signer}"')


class ClusterTrustBundleAttest(Passive):
    """Who writes a bundle of a signer speaks for that signer."""

    name = "ClusterTrustBundleAttest"
    kinds = frozenset({BUNDLES})

    def __init__(self, authorizer: Authorizer) -> None:
        self.authorizer = authorizer

    async def validate(self, attributes: Attributes, view: View) -> None:
        if attributes.operation not in ("CREATE", "UPDATE") or not attributes.on(BUNDLES, GROUP):
            return
        new, old = attributes.object, attributes.old
        signer = new.spec.signer_name
        if not signer or (old is not None and new.spec == old.spec):
            return
        if not may(self.authorizer, view, attributes.request.user, "attest", signer):
            raise refuse(attributes, f'user not permitted to attest for signerName "{signer}"')


def _organizations(text: str) -> list[str]:
    """The organizations that a request (base64 of PEM) names; none when it cannot be read, which validation reports."""
    from cryptography.x509 import load_pem_x509_csr
    from cryptography.x509.oid import NameOID

    try:
        found = load_pem_x509_csr(base64.b64decode(text))
    except (binascii.Error, ValueError):
        return []
    return [str(a.value) for a in found.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
