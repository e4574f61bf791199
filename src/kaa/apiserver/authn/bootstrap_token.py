"""Bootstrap tokens: ``abcdef.0123456789abcdef``, each a Secret in kube-system that a new node shows once.

Source: plugin/pkg/auth/authenticator/token/bootstrap.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re

from kaa.api.clock import parse_time
from kaa.api.types.core_v1 import Secret
from kaa.client.pipeline import User

from ..view import View
from .base import Credentials

SECRET_TYPE = "bootstrap.kubernetes.io/token"
DEFAULT_GROUP = "system:bootstrappers"
_TOKEN = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})")
_GROUP = re.compile(r"system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]")


class BootstrapTokenAuthenticator:
    def authenticate(self, credentials: Credentials, view: View) -> User | None:
        header = credentials.authorization
        found = _TOKEN.fullmatch(header[7:].strip()) if header[:7].lower() == "bearer " else None
        if found is None:
            return None
        token_id, token_secret = found.groups()
        secret = view.get(Secret, f"bootstrap-token-{token_id}", "kube-system")
        if secret is None or secret.type != SECRET_TYPE or secret.metadata.deletion_timestamp:
            return None
        data = {key: _decoded(value) for key, value in secret.data.items()}
        if data.get("token-id") != token_id or not _same(data.get("token-secret", ""), token_secret):
            return None
        if _expired(data, view) or data.get("usage-bootstrap-authentication") != "true":
            return None
        groups = [g.strip() for g in data.get("auth-extra-groups", "").split(",") if g.strip()]
        if not all(_GROUP.fullmatch(group) for group in groups):
            return None
        return User(
            f"system:bootstrap:{token_id}", groups=(DEFAULT_GROUP, *sorted(set(groups)), "system:authenticated")
        )


def _same(held: str, shown: str) -> bool:
    return hmac.compare_digest(held.encode(), shown.encode())


def _expired(data: dict[str, str], view: View) -> bool:
    """An expiration that cannot be read counts as passed."""
    text = data.get("expiration", "")
    if not text:
        return False
    try:
        return parse_time(text) <= view.clock.now()
    except ValueError:
        return True


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
