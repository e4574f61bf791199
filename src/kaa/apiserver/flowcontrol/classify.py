"""Which FlowSchema a request belongs to, and which of its flows.

The first schema in the order of precedence that matches is right. Source: API concepts "Priority and Fairness";
apiserver pkg/util/flowcontrol rule.go, apf_controller.go.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kaa.api.types.flowcontrol_v1 import FlowSchema, NonResourcePolicyRule, ResourcePolicyRule, Subject
from kaa.client.pipeline import User

_ACCOUNT = "system:serviceaccount:"


@dataclass(frozen=True, slots=True)
class Digest:
    """What rules ask about a request. ``path`` is set for URLs that are no resource."""

    user: User
    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    path: str = ""


def in_order(schemas: Iterable[FlowSchema]) -> list[FlowSchema]:
    return sorted(schemas, key=lambda one: (one.spec.matching_precedence or 1000, one.metadata.name or ""))


def matches(schema: FlowSchema, digest: Digest) -> bool:
    for rule in schema.spec.rules:
        if not any(_is_subject(subject, digest.user) for subject in rule.subjects):
            continue
        if digest.path:
            if any(_covers_path(one, digest) for one in rule.non_resource_rules):
                return True
        elif any(_covers(one, digest) for one in rule.resource_rules):
            return True
    return False


def distinguisher(schema: FlowSchema, digest: Digest) -> str:
    """What tells the flows of a schema apart."""
    method = schema.spec.distinguisher_method
    if method is None:
        return ""
    return digest.user.name if method.type == "ByUser" else digest.namespace


def _is_subject(subject: Subject, user: User) -> bool:
    if subject.user is not None and subject.kind == "User":
        return subject.user.name in ("*", user.name)
    if subject.group is not None and subject.kind == "Group":
        return subject.group.name == "*" or subject.group.name in user.groups
    account = subject.service_account
    if account is None or not user.name.startswith(_ACCOUNT):
        return False
    namespace, _, name = user.name[len(_ACCOUNT) :].partition(":")
    return account.namespace == namespace and account.name in ("*", name)


def _covers(rule: ResourcePolicyRule, digest: Digest) -> bool:
    resource = f"{digest.resource}/{digest.subresource}" if digest.subresource else digest.resource
    return (
        _has(rule.verbs, digest.verb)
        and _has(rule.api_groups, digest.group)
        and _has(rule.resources, resource)
        and (_has(rule.namespaces, digest.namespace) if digest.namespace else bool(rule.cluster_scope))
    )


def _covers_path(rule: NonResourcePolicyRule, digest: Digest) -> bool:
    return _has(rule.verbs, digest.verb) and any(_is_url(url, digest.path) for url in rule.non_resource_urls)


def _is_url(spec: str, path: str) -> bool:
    return spec in ("*", path) or (spec.endswith("*") and path.startswith(spec.rstrip("*")))


def _has(values: Iterable[str], value: str) -> bool:
    return any(one in ("*", value) for one in values)
