"""Client certificates: the subject's common name is the user, its organizations are the groups.

TLS has already verified the chain; what is left is to read the subject. A reader of the few DER shapes on the way there
spares the hot path an import of ``cryptography``; a certificate's user is kept, so a connection pays for it once.

Source: apiserver pkg/authentication/request/x509.
"""

from __future__ import annotations

import hashlib

from kaa.client.pipeline import User

from ..view import View
from .base import Credentials

AUTHENTICATED = "system:authenticated"
CREDENTIAL_ID = "authentication.kubernetes.io/credential-id"
KEPT_CERTIFICATES = 4_096
_COMMON_NAME, _ORGANIZATION, _UID = b"\x55\x04\x03", b"\x55\x04\x0a", b"\x2b\x06\x01\x04\x01\x83\xb5\x4a\x02\x01"
_CONTEXT_0 = 0xA0


class X509Authenticator:
    """Users by certificate. ``None`` when no certificate came, or it names nobody."""

    def __init__(self) -> None:
        self._users: dict[bytes, User | None] = {}

    def authenticate(self, credentials: Credentials, view: View) -> User | None:
        der = credentials.certificate
        if not der:
            return None
        try:
            return self._users[der]
        except KeyError:
            pass
        if len(self._users) >= KEPT_CERTIFICATES:
            self._users.clear()
        user = self._users[der] = user_of(der)
        return user


def user_of(der: bytes) -> User | None:
    """The user that a certificate names."""
    names = subject(der)
    common = names.get(_COMMON_NAME)
    if not common:
        return None
    groups = tuple(dict.fromkeys((*names.get(_ORGANIZATION, ()), AUTHENTICATED)))
    uid = names.get(_UID, ("",))[0]
    digest = hashlib.sha256(der).hexdigest()
    return User(common[-1], uid=uid, groups=groups, extra={CREDENTIAL_ID: (f"X509SHA256={digest}",)})


def subject(der: bytes) -> dict[bytes, tuple[str, ...]]:
    """{encoded object identifier: its values} of a certificate's subject. Raises ValueError when it is no certificate.

    Certificate → TBSCertificate → [version], serial, algorithm, issuer, validity, *subject*.
    """
    try:
        certificate = _inside(der, 0)
        fields = _children(der, *_inside(der, certificate[0]))
        at = 5 if der[fields[0][0]] == _CONTEXT_0 else 4
        found: dict[bytes, list[str]] = {}
        for _, start, end in _children(der, *fields[at][1:]):
            for _, pair_start, pair_end in _children(der, start, end):
                (_, oid_start, oid_end), (tag_at, text_start, text_end) = _children(der, pair_start, pair_end)
                text = _text(der[tag_at], der[text_start:text_end])
                found.setdefault(der[oid_start:oid_end], []).append(text)
    except (IndexError, UnicodeDecodeError) as err:
        raise ValueError("not a certificate") from err
    return {oid: tuple(values) for oid, values in found.items()}


def _text(tag: int, data: bytes) -> str:
    return data.decode("utf-16-be" if tag == 0x1E else "utf-8")


def _inside(der: bytes, at: int) -> tuple[int, int]:
    """Where the content of the element at ``at`` begins and ends."""
    length, start = der[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        length, start = int.from_bytes(der[start : start + count], "big"), start + count
    if start + length > len(der):
        raise IndexError
    return start, start + length


def _children(der: bytes, start: int, end: int) -> list[tuple[int, int, int]]:
    """(where it stands, where its content begins, where it ends) of each element between."""
    found = []
    while start < end:
        inner, after = _inside(der, start)
        found.append((start, inner, after))
        start = after
    return found
