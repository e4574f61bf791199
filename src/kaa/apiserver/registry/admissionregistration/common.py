"""What webhooks and admission policies have in common: rules, selectors, conditions.

Source: pkg/apis/admissionregistration/validation; pkg/apis/admissionregistration/v1/defaults.go.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from kaa.api import fields, names
from kaa.api.fields import FieldError, Path
from kaa.api.types.admissionregistration_v1 import (
    MatchCondition,
    MatchResources,
    ParamKind,
    ParamRef,
    Variable,
)
from kaa.api.types.meta_v1 import LabelSelector

from ...validation.common import faults_of
from ...validation.selectors import label_selector
from ...validation.webhook_clients import client_faults

if TYPE_CHECKING:
    from ...policies.checking import Check

FAILURE_POLICIES = ("Fail", "Ignore")
MATCH_POLICIES = ("Equivalent", "Exact")
_OPERATIONS = ("*", "CONNECT", "CREATE", "DELETE", "UPDATE")
_SCOPES = ("*", "Cluster", "Namespaced")

#: Says why a CEL expression does not compile; empty when it does.
Compiles = Callable[[str], str]


def default_rules(rules: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(rule if rule.scope is not None else replace(rule, scope="*") for rule in rules)


def default_match(given: MatchResources | None) -> MatchResources | None:
    if given is None:
        return None
    return replace(
        given,
        match_policy=given.match_policy or "Equivalent",
        namespace_selector=given.namespace_selector or LabelSelector(),
        object_selector=given.object_selector or LabelSelector(),
        resource_rules=default_rules(given.resource_rules),
        exclude_resource_rules=default_rules(given.exclude_resource_rules),
    )


def default_webhook(hook: Any) -> Any:
    client = hook.client_config
    if client.service is not None and client.service.port is None:
        client = replace(client, service=replace(client.service, port=443))
    changes: dict[str, Any] = {
        "failure_policy": hook.failure_policy or "Fail",
        "match_policy": hook.match_policy or "Equivalent",
        "namespace_selector": hook.namespace_selector or LabelSelector(),
        "object_selector": hook.object_selector or LabelSelector(),
        "timeout_seconds": 10 if hook.timeout_seconds is None else hook.timeout_seconds,
        "rules": default_rules(hook.rules),
        "client_config": client,
    }
    if hasattr(hook, "reinvocation_policy"):
        changes["reinvocation_policy"] = hook.reinvocation_policy or "Never"
    return replace(hook, **changes)


# ------------------------------------------------------------------------------------------------ webhooks


def webhooks_faults(hooks: Sequence[Any]) -> Iterator[FieldError]:
    seen: set[str] = set()
    for n, hook in enumerate(hooks):
        at = Path(f"webhooks[{n}]")
        yield from _webhook(hook, at)
        if hook.name in seen:
            yield fields.duplicate(at.child("name"), hook.name)
        seen.add(hook.name)


def _webhook(hook: Any, path: Path) -> Iterator[FieldError]:
    yield from _hook_name(path.child("name"), hook.name)
    yield from label_selector(hook.namespace_selector, path.child("namespaceSelector"))
    yield from label_selector(hook.object_selector, path.child("objectSelector"))
    if not hook.admission_review_versions:
        detail = "must specify one of v1, v1beta1"
        yield fields.required(path.child("admissionReviewVersions"), detail)
    elif not {"v1", "v1beta1"} & set(hook.admission_review_versions):
        detail = "must include at least one of v1, v1beta1"
        yield fields.invalid(path.child("admissionReviewVersions"), list(hook.admission_review_versions), detail)
    if hook.failure_policy is not None and hook.failure_policy not in FAILURE_POLICIES:
        yield fields.not_supported(path.child("failurePolicy"), hook.failure_policy, FAILURE_POLICIES)
    if hook.match_policy is not None and hook.match_policy not in MATCH_POLICIES:
        yield fields.not_supported(path.child("matchPolicy"), hook.match_policy, MATCH_POLICIES)
    if hook.side_effects not in ("None", "NoneOnDryRun"):
        if hook.side_effects:
            yield fields.not_supported(path.child("sideEffects"), hook.side_effects, ("None", "NoneOnDryRun"))
        else:
            yield fields.required(path.child("sideEffects"), "must specify one of None, NoneOnDryRun")
    if hook.timeout_seconds is not None and not 1 <= hook.timeout_seconds <= 30:
        detail = "the timeout value must be between 1 and 30 seconds"
        yield fields.invalid(path.child("timeoutSeconds"), hook.timeout_seconds, detail)
    for n, rule in enumerate(hook.rules):
        yield from rule_faults(rule, path.child("rules").index(n))
    yield from client_faults(hook.client_config, path.child("clientConfig"))
    yield from conditions_faults(hook.match_conditions, path.child("matchConditions"), webhook_condition)


def _hook_name(path: Path, name: str) -> Iterator[FieldError]:
    if not name:
        yield fields.required(path)
        return
    yield from faults_of(path, name, names.dns_subdomain(name))
    if name.count(".") < 2:
        detail = "should be a domain with at least three segments separated by dots"
        yield fields.invalid(path, name, detail)


def rule_faults(rule: Any, path: Path) -> Iterator[FieldError]:
    for wire, given in (
        ("operations", rule.operations),
        ("apiGroups", rule.api_groups),
        ("apiVersions", rule.api_versions),
        ("resources", rule.resources),
    ):
        at = path.child(wire)
        if not given:
            yield fields.required(at)
        if len(given) > 1 and "*" in given:
            yield fields.invalid(at, list(given), "if '*' is present, must not specify other " + _WORDS[wire])
    for n, operation in enumerate(rule.operations):
        if operation not in _OPERATIONS:
            yield fields.not_supported(path.child("operations").index(n), operation, _OPERATIONS)
    for n, version in enumerate(rule.api_versions):
        if not version:
            yield fields.required(path.child("apiVersions").index(n))
    for n, resource in enumerate(rule.resources):
        if not resource:
            yield fields.required(path.child("resources").index(n))
    if rule.scope is not None and rule.scope not in _SCOPES:
        yield fields.not_supported(path.child("scope"), rule.scope, _SCOPES)


_WORDS = {
    "operations": "operations",
    "apiGroups": "API groups",
    "apiVersions": "API versions",
    "resources": "resources",
}


# ------------------------------------------------------------------------------------------------ policies


def expression_faults(path: Path, text: str | None, compiles: Compiles, absent: str = "") -> Iterator[FieldError]:
    """The faults of an expression that must be there."""
    if not (text or "").strip():
        yield fields.required(path, absent)
    elif why := compiles(text or ""):
        yield fields.invalid(path, text, why)


def variables_faults(given: Sequence[Variable], path: Path, compiles: Compiles) -> Iterator[FieldError]:
    """``compiles`` is asked by the variable's name."""
    for n, variable in enumerate(given):
        at = path.index(n)
        name = variable.name
        if not name.strip():
            yield fields.required(at.child("name"), "name is not specified")
        elif not _IDENTIFIER.fullmatch(name) or name in _RESERVED:
            yield fields.invalid(at.child("name"), name, "name is not a valid CEL identifier")
        else:
            expression = at.child("expression")
            if not variable.expression.strip():
                yield fields.required(expression, "expression is not specified")
            elif why := compiles(name):
                yield fields.invalid(expression, variable.expression, why)


