"""``matchConditions`` of webhooks and policies: all must hold for a write to concern them.

Source: apiserver pkg/admission/plugin/webhook/matchconditions/matcher.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kaa.api.cel import BOOL
from kaa.api.cel.admission import Expression, Variables, compiled
from kaa.api.cel.limits import MATCH_CONDITIONS
from kaa.api.types.admissionregistration_v1 import MatchCondition

from ..authz.base import Authorizer
from ..webhooks.hooks import ConditionsFailed
from ..webhooks.sight import Shape, Sight
from . import authorizer as authorization
from .expressions import (
    BudgetSpent,
    Purse,
    environment,
    evaluate,
    object_value,
    request_value,
)


def met(
    conditions: Iterable[Expression],
    values: Mapping[str, Any],
    failure_policy: str,
    variables: Variables | None = None,
) -> bool:
    """Whether no condition is false. One that fails beside a false one does not matter.

    Raises: ConditionsFailed: one fails, none is false, and the policy is Fail.
    """
    try:
        outcomes = evaluate(conditions, values, Purse(MATCH_CONDITIONS), variables)
    except BudgetSpent as err:
        if failure_policy == "Ignore":
            return False
        raise ConditionsFailed(str(err)) from None
    if any(outcome.value is False for outcome in outcomes):
        return False
    errors = list(dict.fromkeys(outcome.error for outcome in outcomes if outcome.error))
    if not errors:
        return True
    if failure_policy == "Ignore":
        return False
    raise ConditionsFailed(errors[0] if len(errors) == 1 else f"[{', '.join(errors)}]")


class MatchConditions:
    """A webhook's conditions, compiled."""

    def __init__(self, given: Iterable[MatchCondition], failure_policy: str, authorizer: Authorizer) -> None:
        where = environment(params=False, authorizer=True)
        self._expressions = [compiled(where, one.expression, BOOL) for one in given]
        self._failure_policy, self._authorizer = failure_policy, authorizer

    async def met(self, sight: Sight, shape: Shape) -> bool:
        values = {
            "object": object_value(await sight.object(shape)),
            "oldObject": object_value(await sight.old(shape)),
            "request": request_value(sight, shape),
            "namespaceObject": None,
            **authorization.values(self._authorizer, sight, shape),
        }
        return met(self._expressions, values, self._failure_policy)
