"""PodCertificateRequests: whose key it is, and what may be answered to them."""

from __future__ import annotations

import asyncio
import base64
import datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import NameOID
from msgspec.structs import replace
from world import World

from kaa.api import scheme
from kaa.api.clock import VirtualClock, format_time
from kaa.api.errors import Forbidden, Invalid
from kaa.api.resources import OPTIONAL, RESOURCES
from kaa.api.types.certificates_v1beta1 import PodCertificateRequest, PodCertificateRequestStatus
from kaa.api.types.meta_v1 import Condition, ObjectMeta
from kaa.api.types.rbac_v1 import ClusterRole, ClusterRoleBinding, PolicyRule, RoleRef, Subject
from kaa.apiserver.options import ApiServerOptions
from kaa.apiserver.registry.certificates.podcertificaterequests import STRATEGY
from tests.api_lab import Lab, run

UID = "u1"
KEY = ec.generate_private_key(ec.SECP256R1())
NOW = VirtualClock().now()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def public(key: Any) -> str:
    return b64(
        key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def stub(key: Any = KEY) -> bytes:
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    built = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, algorithm)
    return built.public_bytes(serialization.Encoding.DER)


def request(**spec: Any) -> PodCertificateRequest:
    given = {
        "signerName": "acme.io/pods",
        "podName": "p",
        "podUID": UID,
        "serviceAccountName": "default",
        "serviceAccountUID": "u2",
        "nodeName": "n",
        "nodeUID": "u3",
        "stubPKCS10Request": b64(stub()),
    }
    document = {"metadata": {"name": "r", "namespace": "default"}, "spec": {**given, **spec}}
    return STRATEGY.default(scheme.convert(PodCertificateRequest, document))


def faults(obj: PodCertificateRequest) -> str:
    return "; ".join(map(str, STRATEGY.validate(obj)))


def by_key(key: Any, proof: bytes) -> PodCertificateRequest:
    return request(stubPKCS10Request="", pkixPublicKey=public(key), proofOfPossession=b64(proof))


def test_who_asks_holds_the_key() -> None:
    text, sha = UID.encode(), hashes.SHA256()
    edwards, modulus = ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 3072)
    pss = padding.PSS(padding.MGF1(sha), padding.PSS.DIGEST_LENGTH)
    assert faults(request()) == ""
    assert faults(request(stubPKCS10Request=b64(stub(edwards)))) == ""
    assert faults(by_key(KEY, KEY.sign(text, ec.ECDSA(sha)))) == ""
    assert faults(by_key(edwards, edwards.sign(text))) == ""
    assert faults(by_key(modulus, modulus.sign(text, pss, sha))) == ""
    unproven = "spec.proofOfPossession: Invalid value: could not verify proof-of-possession signature"
    assert unproven in faults(by_key(KEY, KEY.sign(b"another", ec.ECDSA(sha))))
    broken = bytearray(stub())
    broken[-3] ^= 1
    assert "spec.stubPKCS10Request: Invalid value: could not verify" in faults(request(stubPKCS10Request=b64(broken)))
    weak = rsa.generate_private_key(65537, 2048)
    assert '"2048-bit modulus": RSA keys must have modulus size 3072 or 4096' in faults(
        request(stubPKCS10Request=b64(stub(weak)))
    )
    small = ec.generate_private_key(ec.SECP256K1())
    assert "elliptic public keys must use curve P256 or P384" in faults(request(stubPKCS10Request=b64(stub(small))))
    assert "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession)" in faults(
        request(stubPKCS10Request="")
    )


def test_what_is_asked_is_checked() -> None:
    assert request().spec.max_expiration_seconds == 86400
    assert "must be in the range [3600, 7862400]" in faults(request(maxExpirationSeconds=10))
    kubernetes = request(signerName="kubernetes.io/kube-apiserver-client-pod", maxExpirationSeconds=90000)
    assert "spec.maxExpirationSeconds: Invalid value: 90000: must be in the range [3600, 86400]" in faults(kubernetes)
    assert 'spec.podUID: Invalid value: "": must not be empty' in faults(request(podUID=""))
    assert "must be a domain-prefixed key" in faults(request(unverifiedUserAnnotations={"plain": "x"}))
    changed = replace(request(), spec=replace(request().spec, node_name="other"))
    assert "spec: Invalid value" in str(STRATEGY.validate_update(changed, request())[0])


