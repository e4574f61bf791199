"""Who writes a policy or binds one must be allowed to read its parameters: expressions would tell him what they say.

Source: pkg/registry/admissionregistration/validatingadmissionpolicy/authz.go, validatingadmissionpolicybinding/authz.go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kaa.api import fields
from kaa.api.errors import Invalid
from kaa.api.fields import Path
from kaa.api.resources import Resource
from kaa.api.types.admissionregistration_v1 import (
    MutatingAdmissionPolicy,
    MutatingAdmissionPolicyBinding,
    ParamKind,
    ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicyBinding,
)
from kaa.client.pipeline import User

from ..authz.base import Authorizer, Decision, Question
from ..view import View
from .base import Attributes
from .plugin import Passive

_POLICY_OF: dict[type[Any], type[Any]] = {
    MutatingAdmissionPolicyBinding: MutatingAdmissionPolicy,
    ValidatingAdmissionPolicyBinding: ValidatingAdmissionPolicy,
}
#: Finds a custom resource by apiVersion and kind.
FindKind = Callable[[str, str], Resource[Any] | None]


class PolicyParams(Passive):
    name = "PolicyParams"
    kinds = frozenset(
        {
            "mutatingadmissionpolicies",
            "mutatingadmissionpolicybindings",
            "validatingadmissionpolicies",
            "validatingadmissionpolicybindings",
        }
    )

    def __init__(self, authorizer: Authorizer, find_kind: FindKind) -> None:
        self._authorizer, self._find_kind = authorizer, find_kind

    async def validate(self, attributes: Attributes, view: View) -> None:
        obj = attributes.object
        if obj is None or attributes.request.subresource:
            return
        policy = _POLICY_OF.get(type(obj))
        if policy is None:
            self._check_policy(attributes, view)
        else:
            self._check_binding(attributes, policy, view)

    def _check_policy(self, attributes: Attributes, view: View) -> None:
        kind: ParamKind | None = attributes.object.spec.param_kind
        if kind is None or (attributes.old is not None and attributes.old.spec.param_kind == kind):
            return
        user = attributes.request.user
        question = self._question(user, "get", kind)._replace(namespace="*", name="*")
        if not self._allows(question, view):
            _refuse(
                attributes,
                "paramKind",
                f'user {_shown(user)} must have "get" permission on all objects of the referenced paramKind'
                f" (kind={kind.kind}, apiVersion={kind.api_version})",
            )

    def _check_binding(self, attributes: Attributes, policy: type[Any], view: View) -> None:
        spec = attributes.object.spec
        old = None if attributes.old is None else attributes.old.spec
        ref = spec.param_ref
        if ref is None or (old is not None and (old.param_ref, old.policy_name) == (ref, spec.policy_name)):
            return
        found = view.get(policy, spec.policy_name or "")
        user, verb = attributes.request.user, "get" if ref.name else "list"
        question = self._question(user, verb, None if found is None else found.spec.param_kind)
        question = question._replace(namespace=ref.namespace or "", name=ref.name or "")
        if not self._allows(question, view):
            why = f'user {_shown(user)} does not have "{verb}" permission on the object referenced by paramRef'
            _refuse(attributes, "paramRef", why)

    def _question(self, user: User, verb: str, kind: ParamKind | None) -> Question:
        """May the user do that to objects of a kind? Where nobody knows the kind: to all that there are."""
        if kind is None:
            return Question(user, verb, "*", "*", "*")
        group, _, version = (kind.api_version or "").rpartition("/")
        args = kind.api_version or "", kind.kind or ""
        found = self._find_kind(*args)
        return Question(user, verb, group, version, "*" if found is None else found.plural)

    def _allows(self, question: Question, view: View) -> bool:
        return self._authorizer.authorize(question, view)[0] is Decision.ALLOW


def _refuse(attributes: Attributes, field: str, why: str) -> None:
    resource = attributes.request.resource
    fault = fields.forbidden(Path("spec").child(field), why)
    raise Invalid.of(resource.group, resource.kind, attributes.object.metadata.name or "", [fault])


def _shown(user: User) -> str:
    """A user as Go prints one."""
    extra = " ".join(f"{key}:[{' '.join(values)}]" for key, values in sorted(user.extra.items()))
    return f"&{{{user.name} {user.uid} [{' '.join(user.groups)}] map[{extra}]}}"
