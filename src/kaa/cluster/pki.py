"""The cluster's certificates: two authorities, one certificate a component, a key for ServiceAccount tokens.

Everything lives as PEM files of mode 0600 in one folder, laid out as kubeadm does, is made once and renewed when close to
its end. Whether a file is due is read from a small index beside it (``index.json``), so that starting a cluster whose files
are in order does not import ``cryptography``.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kaa.api.clock import Clock

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate, CertificateBuilder, GeneralName, KeyUsage

DAY_S = 24 * 3600.0
CA_LIFE_S = 3650 * DAY_S
LEAF_LIFE_S = 365 * DAY_S
#: A leaf is renewed with this much of its life left.
RENEW_BEFORE_S = 30 * DAY_S
#: Certificates begin a little in the past, for clocks that lag.
BACKDATE_S = 300.0
ADMINS = "kubeadm:cluster-admins"
CLUSTER_DOMAIN = "cluster.local"


@dataclass(frozen=True, slots=True)
class Profile:
    """What a certificate says. ``hosts``: names and addresses that a serving certificate stands for."""

    file: str
    common_name: str
    organization: str = ""
    hosts: tuple[str, ...] = ()
    server: bool = False
    client: bool = True
    authority: str = "ca"


class _Entry(msgspec.Struct, frozen=True):
    """A line of the index: what a file was made from, and when it ends (seconds since 1970)."""

    profile: str
    expires: float


def api_server_hosts(service_ip: str = "10.96.0.1", extra: Iterable[str] = ()) -> tuple[str, ...]:
    """Every name that clients reach the API server by."""
    names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", f"kubernetes.default.svc.{CLUSTER_DOMAIN}")
    return tuple(dict.fromkeys((*names, "localhost", "127.0.0.1", "::1", service_ip, *extra)))


def control_plane_profiles(hosts: tuple[str, ...]) -> tuple[Profile, ...]:
    """The certificates of a control plane; ``hosts`` as ``api_server_hosts`` gives them."""
    return (
        Profile("apiserver", "kube-apiserver", hosts=hosts, server=True, client=False),
        Profile("apiserver-kubelet-client", "kube-apiserver-kubelet-client", ADMINS),
        Profile("front-proxy-client", "front-proxy-client", authority="front-proxy-ca"),
        Profile("controller-manager", "system:kube-controller-manager"),
        Profile("scheduler", "system:kube-scheduler"),
        Profile("kube-proxy", "system:kube-proxy"),
        Profile("coredns", "system:serviceaccount:kube-system:coredns"),
        Profile("admin", "kubernetes-admin", ADMINS),
        Profile("super-admin", "kubernetes-super-admin", "system:masters"),
    )


def node_profiles(name: str, addresses: Iterable[str] = ()) -> tuple[Profile, Profile]:
    """A kubelet's two certificates: the one it calls with and the one it serves with."""
    user, hosts = f"system:node:{name}", tuple(dict.fromkeys((name, *addresses)))
    return (
        Profile(f"nodes/{name}-client", user, "system:nodes"),
        Profile(f"nodes/{name}-serving", user, "system:nodes", hosts=hosts, server=True, client=False),
    )


