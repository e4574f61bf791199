"""What an authenticator is given and answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from kaa.client.pipeline import User

from ..view import View

ANONYMOUS = User("system:anonymous", groups=("system:unauthenticated",))


#: Takes what there is to say of somebody's credentials: (audit annotation, its value, a warning or nothing).
Remark = Callable[[str, str, str], None]


def unheard(key: str, value: str, warning: str) -> None:
    """Takes remarks where nobody listens."""


class Credentials(NamedTuple):
    """What came with a request: the Authorization header, the peer's verified certificate (DER)."""

    authorization: str = ""
    certificate: bytes = b""
    remark: Remark = unheard


class Authenticator(Protocol):
    def authenticate(self, credentials: Credentials, view: View) -> User | None:
        """The user, or None when these credentials are not of this authenticator's kind. Raises Unauthorized when they
        are and are wrong."""
        ...