_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED = frozenset(
    "true false null in as break const continue else for function if import let loop package namespace return var void"
    " while".split()
)


def webhook_condition(text: str) -> str:
    """What is wrong with a webhook's match condition."""
    return _webhook_check().condition(text)


@lru_cache(maxsize=1)
def _webhook_check() -> Check:
    from ...policies.checking import Check  # CEL is for clusters that use it

    return Check()


def conditions_faults(given: Sequence[MatchCondition], path: Path, compiles: Compiles) -> Iterator[FieldError]:
    if len(given) > 64:
        yield fields.too_many(path, len(given), 64)
    seen: set[str] = set()
    for n, condition in enumerate(given):
        at = path.index(n)
        yield from expression_faults(at.child("expression"), condition.expression, compiles)
        if not condition.name:
            yield fields.required(at.child("name"))
        else:
            yield from faults_of(at.child("name"), condition.name, names.qualified_name(condition.name))
        if condition.name in seen:
            yield fields.duplicate(at.child("name"), condition.name)
        seen.add(condition.name)


def match_faults(given: MatchResources, path: Path) -> Iterator[FieldError]:
    if given.match_policy is None:
        yield fields.required(path.child("matchPolicy"))
    elif given.match_policy not in MATCH_POLICIES:
        yield fields.not_supported(path.child("matchPolicy"), given.match_policy, MATCH_POLICIES)
    yield from label_selector(given.namespace_selector, path.child("namespaceSelector"))
    yield from label_selector(given.object_selector, path.child("objectSelector"))
    for wire, rules in (
        ("resourceRules", given.resource_rules),
        ("excludeResourceRules", given.exclude_resource_rules),
    ):
        for n, rule in enumerate(rules):
            yield from rule_faults(rule, path.child(wire).index(n))


def constraints_faults(given: MatchResources | None, path: Path) -> Iterator[FieldError]:
    if given is None:
        yield fields.required(path)
        return
    yield from match_faults(given, path)
    if not given.resource_rules:
        yield fields.required(path.child("resourceRules"))


def param_kind_faults(given: ParamKind, path: Path) -> Iterator[FieldError]:
    if not given.api_version:
        yield fields.required(path.child("apiVersion"))
    if not given.kind:
        yield fields.required(path.child("kind"))
    else:
        yield from faults_of(path.child("kind"), given.kind, names.dns_1035_label(given.kind.lower()))


def param_ref_faults(given: ParamRef, path: Path) -> Iterator[FieldError]:
    if given.name and given.selector is not None:
        yield fields.forbidden(path.child("name"), "name and selector are mutually exclusive")
    elif not given.name and given.selector is None:
        yield fields.required(path, "one of name or selector must be specified")
    action = given.parameter_not_found_action
    if not action:
        yield fields.required(path.child("parameterNotFoundAction"))
    elif action not in ("Allow", "Deny"):
        yield fields.not_supported(path.child("parameterNotFoundAction"), action, ("Deny", "Allow"))
    yield from label_selector(given.selector, path.child("selector"))


def param_kind_cell(given: ParamKind | None) -> str:
    return "<unset>" if given is None else f"{given.api_version}/{given.kind}"


def param_ref_cell(given: ParamRef | None) -> str:
    if given is None:
        return "<unset>"
    if given.name:
        return f"{given.namespace}/{given.name}" if given.namespace else given.name
    return f"{given.namespace}/{given.selector}" if given.namespace else "*"
