"""Rules, role references and subjects.

Source: pkg/apis/rbac/validation/validation.go; pkg/apis/rbac/v1/defaults.go.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields, names
from kaa.api.fields import FieldError, Path
from kaa.api.types.rbac_v1 import PolicyRule, RoleRef, Subject

from ...validation.common import faults_of
from ...validation.internal import raw
from ..tables import age

GROUP = "rbac.authorization.k8s.io"
_SUBJECTS = ("ServiceAccount", "User", "Group")


def default_binding(obj: Any) -> Any:
    changes: dict[str, Any] = {}
    if not obj.role_ref.api_group:
        changes["role_ref"] = replace(obj.role_ref, api_group=GROUP)
    subjects = tuple(
        replace(one, api_group=GROUP) if one.api_group is None and one.kind in ("User", "Group") else one
        for one in obj.subjects
    )
    if subjects != obj.subjects:
        changes["subjects"] = subjects
    return replace(obj, **changes) if changes else obj


def rules_faults(rules: Sequence[PolicyRule], namespaced: bool) -> Iterator[FieldError]:
    for n, rule in enumerate(rules):
        at = Path(f"rules[{n}]")
        if not rule.verbs:
            yield fields.required(at.child("verbs"), "verbs must contain at least one value")
        if rule.non_resource_urls:
            here = at.child("nonResourceURLs")
            if namespaced:
                detail = "namespaced rules cannot apply to non-resource URLs"
                yield fields.invalid(here, list(rule.non_resource_urls), detail)
            if rule.api_groups or rule.resources or rule.resource_names:
                detail = "rules cannot apply to both regular resources and non-resource URLs"
                yield fields.invalid(here, list(rule.non_resource_urls), detail)
            continue
        if not rule.api_groups:
            yield fields.required(at.child("apiGroups"), "resource rules must supply at least one api group")
        if not rule.resources:
            yield fields.required(at.child("resources"), "resource rules must supply at least one resource")


def role_ref_faults(ref: RoleRef, kinds: Sequence[str]) -> Iterator[FieldError]:
    at = Path("roleRef")
    if ref.api_group != GROUP:
        yield fields.not_supported(at.child("apiGroup"), ref.api_group or "", (GROUP,))
    if ref.kind not in kinds:
        yield fields.not_supported(at.child("kind"), ref.kind, kinds)
    if not ref.name:
        yield fields.required(at.child("name"))
    else:
        yield from faults_of(at.child("name"), ref.name, names.path_segment(ref.name))


def subjects_faults(subjects: Sequence[Subject], namespaced: bool) -> Iterator[FieldError]:
    for n, one in enumerate(subjects):
        at = Path(f"subjects[{n}]")
        if not one.name:
            yield fields.required(at.child("name"))
        match one.kind:
            case "ServiceAccount":
                if one.name:
                    yield from faults_of(at.child("name"), one.name, names.dns_subdomain(one.name))
                if one.api_group:
                    yield fields.not_supported(at.child("apiGroup"), one.api_group, ("",))
                if not namespaced and not one.namespace:
                    yield fields.required(at.child("namespace"))
            case "User" | "Group":
                if one.api_group != GROUP:
                    yield fields.not_supported(at.child("apiGroup"), one.api_group or "", (GROUP,))
            case other:
                yield fields.not_supported(at.child("kind"), other, _SUBJECTS)


def role_ref_changed(new: RoleRef, old: RoleRef) -> Iterator[FieldError]:
    if new != old:
        yield fields.invalid(Path("roleRef"), raw(new), "cannot change roleRef")


def binding_cells(obj: Any, now: float) -> Sequence[Any]:
    """Role, age, users, groups, service accounts."""
    by_kind: dict[str, list[str]] = {}
    for one in obj.subjects:
        name = f"{one.namespace}/{one.name}" if one.kind == "ServiceAccount" and one.namespace else one.name
        by_kind.setdefault(one.kind, []).append(name)
    listed = (", ".join(by_kind.get(kind, ())) for kind in ("User", "Group", "ServiceAccount"))
    return obj.metadata.name, f"{obj.role_ref.kind}/{obj.role_ref.name}", age(obj.metadata, now), *listed
