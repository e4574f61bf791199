"""Role-based access control: the rules that bindings give to a user, and whether one of them allows a question.

The idea: rules are found by subject, not searched. From the four kinds an index {subject: grants} is made once a change;
a user's grants are gathered once and an answer for (user, verb, resource, namespace) is kept without the object's name,
so that asking for another object of the same kind is two look-ups.

Source: plugin/pkg/auth/authorizer/rbac; pkg/registry/rbac/validation rule.go.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from kaa.api.types.rbac_v1 import ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject
from kaa.client.pipeline import User

from ..view import View
from .base import Decision, Question
from .covers import matches_path, matches_resource

#: How many users, answers and paths are kept; past it the cache starts anew.
KEPT_USERS, KEPT_ANSWERS = 4_096, 65_536
_SERVICE_ACCOUNT = "system:serviceaccount:"


class Grant(NamedTuple):
    """Rules that a binding gives a subject. ``namespace`` empty: everywhere. ``fault``: why there are none."""

    namespace: str
    rules: tuple[PolicyRule, ...]
    reason: str
    fault: str = ""


class Answer(NamedTuple):
    """Who may do it: anyone's object (``any``: the reason, or None), and {object name: reason}; ``faults`` on the way."""

    any: str | None
    named: dict[str, str]
    faults: tuple[str, ...]


#: {(subject kind, subject name): its grants}
Index = dict[tuple[str, str], list[Grant]]


def build_index(view: View) -> Index:
    """Every binding under its subjects; those for the whole cluster first, each kind by name."""
    index: Index = defaultdict(list)
    for cluster in sorted(view.list(ClusterRoleBinding), key=lambda b: b.metadata.name or ""):
        name = cluster.metadata.name or ""
        rules, fault = _rules_of(cluster.role_ref, "", view)
        for subject in cluster.subjects:
            reason = _reason(f'ClusterRoleBinding "{name}"', cluster.role_ref, subject, "")
            index[_subject_key(subject, "")].append(Grant("", rules, reason, fault))
    for local in sorted(view.list(RoleBinding), key=lambda b: (b.metadata.namespace or "", b.metadata.name or "")):
        name, namespace = local.metadata.name or "", local.metadata.namespace or ""
        rules, fault = _rules_of(local.role_ref, namespace, view)
        for subject in local.subjects:
            reason = _reason(f'RoleBinding "{name}/{namespace}"', local.role_ref, subject, namespace)
            index[_subject_key(subject, namespace)].append(Grant(namespace, rules, reason, fault))
    return dict(index)


def _rules_of(ref: RoleRef, namespace: str, view: View) -> tuple[tuple[PolicyRule, ...], str]:
    """The rules of the role referred to, and why they are missing."""
    role: Role | ClusterRole | None
    role = view.get(Role, ref.name, namespace) if ref.kind == "Role" else view.get(ClusterRole, ref.name)
    if role is None:
        return (), f'{ref.kind.lower()}.rbac.authorization.k8s.io "{ref.name}" not found'
    return role.rules or (), ""


def _subject_key(subject: Subject, namespace: str) -> tuple[str, str]:
    """Service accounts are users of a spelt-out name."""
    if subject.kind == "ServiceAccount":
        return "User", f"{_SERVICE_ACCOUNT}{subject.namespace or namespace}:{subject.name}"
    return subject.kind, subject.name


def _reason(binding: str, ref: RoleRef, subject: Subject, namespace: str) -> str:
    whom = subject.name
    if subject.kind == "ServiceAccount":
        whom = f"{subject.name}/{subject.namespace or namespace}"
    return f'RBAC: allowed by {binding} of {ref.kind} "{ref.name}" to {subject.kind} "{whom}"'


