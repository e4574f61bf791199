"""Requests for certificates: who gets one without a person, what is signed and how, and when it is forgotten."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from api_lab import Lab, keys
from api_lab import run as in_lab
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec.structs import replace
from world import World

from kaa.api.clock import Clock, SystemClock, VirtualClock, format_time
from kaa.api.types.authorization_v1 import SubjectAccessReview, SubjectAccessReviewStatus
from kaa.api.types.certificates_v1 import (
    CertificateSigningRequest,
    CertificateSigningRequestCondition,
    CertificateSigningRequestSpec,
)
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.api.values import Base64, Time
from kaa.client.http import HttpClient
from kaa.client.informer import Informers
from kaa.client.pipeline import User
from kaa.cluster.pki import Pki
from kaa.controllers import certificates
from kaa.controllers.certificate_authority import Authority, SigningFailed, read_request, sort_usages
from kaa.controllers.certificates import (
    CLIENT,
    CLIENT_USAGES,
    KUBELET_CLIENT,
    KUBELET_SERVING,
    RULES,
    SERVING_USAGES,
    CertificateApprover,
    CertificateSigner,
    due_at,
    life_s,
    recognized,
)
from kaa.controllers.controller import Context

KEY = ec.generate_private_key(ec.SECP256R1())
NODE = "system:node:n1"


def make_request(name: str, *organizations: str, san: tuple[x509.GeneralName, ...] = ()) -> Base64:
    words = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, each) for each in organizations]
    subject = x509.Name([*words, x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if san:
        builder = builder.add_extension(x509.SubjectAlternativeName(san), critical=False)
    return Base64(base64.b64encode(builder.sign(KEY, SHA256()).public_bytes(Encoding.PEM)).decode())


def make_csr(
    request: Base64, signer: str = CLIENT, usages: tuple[str, ...] = ("client auth",), **spec: Any
) -> CertificateSigningRequest:
    made = CertificateSigningRequestSpec(request=request, signer_name=signer, usages=usages, **spec)
    return CertificateSigningRequest(metadata=ObjectMeta(name="req"), spec=made)


def approved(csr: CertificateSigningRequest, now: str = "2030-01-01T00:00:00Z") -> CertificateSigningRequest:
    return certificates.with_condition(csr, "Approved", "KubectlApprove", "by hand", Time(now))


def pki() -> Pki:
    return keys()[1]


def authority() -> Authority:
    return Authority(pki().ca.read_bytes(), pki().key("ca").read_bytes())


DNS, IP = x509.DNSName("n1"), x509.IPAddress(ipaddress.ip_address("192.0.2.1"))
MAIL = x509.RFC822Name("a@example.com")


@pytest.mark.parametrize(
    ("signer", "request_", "usages", "fault"),
    [
        pytest.param(CLIENT, make_request("sky"), ("client auth",), "", id="a user"),
        pytest.param(
            CLIENT,
            make_request("sky"),
            ("client auth", "server auth"),
            "invalid usage for client certificate: server auth",
            id="a user that would serve",
        ),
        pytest.param(
            CLIENT,
            make_request("sky"),
            ("digital signature",),
            "missing required usage for client certificate: client auth",
            id="a user that would not call",
        ),
        pytest.param(KUBELET_CLIENT, make_request(NODE, "system:nodes"), CLIENT_USAGES, "", id="a node"),
        pytest.param(
            KUBELET_CLIENT, make_request(NODE, "system:nodes"), ("client auth", "digital signature"), "", id="no RSA"
        ),
        pytest.param(
            KUBELET_CLIENT, make_request(NODE), CLIENT_USAGES, "subject organization is not system:nodes", id="no group"
        ),
        pytest.param(
            KUBELET_CLIENT,
            make_request("n1", "system:nodes"),
            CLIENT_USAGES,
            "subject common name does not begin with system:node:",
            id="no node's name",
        ),
        pytest.param(
            KUBELET_CLIENT,
            make_request(NODE, "system:nodes", san=(DNS,)),
            CLIENT_USAGES,
            "DNS subjectAltNames are not allowed",
            id="names",
        ),
        pytest.param(
            KUBELET_CLIENT,
            make_request(NODE, "system:nodes"),
            ("client auth",),
            "usages did not match [client auth digital signature key encipherment]",
            id="too few usages",
        ),
        pytest.param(
            KUBELET_SERVING, make_request(NODE, "system:nodes", san=(DNS, IP)), SERVING_USAGES, "", id="serves"
        ),
        pytest.param(
            KUBELET_SERVING,
            make_request(NODE, "system:nodes"),
            SERVING_USAGES,
            "DNS or IP subjectAltName is required",
            id="serves nowhere",
        ),
        pytest.param(
            KUBELET_SERVING,
            make_request(NODE, "system:nodes", san=(IP, MAIL)),
            SERVING_USAGES,
            "Email subjectAltNames are not allowed",
            id="a mail address",
        ),
    ],
)
def test_what_signers_demand(signer: str, request_: Base64, usages: tuple[str, ...], fault: str) -> None:
    assert RULES[signer](read_request(request_), usages) == fault


def test_who_needs_no_person() -> None:
    def rights(user: str, request: Base64, signer: str = KUBELET_CLIENT) -> list[str]:
        csr = make_csr(request, signer, CLIENT_USAGES, username=user)
        return [right.subresource for right in recognized(csr)]

    own = make_request(NODE, "system:nodes")
    assert rights(NODE, own) == ["selfnodeclient", "nodeclient"]
    assert rights("system:bootstrap:abc", own) == ["nodeclient"]
    assert rights(NODE, own, CLIENT) == []
    assert rights(NODE, make_request(NODE)) == []
    assert recognized(approved(make_csr(own, KUBELET_CLIENT, CLIENT_USAGES))) == ()


def test_a_certificate_says_what_was_asked_and_no_more() -> None:
    now = SystemClock().now()
    request = read_request(make_request("sky", "agents", "admins", san=(DNS, IP, MAIL)))
    made = x509.load_pem_x509_certificate(authority().sign(request, ("client auth", "signing"), life_s=3600, now=now))
    made.verify_directly_issued_by(authority().certificate)
    assert made.subject == request.subject
    assert made.not_valid_before_utc.timestamp() == int(now - 300)
    assert made.not_valid_after_utc.timestamp() == int(now + 3600)
    found = made.extensions
    assert list(found.get_extension_for_class(x509.SubjectAlternativeName).value) == [DNS, IP, MAIL]
    assert list(found.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not found.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = found.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_encipherment, usage.key_cert_sign) == (True, False, False)


def test_no_certificate_outlives_its_authority() -> None:
    ends = authority().certificate.not_valid_after_utc
    request = read_request(make_request("sky"))
    late = authority().sign(request, ("client auth",), life_s=3600, now=ends.timestamp() - 60)
    assert x509.load_pem_x509_certificate(late).not_valid_after_utc == ends
    with pytest.raises(SigningFailed, match="the signer has expired"):
        authority().sign(request, ("client auth",), life_s=3600, now=ends.timestamp())
    with pytest.raises(SigningFailed, match=r'unrecognized usage values: \["juggling"\]'):
        sort_usages(["juggling", "client auth"])


def test_lives_have_limits() -> None:
    def life(seconds: int | None) -> float:
        return life_s(make_csr(make_request("sky"), expiration_seconds=seconds))

    year = 365 * 24 * 3600
    assert [life(None), life(3600), life(60), life(2 * year)] == [year, 3600, 600, year]


def test_old_requests_go() -> None:
    def csr(*conditions: str, certificate: bool = False) -> CertificateSigningRequest:
        made = make_csr(make_request("sky"))
        found = tuple(
            CertificateSigningRequestCondition(type=c, status="True", last_update_time=format_time(5000))
            for c in conditions
        )
        pem = pki().cert("admin").read_bytes() if certificate else b""
        status = replace(made.status, conditions=found, certificate=Base64(base64.b64encode(pem).decode()) or None)
        return replace(made, metadata=ObjectMeta(name="req", creation_timestamp=format_time(1000)), status=status)

    assert due_at(csr()) == 1000 + 24 * 3600
    assert due_at(csr("Denied")) == 5000 + 3600
    assert due_at(csr("Approved", "Failed")) == 5000 + 3600
    assert due_at(csr("Approved")) is None
    assert due_at(csr("Approved", certificate=True)) == 5000 + 3600


def in_world(play: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        async with World() as world:
            await play(world)

    asyncio.run(run())


def test_the_cleaner_waits_until_it_is_time() -> None:
    async def play(world: World) -> None:
        await world.api.create(make_csr(make_request("sky")))
        await world.settle()
        await world.clock.advance(24 * 3600 - 60)
        assert world.api.all(CertificateSigningRequest)
        await world.clock.advance(120)
        assert not world.api.all(CertificateSigningRequest)

    in_world(play)


def test_a_node_that_may_is_approved() -> None:
    async def play(world: World) -> None:
        asked: list[tuple[Any, ...]] = []
        create = world.api.create

        async def answer(obj: Any, **more: Any) -> Any:
            if not isinstance(obj, SubjectAccessReview):
                return await create(obj, **more)
            what = obj.spec.resource_attributes
            assert what is not None
            asked.append((obj.spec.user, what.verb, what.resource, what.subresource))
            return replace(obj, status=SubjectAccessReviewStatus(allowed=what.subresource == "nodeclient"))

        world.api.create = answer  # type: ignore[method-assign]  # the one resource that is not stored
        node = make_csr(make_request(NODE, "system:nodes"), KUBELET_CLIENT, CLIENT_USAGES, username=NODE)
        await world.api.create(node)
        await world.settle()
        (found,) = world.api.all(CertificateSigningRequest)
        (condition,) = found.status.conditions
        assert (condition.type, condition.reason, condition.message) == (
            "Approved",
            "AutoApproved",
            "Auto approving kubelet client certificate after SubjectAccessReview.",
        )
        assert asked == [
            (NODE, "create", "certificatesigningrequests", "selfnodeclient"),
            (NODE, "create", "certificatesigningrequests", "nodeclient"),
        ]

    in_world(play)


def test_a_request_against_the_rules_fails_for_good() -> None:
    async def play(lab: Lab) -> None:
        made = await lab.client.create(make_csr(make_request("sky"), usages=("server auth",)))
        await lab.client.update(approved(made), subresource="approval")
        found = await settled(lab, lambda csr: len(csr.status.conditions) == 2)
        assert not found.status.certificate
        failed = found.status.conditions[1]
        assert (failed.type, failed.reason) == ("Failed", "SignerValidationFailure")
        assert failed.message == "invalid usage for client certificate: server auth"

    in_lab(with_controllers(play), bootstrapped=True)


def test_kubectl_certificate_approve_makes_a_user(tmp_path: Path) -> None:
    async def play(lab: Lab) -> None:
        made = await lab.client.create(make_csr(make_request("sky", "agents"), expiration_seconds=3600))
        await lab.client.update(approved(made), subresource="approval")
        found = await settled(lab, lambda csr: bool(csr.status.certificate))
        cert, key = tmp_path / "sky.crt", tmp_path / "sky.key"
        cert.write_bytes(base64.b64decode(found.status.certificate or ""))
        key.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        tls = ssl.create_default_context(cafile=str(pki().ca))
        tls.load_cert_chain(cert, key)
        client = HttpClient(f"https://127.0.0.1:{lab.port}", tls, "sky")
        try:
            body = b'{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}'
            answer = await client.raw("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body)
        finally:
            await client.close()
        assert b'"username":"sky"' in answer
        assert b'"agents"' in answer

    in_lab(with_controllers(play), http=True, bootstrapped=True)


def with_controllers(play: Callable[[Lab], Awaitable[None]]) -> Callable[[Lab], Awaitable[None]]:
    """Run approver and signer, as the account that upstream gives them, while a test plays."""

    async def body(lab: Lab) -> None:
        def client_for(name: str) -> Any:
            return lab.plane.client(User(f"system:serviceaccount:kube-system:{name}"), "controllers")

        informers = Informers(lab.client, lab.clock)
        context = Context(client_for, informers, lab.clock)
        parts = (informers, CertificateApprover(context), CertificateSigner(context, authority()))
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(part.run()) for part in parts]  # type: ignore[attr-defined]  # all have it
            await play(lab)
            for task in running:
                task.cancel()

    return body


async def settled(lab: Lab, true: Callable[[CertificateSigningRequest], bool]) -> CertificateSigningRequest:
    async with asyncio.timeout(10):
        while True:
            found = await lab.client.get(CertificateSigningRequest, "req")
            if true(found):
                return found
            await asyncio.sleep(0.01)


def test_clocks_are_injected() -> None:
    clock: Clock = VirtualClock(start=SystemClock().now() + 86400)
    made = authority().sign(read_request(make_request("sky")), ("client auth",), life_s=600, now=clock.now())
    assert x509.load_pem_x509_certificate(made).not_valid_after_utc.timestamp() == int(clock.now() + 600)
