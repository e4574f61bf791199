"""RoleBindings.

Source: pkg/registry/rbac; ValidateRoleBinding.
"""

from __future__ import annotations

from kaa.api import names
from kaa.api.fields import FieldError
from kaa.api.types.rbac_v1 import RoleBinding

from ..strategy import Strategy
from ..tables import shape
from . import common

_KINDS = ("Role", "ClusterRole")


class RoleBindingStrategy(Strategy[RoleBinding]):
    kind = RoleBinding
    allows_create_on_update = True
    table = shape("rbac/rolebindings", "Role|Age|Users+|Groups+|ServiceAccounts+", common.binding_cells)

    @staticmethod
    def name_faults(name: str, /) -> list[str]:
        return names.path_segment(name)

    def default(self, obj: RoleBinding) -> RoleBinding:
        made: RoleBinding = common.default_binding(obj)
        return made

    def validate(self, obj: RoleBinding) -> list[FieldError]:
        return [*common.role_ref_faults(obj.role_ref, _KINDS), *common.subjects_faults(obj.subjects, True)]

    def validate_update(self, new: RoleBinding, old: RoleBinding) -> list[FieldError]:
        return [*self.validate(new), *common.role_ref_changed(new.role_ref, old.role_ref)]


STRATEGY = RoleBindingStrategy()
