"""ValidatingAdmissionPolicies: what they refuse, warn of, and note.

Source: apiserver pkg/admission/plugin/policy/validating (dispatcher.go, validator.go).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from kaa.api.cel import BOOL, NULL, STRING
from kaa.api.cel.admission import Expression, Variables, compiled
from kaa.api.cel.limits import MESSAGE_SIZE
from kaa.api.errors import ApiError
from kaa.api.types.admissionregistration_v1 import ValidatingAdmissionPolicy, Validation
from kaa.api.types.meta_v1 import StatusCause

from ..admission.plugin import refuse
from ..webhooks.hooks import ConditionsFailed
from ..webhooks.sight import Sight
from .conditions import met
from .expressions import BudgetSpent, Outcome, Purse, environment, evaluate
from .policy import Fault, Invocation, Policy, Surroundings, code_of, conditions_of, invocations, values_of

MAX_NOTE = 10 * 1024  # bytes of an audit annotation
_FAILURE_KEY = "validation.policy.admission.k8s.io/validation_failure"


@dataclass(frozen=True)
class Denial:
    """Why a policy stands against a write. ``index`` is that of the validation."""

    message: str
    reason: str = ""
    index: int = 0


class Evaluator:
    """A policy's expressions, compiled."""

    def __init__(self, policy: ValidatingAdmissionPolicy) -> None:
        spec = policy.spec
        params = spec.param_kind is not None
        asking = environment(params=params, authorizer=True)
        self.variables = Variables(spec.variables, asking)
        where = self.variables.within(asking)
        telling = self.variables.within(environment(params=params, authorizer=False))
        self.validations = spec.validations
        self.checks = [compiled(where, one.expression, BOOL) for one in spec.validations]
        self.messages: list[Expression | None] = [
            compiled(telling, one.message_expression, STRING) if one.message_expression else None
            for one in spec.validations
        ]
        self.conditions = conditions_of(spec.match_conditions, where)
        self.notes = [compiled(where, one.value_expression, STRING, NULL) for one in spec.audit_annotations]


async def validate(policies: Sequence[Policy[Evaluator]], sight: Sight, around: Surroundings) -> None:
    """Run the policies. Raises ApiError: the first denial."""
    denied: list[tuple[str, Denial]] = []
    notes: dict[str, list[str]] = {}
    failures: list[dict[str, Any]] = []
    for one in invocations(policies, sight, around):
        if isinstance(one, Fault):
            if not one.policy.ignores_failures:
                denied.append((_who(one.policy, one.binding.name if one.binding else None), Denial(one.message)))
            continue
        values = await values_of(one, sight, around)
        for denial in _run(one, values, notes):
            for action in one.binding.object.spec.validation_actions:
                match action:
                    case "Deny":
                        denied.append((_who(one.policy, one.binding.name), denial))
                    case "Warn":
                        _warn(sight, one, denial)
                    case "Audit":
                        failures.append(_failure(one, denial))
    for key, texts in notes.items():
        sight.attributes.annotate(key, ", ".join(dict.fromkeys(texts)))
    if failures:
        sight.attributes.annotate(_FAILURE_KEY, msgspec.json.encode(failures).decode())
    if denied:
        raise _refusal(sight, *denied[0])


def _who(policy: Policy[Any], binding: str | None) -> str:
    return f"ValidatingAdmissionPolicy '{policy.name}'" + (f" with binding '{binding}'" if binding else "")


def _warn(sight: Sight, one: Invocation[Evaluator], denial: Denial) -> None:
    text = f"Validation failed for {_who(one.policy, one.binding.name)}: {denial.message}"
    if text not in sight.attributes.warnings:
        sight.attributes.warnings.append(text)


def _failure(one: Invocation[Evaluator], denial: Denial) -> dict[str, Any]:
    return {
        "message": denial.message,
        "policy": one.policy.name,
        "binding": one.binding.name,
        "expressionIndex": denial.index,
        "validationActions": list(one.binding.object.spec.validation_actions),
    }


def _refusal(sight: Sight, who: str, denial: Denial) -> ApiError:
    message = f"{who} denied request: {denial.message}"
    reason = denial.reason or "Invalid"
    error = refuse(sight.attributes, message)
    details = error.details
    return ApiError(
        error.message,
        name=details.name or "",
        group=details.group or "",
        kind=details.kind or "",
        causes=(StatusCause(message=message),),
        code=code_of(reason),
        reason=reason,
    )


# -------------------------------------------------------------------------------------------------------- running


def _run(one: Invocation[Evaluator], values: dict[str, Any], notes: dict[str, list[str]]) -> list[Denial]:
    """The denials of one policy; ``notes`` takes its audit annotations."""
    evaluator, fails = one.policy.evaluator, not one.policy.ignores_failures
    try:
        if not met(evaluator.conditions, values, "Fail" if fails else "Ignore", evaluator.variables):
            return []
        purse = Purse()
        checked = evaluate(evaluator.checks, values, purse, evaluator.variables)
    except (ConditionsFailed, BudgetSpent) as err:
        return [Denial(str(err))] if fails else []
    messages = _messages(evaluator, checked, values, purse)
    found = [
        denial
        for index, (validation, outcome, message) in enumerate(
            zip(evaluator.validations, checked, messages, strict=True)
        )
        if (denial := _denial(validation, outcome, message, index, fails=fails)) is not None
    ]
    return found + _noted(one, values, notes, fails=fails)


def _messages(evaluator: Evaluator, checked: list[Outcome], values: dict[str, Any], purse: Purse) -> list[Outcome]:
    """What the messageExpressions of failed validations give, out of what the validations left of the purse."""
    wanted = [
        message if not outcome.error and outcome.value is not True else None
        for message, outcome in zip(evaluator.messages, checked, strict=True)
    ]
    if not any(wanted):
        return [Outcome()] * len(wanted)
    try:
        return evaluate(wanted, values, purse, evaluator.variables)
    except BudgetSpent as err:
        return [Outcome(error=f"failed messageExpression: {err}")] * len(wanted)


def _denial(validation: Validation, outcome: Outcome, message: Outcome, index: int, *, fails: bool) -> Denial | None:
    if outcome.error:
        return Denial(outcome.error, index=index) if fails else None
    if outcome.value is True:
        return None
    text = _said(message) or (validation.message or "").strip()
    if not text:
        text = f"failed expression: {validation.expression.strip()}"
    return Denial(text, validation.reason or "Invalid", index)


def _said(message: Outcome) -> str:
    """What a messageExpression says, if that can be shown."""
    if message.error or not isinstance(message.value, str):
        return ""
    text = message.value.strip()
    return "" if len(text.encode()) > MESSAGE_SIZE or "\n" in text else text


def _noted(
    one: Invocation[Evaluator], values: dict[str, Any], notes: dict[str, list[str]], *, fails: bool
) -> list[Denial]:
    """Take down a policy's audit annotations; a failure is a denial where the policy says so."""
    evaluator = one.policy.evaluator
    if not evaluator.notes:
        return []
    try:
        outcomes = evaluate(evaluator.notes, values, Purse(), evaluator.variables)
    except BudgetSpent as err:
        return [Denial(str(err))] if fails else []
    denials = []
    for annotation, outcome in zip(one.policy.object.spec.audit_annotations, outcomes, strict=True):
        if outcome.error:
            if fails:
                denials.append(Denial(outcome.error))
        elif isinstance(outcome.value, str) and outcome.value.strip():
            text = outcome.value.strip().encode()[:MAX_NOTE].decode(errors="ignore")
            notes.setdefault(f"{one.policy.name}/{annotation.key}", []).append(text)
    return denials
