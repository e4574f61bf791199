"""Dynamic admission as one plugin of the chain: policies, then webhooks, in upstream's order.

The idea: what is configured is compiled when it changes, and a cluster that has none pays a few comparisons a write.
The mutating phase may go through the built-in plugins once more, so that they see what webhooks made of the object, and
through those webhooks and policies that ask for it (``reinvocationPolicy: IfNeeded``).

::

    admit      MutatingAdmissionPolicies · mutating webhooks · (changed: built-in plugins, policies, webhooks again)
    validate   ValidatingAdmissionPolicies · validating webhooks

Source: apiserver pkg/admission/reinvocation.go; pkg/admission/plugin/webhook/generic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kaa.api.errors import ApiError
from kaa.api.types.admissionregistration_v1 import (
    MatchCondition,
    MutatingAdmissionPolicy,
    MutatingAdmissionPolicyBinding,
    MutatingWebhookConfiguration,
    ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicyBinding,
    ValidatingWebhookConfiguration,
)
from kaa.api.types.meta_v1 import ManagedFieldsEntry

from ..admission.base import Attributes, Chain, Consultant
from ..authz.base import Authorizer
from ..cacher import Cacher
from ..view import View
from .call import Caller
from .dispatch import Reinvocation, mutate, validate
from .hooks import CompileConditions, Conditions, Hook, hooks_of
from .matching import is_exempt
from .sight import Sight, Stage, StrategyFor, Versions

_BAD_OWNERS = (
    ".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating"
    " admission controller; please fix your requests: "
)


@dataclass(frozen=True)
class Configured:
    """What stands in one phase's way: bound policies and webhooks."""

    policies: Sequence[Any]
    hooks: Sequence[Hook]


class Phase:
    """What is configured for one phase, compiled again when its objects change.

    Asking costs a comparison of revisions: that is all a write pays in a cluster without webhooks and policies.
    """

    __slots__ = ("_caches", "_conditions", "_held", "_kinds", "_library", "_make_library", "_seen", "_view")

    def __init__(
        self,
        cacher: Cacher,
        kinds: Sequence[type[Any]],
        make_library: Callable[[], Any],
        conditions: CompileConditions,
    ) -> None:
        """``kinds``: of policies, of their bindings, of configurations of webhooks."""
        self._view, self._kinds, self._make_library, self._conditions = cacher, kinds, make_library, conditions
        self._caches = tuple(cacher.of(kind) for kind in kinds)
        self._library: Any = None
        self._seen = -1
        self._held: Configured | None = None

    def current(self) -> Configured | None:
        """None when there is nothing."""
        first, second, third = self._caches
        seen = first.changed + second.changed + third.changed  # revisions only grow, and so does their sum
        if seen != self._seen:
            self._seen = seen
            self._held = self._compiled()
        return self._held

    def _compiled(self) -> Configured | None:
        policies, bindings, configurations = (list(self._view.list(kind)) for kind in self._kinds)
        bound: Sequence[Any] = ()
        if policies and bindings:
            if self._library is None:
                self._library = self._make_library()
            bound = self._library.bound(policies, bindings)
        hooks = hooks_of(configurations, self._conditions)
        return Configured(bound, hooks) if bound or hooks else None


