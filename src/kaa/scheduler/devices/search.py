"""The search for devices: everything that is asked for, one choice after the other, going back where it leads nowhere.

Source: structured/internal allocator.go (allocateOne, allocateDevice).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from kaa.api import quantity
from kaa.api.device_claims import MOST_RESULTS, tolerates
from kaa.api.types.resource_v1 import ResourceClaim
from kaa.api.values import Quantity

from .capacity import fitting
from .constraints import constraints_of
from .offers import DeviceId, Fault, Offer
from .pools import Pool
from .taken import Parts, Taken, total
from .wishes import Wish

#: Devices tried before a search is given up: about half a second. Upstream gives up after 10 s a node.
STEPS = 50_000
_KEEPS_OFF = ("NoSchedule", "NoExecute")


class TooLong(Exception):
    """The search was given up."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A device for a request. ``consumed``: what it gets of a shared device's capacity."""

    wish: Wish
    offer: Offer
    consumed: Mapping[str, Quantity]


class Search:
    """``choices``: of each claim; ``chosen``: which alternative of each of its requests."""

    def __init__(
        self,
        claims: Sequence[ResourceClaim],
        wishes: Sequence[Sequence[Sequence[Wish]]],
        pools: Sequence[Pool],
        taken: Taken,
    ) -> None:
        self._wishes, self._taken = wishes, taken
        usable = [pool for pool in pools if not (pool.incomplete or pool.invalid)]
        self._offers = [offer for pool in usable for offer in pool.offers]
        self._pools = {pool.id: pool for pool in usable}
        self._constraints = [constraints_of(claim) for claim in claims]
        self._names = [f"{claim.metadata.namespace}/{claim.metadata.name}" for claim in claims]
        self._users: dict[DeviceId, list[int]] = {}  #: claims that have chosen a device for themselves
        self._shares: dict[DeviceId, list[Parts]] = {}
        self._left: dict[tuple[object, str, str], Fraction] = {}  #: of counters: {(pool, set, counter): amount}
        self._steps = 0
        self.choices: list[list[Choice]] = [[] for _ in claims]
        self.chosen: list[list[Wish]] = [[] for _ in claims]

    def run(self) -> bool:
        """Whether there is a solution. Raises Fault, TooLong."""
        return self._request(0, 0)

    def _request(self, claim: int, number: int) -> bool:
        """Choose for a request and all that come after it."""
        if claim == len(self._wishes):
            return True
        if number == len(self._wishes[claim]):
            return self._request(claim + 1, 0)
        for wish in self._wishes[claim][number]:
            if wish.count == 0:  # all devices, of which there are none
                continue
            self.chosen[claim].append(wish)
            if self._device(claim, number, wish, 0, 0):
                return True
            self.chosen[claim].pop()
        return False

    def _device(self, claim: int, number: int, wish: Wish, nth: int, start: int) -> bool:
        """Choose the nth device of a request, none before ``start``, and all that comes after it."""
        if nth == wish.count:
            return self._request(claim, number + 1)
        if len(self.choices[claim]) + wish.count - nth > MOST_RESULTS:
            return False
        offers = self._offers if wish.every is None else wish.every
        end = nth + 1 if wish.every is not None else len(offers) - (wish.count - nth) + 1
        for position in range(nth if wish.every is not None else start, end):
            offer = offers[position]
            if self._take(claim, wish, offer):
                if self._device(claim, number, wish, nth + 1, position + 1):
                    return True
                self._give_back(claim)
        return False

    # ------------------------------------------------------------------------------------------------- one device

    def _take(self, claim: int, wish: Wish, offer: Offer) -> bool:
        """Choose a device, if it may be. Raises Fault, TooLong."""
        self._steps += 1
        if self._steps > STEPS:
            raise TooLong
        if not self._is_free(claim, wish, offer) or not wish.takes(offer) or self._is_tainted(wish, offer):
            return False
        consumed = fitting(offer, wish.capacity, *self._used(wish, offer))
        draws = self._draws(wish, offer)
        if consumed is None or not self._has(offer, draws) or not self._constrain(claim, wish, offer):
            return False
        self._draw(offer, draws, 1)
        if not offer.shared:
            self._users.setdefault(offer.id, []).append(claim)
        elif not wish.admin:
            self._shares.setdefault(offer.id, []).append({k: quantity.parse(v) for k, v in consumed.items()})
        self.choices[claim].append(Choice(wish, offer, consumed if offer.shared else {}))
        return True

    def _give_back(self, claim: int) -> None:
        """Undo the last choice."""
        choice = self.choices[claim].pop()
        offer = choice.offer
        if not (offer.shared and choice.wish.admin):
            held: dict[DeviceId, list[Any]] = self._shares if offer.shared else self._users
            held[offer.id].pop()
            if not held[offer.id]:
                del held[offer.id]
        self._draw(offer, self._draws(choice.wish, offer), -1)
        for constraint in self._constraints[claim]:
            constraint.remove(choice.wish.request, choice.wish.alternative)

    def _is_free(self, claim: int, wish: Wish, offer: Offer) -> bool:
        """Admin access asks only that a claim has a device once."""
        users = self._users.get(offer.id, ())
        if wish.admin:
            return claim not in users
        return not users and not self._taken.whole(offer.id)

    @staticmethod
    def _is_tainted(wish: Wish, offer: Offer) -> bool:
        return any(
            taint.effect in _KEEPS_OFF and not any(tolerates(each, taint) for each in wish.tolerations)
            for taint in offer.device.taints
        )

    def _used(self, wish: Wish, offer: Offer) -> list[Parts]:
        if wish.admin or not offer.shared:
            return []
        return [self._taken.parts(offer.id), total(self._shares.get(offer.id, ()))]

    def _constrain(self, claim: int, wish: Wish, offer: Offer) -> bool:
        """Note the device in every constraint, or in none. Raises Fault."""
        constraints = self._constraints[claim]
        for number, constraint in enumerate(constraints):
            if constraint.add(wish.request, wish.alternative, offer):
                continue
            for earlier in constraints[:number]:
                earlier.remove(wish.request, wish.alternative)
            if wish.every is not None:
                where = f"claim {self._names[claim]}, request {wish.alternative or wish.request}"
                what = f"cannot add device {offer.id} because a claim constraint would not be satisfied"
                raise Fault(f"{where}: {what}")
            return False
        return True

    # ------------------------------------------------------------------------------------------------- counters

    def _draws(self, wish: Wish, offer: Offer) -> dict[tuple[str, str], Fraction]:
        """What choosing a device takes from its pool's counters: nothing for who is sharing it with others already."""
        if wish.admin or not offer.device.consumes_counters:
            return {}
        if offer.shared and (self._taken.shared(offer.id) or self._shares.get(offer.id)):
            return {}
        return offer.consumes

    def _has(self, offer: Offer, draws: Mapping[tuple[str, str], Fraction]) -> bool:
        if not draws:
            return True
        pool = self._pools[offer.id[:2]]  # type: ignore[index]
        if (pool.id, "", "") not in self._left:
            self._fill(pool)
        return all(self._left[(pool.id, *key)] >= amount for key, amount in draws.items())

    def _fill(self, pool: Pool) -> None:
        """What is left of a pool's counters beside the devices taken."""
        self._left[pool.id, "", ""] = Fraction(0)
        for key, amount in pool.counters.items():
            self._left[(pool.id, *key)] = amount
        for offer in (*pool.offers, *pool.others):
            if self._taken.any(offer.id):
                for key, amount in offer.consumes.items():
                    self._left[(pool.id, *key)] -= amount

    def _draw(self, offer: Offer, draws: Mapping[tuple[str, str], Fraction], sign: int) -> None:
        for key, amount in draws.items():
            self._left[(offer.id[:2], *key)] -= sign * amount
