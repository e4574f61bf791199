"""Which writes a rule speaks of.

Source: apiserver pkg/admission/plugin/webhook/predicates (rules, namespace, object); pkg/admission/plugin/policy/matching.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kaa.api.errors import NotFound
from kaa.api.scheme import resource_of
from kaa.api.selectors import EVERYTHING, Selector, from_label_selector
from kaa.api.types.admissionregistration_v1 import MatchResources
from kaa.api.types.core_v1 import Namespace
from kaa.api.types.meta_v1 import LabelSelector

from .sight import Shape, Sight

#: Kinds that say what is intercepted are not: nobody locks himself out. So with reviews, on which the cluster rests.
EXEMPT = frozenset(
    {
        "mutatingwebhookconfigurations",
        "validatingwebhookconfigurations",
        "mutatingadmissionpolicies",
        "mutatingadmissionpolicybindings",
        "validatingadmissionpolicies",
        "validatingadmissionpolicybindings",
    }
)
_GROUP = "admissionregistration.k8s.io"


def is_exempt(sight: Sight) -> bool:
    return sight.resource.group == _GROUP and sight.resource.plural in EXEMPT


def rule_matches(rule: Any, sight: Sight, shape: Shape) -> bool:
    """Whether a rule speaks of a write, seen as ``shape``."""
    return (
        _listed(rule.operations, sight.operation)
        and _listed(rule.api_groups, shape.group)
        and _listed(rule.api_versions, shape.version)
        and any(_resource_matches(word, shape.plural, sight.subresource) for word in rule.resources)
        and _scope_matches(rule.scope, sight)
        and _name_matches(getattr(rule, "resource_names", ()), sight)
    )


def _listed(words: Sequence[str], word: str) -> bool:
    return "*" in words or word in words


def _resource_matches(word: str, plural: str, subresource: str) -> bool:
    """``pods``, ``pods/status``, ``pods/*``, ``*/scale``, ``*`` (every resource, no subresource), ``*/*``."""
    wanted, _, wanted_sub = word.partition("/")
    return wanted in ("*", plural) and wanted_sub in ("*", subresource)


def _scope_matches(scope: str | None, sight: Sight) -> bool:
    """Namespaces stand in themselves, and are cluster-scoped all the same."""
    if scope in (None, "*"):
        return True
    namespaced = bool(sight.namespace) and not sight.is_namespace
    return namespaced == (scope == "Namespaced")


def _name_matches(names: Sequence[str], sight: Sight) -> bool:
    return not names or sight.name in names


def shape_matched(rules: Iterable[Any], policy: str | None, sight: Sight) -> Shape | None:
    """The version of the write that rules speak of: its own, else (``Equivalent``) another of the same resource."""
    rules = tuple(rules)
    if any(rule_matches(rule, sight, sight.shape) for rule in rules):
        return sight.shape
    if policy != "Equivalent":
        return None
    others = sight.shapes()
    return next((shape for rule in rules for shape in others if rule_matches(rule, sight, shape)), None)


@dataclass(frozen=True, slots=True)
class Selectors:
    """The labels that a write's namespace and object must have."""

    namespace: Selector = EVERYTHING
    object: Selector = EVERYTHING

    @classmethod
    def of(cls, namespace: LabelSelector | None, obj: LabelSelector | None) -> Selectors:
        """An absent selector selects everything."""
        return cls(*(EVERYTHING if given is None else from_label_selector(given) for given in (namespace, obj)))

    def select(self, sight: Sight) -> bool:
        """Raises NotFound when the namespace is not there."""
        return self._namespace_selected(sight) and self._object_selected(sight)

    def _namespace_selected(self, sight: Sight) -> bool:
        if self.namespace.empty or (not sight.namespace and not sight.is_namespace):
            return True
        labels = sight.namespace_labels()
        if labels is None:
            raise NotFound.of(resource_of(Namespace), sight.namespace)
        return self.namespace.matches(labels)

    def _object_selected(self, sight: Sight) -> bool:
        if self.object.empty:
            return True
        found = (sight.labels(old=False), sight.labels(old=True))
        return any(labels is not None and self.object.matches(labels) for labels in found)


class Matcher:
    """A policy's (or a binding's) ``matchResources``."""

    def __init__(self, given: MatchResources) -> None:
        self._rules, self._excluded = given.resource_rules, given.exclude_resource_rules
        self._policy = given.match_policy
        self._selectors = Selectors.of(given.namespace_selector, given.object_selector)

    def shape(self, sight: Sight) -> Shape | None:
        """The version in which the write is matched, or None. Raises ApiError."""
        if self._excluded and shape_matched(self._excluded, self._policy, sight) is not None:
            return None
        shape = shape_matched(self._rules, self._policy, sight) if self._rules else sight.shape
        return shape if shape is not None and self._selectors.select(sight) else None