def issued(key: Any = KEY, *, hours: int = 24, at: float = NOW) -> PodCertificateRequestStatus:
    begin = datetime.datetime.fromtimestamp(at, datetime.UTC)
    end = begin + datetime.timedelta(hours=hours)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "p")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(end)
        .sign(KEY, hashes.SHA256())
    )
    return PodCertificateRequestStatus(
        conditions=(condition("Issued"),),
        certificate_chain=made.public_bytes(serialization.Encoding.PEM).decode(),
        not_before=format_time(begin.timestamp()),
        not_after=format_time(end.timestamp()),
        begin_refresh_at=format_time(end.timestamp() - 3600),
    )


def condition(type: str) -> Condition:
    return Condition(type=type, status="True", reason="R", message="", last_transition_time="2027-01-01T00:00:00Z")


def answer(status: PodCertificateRequestStatus, before: PodCertificateRequestStatus | None = None) -> str:
    old = request()
    if before is not None:
        old = replace(old, status=before)
    return "; ".join(map(str, STRATEGY.validate_status_update(replace(old, status=status), old)))


def test_it_is_settled_once() -> None:
    done = issued()
    assert answer(done) == ""
    denied = PodCertificateRequestStatus(conditions=(condition("Denied"),))
    assert answer(denied) == ""
    assert "immutable after PodCertificateRequest is issued, denied, or failed" in answer(denied, done)
    assert "non-condition status fields must be empty" in answer(replace(done, conditions=denied.conditions))
    assert "status is immutable unless transitioning" in answer(replace(done, conditions=()))
    assert 'Unsupported value: "Odd": supported values: "Issued", "Denied", "Failed"' in answer(
        PodCertificateRequestStatus(conditions=(condition("Odd"),))
    )
    both = PodCertificateRequestStatus(conditions=(condition("Denied"), condition("Failed")))
    assert "There may be at most one condition" in answer(both)


def test_the_chain_is_of_the_key_and_the_time() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    assert "leaf certificate was not issued to the requested public key" in answer(issued(other))
    assert "leaf certificate lifetime must be <= spec.maxExpirationSeconds (86400)" in answer(issued(hours=30))
    assert "must contain at least one certificate" in answer(replace(issued(), certificate_chain="none"))
    late = replace(issued(), begin_refresh_at=issued().not_after)
    assert "must be at least 10 minutes before status.notAfter" in answer(late)
    moved = replace(issued(), not_before=format_time(NOW + 60))
    assert "must be set to the NotBefore time encoded in the leaf certificate" in answer(moved)
    trailing = replace(
        issued(), certificate_chain=(issued().certificate_chain or "") + "-----BEGIN X-----\nAAAA\n-----END X-----\n"
    )
    assert "issued certificate chain must consist entirely of" in answer(trailing)


def test_a_request_goes_after_a_quarter_of_an_hour() -> None:
    async def play() -> None:
        world = World()
        world.serving = (*RESOURCES, *OPTIONAL)
        async with world:
            await world.api.create(request())
            await world.clock.advance(14 * 60)
            assert len(world.api.all(PodCertificateRequest)) == 1
            await world.clock.advance(2 * 60)
            assert world.api.all(PodCertificateRequest) == []

    asyncio.run(play())


def test_who_answers_may_sign() -> None:
    clock = VirtualClock()

    async def use(lab: Lab) -> None:
        rules = (PolicyRule(api_groups=("certificates.k8s.io",), resources=("*",), verbs=("get", "update")),)
        await lab.client.create(ClusterRole(metadata=ObjectMeta(name="s"), rules=rules))
        ref = RoleRef(api_group="rbac.authorization.k8s.io", kind="ClusterRole", name="s")
        who = Subject(api_group="rbac.authorization.k8s.io", kind="User", name="signer")
        await lab.client.create(ClusterRoleBinding(metadata=ObjectMeta(name="s"), role_ref=ref, subjects=(who,)))
        made = await lab.client.create(request())
        signer = lab.as_user("signer")
        done = replace(made, status=issued())
        with pytest.raises(Forbidden, match=r'User "signer" is not permitted to "sign" for signer "acme\.io/pods"'):
            await signer.update_status(done)
        with pytest.raises(Invalid, match="must be set to within 5 minutes of kube-apiserver's current time"):
            await lab.client.update_status(replace(made, status=issued(at=NOW - 600)))
        assert (await lab.client.update_status(done)).status == done.status

    run(use, clock=clock, options=ApiServerOptions(runtime_config="certificates.k8s.io/v1beta1=true"))
