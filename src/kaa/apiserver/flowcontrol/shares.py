"""How many seats each level has: by its shares, and by what others lend of theirs.

Plain arithmetic. Source: API reference "PriorityLevelConfiguration" (nominalConcurrencyShares, lendablePercent,
borrowingLimitPercent); apiserver pkg/util/flowcontrol conc_alloc.go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, floor

from kaa.api.types.flowcontrol_v1 import PriorityLevelConfigurationSpec

NOISE = 1e-3  # seats: a smoothed demand fades for ever; under this it is none


@dataclass(frozen=True, slots=True)
class Bounds:
    """Seats of a level: what its shares give, and between what lending and borrowing may move that."""

    nominal: int
    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Wish:
    """What a level should have if all could: ``least`` and ``most`` it may, ``target`` (0, or ``NOISE`` and more) in
    proportion to others'."""

    least: float
    most: float
    target: float


def bounds(specs: Mapping[str, PriorityLevelConfigurationSpec], total: int) -> dict[str, Bounds]:
    """The bounds of each level when the server has ``total`` seats."""
    numbers = {name: _numbers(spec) for name, spec in specs.items()}
    shares = sum(number[0] for number in numbers.values()) or 1
    found: dict[str, Bounds] = {}
    for name, (share, lendable, borrowing) in numbers.items():
        nominal = ceil(total * share / shares)
        lent = _half_up(nominal * lendable / 100)
        most = total if borrowing is None else min(total, nominal + _half_up(nominal * borrowing / 100))
        found[name] = Bounds(nominal, nominal - lent, most)
    return found


def _half_up(value: float) -> int:
    return floor(value + 0.5)


def _numbers(spec: PriorityLevelConfigurationSpec) -> tuple[int, int, int | None]:
    """Shares, lendable percent, borrowing limit percent (None: no limit)."""
    if spec.type == "Exempt":
        exempt = spec.exempt
        shares = exempt.nominal_concurrency_shares if exempt is not None else None
        return shares or 0, (exempt.lendable_percent if exempt is not None else None) or 0, None
    limited = spec.limited
    if limited is None:
        return 30, 0, None
    shares = limited.nominal_concurrency_shares
    return 30 if shares is None else shares, limited.lendable_percent or 0, limited.borrowing_limit_percent


def wish(limits: Bounds, peak: int, smooth: float) -> Wish:
    """A level keeps of its own what it has lately needed at most; it asks for what it smoothly wants."""
    least = max(limits.least, min(limits.nominal, peak))
    return Wish(least, limits.most, max(least, smooth if smooth >= NOISE else 0.0))


def allocate(wishes: Mapping[str, Wish], total: float) -> dict[str, int]:
    """Share ``total`` seats: each level its target times one factor, within its bounds; the factor uses all seats up.

    Where the least of all is already more than there are, everyone has its least; where the most is less, its most.
    """
    low, high = 0.0, 1.0
    if sum(one.least for one in wishes.values()) >= total:
        return {name: round(one.least) for name, one in wishes.items()}

    def given(factor: float) -> float:
        return sum(_clamped(one, factor) for one in wishes.values())

    while given(high) < total and high < 1e9:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if given(middle) < total else (low, middle)
    return {name: _half_up(_clamped(one, high)) for name, one in wishes.items()}


def _clamped(one: Wish, factor: float) -> float:
    return min(one.most, max(one.least, one.target * factor))
