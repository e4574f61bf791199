"""Several authorizers as one: the first that decides is right; when none does, all their reasons are given."""

from __future__ import annotations

from collections.abc import Sequence

from ..view import View
from .base import Authorizer, Decision, Question
from .masters import MastersAuthorizer
from .node import NodeAuthorizer
from .rbac import RbacAuthorizer


class UnionAuthorizer:
    def __init__(self, authorizers: Sequence[Authorizer]) -> None:
        self.authorizers = tuple(authorizers)

    def authorize(self, question: Question, view: View) -> tuple[Decision, str]:
        reasons = []
        for authorizer in self.authorizers:
            decision, reason = authorizer.authorize(question, view)
            if decision is not Decision.NO_OPINION:
                return decision, reason
            if reason:
                reasons.append(reason)
        return Decision.NO_OPINION, "\n".join(reasons)


class DefaultAuthorizer(UnionAuthorizer):
    """What a cluster has: masters, nodes, roles. ``rbac`` is at hand for rules reviews and escalation checks."""

    def __init__(self) -> None:
        self.rbac = RbacAuthorizer()
        super().__init__((MastersAuthorizer(), NodeAuthorizer(), self.rbac))
