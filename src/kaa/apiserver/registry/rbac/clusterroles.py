"""ClusterRoles.

Source: pkg/registry/rbac; ValidateClusterRole.
"""

from __future__ import annotations

from kaa.api import fields, names
from kaa.api.fields import FieldError, Path
from kaa.api.types.rbac_v1 import ClusterRole

from ...validation.selectors import label_selector
from ..strategy import Strategy
from ..tables import created
from .common import rules_faults


class ClusterRoleStrategy(Strategy[ClusterRole]):
    kind = ClusterRole
    allows_create_on_update = True
    table = created("rbac/clusterroles")

    @staticmethod
    def name_faults(name: str, /) -> list[str]:
        return names.path_segment(name)

    def validate(self, obj: ClusterRole) -> list[FieldError]:
        found = list(rules_faults(obj.rules or (), False))
        if obj.aggregation_rule is None:
            return found
        at = Path("aggregationRule").child("clusterRoleSelectors")
        if not obj.aggregation_rule.cluster_role_selectors:
            detail = "at least one clusterRoleSelector required if aggregationRule is non-nil"
            found.append(fields.required(at, detail))
        for n, selector in enumerate(obj.aggregation_rule.cluster_role_selectors):
            found += label_selector(selector, at.index(n))
        return found


STRATEGY = ClusterRoleStrategy()
