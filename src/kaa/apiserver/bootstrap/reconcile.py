"""Whether a bootstrap object needs to be made or mended: missing rules and subjects come back, what was added stays.

Source: component-helpers/auth/rbac/reconciliation; pkg/registry/rbac/rest storage_rbac.go.
"""

from __future__ import annotations

from typing import TypeVar

from msgspec.structs import replace

from kaa.api.types.meta_v1 import ObjectMeta
from kaa.api.types.rbac_v1 import ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding

from ..authz.covers import covers
from .rules import AUTOUPDATE

Roles = TypeVar("Roles", Role, ClusterRole)
Bindings = TypeVar("Bindings", RoleBinding, ClusterRoleBinding)


def protected(obj: Role | ClusterRole | RoleBinding | ClusterRoleBinding) -> bool:
    """Whether its owner asked that it be left alone."""
    return obj.metadata.annotations.get(AUTOUPDATE) == "false"


def reconcile_role(expected: Roles, existing: Roles) -> Roles | None:
    """The object to write, or None when nothing is missing."""
    if protected(existing):
        return None
    mended = replace(existing, metadata=_with_metadata(expected.metadata, existing.metadata))
    missing = () if isinstance(expected, ClusterRole) and expected.aggregation_rule else _missing(expected, existing)
    if missing:
        mended = replace(mended, rules=(existing.rules or ()) + missing)
    if isinstance(mended, ClusterRole) and isinstance(expected, ClusterRole) and expected.aggregation_rule:
        mended = replace(mended, aggregation_rule=mended.aggregation_rule or expected.aggregation_rule)
    return mended if mended != existing else None


def reconcile_binding(expected: Bindings, existing: Bindings) -> Bindings | None:
    """The object to write, or None. A binding of another role is replaced by the expected one (it must be recreated)."""
    if protected(existing):
        return None
    if existing.role_ref != expected.role_ref:
        return expected
    missing = tuple(subject for subject in expected.subjects if subject not in existing.subjects)
    mended = replace(
        existing, subjects=existing.subjects + missing, metadata=_with_metadata(expected.metadata, existing.metadata)
    )
    return mended if mended != existing else None


def _missing(expected: Roles, existing: Roles) -> tuple[PolicyRule, ...]:
    return tuple(rule for rule in expected.rules or () if not covers(existing.rules or (), (rule,))[0])


def _with_metadata(want: ObjectMeta, have: ObjectMeta) -> ObjectMeta:
    return replace(have, labels={**want.labels, **have.labels}, annotations={**want.annotations, **have.annotations})