class DynamicAdmission(Consultant):
    """``before`` is put in by whoever builds the chain: the built-in plugins that come first.

    ``versions.custom`` is put in by whoever serves custom resources.
    """

    name = "DynamicAdmission"

    def __init__(
        self, cacher: Cacher, strategy_for: StrategyFor, authorizer: Authorizer, versions: Versions | None = None
    ) -> None:
        self._cacher, self._strategy_for, self._authorizer = cacher, strategy_for, authorizer
        self.caller = Caller(cacher)
        self.before = Chain(())
        self.versions = versions or Versions()
        mutating = MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, MutatingWebhookConfiguration
        validating = ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration
        self._mutating = Phase(cacher, mutating, self._mutating_library, self._conditions)
        self._validating = Phase(cacher, validating, self._validating_library, self._conditions)

    @property
    def busy(self) -> bool:
        return self._validating.current() is not None

    async def admit(self, attributes: Attributes, view: View) -> None:
        configured = self._mutating.current()
        if configured is None:
            return
        sight = self._sight(attributes, view, Stage.MUTATING)
        if sight is None:
            return
        before = attributes.object
        try:
            await self._mutate(configured, sight)
        except ApiError as err:
            raise _by_others(err, attributes) from err.__cause__
        if attributes.object is not before and before is not None:
            _check_owners(attributes, before)

    async def _mutate(self, configured: Configured, sight: Sight) -> None:
        policies, hooks = Reinvocation(), Reinvocation()
        await self._round(configured, sight, policies, hooks)
        if policies.wanted or hooks.wanted:
            await self.before.admit(sight.attributes, sight.view)
            policies.again = hooks.again = True
            await self._round(configured, sight, policies, hooks)

    async def _round(self, configured: Configured, sight: Sight, policies: Reinvocation, hooks: Reinvocation) -> None:
        if configured.policies:
            from ..policies import mutating

            policies.begin(sight.attributes.object)
            await mutating.mutate(configured.policies, sight, self._around, policies)
        hooks.begin(sight.attributes.object)
        await mutate(configured.hooks, sight, self.caller, hooks)

    async def validate(self, attributes: Attributes, view: View) -> None:
        configured = self._validating.current()
        if configured is None or attributes.consulted:
            return
        sight = self._sight(attributes, view, Stage.VALIDATING)
        if sight is None:
            return
        try:
            if configured.policies:
                from ..policies import validating

                await validating.validate(configured.policies, sight, self._around)
            await validate(configured.hooks, sight, self.caller)
        except ApiError as err:
            raise _by_others(err, attributes) from err.__cause__

    def _sight(self, attributes: Attributes, view: View, stage: Stage) -> Sight | None:
        """What is to be seen; None when nobody may."""
        if attributes.request.subresource == "binding" and attributes.operation != "CREATE":
            return None  # what a binding or an eviction then does to the pod: the binding or eviction itself was seen
        sight = Sight(attributes, view, stage, self._strategy_for, self.versions)
        return None if is_exempt(sight) else sight

    # ------------------------------------------------------------------ CEL is read by clusters that use it only

    def _conditions(self, given: tuple[MatchCondition, ...], failure_policy: str) -> Conditions:
        from ..policies.conditions import MatchConditions

        return MatchConditions(given, failure_policy, self._authorizer)

    def _mutating_library(self) -> Any:
        from ..policies import mutating, policy

        return policy.Library(mutating.Evaluator)

    def _validating_library(self) -> Any:
        from ..policies import policy, validating

        return policy.Library(validating.Evaluator)

    @cached_property
    def _around(self) -> Any:
        from ..policies.policy import Surroundings

        return Surroundings(self._cacher, self._authorizer, self.versions.find_kind)


def _by_others(err: ApiError, attributes: Attributes) -> ApiError:
    """A refusal carries the warnings that came before it, and that it is somebody else's."""
    err.warnings, err.dynamic = tuple(attributes.warnings), True
    return err


def _check_owners(attributes: Attributes, before: object) -> None:
    """A webhook that spoils ``managedFields`` is not followed in that."""
    metadata = getattr(attributes.object, "metadata", None)
    owners: tuple[ManagedFieldsEntry, ...] = getattr(metadata, "managed_fields", ())
    fault = next((why for entry in owners if (why := _owner_fault(entry))), "")
    if fault:
        from msgspec.structs import replace

        kept = before.metadata.managed_fields  # type: ignore[attr-defined]  # as the object that it became has
        attributes.object = replace(attributes.object, metadata=replace(metadata, managed_fields=kept))  # type: ignore[type-var]  # they are Structs
        attributes.warnings.append(_BAD_OWNERS + fault)


def _owner_fault(entry: ManagedFieldsEntry) -> str:
    if entry.operation not in ("Apply", "Update"):
        return f'invalid operation "{entry.operation or ""}"'
    if entry.fields_type != "FieldsV1":
        return f'unknown FieldsType in managedFields entry: "{entry.fields_type or ""}"'
    return ""
