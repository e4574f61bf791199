"""Consumable capacity: how much of each capacity of a device a request gets, and whether so much is left.

A device may say how requests are rounded (its request policy): up to the next of some values, or to whole steps in a range.
What a request does not name it gets by default, or else all of it. Of a device that is for one claim alone, a request's
capacities are what it must have at least.

Source: API reference "CapacityRequirements", "CapacityRequestPolicy"; structured/internal consumable_capacity.go.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import ceil

from kaa.api import quantity
from kaa.api.types.resource_v1 import CapacityRequestPolicy
from kaa.api.values import Quantity

from .offers import Offer


def fitting(offer: Offer, wanted: Mapping[str, Quantity], *used: Mapping[str, Fraction]) -> dict[str, Quantity] | None:
    """What a request gets of each capacity of a device besides what is ``used``; None when there is not enough, or no
    such capacity."""
    given: dict[str, Quantity] = {}
    if not wanted.keys() <= offer.capacity.keys():
        return None
    for name, every in offer.capacity.items():
        policy = offer.device.capacity[name].request_policy
        amount = consumed(wanted.get(name), offer.device.capacity[name].value, policy)
        if policy is not None and breaks(quantity.parse(amount), policy):
            return None
        if quantity.parse(amount) + sum(each.get(name, Fraction(0)) for each in used) > every:
            return None
        given[name] = amount
    return given


def consumed(wanted: Quantity | None, every: Quantity, policy: CapacityRequestPolicy | None) -> Quantity:
    """What a request for so much gets."""
    if wanted is None:
        return policy.default if policy is not None and policy.default is not None else every
    if policy is None:
        return wanted
    asked, steps = quantity.parse(wanted), policy.valid_range
    if steps is not None:
        least = quantity.parse(steps.min)
        if asked <= least:
            return steps.min
        if steps.step is None:
            return wanted
        step = quantity.parse(steps.step)
        return _written(least + step * ceil((asked - least) / step), steps.step)
    return next((value for value in policy.valid_values if asked <= quantity.parse(value)), wanted)


def _written(amount: Fraction, like: Quantity) -> Quantity:
    """With a binary suffix if ``like`` has one."""
    if like.endswith("i") and amount.denominator == 1:
        return quantity.format_bytes(int(amount))
    return quantity.format_millis(ceil(amount * 1000))


def breaks(amount: Fraction, policy: CapacityRequestPolicy) -> bool:
    """Whether the policy forbids an amount."""
    if policy.default is not None and amount == quantity.parse(policy.default):
        return False
    steps = policy.valid_range
    if steps is not None:
        if steps.max is not None and amount > quantity.parse(steps.max):
            return True
        return steps.step is not None and (amount - quantity.parse(steps.min)) % quantity.parse(steps.step) != 0
    return bool(policy.valid_values) and all(amount != quantity.parse(value) for value in policy.valid_values)
