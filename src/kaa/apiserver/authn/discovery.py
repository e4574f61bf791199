"""How others verify our tokens: the OpenID provider configuration and the key set.

Source: pkg/serviceaccount openidmetadata.go.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from .jwt import VerifyingKey

CONFIGURATION_PATH = "/.well-known/openid-configuration"
KEYS_PATH = "/openid/v1/jwks"
CONFIGURATION_TYPE = "application/json"
KEYS_TYPE = "application/jwk-set+json"


def configuration(issuer: str, server: str, keys: Sequence[VerifyingKey]) -> bytes:
    """``server``: where the API server is reached from outside, ``https://10.0.0.1:6443``."""
    return msgspec.json.encode(
        {
            "issuer": issuer,
            "jwks_uri": f"{server}{KEYS_PATH}",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": sorted({key.algorithm for key in keys}),
        }
    )


def key_set(keys: Sequence[VerifyingKey]) -> bytes:
    return msgspec.json.encode({"keys": [key.jwk() for key in keys]})
