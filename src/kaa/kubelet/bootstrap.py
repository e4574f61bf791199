"""A kubelet's certificates from the API server: asked for by CertificateSigningRequest, kept on disk, renewed in time.

The idea: a store is a folder in which ``kubelet-client-current.pem`` (certificate and key in one file) is a link to the newest
of ``kubelet-client-<time>.pem``; whoever reads the link has a pair that belongs together, at any time. A request bears a name
made of its key and subject, and the key of a request under way is kept, so that a kubelet that dies while it waits for
approval goes on with the same request.

Source: pkg/kubelet/certificate (bootstrap, kubelet, transport), client-go util/certificate (manager, store, csr).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ipaddress
import os
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog

from kaa.api.clock import Clock
from kaa.api.errors import AlreadyExists, ApiError, NotFound
from kaa.api.types.certificates_v1 import CertificateSigningRequest, CertificateSigningRequestSpec
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.api.values import Base64
from kaa.client.client import Client, WatchEvent, WatchType

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate, GeneralName, Name

log = structlog.get_logger(__name__)
CLIENT_SIGNER, SERVING_SIGNER = "kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/kubelet-serving"
#: Usages of an elliptic-curve key's request: ``key encipherment`` is for RSA.
USAGES = {CLIENT_SIGNER: ("digital signature", "client auth"), SERVING_SIGNER: ("digital signature", "server auth")}
WAIT_S = 15 * 60.0
RETRY_FIRST_S, RETRY_MAX_S = 2.0, 32.0
_WATCH_S = 300.0
SELF_SIGNED_S = 365 * 24 * 3600.0


class CertificateError(Exception):
    """No certificate was given; the message says why."""


class RefusedError(CertificateError):
    """The answer was no: the same request would get it again, the next one bears another key."""


class Wanted(msgspec.Struct, frozen=True):
    """What a certificate is to say: whose it is, and for what hosts."""

    common_name: str
    organization: str = ""
    hosts: tuple[str, ...] = ()


class Pair(msgspec.Struct, frozen=True):
    """A certificate and its key, PEM, and its life in seconds since 1970."""

    certificate: bytes
    key: bytes
    begins: float
    ends: float
    hosts: tuple[str, ...] = ()
    common_name: str = ""

    @classmethod
    def read(cls, certificate: bytes, key: bytes) -> Pair:
        """Raises ValueError when it is no certificate."""
        from cryptography.x509 import load_pem_x509_certificate

        leaf = load_pem_x509_certificate(certificate)
        return cls(
            certificate,
            key,
            leaf.not_valid_before_utc.timestamp(),
            leaf.not_valid_after_utc.timestamp(),
            _hosts(leaf),
            _common_name(leaf),
        )


def _hosts(leaf: Certificate) -> tuple[str, ...]:
    from cryptography import x509

    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = (str(address) for address in names.get_values_for_type(x509.IPAddress))
    return (*names.get_values_for_type(x509.DNSName), *addresses)


def _common_name(leaf: Certificate) -> str:
    from cryptography.x509.oid import NameOID

    return "".join(str(each.value) for each in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME))


def node_identity(node_name: str, hosts: tuple[str, ...] = ()) -> Wanted:
    return Wanted(f"system:node:{node_name}", "system:nodes", hosts)


def issued_by(certificate: bytes, authority: bytes) -> bool:
    """Whether one of the authority's certificates (PEM) signed the first of ``certificate``."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.x509 import load_pem_x509_certificate, load_pem_x509_certificates

    leaf = load_pem_x509_certificate(certificate)
    for one in load_pem_x509_certificates(authority):
        try:
            leaf.verify_directly_issued_by(one)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return True
    return False


# ------------------------------------------------------------------------------------------------ on disk


