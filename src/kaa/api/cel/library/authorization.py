"""Asking what the request's user may do: ``authorizer.group('apps').resource('deployments').check('create').allowed()``.

The API server supplies the answers; see `kaa.api.cel.authorizer`.

Source: apiserver pkg/cel/library/authz.go.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from msgspec import Struct

from ... import names
from ..authorizer import Authorizer, Check, Verdict
from ..declarations import Library, member
from ..errors import EvaluationError
from ..types import BOOL, STRING, OpaqueType, Type

AUTHORIZER = OpaqueType("kubernetes.authorization.Authorizer")
PATH_CHECK = OpaqueType("kubernetes.authorization.PathCheck")
GROUP_CHECK = OpaqueType("kubernetes.authorization.GroupCheck")
RESOURCE_CHECK = OpaqueType("kubernetes.authorization.ResourceCheck")
DECISION = OpaqueType("kubernetes.authorization.Decision")


class AuthorizerValue(Struct, frozen=True):
    """The variable ``authorizer``: asks for the request's user, or for a service account."""

    cel_type: ClassVar[Type] = AUTHORIZER
    ask: Authorizer
    service_account: tuple[str, str] | None = None


class PathCheckValue(Struct, frozen=True):
    cel_type: ClassVar[Type] = PATH_CHECK
    ask: Authorizer
    check: Check


class GroupCheckValue(Struct, frozen=True):
    cel_type: ClassVar[Type] = GROUP_CHECK
    ask: Authorizer
    check: Check


class ResourceCheckValue(Struct, frozen=True):
    """Also the variable ``authorizer.requestResource``, with what the request asks for filled in."""

    cel_type: ClassVar[Type] = RESOURCE_CHECK
    ask: Authorizer
    check: Check


class DecisionValue(Struct, frozen=True):
    cel_type: ClassVar[Type] = DECISION
    verdict: Verdict


def _path(authorizer: AuthorizerValue, path: str) -> PathCheckValue:
    if not path.strip():
        raise EvaluationError("path must not be empty")
    return PathCheckValue(authorizer.ask, Check("", path=path, service_account=authorizer.service_account))


def _group(authorizer: AuthorizerValue, group: str) -> GroupCheckValue:
    return GroupCheckValue(authorizer.ask, Check("", group=group, service_account=authorizer.service_account))


def _service_account(authorizer: AuthorizerValue, namespace: str, name: str) -> AuthorizerValue:
    if names.dns_subdomain(name):
        raise EvaluationError("Invalid service account name")
    if names.dns_label(namespace):
        raise EvaluationError("Invalid service account namespace")
    return AuthorizerValue(authorizer.ask, (namespace, name))


def _resource(group: GroupCheckValue, resource: str) -> ResourceCheckValue:
    if not resource.strip():
        raise EvaluationError("resource must not be empty")
    return ResourceCheckValue(group.ask, replace(group.check, resource=resource))


def _subresource(resource: ResourceCheckValue, subresource: str) -> ResourceCheckValue:
    return ResourceCheckValue(resource.ask, replace(resource.check, subresource=subresource))


def _namespace(resource: ResourceCheckValue, namespace: str) -> ResourceCheckValue:
    return ResourceCheckValue(resource.ask, replace(resource.check, namespace=namespace))


def _name(resource: ResourceCheckValue, name: str) -> ResourceCheckValue:
    return ResourceCheckValue(resource.ask, replace(resource.check, name=name))


def _field_selector(resource: ResourceCheckValue, selector: str) -> ResourceCheckValue:
    return ResourceCheckValue(resource.ask, replace(resource.check, field_selector=selector))


def _label_selector(resource: ResourceCheckValue, selector: str) -> ResourceCheckValue:
    return ResourceCheckValue(resource.ask, replace(resource.check, label_selector=selector))


def _decide(asked: PathCheckValue | ResourceCheckValue, verb: str) -> DecisionValue:
    return DecisionValue(asked.ask(replace(asked.check, verb=verb)))


_R = (RESOURCE_CHECK, STRING)

LIBRARY = Library(
    "kubernetes.authz",
    (
        member("path", "authorizer_path", (AUTHORIZER, STRING), PATH_CHECK, _path),
        member("group", "authorizer_group", (AUTHORIZER, STRING), GROUP_CHECK, _group),
        member(
            "serviceAccount", "authorizer_serviceaccount", (AUTHORIZER, STRING, STRING), AUTHORIZER, _service_account
        ),
        member("resource", "groupcheck_resource", (GROUP_CHECK, STRING), RESOURCE_CHECK, _resource),
        member("subresource", "resourcecheck_subresource", _R, RESOURCE_CHECK, _subresource),
        member("namespace", "resourcecheck_namespace", _R, RESOURCE_CHECK, _namespace),
        member("name", "resourcecheck_name", _R, RESOURCE_CHECK, _name),
        member("fieldSelector", "authorizer_fieldselector", _R, RESOURCE_CHECK, _field_selector),
        member("labelSelector", "authorizer_labelselector", _R, RESOURCE_CHECK, _label_selector),
        member("check", "pathcheck_check", (PATH_CHECK, STRING), DECISION, _decide),
        member("check", "resourcecheck_check", _R, DECISION, _decide),
        member("errored", "decision_errored", (DECISION,), BOOL, lambda one: one.verdict.error is not None),
        member("error", "decision_error", (DECISION,), STRING, lambda one: one.verdict.error or ""),
        member("allowed", "decision_allowed", (DECISION,), BOOL, lambda one: one.verdict.allowed),
        member("reason", "decision_reason", (DECISION,), STRING, lambda one: one.verdict.reason),
    ),
    types={type_.name: type_ for type_ in (AUTHORIZER, PATH_CHECK, GROUP_CHECK, RESOURCE_CHECK, DECISION)},
)
