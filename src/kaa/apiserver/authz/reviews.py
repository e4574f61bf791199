"""The access reviews: "may I", "may they", "what may I". Functions of the review, the authorizer and the View.

Source: pkg/registry/authorization; pkg/apis/authorization/validation.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from msgspec.structs import replace

from kaa.api import fields
from kaa.api.errors import BadRequest, Invalid
from kaa.api.fields import FieldError, Path
from kaa.api.types.authorization_v1 import (
    LocalSubjectAccessReview,
    NonResourceAttributes,
    NonResourceRule,
    ResourceAttributes,
    ResourceRule,
    SelfSubjectAccessReview,
    SelfSubjectRulesReview,
    SelfSubjectRulesReviewSpec,
    SubjectAccessReview,
    SubjectAccessReviewSpec,
    SubjectAccessReviewStatus,
    SubjectRulesReviewStatus,
)
from kaa.api.types.rbac_v1 import PolicyRule
from kaa.client.pipeline import User

from ..view import View
from .base import Authorizer, Decision, Question
from .masters import GROUP as MASTERS
from .rbac import RbacAuthorizer

GROUP = "authorization.k8s.io"
Rule = TypeVar("Rule", ResourceRule, NonResourceRule)


def self_subject_access_review(
    review: SelfSubjectAccessReview, user: User, authorizer: Authorizer, view: View
) -> SelfSubjectAccessReview:
    spec = review.spec
    _refuse("SelfSubjectAccessReview", _attribute_faults(spec.resource_attributes, spec.non_resource_attributes))
    question = question_of(user, spec.resource_attributes, spec.non_resource_attributes)
    return replace(review, status=_status(question, authorizer, view))


def subject_access_review(review: SubjectAccessReview, authorizer: Authorizer, view: View) -> SubjectAccessReview:
    spec = review.spec
    _refuse("SubjectAccessReview", _subject_faults(spec))
    question = question_of(subject_of(spec), spec.resource_attributes, spec.non_resource_attributes)
    return replace(review, status=_status(question, authorizer, view))


def local_subject_access_review(
    review: LocalSubjectAccessReview, namespace: str, authorizer: Authorizer, view: View
) -> LocalSubjectAccessReview:
    """``namespace`` is the request's. Raises Invalid or BadRequest when the review speaks of another."""
    spec = review.spec
    faults = _subject_faults(spec)
    if spec.non_resource_attributes is not None:
        faults.append(fields.invalid(Path("spec.nonResourceAttributes"), None, "disallowed on this kind of request"))
    _refuse("LocalSubjectAccessReview", faults)
    attributes = spec.resource_attributes
    if attributes is not None and (attributes.namespace or "") != namespace:
        raise BadRequest(f"spec.resourceAttributes.namespace must match namespace: {namespace}")
    question = question_of(subject_of(spec), attributes, None)
    return replace(review, status=_status(question, authorizer, view))


def self_subject_rules_review(
    review: SelfSubjectRulesReview, user: User, rbac: RbacAuthorizer, view: View
) -> SelfSubjectRulesReview:
    """All that the user may do in a namespace: the rules of the roles bound to them, and everything for masters."""
    namespace = review.spec.namespace or ""
    if not namespace:
        raise BadRequest("no namespace on request")
    rules, faults = rbac.rules_for(user, namespace, view)
    resource_rules, path_rules = _split(_masters(user)), _split_paths(_masters(user))
    status = SubjectRulesReviewStatus(
        incomplete=bool(faults),
        evaluation_error=", ".join(faults) or None,
        resource_rules=_unique((*resource_rules, *_split(rules))),
        non_resource_rules=_unique((*path_rules, *_split_paths(rules))),
    )
    return replace(review, spec=SelfSubjectRulesReviewSpec(), status=status)


def question_of(user: User, attributes: ResourceAttributes | None, path: NonResourceAttributes | None) -> Question:
    if path is not None:
        return Question(user=user, verb=path.verb or "", path=path.path or "")
    found = attributes or ResourceAttributes()
    label, where = found.label_selector, found.field_selector
    return Question(
        user=user,
        verb=found.verb or "",
        group=found.group or "",
        version=found.version or "",
        resource=found.resource or "",
        subresource=found.subresource or "",
        namespace=found.namespace or "",
        name=found.name or "",
        label_selector=(label.raw_selector or "") if label else "",
        field_selector=_field_selector(found) if where else "",
    )


def _field_selector(attributes: ResourceAttributes) -> str:
    selector = attributes.field_selector
    if selector is None:
        return ""
    if selector.raw_selector:
        return selector.raw_selector
    terms = [(r.key, "=" if r.operator == "In" else "!=", r.values) for r in selector.requirements]
    return ",".join(f"{key}{sign}{values[0]}" for key, sign, values in terms if len(values) == 1)


def subject_of(spec: SubjectAccessReviewSpec) -> User:
    return User(spec.user or "", uid=spec.uid or "", groups=spec.groups, extra=spec.extra)


def _status(question: Question, authorizer: Authorizer, view: View) -> SubjectAccessReviewStatus:
    decision, reason = authorizer.authorize(question, view)
    return SubjectAccessReviewStatus(
        allowed=decision is Decision.ALLOW,
        denied=True if decision is Decision.DENY else None,
        reason=reason or None,
        evaluation_error=reason.removeprefix("RBAC: ")
        if decision is not Decision.ALLOW and "not found" in reason
        else None,
    )


def _masters(user: User) -> tuple[PolicyRule, ...]:
    if MASTERS not in user.groups:
        return ()
    star = ("*",)
    return PolicyRule(verbs=star, api_groups=star, resources=star), PolicyRule(verbs=star, non_resource_urls=star)


def _split(rules: Iterable[PolicyRule]) -> list[ResourceRule]:
    return [
        ResourceRule(verbs=r.verbs, api_groups=r.api_groups, resources=r.resources, resource_names=r.resource_names)
        for r in rules
        if r.resources
    ]


def _split_paths(rules: Iterable[PolicyRule]) -> list[NonResourceRule]:
    return [NonResourceRule(verbs=r.verbs, non_resource_urls=r.non_resource_urls) for r in rules if r.non_resource_urls]


def _unique(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    return tuple(dict.fromkeys(rules))


def _subject_faults(spec: SubjectAccessReviewSpec) -> list[FieldError]:
    faults = _attribute_faults(spec.resource_attributes, spec.non_resource_attributes)
    if not spec.user and not spec.groups:
        faults.append(fields.invalid(Path("spec.user"), "", "at least one of user or group must be specified"))
    return faults


def _attribute_faults(attributes: ResourceAttributes | None, path: NonResourceAttributes | None) -> list[FieldError]:
    if attributes is not None and path is not None:
        detail = "cannot be specified in combination with resourceAttributes"
        return [fields.invalid(Path("spec.nonResourceAttributes"), path, detail)]
    if attributes is None and path is None:
        detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
        return [fields.invalid(Path("spec.resourceAttributes"), None, detail)]
    return []


def _refuse(kind: str, faults: list[FieldError]) -> None:
    if faults:
        raise Invalid.of(GROUP, kind, "", faults)