class Pki:
    """The folder of certificates. ``ensure`` makes what is missing or due; everything else is paths."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.folder = folder
        self.clock = clock
        self._index: dict[str, _Entry] | None = None
        self._authorities: dict[str, tuple[Certificate, EllipticCurvePrivateKey]] = {}

    def cert(self, file: str) -> Path:
        return self.folder / f"{file}.crt"

    def key(self, file: str) -> Path:
        return self.folder / f"{file}.key"

    @property
    def ca(self) -> Path:
        return self.cert("ca")

    @property
    def front_proxy_ca(self) -> Path:
        return self.cert("front-proxy-ca")

    @property
    def token_key(self) -> Path:
        """The private key that signs ServiceAccount tokens; ``sa.pub`` beside it verifies them."""
        return self.folder / "sa.key"

    @property
    def token_public_key(self) -> Path:
        return self.folder / "sa.pub"

    def ensure(self, profiles: Iterable[Profile]) -> list[str]:
        """Make authorities, the token key and these certificates where they are missing, changed or near their end.
        Returns the files made, without their suffix."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = [name for name in ("ca", "front-proxy-ca") if self._ensure_authority(name)]
        if not self.token_key.exists() or not self.token_public_key.exists():
            self._make_token_key()
            made.append("sa")
        for profile in profiles:
            if self._due(profile, renewed_authorities=made):
                self._issue(profile)
                made.append(profile.file)
        if made:
            self._save_index()
        return made

    def _due(self, profile: Profile, renewed_authorities: list[str]) -> bool:
        entry = self._entries().get(profile.file)
        if entry is None or profile.authority in renewed_authorities or entry.profile != repr(profile):
            return True
        if not self.cert(profile.file).exists() or not self.key(profile.file).exists():
            return True
        return entry.expires - RENEW_BEFORE_S < self.clock.now()

    def _ensure_authority(self, name: str) -> bool:
        """An authority is never replaced: everything would cease to be trusted. Only a missing one is made."""
        if self.cert(name).exists() and self.key(name).exists():
            return False
        from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

        key = generate_private_key(SECP256R1())
        common_name = "kubernetes" if name == "ca" else name
        builder = _authority(self._builder(common_name, "", CA_LIFE_S), common_name, key)
        self._write_pair(name, _signed(builder, key), key)
        self._entries()[name] = _Entry(name, self.clock.now() + CA_LIFE_S)
        return True

    def _issue(self, profile: Profile) -> None:
        from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

        authority, authority_key = self._authority(profile.authority)
        key = generate_private_key(SECP256R1())
        builder = self._builder(profile.common_name, profile.organization, LEAF_LIFE_S)
        builder = builder.issuer_name(authority.subject).public_key(key.public_key())
        self._write_pair(profile.file, _signed(_leaf(builder, profile, authority), authority_key), key)
        self._entries()[profile.file] = _Entry(repr(profile), self.clock.now() + LEAF_LIFE_S)

    def _builder(self, common_name: str, organization: str, life_s: float) -> CertificateBuilder:
        from cryptography import x509
        from cryptography.x509.oid import NameOID

        names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)] if organization else []
        names.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
        begin = datetime.fromtimestamp(self.clock.now() - BACKDATE_S, UTC).replace(microsecond=0)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name(names))
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + timedelta(seconds=life_s + BACKDATE_S))
        )

    def _authority(self, name: str) -> tuple[Certificate, EllipticCurvePrivateKey]:
        if name not in self._authorities:
            from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
            from cryptography.hazmat.primitives.serialization import load_pem_private_key
            from cryptography.x509 import load_pem_x509_certificate

            key = load_pem_private_key(self.key(name).read_bytes(), password=None)
            if not isinstance(key, EllipticCurvePrivateKey):
                raise ValueError(f"{self.key(name)} is not an elliptic curve key")
            self._authorities[name] = load_pem_x509_certificate(self.cert(name).read_bytes()), key
        return self._authorities[name]

    def _write_pair(self, name: str, certificate: Certificate, key: EllipticCurvePrivateKey) -> None:
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        write_private(self.key(name), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        write_private(self.cert(name), certificate.public_bytes(Encoding.PEM))

    def _make_token_key(self) -> None:
        from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

        key = generate_private_key(SECP256R1())
        write_private(self.token_key, key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        write_private(self.token_public_key, public)

    def _entries(self) -> dict[str, _Entry]:
        if self._index is None:
            path = self.folder / "index.json"
            self._index = msgspec.json.decode(path.read_bytes(), type=dict[str, _Entry]) if path.exists() else {}
        return self._index

    def _save_index(self) -> None:
        write_private(self.folder / "index.json", msgspec.json.encode(self._entries()))


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _authority(builder: CertificateBuilder, common_name: str, key: EllipticCurvePrivateKey) -> CertificateBuilder:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    public = key.public_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    return (
        builder.issuer_name(name)
        .public_key(public)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _leaf(builder: CertificateBuilder, profile: Profile, authority: Certificate) -> CertificateBuilder:
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    uses = [ExtendedKeyUsageOID.SERVER_AUTH] if profile.server else []
    uses += [ExtendedKeyUsageOID.CLIENT_AUTH] if profile.client else []
    holder = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(holder), critical=False)
    )
    if profile.hosts:
        names = x509.SubjectAlternativeName([_general_name(host) for host in profile.hosts])
        builder = builder.add_extension(names, critical=False)
    return builder


def _general_name(host: str) -> GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, authority: bool) -> KeyUsage:
    from cryptography.x509 import KeyUsage

    return KeyUsage(
        digital_signature=True,
        key_encipherment=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _signed(builder: CertificateBuilder, key: EllipticCurvePrivateKey) -> Certificate:
    from cryptography.hazmat.primitives.hashes import SHA256

    return builder.sign(key, SHA256())
