"""What an RBAC rule matches, and whether a set of rules holds everything that another one grants.

Source: pkg/apis/rbac/v1 evaluation_helpers.go; component-helpers auth/rbac/validation policy_comparator.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kaa.api.types.rbac_v1 import PolicyRule


def matches_resource(rule: PolicyRule, verb: str, group: str, resource: str, subresource: str) -> bool:
    """Whether the rule speaks of the verb on the resource, of whatever name."""
    verbs, groups, resources = rule.verbs, rule.api_groups, rule.resources
    if verb not in verbs and "*" not in verbs:
        return False
    if group not in groups and "*" not in groups:
        return False
    whole = f"{resource}/{subresource}" if subresource else resource
    return whole in resources or "*" in resources or (bool(subresource) and f"*/{subresource}" in resources)


def matches_path(rule: PolicyRule, verb: str, path: str) -> bool:
    if verb not in rule.verbs and "*" not in rule.verbs:
        return False
    return any(_url_covers(url, path) for url in rule.non_resource_urls)


def _url_covers(url: str, path: str) -> bool:
    return url in ("*", path) or (url.endswith("*") and path.startswith(url.rstrip("*")))


def covers(owned: Sequence[PolicyRule], granted: Iterable[PolicyRule]) -> tuple[bool, list[PolicyRule]]:
    """Whether ``owned`` holds all of ``granted``; and the single permissions that it lacks."""
    lacking = [
        single
        for rule in granted
        for single in break_down(rule)
        if not any(_rule_covers(owner, single) for owner in owned)
    ]
    return not lacking, lacking


def break_down(rule: PolicyRule) -> list[PolicyRule]:
    """The rule as rules of one group, one resource, one verb and at most one name each."""
    names: list[tuple[str, ...]] = [(name,) for name in rule.resource_names] or [()]
    singles = [
        PolicyRule(api_groups=(group,), resources=(resource,), verbs=(verb,), resource_names=name)
        for group in rule.api_groups
        for resource in rule.resources
        for verb in rule.verbs
        for name in names
    ]
    urls = [
        PolicyRule(non_resource_urls=(url,), verbs=(verb,)) for url in rule.non_resource_urls for verb in rule.verbs
    ]
    return singles + urls


def _rule_covers(owner: PolicyRule, single: PolicyRule) -> bool:
    verb = single.verbs[0]
    if "*" not in owner.verbs and verb not in owner.verbs:
        return False
    if single.non_resource_urls:
        return any(_url_covers(url, single.non_resource_urls[0]) for url in owner.non_resource_urls)
    resource, _, subresource = single.resources[0].partition("/")
    if not matches_resource(owner, verb, single.api_groups[0], resource, subresource):
        return False
    if not owner.resource_names:
        return True
    return bool(single.resource_names) and single.resource_names[0] in owner.resource_names
