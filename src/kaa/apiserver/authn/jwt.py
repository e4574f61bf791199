"""JSON web tokens signed with RSA or an elliptic curve, and the keys as JSON. No more of JOSE than Kubernetes needs.

``cryptography`` is imported when the first token is signed or verified, not before. Source: RFC 7515, 7517, 7518.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

    _Private: TypeAlias = RSAPrivateKey | EllipticCurvePrivateKey
    _Public: TypeAlias = RSAPublicKey | EllipticCurvePublicKey

_RSA = "RS256"


class _Curve(NamedTuple):
    algorithm: str
    name: str  #: as keys in JSON call it
    hash: str
    size: int  #: of each of a signature's two numbers, in bytes


_CURVES = {
    "secp256r1": _Curve("ES256", "P-256", "SHA256", 32),
    "secp384r1": _Curve("ES384", "P-384", "SHA384", 48),
    "secp521r1": _Curve("ES512", "P-521", "SHA512", 66),
}


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
    except (msgspec.MsgspecError, UnicodeDecodeError) as err:
        raise InvalidToken("not a JSON object") from err


class SigningKey:
    """A private key that signs tokens, RSA or on one of three curves (an elliptic one at a fifteenth of the cost); it verifies
    them too."""

    def __init__(self, pem: bytes) -> None:
        self._pem = pem
        self._key: _Private | None = None
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
        verifier = self.verifier
        head = b64(msgspec.json.encode({"alg": verifier.algorithm, "kid": verifier.key_id}))
        text = f"{head}.{b64(msgspec.json.encode(claims))}"
        return f"{text}.{b64(self._signature(text.encode()))}"

    def _signature(self, data: bytes) -> bytes:
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

        key = self._private()
        if isinstance(key, RSAPrivateKey):
            from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
            from cryptography.hazmat.primitives.hashes import SHA256

            return key.sign(data, PKCS1v15(), SHA256())
        from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

        curve = _CURVES[key.curve.name]
        return b"".join(n.to_bytes(curve.size, "big") for n in decode_dss_signature(key.sign(data, _ecdsa(curve))))

    def _private(self) -> _Private:
        if self._key is None:
            from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
            from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
            from cryptography.hazmat.primitives.serialization import load_pem_private_key

            key = load_pem_private_key(self._pem, password=None)
            if not (isinstance(key, RSAPrivateKey) or (isinstance(key, EllipticCurvePrivateKey) and _known(key))):
                raise ValueError("service account tokens are signed with an RSA key, or one on P-256, P-384 or P-521")
            self._key = key
        return self._key


class VerifyingKey:
    """A public key. ``key_id`` is the hash that tokens and the published key set name it by."""

    def __init__(self, pem: bytes) -> None:
        self._pem = pem
        self._key: _Public | None = None
        self._key_id = ""

    @property
    def key_id(self) -> str:
        if not self._key_id:
            from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

            der = self._public().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            self._key_id = b64(hashlib.sha256(der).digest())
        return self._key_id

    @property
    def algorithm(self) -> str:
        """As a token's head names it."""
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

        key = self._public()
        return _RSA if isinstance(key, RSAPublicKey) else _CURVES[key.curve.name].algorithm

    def verify(self, token: str) -> dict[str, Any]:
        """The claims of a token that this key signed. Raises InvalidToken. Times are not looked at."""
        from cryptography.exceptions import InvalidSignature

        signed, _, signature = token.rpartition(".")
        head, _, body = signed.partition(".")
        if _json(head).get("alg") != self.algorithm:
            raise InvalidToken(f"not signed with {self.algorithm}")
        try:
            self._check(unb64(signature), signed.encode())
        except InvalidSignature as err:
            raise InvalidToken("invalid signature") from err
        return _json(body)

    def _check(self, signature: bytes, data: bytes) -> None:
        """Raises InvalidSignature."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

        key = self._public()
        if isinstance(key, RSAPublicKey):
            from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
            from cryptography.hazmat.primitives.hashes import SHA256

            key.verify(signature, data, PKCS1v15(), SHA256())
            return
        from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

        curve = _CURVES[key.curve.name]
        if len(signature) != 2 * curve.size:
            raise InvalidSignature
        r, s = (int.from_bytes(part, "big") for part in (signature[: curve.size], signature[curve.size :]))
        key.verify(encode_dss_signature(r, s), data, _ecdsa(curve))

    def jwk(self) -> dict[str, str]:
        """The key as the published key set shows it."""
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

        key = self._public()
        named = {"use": "sig", "kid": self.key_id, "alg": self.algorithm}
        if isinstance(key, RSAPublicKey):
            rsa = key.public_numbers()
            return {**named, "kty": "RSA", "n": _number(rsa.n), "e": _number(rsa.e)}
        curve, point = _CURVES[key.curve.name], key.public_numbers()
        return {
            **named,
            "kty": "EC",
            "crv": curve.name,
            "x": _number(point.x, curve.size),
            "y": _number(point.y, curve.size),
        }

    def _public(self) -> _Public:
        if self._key is None:
            from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
            from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
            from cryptography.hazmat.primitives.serialization import load_pem_public_key

            key = load_pem_public_key(self._pem)
            if not (isinstance(key, RSAPublicKey) or (isinstance(key, EllipticCurvePublicKey) and _known(key))):
                raise ValueError("service account tokens are verified with an RSA key, or one on P-256, P-384 or P-521")
            self._key = key
        return self._key


def _known(key: EllipticCurvePrivateKey | EllipticCurvePublicKey) -> bool:
    return key.curve.name in _CURVES


def _ecdsa(curve: _Curve) -> ECDSA:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

    return ECDSA(getattr(hashes, curve.hash)())


def _number(number: int, size: int = 0) -> str:
    return b64(number.to_bytes(size or (number.bit_length() + 7) // 8, "big"))