class Store:
    """Where one certificate lives: ``<prefix>-current.pem`` and the files it has pointed to."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self.folder, self.prefix = folder, prefix

    @property
    def current(self) -> Path:
        return self.folder / f"{self.prefix}-current.pem"

    @property
    def pending_key(self) -> Path:
        """The key of a request that is under way."""
        return self.folder / f"{self.prefix}.key.tmp"

    def load(self) -> Pair | None:
        """What the link points to; None when there is nothing, or nothing that can be read."""
        try:
            text = self.current.read_bytes()
            return Pair.read(*split_pem(text))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as err:
            log.warning("certificate not read", path=str(self.current), error=str(err))
            return None

    def save(self, certificate: bytes, key: bytes, now: float) -> Pair:
        """Put a new pair in place of the current one, at once. Raises ValueError: it is no certificate."""
        pair = Pair.read(certificate, key)
        stamp = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d-%H-%M-%S")
        target = self.folder / f"{self.prefix}-{stamp}.pem"
        write_private(target, certificate.rstrip() + b"\n" + key)
        link = self.folder / f".{self.prefix}-current.new"
        link.unlink(missing_ok=True)
        link.symlink_to(target.name)
        link.replace(self.current)
        self.pending_key.unlink(missing_ok=True)
        for old in self.folder.glob(f"{self.prefix}-[0-9]*.pem"):
            if old.name not in (target.name, self.current.name):
                old.unlink(missing_ok=True)
        return pair


def split_pem(text: bytes) -> tuple[bytes, bytes]:
    """(certificates, key) of a file that holds both. Raises ValueError."""
    certificates, key = [], b""
    for block in text.split(b"-----BEGIN ")[1:]:
        whole = b"-----BEGIN " + block
        if block.startswith(b"CERTIFICATE-----"):
            certificates.append(whole)
        elif b"PRIVATE KEY-----" in block[:40]:
            key = whole
    if not certificates or not key:
        raise ValueError("the file does not hold both a certificate and a key")
    return b"".join(certificates), key


def key_of(certificate: bytes, key: bytes) -> bytes:
    """The key alone, where a file holds both and is given as each."""
    return key if key and b"BEGIN CERTIFICATE" not in key else split_pem(key or certificate)[1]


def write_private(path: Path, data: bytes) -> None:
    """A file that only its owner may read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


# ------------------------------------------------------------------------------------------------ keys and requests


def new_key() -> bytes:
    """A P-256 key as PEM, as upstream makes them."""
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

    return _key_pem(generate_private_key(SECP256R1()))


def _key_pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def _load_key(pem: bytes) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(pem, password=None)
    if not isinstance(key, EllipticCurvePrivateKey):
        raise ValueError("it is not an elliptic curve key")
    return key


def signing_request(wanted: Wanted, key_pem: bytes) -> bytes:
    """A certificate request, PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding

    builder = x509.CertificateSigningRequestBuilder().subject_name(_subject(wanted))
    if wanted.hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName(_names(wanted.hosts)), critical=False)
    return builder.sign(_load_key(key_pem), SHA256()).public_bytes(Encoding.PEM)


def _subject(wanted: Wanted) -> Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, wanted.organization)] if wanted.organization else []
    return x509.Name([*names, x509.NameAttribute(NameOID.COMMON_NAME, wanted.common_name)])


def _names(hosts: tuple[str, ...]) -> list[GeneralName]:
    from cryptography import x509

    made: list[x509.GeneralName] = []
    for host in hosts:
        try:
            made.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            made.append(x509.DNSName(host))
    return made


def self_signed(host: str, addresses: tuple[str, ...], now: float) -> tuple[bytes, bytes]:
    """(certificate, key) of a server that nobody vouches for, for a year: what a kubelet serves with by default."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import ExtendedKeyUsageOID

    key_pem = new_key()
    key = _load_key(key_pem)
    name = _subject(Wanted(f"{host}@{int(now)}"))
    begin = datetime.fromtimestamp(now - 3600, UTC).replace(microsecond=0)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(datetime.fromtimestamp(now + SELF_SIGNED_S, UTC).replace(microsecond=0))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(_names((host, *addresses))), critical=False)
        .sign(key, SHA256())
    )
    return certificate.public_bytes(Encoding.PEM), key_pem


