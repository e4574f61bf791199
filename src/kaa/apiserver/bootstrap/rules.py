"""The notation that the bootstrap policy is written in, and what it builds.

A rule is one line: ``verbs | resources | groups``. Groups may be left out (the core group), ``name=only`` after a resource
restricts it to one object (or to several, joined with ``+``), and ``url | paths`` is a non-resource rule for ``get``.
``read`` stands for get, list and watch; ``write`` for the five verbs that change; ``all`` for both; ``events`` alone for
the rule that lets a component record events.

    read | nodes pods
    update | deployments/status | apps extensions
    get update | leases=kube-scheduler | coordination.k8s.io
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from kaa.api.types.meta_v1 import LabelSelector, ObjectMeta
from kaa.api.types.rbac_v1 import (
    AggregationRule,
    ClusterRole,
    ClusterRoleBinding,
    PolicyRule,
    Role,
    RoleBinding,
    RoleRef,
    Subject,
)

RBAC = "rbac.authorization.k8s.io"
AUTOUPDATE = "rbac.authorization.kubernetes.io/autoupdate"
_LABELS = {"kubernetes.io/bootstrapping": "rbac-defaults"}
_ANNOTATIONS = {AUTOUPDATE: "true"}
_READ = ("get", "list", "watch")
_WRITE = ("create", "delete", "deletecollection", "patch", "update")
_WORDS = {"read": _READ, "write": _WRITE, "all": _READ + _WRITE}
_EVENTS = "create patch update | events | core events.k8s.io"


@lru_cache(maxsize=None)
def parse_rule(line: str) -> PolicyRule:
    """One line of the notation as a rule, its lists sorted as upstream writes them."""
    parts = [part.strip() for part in (_EVENTS if line == "events" else line).split("|")]
    if parts[0] == "url":
        return PolicyRule(verbs=("get",), non_resource_urls=tuple(sorted(parts[1].split())))
    verbs = sorted({verb for word in parts[0].split() for verb in _WORDS.get(word, (word,))})
    groups = sorted("" if g == "core" else g for g in parts[2].split()) if len(parts) > 2 else [""]
    resources, _, names = parts[1].partition("=")
    return PolicyRule(
        verbs=tuple(verbs),
        api_groups=tuple(groups),
        resources=tuple(sorted(resources.split())),
        resource_names=tuple(sorted(names.split("+"))) if names else (),
    )


def parse_rules(text: str) -> tuple[PolicyRule, ...]:
    return tuple(parse_rule(line.strip()) for line in text.strip().splitlines() if line.strip())


def meta(name: str, namespace: str | None = None, **labels: str) -> ObjectMeta:
    more = {f"{RBAC}/{key.replace('_', '-')}": value for key, value in labels.items()}
    return ObjectMeta(name=name, namespace=namespace, labels={**_LABELS, **more}, annotations=_ANNOTATIONS)


def cluster_role(name: str, text: str, **labels: str) -> ClusterRole:
    return ClusterRole(metadata=meta(name, **labels), rules=parse_rules(text))


def aggregated(name: str, **labels: str) -> ClusterRole:
    """A role whose rules the aggregation controller gathers by the label ``aggregate-to-<name>``."""
    selector = LabelSelector(match_labels={f"{RBAC}/aggregate-to-{name}": "true"})
    return ClusterRole(
        metadata=meta(name, **labels), aggregation_rule=AggregationRule(cluster_role_selectors=(selector,))
    )


def role(namespace: str, name: str, text: str) -> Role:
    return Role(metadata=meta(name, namespace), rules=parse_rules(text))


def subject(text: str) -> Subject:
    """``group:x``, ``user:x`` or ``kube-system/name`` for a service account."""
    kind, colon, name = text.partition(":")
    if colon and kind in ("group", "user"):
        return Subject(kind=kind.capitalize(), api_group=RBAC, name=name)
    namespace, _, name = text.partition("/")
    return Subject(kind="ServiceAccount", namespace=namespace, name=name)


def cluster_binding(name: str, subjects: Iterable[str], role_name: str = "") -> ClusterRoleBinding:
    return ClusterRoleBinding(
        metadata=meta(name),
        role_ref=RoleRef(api_group=RBAC, kind="ClusterRole", name=role_name or name),
        subjects=tuple(subject(text) for text in subjects),
    )


def binding(namespace: str, name: str, subjects: Iterable[str], role_name: str = "") -> RoleBinding:
    return RoleBinding(
        metadata=meta(name, namespace),
        role_ref=RoleRef(api_group=RBAC, kind="Role", name=role_name or name),
        subjects=tuple(subject(text) for text in subjects),
    )
