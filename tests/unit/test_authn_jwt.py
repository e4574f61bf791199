"""JSON web tokens: each kind of key signs, and takes its own tokens alone."""

from __future__ import annotations

import base64
from random import Random

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from kaa.apiserver.authn.discovery import configuration
from kaa.apiserver.authn.jwt import InvalidToken, SigningKey, VerifyingKey

Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
MADE: dict[str, Private] = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
}
CLAIMS = {"iss": "kaa", "sub": "system:serviceaccount:a:b"}

# RFC 7515, appendix A.3
RFC_X, RFC_Y = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"
RFC_TOKEN = (
    "eyJhbGciOiJFUzI1NiJ9"
    ".eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
    ".DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
)


def signing(key: Private, form: PrivateFormat = PrivateFormat.TraditionalOpenSSL) -> SigningKey:
    return SigningKey(key.private_bytes(Encoding.PEM, form, NoEncryption()))


def number(text: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")


@pytest.mark.parametrize("algorithm", MADE)
@pytest.mark.parametrize("form", [PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8])
def test_what_a_key_signs_it_alone_verifies(algorithm: str, form: PrivateFormat) -> None:
    key = signing(MADE[algorithm], form)
    token = key.sign(CLAIMS)
    assert key.verifier.algorithm == algorithm
    assert key.verifier.verify(token) == CLAIMS
    for other in MADE:
        if other != algorithm:
            with pytest.raises(InvalidToken):
                signing(MADE[other]).verifier.verify(token)


@pytest.mark.parametrize("algorithm", MADE)
def test_a_token_changed_anywhere_is_refused(algorithm: str) -> None:
    random = Random(algorithm)
    key = signing(MADE[algorithm])
    token = key.sign(CLAIMS)
    for _ in range(100):
        at = random.randrange(len(token) - 2)  # the last character bears unused bits
        for wrong in (token[:at], token[:at] + "." + token[at:], token[:at] + random.choice("Ab-_0") + token[at + 1 :]):
            if wrong != token:
                with pytest.raises(InvalidToken):
                    key.verifier.verify(wrong)


def test_a_token_of_the_standard() -> None:
    public = ec.EllipticCurvePublicNumbers(number(RFC_X), number(RFC_Y), ec.SECP256R1()).public_key()
    key = VerifyingKey(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert key.verify(RFC_TOKEN)["iss"] == "joe"
    shown = key.jwk()
    assert (shown["kty"], shown["crv"], shown["x"], shown["y"]) == ("EC", "P-256", RFC_X, RFC_Y)


@pytest.mark.parametrize("algorithm", MADE)
def test_the_published_key_is_the_key(algorithm: str) -> None:
    made = MADE[algorithm].public_key()
    shown = signing(MADE[algorithm]).verifier.jwk()
    assert (shown["alg"], shown["use"]) == (algorithm, "sig")
    if isinstance(made, rsa.RSAPublicKey):
        numbers = made.public_numbers()
        assert (number(shown["n"]), number(shown["e"])) == (numbers.n, numbers.e)
    else:
        point = made.public_numbers()
        assert (number(shown["x"]), number(shown["y"])) == (point.x, point.y)
        assert len({len(shown["x"]), len(shown["y"])}) == 1


def test_the_configuration_names_the_algorithms() -> None:
    keys = [signing(MADE[name]).verifier for name in ("RS256", "ES256", "RS256")]
    assert b'"id_token_signing_alg_values_supported":["ES256","RS256"]' in configuration("i", "https://s", keys)


def test_other_curves_are_refused() -> None:
    with pytest.raises(ValueError, match="P-256, P-384 or P-521"):
        signing(ec.generate_private_key(ec.SECP256K1())).sign(CLAIMS)