# ------------------------------------------------------------------------------------------------ asking


def request_name(wanted: Wanted, key_pem: bytes, signer: str) -> str:
    """The same for the same key, subject and signer: a request is found again after a restart."""
    text = f"{wanted.common_name}\0{wanted.organization}\0{','.join(wanted.hosts)}\0{signer}\0".encode() + key_pem
    return "node-csr-" + base64.urlsafe_b64encode(hashlib.sha512(text).digest()[:32]).rstrip(b"=").decode()


async def request_certificate(
    client: Client,
    clock: Clock,
    store: Store,
    wanted: Wanted,
    signer: str,
    *,
    waiting: Callable[[str], None] = lambda name: None,
    timeout_s: float | None = None,
) -> Pair:
    """Ask, wait until it is approved and signed, and keep it. ``waiting`` is told the request's name when it is not yet.

    Raises CertificateError: denied, failed, or nobody approved in time; ApiError: the API server would not take it.
    """
    key = _pending_key(store)
    csr = await _submitted(client, wanted, key, signer)
    name = csr.metadata.name or ""
    if not csr.status.certificate:
        waiting(name)
    try:
        pem = await _signed(client, clock, csr, timeout_s)
    except RefusedError:
        store.pending_key.unlink(missing_ok=True)
        raise
    return store.save(pem, key, clock.now())


def _pending_key(store: Store) -> bytes:
    try:
        key = store.pending_key.read_bytes()
        _load_key(key)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as err:
        log.warning("key of a pending request not read; a new one is made", error=str(err))
    else:
        return key
    key = new_key()
    write_private(store.pending_key, key)
    return key


async def _submitted(client: Client, wanted: Wanted, key: bytes, signer: str) -> CertificateSigningRequest:
    """The request at the API server: a new one, or that of an earlier life."""
    name = request_name(wanted, key, signer)
    request = CertificateSigningRequest(
        metadata=ObjectMeta(name=name),
        spec=CertificateSigningRequestSpec(
            request=Base64(base64.b64encode(signing_request(wanted, key)).decode()),
            signer_name=signer,
            usages=USAGES[signer],
        ),
    )
    try:
        return await client.create(request)
    except AlreadyExists:
        return await client.get(CertificateSigningRequest, name)


async def _signed(client: Client, clock: Clock, csr: CertificateSigningRequest, timeout_s: float | None) -> bytes:
    """The certificate of a request, once it has one."""
    name, until = csr.metadata.name or "", clock.now() + timeout_s if timeout_s is not None else None
    while True:
        pem = certificate_of(csr)
        if pem is not None:
            return pem
        if until is not None and clock.now() >= until:
            raise CertificateError(f"certificate request {name} was not approved and signed within {timeout_s:g} s")
        limit = _WATCH_S if until is None else min(_WATCH_S, until - clock.now())
        try:
            csr = await _next(client, clock, csr, limit)
        except NotFound as err:
            raise CertificateError(f"certificate request {name} was deleted before it was signed") from err
        except (ApiError, OSError) as err:
            log.warning("certificate request not followed", request=name, error=str(err))
            await clock.sleep(RETRY_FIRST_S)


async def _next(
    client: Client, clock: Clock, csr: CertificateSigningRequest, limit_s: float
) -> CertificateSigningRequest:
    """The request as it is after a change, or after so long."""
    name = csr.metadata.name or ""
    listing = await client.list(CertificateSigningRequest, field_selector=f"metadata.name={name}")
    if not listing.items:
        raise NotFound(f"certificatesigningrequests {name!r} not found")
    found = listing.items[0]
    if certificate_of(found) is not None:
        return found
    changes = client.watch(
        CertificateSigningRequest,
        field_selector=f"metadata.name={name}",
        resource_version=listing.resource_version,
        timeout_s=limit_s,
    )
    following = asyncio.ensure_future(_first(changes))
    timer = asyncio.ensure_future(clock.sleep(limit_s))
    try:
        await asyncio.wait((following, timer), return_when=asyncio.FIRST_COMPLETED)
        changed = following.result() if following.done() else None
    finally:
        following.cancel()
        timer.cancel()
        await asyncio.gather(following, timer, return_exceptions=True)
    return changed or found


