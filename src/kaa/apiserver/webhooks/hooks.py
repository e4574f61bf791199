"""The webhooks of all configurations, ready to be asked: in order, with their selectors read.

Source: apiserver pkg/admission/configuration; pkg/admission/plugin/webhook/accessors.go, generic/webhook.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from kaa.api.errors import Forbidden
from kaa.api.types.admissionregistration_v1 import MatchCondition

from .matching import Selectors, shape_matched
from .review import VERSIONS
from .sight import Shape, Sight


class Conditions(Protocol):
    """Compiled ``matchConditions``."""

    async def met(self, sight: Sight, shape: Shape) -> bool:
        """Raises ConditionsFailed when they cannot be told and the failure policy is Fail."""
        ...


class ConditionsFailed(Exception):
    """Match conditions that could not be evaluated; the text says which."""


#: Compiles conditions. (conditions, failure policy) -> Conditions
CompileConditions = Callable[[tuple[MatchCondition, ...], str], Conditions]


@dataclass(frozen=True)
class Hook:
    """One webhook. ``configuration`` and ``place`` (its index in it, by name) tell webhooks of one name apart."""

    webhook: Any
    configuration: str
    place: int
    selectors: Selectors
    conditions: Conditions | None

    @property
    def name(self) -> str:
        return str(self.webhook.name)

    @property
    def key(self) -> tuple[str, str, int]:
        return self.configuration, self.name, self.place

    @property
    def ignores_failures(self) -> bool:
        return bool(self.webhook.failure_policy == "Ignore")

    @property
    def timeout_s(self) -> float:
        return float(self.webhook.timeout_seconds or 10)

    @property
    def version(self) -> str:
        """The review's version: the first of the webhook's that this server speaks."""
        return next((v for v in self.webhook.admission_review_versions if v in VERSIONS), VERSIONS[0])

    async def shape(self, sight: Sight) -> Shape | None:
        """The version in which it is to see a write; None when it is not concerned. Raises ApiError."""
        shape = shape_matched(self.webhook.rules, self.webhook.match_policy, sight)
        if shape is None or not self.selectors.select(sight):
            return None
        if self.conditions is None:
            return shape
        try:
            return shape if await self.conditions.met(sight, shape) else None
        except ConditionsFailed as err:
            raise Forbidden.of(sight.resource, sight.name, str(err)) from None


def hooks_of(configurations: Iterable[Any], compile_conditions: CompileConditions) -> list[Hook]:
    """The webhooks of all configurations: these by name, and each one's webhooks as it lists them."""
    found: list[Hook] = []
    for configuration in sorted(configurations, key=lambda c: c.metadata.name or ""):
        seen: dict[str, int] = {}
        for webhook in configuration.webhooks:
            place = seen[webhook.name] = seen.get(webhook.name, -1) + 1
            found.append(_hook(webhook, configuration.metadata.name or "", place, compile_conditions))
    return found


def _hook(webhook: Any, configuration: str, place: int, compile_conditions: CompileConditions) -> Hook:
    conditions = None
    if webhook.match_conditions:
        conditions = compile_conditions(webhook.match_conditions, webhook.failure_policy or "Fail")
    selectors = Selectors.of(webhook.namespace_selector, webhook.object_selector)
    return Hook(webhook, configuration, place, selectors, conditions)
