"""The check of ``authz.escalation`` in the chain: upstream has it in the storage of the four RBAC kinds."""

from __future__ import annotations

from ..authz.base import Authorizer
from ..authz.escalation import check_escalation
from ..authz.rbac import RbacAuthorizer
from ..view import View
from .base import Attributes
from .plugin import Passive


class RbacEscalation(Passive):
    name = "RbacEscalation"
    kinds = frozenset({"roles", "clusterroles", "rolebindings", "clusterrolebindings"})

    def __init__(self, authorizer: Authorizer, rbac: RbacAuthorizer) -> None:
        self.authorizer = authorizer
        self.rbac = rbac

    async def validate(self, attributes: Attributes, view: View) -> None:
        check_escalation(attributes, view, self.authorizer, self.rbac)
