"""Acting as another: the ``Impersonate-*`` headers, each of whose names the asker must be allowed to take.

Source: apiserver pkg/endpoints/filters/impersonation.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

from kaa.api.errors import InternalError
from kaa.client.pipeline import User

from ..authz.base import Authorizer, Decision, Question
from ..authz.forbidden import forbidden
from ..view import View
from .tokens import PREFIX, service_account_groups

AUTHENTICATED, UNAUTHENTICATED, ANONYMOUS = "system:authenticated", "system:unauthenticated", "system:anonymous"
_AUTHENTICATION = "authentication.k8s.io"


@dataclass(frozen=True, slots=True)
class Wish:
    """Whom a request wants to be."""

    user: str = ""
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, Sequence[str]] = field(default_factory=dict)


def read_headers(headers: Iterable[tuple[str, str]]) -> Wish | None:
    """The wish in a request's headers (names in any case), or None. Raises InternalError for a wish without a user."""
    user = uid = ""
    groups: list[str] = []
    extra: dict[str, list[str]] = {}
    for name, value in headers:
        word = name.lower()
        if word == "impersonate-user":
            user = user or value
        elif word == "impersonate-uid":
            uid = uid or value
        elif word == "impersonate-group":
            groups.append(value)
        elif word.startswith("impersonate-extra-"):
            extra.setdefault(unquote(word[len("impersonate-extra-") :]), []).append(value)
    if user:
        return Wish(user, uid, tuple(groups), extra)
    if groups or extra or uid:
        raise InternalError(f"requested {_shown(groups, extra, uid)} without impersonating a user")
    return None


def _shown(groups: list[str], extra: Mapping[str, Sequence[str]], uid: str) -> str:
    refs = [f"{{Group  {group}    }}" for group in groups]
    refs += [f"{{UserExtra  {value}  {key}  }}" for key, values in extra.items() for value in values]
    if uid:
        refs.append(f"{{UID  {uid}    }}")
    return "[" + " ".join(refs) + "]"


def impersonate(asker: User, wish: Wish, authorizer: Authorizer, view: View) -> User:
    """The user wished for. Raises Forbidden at the first name that the asker may not take."""
    for question in questions(asker, wish):
        decision, reason = authorizer.authorize(question, view)
        if decision is not Decision.ALLOW:
            raise forbidden(question, reason)
    return User(wish.user, uid=wish.uid, groups=_groups(wish), extra={k: tuple(v) for k, v in wish.extra.items()})


def questions(asker: User, wish: Wish) -> Iterable[Question]:
    def ask(resource: str, name: str, *, group: str = "", namespace: str = "", subresource: str = "") -> Question:
        return Question(
            user=asker,
            verb="impersonate",
            group=group,
            version="v1",
            resource=resource,
            subresource=subresource,
            namespace=namespace,
            name=name,
        )

    account = _account(wish.user)
    yield ask("serviceaccounts", account[1], namespace=account[0]) if account else ask("users", wish.user)
    for group in wish.groups:
        yield ask("groups", group)
    for key, values in wish.extra.items():
        for value in values:
            yield ask("userextras", value, group=_AUTHENTICATION, subresource=key)
    if wish.uid:
        yield ask("uids", wish.uid, group=_AUTHENTICATION)


def _account(user: str) -> tuple[str, str] | None:
    """Namespace and name of the service account that a user name spells."""
    if not user.startswith(PREFIX):
        return None
    namespace, colon, name = user[len(PREFIX) :].partition(":")
    return (namespace, name) if colon and namespace and name and ":" not in name else None


def _groups(wish: Wish) -> tuple[str, ...]:
    account = _account(wish.user)
    groups = wish.groups
    if account and not groups:
        groups = service_account_groups(account[0])[:2]
    if wish.user == ANONYMOUS:
        return groups if UNAUTHENTICATED in groups else (*groups, UNAUTHENTICATED)
    if AUTHENTICATED in groups or UNAUTHENTICATED in groups:
        return groups
    return (*groups, AUTHENTICATED)
