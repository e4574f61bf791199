"""The audit policy: at which level a request is written down, and which of its stages.

The first rule that matches a request decides; a request that none matches is not audited. A rule's empty list matches all.
Source: audit.k8s.io/v1 Policy; apiserver pkg/audit/policy checker.go, reader.go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import msgspec

from kaa.client.pipeline import User

from ..options import OptionError


class Level(IntEnum):
    """How much is written. ``Request`` holds what was sent, ``RequestResponse`` also what was answered."""

    NONE = 0
    METADATA = 1
    REQUEST = 2
    REQUEST_RESPONSE = 3


LEVELS = {
    "None": Level.NONE,
    "Metadata": Level.METADATA,
    "Request": Level.REQUEST,
    "RequestResponse": Level.REQUEST_RESPONSE,
}
NAMES = {level: name for name, level in LEVELS.items()}
STAGES = ("RequestReceived", "ResponseStarted", "ResponseComplete", "Panic")


class PolicyError(OptionError):
    """The policy cannot be used; the message says what is wrong with it."""


class GroupResources(msgspec.Struct, frozen=True, rename="camel"):
    group: str = ""
    resources: tuple[str, ...] = ()
    resource_names: tuple[str, ...] = ()


class PolicyRule(msgspec.Struct, frozen=True, rename="camel"):
    level: str
    users: tuple[str, ...] = ()
    user_groups: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ()
    resources: tuple[GroupResources, ...] = ()
    namespaces: tuple[str, ...] = ()
    non_resource_urls: tuple[str, ...] = msgspec.field(default=(), name="nonResourceURLs")
    omit_stages: tuple[str, ...] = ()
    omit_managed_fields: bool | None = None


class Policy(msgspec.Struct, frozen=True, rename="camel"):
    rules: tuple[PolicyRule, ...] = ()
    omit_stages: tuple[str, ...] = ()
    omit_managed_fields: bool = False
    api_version: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Attributes:
    """What rules ask about a request. ``path`` is set for URLs that are no resource."""

    user: User
    verb: str
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    level: Level = Level.NONE
    omit_stages: frozenset[str] = frozenset()
    omit_managed_fields: bool = False


NOT_AUDITED = Verdict()


def read_policy(path: Path) -> Policy:
    """Raises PolicyError."""
    from kaa.api import yaml

    try:
        return policy_of(yaml.load(path.read_bytes()))
    except OSError as err:
        raise PolicyError(f"failed to read file path {str(path)!r}: {err}") from err
    except (yaml.YAMLError, msgspec.ValidationError) as err:
        raise PolicyError(f"failed decoding file {str(path)!r}: {err}") from err


def policy_of(document: object) -> Policy:
    """Raises PolicyError, msgspec.ValidationError."""
    found = msgspec.convert(document, Policy)
    if (found.api_version, found.kind) != ("audit.k8s.io/v1", "Policy"):
        raise PolicyError(f'no kind "{found.kind}" is registered for version "{found.api_version}"')
    if not found.rules:
        raise PolicyError("loaded illegal policy with 0 rules")
    _check_stages(found.omit_stages, "omitStages")
    for n, rule in enumerate(found.rules):
        _check(rule, f"rules[{n}]")
    return found


def _check(rule: PolicyRule, where: str) -> None:
    if rule.level not in LEVELS:
        known = ", ".join(f'"{name}"' for name in sorted(LEVELS))
        raise PolicyError(f'{where}.level: Unsupported value: "{rule.level}": supported values: {known}')
    if rule.non_resource_urls and (rule.resources or rule.namespaces):
        raise PolicyError(
            f"{where}.nonResourceURLs: rules cannot apply to both regular resources and non-resource URLs"
        )
    for url in rule.non_resource_urls:
        if url != "*" and (not url.startswith("/") or "*" in url[:-1]):
            raise PolicyError(f'{where}.nonResourceURLs: Invalid value: "{url}": must begin with "/" and end with "*"')
    for one in rule.resources:
        if "/" in one.group:
            raise PolicyError(f'{where}.resources.group: Invalid value: "{one.group}": it is no group name')
        if one.resource_names and not one.resources:
            raise PolicyError(f"{where}.resources.resourceNames: using resourceNames requires at least one resource")
    _check_stages(rule.omit_stages, f"{where}.omitStages")


def _check_stages(stages: Sequence[str], where: str) -> None:
    for stage in stages:
        if stage not in STAGES:
            raise PolicyError(f'{where}: Invalid value: "{stage}": allowed stages are {",".join(STAGES)}')


def verdict(policy: Policy, request: Attributes) -> Verdict:
    """What the policy says of a request."""
    rule = next((rule for rule in policy.rules if matches(rule, request)), None)
    if rule is None or rule.level == "None":
        return NOT_AUDITED
    own = rule.omit_managed_fields
    return Verdict(
        LEVELS[rule.level],
        frozenset(policy.omit_stages) | frozenset(rule.omit_stages),
        policy.omit_managed_fields if own is None else own,
    )


def matches(rule: PolicyRule, request: Attributes) -> bool:
    if rule.users and request.user.name not in rule.users:
        return False
    if rule.user_groups and not set(rule.user_groups) & set(request.user.groups):
        return False
    if rule.verbs and request.verb not in rule.verbs:
        return False
    if rule.namespaces or rule.resources:
        return _matches_resource(rule, request)
    if rule.non_resource_urls:
        return bool(request.path) and any(_matches_url(url, request.path) for url in rule.non_resource_urls)
    return True


def _matches_url(spec: str, path: str) -> bool:
    return spec in ("*", path) or (spec.endswith("*") and path.startswith(spec.rstrip("*")))


def _matches_resource(rule: PolicyRule, request: Attributes) -> bool:
    if request.path or (rule.namespaces and request.namespace not in rule.namespaces):
        return False
    if not rule.resources:
        return True
    return any(one.group == request.group and _within(one, request) for one in rule.resources)


def _within(one: GroupResources, request: Attributes) -> bool:
    if not one.resources:
        return True
    if one.resource_names and request.name not in one.resource_names:
        return False
    combined = f"{request.resource}/{request.subresource}" if request.subresource else request.resource
    ways = {"*", combined, f"{request.resource}/*"}
    if request.subresource:
        ways.add(f"*/{request.subresource}")
    return not ways.isdisjoint(one.resources)
