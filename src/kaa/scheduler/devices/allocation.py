"""The outcome of a search as the API has it: results, configuration, and the nodes that the devices can be used from.

Source: API reference "AllocationResult"; structured/internal allocator.go (Allocate, createNodeSelector).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from uuid import UUID

from msgspec.structs import replace

from kaa.api.device_claims import MOST_RESULTS
from kaa.api.types.core_v1 import Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm
from kaa.api.types.resource_v1 import (
    AllocationResult,
    DeviceAllocationConfiguration,
    DeviceAllocationResult,
    DeviceRequestAllocationResult,
    ResourceClaim,
)

from .offers import Fault
from .pools import Pool
from .search import Choice, Search
from .taken import Taken
from .wishes import Classes, Wish, wishes_of

#: Alternatives that a request may have: the first of them scores so much.
MOST_ALTERNATIVES = 8


def allocate(
    claims: Sequence[ResourceClaim],
    pools: Sequence[Pool],
    classes: Classes,
    taken: Taken,
    *,
    node: Node,
    random: Random,
) -> list[AllocationResult] | None:
    """Devices for claims that have none, on one node: a result each, or None when not all can have theirs.

    Raises: Fault: there is something wrong with a claim or a class. TooLong: the search was given up.
    """
    found = _searched(claims, pools, classes, taken)
    if found is None:
        return None
    return [
        AllocationResult(
            devices=DeviceAllocationResult(
                results=tuple(_result(choice, random) for choice in choices), config=tuple(_config(claim, chosen))
            ),
            node_selector=_selector(choices, node.metadata.name or ""),
        )
        for claim, choices, chosen in zip(claims, found.choices, found.chosen, strict=True)
    ]


def rank_of(claims: Sequence[ResourceClaim], pools: Sequence[Pool], classes: Classes, taken: Taken) -> int | None:
    """How good what claims would get is, by which of their alternatives it would be; None when they would get nothing.

    Raises: as ``allocate``.
    """
    found = _searched(claims, pools, classes, taken)
    if found is None:
        return None
    return sum(MOST_ALTERNATIVES - wish.place for chosen in found.chosen for wish in chosen if wish.alternative)


def _searched(claims: Sequence[ResourceClaim], pools: Sequence[Pool], classes: Classes, taken: Taken) -> Search | None:
    wishes = [wishes_of(claim, pools, classes) for claim in claims]
    for claim, of_claim in zip(claims, wishes, strict=True):
        least = sum(min((wish.count for wish in request), default=0) for request in of_claim)
        if least > MOST_RESULTS:
            where = f"claim {claim.metadata.namespace}/{claim.metadata.name}"
            raise Fault(f"{where}: number of requested devices {least} exceeds the claim limit of {MOST_RESULTS}")
    search = Search(claims, wishes, pools, taken)
    return search if search.run() else None


def _result(choice: Choice, random: Random) -> DeviceRequestAllocationResult:
    wish, offer = choice.wish, choice.offer
    return DeviceRequestAllocationResult(
        request=wish.name,
        driver=offer.id.driver,
        pool=offer.id.pool,
        device=offer.id.device,
        admin_access=True if wish.admin else None,
        tolerations=wish.tolerations,
        share_id=str(UUID(int=random.getrandbits(128), version=4)) if offer.shared else None,
        consumed_capacity=dict(choice.consumed),
        binding_conditions=offer.device.binding_conditions,
        binding_failure_conditions=offer.device.binding_failure_conditions,
    )


# -------------------------------------------------------------------------------------------------- configuration


def _config(claim: ResourceClaim, chosen: Sequence[Wish]) -> Iterable[DeviceAllocationConfiguration]:
    """Of the classes first, each once for all of its requests; then the claim's own. For all requests is for none named."""
    every = len(claim.spec.devices.requests)
    for made in (*_of_classes(chosen), *_of_claim(claim, chosen)):
        yield replace(made, requests=()) if len(made.requests) == every else made


def _of_classes(chosen: Sequence[Wish]) -> Iterable[DeviceAllocationConfiguration]:
    requests: dict[str, list[str]] = {}
    for wish in chosen:
        requests.setdefault(wish.device_class.metadata.name or "", []).append(wish.name)
    classes = {wish.device_class.metadata.name or "": wish.device_class for wish in chosen}
    for name, names in requests.items():
        for each in classes[name].spec.config:
            yield DeviceAllocationConfiguration(source="FromClass", requests=tuple(names), opaque=each.opaque)


def _of_claim(claim: ResourceClaim, chosen: Sequence[Wish]) -> Iterable[DeviceAllocationConfiguration]:
    names = {name for wish in chosen for name in (wish.request, wish.name)}
    for each in claim.spec.devices.config:
        if not each.requests or not names.isdisjoint(each.requests):
            yield DeviceAllocationConfiguration(source="FromClaim", requests=each.requests, opaque=each.opaque)


# ---------------------------------------------------------------------------------------------------------- nodes


def _selector(choices: Sequence[Choice], node: str) -> NodeSelector | None:
    """Where all of the devices can be used: on this node alone if one of them is of it, anywhere if none says else."""
    fields: list[NodeSelectorRequirement] = []
    expressions: list[NodeSelectorRequirement] = []
    for choice in choices:
        device, spec = choice.offer.device, choice.offer.of.spec
        where = device if spec.per_device_node_selection else spec
        if where.node_name is not None or device.binds_to_node:
            only = NodeSelectorRequirement(key="metadata.name", operator="In", values=(node,))
            return NodeSelector(node_selector_terms=(NodeSelectorTerm(match_fields=(only,)),))
        for term in where.node_selector.node_selector_terms if where.node_selector is not None else ():
            _join(fields, term.match_fields)
            _join(expressions, term.match_expressions)
    if not fields and not expressions:
        return None
    term = NodeSelectorTerm(match_fields=tuple(fields), match_expressions=tuple(expressions))
    return NodeSelector(node_selector_terms=(term,))


def _join(known: list[NodeSelectorRequirement], more: Iterable[NodeSelectorRequirement]) -> None:
    """Add what is not there yet; the order of values does not matter."""
    for each in more:
        if not any((k.key, k.operator, set(k.values)) == (each.key, each.operator, set(each.values)) for k in known):
            known.append(each)
