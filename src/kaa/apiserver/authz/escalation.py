"""Nobody grants what they do not hold: the check on writes of roles and bindings.

A writer passes who is of ``system:masters``, holds every permission that the role grants, or was given the verb
``escalate`` (on roles) or ``bind`` (on bindings) for that role.

Source: pkg/registry/rbac/{role,clusterrole,rolebinding,clusterrolebinding}/policybased; validation ConfirmNoEscalation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from kaa.api.errors import Forbidden, NotFound
from kaa.api.scheme import resource_of
from kaa.api.types.rbac_v1 import ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef
from kaa.client.pipeline import User

from ..admission.base import Attributes
from ..view import View
from .base import Authorizer, Decision, Question
from .covers import covers
from .masters import GROUP as MASTERS
from .rbac import RbacAuthorizer

RBAC = "rbac.authorization.k8s.io"
_EVERYTHING = (
    PolicyRule(verbs=("*",), api_groups=("*",), resources=("*",)),
    PolicyRule(verbs=("*",), non_resource_urls=("*",)),
)


def check_escalation(attributes: Attributes, view: View, authorizer: Authorizer, rbac: RbacAuthorizer) -> None:
    """Raise Forbidden when the write would grant more than the writer holds. Other writes pass untouched."""
    request = attributes.request
    if attributes.operation not in ("CREATE", "UPDATE") or request.resource.group != RBAC or request.subresource:
        return
    if MASTERS in request.user.groups:
        return
    obj, old = attributes.object, attributes.old
    if isinstance(obj, (Role, ClusterRole)):
        _check_role(obj, old, attributes, view, authorizer, rbac)
    elif isinstance(obj, (RoleBinding, ClusterRoleBinding)):
        _check_binding(obj, old, attributes, view, authorizer, rbac)


def _check_role(
    role: Role | ClusterRole,
    old: object,
    attributes: Attributes,
    view: View,
    authorizer: Authorizer,
    rbac: RbacAuthorizer,
) -> None:
    request = attributes.request
    name = role.metadata.name or request.name
    aggregates = isinstance(role, ClusterRole) and role.aggregation_rule is not None
    if isinstance(old, (Role, ClusterRole)) and _same_grant(old, role):
        return
    question = _question(request.user, "escalate", request.resource.plural, request.namespace, name)
    if authorizer.authorize(question, view)[0] is Decision.ALLOW:
        return
    if aggregates:
        held, _ = rbac.rules_for(request.user, "", view)
        if not covers(held, _EVERYTHING)[0]:
            why = "must have cluster-admin privileges to use an aggregationRule"
            raise Forbidden.of(request.resource, name, why)
    why = not_held(role.rules or (), request.user, request.namespace, view, rbac)
    if why:
        raise Forbidden.of(request.resource, name, why)


def _same_grant(old: Role | ClusterRole, new: Role | ClusterRole) -> bool:
    return old.rules == new.rules and getattr(old, "aggregation_rule", None) == getattr(new, "aggregation_rule", None)


def _check_binding(
    binding: RoleBinding | ClusterRoleBinding,
    old: object,
    attributes: Attributes,
    view: View,
    authorizer: Authorizer,
    rbac: RbacAuthorizer,
) -> None:
    request, ref = attributes.request, binding.role_ref
    if isinstance(old, (RoleBinding, ClusterRoleBinding)) and (old.role_ref, old.subjects) == (ref, binding.subjects):
        return
    plural = "roles" if ref.kind == "Role" else "clusterroles"
    question = _question(request.user, "bind", plural, request.namespace, ref.name)
    if authorizer.authorize(question, view)[0] is Decision.ALLOW:
        return
    why = not_held(_rules_behind(ref, request.namespace, view), request.user, request.namespace, view, rbac)
    if why:
        raise Forbidden.of(request.resource, binding.metadata.name or request.name, why)


def _rules_behind(ref: RoleRef, namespace: str, view: View) -> tuple[PolicyRule, ...]:
    kind: type[Role] | type[ClusterRole] = Role if ref.kind == "Role" else ClusterRole
    role = view.get(kind, ref.name, namespace if ref.kind == "Role" else "")
    if role is None:
        raise NotFound.of(resource_of(kind), ref.name)
    return role.rules or ()


def _question(user: User, verb: str, plural: str, namespace: str, name: str) -> Question:
    return Question(user=user, verb=verb, group=RBAC, version="v1", resource=plural, namespace=namespace, name=name)


def not_held(rules: Sequence[PolicyRule], user: User, namespace: str, view: View, rbac: RbacAuthorizer) -> str:
    """What the refusal says of the permissions that the user lacks; empty when they hold all of them."""
    held, faults = rbac.rules_for(user, namespace, view)
    enough, lacking = covers(held, rules)
    if enough:
        return ""
    listed = "\n".join(sorted(describe(rule) for rule in compact(lacking)))
    groups = " ".join(f'"{group}"' for group in user.groups)
    resolution = f"; resolution errors: [{' '.join(faults)}]" if faults else ""
    return (
        f'user "{user.name}" (groups=[{groups}]) is attempting to grant RBAC permissions not currently held:\n'
        f"{listed}{resolution}"
    )


def compact(rules: Sequence[PolicyRule]) -> list[PolicyRule]:
    """Rules of one group, resource and name as one with all their verbs; others as they are."""
    verbs: dict[tuple[str, str, tuple[str, ...]], list[str]] = defaultdict(list)
    others = []
    for rule in rules:
        if rule.non_resource_urls:
            others.append(rule)
        else:
            verbs[rule.api_groups[0], rule.resources[0], rule.resource_names].extend(rule.verbs)
    merged = [
        PolicyRule(api_groups=(group,), resources=(resource,), resource_names=names, verbs=tuple(dict.fromkeys(words)))
        for (group, resource, names), words in verbs.items()
    ]
    return merged + others


def describe(rule: PolicyRule) -> str:
    """``{APIGroups:[""], Resources:["pods"], Verbs:["get"]}``"""
    parts = (
        ("APIGroups", rule.api_groups),
        ("Resources", rule.resources),
        ("NonResourceURLs", rule.non_resource_urls),
        ("ResourceNames", rule.resource_names),
        ("Verbs", rule.verbs),
    )
    shown = (f"{name}:[{' '.join(_quoted(values))}]" for name, values in parts if values)
    return "{" + ", ".join(shown) + "}"


def _quoted(values: Sequence[str]) -> list[str]:
    return [f'"{value}"' for value in values]