async def _first(
    changes: AsyncIterator[WatchEvent[CertificateSigningRequest]],
) -> CertificateSigningRequest | None:
    async for event in changes:
        if event.type is WatchType.DELETED:
            raise NotFound("the certificate request was deleted")
        if event.object is not None:
            return event.object
    return None


def certificate_of(csr: CertificateSigningRequest) -> bytes | None:
    """What a request was answered with; None while it waits. Raises RefusedError when the answer is no."""
    for condition in csr.status.conditions:
        if condition.type in ("Denied", "Failed"):
            word = "denied" if condition.type == "Denied" else "failed"
            raise RefusedError(
                f"certificate signing request {csr.metadata.name} is {word},"
                f" reason: {condition.reason or ''}, message: {condition.message or ''}"
            )
    approved = any(condition.type == "Approved" for condition in csr.status.conditions)
    return base64.b64decode(csr.status.certificate) if approved and csr.status.certificate else None


# ------------------------------------------------------------------------------------------------ renewing


def rotation_at(pair: Pair, jitter: float) -> float:
    """When a certificate is to be renewed: after 70 to 90 % of its life; ``jitter`` is in 0 … 1."""
    life = pair.ends - pair.begins
    return pair.begins + life * (0.7 + 0.2 * jitter)


class Rotation:
    """Keeps one certificate valid: asks for the first, and for each next one in time, until cancelled.

    ``wanted`` is asked each time, for a node's addresses change; ``took`` gets every new pair.
    """

    def __init__(
        self,
        client: Client,
        clock: Clock,
        store: Store,
        signer: str,
        wanted: Callable[[], Wanted],
        took: Callable[[Pair], None],
        *,
        waiting: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._client, self._clock, self._store = client, clock, store
        self._signer, self._wanted, self._took, self._waiting = signer, wanted, took, waiting

    async def run(self) -> None:
        wait = RETRY_FIRST_S
        while True:
            pair, wanted = self._store.load(), self._wanted()
            if pair is not None and fits(pair, wanted, self._clock.now()):
                await self._until_due(pair)
            try:
                self._took(await self._renewed(self._wanted()))
                wait = RETRY_FIRST_S
            except (CertificateError, ApiError, OSError, TimeoutError, ValueError) as err:
                log.warning("certificate not renewed", signer=self._signer, error=str(err))
                await self._clock.sleep(wait * (1 + 0.1 * self._clock.random.random()))
                wait = min(wait * 2, RETRY_MAX_S)

    async def _until_due(self, pair: Pair) -> None:
        """Sleep until the pair must be renewed, or no longer says what it should; looked at every hour."""
        due = rotation_at(pair, self._clock.random.random())
        while self._clock.now() < due and fits(pair, self._wanted(), self._clock.now()):
            await self._clock.sleep(min(max(due - self._clock.now(), 1.0), 3600.0))

    async def _renewed(self, wanted: Wanted) -> Pair:
        log.info("certificate asked for", signer=self._signer, name=wanted.common_name)
        return await request_certificate(
            self._client,
            self._clock,
            self._store,
            wanted,
            self._signer,
            waiting=self._waiting,
            timeout_s=WAIT_S,
        )


def fits(pair: Pair, wanted: Wanted, now: float) -> bool:
    """Whether a certificate is valid, is of this name and stands for all these hosts."""
    named = pair.common_name == wanted.common_name
    return named and now < pair.ends and set(wanted.hosts) <= set(pair.hosts)
