"""MutatingAdmissionPolicies: objects changed by what their expressions give.

Source: apiserver pkg/admission/plugin/policy/mutating (dispatcher.go, compilation.go, patch).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kaa.api.cel import ListType, ObjectType
from kaa.api.cel.admission import Expression, Variables, compiled
from kaa.api.cel.mutation import JSON_PATCH, ROOT, named_type
from kaa.api.errors import ApiError
from kaa.api.types.admissionregistration_v1 import MutatingAdmissionPolicy, Mutation
from kaa.api.types.meta_v1 import StatusCause

from ..admission.plugin import refuse
from ..patch.managed_fields import document_view
from ..patch.type_view import Node, view_of
from ..webhooks.dispatch import Reinvocation
from ..webhooks.hooks import ConditionsFailed
from ..webhooks.sight import Sight, document_of
from .conditions import met
from .expressions import BudgetSpent, Purse, environment, evaluate
from .mutations import MutationFailed, applied, patched
from .policy import Fault, Invocation, Policy, Surroundings, conditions_of, invocations, values_of


@dataclass(frozen=True)
class Mutator:
    """One mutation, compiled."""

    applies: bool
    expression: Expression


class Evaluator:
    """A policy's expressions, compiled."""

    def __init__(self, policy: MutatingAdmissionPolicy) -> None:
        spec = policy.spec
        plain = environment(params=spec.param_kind is not None, authorizer=True, mutating=True)
        self.variables = Variables(spec.variables, plain)
        where = self.variables.within(plain)
        self.conditions = conditions_of(spec.match_conditions, where)
        self.mutators = [mutator(one, where) for one in spec.mutations]


def mutator(mutation: Mutation, where: Any) -> Mutator:
    applies = mutation.patch_type == "ApplyConfiguration"
    given = mutation.apply_configuration if applies else mutation.json_patch
    source = (given.expression if given is not None else None) or ""
    wanted: Any = root_type() if applies else ListType(JSON_PATCH)
    return Mutator(applies, compiled(where, source, wanted))


def root_type() -> ObjectType:
    found = named_type(ROOT)
    assert found is not None
    return found


async def mutate(
    policies: Sequence[Policy[Evaluator]], sight: Sight, around: Surroundings, state: Reinvocation
) -> None:
    """Run the policies in order; each sees what those before it made. Raises ApiError."""
    faults: list[Fault[Evaluator]] = []
    due: list[Invocation[Evaluator]] = []
    for one in invocations(policies, sight, around):
        if isinstance(one, Fault):
            faults.append(one)
        else:
            due.append(one)
    first = sight.attributes.object
    for one in due:
        before = sight.attributes.object
        errors = await _invoked(one, sight, around, state)
        faults += [Fault(one.policy, one.binding, error, "Invalid") for error in errors]
        if sight.attributes.object != before:
            state.changed()
        if one.policy.object.spec.reinvocation_policy == "IfNeeded":
            state.earlier.add(one.key)
    if sight.attributes.object != first:
        state.changed()  # also those that made the change see it again
    state.output = sight.attributes.object
    fatal = [fault for fault in faults if not fault.policy.ignores_failures]
    if fatal:
        raise _refusal(sight, fatal)


async def _invoked(one: Invocation[Evaluator], sight: Sight, around: Surroundings, state: Reinvocation) -> list[str]:
    """Run one policy; returns what went wrong."""
    if sight.attributes.object is None or not state.asks(one.key):
        return []
    evaluator = one.policy.evaluator
    values = await values_of(one, sight, around)
    policy = "Ignore" if one.policy.ignores_failures else "Fail"
    try:
        if not met(evaluator.conditions, values, policy, evaluator.variables):
            return []
    except ConditionsFailed as err:
        return [str(err)]
    errors = []
    for mutator in evaluator.mutators:
        try:
            await _mutated(mutator, one, sight, around)
        except MutationFailed as err:
            errors.append(str(err))
    return errors


async def _mutated(mutator: Mutator, one: Invocation[Evaluator], sight: Sight, around: Surroundings) -> None:
    """Raises MutationFailed, ApiError."""
    values = await values_of(one, sight, around)
    try:
        [outcome] = evaluate([mutator.expression], values, Purse(), one.policy.evaluator.variables)
    except BudgetSpent as err:
        raise MutationFailed(str(err)) from None
    if outcome.error:
        raise MutationFailed(outcome.error)
    shown = await sight.object(one.shape)
    document = document_of(shown)
    assert document is not None
    made = (
        applied(_node(shown, sight), document, outcome.value) if mutator.applies else patched(document, outcome.value)
    )
    if made is not document:
        await sight.put(made, one.shape)


def _node(shown: Any, sight: Sight) -> Node:
    """The fields of the object's type."""
    if sight.resource.custom:
        return document_view(sight.resource, sight.strategy.type_view)
    return view_of(type(shown))


def _refusal(sight: Sight, faults: list[Fault[Evaluator]]) -> ApiError:
    messages = [
        f"policy '{fault.policy.name}'"
        + (f" with binding '{fault.binding.name}'" if fault.binding else "")
        + f" denied request: {fault.message}"
        for fault in faults
    ]
    details = refuse(sight.attributes, "admission request denied by policy").details
    return ApiError(
        messages[0],
        name=details.name or "",
        group=details.group or "",
        kind=details.kind or "",
        causes=[StatusCause(message=message) for message in messages],
        code=403,
        reason=faults[0].reason,
    )
