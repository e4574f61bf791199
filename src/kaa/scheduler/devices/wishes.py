"""Requests looked up: each a list of alternatives to be tried in turn, of which one is enough.

Source: structured/internal allocator.go (validateDeviceRequest).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kaa.api.types.resource_v1 import (
    DeviceClass,
    DeviceRequest,
    DeviceSelector,
    DeviceSubRequest,
    DeviceToleration,
    ExactDeviceRequest,
    ResourceClaim,
)
from kaa.api.values import Quantity

from .offers import Fault, Offer, Selector
from .pools import Pool

Classes = Callable[[str], DeviceClass | None]


@dataclass(slots=True)
class Wish:
    """One request, or one alternative of it."""

    request: str
    alternative: str  #: empty when the request has none
    place: int  #: among the alternatives
    device_class: DeviceClass
    selectors: tuple[Selector, ...]
    count: int
    every: tuple[Offer, ...] | None  #: the devices wanted, when all are
    admin: bool
    tolerations: tuple[DeviceToleration, ...]
    capacity: Mapping[str, Quantity]

    @property
    def name(self) -> str:
        return f"{self.request}/{self.alternative}" if self.alternative else self.request

    def takes(self, offer: Offer) -> bool:
        """Whether class and request select a device. Raises Fault."""
        return all(offer.matches(selector) for selector in self.selectors)


def wishes_of(claim: ResourceClaim, pools: Sequence[Pool], classes: Classes) -> list[list[Wish]]:
    """The alternatives of each request. Raises Fault."""
    return [_alternatives(claim, request, pools, classes) for request in claim.spec.devices.requests]


def _alternatives(claim: ResourceClaim, request: DeviceRequest, pools: Sequence[Pool], classes: Classes) -> list[Wish]:
    if request.first_available:
        several = enumerate(request.first_available)
        return [_wish(claim, request.name, sub.name, n, sub, pools, classes) for n, sub in several]
    if request.exactly is None:
        raise Fault(f"claim {_key(claim)}, request {request.name}: unknown request type")
    return [_wish(claim, request.name, "", 0, request.exactly, pools, classes)]


def _wish(
    claim: ResourceClaim,
    request: str,
    alternative: str,
    place: int,
    asked: ExactDeviceRequest | DeviceSubRequest,
    pools: Sequence[Pool],
    classes: Classes,
) -> Wish:
    where = f"claim {_key(claim)}, request {alternative or request}"
    found = classes(asked.device_class_name)
    if found is None:
        raise Fault(f"{where}: could not retrieve device class {asked.device_class_name}")
    of_class = _selectors(found.spec.selectors, f"class {asked.device_class_name}")
    wish = Wish(
        request,
        alternative,
        place,
        found,
        (*of_class, *_selectors(asked.selectors, f"claim {_key(claim)}")),
        asked.count or 0,
        None,
        isinstance(asked, ExactDeviceRequest) and bool(asked.admin_access),
        asked.tolerations,
        asked.capacity.requests if asked.capacity is not None else {},
    )
    if asked.allocation_mode == "All":
        wish.every = _all(wish, where, pools)
        wish.count = len(wish.every)
    elif asked.allocation_mode not in (None, "ExactCount"):
        raise Fault(f"{where}: unsupported count mode {asked.allocation_mode}")
    return wish


def _all(wish: Wish, where: str, pools: Sequence[Pool]) -> tuple[Offer, ...]:
    """All that a node has; not to be told while a pool is changing."""
    for pool in pools:
        if pool.incomplete or pool.invalid:
            state = "being updated" if pool.incomplete else "invalid"
            raise Fault(f"{where}: asks for all devices, but resource pool {pool.id} is currently {state}")
    return tuple(offer for pool in pools for offer in pool.offers if wish.takes(offer))


def _selectors(selectors: Sequence[DeviceSelector], where: str) -> list[Selector]:
    made = []
    for number, each in enumerate(selectors):
        if each.cel is None:
            raise Fault(f"{where}, selector #{number}: CEL expression empty (unsupported selector type?)")
        made.append(Selector(each.cel.expression, f"{where}: selector #{number}"))
    return made


def _key(claim: ResourceClaim) -> str:
    return f"{claim.metadata.namespace}/{claim.metadata.name}"
