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

from kaa.api.errors import ApiError
from kaa.api.types.admissionregistration_v1 import (
    MatchCondition,
    MutatingWebhookConfiguration,
    ValidatingWebhookConfiguration,
)
from kaa.api.types.meta_v1 import ManagedFieldsEntry

from ..admission.base import Attributes, Chain
from ..admission.plugin import Passive
from ..authz.base import Authorizer
from ..cacher import Cacher
from ..view import View
from .call import Caller
from .dispatch import Reinvocation, mutate, validate
from .hooks import Conditions, hooks_of
from .matching import Compiled, is_exempt
from .sight import Sight, Stage, StrategyFor, Versions

_BAD_OWNERS = (
    ".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating"
    " admission controller; please fix your requests: "
)


class DynamicAdmission(Passive):
    """``before`` is put in by whoever builds the chain: the built-in plugins that come first."""

    name = "DynamicAdmission"

    def __init__(
        self,
        cacher: Cacher,
        strategy_for: StrategyFor,
        authorizer: Authorizer,
        versions: Versions | None = None,
    ) -> None:
        self._authorizer = authorizer
        self.caller = Caller(cacher)
        self.before = Chain(())
        self.versions = versions or Versions()
        self._strategy_for = strategy_for
        self._mutating = Compiled(
            [cacher.of(MutatingWebhookConfiguration)],
            lambda: hooks_of(cacher.list(MutatingWebhookConfiguration), self._conditions),
        )
        self._validating = Compiled(
            [cacher.of(ValidatingWebhookConfiguration)],
            lambda: hooks_of(cacher.list(ValidatingWebhookConfiguration), self._conditions),
        )

    def _conditions(self, given: tuple[MatchCondition, ...], failure_policy: str) -> Conditions:
        from ..policies.conditions import MatchConditions  # CEL is for clusters that use it

        return MatchConditions(given, failure_policy, self._authorizer)

    async def admit(self, attributes: Attributes, view: View) -> None:
        if not self._mutating.current():
            return
        sight = self._sight(attributes, view, Stage.MUTATING)
        if sight is None:
            return
        before = attributes.object
        state = Reinvocation()
        try:
            await self._round(sight, state)
            if state.wanted:
                await self.before.admit(attributes, view)
                state.start_again(attributes.object)
                await self._round(sight, state)
        except ApiError as err:
            raise _with_warnings(err, attributes) from err.__cause__
        if attributes.object is not before and before is not None:
            _check_owners(attributes, before)

    async def _round(self, sight: Sight, state: Reinvocation) -> None:
        await mutate(self._mutating.held, sight, self.caller, state)

    async def validate(self, attributes: Attributes, view: View) -> None:
        if not self._validating.current():
            return
        sight = self._sight(attributes, view, Stage.VALIDATING)
        if sight is None:
            return
        try:
            await validate(self._validating.held, sight, self.caller)
        except ApiError as err:
            raise _with_warnings(err, attributes) from err.__cause__

    def _sight(self, attributes: Attributes, view: View, stage: Stage) -> Sight | None:
        """What is to be seen; None when nobody may."""
        if attributes.request.subresource == "binding" and attributes.operation != "CREATE":
            return None  # what a binding or an eviction then does to the pod: the binding or eviction itself was seen
        sight = Sight(attributes, view, stage, self._strategy_for, self.versions)
        return None if is_exempt(sight) else sight


def _with_warnings(err: ApiError, attributes: Attributes) -> ApiError:
    """A refusal carries the warnings that came before it."""
    err.warnings = tuple(attributes.warnings)
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
