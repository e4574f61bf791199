"""What controllers keep of Secrets in memory: the few whose data they read in full, of others who they are.

A cluster's secrets are many and large, and a cache that does not hold them cannot leak them.
"""

from __future__ import annotations

import base64

from msgspec.structs import replace

from kaa.api.types.core_v1 import Secret
from kaa.api.values import Base64

ACCOUNT_TOKEN = "kubernetes.io/service-account-token"
BOOTSTRAP_TOKEN = "bootstrap.kubernetes.io/token"
READ = (ACCOUNT_TOKEN, BOOTSTRAP_TOKEN)


def kept(secret: Secret) -> Secret:
    """A Secret as the shared informer keeps it. Only one of a type in ``READ`` may be written back."""
    meta = replace(secret.metadata, managed_fields=())
    if secret.type in READ:
        return replace(secret, metadata=meta)
    return replace(secret, data={}, metadata=replace(meta, annotations={}))


def encoded(text: str | bytes) -> Base64:
    """A value of ``data``: base64."""
    return Base64(base64.b64encode(text.encode() if isinstance(text, str) else text).decode())


def decoded(secret: Secret, key: str) -> str:
    """A value as text; empty when it is absent or no text."""
    try:
        return base64.b64decode(secret.data.get(key, "")).decode()
    except ValueError:
        return ""