class RbacAuthorizer:
    """Answers from the roles and bindings that the View holds."""

    def __init__(self) -> None:
        self._versions: tuple[int, int, int, int] | None = None
        self._index: Index = {}
        self._grants: dict[tuple[str, tuple[str, ...]], list[Grant]] = {}
        self._answers: dict[tuple[str, tuple[str, ...], str, str, str, str, str], Answer] = {}
        self._paths: dict[tuple[str, tuple[str, ...], str, str], Answer] = {}

    def authorize(self, question: Question, view: View) -> tuple[Decision, str]:
        self._refresh(view)
        answer = self._about_path(question) if question.path else self._about_resource(question)
        if answer.any is not None:
            return Decision.ALLOW, answer.any
        reason = answer.named.get(question.name) if question.name else None
        if reason is not None:
            return Decision.ALLOW, reason
        return Decision.NO_OPINION, _faults_text(answer.faults)

    def rules_for(self, user: User, namespace: str, view: View) -> tuple[list[PolicyRule], list[str]]:
        """All rules that hold for the user in the namespace, and what could not be resolved."""
        self._refresh(view)
        grants = [g for g in self._grants_of(user) if g.namespace in ("", namespace)]
        rules = [rule for grant in grants for rule in grant.rules]
        return rules, [grant.fault for grant in grants if grant.fault]

    def _refresh(self, view: View) -> None:
        version = view.version
        versions = (version(Role), version(RoleBinding), version(ClusterRole), version(ClusterRoleBinding))
        if versions != self._versions:
            self._index = build_index(view)
            self._versions = versions
            self._grants.clear()
            self._answers.clear()
            self._paths.clear()

    def _about_resource(self, q: Question) -> Answer:
        key = (q.user.name, q.user.groups, q.verb, q.group, q.resource, q.subresource, q.namespace)
        found = self._answers.get(key)
        if found is None:
            if len(self._answers) >= KEPT_ANSWERS:
                self._answers.clear()
            found = self._answers[key] = self._resource_answer(q)
        return found

    def _resource_answer(self, q: Question) -> Answer:
        named: dict[str, str] = {}
        faults: list[str] = []
        for grant, rule in self._rules(q.user, q.namespace, faults):
            if not matches_resource(rule, q.verb, q.group, q.resource, q.subresource):
                continue
            if not rule.resource_names:
                return Answer(grant.reason, named, ())
            for name in rule.resource_names:
                named.setdefault(name, grant.reason)
        return Answer(None, named, tuple(faults))

    def _about_path(self, q: Question) -> Answer:
        key = (q.user.name, q.user.groups, q.verb, q.path)
        found = self._paths.get(key)
        if found is None:
            if len(self._paths) >= KEPT_ANSWERS:
                self._paths.clear()
            faults: list[str] = []
            reasons = (g.reason for g, rule in self._rules(q.user, "", faults) if matches_path(rule, q.verb, q.path))
            found = self._paths[key] = Answer(next(reasons, None), {}, tuple(faults))
        return found

    def _rules(self, user: User, namespace: str, faults: list[str]) -> Iterator[tuple[Grant, PolicyRule]]:
        for grant in self._grants_of(user):
            if grant.namespace and grant.namespace != namespace:
                continue
            if grant.fault:
                faults.append(grant.fault)
            for rule in grant.rules:
                yield grant, rule

    def _grants_of(self, user: User) -> list[Grant]:
        """What the user's name and groups are given: for the whole cluster first."""
        key = (user.name, user.groups)
        found = self._grants.get(key)
        if found is None:
            if len(self._grants) >= KEPT_USERS:
                self._grants.clear()
            keys = [("User", user.name), *(("Group", group) for group in user.groups)]
            grants = [grant for k in dict.fromkeys(keys) for grant in self._index.get(k, ())]
            found = self._grants[key] = sorted(grants, key=lambda g: g.namespace != "")
        return found


def _faults_text(faults: tuple[str, ...]) -> str:
    unique = list(dict.fromkeys(faults))
    if not unique:
        return ""
    return "RBAC: " + (unique[0] if len(unique) == 1 else "[" + ", ".join(unique) + "]")
