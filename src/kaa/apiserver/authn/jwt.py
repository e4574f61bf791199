"""JSON web tokens signed with RSA (RS256), and the keys as JSON. No more of JOSE than Kubernetes needs.

``cryptography`` is imported when the first token is signed or verified, not before.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey


class InvalidToken(ValueError):
    """The text is no token of these keys."""


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError as err:
        raise InvalidToken("not base64") from err


def claims_unverified(token: str) -> dict[str, Any]:
    """What a token says of itself, believed by nobody yet. Raises InvalidToken."""
    parts = token.split(".")
    if len(parts) != 3:
        raise InvalidToken("not a JSON web token")
    return _json(parts[1])


def _json(part: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(unb64(part), type=dict[str, Any])
    except msgspec.MsgspecError as err:
        raise InvalidToken("not a JSON object") from err


class SigningKey:
    """An RSA key that signs tokens; it verifies them too."""

    def __init__(self, pem: bytes) -> None:
        self._pem = pem
        self._key: RSAPrivateKey | None = None
        self._verifier: VerifyingKey | None = None

    @property
    def verifier(self) -> VerifyingKey:
        if self._verifier is None:
            from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

            public = self._private().public_key()
            pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            self._verifier = VerifyingKey(pem)
        return self._verifier

    def sign(self, claims: Mapping[str, Any]) -> str:
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA256

        head = b64(msgspec.json.encode({"alg": "RS256", "kid": self.verifier.key_id}))
        text = f"{head}.{b64(msgspec.json.encode(claims))}"
        return f"{text}.{b64(self._private().sign(text.encode(), PKCS1v15(), SHA256()))}"

    def _private(self) -> RSAPrivateKey:
        if self._key is None:
            from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
            from cryptography.hazmat.primitives.serialization import load_pem_private_key

            key = load_pem_private_key(self._pem, password=None)
            if not isinstance(key, RSAPrivateKey):
                raise ValueError("service account tokens are signed with an RSA key")
            self._key = key
        return self._key


class VerifyingKey:
    """An RSA public key. ``key_id`` is the hash that tokens and the published key set name it by."""

    def __init__(self, pem: bytes) -> None:
        self._pem = pem
        self._key: RSAPublicKey | None = None
        self._key_id = ""

    @property
    def key_id(self) -> str:
        if not self._key_id:
            from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

            der = self._public().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            self._key_id = b64(hashlib.sha256(der).digest())
        return self._key_id

    def verify(self, token: str) -> dict[str, Any]:
        """The claims of a token that this key signed. Raises InvalidToken. Times are not looked at."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA256

        signed, _, signature = token.rpartition(".")
        head, _, body = signed.partition(".")
        if _json(head).get("alg") != "RS256":
            raise InvalidToken("not signed with RS256")
        try:
            self._public().verify(unb64(signature), signed.encode(), PKCS1v15(), SHA256())
        except InvalidSignature as err:
            raise InvalidToken("invalid signature") from err
        return _json(body)

    def jwk(self) -> dict[str, str]:
        """The key as the published key set shows it."""
        numbers = self._public().public_numbers()
        n = numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8, "big")
        e = numbers.e.to_bytes((numbers.e.bit_length() + 7) // 8, "big")
        return {"use": "sig", "kty": "RSA", "kid": self.key_id, "alg": "RS256", "n": b64(n), "e": b64(e)}

    def _public(self) -> RSAPublicKey:
        if self._key is None:
            from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
            from cryptography.hazmat.primitives.serialization import load_pem_public_key

            key = load_pem_public_key(self._pem)
            if not isinstance(key, RSAPublicKey):
                raise ValueError("service account tokens are verified with an RSA key")
            self._key = key
        return self._key
