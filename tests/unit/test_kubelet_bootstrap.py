"""A kubelet's certificates: asked for, waited for, kept, renewed, refused; against a signer of the test's own."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from kubelet_world import FakeClient
from msgspec.structs import replace

from kaa.api.clock import VirtualClock
from kaa.api.types.certificates_v1 import CertificateSigningRequest, CertificateSigningRequestCondition
from kaa.api.values import Base64
from kaa.kubelet.bootstrap import (
    CLIENT_SIGNER,
    CertificateError,
    Pair,
    Rotation,
    Store,
    issued_by,
    node_identity,
    request_certificate,
    rotation_at,
    self_signed,
)

DAY_S = 24 * 3600.0


class Signer:
    """The cluster's authority: signs what the API server holds, or denies it."""

    def __init__(self, client: FakeClient, clock: VirtualClock) -> None:
        self.client, self.clock = client, clock
        self.key = generate_private_key(SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
        self.ca = self._signed(self.name, self.key.public_key(), 3650, ca=True)

    def _signed(self, subject: x509.Name, public: Any, days: float, *, ca: bool = False) -> bytes:
        now = self.clock.now()
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.fromtimestamp(now, UTC))
            .not_valid_after(datetime.fromtimestamp(now + days * DAY_S, UTC))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .sign(self.key, SHA256())
        )
        return made.public_bytes(Encoding.PEM)

    @property
    def requests(self) -> list[CertificateSigningRequest]:
        return [obj for (kind, _, _), obj in self.client.objects.items() if kind is CertificateSigningRequest]

    def settle(self, verdict: str = "Approved", days: float = 1) -> None:
        for csr in self.requests:
            if csr.status.conditions:
                continue
            condition = CertificateSigningRequestCondition(type=verdict, status="True", reason="Test", message="so")
            asked = x509.load_pem_x509_csr(base64.b64decode(csr.spec.request))
            pem = self._signed(asked.subject, asked.public_key(), days)
            certificate = Base64(base64.b64encode(pem).decode()) if verdict == "Approved" else None
            status = replace(csr.status, conditions=(condition,), certificate=certificate)
            self.client.put(replace(csr, status=status))


def story(tell: Callable[[VirtualClock, FakeClient, Signer], Awaitable[None]]) -> None:
    async def go() -> None:
        clock, client = VirtualClock(), FakeClient()
        await tell(clock, client, Signer(client, clock))

    asyncio.run(go())


def test_a_certificate_is_asked_for_and_kept(tmp_path: Path) -> None:
    async def tell(clock: VirtualClock, client: FakeClient, signer: Signer) -> None:
        store, told = Store(tmp_path / "pki", "kubelet-client"), list[str]()

        def ask() -> asyncio.Task[Pair]:
            work = request_certificate(
                client,  # type: ignore[arg-type]  # a fake
                clock,
                store,
                node_identity("n1"),
                CLIENT_SIGNER,
                waiting=told.append,
            )
            return asyncio.create_task(work)

        first = ask()
        await clock.advance(5)
        (csr,) = signer.requests
        assert told == [csr.metadata.name]
        assert (csr.metadata.name or "").startswith("node-csr-")
        assert (csr.spec.signer_name, csr.spec.usages) == (CLIENT_SIGNER, ("digital signature", "client auth"))
        subject = x509.load_pem_x509_csr(base64.b64decode(csr.spec.request)).subject
        assert subject.rfc4514_string() == "CN=system:node:n1,O=system:nodes"

        first.cancel()  # the kubelet dies while it waits, and its next life goes on with the same request
        with contextlib.suppress(asyncio.CancelledError):
            await first
        again = ask()
        await clock.advance(5)
        assert len(signer.requests) == 1
        signer.settle()
        await clock.advance(1)
        pair = await again
        assert pair.common_name == "system:node:n1"
        assert store.load() == pair
        assert store.current.is_symlink()
        assert store.current.resolve().stat().st_mode & 0o777 == 0o600
        assert not store.pending_key.exists()
        assert issued_by(pair.certificate, signer.ca)
        assert not issued_by(pair.certificate, self_signed("other", (), clock.now())[0])

    story(tell)


@pytest.mark.parametrize("verdict", ["Denied", "Failed"])
def test_a_refusal_ends_the_wait(tmp_path: Path, verdict: str) -> None:
    async def tell(clock: VirtualClock, client: FakeClient, signer: Signer) -> None:
        store = Store(tmp_path, "kubelet-client")
        asked = asyncio.create_task(
            request_certificate(client, clock, store, node_identity("n1"), CLIENT_SIGNER)  # type: ignore[arg-type]  # a fake
        )
        await clock.advance(1)
        signer.settle(verdict)
        await clock.advance(1)
        name = signer.requests[0].metadata.name
        with pytest.raises(CertificateError) as refused:
            await asked
        assert str(refused.value) == (
            f"certificate signing request {name} is {verdict.lower()}, reason: Test, message: so"
        )
        assert store.load() is None
        assert not store.pending_key.exists(), "the next request is another one"

    story(tell)


def test_a_certificate_is_renewed_before_it_ends(tmp_path: Path) -> None:
    async def tell(clock: VirtualClock, client: FakeClient, signer: Signer) -> None:
        took: list[Pair] = []
        store, identity = Store(tmp_path, "kubelet-client"), node_identity("n1")
        rotation = Rotation(client, clock, store, CLIENT_SIGNER, lambda: identity, took.append)  # type: ignore[arg-type]  # a fake
        running = asyncio.create_task(rotation.run())
        await clock.advance(1)
        signer.settle(days=10)
        await clock.advance(1)
        assert [pair.ends - pair.begins for pair in took] == [10 * DAY_S]

        await clock.advance(6.9 * DAY_S)
        assert len(signer.requests) == 1, "not before 70 % of its life"
        await clock.advance(2.2 * DAY_S)
        assert len(signer.requests) == 2, "not after 90 %"
        signer.settle(days=10)
        await clock.advance(400)
        assert len(took) == 2
        assert store.load() == took[1]
        assert sorted(os.listdir(tmp_path)) == [os.readlink(store.current), "kubelet-client-current.pem"]
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    story(tell)


def test_when_a_certificate_is_renewed() -> None:
    pair = Pair(b"", b"", 1000.0, 2000.0)
    assert rotation_at(pair, 0.0) == 1700.0
    assert rotation_at(pair, 1.0) == 1900.0
