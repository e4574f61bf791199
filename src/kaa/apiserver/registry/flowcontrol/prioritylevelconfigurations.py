"""PriorityLevelConfigurations.

Source: pkg/registry/flowcontrol/prioritylevelconfiguration/strategy.go; ValidatePriorityLevelConfiguration.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields
from kaa.api.fields import FieldError
from kaa.api.types.flowcontrol_v1 import (
    LimitedPriorityLevelConfiguration,
    PriorityLevelConfiguration,
    PriorityLevelConfigurationStatus,
)

from ...validation.common import SPEC
from ..strategy import Strategy
from ..tables import NONE, age, shape


def _cells(obj: PriorityLevelConfiguration, now: float) -> Sequence[Any]:
    spec = obj.spec
    shares: Any = NONE
    queues: Any = NONE
    hand: Any = NONE
    length: Any = NONE
    if spec.limited is not None:
        shares = spec.limited.nominal_concurrency_shares
        queuing = spec.limited.limit_response.queuing
        if queuing is not None:
            queues, hand, length = queuing.queues, queuing.hand_size, queuing.queue_length_limit
    return obj.metadata.name, spec.type, shares, queues, hand, length, age(obj.metadata, now)


class PriorityLevelStrategy(Strategy[PriorityLevelConfiguration]):
    kind = PriorityLevelConfiguration
    counts_generation = True
    table = shape(
        "flowcontrol/prioritylevelconfigurations",
        "Type|NominalConcurrencyShares|Queues|HandSize|QueueLengthLimit|Age",
        _cells,
    )

    def default(self, obj: PriorityLevelConfiguration) -> PriorityLevelConfiguration:
        spec = obj.spec
        changes: dict[str, Any] = {}
        if spec.limited is not None:
            changes["limited"] = _limited(spec.limited)
        if spec.exempt is not None:
            changes["exempt"] = replace(
                spec.exempt,
                nominal_concurrency_shares=spec.exempt.nominal_concurrency_shares or 0,
                lendable_percent=spec.exempt.lendable_percent or 0,
            )
        return replace(obj, spec=replace(spec, **changes)) if changes else obj

    def prepare_create(self, obj: PriorityLevelConfiguration) -> PriorityLevelConfiguration:
        return replace(obj, status=PriorityLevelConfigurationStatus())

    def validate(self, obj: PriorityLevelConfiguration) -> list[FieldError]:
        return list(_faults(obj))


def _limited(given: LimitedPriorityLevelConfiguration) -> LimitedPriorityLevelConfiguration:
    response = given.limit_response
    if response.queuing is not None:
        queuing = replace(
            response.queuing,
            queues=response.queuing.queues or 64,
            hand_size=response.queuing.hand_size or 8,
            queue_length_limit=response.queuing.queue_length_limit or 50,
        )
        response = replace(response, queuing=queuing)
    shares = 30 if given.nominal_concurrency_shares is None else given.nominal_concurrency_shares
    lendable = 0 if given.lendable_percent is None else given.lendable_percent
    return replace(given, limit_response=response, nominal_concurrency_shares=shares, lendable_percent=lendable)


def _faults(obj: PriorityLevelConfiguration) -> Iterator[FieldError]:
    spec = obj.spec
    match spec.type:
        case "Exempt":
            if spec.limited is not None:
                yield fields.forbidden(SPEC.child("limited"), "must be nil if the type is not Limited")
        case "Limited":
            if spec.exempt is not None:
                yield fields.forbidden(SPEC.child("exempt"), "must be nil if the type is Limited")
            if spec.limited is None:
                yield fields.required(SPEC.child("limited"), "must not be empty when type is Limited")
            else:
                yield from _limited_faults(spec.limited)
        case other:
            yield fields.not_supported(SPEC.child("type"), other, ("Exempt", "Limited"))


def _limited_faults(given: LimitedPriorityLevelConfiguration) -> Iterator[FieldError]:
    at = SPEC.child("limited")
    if (given.nominal_concurrency_shares or 0) < 0:
        detail = "must be a non-negative integer"
        yield fields.invalid(at.child("nominalConcurrencyShares"), given.nominal_concurrency_shares, detail)
    lendable = given.lendable_percent
    if lendable is not None and not 0 <= lendable <= 100:
        yield fields.invalid(at.child("lendablePercent"), lendable, "must be between 0 and 100, inclusive")
    if given.borrowing_limit_percent is not None and given.borrowing_limit_percent < 0:
        detail = "if specified, must be a non-negative integer"
        yield fields.invalid(at.child("borrowingLimitPercent"), given.borrowing_limit_percent, detail)
    response, here = given.limit_response, at.child("limitResponse")
    match response.type:
        case "Reject":
            if response.queuing is not None:
                yield fields.forbidden(
                    here.child("queuing"), "must be nil if limited.limitResponse.type is not Limited"
                )
        case "Queue":
            if response.queuing is None:
                detail = "must not be empty if limited.limitResponse.type is Limited"
                yield fields.required(here.child("queuing"), detail)
            elif (response.queuing.hand_size or 0) > (response.queuing.queues or 0):
                detail = f"should not be greater than queues ({response.queuing.queues})"
                yield fields.invalid(here.child("queuing", "handSize"), response.queuing.hand_size, detail)
        case other:
            yield fields.not_supported(here.child("type"), other, ("Queue", "Reject"))


STRATEGY = PriorityLevelStrategy()
