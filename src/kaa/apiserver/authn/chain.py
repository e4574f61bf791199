"""All the ways to be known, as one: certificate, then bearer tokens; and whoever shows nothing is anonymous.

Source: pkg/kubeapiserver/authenticator; apiserver pkg/authentication/request/{union,anonymous}.
"""

from __future__ import annotations

import csv
import hmac
from collections.abc import Iterable, Sequence
from pathlib import Path

from kaa.api.errors import Unauthorized
from kaa.client.pipeline import User

from ..view import View
from .base import ANONYMOUS, Authenticator, Credentials
from .bootstrap_token import BootstrapTokenAuthenticator
from .jwt import VerifyingKey
from .tokens import ISSUER, TokenAuthenticator
from .x509 import AUTHENTICATED, X509Authenticator


class UnionAuthenticator:
    """The first authenticator that knows the user is right. A bearer token that nobody knows is a 401, not anonymous."""

    def __init__(self, authenticators: Sequence[Authenticator], *, anonymous: bool = True) -> None:
        self.authenticators = tuple(authenticators)
        self.anonymous = anonymous

    def authenticate(self, credentials: Credentials, view: View) -> User:
        """The user. Raises Unauthorized."""
        fault: Unauthorized | None = None
        for authenticator in self.authenticators:
            try:
                user = authenticator.authenticate(credentials, view)
            except Unauthorized as err:
                fault = fault or err
                continue
            if user is not None:
                return user
        if fault is not None or credentials.authorization[:7].lower() == "bearer " or not self.anonymous:
            raise Unauthorized from fault
        return ANONYMOUS


class StaticTokenAuthenticator:
    """Tokens from a CSV file: ``token,user,uid,"group1,group2"``."""

    def __init__(self, users: dict[str, User]) -> None:
        self._users = {token.encode(): user for token, user in users.items()}

    @classmethod
    def from_file(cls, path: Path) -> StaticTokenAuthenticator:
        """Raises ValueError at a line of fewer than three columns."""
        with path.open(newline="") as file:
            return cls(dict(_read_users(csv.reader(file, skipinitialspace=True), path)))

    def authenticate(self, credentials: Credentials, view: View) -> User | None:
        header = credentials.authorization
        if header[:7].lower() != "bearer ":
            return None
        return self._find(header[7:].strip().encode())

    def _find(self, token: bytes) -> User | None:
        """Every token is compared, so that the time taken says nothing of how near a guess was."""
        found = None
        for known, user in self._users.items():
            if hmac.compare_digest(known, token):
                found = user
        return found


def _read_users(rows: Iterable[list[str]], path: Path) -> Iterable[tuple[str, User]]:
    for row in rows:
        if not row:
            continue
        if len(row) < 3:
            raise ValueError(
                f"token file {path} must have at least 3 columns (token, user name, user uid), found {len(row)}"
            )
        groups = tuple(g.strip() for g in row[3].split(",") if g.strip()) if len(row) > 3 else ()
        yield row[0], User(row[1], uid=row[2], groups=(*groups, AUTHENTICATED))


class DefaultAuthenticator(UnionAuthenticator):
    """What a cluster has. ``tokens`` is at hand for TokenReview."""

    def __init__(
        self,
        keys: Sequence[VerifyingKey],
        *,
        issuer: str = ISSUER,
        audiences: Sequence[str] = (),
        token_file: Path | None = None,
        bootstrap_tokens: bool = True,
        anonymous: bool = True,
    ) -> None:
        self.tokens = TokenAuthenticator(keys, issuer=issuer, audiences=tuple(audiences) or (issuer,))
        chosen: list[Authenticator] = [X509Authenticator()]
        if token_file is not None:
            chosen.append(StaticTokenAuthenticator.from_file(token_file))
        chosen.append(self.tokens)
        if bootstrap_tokens:
            chosen.append(BootstrapTokenAuthenticator())
        super().__init__(chosen, anonymous=anonymous)
