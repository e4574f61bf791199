"""The variable ``authorizer``: what the user of a request, or a service account, may do.

Source: apiserver pkg/cel/library/authz.go; pkg/admission/plugin/authorizer/caching_authorizer.go.
"""

from __future__ import annotations

from typing import Any

from kaa.api.cel.authorizer import Check, Verdict
from kaa.api.cel.library.authorization import AuthorizerValue, ResourceCheckValue
from kaa.client.pipeline import User

from ..authz.base import Authorizer, Decision, Question
from ..view import View
from ..webhooks.sight import Shape, Sight


class Asker:
    """Answers for one request; the same question is asked once."""

    def __init__(self, authorizer: Authorizer, user: User, view: View) -> None:
        self._authorizer, self._user, self._view = authorizer, user, view
        self._known: dict[Check, Verdict] = {}

    def __call__(self, check: Check) -> Verdict:
        found = self._known.get(check)
        if found is None:
            decision, reason = self._authorizer.authorize(self._question(check), self._view)
            found = self._known[check] = Verdict(decision is Decision.ALLOW, reason)
        return found

    def _question(self, check: Check) -> Question:
        user = self._user if check.service_account is None else _service_account(*check.service_account)
        if check.path is not None:
            return Question(user, check.verb, path=check.path)
        return Question(
            user,
            check.verb,
            check.group,
            "*",
            check.resource,
            check.subresource,
            check.namespace,
            check.name,
            label_selector=check.label_selector or "",
            field_selector=check.field_selector or "",
        )


def _service_account(namespace: str, name: str) -> User:
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
    return User(f"system:serviceaccount:{namespace}:{name}", groups=groups)


def values(authorizer: Authorizer, sight: Sight, shape: Shape) -> dict[str, Any]:
    """``authorizer`` and ``authorizer.requestResource``."""
    ask = Asker(authorizer, sight.user, sight.view)
    check = Check(
        "",
        group=shape.group,
        resource=shape.plural,
        subresource=sight.subresource,
        namespace=sight.namespace,
        name=sight.name,
    )
    return {
        "authorizer": AuthorizerValue(ask),
        "authorizer.requestResource": ResourceCheckValue(ask, check),
    }
