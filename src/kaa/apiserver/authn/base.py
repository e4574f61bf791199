"""What an authenticator is given and answers."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from kaa.client.pipeline import User

from ..view import View

ANONYMOUS = User("system:anonymous", groups=("system:unauthenticated",))


class Credentials(NamedTuple):
    """What came with a request: the Authorization header, the peer's verified certificate (DER), impersonation headers."""

    authorization: str = ""
    certificate: bytes = b""


class Authenticator(Protocol):
    def authenticate(self, credentials: Credentials, view: View) -> User | None:
        """The user, or None when these credentials are not of this authenticator's kind. Raises Unauthorized when they
        are and are wrong."""
        ...
