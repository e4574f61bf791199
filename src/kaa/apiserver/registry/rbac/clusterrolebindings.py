"""ClusterRoleBindings.

Source: pkg/registry/rbac; ValidateClusterRoleBinding.
"""

from __future__ import annotations

from kaa.api import names
from kaa.api.fields import FieldError
from kaa.api.types.rbac_v1 import ClusterRoleBinding

from ..strategy import Strategy
from ..tables import shape
from . import common

_KINDS = ("ClusterRole",)


class ClusterRoleBindingStrategy(Strategy[ClusterRoleBinding]):
    kind = ClusterRoleBinding
    allows_create_on_update = True
    table = shape("rbac/clusterrolebindings", "Role|Age|Users+|Groups+|ServiceAccounts+", common.binding_cells)

    @staticmethod
    def name_faults(name: str, /) -> list[str]:
        return names.path_segment(name)

    def default(self, obj: ClusterRoleBinding) -> ClusterRoleBinding:
        made: ClusterRoleBinding = common.default_binding(obj)
        return made

    def validate(self, obj: ClusterRoleBinding) -> list[FieldError]:
        return [*common.role_ref_faults(obj.role_ref, _KINDS), *common.subjects_faults(obj.subjects, False)]

    def validate_update(self, new: ClusterRoleBinding, old: ClusterRoleBinding) -> list[FieldError]:
        return [*self.validate(new), *common.role_ref_changed(new.role_ref, old.role_ref)]


STRATEGY = ClusterRoleBindingStrategy()
