"""Roles.

Source: pkg/registry/rbac; ValidateRole.
"""

from __future__ import annotations

from kaa.api import names
from kaa.api.fields import FieldError
from kaa.api.types.rbac_v1 import Role

from ..strategy import Strategy
from ..tables import created
from .common import rules_faults


class RoleStrategy(Strategy[Role]):
    kind = Role
    allows_create_on_update = True
    table = created("rbac/roles")

    @staticmethod
    def name_faults(name: str, /) -> list[str]:
        return names.path_segment(name)

    def validate(self, obj: Role) -> list[FieldError]:
        return list(rules_faults(obj.rules or (), True))


STRATEGY = RoleStrategy()
